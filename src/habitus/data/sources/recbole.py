"""RecBole atomic files: NAME.inter, and NAME.user and NAME.item if they are there.

The header of every column states its kind, `name:token`, `name:token_seq`, `name:float` or `name:float_seq`, and
columns are parted by tabs. Interactions become events of one type, `interaction`: floats are amounts, tokens are
categories; columns of user and item files become the profile and the item table. Sequences (`_seq`) of tokens are kept
as text in the item table and left out elsewhere; sequences of floats are left out.

`timestamp:float` is read as seconds since 1970-01-01 UTC. Without it the order of the file stands for time, one second
a row, and splits by time make no sense.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from habitus.core.errors import SourceError
from habitus.data.log import EventLog
from habitus.data.schema import TAKEN, Schema
from habitus.data.sources.item_sequences import START

if TYPE_CHECKING:
    import polars as pl

KINDS = ("token", "token_seq", "float", "float_seq")
_KEYS = {"inter": ("user_id", "item_id"), "user": ("user_id",), "item": ("item_id",)}


def recbole(folder: str | Path) -> EventLog:
    """Give the log of a folder of RecBole atomic files.

    Parameters
    ----------
    folder
        Where exactly one NAME.inter lies, with NAME.user and NAME.item beside it or not.

    Errors: `SourceError` when there is no .inter file or more than one, or a header names no kind or lacks an id.

    >>> recbole("no/such/folder")
    Traceback (most recent call last):
    ...
    habitus.core.errors.SourceError: expected  a folder with one file NAME.inter
    found     no such folder
    where     no/such/folder
    """
    import polars as pl

    folder = Path(folder)
    found = sorted(folder.glob("*.inter")) if folder.is_dir() else []
    if len(found) != 1:
        there = f"{len(found)} of them" if folder.is_dir() else "no such folder"
        raise SourceError("a folder with one file NAME.inter", there, where=str(folder))
    events, kinds = _read(found[0], "inter")
    is_timed = kinds.pop("timestamp", None) is not None
    time = pl.col("timestamp") * 1_000_000 if is_timed else pl.int_range(pl.len()) * 1_000_000 + START * 1_000_000
    events = events.with_columns(time_us=time.cast(pl.Int64))
    values: dict[str, Any] = {
        "name": found[0].stem,
        "time_zone": "UTC",
        "events": {
            "user": "user_id",
            "item": "item_id",
            "time": "time_us",
            "time_unit": "us",
            "type": {"constant": "interaction"},
            "amounts": {_plain(name): {"value": name} for name, kind in kinds.items() if kind == "float"},
            "categories": {_plain(name): name for name, kind in kinds.items() if kind == "token"},
        },
    }
    beside: dict[str, pl.DataFrame | None] = {}
    for part, table in (("user", "profile"), ("item", "items")):
        path = found[0].with_suffix(f".{part}")
        beside[table] = None
        if path.is_file():
            beside[table], columns = _read(path, part)
            values[table] = {"from": "table", "key": _KEYS[part][0], "columns": _attributes(columns, part)}
    return EventLog(Schema.parse(values, where=str(found[0])), events, beside["profile"], beside["items"])


def _attributes(kinds: dict[str, str], part: str) -> dict[str, Any]:
    said = {"token": "category", "float": "number"} | ({"token_seq": "text"} if part == "item" else {})
    return {_plain(name): {"column": name, "kind": said[kind]} for name, kind in kinds.items() if kind in said}


def _plain(name: str) -> str:
    """Give a name that a schema takes: letters, digits and underscores, none of its own words."""
    plain = "".join(c if c.isalnum() else "_" for c in name)
    return f"{plain}_" if plain in TAKEN or not plain.isidentifier() else plain


def _read(path: Path, part: str) -> tuple[pl.DataFrame, dict[str, str]]:
    """Read a file; give it with plain column names, and the kind of every column but ids and float sequences."""
    import polars as pl

    try:
        table = pl.read_csv(path, separator="\t", quote_char=None, infer_schema=False, null_values=[""])
    except pl.exceptions.PolarsError as cause:
        raise SourceError("tab-separated text with a header", str(cause).splitlines()[0], where=str(path)) from None
    kinds = {name: kind for name, _, kind in (column.rpartition(":") for column in table.columns)}
    wrong = [name or kind for name, kind in kinds.items() if kind not in KINDS or not name]
    if wrong:
        raise SourceError(f"name:kind with a kind of {', '.join(KINDS)}", repr(wrong[0]), where=f"{path}, line 1")
    missing = [key for key in _KEYS[part] if key not in kinds]
    if missing:
        raise SourceError(f"a column {missing[0]}:token", ", ".join(table.columns), where=f"{path}, line 1")
    table = table.rename({column: column.rpartition(":")[0] for column in table.columns})
    kept = {name: kind for name, kind in kinds.items() if kind != "float_seq"}
    try:
        table = table.select(pl.col(name).cast(pl.Float64) if kind == "float" else name for name, kind in kept.items())
    except pl.exceptions.PolarsError as cause:
        raise SourceError("numbers in columns of floats", str(cause).splitlines()[0], where=str(path)) from None
    return table, {name: kind for name, kind in kept.items() if name not in _KEYS[part]}
