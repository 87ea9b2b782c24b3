"""Calendars as edits: a small table says what to add, drop, move or address to other users.

One row is one edit of one event. Which columns a row may fill depends on its `edit`:

add      the columns of a calendar: `event, type, start, end, strength, announced_at, audience, ...`
drop     `event`
move     `event`, and `start` (a date) or `shift` (days, may be negative); without `end` the event keeps its duration
rescope  `event` and `audience`: a name, or `*` for everyone; with `users` = `more` or `fewer` the audience's users are
         added to, or taken from, those whom the event addresses now

`was` is the present start of the event; it is needed only where several coming events have one name.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import polars as pl

from habitus.core.errors import CalendarError, nearest
from habitus.data.calendar import AUDIENCE_COLUMNS, EVENT_COLUMNS, Calendar, to_date

EVERYONE = "*"
KINDS = ("add", "drop", "move", "rescope")
EDIT_COLUMNS = ("edit", *EVENT_COLUMNS, "shift", "was", "users")
USERS = ("only", "more", "fewer")
_ALLOWED = {
    "add": {"edit", *EVENT_COLUMNS},
    "drop": {"edit", "event", "was"},
    "move": {"edit", "event", "was", "start", "end", "shift", "announced_at"},
    "rescope": {"edit", "event", "was", "audience", "users"},
}
_NEEDED = {"add": ("type", "start"), "drop": ("event",), "move": ("event",), "rescope": ("event", "audience")}
_DATES = ("start", "end", "announced_at", "was")


@dataclass(frozen=True)
class Edits:
    """Edits of a calendar, one per row, as they were written; `where` names the file.

    >>> plan = Calendar.build([{"event": "spring sale", "type": "sale", "start": "2011-03-01", "end": "2011-03-03"}])
    >>> later = apply_edits(plan, Edits.build([{"edit": "move", "event": "spring sale", "shift": 7}]))
    >>> [str(day) for day in later.events.row(0)[2:4]]
    ['2011-03-08', '2011-03-10']
    """

    rows: tuple[dict[str, Any], ...]
    where: str = "edits"

    @classmethod
    def build(cls, edits: Iterable[dict] | pl.DataFrame, *, where: str = "edits") -> Self:
        """Check each row for itself; empty text counts as absent.

        Errors: `CalendarError` that names the row: an unknown edit or column, a column that the edit does not use or
        lacks, a date or number that cannot be read.
        """
        table = edits.to_dicts() if isinstance(edits, pl.DataFrame) else [dict(row) for row in edits]
        for name in dict.fromkeys(name for row in table for name in row):
            if name not in EDIT_COLUMNS:
                raise CalendarError(
                    f"columns out of: {', '.join(EDIT_COLUMNS)}", repr(name), where=where, fix=_hint(name, EDIT_COLUMNS)
                )
        return cls(tuple(_checked(row, _place(where, i)) for i, row in enumerate(table)), where)

    def __len__(self) -> int:
        return len(self.rows)


def is_edits(path: str | Path) -> bool:
    """Tell whether a CSV or Parquet file is a table of edits: it has a column `edit`. An unreadable file is none."""
    path = Path(path)
    try:
        names = pl.read_parquet_schema(path) if path.suffix == ".parquet" else pl.scan_csv(path).collect_schema()
    except (pl.exceptions.PolarsError, OSError):
        return False
    return "edit" in names


def read_edits(path: str | Path) -> Edits:
    """Read edits from CSV or Parquet. Errors: `CalendarError` for an absent or unreadable file, or as `Edits.build`."""
    table = _read_table(path)
    if "edit" not in table.columns:
        found = f"columns: {', '.join(table.columns)}"
        raise CalendarError("a column 'edit'", found, where=str(path), fix="give a whole calendar as a calendar")
    return Edits.build(table, where=str(path))


def read_audiences(path: str | Path) -> pl.DataFrame:
    """Read users of audiences from CSV or Parquet: columns `audience` and `user`. Errors: `CalendarError`."""
    table = _read_table(path)
    for name in AUDIENCE_COLUMNS:
        if name not in table.columns:
            raise CalendarError(f"a column {name!r}", f"columns: {', '.join(table.columns)}", where=str(path))
    return table.select(pl.col(n).cast(kind) for n, kind in AUDIENCE_COLUMNS.items()).unique(maintain_order=True)


def with_audiences(calendar: Calendar, more: pl.DataFrame, *, where: str = "audiences") -> Calendar:
    """Give the calendar with further audiences that edits may name.

    Errors: `CalendarError` for a name that the calendar already uses for other users: it may have been sent to before,
    and the past cannot be edited.
    """
    for (name,), users in more.group_by("audience", maintain_order=True):
        known = calendar.audiences.filter(audience=name)
        if known.height and set(known["user"]) != set(users["user"]):
            raise CalendarError(
                "names of new audiences",
                f"{name!r}, which the calendar has with other users",
                where=where,
                fix="give it another name, and rescope the coming event to that name",
            )
    audiences = pl.concat([calendar.audiences, more]).unique(maintain_order=True)
    return Calendar(calendar.events, audiences, calendar.items)


def apply_edits(calendar: Calendar, edits: Edits, *, cutoff: int | None = None) -> Calendar:
    """Give the calendar as edited; the one given is left as it is.

    With `cutoff` (days since 1970-01-01), only events that begin after it may be edited, added or moved to: what began
    is the past. Items that an event is about stay with its name.

    Errors: `CalendarError` that names the row: an unknown event (with the nearest name), one that has begun, a name
    that several coming events share, two edits of one event, an audience without users, and those of `Calendar.build`.
    """
    events = calendar.events.with_row_index("row").to_dicts()
    found: dict[int, int] = {}  # row of the calendar -> edit
    gone: set[int] = set()
    added: list[tuple[dict[str, Any], str]] = []
    audiences = calendar.audiences
    for i, edit in enumerate(edits.rows):
        where = _place(edits.where, i)
        if edit["edit"] == "add":
            added.append((_new(edit, audiences, where), where))
            continue
        event = _event_of(edit, events, cutoff, where)
        if event["row"] in found:
            raise CalendarError(
                "one edit per event",
                f"a second one of {edit['event']!r}",
                where=f"{where}; the first is in row {found[event['row']] + 1}",
                fix="to change several things, drop the event and add it as it should be",
            )
        found[event["row"]] = i
        gone.add(event["row"])
        if edit["edit"] == "move":
            added.append((_moved(event, edit, where), where))
        elif edit["edit"] == "rescope":
            row, audiences = _rescoped(event, edit, audiences, where)
            added.append((row, where))
    for row, where in added:
        _check_coming(row, cutoff, where)
    kept = calendar.events.filter(~pl.int_range(pl.len()).is_in(list(gone)))
    table = pl.concat([kept, *(_built(row, audiences, where) for row, where in added)])
    return Calendar(table.sort("start", "event", "type", maintain_order=True), audiences, calendar.items)


# one row of edits --------------------------------------------------------------------------------------------------


def _checked(row: dict[str, Any], where: str) -> dict[str, Any]:
    """Keep what a row says, typed; refuse what it may not say."""
    said = {name: value for name, value in row.items() if value is not None and str(value).strip() != ""}
    kind = str(said.get("edit", "")).strip().lower()
    if kind not in KINDS:
        fix = _hint(kind, KINDS) if kind else ""
        raise CalendarError(f"an edit out of: {', '.join(KINDS)}", repr(row.get("edit")), where=where, fix=fix)
    for name in said:
        if name not in _ALLOWED[kind]:
            used = ", ".join(n for n in EDIT_COLUMNS if n in _ALLOWED[kind])
            raise CalendarError(f"columns that {kind} uses: {used}", name, where=where, fix="leave it empty")
    for name in _NEEDED[kind]:
        if name not in said:
            fix = f"write {EVERYONE} for everyone" if name == "audience" else ""
            raise CalendarError(f"a value of {name!r} for {kind}", "none", where=where, fix=fix)
    said |= {"edit": kind} | {name: _date(said[name], where, name) for name in _DATES if name in said}
    if kind == "move":
        _check_move(said, where)
    if kind == "rescope" and said.setdefault("users", "only") not in USERS:
        raise CalendarError(f"users out of: {', '.join(USERS)}", repr(said["users"]), where=where)
    return said


def _check_move(said: dict[str, Any], where: str) -> None:
    if ("start" in said) == ("shift" in said):
        found = "both" if "start" in said else "neither"
        raise CalendarError("a new start, or a shift in days", found, where=where, fix="fill one of the two")
    if "shift" in said:
        if "end" in said:
            raise CalendarError("no end beside a shift", str(said["end"]), where=where, fix="give start and end")
        try:
            said["shift"] = int(str(said["shift"]))
        except ValueError:
            raise CalendarError("whole days", repr(said["shift"]), where=f"{where}, column 'shift'") from None


def _event_of(edit: dict[str, Any], events: list[dict[str, Any]], cutoff: int | None, where: str) -> dict[str, Any]:
    """Find the one event that an edit is about."""
    name = edit["event"]
    named = [row for row in events if row["event"] == name]
    if not named:
        names = list(dict.fromkeys(row["event"] for row in events))
        raise CalendarError("an event of the calendar", repr(name), where=where, fix=_hint(name, names))
    if "was" in edit:
        starts = ", ".join(str(row["start"]) for row in named)
        named = [row for row in named if row["start"] == edit["was"]]
        if not named:
            raise CalendarError(f"a start of {name!r} out of: {starts}", str(edit["was"]), where=where)
    coming = named if cutoff is None else [row for row in named if row["start"] > to_date(cutoff)]
    if not coming:
        last = max(row["start"] for row in named)
        raise CalendarError(
            f"an event that begins after the cut-off, {to_date(cutoff or 0)}",
            f"{name!r} began on {last}",
            where=where,
            fix="edit coming events only, or choose an earlier cut-off",
        )
    if len(coming) > 1:
        starts = ", ".join(str(row["start"]) for row in coming)
        fix = "fill the column 'was' with the start that is meant"
        raise CalendarError("one event of that name", f"{len(coming)} ({starts})", where=where, fix=fix)
    return coming[0]


def _built(row: dict[str, Any], audiences: pl.DataFrame, where: str) -> pl.DataFrame:
    try:
        return Calendar.build([row], audiences).events
    except CalendarError as error:
        raise CalendarError(error.expected, error.found, where=where, fix=error.fix) from None


def _new(edit: dict[str, Any], audiences: pl.DataFrame, where: str) -> dict[str, Any]:
    row = {name: value for name, value in edit.items() if name != "edit"}
    if row.get("audience") == EVERYONE:
        del row["audience"]
    if "audience" in row:
        _members(audiences, row["audience"], where)
    return row


def _moved(event: dict[str, Any], edit: dict[str, Any], where: str) -> dict[str, Any]:
    row = {name: event[name] for name in EVENT_COLUMNS}
    start = edit.get("start") or row["start"] + dt.timedelta(days=edit["shift"])
    row["end"] = edit.get("end") or row["end"] + (start - row["start"])
    row["start"] = start
    row["announced_at"] = edit.get("announced_at") or row["announced_at"]
    return row


def _rescoped(
    event: dict[str, Any], edit: dict[str, Any], audiences: pl.DataFrame, where: str
) -> tuple[dict[str, Any], pl.DataFrame]:
    """Give the event with its new audience, and the audiences with that one in it."""
    row, name, how = {n: event[n] for n in EVENT_COLUMNS}, edit["audience"], edit["users"]
    if how == "only":
        if name != EVERYONE:
            _members(audiences, name, where)
        return row | {"audience": None if name == EVERYONE else name}, audiences
    if row["audience"] is None:
        raise CalendarError(f"an event with an audience, for {how} users", "one for everyone", where=where)
    now, others = _members(audiences, row["audience"], where), _members(audiences, name, where)
    users = pl.concat([now, others]).unique(maintain_order=True) if how == "more" else now.filter(~now.is_in(others))
    if not len(users):
        raise CalendarError("an audience with users", "nobody is left", where=where, fix="drop the event")
    made = f"{row['audience']} {'and' if how == 'more' else 'without'} {name}"
    if (audiences["audience"] == made).any():
        raise CalendarError("a new name for the made audience", f"{made!r} exists", where=where)
    more = pl.DataFrame({"audience": [made] * len(users), "user": users}, schema=AUDIENCE_COLUMNS)
    return row | {"audience": made}, pl.concat([audiences, more])


def _members(audiences: pl.DataFrame, name: str, where: str) -> pl.Series:
    users = audiences.filter(audience=name)["user"]
    if not len(users):
        known = audiences["audience"].unique().to_list()
        fix = _hint(name, known) or "give the audiences table"
        raise CalendarError("an audience with users", repr(name), where=where, fix=fix)
    return users


def _check_coming(row: dict[str, Any], cutoff: int | None, where: str) -> None:
    if cutoff is not None and row["start"] <= to_date(cutoff):
        raise CalendarError(
            f"a start after the cut-off, {to_date(cutoff)}",
            str(row["start"]),
            where=where,
            fix="what began by the cut-off is the past; choose a later start or an earlier cut-off",
        )


def _date(value: Any, where: str, name: str) -> dt.date:
    if isinstance(value, dt.datetime):
        return value.date()
    if isinstance(value, dt.date):
        return value
    text = str(value).strip()
    try:
        return dt.date.fromisoformat(text) if len(text) <= 10 else dt.datetime.fromisoformat(text).date()
    except ValueError:
        raise CalendarError("a date YYYY-MM-DD", repr(value), where=f"{where}, column {name!r}") from None


def _place(where: str, i: int) -> str:
    return f"{where}, row {i + 1}"


def _hint(name: str, known: Iterable[str]) -> str:
    meant = nearest(name, known)
    return f"did you mean {meant!r}?" if meant else ""


def _read_table(path: str | Path) -> pl.DataFrame:
    path = Path(path)
    if not path.is_file():
        raise CalendarError("a CSV or Parquet file", "no such file", where=str(path), fix="check the path")
    try:
        return pl.read_parquet(path) if path.suffix == ".parquet" else pl.read_csv(path, infer_schema=False)
    except (pl.exceptions.PolarsError, OSError) as cause:
        raise CalendarError("a readable CSV or Parquet file", str(cause).splitlines()[0], where=str(path)) from None
