"""Proposing a schema for a raw log. Guessing happens here and nowhere else, and is written out for a person to read."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from habitus.core.errors import SchemaError
from habitus.data.log import as_raw
from habitus.data.pipeline.engine import engine_errors, literal, open_engine, quoted
from habitus.data.pipeline.projection import INTEGERS, NUMBERS
from habitus.data.schema import Schema
from habitus.data.schema_toml import write_toml

if TYPE_CHECKING:
    import duckdb

SAMPLE = 1_000_000
FEW = 50  # distinct values of an event type
SOME = 500  # distinct values of a category
HINTS = {
    "user": "user|customer|client|visitor|member|account|household|person|player|student|subscriber|uid",
    "time": "time|timestamp|date|datetime|ts|created|occurred|at|day|when",
    "type": "type|event|action|kind|activity|behaviou?r|verb",
    "item": "item|product|sku|stock|article|asin|isbn|movie|song|track|content|page|url|upc|sites?",
    "session": "session|basket|invoice|order|visit|transaction|cart|trip",
    "amount": "amount|price|value|revenue|sales|quantity|qty|spend|cost|total|duration|disc(ount)?|paid|score|rating",
}
QUANTITY, PRICE = "quantity|qty|units", "unit_?price|price"
AFTER_THE_FACT = (
    "score|(view|answer|comment|favou?rite|like|share)_?counts?|reputation|views|(up|down)_?votes|final_.*|lifetime_.*"
    "|.*_to_date|last_(seen|login|edit.*)|is_?churned|churned|churn"
)


@dataclass
class Column:
    """What the sample says about one raw column."""

    name: str
    kind: str
    n_distinct: int
    missing: float
    is_time: bool
    unit: str | None
    words: float
    is_number: bool

    def is_like(self, pattern: str) -> bool:
        """Say whether a word of the name matches: `CustomerID` has the words customer and id."""
        plain = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", self.name).lower()
        words = [plain, plain.replace("_", ""), *re.split(r"[^a-z0-9]+", plain)]
        return any(re.fullmatch(pattern, word) for word in words)


@dataclass
class Proposal:
    """The schema as a mapping, with a note for the places where a person should look."""

    values: dict[str, Any]
    notes: dict[str, str] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)


def infer(events: Any, *, name: str = "log") -> Schema:
    """Propose a schema for raw events (a path, a table, a query: whatever `EventLog` takes).

    Looks at names, types and counts of distinct values in the first million rows. Take it as a draft: `propose` gives
    the same with comments. It never sees units, time zones or what a column really means.

    Errors: `SourceError` when the source cannot be read, `SchemaError` when no column looks like a user or a time.

    >>> import polars
    >>> rows = {"customer_id": [1, 1, 2], "created_at": ["2024-05-01 10:00"] * 3, "price": [1.5, 2.0, 3.0]}
    >>> schema = infer(polars.DataFrame(rows))
    >>> schema.events.user.column, schema.events.time.column, list(schema.events.amounts)
    ('customer_id', 'created_at', ['price'])
    """
    return Schema.parse(_propose(events, name).values)


def propose(events: Any, *, name: str = "log") -> str:
    """Propose a schema as the text of a TOML file, with comments that say what was guessed and why."""
    proposal = _propose(events, name)
    head = ["A proposal: read every line, then delete this one. What it does not know: units, the time zone, meanings."]
    if proposal.unused:
        head.append("Columns not used: " + ", ".join(proposal.unused))
    return write_toml(Schema.parse(proposal.values), proposal.notes, head)


def _propose(events: Any, name: str) -> Proposal:
    raw = as_raw(events)
    with tempfile.TemporaryDirectory() as scratch:
        engine = open_engine(Path(scratch), "1GB")
        try:
            kinds = raw.columns(engine)
            paths = ", ".join(literal(file.path) for file in raw.files(engine, Path(scratch)))
            with engine_errors(raw.label):
                scan = f"SELECT * FROM read_parquet([{paths}], union_by_name=true) LIMIT {SAMPLE}"
                engine.execute(f"CREATE TEMP TABLE sample AS {scan}")
                columns = [_look(engine, column, kind) for column, kind in kinds.items()]
                return _assign(engine, columns, name, raw.label)
        finally:
            engine.close()


def _look(engine: duckdb.DuckDBPyConnection, name: str, kind: str) -> Column:
    value = quoted(name)
    is_text = kind == "VARCHAR"
    stamp = f"avg(CASE WHEN TRY_CAST({value} AS TIMESTAMPTZ) IS NOT NULL THEN 1 ELSE 0 END)" if is_text else "0"
    number = f"avg(CASE WHEN TRY_CAST({value} AS DOUBLE) IS NOT NULL THEN 1 ELSE 0 END)" if is_text else "0"
    middle = f"median(TRY_CAST({value} AS BIGINT))" if is_text or kind in INTEGERS else "NULL"
    words = f"avg(length({value}) - length(replace({value}, ' ', '')) + 1)" if is_text else "0"
    sql = f"""SELECT approx_count_distinct({value}), coalesce(avg(CASE WHEN {value} IS NULL THEN 1 ELSE 0 END), 1),
        {stamp} FILTER ({value} IS NOT NULL), {number} FILTER ({value} IS NOT NULL), {middle}, {words} FROM sample"""
    if not is_text:
        sql = sql.replace("0 FILTER", "avg(0) FILTER")
    n_distinct, missing, stamps, numbers, typical, n_words = engine.execute(sql).fetchall()[0]
    is_number = kind in NUMBERS or kind.startswith("DECIMAL") or (is_text and (numbers or 0) > 0.95)
    is_stamp = kind.startswith("TIMESTAMP") or kind == "DATE"
    is_time = is_stamp or (is_text and (stamps or 0) > 0.95 and not is_number)
    unit = _epoch_unit(typical) if is_number and not is_time else None
    return Column(name, kind, int(n_distinct), float(missing), is_time, unit, float(n_words or 0), is_number)


def _epoch_unit(typical: float | None) -> str | None:
    """Say in which unit a typical whole number would be an instant between 1995 and 2036, if in any."""
    for unit, scale in (("s", 1), ("ms", 10**3), ("us", 10**6)):
        if typical is not None and 788_918_400 * scale <= typical <= 2_082_758_400 * scale:
            return unit
    return None


def _assign(engine: duckdb.DuckDBPyConnection, columns: list[Column], name: str, where: str) -> Proposal:
    """Give each column at most one part."""
    n_rows = engine.execute("SELECT count(*) FROM sample").fetchall()[0][0]
    left = {column.name: column for column in columns}
    proposal = Proposal({"name": name, "time_zone": "UTC", "events": {}})
    proposal.notes["time_zone"] = "check: the zone of the day grid, and of times without an offset"
    late = [column.name for column in columns if column.is_like(AFTER_THE_FACT)]
    for column in late:
        left.pop(column)
    time = _take_time(proposal, left, where)
    user = _take_user(proposal, left, n_rows, where)
    _take(proposal, left, "session", lambda c: c.n_distinct > FEW or c.n_distinct > n_rows / 10)
    _take(proposal, left, "item", lambda c: c.n_distinct > 1)
    _take_type(proposal, left)
    _take_amounts(proposal, left)
    _take_attributes(engine, proposal, left, user)
    _last_day(engine, proposal, time)
    if late:
        proposal.values["events"]["as_of_end"] = late
        proposal.notes["events.as_of_end"] = "these look written after the fact; they are refused as inputs"
    if user.missing > 0.01:
        proposal.values["max_rejected"] = min(1.0, round(user.missing + 0.01, 2))
        proposal.notes["max_rejected"] = f"{user.missing:.2%} of the rows have no user"
    proposal.unused = list(left)
    return proposal


def _take_time(proposal: Proposal, left: dict[str, Column], where: str) -> Column:
    hint = HINTS["time"]
    found = [c for c in left.values() if c.is_time] or [c for c in left.values() if c.unit and c.is_like(hint)]
    if not found:
        raise SchemaError("a column of times", "none among: " + ", ".join(left), where=where, fix="write the schema")
    best = max(found, key=lambda c: (c.is_like(hint), c.n_distinct))
    proposal.values["events"]["time"] = best.name
    if not best.is_time:
        proposal.values["events"]["time_unit"] = best.unit
    if len(found) > 1:
        others = ", ".join(c.name for c in found if c is not best)
        proposal.notes["events.time"] = f"also times: {others}"
    return left.pop(best.name)


def _take_user(proposal: Proposal, left: dict[str, Column], n_rows: int, where: str) -> Column:
    ids = [
        c for c in left.values() if not c.is_time and c.n_distinct > 1 and (c.kind in INTEGERS or c.kind == "VARCHAR")
    ]
    named = [c for c in ids if c.is_like(HINTS["user"])]
    repeated = [c for c in ids if c.n_distinct < n_rows / 2 and c.words < 2]
    if not named and not repeated:
        raise SchemaError("a column of user ids", "none among: " + ", ".join(left), where=where, fix="write the schema")
    best = max(named or repeated, key=lambda c: c.n_distinct)
    if not named:
        proposal.notes["events.user"] = "check: chosen because its values repeat, not by its name"
    proposal.values["events"]["user"] = best.name
    return left.pop(best.name)


def _take(proposal: Proposal, left: dict[str, Column], part: str, fits: Callable[[Column], bool]) -> None:
    found = [c for c in left.values() if c.is_like(HINTS[part]) and not c.is_time and c.kind != "DOUBLE" and fits(c)]
    found = [c for c in found if c.words < 2]
    if found:
        best = max(found, key=lambda c: c.n_distinct)
        proposal.values["events"][part] = left.pop(best.name).name


def _take_type(proposal: Proposal, left: dict[str, Column]) -> None:
    found = [c for c in left.values() if c.is_like(HINTS["type"]) and 1 < c.n_distinct <= FEW and c.kind == "VARCHAR"]
    if found:
        proposal.values["events"]["type"] = left.pop(min(found, key=lambda c: c.n_distinct).name).name
    else:
        proposal.values["events"]["type"] = {"constant": "event"}
        proposal.notes["events.type"] = "no column looks like a type; an expression may make one"


def _take_amounts(proposal: Proposal, left: dict[str, Column]) -> None:
    chosen = [
        c for c in left.values()
        if c.is_number and c.kind != "BOOLEAN" and (c.is_like(HINTS["amount"]) or c.kind in ("DOUBLE", "FLOAT"))
    ]  # fmt: skip
    amounts: dict[str, Any] = {}
    for column in chosen:
        amounts[_plain(column.name, amounts)] = {"column": left.pop(column.name).name, "unit": ""}
    quantity = next((c for c in chosen if c.is_like(QUANTITY)), None)
    price = next((c for c in chosen if c.is_like(PRICE)), None)
    if quantity is not None and price is not None and "spend" not in amounts:
        amounts["spend"] = {"sql": f"{quoted(quantity.name)} * {quoted(price.name)}", "unit": ""}
        proposal.notes["events.amounts.spend"] = "check: quantity times price"
        if quantity.kind == "VARCHAR" or price.kind == "VARCHAR":
            types = {quantity.name: "DOUBLE", price.name: "DOUBLE"}
            proposal.values["events"]["columns"] = types
    if amounts:
        proposal.values["events"]["amounts"] = amounts
        proposal.notes["events.amounts"] = "write the units down"


def _take_attributes(
    engine: duckdb.DuckDBPyConnection, proposal: Proposal, left: dict[str, Column], user: Column
) -> None:
    """One value per user: profile. One value per item: describes the item. Other short lists: categories."""
    events, found = proposal.values["events"], {"profile": {}, "items": {}, "categories": {}}
    for column in list(left.values()):
        if column.is_time or column.is_number or column.kind not in ("VARCHAR", "BOOLEAN") or column.n_distinct < 2:
            continue
        is_short = column.n_distinct <= SOME
        if is_short and _depends(engine, column.name, user.name):
            found["profile"][_plain(column.name, found["profile"])] = {"column": column.name, "kind": "category"}
        elif "item" in events and column.words >= 2 and _depends(engine, column.name, events["item"], 1.5):
            found["items"][_plain(column.name, found["items"])] = {"column": column.name, "kind": "text"}
        elif is_short and column.words < 4:
            found["categories"][_plain(column.name, {**found["categories"], **events.get("amounts", {})})] = column.name
        else:
            continue
        left.pop(column.name)
    if found["categories"]:
        events["categories"] = found["categories"]
    for group in ("profile", "items"):
        if found[group]:
            proposal.values[group] = {"from": "events", "columns": found[group]}
            proposal.notes[group] = "one value per user" if group == "profile" else "first value per item"


def _depends(engine: duckdb.DuckDBPyConnection, column: str, key: str, most: float = 1.05) -> bool:
    """Say whether a column has about one value per key, for keys with several rows."""
    sql = f"""SELECT avg(n) FROM (SELECT count(DISTINCT {quoted(column)}) AS n FROM sample
        WHERE {quoted(key)} IS NOT NULL GROUP BY {quoted(key)} HAVING count({quoted(column)}) > 1)"""
    mean = engine.execute(sql).fetchall()[0][0]
    return mean is not None and mean <= most


def _last_day(engine: duckdb.DuckDBPyConnection, proposal: Proposal, time: Column) -> None:
    if not time.is_time or time.kind == "DATE":
        return
    sql = f"SELECT max(TRY_CAST({quoted(time.name)} AS TIMESTAMP)) FROM sample"
    last = engine.execute(sql).fetchall()[0][0]
    if last is not None and (last.hour, last.minute) != (0, 0) and last.hour < 22:
        proposal.values["is_last_day_partial"] = True
        proposal.notes["is_last_day_partial"] = f"the last row seen is at {last:%H:%M} of its day"


def _plain(name: str, taken: Iterable[str]) -> str:
    """Turn a column name into a plain name: `UnitPrice` is unit_price."""
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    plain = re.sub(r"\W+", "_", snake).strip("_") or "value"
    plain = plain if plain.isidentifier() and plain not in _reserved() else f"{plain}_value"
    while plain in taken:
        plain += "_2"
    return plain


def _reserved() -> set[str]:
    from habitus.data.schema import TAKEN

    return TAKEN
