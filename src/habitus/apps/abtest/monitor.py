"""Looks over time, day by day, each with an interval that stays valid however often one looks, and the rules to stop.

A user enters once, on the day the metric's window closes, and is not measured again: what the interval asks for.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from habitus.apps.abtest.checks import SRM_LEVEL
from habitus.apps.abtest.declare import Metric
from habitus.apps.abtest.estimate import Effect, effect, grouped_sums
from habitus.apps.abtest.plan import Plan
from habitus.apps.abtest.sequential import log_bayes_split, mixture_factor, running_interval
from habitus.apps.abtest.tables import Columns, Units, read_units
from habitus.core.atomic import plain
from habitus.core.errors import SourceError
from habitus.data.calendar import to_date, to_day

Rule = Literal["go on", "wait", "stop: better", "stop: worse", "stop: guardrail", "stop: split"]


@dataclass(frozen=True)
class Look:
    """One day: users so far, difference and lift with intervals valid at every look, and what the rules say."""

    day: str
    n_control: int
    n_treatment: int
    diff: float
    low: float
    high: float
    lift: float
    lift_low: float
    lift_high: float
    once_low: float  # of the lift, valid only for a single look
    once_high: float
    rule: Rule


@dataclass(frozen=True)
class Guard:
    """A guardrail now: its lift in words of harm, with the interval valid at every look."""

    name: str
    lift: float
    lift_low: float
    lift_high: float
    margin: float
    state: str


@dataclass(frozen=True)
class Monitored:
    """Every look so far, the guardrails now, and the rule that holds."""

    name: str
    metric: str
    better: str
    looks: list[Look]
    guards: list[Guard]
    rule: Rule
    words: str
    is_adjusted: bool

    def to_json(self) -> dict[str, Any]:
        """Give plain values, endless ones as None."""
        return plain(asdict(self))


def monitor(
    plan: Plan, *, as_of: dt.date | None = None, tables: dict[str, Any] | None = None, units: Units | None = None
) -> Monitored:
    """Look at every day until `as_of`, as if one had looked each morning.

    Works for fixed plans too: the interval is valid in any case, but a fixed plan is decided at its end, by `analyse`.
    Guardrails share no alpha with the primary metric: a stop for harm is worth a false alarm.
    """
    until = None if as_of is None else to_day(as_of)
    found = units if units is not None else read_units(plan.experiment, as_of=until, tables=tables)
    primary, experiment = plan.experiment.primary, plan.experiment
    columns = found.metrics[primary.name]
    is_adjusted = columns.has_past and experiment.adjust
    days, totals = _by_day(columns, found.arm)
    seen = effect(totals[:, 0], totals[:, 1], is_ratio=columns.is_ratio, adjust=is_adjusted)
    off = _split_off(found, days)
    guards = [
        (metric, _guard_looks(plan, metric, found, days)) for metric in experiment.metrics if metric.role == "guardrail"
    ]
    broken = np.logical_or.reduce([np.zeros(len(days), bool), *(looks[2] for _, looks in guards)])
    looks = _looks(plan, seen, days, off, broken)
    now = [
        Guard(
            metric.name,
            float(lift[-1]),
            float(low[-1]),
            float(high[-1]),
            metric.margin or 0.0,
            "broken"
            if broken_now[-1]
            else "held"
            if _worst(metric, low[-1], high[-1]) > -(metric.margin or 0)
            else "unproven",
        )
        for metric, (lift, (low, high), broken_now) in guards
    ]
    stops = [look for look in looks if look.rule.startswith("stop")]
    first = stops[0] if stops else looks[-1]
    return Monitored(
        experiment.name,
        primary.name,
        primary.better,
        looks,
        now,
        first.rule,
        _words(plan, first, bool(stops)),
        is_adjusted,
    )


def summary(found: Monitored) -> str:
    """Say the looks in lines for a terminal."""
    lines = [
        f"{found.name}: {found.words}",
        f"{'day':<12}{'control':>10}{'treatment':>11}{'lift':>9}  interval, any look",
    ]
    for look in found.looks:
        ends = "too few users" if not np.isfinite(look.low) else f"[{look.lift_low:+.2%}, {look.lift_high:+.2%}]"
        lines.append(
            f"{look.day:<12}{look.n_control:>10,}{look.n_treatment:>11,}{look.lift:>+9.2%}  {ends:<22} {look.rule}"
        )
    for guard in found.guards:
        lines.append(
            f"guardrail {guard.name}: {guard.lift:+.2%} [{guard.lift_low:+.2%}, {guard.lift_high:+.2%}], "
            f"margin {guard.margin:.1%}: {guard.state}"
        )
    return "\n".join(lines)


def _by_day(columns: Columns, arm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Days on which windows close, and the sums of both arms up to each: [days, 2, P, P]."""
    if not columns.is_known.any():
        raise SourceError("users whose window has closed", "none yet", where="monitor", fix="look again later")
    days, code = np.unique(columns.day_known[columns.is_known], return_inverse=True)
    group = np.full(len(arm), -1, np.int64)
    group[columns.is_known] = code * 2 + arm[columns.is_known]
    size = columns.values.shape[1] + 1
    return days, np.cumsum(grouped_sums(columns.values, group, 2 * len(days)).reshape(len(days), 2, size, size), axis=0)


def _looks(plan: Plan, seen: Effect, days: np.ndarray, off: np.ndarray, broken: np.ndarray) -> list[Look]:
    experiment = plan.experiment
    n, sign = np.minimum(seen.n_control, seen.n_treatment), experiment.primary.sign
    options = {"alpha": experiment.alpha, "first_look": experiment.first_look}
    low, high = running_interval(seen.diff, seen.variance, n, tau2=plan.tau2, **options)
    base = plan.metrics[experiment.primary.name].baseline
    lift_low, lift_high = running_interval(seen.lift, seen.lift_variance, n, tau2=plan.tau2 / base**2, **options)
    once_low, once_high = seen.lift_interval(experiment.alpha)
    good, bad = (low > 0, high < 0) if sign > 0 else (high < 0, low > 0)
    rules = np.select(
        [off, bad, broken, good, ~np.isfinite(low)],
        ["stop: split", "stop: worse", "stop: guardrail", "stop: better", "wait"],
        "go on",
    )
    table = zip(
        days,
        seen.n_control,
        seen.n_treatment,
        seen.diff,
        low,
        high,
        seen.lift,
        lift_low,
        lift_high,
        once_low,
        once_high,
        rules,
    )
    return [
        Look(str(to_date(int(day))), int(c), int(t), *(float(value) for value in values), rule=str(rule))  # type: ignore[arg-type]
        for day, c, t, *values, rule in table
    ]


def _split_off(units: Units, days: np.ndarray) -> np.ndarray:
    """Whether, by each day, the running test of the split has failed; one failure is for good."""
    day, order = np.sort(units.day), np.argsort(units.day, kind="stable")
    treated = np.concatenate([[0], np.cumsum(units.arm[order] == 1)])
    entered = np.searchsorted(day, days, side="right")
    n_treatment = treated[entered]
    evidence = log_bayes_split(n_treatment.astype(float), (entered - n_treatment).astype(float))
    return np.maximum.accumulate(evidence) > -np.log(SRM_LEVEL)


def _guard_looks(plan: Plan, metric: Metric, units: Units, days: np.ndarray) -> tuple[Any, Any, np.ndarray]:
    """Lift, running interval and whether broken, on the days of the primary metric."""
    columns, sized = units.metrics[metric.name], plan.metrics[metric.name]
    own, totals = _by_day(columns, units.arm)
    place = np.clip(np.searchsorted(own, days, side="right") - 1, 0, len(own) - 1)
    adjust = columns.has_past and plan.experiment.adjust
    seen = effect(totals[place, 0], totals[place, 1], is_ratio=columns.is_ratio, adjust=adjust)
    tau2 = mixture_factor(plan.experiment.alpha) * 2 * sized.variance / plan.n_per_arm / sized.baseline**2
    n = np.minimum(seen.n_control, seen.n_treatment)
    options = {"alpha": plan.experiment.alpha, "first_look": plan.experiment.first_look}
    low, high = running_interval(seen.lift, seen.lift_variance, n, tau2=tau2, **options)
    best = high if metric.sign > 0 else -low
    return seen.lift, (low, high), best < -(metric.margin or 0)


def _worst(metric: Metric, low: float, high: float) -> float:
    return float(low if metric.sign > 0 else -high)


def _words(plan: Plan, look: Look, is_stop: bool) -> str:
    name = plan.experiment.primary.name
    words = {
        "stop: better": f"{name} is better since {look.day}; stop, or go on to the planned end for a narrower interval",
        "stop: worse": f"{name} is worse since {look.day}; stop",
        "stop: guardrail": f"a guardrail is broken since {look.day}; stop",
        "stop: split": f"users were not split as planned, seen on {look.day}; stop and find out why",
        "wait": f"fewer than {plan.experiment.first_look:,} users in an arm; no interval yet",
        "go on": f"nothing is decided by {look.day}; go on",
    }
    text = words[look.rule]
    if is_stop and plan.experiment.method == "fixed" and look.rule == "stop: better":
        text += " (the plan is fixed: `analyse` at its end decides)"
    return text
