"""What is asked: calendars and edits of calendars, read, named and checked against the model and the past."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from habitus.core.errors import CalendarError, nearest
from habitus.data.calendar import Calendar, read_calendar, to_date
from habitus.data.calendar_edits import Edits, apply_edits, is_edits, read_audiences, read_edits, with_audiences
from habitus.tasks.whatif.evidence import rows_of

PLANNED = "as planned"
Given = str | Path | Calendar | Edits


@dataclass(frozen=True)
class Question:
    """Two or more calendars with names, the first to compare against, and the cut-off day they are asked after."""

    names: tuple[str, ...]
    calendars: tuple[Calendar, ...]
    cutoff: int

    @property
    def base(self) -> Calendar:
        return self.calendars[0]


def read_question(
    calendars: Sequence[Given],
    edits: Sequence[str | Path | Edits],
    known: Calendar,
    cutoff: int,
    *,
    event_types: Sequence[str],
    audiences: str | Path | pl.DataFrame | None = None,
) -> Question:
    """Read calendars and edits; edits apply to the first whole calendar, or else to `known`, that of the store.

    A file is a table of edits when it has a column `edit`, else a whole calendar, read with the audiences and items of
    the store. Errors: `CalendarError` for fewer than two calendars, a bad edit, a type the model has never met, or a
    calendar that rewrites the past.
    """
    if audiences is not None:
        more = audiences if isinstance(audiences, pl.DataFrame) else read_audiences(audiences)
        known = with_audiences(known, more, where="audiences" if more is audiences else str(audiences))
    whole: list[tuple[str, Calendar]] = []
    changes: list[Edits] = [given if isinstance(given, Edits) else read_edits(given) for given in edits]
    for i, given in enumerate(calendars):
        if isinstance(given, Calendar):
            whole.append((f"calendar {i}", _with_users(given, known)))
        elif isinstance(given, Edits):
            changes.append(given)
        elif is_edits(given):
            changes.append(read_edits(given))
        else:
            whole.append((Path(given).stem, read_calendar(given, known.audiences, known.items)))
    if changes and not whole:
        whole = [(PLANNED, known)]
    found = [*whole, *((Path(one.where).stem, apply_edits(whole[0][1], one, cutoff=cutoff)) for one in changes)]
    if len(found) < 2:
        raise CalendarError(
            "two or more calendars", f"{len(found)}", where="whatif", fix="give --calendar twice, or --edit FILE"
        )
    question = Question(_distinct([name for name, _ in found]), tuple(table for _, table in found), cutoff)
    for name, table in zip(question.names, question.calendars):
        _check_types(table, event_types, name)
        _check_past(table, question.base, cutoff, name)
    return question


def _with_users(calendar: Calendar, known: Calendar) -> Calendar:
    """Let edits of a calendar held in memory name the store's audiences too."""
    own = calendar.audiences["audience"].unique().implode()
    more = known.audiences.filter(~pl.col("audience").is_in(own))
    return Calendar(calendar.events, pl.concat([calendar.audiences, more]), calendar.items)


def _distinct(names: list[str]) -> tuple[str, ...]:
    if len(set(names)) < len(names):
        names = [f"{name} ({i})" for i, name in enumerate(names)]
    return tuple(names)


def _check_types(calendar: Calendar, event_types: Sequence[str], name: str) -> None:
    for kind in calendar.types:
        if kind not in event_types:
            meant = nearest(kind, event_types)
            hint = f"did you mean {meant!r}?" if meant else "train on a calendar with past events of this type"
            known = ", ".join(event_types) or "none"
            raise CalendarError(f"event types the model has learnt: {known}", repr(kind), where=name, fix=hint)


def _check_past(calendar: Calendar, base: Calendar, cutoff: int, name: str) -> None:
    """Refuse a calendar that rewrites what began by the cut-off: that would be another history, not another future."""
    begun = pl.col("start") <= to_date(cutoff)
    mine, theirs = (rows_of(c.known_at(cutoff)).filter(begun).drop("is_randomised") for c in (calendar, base))
    changed = pl.concat(
        [mine.join(theirs, on=mine.columns, how="anti", nulls_equal=True),
         theirs.join(mine, on=mine.columns, how="anti", nulls_equal=True)]
    )  # fmt: skip
    if changed.height:
        row = changed.row(0, named=True)
        raise CalendarError(
            f"calendars that agree on what began by {to_date(cutoff)}",
            f"{row['event']} ({row['start']}) in one and not in the other, or for other users",
            where=name,
            fix="change coming events only, or choose an earlier cut-off",
        )
