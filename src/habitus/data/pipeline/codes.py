"""Numbers for users and texts: what the rows of the shards refer to.

Users are numbered by (shard, id); vocabularies by the first instant at which a value occurs, then by text: what comes
later in time never changes an earlier code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from habitus.data.pipeline import zones
from habitus.data.pipeline.engine import literal, quoted

if TYPE_CHECKING:
    import duckdb


@dataclass(frozen=True)
class Size:
    """How many users and rows a shard has; of the rows, how many were there before an append."""

    n_users: int
    n_old: int
    n_new: int


def shard_sql(user: str, n_shards: int) -> str:
    """Write the shard of a user: the first 15 hex digits of the md5 of the id's text, modulo the number of shards."""
    return f"CAST(CAST('0x' || substr(md5(CAST({user} AS VARCHAR)), 1, 15) AS BIGINT) % {n_shards} AS INTEGER)"


def index_users(engine: duckdb.DuckDBPyConnection, n_shards: int, old_users: str | None = None) -> list[Size]:
    """Make `users` (idx, shard, user, n_old, n_new, first_time, last_time) from `new_users` and a file of old ones."""
    old = f"read_parquet({literal(old_users)})" if old_users else "(FROM new_users LIMIT 0)"
    engine.execute(
        f"""CREATE OR REPLACE TEMP TABLE users AS
        WITH every AS (
            SELECT "user", n_events AS n_old, 0 AS n_new, first_time, last_time FROM {old}
            UNION ALL SELECT "user", 0, n_events, first_time, last_time FROM new_users),
        merged AS (
            SELECT {shard_sql('"user"', n_shards)} AS shard, "user", CAST(sum(n_old) AS BIGINT) AS n_old,
            CAST(sum(n_new) AS BIGINT) AS n_new, min(first_time) AS first_time, max(last_time) AS last_time
            FROM every GROUP BY "user")
        SELECT CAST(row_number() OVER (ORDER BY shard, "user") - 1 AS INTEGER) AS idx, * FROM merged ORDER BY idx"""
    )
    sql = "SELECT shard, count(*), sum(n_old), sum(n_new) FROM users GROUP BY shard"
    found = {row[0]: Size(*(int(value) for value in row[1:])) for row in engine.execute(sql).fetchall()}
    return [found.get(shard, Size(0, 0, 0)) for shard in range(n_shards)]


def number_vocabulary(engine: duckdb.DuckDBPyConnection, name: str, old_file: str | None = None) -> None:
    """Make `code_<name>` (code, value, first_time) from `new_<name>` and a file of the old vocabulary."""
    old = f"UNION ALL SELECT {quoted(name)}, first_time FROM read_parquet({literal(old_file)})" if old_file else ""
    engine.execute(
        f"""CREATE OR REPLACE TEMP TABLE {quoted("code_" + name)} AS
        SELECT CAST(row_number() OVER (ORDER BY first_time, value) - 1 AS INTEGER) AS code, value, first_time
        FROM (SELECT value, min(first_time) AS first_time FROM
              (SELECT value, first_time FROM {quoted("new_" + name)} {old}) GROUP BY value) ORDER BY code"""
    )


def vocabulary_sql(name: str) -> str:
    return f"SELECT value AS {quoted(name)}, first_time FROM {quoted('code_' + name)} ORDER BY code"


def users_sql(engine: duckdb.DuckDBPyConnection, zone: str) -> str:
    low, high = engine.execute("SELECT min(first_time), max(last_time) FROM users").fetchall()[0]
    day = zones.day_sql("first_time", zone, low, high)
    columns = f'"user", n_old + n_new AS n_events, first_time, last_time, {day} AS first_day'
    return f"SELECT {columns} FROM users ORDER BY idx"
