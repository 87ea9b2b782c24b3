"""How often each user does what on each day: rates given the users, under the world's own or any other calendar."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from habitus.core.errors import CalendarError
from habitus.core.seeds import uniforms
from habitus.data.sources.simulator.users import Users, normals, users_of
from habitus.data.sources.simulator.world import World

if TYPE_CHECKING:
    from habitus.data.calendar import Calendar


@dataclass(frozen=True)
class Occurrence:
    """One known event of a world: days from `start` to `end`, both included; day 0 is the world's first."""

    event: str
    planted: int  # position in world.planted
    start: int
    end: int
    strength: float
    announced: int
    audience: str | None


def occurrences_of(world: World) -> tuple[Occurrence, ...]:
    """List the known events of a world, by planted type, then by start."""
    rows = []
    for i, planted in enumerate(world.planted):
        for n, start in enumerate(planted.starts):
            name = f"{planted.type} {n + 1}"
            strength = planted.strengths[n] if planted.strengths else 1.0
            audience = None if planted.audience == "all" else name
            end, announced = start + planted.length - 1, start - planted.announced
            rows.append(Occurrence(name, i, start, end, strength, announced, audience))
    return tuple(rows)


@dataclass(frozen=True)
class Plan:
    """Known events and whom they address. Without `members`, audiences are the world's own draws."""

    world: World
    occurrences: tuple[Occurrence, ...]
    members: dict[str, np.ndarray] | None = None  # audience -> sorted user numbers

    @classmethod
    def of(cls, world: World, calendar: Calendar | None = None) -> Plan:
        """Give the world's own plan, or that of a calendar whose types the world knows.

        Errors: `CalendarError` for a type the world does not plant.
        """
        if calendar is None:
            return cls(world, occurrences_of(world))
        return cls(world, _occurrences_in(world, calendar), _members_in(calendar))

    def without(self, event: str) -> Plan:
        """Give the plan with one event left out."""
        kept = tuple(o for o in self.occurrences if o.event != event)
        return Plan(self.world, kept, self.members)

    def is_addressed(self, users: Users) -> np.ndarray:
        """Bool, users x occurrences."""
        columns = [self._in_audience(o, users) for o in self.occurrences]
        return np.stack(columns, axis=1) if columns else np.zeros((len(users), 0), dtype=bool)

    def _in_audience(self, occurrence: Occurrence, users: Users) -> np.ndarray:
        if occurrence.audience is None:
            return np.ones(len(users), dtype=bool)
        if self.members is not None:
            return np.isin(users.number, self.members[occurrence.audience])
        planted = self.world.planted[occurrence.planted]
        stream = f"audience {occurrence.event}"
        if planted.audience == "randomised":
            return uniforms(self.world.seed, users.number, stream=stream) < planted.share
        own = normals(self.world.seed, users.number, stream)
        score = planted.targeting * users.drive + np.sqrt(1 - planted.targeting**2) * own
        return score > NormalDist().inv_cdf(1 - planted.share)

    def profile(self, first_day: int, n_days: int) -> np.ndarray:
        """Float, occurrences x days: how much of its effect an event has on a day, strength included."""
        days = np.arange(first_day, first_day + n_days)
        rows = np.zeros((len(self.occurrences), n_days))
        for row, occurrence in zip(rows, self.occurrences):
            planted = self.world.planted[occurrence.planted]
            is_lead = (days < occurrence.start) & (days >= occurrence.start - planted.lead)
            is_lag = (days > occurrence.end) & (days <= occurrence.end + planted.lag)
            is_on = (days >= occurrence.start) & (days <= occurrence.end)
            row += occurrence.strength * (is_on + planted.lead_share * is_lead + planted.lag_share * is_lag)
        return rows


@dataclass(frozen=True)
class Rates:
    """Rates of n users on D days under a plan. Being there at all is not in them: see `Users.arrived` and `left`."""

    world: World
    users: Users
    plan: Plan
    first_day: int
    n_days: int

    @cached_property
    def responses(self) -> list[np.ndarray | None]:
        """Per planted type, n x D: affinity x strength x share of effect; None where nothing is on."""
        profile = self.plan.profile(self.first_day, self.n_days)
        addressed = self.plan.is_addressed(self.users)
        kinds = np.array([o.planted for o in self.plan.occurrences], dtype=np.int64)
        answers: list[np.ndarray | None] = []
        for i in range(len(self.world.planted)):
            chosen = (kinds == i) & profile.any(axis=1)
            response = addressed[:, chosen].astype(float) @ profile[chosen] if chosen.any() else None
            answers.append(None if response is None else response * self.users.affinity[:, i, None])
        return answers

    @cached_property
    def rhythm(self) -> np.ndarray:
        """n x D: level of the user x day of the week x season."""
        days = np.arange(self.first_day, self.first_day + self.n_days)
        weekly = np.array([t.weekly for t in self.world.user_types])
        weekly = weekly / weekly.mean(axis=1, keepdims=True)
        by_type = weekly[:, (days + self.world.start.weekday()) % 7]
        season = self.world.season
        wave = np.exp(season.amplitude * np.cos(2 * np.pi * (days - season.peak) / season.period))
        return (by_type * wave)[self.users.type] * self.users.level[:, None]

    def without_rule(self, event_type: str) -> np.ndarray:
        """Mean events of a type, n x D, leaving any `OrderRule` aside."""
        base = np.array([t.rates.get(event_type, 0.0) for t in self.world.user_types])[self.users.type]
        rate = self.rhythm * base[:, None]
        shift = self._shift([p.rate.get(event_type, 0.0) for p in self.world.planted])
        return rate if shift is None else rate * np.exp(shift)

    def rate(self, event_type: str) -> np.ndarray:
        """Mean events of a type, n x D, given each user-week's toss of the coin."""
        rate = self.without_rule(event_type)
        rule = self.world.order_rule
        if rule is None or event_type not in (rule.quiet, rule.then):
            return rate
        week = np.arange(self.first_day, self.first_day + self.n_days) // 7
        weeks, place = np.unique(week, return_inverse=True)
        if event_type == rule.quiet:
            return rate * (2.0 * ~is_quiet(self.world, self.users, weeks))[:, place]
        return rate * lifts(self.world, self.users, is_quiet(self.world, self.users, weeks - 1))[:, place]

    def amount_mean_log(self, event_type: str) -> np.ndarray:
        """Mean log-amount of an event of this type, n x D."""
        median = next(t.median for t in self.world.event_types if t.name == event_type)
        assert median is not None
        scale = np.array([t.amount_scale for t in self.world.user_types])[self.users.type] * self.users.amount_level
        mean = np.broadcast_to(np.log(median * scale)[:, None], (len(self.users), self.n_days))
        shift = self._shift([p.amount for p in self.world.planted])
        return mean if shift is None else mean + shift

    def _shift(self, effects: list[float]) -> np.ndarray | None:
        parts = [effect * r for effect, r in zip(effects, self.responses) if effect and r is not None]
        return sum(parts[1:], parts[0]) if parts else None


def shocks(world: World) -> np.ndarray:
    """Give the factor that all users share on each day of the world, float64 [n_days]: news, weather, a broken shop.

    Nobody can know it ahead, so it is no part of the rates: events are drawn with it, truths are averaged over it.
    """
    draws = normals(world.seed, np.arange(world.n_days), "shock")
    return np.exp(world.shock_sigma * draws - world.shock_sigma**2 / 2)


def is_quiet(world: World, users: Users, weeks: np.ndarray) -> np.ndarray:
    """Bool, users x weeks: the toss of the coin of `OrderRule`."""
    keys = users.number[:, None] * np.int64(2**20) + (weeks + 1)[None, :]
    return uniforms(world.seed, keys, stream="quiet") < 0.5


def lifts(world: World, users: Users, after_quiet: np.ndarray) -> np.ndarray:
    """Multiplier of the rule's second type, users x weeks, given whether the week before was quiet."""
    assert world.order_rule is not None
    is_up = after_quiet == users.follows_quiet[:, None]
    return np.where(is_up, world.order_rule.lift, 2 - world.order_rule.lift)


def calendar_of(world: World, *, users_per_step: int = 200_000) -> Calendar:
    """Give the world's calendar with its audiences.

    >>> from habitus.data.sources.simulator.world import ready_made
    >>> calendar_of(ready_made("effects", n_users=30, n_days=70)).types
    ('campaign', 'festival', 'mailing', 'parade', 'sale')
    """
    from habitus.data.calendar import Calendar

    plan = Plan.of(world)
    groups = [
        audience_rows(plan, users_of(world, first, min(users_per_step, world.n_users - first)))
        for first in range(0, world.n_users, users_per_step)
    ]
    rows = [calendar_row(world, o) for o in plan.occurrences]
    audiences = pl.concat(groups) if groups else None
    # a small world may leave an audience empty; an event for nobody is no event
    seen = set() if audiences is None else set(audiences["audience"].unique())
    return Calendar.build([r for r in rows if r["audience"] is None or r["audience"] in seen], audiences)


def audience_rows(plan: Plan, users: Users) -> pl.DataFrame:
    """Rows audience, user of those users who are in an audience."""
    addressed = plan.is_addressed(users)
    frames = [
        pl.DataFrame({"user": users.number[addressed[:, i]]}).select(audience=pl.lit(o.audience), user="user")
        for i, o in enumerate(plan.occurrences)
        if o.audience is not None and addressed[:, i].any()
    ]
    empty = pl.DataFrame(schema={"audience": pl.String, "user": pl.String})
    return pl.concat([empty, *(f.with_columns(pl.col("user").cast(pl.String)) for f in frames)])


def calendar_row(world: World, occurrence: Occurrence) -> dict:
    """One row of the calendar table."""
    planted = world.planted[occurrence.planted]

    def date(day: int) -> dt.date:
        return world.start + dt.timedelta(days=day)

    return {
        "event": occurrence.event,
        "type": planted.type,
        "start": date(occurrence.start),
        "end": date(occurrence.end),
        "strength": occurrence.strength,
        "announced_at": date(occurrence.announced),
        "audience": occurrence.audience,
        "is_notable": planted.is_notable,
        "is_randomised": planted.audience == "randomised",
    }


def _occurrences_in(world: World, calendar: Calendar) -> tuple[Occurrence, ...]:
    places = {p.type: i for i, p in enumerate(world.planted)}
    rows = []
    for row in calendar.events.iter_rows(named=True):
        if row["type"] not in places:
            raise CalendarError(
                f"types that the world plants: {', '.join(places) or 'none'}", repr(row["type"]), where=row["event"]
            )
        start, end, announced = ((row[k] - world.start).days for k in ("start", "end", "announced_at"))
        rows.append(
            Occurrence(row["event"], places[row["type"]], start, end, row["strength"], announced, row["audience"])
        )
    return tuple(rows)


def _members_in(calendar: Calendar) -> dict[str, np.ndarray]:
    groups = calendar.audiences.with_columns(pl.col("user").cast(pl.Int64)).sort("user")
    return {str(key[0]): group["user"].to_numpy() for key, group in groups.group_by("audience")}
