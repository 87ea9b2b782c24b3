"""Rows of a SQL query on PostgreSQL, streamed as Arrow through ADBC (extra `sql`) and copied once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from habitus.core.errors import SourceError, require
from habitus.data.log import RawFile
from habitus.data.pipeline.engine import engine_errors
from habitus.data.sources.tables import copy_to_parquet

if TYPE_CHECKING:
    import duckdb


@dataclass(frozen=True)
class PostgreSQLQuery:
    """A query on a PostgreSQL server; end it with ORDER BY where the order of ties matters.

    `uri` is a libpq URI, for example `postgresql://reader@db.example/shop`; leave the password to `PGPASSWORD` or a
    password file. It is never written to the store. NUMERIC columns arrive as text: cast them in the query.

    Errors: `ExtraError` without the extra `sql`; `SourceError` when the server or the query fails.

    >>> PostgreSQLQuery("postgresql://reader@db.example/shop", "SELECT * FROM events ORDER BY id")
    PostgreSQLQuery(sql='SELECT * FROM events ORDER BY id')
    """

    uri: str = field(repr=False)
    sql: str

    @property
    def label(self) -> str:
        return "PostgreSQL: " + re.sub(r"\s+", " ", self.sql)[:80]

    def columns(self, engine: duckdb.DuckDBPyConnection) -> dict[str, str]:
        with self._answer(f"SELECT * FROM ({self._plain}) AS described LIMIT 0") as reader, engine_errors(self.label):
            engine.register("described", reader.schema.empty_table())
            rows = engine.execute("DESCRIBE SELECT * FROM described").fetchall()
            engine.unregister("described")
        return {row[0]: row[1] for row in rows}

    def files(self, engine: duckdb.DuckDBPyConnection, folder: Path) -> list[RawFile]:
        copy = folder / "raw-0000.parquet"
        with self._answer(self._plain) as reader, engine_errors(self.label):
            engine.register("streamed", reader)
            n_rows = copy_to_parquet(engine, "SELECT * FROM streamed", copy)
            engine.unregister("streamed")
        return [RawFile(copy, self.label, n_rows)]

    @property
    def _plain(self) -> str:
        return self.sql.strip().rstrip(";")

    @contextmanager
    def _answer(self, sql: str) -> Iterator[Any]:
        dbapi = require("adbc_driver_postgresql.dbapi", "sql")
        try:
            with dbapi.connect(self.uri) as connection, connection.cursor() as cursor:
                cursor.execute(sql)
                yield cursor.fetch_record_batch()
        except dbapi.Error as cause:
            text = str(cause).split("\nQuery was")[0].strip()[:400].replace(self.uri, "...")
            raise SourceError(
                "rows from PostgreSQL", text, where=self.label, fix="check the server and the query"
            ) from None
