"""Numbers for users and texts, the small tables, and the manifest: what the shards refer to.

Users are numbered by (shard, id); vocabularies by the first instant at which a value occurs, then by text: what comes
later in time never changes an earlier code.
"""

from __future__ import annotations

import datetime
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from habitus.data.engine import engine_errors, literal, quoted
from habitus.data.log import EventLog, as_raw
from habitus.data.projection import attribute_sql
from habitus.data.scan import Scan
from habitus.data.schema import Table
from habitus.data.store import FORMAT
from habitus.data.tables import seal, write_table
from habitus.data.zones import local_days

if TYPE_CHECKING:
    import duckdb


def shard_sql(user: str, n_shards: int) -> str:
    """Write the shard of a user: the first 15 hex digits of the md5 of the id's text, modulo the number of shards."""
    return f"CAST(CAST('0x' || substr(md5(CAST({user} AS VARCHAR)), 1, 15) AS BIGINT) % {n_shards} AS INTEGER)"


def index_users(engine: duckdb.DuckDBPyConnection, n_shards: int) -> list[tuple[int, int]]:
    """Make `users` (idx, shard, user, n_events, first_time, last_time) from `new_users`; give (users, rows) per shard."""
    shard = shard_sql('"user"', n_shards)
    engine.execute(
        f"""CREATE OR REPLACE TEMP TABLE users AS
        SELECT CAST(row_number() OVER (ORDER BY shard, "user") - 1 AS INTEGER) AS idx, *
        FROM (SELECT {shard} AS shard, * FROM new_users)"""
    )
    rows = engine.execute("SELECT shard, count(*), sum(n_events) FROM users GROUP BY shard").fetchall()
    found = {shard: (int(n_users), int(n_rows)) for shard, n_users, n_rows in rows}
    return [found.get(shard, (0, 0)) for shard in range(n_shards)]


def number_vocabularies(engine: duckdb.DuckDBPyConnection, names: list[str]) -> None:
    """Make a table `code_<name>` (code, value, first_time) from `new_<name>` for every coded column."""
    for name in names:
        engine.execute(
            f"""CREATE OR REPLACE TEMP TABLE {quoted("code_" + name)} AS
            SELECT CAST(row_number() OVER (ORDER BY first_time, value) - 1 AS INTEGER) AS code, value, first_time
            FROM {quoted("new_" + name)}"""
        )


def write_tables(engine: duckdb.DuckDBPyConnection, log: EventLog, scanned: Scan, folder: Path) -> dict[str, Any]:
    """Write users, vocabularies, profiles, items and the calendar; give their manifest entries."""
    schema = scanned.schema
    found = {"users": _users_sql(engine, scanned)}
    found |= {
        f"vocabulary_{name}": f"SELECT value AS {quoted(name)}, first_time FROM {quoted('code_' + name)} ORDER BY code"
        for name in scanned.vocabularies
    }
    if schema.profile is not None:
        found["profiles"] = _profiles_sql(engine, log, scanned, schema.profile)
    if schema.items is not None and schema.events.item is not None:
        found["items"] = _items_sql(engine, log, scanned, schema.items)
    entries = {}
    for name, sql in found.items():
        file = folder / "tables" / f"{name}.parquet"
        with engine_errors(f"{scanned.label}: {name}"):
            write_table(engine, sql, file)
        entries[name] = seal(folder, file, name)
    return entries | _write_calendar(log, folder)


def _users_sql(engine: duckdb.DuckDBPyConnection, scanned: Scan) -> str:
    from habitus.data import zones

    low, high = engine.execute("SELECT min(first_time), max(last_time) FROM users").fetchall()[0]
    day = zones.day_sql("first_time", scanned.schema.time_zone, low, high)
    return f'SELECT "user", n_events, first_time, last_time, {day} AS first_day FROM users ORDER BY idx'


def _profiles_sql(engine: duckdb.DuckDBPyConnection, log: EventLog, scanned: Scan, table: Table) -> str:
    names = list(table.columns)
    if table.from_ == "table":
        _side_table(engine, log.profiles, table, scanned, "profiles", scanned.projection.user_type)
    else:
        packed = ", ".join(f"{quoted(name)} := {quoted('profile.' + name)}" for name in names)
        order = 't."order"::HUGEINT * 18446744073709551616 + t.row' if scanned.schema.events.order else "t.row"
        engine.execute(
            f"""CREATE OR REPLACE TEMP TABLE profiles AS SELECT key, {", ".join(f"v.{quoted(n)}" for n in names)} FROM
            (SELECT u."user" AS key, arg_min(struct_pack({packed}), {order}) AS v FROM typed t
             JOIN users u ON t."user" = u."user" AND t.time = u.first_time WHERE t.reason IS NULL GROUP BY u."user")"""
        )
    listed = ", ".join(f"p.{quoted(name)}" for name in names)
    return f'SELECT u."user", {listed} FROM users u LEFT JOIN profiles p ON u."user" = p.key ORDER BY u.idx'


def _items_sql(engine: duckdb.DuckDBPyConnection, log: EventLog, scanned: Scan, table: Table) -> str:
    names = list(table.columns)
    if table.from_ == "table":
        _side_table(engine, log.items, table, scanned, "item_attributes", "VARCHAR")
    else:
        key = "time::HUGEINT * 18446744073709551616 + row"
        values = ", ".join(
            f"arg_min({quoted('items.' + n)}, {key}) FILTER ({quoted('items.' + n)} IS NOT NULL) AS {quoted(n)}"
            for n in names
        )
        engine.execute(
            f"""CREATE OR REPLACE TEMP TABLE item_attributes AS SELECT item AS key, {values}
            FROM typed WHERE reason IS NULL AND item IS NOT NULL GROUP BY item"""
        )
    listed = ", ".join(f"a.{quoted(name)}" for name in names)
    return f"SELECT c.value AS item, {listed} FROM code_item c LEFT JOIN item_attributes a ON c.value = a.key ORDER BY c.code"


def _side_table(
    engine: duckdb.DuckDBPyConnection, given: Any, table: Table, scanned: Scan, name: str, key_type: str
) -> None:
    """Read a table of attributes into the engine: `key` and the declared columns; the last row of a key counts."""
    from habitus.core.errors import SchemaError, nearest

    where = f"the {name} table"
    if given is None:
        raise SchemaError(f"{name} beside the events", "nothing", where=where, fix="hand it to EventLog")
    raw = as_raw(given)
    columns = raw.columns(engine)
    for column in [table.key, *(part.column for part in table.columns.values())]:
        if column is not None and column not in columns:
            meant = nearest(column, columns)
            raise SchemaError(
                f"a column {column!r}", "columns: " + ", ".join(columns), where=where,
                fix=f"did you mean {meant!r}?" if meant else "",
            )  # fmt: skip
    folder = scanned.work / name
    folder.mkdir()
    paths = ", ".join(literal(file.path) for file in raw.files(engine, folder))
    values = ", ".join(
        f"{attribute_sql(quoted(p.column) if p.column else f'({p.sql})', p.kind)} AS {quoted(n)}"
        for n, p in table.columns.items()
    )
    key = f"TRY_CAST({quoted(table.key or '')} AS {key_type})"
    with engine_errors(where):
        engine.execute(
            f"""CREATE OR REPLACE TEMP TABLE {name} AS SELECT * FROM (SELECT {key} AS key, {values}, file_row_number
            FROM read_parquet([{paths}], file_row_number=true, union_by_name=true)) WHERE key IS NOT NULL
            QUALIFY row_number() OVER (PARTITION BY key ORDER BY file_row_number DESC) = 1"""
        )


def _write_calendar(log: EventLog, folder: Path) -> dict[str, Any]:
    if log.calendar is None:
        return {}
    entries = {}
    for name, frame in (("calendar", log.calendar.events), ("audiences", log.calendar.audiences)):
        file = folder / "tables" / f"{name}.parquet"
        frame.write_parquet(file, compression="zstd")
        entries[name] = seal(folder, file, name)
    return entries


def manifest(
    engine: duckdb.DuckDBPyConnection,
    scanned: Scan,
    rejected: dict[str, int],
    tables: dict[str, Any],
    shards: list[dict[str, Any]],
) -> dict[str, Any]:
    """Put the manifest together. The fingerprint covers the schema and every kept value, not the rejected rows."""
    import numpy as np

    schema = scanned.schema
    n_users, n_events, first, last = engine.execute(
        "SELECT count(*), sum(n_events), min(first_time), max(last_time) FROM users"
    ).fetchall()[0]
    first_day, last_day = local_days(np.array([first, last]), schema.time_zone).tolist()
    vocabularies = {name: tables.pop(f"vocabulary_{name}") for name in scanned.vocabularies}
    content = {
        "schema": schema.dump(),
        "vocabularies": {name: entry["sha256"] for name, entry in vocabularies.items()},
        "tables": {name: entry["sha256"] for name, entry in tables.items() if name != "rejected"},
        "shards": [[shard["sha256"], *(t["sha256"] for t in shard.get("text", {}).values())] for shard in shards],
    }
    return {
        "format": FORMAT,
        "name": schema.name,
        "fingerprint": hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest(),
        "n_users": int(n_users),
        "n_events": int(n_events),
        "counts": {"read": scanned.n_read, "kept": int(n_events), "rejected": rejected},
        "time": {"first": _iso(first), "last": _iso(last)},
        "days": {
            "first": first_day,
            "last": last_day,
            "last_complete": last_day - 1 if schema.is_last_day_partial else last_day,
        },
        "schema": schema.dump(),
        "vocabularies": vocabularies,
        "tables": tables,
        "shards": shards,
    }


def _iso(time: int) -> str:
    return (datetime.datetime(1970, 1, 1) + datetime.timedelta(microseconds=int(time))).isoformat() + "Z"
