"""Which column plays which part, in which units, and where the days begin: the contract of a raw log."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, available_timezones

from pydantic import AfterValidator, Field, field_validator, model_validator

from habitus.core.config import Config, read_toml
from habitus.core.errors import SchemaError, nearest

TAKEN = {"user", "time", "day", "type", "item", "session", "order", "key_high", "key_low"}
TAKEN |= {"row", "file", "position", "raw", "reason", "idx", "is_local"}


class Part(Config):
    """Where a value comes from: exactly one of a raw column, a DuckDB expression over raw columns, or a constant.

    In TOML a plain string is a column: `user = "CustomerID"`, `type = { sql = "lower(kind)" }`,
    `type = { constant = "visit" }`.

    >>> Part.model_validate("CustomerID").column
    'CustomerID'
    """

    column: str | None = None
    sql: str | None = None
    constant: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"column": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one(self) -> Part:
        if sum(given is not None for given in (self.column, self.sql, self.constant)) != 1:
            raise ValueError("exactly one of: column, sql, constant")
        return self


class Amount(Part):
    """A number of an event, with its unit; rows outside `min` .. `max` are rejected, missing values are kept as NaN.

    With `is_outcome` it is known only some time after the event, as the mark of a piece of work is: targets may sum it,
    and no input ever holds it.
    """

    unit: str = ""
    min: float | None = None
    max: float | None = None
    is_outcome: bool = False

    @model_validator(mode="before")
    @classmethod
    def _from_value(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and "value" in value:
            rest = {key: given for key, given in value.items() if key != "value"}
            return {**rest, **(value["value"] if isinstance(value["value"], Mapping) else {"column": value["value"]})}
        return value


class Attribute(Part):
    """A column of the profile or of the item table, with its kind.

    A `label` of the profile groups users, such as the course they take: cut-offs and intervals may ask for it, and no
    input ever holds it.
    """

    kind: Literal["category", "number", "date", "registered", "text", "label"] = "category"


def _plain_names(value: dict[str, Any]) -> dict[str, Any]:
    for name in value:
        if not name.isidentifier() or name in TAKEN:
            raise ValueError(f"a plain name that is none of: {', '.join(sorted(TAKEN))}; not {name!r}")
    return value


Names = AfterValidator(_plain_names)


class Events(Config):
    """The parts of one event row. See the guide page on ingest for every key."""

    user: Part
    time: Part
    type: Part
    item: Part | None = None
    session: Part | None = None
    order: Part | None = None
    time_unit: Literal["s", "ms", "us"] | None = None
    time_is: Literal["local", "utc"] = "local"
    time_range: tuple[str, str] | None = None
    key: tuple[str, ...] = ()
    as_of_end: tuple[str, ...] = ()
    columns: dict[str, str] = Field(default_factory=dict)
    amounts: Annotated[dict[str, Amount], Names] = Field(default_factory=dict)
    categories: Annotated[dict[str, Part], Names] = Field(default_factory=dict)
    text: Annotated[dict[str, Part], Names] = Field(default_factory=dict)

    @field_validator("time_range", mode="before")
    @classmethod
    def _iso_days(cls, value: Any) -> Any:
        return tuple(str(day) for day in value) if isinstance(value, list | tuple) else value

    @field_validator("time_range")
    @classmethod
    def _ordered_days(cls, value: tuple[str, str] | None) -> tuple[str, str] | None:
        if value is not None:
            first, last = (datetime.date.fromisoformat(day) for day in value)
            if first > last:
                raise ValueError("a first day that is not after the last day")
        return value

    @model_validator(mode="after")
    def _distinct_names(self) -> Events:
        names = [*self.amounts, *self.categories, *self.text]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"each name once among amounts, categories and text; twice: {', '.join(twice)}")
        return self


class Table(Config):
    """A table of attributes, of users (`[profile]`) or items (`[items]`), from the events or from a table of its own.

    From the events, a user's attribute is the value in the user's first row, an item's attribute the first value that
    is not missing: so nothing that happens later can change it.
    """

    from_: Annotated[Literal["events", "table"], Field(alias="from")] = "events"
    key: str | None = None
    columns: dict[str, Attribute] = Field(default_factory=dict)
    as_of_end: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _keyed(self) -> Table:
        if self.from_ == "table" and self.key is None:
            raise ValueError("key = the column that identifies a row, because from = 'table'")
        return self


class Schema(Config):
    """Declares how a raw log is read. Kinds are declared here and never guessed at run time.

    Errors: `ConfigError` for a malformed file or an unknown key; `SchemaError` for an unknown time zone, or a column
    that was written after the fact (`as_of_end`) and is used as a part.

    >>> schema = Schema.parse({"time_zone": "UTC", "events": {"user": "u", "time": "t", "type": {"constant": "visit"}}})
    >>> schema.events.user.column
    'u'
    """

    name: str = "log"
    time_zone: str = "UTC"
    max_rejected: Annotated[float, Field(ge=0, le=1)] = 0.01
    is_last_day_partial: bool = False
    events: Events
    profile: Table | None = None
    items: Table | None = None

    @classmethod
    def parse(cls, values: Mapping[str, Any], *, where: str = "schema") -> Schema:
        try:
            return super().parse(values, where=where)
        except SchemaError as cause:
            place = f"{where}: {cause.where}"
            raise SchemaError(cause.expected, cause.found, where=place, fix=cause.fix) from None

    @model_validator(mode="after")
    def _sound(self) -> Schema:
        _check_zone(self.time_zone)
        for place, part in self.parts().items():
            _refuse_after_the_fact(place, part, self._after_the_fact())
        return self

    @classmethod
    def read(cls, path: str | Path) -> Schema:
        """Read a schema from a TOML file."""
        return cls.parse(read_toml(path), where=str(path))

    def parts(self) -> dict[str, Part]:
        """List every part of every table, by its place in the schema."""
        events = self.events
        found: dict[str, Part | None] = {
            f"events.{name}": getattr(events, name) for name in ("user", "time", "type", "item", "session", "order")
        }
        for group in ("amounts", "categories", "text"):
            found |= {f"events.{group}.{name}": part for name, part in getattr(events, group).items()}
        for group, table in (("profile", self.profile), ("items", self.items)):
            if table is not None:
                found |= {f"{group}.columns.{name}": part for name, part in table.columns.items()}
        return {place: part for place, part in found.items() if part is not None}

    def event_parts(self) -> dict[str, Part]:
        """List the parts that read raw event columns: all but those of tables of their own."""
        apart = [
            g for g, table in (("profile", self.profile), ("items", self.items)) if table and table.from_ == "table"
        ]
        return {place: part for place, part in self.parts().items() if place.split(".")[0] not in apart}

    def dump(self) -> dict[str, Any]:
        """Give the mapping that `parse` reads back: only what differs from the defaults."""
        return self.model_dump(mode="json", by_alias=True, exclude_defaults=True)

    def _after_the_fact(self) -> set[str]:
        tables = (table for table in (self.events, self.profile, self.items) if table is not None)
        return {column for table in tables for column in table.as_of_end}


def mentions(sql: str, column: str) -> bool:
    """Say whether an expression mentions a column.

    >>> mentions("Quantity * UnitPrice", "Quantity"), mentions("Quantity * UnitPrice", "Unit")
    (True, False)
    """
    return re.search(rf"(?<!\w){re.escape(column)}(?!\w)", sql, re.IGNORECASE) is not None


def _refuse_after_the_fact(place: str, part: Part, columns: set[str]) -> None:
    for column in sorted(columns):
        if part.column == column or (part.sql is not None and mentions(part.sql, column)):
            raise SchemaError(
                "a column that was known when the event happened", f"{column!r}, declared as_of_end",
                where=place, fix="leave it out: it was written after the fact and would leak the future",
            )  # fmt: skip


def _check_zone(name: str) -> None:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        meant = nearest(name, available_timezones())
        fix = f"did you mean {meant!r}?" if meant else "see zoneinfo.available_timezones()"
        raise SchemaError("an IANA time zone", repr(name), where="time_zone", fix=fix) from None
