"""Placebos: changes of the calendar that should matter little, or as much as the answer, set beside the answer.

nothing      the same calendar again, and an event announced after the cut-off: exactly 0, bit for bit
just after   the changed events begin 2 to 8 days after the window: near 0, unless people react that far ahead
other days   the changed events on other days of the window, drawn at random: how much of the answer is the date?
other users  as many others, drawn within strata of activity: how much of the answer is who they are?
past day     the changed events on a day of the past, drawn at random: near 0; costs encoding anew, so on request

All but the last cost decodes only. Draws depend on the seed, the kind and their number.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from habitus.core.seeds import generator
from habitus.data.calendar import AUDIENCE_COLUMNS, EVENT_COLUMNS, Calendar, to_date
from habitus.tasks.whatif.evidence import ROW, Change

N_STRATA = 5
AFTER = (2, 8)  # days after the window, first and last
NEAR_ZERO = ("just after", "past day")  # kinds that should move nothing
NOTHING = ("the same calendar again", "an event announced after the cut-off")
Row = dict[str, Any]


@dataclass(frozen=True)
class Draw:
    """One placebo: the effect is the answer under `plus` less that under `minus`."""

    kind: str
    calendar: str
    plus: Calendar
    minus: Calendar


@dataclass(frozen=True)
class Crowd:
    """The users asked: their ids as text, and the stratum of activity of each, int64 [n]."""

    user: pl.Series
    stratum: np.ndarray

    @classmethod
    def of(cls, user: pl.Series, activity: np.ndarray) -> Crowd:
        """Cut users into strata of equal size by how active they were; ties stay together."""
        rank = np.searchsorted(np.sort(activity), activity, side="left") / max(len(activity), 1)
        return cls(user.cast(pl.String), (rank * N_STRATA).astype(np.int64))


def nothing(base: Calendar, cutoff: int, changes: Iterable[Change]) -> tuple[Calendar, Calendar]:
    """Give two calendars under which the answer must not move: the first again, and one with an event nobody knows yet.

    Both are built anew, so that nothing of the first answer can be handed on.
    """
    again = Calendar.build(base.events, base.audiences, base.items)
    kinds = [change.row["type"] for change in changes] or list(base.types)
    if not kinds:
        return again, again
    day = to_date(cutoff + 1)
    late = Calendar.build([{"event": "unknown yet", "type": kinds[0], "start": day, "announced_at": day}])
    return again, again.joined(late)


def draws(
    base: Calendar,
    other: Calendar,
    changes: list[Change],
    name: str,
    *,
    cutoff: int,
    horizon: int,
    crowd: Crowd,
    n: int,
    seed: int = 0,
) -> list[Draw]:
    """Give the placebos of one answer that cost decodes only: n of each kind that fits its changes."""
    rest = _without(base, changes, "before")
    pool = pl.concat([base.audiences, other.audiences]).unique(maintain_order=True)
    edit = _Edit(rest, Calendar(rest.events, pool, rest.items), changes)
    found: list[Draw] = []
    for i in range(n):
        rng = generator(seed, "placebo", name, i)
        after = _after(rng, cutoff, horizon)
        found.append(Draw("just after", name, edit.made([_at(c.row, after) for c in changes]), rest))
        if any(c.what in ("added", "dropped", "moved") for c in changes):
            plus, minus = _on_other_days(changes, rng, cutoff, horizon)
            found.append(Draw("other days", name, edit.made(plus), edit.made(minus)))
        if any(_is_addressed(c) for c in changes):
            found.append(_to_other_users(edit, pool, crowd, rng, name))
    return found


def past_draws(
    base: Calendar, changes: list[Change], name: str, *, cutoff: int, history: int, n: int, seed: int = 0
) -> list[Draw]:
    """Give n placebos with the changed events on a random day of the past: these need a new encoding."""
    rest = _without(base, changes, "before")
    edit = _Edit(rest, rest, changes)
    found = []
    for i in range(n):
        rng = generator(seed, "placebo, past", name, i)
        rows = []
        for change in changes:
            length = (change.row["end"] - change.row["start"]).days
            start = to_date(cutoff - length - int(rng.integers(0, max(history - length, 1))))
            rows.append(_at(change.row, start) | {"announced_at": start - dt.timedelta(days=28)})
        found.append(Draw("past day", name, edit.made(rows), rest))
    return found


def summed(drawn: list[Draw], effects: list[np.ndarray], targets: list[str], units: list[str]) -> list[dict[str, Any]]:
    """Give, per calendar, kind and target, the mean of the draws' total effects, and the extremes.

    `effects` holds [2, K] per draw: as the window head says, and as the days say.
    """
    rows = []
    for name, kind in dict.fromkeys((draw.calendar, draw.kind) for draw in drawn):
        values = np.array([e for d, e in zip(drawn, effects) if (d.calendar, d.kind) == (name, kind)])
        for k, target in enumerate(targets):
            facts = {"target": target, "unit": units[k], "calendar": name, "kind": kind, "n": len(values)}
            rows.append(facts | _extremes(values[:, 0, k], "") | _extremes(values[:, 1, k], "day_"))
    return rows


def _extremes(values: np.ndarray, prefix: str) -> dict[str, float | None]:
    figures = {"difference": values.mean(), "low": values.min(), "high": values.max()}
    return {f"{prefix}{name}": None if np.isnan(value) else float(value) for name, value in figures.items()}


def verdict(row: dict[str, Any], placebo: list[dict[str, Any]], prefix: str = "") -> str:
    """Say how the difference of a row of totals reads beside its placebos; prefix "day_": that of the days.

    nothing: exactly 0. unknown: no interval. noise: the interval holds 0, or a placebo that should be near 0 moved as
    much. clear: neither.
    """
    value, low, high = (row[f"{prefix}{part}"] for part in ("difference", "low", "high"))
    if value == 0:
        return "nothing"
    if low is None:
        return "unknown"
    beside = [p for p in placebo if (p["target"], p["calendar"]) == (row["target"], row["calendar"])]
    nulls = [p[f"{prefix}{end}"] for p in beside if p["kind"] in NEAR_ZERO for end in ("low", "high")]
    moved = max((abs(end) for end in nulls), default=0.0)
    return "noise" if low <= 0 <= high or abs(value) <= moved else "clear"


# calendars made of rows --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Edit:
    """What stays (`rest`), with every audience that may be named (`pool`), and the changes."""

    rest: Calendar
    pool: Calendar
    changes: list[Change]

    def made(self, rows: list[Row], audiences: pl.DataFrame | None = None) -> Calendar:
        """Give the rest with some rows; without any it is the rest itself, which is asked once."""
        if not rows:
            return self.rest
        names = [name for name in EVENT_COLUMNS if name in rows[0]]
        new = Calendar.build(
            [{name: row[name] for name in names} for row in rows],
            self.pool.audiences if audiences is None else audiences,
            where="placebo",
        )
        return Calendar(self.rest.events, new.audiences, self.rest.items).joined(new)


def _without(base: Calendar, changes: list[Change], side: str) -> Calendar:
    """Take the events of one side of the changes out of a calendar."""
    gone = [getattr(change, side) for change in changes if getattr(change, side) is not None]
    if not gone:
        return base
    keys = pl.DataFrame([{name: row[name] for name in ROW} for row in gone], schema=base.events.select(ROW).schema)
    kept = base.events.join(keys, on=list(ROW), how="anti", nulls_equal=True, maintain_order="left")
    return Calendar(kept, base.audiences, base.items)


def _at(row: Row, start: dt.date) -> Row:
    """Put an event on other days, its length kept."""
    return row | {"start": start, "end": start + (row["end"] - row["start"])}


def _after(rng: np.random.Generator, cutoff: int, horizon: int) -> dt.date:
    return to_date(cutoff + horizon + int(rng.integers(AFTER[0], AFTER[1] + 1)))


def _on_other_days(
    changes: list[Change], rng: np.random.Generator, cutoff: int, horizon: int
) -> tuple[list[Row], list[Row]]:
    """Give the rows of both sides, with each added, dropped or moved event on random coming days instead of its own."""
    plus: list[Row] = []
    minus: list[Row] = []
    for change in changes:
        length = (change.row["end"] - change.row["start"]).days
        taken = {row["start"] for row in (change.before, change.after) if row is not None}
        days = [to_date(cutoff + 1 + d) for d in range(max(horizon - length, 1))]
        free = [day for day in days if day not in taken] or days
        start = free[int(rng.integers(len(free)))]
        if change.what == "dropped":
            minus.append(_at(change.row, start))
            continue
        if change.before is not None:
            minus.append(change.before)
        plus.append(_at(change.row, start) if change.what in ("added", "moved") else change.row)
    return plus, minus


# other users -------------------------------------------------------------------------------------------------------


def _is_addressed(change: Change) -> bool:
    """Tell whether a change is about who gets an event: it has an audience on each side that there is."""
    sides = [row for row in (change.before, change.after) if row is not None]
    return all(row["audience"] for row in sides) and change.what != "moved"


def _to_other_users(edit: _Edit, pool: pl.DataFrame, crowd: Crowd, rng: np.random.Generator, name: str) -> Draw:
    """Exchange the users whom each change wins or loses for as many others of the same strata."""
    plus: list[Row] = []
    minus: list[Row] = []
    made = [pool]
    for i, change in enumerate(edit.changes):
        before, after = change.before, change.after
        if not _is_addressed(change):
            plus += [after] if after is not None else []
            minus += [before] if before is not None else []
            continue
        had, has = (_is_in(crowd, pool, row) for row in (before, after))
        if after is None:
            had = _like(had, np.zeros_like(had), crowd, rng)
        else:
            won = _like(has & ~had, had, crowd, rng)
            lost = _like(had & ~has, ~had, crowd, rng)
            has = (had & ~lost) | won
        for row, users, rows, side in ((before, had, minus, "before"), (after, has, plus, "after")):
            if row is not None and users.any():
                label = f"others, {side} {i}"
                rows.append(row | {"audience": label})
                chosen = crowd.user.filter(pl.Series(users))
                made.append(pl.DataFrame({"audience": [label] * len(chosen), "user": chosen}, schema=AUDIENCE_COLUMNS))
    audiences = pl.concat(made)
    return Draw("other users", name, edit.made(plus, audiences), edit.made(minus, audiences))


def _is_in(crowd: Crowd, pool: pl.DataFrame, row: Row | None) -> np.ndarray:
    if row is None:
        return np.zeros(len(crowd.user), bool)
    return crowd.user.is_in(pool.filter(audience=row["audience"])["user"].implode()).to_numpy()


def _like(wanted: np.ndarray, taken: np.ndarray, crowd: Crowd, rng: np.random.Generator) -> np.ndarray:
    """Draw, in each stratum, as many users as `wanted` has there, out of those who are not `taken`; bool [n]."""
    order = np.lexsort((rng.random(len(taken)), taken, crowd.stratum))  # free ones first within a stratum
    stratum = crowd.stratum[order]
    place = np.arange(len(order)) - np.searchsorted(stratum, stratum, side="left")
    n_wanted = np.bincount(crowd.stratum[wanted], minlength=N_STRATA + 1)
    found = np.zeros(len(taken), bool)
    found[order] = (place < n_wanted[stratum]) & ~taken[order]
    return found
