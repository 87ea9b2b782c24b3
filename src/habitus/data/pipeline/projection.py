"""From a schema and raw columns to typed SQL: every part as an expression, and one reason why a row cannot be used."""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from habitus.core.errors import SchemaError, nearest
from habitus.data.pipeline import zones
from habitus.data.pipeline.engine import engine_errors, literal, quoted
from habitus.data.schema import Amount, Part, Schema, mentions

if TYPE_CHECKING:
    import duckdb

INTEGERS = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "HUGEINT"}
NUMBERS = INTEGERS | {"FLOAT", "DOUBLE", "BOOLEAN"}
NESTED = re.compile(r"\[\]|\[\d+\]|STRUCT|MAP|UNION|BLOB|BIT|INTERVAL|^TIME$")
SCALES = {"s": 1_000_000, "ms": 1_000, "us": 1}
TIMES = (-62_135_596_800_000_000, 253_402_214_400_000_000)  # years 1 .. 9999
AWARE = r"[0-9](Z|z| ?[+-][0-9]{2}(:?[0-9]{2})?)$"


@dataclass(frozen=True)
class Projection:
    """SQL expressions over the view `raw` (the raw columns, `raw row`, and `raw x` where x is declared a type)."""

    select: dict[str, str]
    reason: str
    raw_json: str
    is_local: str
    user_type: str
    session_is_text: bool

    @property
    def sql(self) -> str:
        listed = ", ".join(f"{expression} AS {quoted(name)}" for name, expression in self.select.items())
        place = f'"raw row" AS row, "raw file" AS file, "raw position" AS position, {self.raw_json} AS raw'
        return f"SELECT {place}, {listed}, {self.is_local} AS is_local, {self.reason} AS reason FROM raw"


def check_columns(schema: Schema, columns: dict[str, str], where: str) -> None:
    """Refuse a schema that names a raw column which is not there. Errors: `SchemaError` with the nearest name."""
    events = schema.events
    named = [(place, part.column) for place, part in schema.event_parts().items() if part.column is not None]
    named += [("events.key", name) for name in events.key]
    named += [("events.columns", name) for name in events.columns]
    for place, name in named:
        if name not in columns:
            meant = nearest(name, columns)
            hint = f"did you mean {meant!r}?" if meant else "name it in the schema"
            found = "columns: " + ", ".join(columns)
            raise SchemaError(f"a column {name!r} for {place}", found[:500], where=where, fix=hint)


def project(engine: duckdb.DuckDBPyConnection, schema: Schema, columns: dict[str, str], where: str) -> Projection:
    """Write the typed projection; `raw` must exist as a view. Errors: `SchemaError` for a type that does not fit."""
    events, types = schema.events, _types_of(engine, schema, where)
    user, user_type = _user(_sql(events.user), types["events.user"], where)
    time, is_local = _time(_sql(events.time), types["events.time"], schema, where)
    session, session_is_text = _session(events.session, types, where)
    select = {"user": user, "time": time, "type": f"CAST({_sql(events.type)} AS VARCHAR)"}
    select |= _codes(schema, types, where) | session
    if events.order is not None:
        select["order"] = _order(_sql(events.order), types["events.order"], where)
    for name, amount in events.amounts.items():
        select[name] = _amount(amount, types[f"events.amounts.{name}"], f"{where}: events.amounts.{name}")
    select |= {name: f"CAST({_sql(part)} AS VARCHAR)" for name, part in events.text.items()}
    if events.key:
        select["key_high"], select["key_low"] = _key(events.key)
    select |= _attributes(schema)
    reasons = _reasons(schema, select, types, is_local)
    cases = " ".join(f"WHEN {condition} THEN {literal(text)}" for condition, text in reasons)
    raw_json = ", ".join(
        f"{literal(name)}, CAST({quoted('raw ' + name if name in events.columns else name)} AS VARCHAR)"
        for name in used_columns(schema, columns)
    )
    reason = f"CASE {cases} ELSE NULL END"
    return Projection(select, reason, f"CAST(json_object({raw_json}) AS VARCHAR)", is_local, user_type, session_is_text)


def _reasons(schema: Schema, select: dict[str, str], types: dict[str, str], is_local: str) -> list[tuple[str, str]]:
    """List the conditions under which a row cannot be used, first one first."""
    events, user, time = schema.events, _sql(schema.events.user), _sql(schema.events.time)
    empty = f" OR {user} = ''" if types["events.user"] == "VARCHAR" else ""
    found = [(f"{user} IS NULL{empty}", "no user"), (f"{time} IS NULL", "no time")]
    if types["events.time"] == "VARCHAR":
        found.append((f"{time} = ''", "no time"))
    found.append((f"({select['time']}) IS NULL", "time cannot be read"))
    if events.time_range is not None:
        found.append((_outside(select["time"], is_local, schema), "time outside the stated range"))
    for name, kind in events.columns.items():
        raw = quoted("raw " + name)
        found.append((f"{raw} IS NOT NULL AND {quoted(name)} IS NULL", f"{name} cannot be read as {kind}"))
    if events.type.constant is None:
        found.append((f"{select['type']} IS NULL OR {select['type']} = ''", "no type"))
    for name, amount in events.amounts.items():
        found += _amount_reasons(name, amount, select[name], types[f"events.amounts.{name}"])
    return found


def used_columns(schema: Schema, columns: dict[str, str]) -> list[str]:
    """List the raw columns that the schema names or mentions in an expression."""
    named = (
        {part.column for part in schema.event_parts().values()} | set(schema.events.key) | set(schema.events.columns)
    )
    mentioned = " ".join(part.sql for part in schema.event_parts().values() if part.sql)
    return [name for name in columns if name in named or mentions(mentioned, name)]


def attribute_sql(sql: str, kind: str) -> str:
    """Cast an attribute to what its kind stands for: text, double or date."""
    wanted = {"number": "DOUBLE", "date": "DATE", "registered": "DATE"}.get(kind, "VARCHAR")
    return f"TRY_CAST({sql} AS {wanted})"


def _sql(part: Part) -> str:
    if part.constant is not None:
        return literal(part.constant)
    return quoted(part.column) if part.column is not None else f"({part.sql})"


def _types_of(engine: duckdb.DuckDBPyConnection, schema: Schema, where: str) -> dict[str, str]:
    types = {}
    for place, part in schema.event_parts().items():
        with engine_errors(f"{where}: {place}"):
            types[place] = engine.execute(f"DESCRIBE SELECT {_sql(part)} AS v FROM raw").fetchall()[0][1]
    return types


def _codes(schema: Schema, types: dict[str, str], where: str) -> dict[str, str]:
    """Item and categories as text; an empty text is a missing value."""
    coded = {"events.item": schema.events.item}
    coded |= {f"events.categories.{name}": part for name, part in schema.events.categories.items()}
    found = {}
    for place, part in coded.items():
        if part is not None:
            _no_nesting(types[place], place, where)
            found[place.split(".")[-1]] = f"nullif(CAST({_sql(part)} AS VARCHAR), '')"
    return found


def _session(part: Part | None, types: dict[str, str], where: str) -> tuple[dict[str, str], bool]:
    """A session as a number where it is one, else as text; and which of both."""
    if part is None:
        return {}, False
    kind = types["events.session"]
    _no_nesting(kind, "events.session", where)
    is_text = kind not in INTEGERS - {"UBIGINT", "HUGEINT"}
    return {"session": f"CAST({_sql(part)} AS {'VARCHAR' if is_text else 'BIGINT'})"}, is_text


def _attributes(schema: Schema) -> dict[str, str]:
    """The columns of the profile and of the item table that come from the events."""
    found = {}
    for group, table in (("profile", schema.profile), ("items", schema.items)):
        if table is not None and table.from_ == "events":
            found |= {f"{group}.{name}": attribute_sql(_sql(part), part.kind) for name, part in table.columns.items()}
    return found


def _user(raw: str, kind: str, where: str) -> tuple[str, str]:
    """Give the user as SQL, and its type: whole numbers stay numbers, all else is text."""
    user_type = _user_type(kind, where)
    return (raw if user_type == kind else f"CAST({raw} AS {user_type})"), user_type


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
    """Give microseconds (local or UTC, years 1 .. 9999, else NULL) and whether they are local, both as SQL."""
    unit, naive = schema.events.time_unit, "TRUE" if schema.events.time_is == "local" else "FALSE"
    if kind in INTEGERS or (kind == "VARCHAR" and unit is not None):
        if unit is None:
            raise SchemaError(
                "time_unit beside a time of whole numbers", kind, where=f"{where}: events.time",
                fix='time_unit = "s", "ms" or "us" since 1970-01-01 UTC',
            )  # fmt: skip
        number = raw if kind in INTEGERS else f"TRY_CAST({raw} AS BIGINT)"
        low, high = (bound // SCALES[unit] for bound in TIMES)
        return (
            f"CASE WHEN {number} BETWEEN {low} AND {high} THEN CAST({number} AS BIGINT) * {SCALES[unit]} END",
            "FALSE",
        )
    if kind == "TIMESTAMP WITH TIME ZONE":
        return _microseconds(raw), "FALSE"
    if kind.startswith("TIMESTAMP") or kind == "DATE":
        return _microseconds(f"CAST({raw} AS TIMESTAMP)"), naive
    if kind == "VARCHAR":
        aware = f"regexp_matches({raw}, '{AWARE}') AND length({raw}) > 10"
        return _microseconds(f"TRY_CAST({raw} AS TIMESTAMPTZ)"), f"NOT ({aware})" if naive == "TRUE" else "FALSE"
    raise SchemaError(
        "a timestamp, a date, ISO text or whole numbers with time_unit", kind, where=f"{where}: events.time",
        fix="name the right column, or convert it with SQL",
    )  # fmt: skip


def _microseconds(stamp: str) -> str:
    return f"CASE WHEN {stamp} BETWEEN '0001-01-01' AND '9999-12-30' THEN epoch_us({stamp}) END"


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


def _key(columns: tuple[str, ...]) -> tuple[str, str]:
    """Give 120 bits of the md5 of the key's texts, as two numbers."""
    texts = ", ".join(f"coalesce(CAST({quoted(name)} AS VARCHAR), chr(26))" for name in columns)
    digest = f"md5(concat_ws(chr(31), {texts}))"
    return tuple(f"CAST('0x' || substr({digest}, {at}, 15) AS BIGINT)" for at in (1, 16))  # type: ignore[return-value]


def _amount(amount: Amount, kind: str, place: str) -> str:
    if kind not in NUMBERS and not kind.startswith("DECIMAL") and kind != "VARCHAR":
        raise SchemaError("numbers", kind, where=place, fix="name a numeric column")
    if kind == "VARCHAR" and amount.sql is not None:
        raise SchemaError("an expression that gives numbers", kind, where=place, fix="cast its result")
    return _sql(amount) if kind == "DOUBLE" else f"TRY_CAST({_sql(amount)} AS DOUBLE)"


def _amount_reasons(name: str, amount: Amount, value: str, kind: str) -> list[tuple[str, str]]:
    found = []
    if kind == "VARCHAR":
        raw = _sql(amount)
        found.append((f"{raw} IS NOT NULL AND {raw} <> '' AND {value} IS NULL", f"{name} cannot be read"))
    if kind in ("VARCHAR", "DOUBLE", "FLOAT"):
        found.append((f"isinf({value})", f"{name} is not finite"))
    if amount.min is not None:
        found.append((f"{value} < {amount.min!r}", f"{name} below its minimum"))
    if amount.max is not None:
        found.append((f"{value} > {amount.max!r} AND NOT isnan({value})", f"{name} above its maximum"))
    return found
