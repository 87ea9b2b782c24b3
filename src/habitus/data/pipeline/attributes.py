"""The profile of users and the table of items, from the events or from tables of their own; with an older state merged.

From the events, a user's attributes are those of the user's first row, an item's attribute is its first value that is
not missing. Of two rows at one instant the earlier one in the source counts, and old rows come before appended ones.
From a table, the last row of a key counts, and an appended table's row replaces the old one.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from habitus.core.errors import SchemaError, nearest
from habitus.data.log import EventLog, as_raw
from habitus.data.pipeline.engine import engine_errors, literal, quoted
from habitus.data.pipeline.projection import attribute_sql
from habitus.data.pipeline.scan import Scan
from habitus.data.schema import Table

if TYPE_CHECKING:
    import duckdb

FAR = 2**64  # (time, row) as one number: time x FAR + row


def profiles_sql(engine: duckdb.DuckDBPyConnection, log: EventLog, scanned: Scan, old: Path | None) -> str:
    """Make what is needed and write the query of the profile: user and attributes, in the order of the users."""
    table = scanned.schema.profile
    assert table is not None
    names = list(table.columns)
    if table.from_ == "table":
        kind = scanned.projection.user_type
        _read_table(engine, log.profiles, table, scanned, "profiles", kind, optional=old is not None)
        prefers_new = "n.key IS NOT NULL"
    else:
        _first_rows(engine, scanned, names)
        prefers_new = "o.user IS NULL OR n.is_first"
    if old is None:
        listed = ", ".join(f"n.{quoted(name)}" for name in names)
        return f'SELECT u."user", {listed} FROM users u LEFT JOIN profiles n ON u."user" = n.key ORDER BY u.idx'
    listed = ", ".join(_either(prefers_new, name) for name in names)
    return f"""SELECT u."user", {listed} FROM users u LEFT JOIN profiles n ON u."user" = n.key
        LEFT JOIN read_parquet({literal(old)}) o ON u."user" = o."user" ORDER BY u.idx"""


def _first_rows(engine: duckdb.DuckDBPyConnection, scanned: Scan, names: list[str]) -> None:
    """Make `profiles` (key, attributes, is_first): the attributes of each user's first new row."""
    packed = ", ".join(f"{quoted(name)} := t.{quoted('profile.' + name)}" for name in names)
    is_ordered = scanned.schema.events.order is not None
    order = f't."order"::HUGEINT * {FAR} + t.row' if is_ordered else "t.row"
    engine.execute(
        f"""CREATE OR REPLACE TEMP TABLE firsts AS
        SELECT n."user" AS key, n.first_time, {'min(t."order")' if is_ordered else "NULL::BIGINT"} AS first_order,
        arg_min(struct_pack({packed}), {order}) AS v
        FROM typed t JOIN new_users n ON t."user" = n."user" AND t.time = n.first_time
        WHERE t.reason IS NULL GROUP BY n."user", n.first_time"""
    )
    known = engine.execute("SELECT count(*) FROM duckdb_tables() WHERE table_name = 'old_firsts'").fetchall()[0][0]
    old = "old_firsts" if known else "(SELECT key, first_time, first_order FROM firsts LIMIT 0)"
    later = "n.first_time = o.first_time AND n.first_order < o.first_order"
    values = ", ".join(f"n.v.{quoted(name)} AS {quoted(name)}" for name in names)
    engine.execute(
        f"""CREATE OR REPLACE TEMP TABLE profiles AS SELECT n.key, {values},
        coalesce(n.first_time < o.first_time OR ({later}), o.key IS NULL) AS is_first
        FROM firsts n LEFT JOIN {old} o ON n.key = o.key"""
    )


def items_sql(
    engine: duckdb.DuckDBPyConnection, log: EventLog, scanned: Scan, old: Path | None, old_times: Path | None
) -> tuple[str, str | None]:
    """Make what is needed and write the queries of the item table and of its values' first instants (from events)."""
    table = scanned.schema.items
    assert table is not None
    names = list(table.columns)
    key_order = "FROM code_item c LEFT JOIN item_attributes n ON c.value = n.key"
    if table.from_ == "table":
        _read_table(engine, log.items, table, scanned, "item_attributes", "VARCHAR", optional=old is not None)
        prefers_new = dict.fromkeys(names, "n.key IS NOT NULL")
    else:
        _first_values(engine, names)
        prefers_new = {m: f"{_time(m)} < coalesce(t.{quoted(m)}, {2**63 - 1})" for m in names}
    if old is None:
        values = ", ".join(f"n.{quoted(m)}" for m in names)
        times = ", ".join(f"{_time(m)} AS {quoted(m)}" for m in names)
    else:
        key_order += f" LEFT JOIN read_parquet({literal(old)}) o ON c.value = o.item"
        if old_times is not None:
            key_order += f" LEFT JOIN read_parquet({literal(old_times)}) t ON c.value = t.item"
        values = ", ".join(_either(prefers_new[m], m) for m in names)
        times = ", ".join(f"least({_time(m)}, t.{quoted(m)}) AS {quoted(m)}" for m in names)
    attributes = f"SELECT c.value AS item, {values} {key_order} ORDER BY c.code"
    first_instants = f"SELECT c.value AS item, {times} {key_order} ORDER BY c.code"
    return attributes, None if table.from_ == "table" else first_instants


def _either(prefers_new: str, name: str) -> str:
    return f"CASE WHEN {prefers_new} THEN n.{quoted(name)} ELSE o.{quoted(name)} END AS {quoted(name)}"


def _time(name: str) -> str:
    return f"n.{quoted('time of ' + name)}"


def _first_values(engine: duckdb.DuckDBPyConnection, names: list[str]) -> None:
    """Make `item_attributes`: key, the first value of each attribute, and its instant."""
    values = []
    for name in names:
        value = quoted("items." + name)
        values.append(f"arg_min({value}, time::HUGEINT * {FAR} + row) FILTER ({value} IS NOT NULL) AS {quoted(name)}")
        values.append(f"min(time) FILTER ({value} IS NOT NULL) AS {quoted('time of ' + name)}")
    engine.execute(
        f"""CREATE OR REPLACE TEMP TABLE item_attributes AS SELECT item AS key, {", ".join(values)}
        FROM typed WHERE reason IS NULL AND item IS NOT NULL GROUP BY item"""
    )


def _read_table(
    engine: duckdb.DuckDBPyConnection,
    given: Any,
    table: Table,
    scanned: Scan,
    name: str,
    key_type: str,
    *,
    optional: bool,
) -> None:
    """Read a table of attributes into the engine: `key` and the declared columns; the last row of a key counts."""
    where = f"the {name.replace('_', ' ')} table"
    kinds = {m: attribute_sql("NULL", part.kind) for m, part in table.columns.items()}
    if given is None:
        if not optional:
            raise SchemaError("a table beside the events", "nothing", where=where, fix="hand it to EventLog")
        empty = ", ".join(f"{null} AS {quoted(m)}" for m, null in kinds.items())
        engine.execute(f"CREATE OR REPLACE TEMP TABLE {name} AS SELECT NULL::{key_type} AS key, {empty} LIMIT 0")
        return
    raw = as_raw(given)
    columns = raw.columns(engine)
    for column in [table.key, *(part.column for part in table.columns.values())]:
        if column is not None and column not in columns:
            meant = nearest(column, columns)
            hint = f"did you mean {meant!r}?" if meant else "name it in the schema"
            raise SchemaError(f"a column {column!r}", "columns: " + ", ".join(columns), where=where, fix=hint)
    folder = scanned.work / name
    folder.mkdir()
    paths = ", ".join(literal(file.path) for file in raw.files(engine, folder))
    values = ", ".join(
        f"{attribute_sql(quoted(part.column) if part.column else f'({part.sql})', part.kind)} AS {quoted(m)}"
        for m, part in table.columns.items()
    )
    with engine_errors(where):
        engine.execute(
            f"""CREATE OR REPLACE TEMP TABLE {name} AS SELECT * EXCLUDE (file, row) FROM
            (SELECT TRY_CAST({quoted(table.key or "")} AS {key_type}) AS key, {values},
             CAST(file_index AS BIGINT) AS file, file_row_number AS row
             FROM read_parquet([{paths}], file_row_number=true, union_by_name=true)) WHERE key IS NOT NULL
            QUALIFY row_number() OVER (PARTITION BY key ORDER BY file DESC, row DESC) = 1"""
        )
