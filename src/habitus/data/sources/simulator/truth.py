"""What will happen on average after a cut-off, and what each known event changes: closed forms, no sampling.

Given a user's rates, the events of a day are Poisson and days are independent. With daily rate r_j on the j-th day
after the cut-off, q_j = exp(-r_j), chance h of leaving on any day, and S_j = (1 - h)^j of still being there:

    P(no event)  = sum_j S_j h q_1 .. q_j + S_H q_1 .. q_H                                j = 0 .. H - 1
    days         = sum_j S_j (1 - q_j)                count = sum_j S_j r_j
    amount       = sum_j S_j r_j E[amount on day j],  E = exp(mean + sigma^2 / 2)

With shocks, q_j is the mean of exp(-r_j x shock), by Gauss and Hermite's rule: what comes is not known, so truths are
means over it. Whoever left before the cut-off has 0 everywhere; users who arrive after it are not listed.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from habitus.core.errors import CutoffError
from habitus.data.sources.simulator.draw import block_size
from habitus.data.sources.simulator.rates import Plan, Rates, is_quiet, lifts
from habitus.data.sources.simulator.users import Users, users_of
from habitus.data.sources.simulator.world import World

if TYPE_CHECKING:
    from habitus.data.calendar import Calendar

ANY = "*"
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(9)


def last_cutoff(world: World, horizon: int) -> dt.date:
    """Give the last cut-off whose window of `horizon` days lies inside the world."""
    return world.start + dt.timedelta(days=world.n_days - 1 - horizon)


def expected(world: World, cutoff: dt.date, horizon: int, calendar: Calendar | None = None) -> pl.DataFrame:
    """Expectations over the days cutoff + 1 .. cutoff + horizon under a calendar (default: the world's own).

    Columns user (int), event_type (`*` = any), p (at least one event), days, count, amount: one row per user who has
    arrived and event type. Common random numbers would converge to the same differences between two calendars.
    Errors: `CutoffError` outside the world, `CalendarError` for an event type that the world does not plant.

    >>> from habitus.data.sources.simulator.world import ready_made
    >>> world = ready_made("effects", n_users=100, n_days=70)
    >>> table = expected(world, last_cutoff(world, 28), 28)
    >>> table.columns, bool(table["p"].is_between(0, 1).all())
    (['user', 'event_type', 'p', 'days', 'count', 'amount'], True)
    """
    plan = Plan.of(world, calendar)
    first = _first_day(world, cutoff, horizon)
    frames = [_table(_answers(world, users, plan, first, horizon), users, world) for users in _present(world, first)]
    return pl.concat(frames)


def effects(world: World, cutoff: dt.date, horizon: int) -> pl.DataFrame:
    """What each known event changes in the days cutoff + 1 .. cutoff + horizon, per user: with it minus without it.

    Columns user (int), event, planted_type, event_type (`*` = any), is_addressed, p, days, count, amount (as the
    world is) and p_effect, days_effect, count_effect, amount_effect. Events that touch none of these days are absent;
    null events are there with zeros.

    >>> from habitus.data.sources.simulator.world import ready_made
    >>> world = ready_made("effects", n_users=100, n_days=70)
    >>> table = effects(world, last_cutoff(world, 28), 28)
    >>> sorted(table["planted_type"].unique()), float(table.filter(planted_type="festival")["count_effect"].sum())
    (['campaign', 'festival', 'mailing', 'parade', 'sale'], 0.0)
    """
    return pl.concat(effect_blocks(world, cutoff, horizon))


def changes(
    world: World, cutoff: dt.date, horizon: int, calendar: Calendar, against: Calendar | None = None
) -> pl.DataFrame:
    """What another calendar changes in the days cutoff + 1 .. cutoff + horizon, per user: with it minus without it.

    Columns user (int), event_type (`*` = any), p, days, count, amount (under `calendar`) and p_effect, days_effect,
    count_effect, amount_effect: the differences to `against`, which defaults to the world's own calendar.
    Errors: those of `expected`.

    >>> from habitus.data.sources.simulator.rates import calendar_of
    >>> from habitus.data.sources.simulator.world import ready_made
    >>> world = ready_made("effects", n_users=100, n_days=70)
    >>> table = changes(world, last_cutoff(world, 28), 28, calendar_of(world).without(types=["sale"]))
    >>> bool(table["count_effect"].sum() < 0)
    True
    """
    after, before = (expected(world, cutoff, horizon, c) for c in (calendar, against))
    measures = after.columns[2:]
    return after.with_columns((after[name] - before[name]).alias(f"{name}_effect") for name in measures)


def effect_blocks(world: World, cutoff: dt.date, horizon: int) -> Iterator[pl.DataFrame]:
    """Yield the rows of `effects`, a block of users at a time."""
    first = _first_day(world, cutoff, horizon)
    for users in _present(world, first):
        yield _effects_of(world, users, first, horizon)


def _effects_of(world: World, users: Users, first: int, horizon: int) -> pl.DataFrame:
    plan = Plan.of(world)
    addressed = plan.is_addressed(users)
    profile = plan.profile(first, horizon)
    base = _answers(world, users, plan, first, horizon)
    frames = [_no_effects()]
    for i, occurrence in enumerate(plan.occurrences):
        if not profile[i].any():
            continue
        other = _answers(world, users, plan.without(occurrence.event), first, horizon)
        table = _table(base, users, world)
        change = _table({k: base[k] - other[k] for k in base}, users, world).drop("user", "event_type")
        n_types = len(world.event_types) + 1
        label = pl.DataFrame(
            {
                "event": [occurrence.event] * table.height,
                "planted_type": [world.planted[occurrence.planted].type] * table.height,
                "is_addressed": np.tile(addressed[:, i], n_types),
            }
        )
        change = change.rename({name: f"{name}_effect" for name in change.columns})
        frames.append(pl.concat([table, label, change], how="horizontal").select(_no_effects().columns))
    return pl.concat(frames)


def _no_effects() -> pl.DataFrame:
    measures = ("p", "days", "count", "amount")
    columns = {"user": pl.Int64, "event": pl.String, "planted_type": pl.String, "event_type": pl.String}
    numbers = dict.fromkeys((*measures, *(f"{m}_effect" for m in measures)), pl.Float64)
    return pl.DataFrame(schema={**columns, "is_addressed": pl.Boolean, **numbers})


def _first_day(world: World, cutoff: dt.date, horizon: int) -> int:
    first = (cutoff - world.start).days + 1
    if horizon < 1 or first < 1 or first + horizon > world.n_days:
        raise CutoffError(
            f"a cut-off from {world.start} to {last_cutoff(world, horizon)} for {horizon} days ahead", str(cutoff)
        )
    return first


def _present(world: World, first_day: int) -> Iterator[Users]:
    """Yield blocks of the users who have arrived before `first_day`."""
    size = block_size(world)
    for start in range(0, max(world.n_users, 1), size):
        users = users_of(world, start, min(size, world.n_users - start))
        kept = users.arrived < first_day
        yield Users(**{name: values[kept] for name, values in vars(users).items()})


def _answers(world: World, users: Users, plan: Plan, first: int, horizon: int) -> dict[str, np.ndarray]:
    """Measures p, days, count, amount, each float64 (types + 1) x n; the last row is any type."""
    rates = Rates(world, users, plan, first, horizon)
    churn = np.array([t.churn for t in world.user_types])[users.type][:, None]
    there = (users.left >= first)[:, None] * (1 - churn) ** np.arange(1, horizon + 1)
    silent = [_silent(rates, [name]) for name in world.event_names]
    silent.append(_silent(rates, list(world.event_names)))
    mean = [_mean(rates, name) for name in world.event_names]
    amount = [
        m * np.exp(rates.amount_mean_log(t.name) + t.sigma**2 / 2) if t.median is not None else np.zeros_like(m)
        for t, m in zip(world.event_types, mean)
    ]
    mean.append(np.sum(mean, axis=0))
    amount.append(np.sum(amount, axis=0))
    is_gone = users.left < first
    return {
        "p": np.stack([np.where(is_gone, 0.0, 1 - _never(until, churn)) for _, until in silent]),
        "days": np.stack([(there * (1 - daily)).sum(axis=1) for daily, _ in silent]),
        "count": np.stack([(there * m).sum(axis=1) for m in mean]),
        "amount": np.stack([(there * a).sum(axis=1) for a in amount]),
    }


def _silent(rates: Rates, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Chances of no event of these types, for a user who stays: on each day and up to each day, both n x D."""
    rule = rates.world.order_rule
    if rule is not None and {rule.quiet, rule.then} & set(names):
        return _silent_by_rule(rates, names)
    total = np.sum([rates.without_rule(name) for name in names], axis=0)
    sigma = rates.world.shock_sigma
    if not sigma:
        return np.exp(-total), np.exp(-np.cumsum(total, axis=1))
    daily = np.zeros_like(total)
    for node, weight in zip(_NODES, _WEIGHTS / _WEIGHTS.sum()):
        daily += weight * np.exp(-total * np.exp(sigma * node - sigma**2 / 2))
    return daily, np.cumprod(daily, axis=1)


def _never(until: np.ndarray, churn: np.ndarray) -> np.ndarray:
    """P(no event in the window), leaving on the way included; `until` is n x D from `_silent`."""
    horizon = until.shape[1]
    before = np.concatenate([np.ones((len(until), 1)), until[:, :-1]], axis=1)
    leaves = churn * (1 - churn) ** np.arange(horizon)
    return (leaves * before).sum(axis=1) + (1 - churn[:, 0]) ** horizon * until[:, -1]


def _mean(rates: Rates, name: str) -> np.ndarray:
    """Mean events n x D, given the weeks up to the cut-off's own; later tosses of the coin are averaged."""
    rule = rates.world.order_rule
    if rule is None or name not in (rule.quiet, rule.then):
        return rates.without_rule(name)
    return sum(share * rate for share, rate in _by_toss(rates, name))  # type: ignore[return-value]


def _by_toss(rates: Rates, name: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """For both outcomes of the toss that sets the rate of each day: its chance (n x D) and the rate (n x D)."""
    rule, world, users = rates.world.order_rule, rates.world, rates.users
    assert rule is not None
    plain = rates.without_rule(name)
    if name not in (rule.quiet, rule.then):
        return [(np.full_like(plain, 0.5), plain)] * 2
    toss = _toss_weeks(rates) - (name == rule.then)
    outcomes = []
    for quiet in (True, False):
        if name == rule.quiet:
            factor = np.full(plain.shape, 0.0 if quiet else 2.0)
        else:
            factor = lifts(world, users, np.full((len(users), 1), quiet))
        outcomes.append((_chance(rates, toss, quiet), plain * factor))
    return outcomes


def _toss_weeks(rates: Rates) -> np.ndarray:
    return np.arange(rates.first_day, rates.first_day + rates.n_days) // 7


def _chance(rates: Rates, weeks: np.ndarray, quiet: bool) -> np.ndarray:
    """Users x weeks: chance that a week's toss came out `quiet`; the past is known, the future a half."""
    known = weeks <= (rates.first_day - 1) // 7
    drawn = is_quiet(rates.world, rates.users, weeks) == quiet
    return np.where(known, drawn, 0.5)


def _silent_by_rule(rates: Rates, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Average over the tosses: each toss sets the first type in its own week and the second in the week after."""
    rule = rates.world.order_rule
    assert rule is not None
    weeks = _toss_weeks(rates)
    fixed = np.zeros((len(rates.users), rates.n_days))
    ruled = []
    for name in names:
        if name in (rule.quiet, rule.then):
            ruled.append((_by_toss(rates, name), weeks - (name == rule.then)))
        else:
            fixed += rates.without_rule(name)
    daily, until = np.exp(-fixed), np.exp(-np.cumsum(fixed, axis=1))
    for outcomes, _ in ruled:
        daily = daily * sum(share * np.exp(-rate) for share, rate in outcomes)
    for week in np.unique(np.concatenate([toss for _, toss in ruled])):
        factor = np.zeros(fixed.shape)
        for i, quiet in enumerate((True, False)):
            set_by = [np.cumsum(np.where(toss == week, outcomes[i][1], 0.0), axis=1) for outcomes, toss in ruled]
            factor += _chance(rates, np.array([week]), quiet) * np.exp(-np.sum(set_by, axis=0))
        until = until * factor
    return daily, until


def _table(answers: dict[str, np.ndarray], users: Users, world: World) -> pl.DataFrame:
    names = (*world.event_names, ANY)
    label = {"user": np.tile(users.number, len(names)), "event_type": np.repeat(names, len(users))}
    columns = {name: values.ravel() for name, values in answers.items()}
    return pl.DataFrame({**label, **columns}, schema_overrides={"event_type": pl.String, "user": pl.Int64})
