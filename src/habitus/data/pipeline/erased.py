"""The list of erased users: salted hashes, so that an old file does not bring anybody back.

A hash is SHA-256 of salt and id. The salt lies beside the hashes: where ids are few and guessable, whoever holds the
store can find out that a given id was erased, and nothing else.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from habitus.data.pipeline.engine import literal, quoted
from habitus.data.pipeline.tables import write_table

if TYPE_CHECKING:
    import duckdb

ERASED = "erased"  # the reason in `rejected`, and the name of the table in the manifest


def load_erased(engine: duckdb.DuckDBPyConnection, file: Path) -> None:
    """Make the table `erased` (salt, hash)."""
    engine.execute(f"CREATE OR REPLACE TEMP TABLE erased AS SELECT salt, hash FROM read_parquet({literal(file)})")


def is_erased(user: str) -> str:
    """Write the condition that the user in a column is on the list of the table `erased`."""
    salt = "(SELECT any_value(salt) FROM erased)"
    return f"coalesce(sha256({salt} || CAST({quoted(user)} AS VARCHAR)) IN (SELECT hash FROM erased), FALSE)"


def write_erased(engine: duckdb.DuckDBPyConnection, old: Path | None, path: Path) -> int:
    """Add the ids of the table `erased_ids` (user, as text) to an older list; give how many it holds."""
    salt = secrets.token_hex(16)
    before = "SELECT NULL::VARCHAR AS salt, NULL::VARCHAR AS hash WHERE FALSE"
    if old is not None:
        before = f"SELECT salt, hash FROM read_parquet({literal(old)})"
        salt = str(engine.execute(f"SELECT any_value(salt) FROM ({before})").fetchall()[0][0])
    sql = f"""SELECT DISTINCT salt, hash FROM ({before} UNION ALL
        SELECT {literal(salt)}, sha256({literal(salt)} || "user") FROM erased_ids) ORDER BY hash"""
    return write_table(engine, sql, path)
