"""From a schema and raw columns to typed SQL: every part as an expression, and one reason why a row cannot be used."""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from habitus.core.errors import SchemaError, nearest
from habitus.data import zones
from habitus.data.engine import engine_errors, literal, quoted
from habitus.data.schema import Part, Schema

if TYPE_CHECKING:
    import duckdb

INTEGERS = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "HUGEINT"}
NUMBERS = INTEGERS | {"FLOAT", "DOUBLE", "BOOLEAN"}
NESTED = re.compile(r"\[\]|\[\d+\]|STRUCT|MAP|UNION|BLOB|BIT|INTERVAL|^TIME$")
SCALES = {"s": 1_000_000, "ms": 1_000, "us": 1}
AWARE = r"[0-9](Z|z| ?[+-][0-9]{2}(:?[0-9]{2})?)$"


@dataclass(frozen=True)
class Projection:
    """SQL expressions over the view `raw` (columns `row`, the raw columns, and `raw x` where x is declared a type)."""

    select: dict[str, str]
    reason: str
    raw_json: str
    is_local: str
    user_type: str
    session_is_text: bool
    columns: dict[str, str] = field(default_factory=dict)

    @property
    def sql(self) -> str:
        listed = ", ".join(f"{expression} AS {quoted(name)}" for name, expression in self.select.items())
        place = f'row, "raw file" AS file, "raw position" AS position, {self.raw_json} AS raw'
        return f"SELECT {place}, {listed}, {self.is_local} AS is_local, {self.reason} AS reason FROM raw"


def check_columns(schema: Schema, columns: dict[str, str], where: str) -> None:
    """Refuse a schema that names a raw column which is not there. Errors: `SchemaError` with the nearest name."""
    events = schema.events
    named = [(place, part.column) for place, part in parts(schema).items() if part.column is not None]
    named += [("events.key", name) for name in events.key]
    named += [("events.columns", name) for name in events.columns]
    for place, name in named:
        if name not in columns:
            meant = nearest(name, columns)
            hint = f"did you mean {meant!r}?" if meant else "name it in the schema"
            found = "columns: " + ", ".join(columns)
            raise SchemaError(f"a column {name!r} for {place}", found[:500], where=where, fix=hint)


def parts(schema: Schema) -> dict[str, Part]:
    """List every part that reads raw event columns, by its place in the schema."""
    events = schema.events
    found: dict[str, Part | None] = {
        "events.user": events.user, "events.time": events.time, "events.type": events.type,
        "events.item": events.item, "events.session": events.session, "events.order": events.order,
    }  # fmt: skip
    for group in ("amounts", "categories", "text"):
        found |= {f"events.{group}.{name}": part for name, part in getattr(events, group).items()}
    for group, table in (("profile", schema.profile), ("items", schema.items)):
        if table is not None and table.from_ == "events":
            found |= {f"{group}.columns.{name}": part for name, part in table.columns.items()}
    return {place: part for place, part in found.items() if part is not None}


def project(engine: duckdb.DuckDBPyConnection, schema: Schema, columns: dict[str, str], where: str) -> Projection:
    """Write the typed projection; `raw` must exist as a view. Errors: `SchemaError` for a type that does not fit."""
    events = schema.events
    types = _types_of(engine, schema, columns, where)
    reasons: list[tuple[str, str]] = []
    select: dict[str, str] = {}

    user = _sql(events.user)
    user_type = _user_type(types["events.user"], where)
    select["user"] = f"CAST({user} AS {user_type})" if user_type == "VARCHAR" else user
    empty = f" OR {user} = ''" if types["events.user"] == "VARCHAR" else ""
    reasons.append((f"{user} IS NULL{empty}", "no user"))

    raw_time = _sql(events.time)
    time, is_local = _time(raw_time, types["events.time"], schema, where)
    select["time"] = time
    reasons += [(f"{raw_time} IS NULL", "no time"), (f"({time}) IS NULL", "time cannot be read")]
    if events.time_range is not None:
        reasons.append((_outside(time, is_local, schema), "time outside the stated range"))

    select["type"] = f"CAST({_sql(events.type)} AS VARCHAR)"
    if events.type.constant is None:
        reasons.append((f"{select['type']} IS NULL OR {select['type']} = ''", "no type"))
    for place, part in (("item", events.item), ("session", events.session)):
        if part is not None:
            _no_nesting(types[f"events.{place}"], f"events.{place}", where)
    if events.item is not None:
        select["item"] = f"nullif(CAST({_sql(events.item)} AS VARCHAR), '')"
    session_is_text = False
    if events.session is not None:
        session_is_text = types["events.session"] not in INTEGERS - {"UBIGINT", "HUGEINT"}
        select["session"] = f"CAST({_sql(events.session)} AS {'VARCHAR' if session_is_text else 'BIGINT'})"
    if events.order is not None:
        select["order"] = _order(_sql(events.order), types["events.order"], where)
    for name, amount in events.amounts.items():
        select[name], more = _amount(name, amount, _sql(amount), types[f"events.amounts.{name}"], where)
        reasons += more
    for name, part in events.categories.items():
        _no_nesting(types[f"events.categories.{name}"], f"events.categories.{name}", where)
        select[name] = f"nullif(CAST({_sql(part)} AS VARCHAR), '')"
    for name, part in events.text.items():
        select[name] = f"CAST({_sql(part)} AS VARCHAR)"
    for group, table in (("profile", schema.profile), ("items", schema.items)):
        if table is not None and table.from_ == "events":
            for name, part in table.columns.items():
                select[f"{group}.{name}"] = attribute_sql(_sql(part), part.kind)
    for name, kind in events.columns.items():
        reasons.append(
            (f"{quoted('raw ' + name)} IS NOT NULL AND {quoted(name)} IS NULL", f"{name} cannot be read as {kind}")
        )
    cases = " ".join(f"WHEN {condition} THEN {literal(text)}" for condition, text in reasons)
    raw_json = ", ".join(
        f"{literal(name)}, CAST({quoted('raw ' + name if name in events.columns else name)} AS VARCHAR)"
        for name in used_columns(schema, columns)
    )
    return Projection(
        select, f"CASE {cases} ELSE NULL END", f"json_object({raw_json})", is_local, user_type, session_is_text, columns
    )


def used_columns(schema: Schema, columns: dict[str, str]) -> list[str]:
    """List the raw columns that the schema names or mentions in an expression."""
    named = {part.column for part in parts(schema).values()} | set(schema.events.key) | set(schema.events.columns)
    mentioned = " ".join(part.sql for part in parts(schema).values() if part.sql)
    return [name for name in columns if name in named or _mentions(mentioned, name)]


def attribute_sql(sql: str, kind: str) -> str:
    """Cast an attribute to what its kind stands for: text, double or date."""
    wanted = {"category": "VARCHAR", "text": "VARCHAR", "number": "DOUBLE", "date": "DATE", "registered": "DATE"}[kind]
    return f"TRY_CAST({sql} AS {wanted})"


def _mentions(sql: str, column: str) -> bool:
    return re.search(rf"(?<![\w]){re.escape(column)}(?![\w])", sql, re.IGNORECASE) is not None


def _sql(part: Part) -> str:
    if part.constant is not None:
        return literal(part.constant)
    return quoted(part.column) if part.column is not None else f"({part.sql})"


def _types_of(engine: duckdb.DuckDBPyConnection, schema: Schema, columns: dict[str, str], where: str) -> dict[str, str]:
    types = {}
    for place, part in parts(schema).items():
        with engine_errors(f"{where}: {place}"):
            types[place] = engine.execute(f"DESCRIBE SELECT {_sql(part)} AS v FROM raw").fetchall()[0][1]
    return types


def _user_type(kind: str, where: str) -> str:
    if kind in INTEGERS - {"HUGEINT"}:
        return kind
    if kind in ("VARCHAR", "UUID") or kind.startswith("ENUM"):
        return "VARCHAR"
    raise SchemaError(
        "a user id of text or whole numbers", kind, where=f"{where}: events.user",
        fix='cast it: user = { sql = "CAST(x AS BIGINT)" }',
    )  # fmt: skip


def _no_nesting(kind: str, place: str, where: str) -> None:
    if NESTED.search(kind):
        raise SchemaError("one plain value per row", kind, where=f"{where}: {place}", fix="pick one value with SQL")


def _time(raw: str, kind: str, schema: Schema, where: str) -> tuple[str, str]:
    """Give microseconds (local or UTC) and whether they are local, both as SQL."""
    unit, naive = schema.events.time_unit, "TRUE" if schema.events.time_is == "local" else "FALSE"
    if kind in INTEGERS:
        if unit is None:
            raise SchemaError(
                "time_unit beside a time of whole numbers", kind, where=f"{where}: events.time",
                fix='time_unit = "s", "ms" or "us" since 1970-01-01 UTC',
            )  # fmt: skip
        bound = zones.DAY * 365 * 10_000 // SCALES[unit]
        return f"CASE WHEN {raw} BETWEEN {-bound} AND {bound} THEN CAST({raw} AS BIGINT) * {SCALES[unit]} END", "FALSE"
    if kind == "TIMESTAMP WITH TIME ZONE":
        return f"CASE WHEN isfinite({raw}) THEN epoch_us({raw}) END", "FALSE"
    if kind.startswith("TIMESTAMP") or kind == "DATE":
        return f"CASE WHEN isfinite({raw}) THEN epoch_us(CAST({raw} AS TIMESTAMP)) END", naive
    if kind == "VARCHAR":
        if unit is not None:
            number = f"TRY_CAST({raw} AS BIGINT)"
            return f"{number} * {SCALES[unit]}", "FALSE"
        stamp = f"TRY_CAST({raw} AS TIMESTAMPTZ)"
        aware = f"regexp_matches({raw}, '{AWARE}') AND length({raw}) > 10"
        local = f"NOT ({aware})" if naive == "TRUE" else "FALSE"
        return f"CASE WHEN isfinite({stamp}) THEN epoch_us({stamp}) END", local
    raise SchemaError(
        "a timestamp, a date, ISO text or whole numbers with time_unit", kind, where=f"{where}: events.time",
        fix="name the right column, or convert it with SQL",
    )  # fmt: skip


def _outside(time: str, is_local: str, schema: Schema) -> str:
    first, last = (datetime.date.fromisoformat(day) for day in schema.events.time_range or ("", ""))
    after = last + datetime.timedelta(days=1)

    def bounds(low: int, high: int) -> str:
        return f"({time}) NOT BETWEEN {low} AND {high - 1}"

    epoch = datetime.date(1970, 1, 1)
    local = bounds((first - epoch).days * zones.DAY, (after - epoch).days * zones.DAY)
    utc = bounds(zones.first_instant(first, schema.time_zone), zones.first_instant(after, schema.time_zone))
    return {"TRUE": local, "FALSE": utc}.get(is_local, f"CASE WHEN {is_local} THEN {local} ELSE {utc} END")


def _order(raw: str, kind: str, where: str) -> str:
    if kind in INTEGERS or kind == "VARCHAR":
        return f"coalesce(TRY_CAST({raw} AS BIGINT), {2**63 - 1})"
    if kind.startswith("TIMESTAMP") or kind == "DATE":
        return f"coalesce(epoch_us(CAST({raw} AS TIMESTAMP)), {2**63 - 1})"
    raise SchemaError("whole numbers or instants", kind, where=f"{where}: events.order")


def _amount(name: str, amount, raw: str, kind: str, where: str) -> tuple[str, list[tuple[str, str]]]:
    if kind not in NUMBERS and not kind.startswith("DECIMAL") and kind != "VARCHAR":
        raise SchemaError("numbers", kind, where=f"{where}: events.amounts.{name}", fix="name a numeric column")
    if kind == "VARCHAR" and amount.sql is not None:
        raise SchemaError("an expression that gives numbers", kind, where=f"{where}: events.amounts.{name}")
    value = raw if kind == "DOUBLE" else f"TRY_CAST({raw} AS DOUBLE)"
    reasons = [(f"{raw} IS NOT NULL AND {value} IS NULL", f"{name} cannot be read")] if kind == "VARCHAR" else []
    if kind in ("VARCHAR", "DOUBLE", "FLOAT"):
        reasons.append((f"NOT isfinite({value})", f"{name} is not finite"))
    if amount.min is not None:
        reasons.append((f"{value} < {amount.min!r}", f"{name} below its minimum"))
    if amount.max is not None:
        reasons.append((f"{value} > {amount.max!r}", f"{name} above its maximum"))
    return value, reasons
