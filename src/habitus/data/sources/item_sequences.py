"""Item sequences: who chose which items in which order, without times, as ranking papers exchange them.

Two forms, from a file that the user names (or a folder that holds one such file):
- text, one user a line: `user item item ...` (the form of S3-Rec and its heirs);
- Parquet with columns user, position, item (or user_id, item_id).

There are no times in them. Position p is given the instant p seconds after 2000-01-01 UTC, so that order is kept and
clock fields say nothing; splits by time make no sense on such a log, leave-last-out does.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from habitus.core.errors import SourceError
from habitus.data.log import EventLog
from habitus.data.schema import Schema

if TYPE_CHECKING:
    import polars as pl

START = 946_684_800  # 2000-01-01 UTC
_NAMES = {"user": ("user", "user_id"), "position": ("position",), "item": ("item", "item_id")}


def item_sequences(folder: str | Path) -> EventLog:
    """Give the log of a file of item sequences: one type, `choice`; user and item ids as they stand in the file.

    Parameters
    ----------
    folder
        The file, or a folder with exactly one .txt or .parquet file.

    Errors: `SourceError` for a missing file or column, or a line without an item.

    >>> item_sequences("no/such/file.txt")
    Traceback (most recent call last):
    ...
    habitus.core.errors.SourceError: expected  a .txt or .parquet file of item sequences
    found     nothing there
    where     no/such/file.txt
    """
    path = _file(Path(folder))
    events = _parquet(path) if path.suffix == ".parquet" else _text(path)
    schema = Schema.parse(
        {
            "name": path.stem,
            "time_zone": "UTC",
            "events": {
                "user": "user",
                "time": "time",
                "time_unit": "s",
                "type": {"constant": "choice"},
                "item": "item",
                "order": "position",
            },
        }
    )
    return EventLog(schema, events)


def _file(path: Path) -> Path:
    inside = [p for p in sorted(path.iterdir()) if p.suffix in (".txt", ".parquet")] if path.is_dir() else [path]
    if len(inside) == 1 and inside[0].is_file():
        return inside[0]
    found = f"{len(inside)} such files" if path.is_dir() else "nothing there"
    raise SourceError("a .txt or .parquet file of item sequences", found, where=str(path))


def _text(path: Path) -> pl.DataFrame:
    import polars as pl

    lines = pl.DataFrame({"line": path.read_text("utf-8").splitlines()}, schema={"line": pl.String})
    words = lines.with_row_index("number", 1).with_columns(pl.col("line").str.extract_all(r"\S+"))
    words = words.filter(pl.col("line").list.len() > 0)
    short = words.filter(pl.col("line").list.len() < 2)
    if len(short):
        where = f"{path}, line {short['number'][0]}"
        raise SourceError("a user and at least one item", repr(" ".join(short["line"][0])), where=where)
    users = words.select(user=pl.col("line").list.first(), item=pl.col("line").list.slice(1))
    rows = users.with_columns(position=pl.int_ranges(pl.col("item").list.len()))
    return _timed(rows.explode("item", "position"))


def _parquet(path: Path) -> pl.DataFrame:
    import polars as pl

    try:
        table = pl.read_parquet(path)
    except pl.exceptions.PolarsError as cause:
        raise SourceError("a Parquet file", str(cause).splitlines()[0], where=str(path)) from None
    chosen = {}
    for part, names in _NAMES.items():
        here = [name for name in names if name in table.columns]
        if not here:
            raise SourceError(f"a column {' or '.join(names)}", f"columns: {', '.join(table.columns)}", where=str(path))
        chosen[part] = here[0]
    return _timed(table.select(**chosen))


def _timed(rows: pl.DataFrame) -> pl.DataFrame:
    import polars as pl

    return rows.with_columns(pl.col("position").cast(pl.Int64), time=START + pl.col("position").cast(pl.Int64))
