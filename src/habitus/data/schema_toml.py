"""A schema as the text of a TOML file, with comments."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from habitus.data.schema import Schema

PART = {"column", "sql", "constant"}


def write_toml(schema: Schema, notes: Mapping[str, str] | None = None, head: Sequence[str] = ()) -> str:
    """Give the TOML text that `Schema.read` reads back; `notes` puts a comment beside a key or table by its place.

    >>> schema = Schema.parse({"events": {"user": "u", "time": "t", "type": {"constant": "visit"}}})
    >>> print(write_toml(schema, {"events.user": "the customer"}))
    name = "log"
    time_zone = "UTC"
    <BLANKLINE>
    [events]
    user = "u"    # the customer
    time = "t"
    type = { constant = "visit" }
    <BLANKLINE>
    """
    lines = [f"# {line}" for line in head]
    _write(_spelled_out(schema), (), notes or {}, lines)
    return "\n".join(lines).strip() + "\n"


def _spelled_out(schema: Schema) -> dict[str, Any]:
    """The schema's mapping with the defaults that a reader should see: zone, units, kinds."""
    values: dict[str, Any] = {"name": schema.name, "time_zone": schema.time_zone} | schema.dump()
    for name, amount in schema.events.amounts.items():
        part = values["events"]["amounts"][name]
        source = {"value": part.get("column", {key: part[key] for key in ("sql", "constant") if key in part})}
        rest = {key: value for key, value in part.items() if key not in PART}
        values["events"]["amounts"][name] = source | {"unit": amount.unit} | rest
    for group, table in (("profile", schema.profile), ("items", schema.items)):
        if table is not None:
            values[group] = {"from": table.from_} | values[group]
            for name, part in table.columns.items():
                values[group]["columns"][name]["kind"] = part.kind
    return values


def _write(table: Mapping[str, Any], path: tuple[str, ...], notes: Mapping[str, str], lines: list[str]) -> None:
    """Write the plain keys of a table first, then its tables."""
    nested = {key: value for key, value in table.items() if _is_table(value, (*path, key))}
    for key, value in table.items():
        if key not in nested:
            lines.append(f"{_key(key)} = {_value(value)}{_note((*path, key), notes)}")
    for key, value in nested.items():
        inner = (*path, key)
        if path == ("events", "amounts") or any(not _is_table(v, (*inner, k)) for k, v in value.items()):
            lines += ["", f"[{'.'.join(_key(part) for part in inner)}]{_note(inner, notes)}"]
        elif ".".join(inner) in notes:
            lines += ["", f"# {'.'.join(inner)}: {notes['.'.join(inner)]}"]
        _write(value, inner, notes, lines)


def _is_table(value: Any, path: tuple[str, ...]) -> bool:
    """Say whether a value becomes a table of its own: parts and profile columns are written in one line."""
    if not isinstance(value, Mapping):
        return False
    if path[:2] == ("events", "amounts"):
        return len(path) < 4
    return not (PART & value.keys() or path == ("events", "columns"))


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        if value.keys() == {"column"}:
            return _value(value["column"])
        return "{ " + ", ".join(f"{_key(key)} = {_value(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(_value(inner) for inner in value) + "]"
    return json.dumps(value, ensure_ascii=False)


def _key(key: str) -> str:
    return key if key.replace("_", "a").replace("-", "a").isalnum() and key.isascii() else json.dumps(key)


def _note(path: tuple[str, ...], notes: Mapping[str, str]) -> str:
    note = notes.get(".".join(path))
    return f"    # {note}" if note else ""
