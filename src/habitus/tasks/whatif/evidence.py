"""What differs between two calendars, event by event, and what kind of evidence stands behind each difference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl

from habitus.data.calendar import Calendar, to_date

FEW = 3  # past occurrences below which an effect shared by all is hardly known
ROW = ("event", "type", "start", "end", "strength", "audience")


@dataclass(frozen=True)
class Change:
    """One event that two calendars disagree on: as it is in the first (`before`), and in the other (`after`).

    Rows of the calendar as plain values; None where the calendar has no such event.
    """

    event: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None

    @property
    def what(self) -> str:
        """added, dropped, moved, addressed to others, or changed."""
        if self.before is None or self.after is None:
            return "added" if self.before is None else "dropped"
        if any(self.before[name] != self.after[name] for name in ("start", "end")):
            return "moved"
        has_others = any(self.before[name] != self.after[name] for name in ("audience", "users"))
        return "addressed to others" if has_others else "changed"

    @property
    def row(self) -> dict[str, Any]:
        """The event as it will be, or as it was when it is dropped."""
        found = self.after if self.after is not None else self.before
        assert found is not None
        return found


def rows_of(calendar: Calendar) -> pl.DataFrame:
    """Give the events that a model can tell apart: `ROW`, how many users each addresses and a mark of who they are."""
    users = calendar.audiences.group_by("audience").agg(users=pl.col("user").unique().sort().hash().sum())
    return calendar.events.select(*ROW, "is_randomised").join(users, on="audience", how="left")


def changes_of(base: Calendar, other: Calendar, cutoff: int) -> list[Change]:
    """List the events announced by the cut-off that differ. One of each name on both sides is one event, changed."""
    mine, theirs = (rows_of(c.known_at(cutoff)) for c in (other, base))
    keys = [*ROW, "users"]
    added = mine.join(theirs, on=keys, how="anti", nulls_equal=True).to_dicts()
    dropped = theirs.join(mine, on=keys, how="anti", nulls_equal=True).to_dicts()
    names = dict.fromkeys(row["event"] for row in (*dropped, *added))
    found: list[Change] = []
    for name in names:
        before, after = ([row for row in side if row["event"] == name] for side in (dropped, added))
        if len(before) == len(after) == 1:
            found.append(Change(name, before[0], after[0]))
        else:
            found += [Change(name, row, None) for row in before] + [Change(name, None, row) for row in after]
    return found


def late_events(base: Calendar, other: Calendar, cutoff: int) -> list[str]:
    """Name the events of `other` that differ but are announced after the cut-off: they can change nothing."""
    late = pl.col("announced_at") > to_date(cutoff)
    mine, theirs = (c.events.filter(late).select(*ROW) for c in (other, base))
    return mine.join(theirs, on=list(ROW), how="anti", nulls_equal=True)["event"].to_list()


def described(changes: list[Change], name: str, base: Calendar, cutoff: int, first_day: int) -> list[dict[str, Any]]:
    """Say of each change what it is, who gets the event, and how often one of its type was seen before."""
    events = base.known_at(cutoff).events
    past = events.filter((pl.col("start") <= to_date(cutoff)) & (pl.col("start") >= to_date(first_day)))
    found = []
    for change in changes:
        row = change.row
        n_past = past.filter(type=row["type"]).height
        kind = "randomised" if row["is_randomised"] else "targeted" if row["audience"] else "shared by all"
        facts = {"calendar": name, "event": change.event, "type": row["type"], "start": str(row["start"])}
        was = str(change.before["start"]) if change.what == "moved" and change.before else None
        found.append(
            facts
            | {"end": str(row["end"]), "was": was, "what": change.what, "kind": kind, "n_past": n_past}
            | {"warning": _warning(kind, n_past)}
        )
    return found


def _warning(kind: str, n_past: int) -> str:
    if kind == "targeted":
        return "association only: the audience was chosen, not drawn"
    if kind == "shared by all" and n_past < FEW:
        return f"the sample is {n_past} past events, whatever the number of users"
    return ""
