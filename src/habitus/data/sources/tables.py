"""Rows in memory, or the answer of a DuckDB query over files and tables: copied once to Parquet, in order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from habitus.data.log import RawFile
from habitus.data.pipeline.engine import engine_errors, literal, quoted

if TYPE_CHECKING:
    import duckdb


@dataclass
class ArrowTable:
    """Any object with `__arrow_c_stream__`: Polars, pandas, Arrow, a DuckDB relation.

    A stream that can be read only once is read only once; the same object cannot then be ingested again.
    """

    table: Any
    label: str = "table"
    _reader: Any = field(default=None, init=False, repr=False)

    def columns(self, engine: duckdb.DuckDBPyConnection) -> dict[str, str]:
        with engine_errors(self.label):
            engine.register("described", self._open().schema.empty_table())
            rows = engine.execute("DESCRIBE SELECT * FROM described").fetchall()
            engine.unregister("described")
        return {row[0]: row[1] for row in rows}

    def files(self, engine: duckdb.DuckDBPyConnection, folder: Path) -> list[RawFile]:
        copy = folder / "raw-0000.parquet"
        with engine_errors(self.label):
            engine.register("streamed", self._open())
            n_rows = copy_to_parquet(engine, "SELECT * FROM streamed", copy)
            engine.unregister("streamed")
        self._reader = None
        return [RawFile(copy, self.label, n_rows)]

    def _open(self) -> Any:
        import pyarrow

        if self._reader is None:
            self._reader = pyarrow.RecordBatchReader.from_stream(self.table)
        return self._reader


@dataclass(frozen=True)
class Query:
    """A DuckDB query over named tables: paths of Parquet files, or anything with `__arrow_c_stream__`.

    Rows keep the order in which the query gives them; end it with ORDER BY where ties matter.

    >>> import polars
    >>> query = Query("SELECT u, 'a' AS kind FROM first UNION ALL SELECT u, 'b' FROM second",
    ...               {"first": polars.DataFrame({"u": [1]}), "second": polars.DataFrame({"u": [2]})})
    >>> query.label
    'query'
    """

    sql: str
    tables: Mapping[str, Any] = field(default_factory=dict)
    label: str = "query"

    def columns(self, engine: duckdb.DuckDBPyConnection) -> dict[str, str]:
        self._register(engine)
        with engine_errors(self.label):
            return {row[0]: row[1] for row in engine.execute(f"DESCRIBE {self.sql}").fetchall()}

    def files(self, engine: duckdb.DuckDBPyConnection, folder: Path) -> list[RawFile]:
        self._register(engine)
        copy = folder / "raw-0000.parquet"
        with engine_errors(self.label):
            n_rows = copy_to_parquet(engine, self.sql, copy)
        return [RawFile(copy, self.label, n_rows)]

    def _register(self, engine: duckdb.DuckDBPyConnection) -> None:
        import pyarrow

        for name, table in self.tables.items():
            with engine_errors(f"{self.label}: {name}"):
                if isinstance(table, str | Path):
                    scan = f"SELECT * FROM read_parquet({literal(table)})"
                    engine.execute(f"CREATE OR REPLACE TEMP VIEW {quoted(name)} AS {scan}")
                else:
                    engine.register(name, pyarrow.RecordBatchReader.from_stream(table).read_all())


def copy_to_parquet(engine: duckdb.DuckDBPyConnection, sql: str, path: Path) -> int:
    """Write the answer of a query to Parquet in its order; give the number of rows."""
    answer = engine.execute(f"COPY ({sql}) TO {literal(path)} (FORMAT parquet, COMPRESSION lz4)").fetchall()
    return int(answer[0][0])
