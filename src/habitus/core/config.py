"""Strict, frozen configuration: an unknown key is an error that names the nearest known one."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from habitus.core.errors import ConfigError, nearest


class Config(BaseModel):
    """The base of every config: frozen, no unknown keys, defaults only in the class.

    Errors: `ConfigError`, with the place of the key and the nearest known name.

    >>> class Tea(Config):
    ...     minutes: int = 3
    >>> Tea.parse({"minutes": 4}).minutes
    4
    >>> Tea.parse({"minuts": 4}, where="tea.toml")
    Traceback (most recent call last):
    ...
    habitus.core.errors.ConfigError: expected  one of: minutes
    found     unknown key 'minuts'
    where     tea.toml: minuts
    to do     did you mean 'minutes'?
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    @classmethod
    def parse(cls, values: Mapping[str, Any], *, where: str = "") -> Self:
        """Validate a mapping; `where` names its file for the error."""
        try:
            return cls.model_validate(dict(values))
        except ValidationError as cause:
            raise _explain(cause, cls, values, where) from None


def read_toml(path: str | Path) -> dict[str, Any]:
    """Read a TOML file; a missing or malformed one is a `ConfigError` naming file and line."""
    path = Path(path)
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        siblings = [p.name for p in path.parent.glob("*.toml")] if path.parent.is_dir() else []
        meant = nearest(path.name, siblings)
        hint = f"did you mean {path.parent / meant}?" if meant else "check the path"
        raise ConfigError("a TOML file", "no such file", where=str(path), fix=hint) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as cause:
        raise ConfigError("valid TOML", str(cause), where=str(path), fix="mend the line named above") from None


def _explain(cause: ValidationError, cls: type[BaseModel], values: Mapping[str, Any], where: str) -> ConfigError:
    """Turn the first of pydantic's complaints into one readable error."""
    first = cause.errors(include_url=False)[0]
    keys = [str(part) for part in first["loc"]]
    place = ": ".join(part for part in (where, ".".join(keys)) if part)
    if first["type"] == "extra_forbidden":
        known = _known_keys(cls, keys[:-1])
        meant = nearest(keys[-1], known)
        fix = f"did you mean {meant!r}?" if meant else "remove it"
        expected = "one of: " + ", ".join(known) if known else "no such key"
        return ConfigError(expected, f"unknown key {keys[-1]!r}", where=place, fix=fix)
    if first["type"] == "missing":
        return ConfigError(f"a key {keys[-1]!r}", "nothing", where=place, fix="add it")
    return ConfigError(first["msg"].removeprefix("Value error, "), repr(first.get("input")), where=place)


def _known_keys(cls: type[BaseModel], path: list[str]) -> list[str]:
    """Walk from `cls` along `path` through nested configs, lists and dicts; list the keys known there."""
    found: list[type[BaseModel]] = [cls]
    for part in path:
        nested = [f.annotation for c in found for n, f in c.model_fields.items() if part in (n, f.alias)]
        if nested:
            found = [c for a in nested for c in _models_in(a)]
    return sorted({f.alias or n for c in found for n, f in c.model_fields.items()})


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for arg in getattr(annotation, "__args__", ()) for m in _models_in(arg)]
