"""DuckDB as it is used here: under a memory limit, spilling beside its goal, with its errors put into our words."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from habitus.core.errors import ConfigError, DiskError, HabitusError, IngestError, SchemaError, SourceError
from habitus.core.sizes import parse_bytes

if TYPE_CHECKING:
    import duckdb

SMALLEST = 500_000_000
RESERVE = 300_000_000  # Python, NumPy, Arrow and the batches in flight
KEPT_TO = 0.92  # the engine's own limit is overrun by some 7 % of its allocator's pages


def open_engine(folder: Path, memory_limit: str | int, threads: int | None = None) -> duckdb.DuckDBPyConnection:
    """Open an in-memory DuckDB that spills into `folder` and leaves room for Python inside `memory_limit`.

    Errors: `ConfigError` below 500 MB.
    """
    import duckdb

    limit = parse_bytes(memory_limit)
    if limit < SMALLEST:
        raise ConfigError("at least 500MB", str(memory_limit), where="memory_limit", fix="give it more")
    spill = folder / "spill"
    spill.mkdir(parents=True, exist_ok=True)
    engine = duckdb.connect(
        config={
            "memory_limit": f"{int((limit - RESERVE) * KEPT_TO) // 10**6}MB",
            "temp_directory": str(spill),
            "threads": threads or os.cpu_count() or 1,
            "autoinstall_known_extensions": False,
            "preserve_insertion_order": True,
        }
    )
    engine.execute("SET TimeZone = 'UTC'; SET enable_progress_bar = false")
    return engine


@contextmanager
def engine_errors(where: str) -> Iterator[None]:
    """Turn what DuckDB raises inside the block into one of our errors."""
    import duckdb

    try:
        yield
    except duckdb.Error as cause:
        raise _explain(cause, where) from cause


def _explain(cause: duckdb.Error, where: str) -> HabitusError:
    import duckdb

    text = str(cause).strip().split("\n\n")[0].split("\nLINE ")[0][:600]
    text = re.sub(r"^[A-Za-z -]+ Error: ", "", text).split("\n\tCandidate functions")[0]
    if re.search(r"No space left|disk quota|max_temp_directory_size|ENOSPC", str(cause), re.IGNORECASE):
        return DiskError("room to write", text, where=where, fix="free some space")
    if isinstance(cause, duckdb.OutOfMemoryException):
        return IngestError("to fit the memory limit", text, where=where, fix="raise memory_limit, or use fewer threads")
    if isinstance(cause, duckdb.BinderException | duckdb.ParserException | duckdb.CatalogException):
        fix = "mend the schema"
        if "VARCHAR" in text:
            fix += '; a column of text needs its type: [events] columns = { NAME = "DOUBLE" }'
        return SchemaError("an expression DuckDB can evaluate", text, where=where, fix=fix)
    if isinstance(cause, duckdb.ConversionException | duckdb.OutOfRangeException):
        return SchemaError("values that fit the expression", text, where=where, fix="use TRY_CAST in the expression")
    return SourceError("rows that can be read", text, where=where, fix="check the file, or write it again")


def quoted(name: str) -> str:
    """Quote a column name for SQL.

    >>> print(quoted("a b"))
    "a b"
    """
    return '"' + name.replace('"', '""') + '"'


def literal(text: str | Path) -> str:
    """Quote a text for SQL."""
    return "'" + str(text).replace("'", "''") + "'"
