"""One tree of errors; each says what was expected, what was found, where, and what to do.

>>> raise_me = SchemaError("a column 'user'", "columns: uid, time", where="events.csv", fix="name it in the schema")
>>> print(raise_me)
expected  a column 'user'
found     columns: uid, time
where     events.csv
to do     name it in the schema
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType


class HabitusError(Exception):
    """The root: catch it to catch every error that habitus raises on purpose.

    Parameters
    ----------
    expected, found
        What should have been there, and what was. Both are short phrases.
    where
        The file, table, column, row or key concerned.
    fix
        What the reader can do about it.
    """

    def __init__(self, expected: str, found: str, *, where: str = "", fix: str = "") -> None:
        super().__init__(expected, found)
        self.expected, self.found, self.where, self.fix = expected, found, where, fix

    def __str__(self) -> str:
        parts = (("expected", self.expected), ("found", self.found), ("where", self.where), ("to do", self.fix))
        return "\n".join(f"{label:<9} {_indent(text)}" for label, text in parts if text)


def _indent(text: str) -> str:
    return text.replace("\n", "\n" + " " * 10)


class ConfigError(HabitusError):
    """A recipe, schema or model config has an unknown key or a value that does not fit."""


class SchemaError(HabitusError):
    """The schema and the table do not fit each other."""


class SourceError(HabitusError):
    """A raw file or table cannot be read: absent, empty, truncated, malformed."""


class IngestError(HabitusError):
    """Too many rows were rejected, or nothing usable was left."""


class StoreError(HabitusError):
    """A folder is not a usable store, or is of another format version."""


class CalendarError(HabitusError):
    """A calendar of known events has a row that makes no sense."""


class CutoffError(HabitusError):
    """A cut-off lies outside the data, or parts would leak into each other."""


class TargetError(HabitusError):
    """A target cannot be parsed or cannot be learnt (no positive, negative amounts)."""


class FingerprintError(HabitusError):
    """Two things that must come from the same fit do not: spec, model, store."""


class ArtifactError(HabitusError):
    """A folder is not a usable artifact."""


class TrainingError(HabitusError):
    """Training cannot start or go on: no samples, a loss that is not finite."""


class ConstraintError(HabitusError):
    """Constraints on what may be generated leave nothing, or name what does not exist."""


class DiskError(HabitusError):
    """There is no room, or no right, to write."""


class EngineError(HabitusError):
    """The engine cannot do its work: no cluster answers, no node has room, workers die or are of other versions."""


class ExtraError(HabitusError):
    """An optional dependency is absent."""


def nearest(name: str, choices: Iterable[str]) -> str | None:
    """Give the choice that `name` was probably meant to be, or None.

    >>> nearest("drop_out", ["dropout", "d_model"])
    'dropout'
    """
    close = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.5)
    return close[0] if close else None


def require(module: str, extra: str) -> ModuleType:
    """Import an optional module, or raise `ExtraError` with the install command.

    >>> require("json", "none").__name__
    'json'
    """
    try:
        return importlib.import_module(module)
    except ImportError as cause:
        raise ExtraError(
            f"the optional package {module!r}",
            f"not installed ({cause})",
            fix=f'pip install "habitus[{extra}]"',
        ) from cause
