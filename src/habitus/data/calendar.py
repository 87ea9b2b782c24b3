"""Known events: dated things known in advance, for everyone or for an audience of users.

A calendar is three small tables. `events` has one row per known event; `audiences` says who is in a named audience;
`items` says which items an event is about, where it is about any: the products of a campaign, the piece of work that
is due. An event may be used at a cut-off only if it was announced by then: `known_at` is the guard.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
import polars as pl

from habitus.core.atomic import new_file
from habitus.core.errors import CalendarError, nearest

EVENT_COLUMNS = {
    "event": pl.String,  # a name for people
    "type": pl.String,  # what the model learns from: all events of a type share parameters
    "start": pl.Date,
    "end": pl.Date,  # inclusive
    "strength": pl.Float64,  # > 0; its logarithm is a feature
    "announced_at": pl.Date,  # the first cut-off that may know of it
    "audience": pl.String,  # null: everyone
    "is_notable": pl.Boolean,  # its first day is always kept in a sparse history
    "is_randomised": pl.Boolean,  # the audience was drawn at random
}
AUDIENCE_COLUMNS = {"audience": pl.String, "user": pl.String}
ITEM_COLUMNS = {"event": pl.String, "item": pl.String}  # events by their name: namesakes are about the same items
_DEFAULTS = {"strength": 1.0, "audience": None, "is_notable": False, "is_randomised": False}


@dataclass(frozen=True)
class Calendar:
    """A table of known events and the audiences they address.

    Attributes
    ----------
    events
        polars DataFrame with the columns of `EVENT_COLUMNS`, sorted by start, then event.
    audiences
        polars DataFrame `audience, user` with users as text, as in the log.
    items
        polars DataFrame `event, item` with items as text, as in the log; mostly empty.

    >>> sale = Calendar.build([{"event": "spring sale", "type": "sale", "start": "2011-03-01", "end": "2011-03-03"}])
    >>> sale.types, len(sale)
    (('sale',), 1)
    """

    events: pl.DataFrame
    audiences: pl.DataFrame
    items: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=ITEM_COLUMNS))

    @classmethod
    def empty(cls) -> Self:
        """Give a calendar without events."""
        return cls(pl.DataFrame(schema=EVENT_COLUMNS), pl.DataFrame(schema=AUDIENCE_COLUMNS))

    @classmethod
    def build(
        cls,
        events: Iterable[dict] | pl.DataFrame,
        audiences: pl.DataFrame | None = None,
        items: pl.DataFrame | None = None,
        *,
        where: str = "calendar",
    ) -> Self:
        """Check and complete a table of events: dates may be text, absent columns take defaults.

        `end` defaults to `start`, `announced_at` to ten years before the start (known long in advance), `strength` to
        1. Audiences and items of events that are not in the table are kept: they do no harm, and edits may bring the
        events back. Errors: `CalendarError` for an absent or unknown column, an unreadable date, an end before its
        start, an announcement after the start's last useful day, a strength that is not positive, an audience without
        users.
        """
        table = events if isinstance(events, pl.DataFrame) else pl.DataFrame(list(events), infer_schema_length=None)
        groups = _typed(audiences, AUDIENCE_COLUMNS, "audiences", where)
        about = _typed(items, ITEM_COLUMNS, "items of events", where)
        if table.height == 0 and not table.columns:
            return cls(pl.DataFrame(schema=EVENT_COLUMNS), groups, about)
        table = _completed(table, where)
        _check(table, groups, where)
        return cls(table.sort("start", "event", "type", maintain_order=True), groups, about)

    def __len__(self) -> int:
        return self.events.height

    @property
    def types(self) -> tuple[str, ...]:
        """Event types, sorted."""
        return tuple(sorted(self.events["type"].unique()))

    @property
    def item_types(self) -> tuple[str, ...]:
        """Types with an event that names items, sorted."""
        return tuple(sorted(self.events.join(self.items, on="event", how="semi")["type"].unique()))

    def known_at(self, cutoff: int) -> Self:
        """Give the calendar as it was known at the end of day `cutoff` (days since 1970-01-01)."""
        day = dt.date(1970, 1, 1) + dt.timedelta(days=int(cutoff))
        return type(self)(self.events.filter(pl.col("announced_at") <= day), self.audiences, self.items)

    def without(self, *, types: Iterable[str] = (), events: Iterable[str] = ()) -> Self:
        """Give the calendar with whole types, or single named events, left out."""
        gone = pl.col("type").is_in(list(types)) | pl.col("event").is_in(list(events))
        return type(self)(self.events.filter(~gone), self.audiences, self.items)

    def joined(self, other: Calendar) -> Self:
        """Give the events of both calendars; an event present in both, in every column, counts once."""
        events = pl.concat([self.events, other.events]).unique(maintain_order=True)
        audiences = pl.concat([self.audiences, other.audiences]).unique(maintain_order=True)
        items = pl.concat([self.items, other.items]).unique(maintain_order=True)
        return type(self)(events.sort("start", "event", "type", maintain_order=True), audiences, items)

    def write(self, path: str | Path, audiences: str | Path | None = None, items: str | Path | None = None) -> None:
        """Write events, and audiences and items if paths are given, as CSV or Parquet by the ending of each path."""
        for table, goal in ((self.events, path), (self.audiences, audiences), (self.items, items)):
            if goal is None:
                continue
            with new_file(goal) as beside:
                write = table.write_csv if Path(goal).suffix == ".csv" else table.write_parquet
                write(beside)


def read_calendar(
    path: str | Path,
    audiences: str | Path | pl.DataFrame | None = None,
    items: str | Path | pl.DataFrame | None = None,
) -> Calendar:
    """Read a calendar from CSV or Parquet, with audiences and items from files of their own or from tables.

    Errors: `CalendarError` for a missing or unreadable file, and those of `Calendar.build`.
    """
    table = _read(Path(path))
    groups, about = (t if t is None or isinstance(t, pl.DataFrame) else _read(Path(t)) for t in (audiences, items))
    return Calendar.build(table, groups, about, where=str(path))


def holiday_calendar(
    country: str, first: dt.date, last: dt.date, *, subdivision: str | None = None, type: str = "holiday"
) -> Calendar:
    """List the public holidays of a country between two days, from the `holidays` package.

    >>> uk = holiday_calendar("GB", dt.date(2011, 12, 20), dt.date(2011, 12, 31), subdivision="ENG")
    >>> uk.events["event"].to_list()
    ['Christmas Day', 'Boxing Day', 'Christmas Day (observed)']
    """
    import holidays

    try:
        table = holidays.country_holidays(
            country, subdiv=subdivision, years=range(first.year, last.year + 1), language="en_US"
        )
    except NotImplementedError as cause:
        raise CalendarError("a country that the `holidays` package knows", str(cause), where=country) from None
    rows = [
        {"event": name, "type": type, "start": day, "end": day}
        for day, name in sorted(table.items())
        if first <= day <= last
    ]
    return Calendar.build(rows, where=f"holidays of {country}")


def to_day(date: dt.date | str) -> int:
    """Give days since 1970-01-01.

    >>> to_day("1970-01-03")
    2
    """
    return int(np.datetime64(date, "D").astype(np.int64))


def to_date(day: int) -> dt.date:
    """Give the date of a day number.

    >>> str(to_date(2))
    '1970-01-03'
    """
    return dt.date(1970, 1, 1) + dt.timedelta(days=int(day))


def _read(path: Path) -> pl.DataFrame:
    if not path.is_file():
        raise CalendarError("a CSV or Parquet file", "no such file", where=str(path), fix="check the path")
    try:
        if path.suffix == ".parquet":
            return pl.read_parquet(path)
        return pl.read_csv(path, infer_schema=False)
    except (pl.exceptions.PolarsError, OSError) as cause:
        raise CalendarError("a readable CSV or Parquet file", str(cause).splitlines()[0], where=str(path)) from None


def _completed(table: pl.DataFrame, where: str) -> pl.DataFrame:
    """Add absent columns, cast to the stated types, and refuse what cannot be cast."""
    for name in table.columns:
        if name not in EVENT_COLUMNS:
            meant = nearest(name, EVENT_COLUMNS)
            fix = f"did you mean {meant!r}?" if meant else "remove it"
            raise CalendarError(f"columns out of: {', '.join(EVENT_COLUMNS)}", f"{name!r}", where=where, fix=fix)
    for name in ("type", "start"):
        if name not in table.columns:
            raise CalendarError(f"a column {name!r}", f"columns: {', '.join(table.columns)}", where=where)
    table = table.with_columns(pl.lit(value).alias(k) for k, value in _DEFAULTS.items() if k not in table.columns)
    if "event" not in table.columns:
        table = table.with_columns(event=pl.col("type"))
    if "end" not in table.columns:
        table = table.with_columns(end=pl.col("start"))
    table = table.with_columns(
        _cast(table, name, kind, where) for name, kind in EVENT_COLUMNS.items() if name in table.columns
    )
    table = table.with_columns(pl.col("end").fill_null(pl.col("start")), pl.col("strength").fill_null(1.0))
    long_ago = pl.col("start").dt.offset_by("-10y")
    known = pl.col("announced_at").fill_null(long_ago) if "announced_at" in table.columns else long_ago
    table = table.with_columns(announced_at=known)
    return table.with_columns(
        pl.col("event").fill_null(pl.col("type")),
        pl.col("is_notable").fill_null(False),
        pl.col("is_randomised").fill_null(False),
    ).select(*EVENT_COLUMNS)


def _cast(table: pl.DataFrame, name: str, kind: type[pl.DataType], where: str) -> pl.Series:
    """Cast one column; text dates and text booleans are read; the first bad value is named."""
    column = table[name]
    if column.dtype == pl.String and kind != pl.String:
        column = column.replace("", None)
    if kind == pl.Boolean and column.dtype == pl.String:
        cast = column.str.to_lowercase().replace_strict(
            {"true": True, "1": True, "false": False, "0": False}, default=None, return_dtype=pl.Boolean
        )
    elif kind == pl.Date and column.dtype == pl.String:
        cast = column.str.slice(0, 10).str.to_date("%Y-%m-%d", strict=False)
    else:
        cast = column.cast(kind, strict=False)
    bad = (cast.is_null() & column.is_not_null()).arg_max()
    if bad is not None and cast[bad] is None and column[bad] is not None:
        expected = {pl.Date: "a date YYYY-MM-DD", pl.Float64: "a number", pl.Boolean: "true or false"}.get(kind, "text")
        raise CalendarError(expected, repr(column[bad]), where=f"{where}, row {bad + 1}, column {name!r}")
    return cast.alias(name)


def _typed(table: pl.DataFrame | None, columns: Mapping[str, type[pl.DataType]], what: str, where: str) -> pl.DataFrame:
    if table is None:
        return pl.DataFrame(schema=columns)
    for name in columns:
        if name not in table.columns:
            raise CalendarError(f"a column {name!r} in the {what}", f"columns: {', '.join(table.columns)}", where=where)
    return table.select(pl.col(n).cast(kind) for n, kind in columns.items()).unique(maintain_order=True)


def _check(table: pl.DataFrame, audiences: pl.DataFrame, where: str) -> None:
    """Refuse the first row that makes no sense."""
    known = audiences["audience"].unique().to_list()
    rules = [
        (pl.col("start").is_null(), "a start", "a date YYYY-MM-DD"),
        (pl.col("type").is_null(), "a type", "text"),
        (pl.col("end") < pl.col("start"), "an end on or after the start", "swap them"),
        (
            pl.col("announced_at") > pl.col("end"),
            "an announcement before the event is over",
            "it can never be known ahead",
        ),
        (~(pl.col("strength") > 0), "a strength above 0", "leave it empty for 1"),
        (
            pl.col("audience").is_not_null() & ~pl.col("audience").is_in(known),
            "an audience with users",
            "give the audiences table, or leave the column empty for everyone",
        ),
    ]
    for is_bad, expected, fix in rules:
        bad = table.with_row_index("row").filter(is_bad)
        if bad.height:
            row = bad.row(0, named=True)
            found = ", ".join(
                f"{k}={row[k]}" for k in ("event", "start", "end", "announced_at", "strength", "audience")
            )
            raise CalendarError(expected, found, where=f"{where}, row {row['row'] + 1}", fix=fix)
