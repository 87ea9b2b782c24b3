"""An event log before ingest: a schema, the raw events, and the tables that belong to them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from habitus.core.errors import SourceError
from habitus.data.schema import Schema

if TYPE_CHECKING:
    import duckdb


@dataclass(frozen=True)
class RawFile:
    """One Parquet file of raw rows as the engine scans it; `label` is the name a person knows it by.

    `rejects` is a Parquet file (position, reason, raw) of the lines that could not even be parsed, or None.
    """

    path: Path
    label: str
    n_rows: int
    rejects: Path | None = None
    n_rejects: int = 0


@runtime_checkable
class Raw(Protocol):
    """What ingest asks of a source of rows."""

    @property
    def label(self) -> str: ...

    def columns(self, engine: duckdb.DuckDBPyConnection) -> dict[str, str]:
        """Give the columns and their DuckDB types. Errors: `SourceError`."""
        ...

    def files(self, engine: duckdb.DuckDBPyConnection, folder: Path) -> list[RawFile]:
        """Give the rows as Parquet files in source order, written to `folder` where they are not Parquet yet."""
        ...


@dataclass(frozen=True)
class EventLog:
    """A schema with its raw events and side tables; it holds, `ingest` reads.

    Parameters
    ----------
    schema
        Which column plays which part.
    events
        A path, a list of paths, a glob or a folder (Parquet, CSV, JSON lines); a `DuckDBTable`, a `Query` or a
        `PostgreSQLQuery`; or any table with `__arrow_c_stream__` (Polars, pandas, Arrow, a DuckDB relation).
    profiles, items
        The same kinds, when the schema says `from = "table"`.
    calendar
        A `Calendar` of known events, or None.

    >>> import polars
    >>> schema = Schema.parse({"events": {"user": "u", "time": "t", "type": {"constant": "visit"}}})
    >>> log = EventLog(schema, polars.DataFrame({"u": [1], "t": ["2024-05-01"]}))
    >>> log.schema.time_zone
    'UTC'
    """

    schema: Schema
    events: Any
    profiles: Any = None
    items: Any = None
    calendar: Any = None


def as_raw(events: Any) -> Raw:
    """Wrap whatever the user handed in as a `Raw`. Errors: `SourceError` for something that holds no rows."""
    from habitus.data.sources.files import files
    from habitus.data.sources.tables import ArrowTable

    if isinstance(events, Raw):
        return events
    if isinstance(events, str | Path) or (
        isinstance(events, list | tuple) and events and all(isinstance(path, str | Path) for path in events)
    ):
        return files(events)
    if hasattr(events, "__arrow_c_stream__"):
        return ArrowTable(events)
    raise SourceError(
        "paths, a DuckDB table, a query, or a table with __arrow_c_stream__",
        f"{type(events).__name__}: {str(events)[:60]!r}",
        fix="hand in a path, a list of paths, or a Polars, pandas or Arrow table",
    )
