"""Rows in a table of a DuckDB file: opened read-only and copied once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from habitus.core.errors import SourceError, nearest
from habitus.data.log import RawFile
from habitus.data.pipeline.engine import engine_errors, literal, quoted
from habitus.data.sources.tables import copy_to_parquet

if TYPE_CHECKING:
    import duckdb


@dataclass(frozen=True)
class DuckDBTable:
    """A table or view in a DuckDB file, in the order in which the file holds the rows.

    Errors: `SourceError` when the file or the table is absent, or another process is writing to the file.

    >>> DuckDBTable("shop.duckdb", "events").label
    'shop.duckdb: events'
    """

    path: str | Path
    table: str

    @property
    def label(self) -> str:
        return f"{self.path}: {self.table}"

    def columns(self, engine: duckdb.DuckDBPyConnection) -> dict[str, str]:
        self._attach(engine)
        with engine_errors(self.label):
            return {row[0]: row[1] for row in engine.execute(f"DESCRIBE SELECT * FROM {self._name}").fetchall()}

    def files(self, engine: duckdb.DuckDBPyConnection, folder: Path) -> list[RawFile]:
        self._attach(engine)
        copy = folder / "raw-0000.parquet"
        with engine_errors(self.label):
            n_rows = copy_to_parquet(engine, f"SELECT * FROM {self._name}", copy)
            engine.execute("DETACH source")
        return [RawFile(copy, self.label, n_rows)]

    @property
    def _name(self) -> str:
        return "source." + ".".join(quoted(part) for part in self.table.split("."))

    def _attach(self, engine: duckdb.DuckDBPyConnection) -> None:
        if not Path(self.path).is_file():
            raise SourceError("a DuckDB file", "no such file", where=str(self.path), fix="check the path")
        with engine_errors(str(self.path)):
            engine.execute(f"ATTACH IF NOT EXISTS {literal(self.path)} AS source (READ_ONLY)")
            sql = "SELECT table_schema, table_name FROM information_schema.tables WHERE table_catalog = 'source'"
            known = [name for schema, table in engine.execute(sql).fetchall() for name in (table, f"{schema}.{table}")]
        if self.table not in known:
            meant = nearest(self.table, known)
            hint = f"did you mean {meant!r}?" if meant else ""
            found = "tables: " + ", ".join(sorted(name for name in known if "." not in name))
            raise SourceError(f"a table {self.table!r}", found, where=str(self.path), fix=hint)
