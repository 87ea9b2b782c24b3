"""What the days say of the window: a second reading of each target that is also forecast day by day.

A window head that met a sale in every window of training cannot tell the sale from the rest; a day head sees days with
and without it. So each difference is read twice, and both are shown.

    sum, count, days     the days added up
    any                  1 - (1 + k L')^(-1/k)  with L = sum over days of -log(1 - p_day), P the window's own chance
    none                 (1 + k L')^(-1/k)      with L = sum over days of -log(p_day)

The last two let days depend on each other: whoever comes once comes again, and nobody knows who will. That is a risk
with a gamma-distributed frailty of variance k (Vaupel, Manton and Stallard, 1979), and P and L under the first
calendar say which k. Under that calendar they give the window's own answer; where P is no less than independent days
would make it, k is 0 and the risk moves in proportion.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import lambertw

from habitus.tasks.forecast import Heads
from habitus.tasks.recipe import Recipe

LEAST = 1e-9  # of a chance, and of a risk
STRAIGHT = 0.999  # from this share of independent days on, the risk moves in proportion


@dataclass(frozen=True)
class DayPlan:
    """For each window target: the column of its day head, or -1, and how its days make the window."""

    column: tuple[int, ...]
    aggregation: tuple[str, ...]

    @classmethod
    def of(cls, heads: Heads, recipe: Recipe) -> DayPlan:
        """Pair window heads and day heads by name."""
        days = [head.name for head in heads.day]
        kinds = {target.name: target.target.aggregation for target in recipe.targets}
        return cls(
            tuple(days.index(head.name) if head.name in days else -1 for head in heads.window),
            tuple(kinds[head.name] for head in heads.window),
        )


def implied(plan: DayPlan, mean: np.ndarray, first: np.ndarray, day: np.ndarray) -> np.ndarray:
    """Give what the days say of the window [..., K]; NaN for a target without a day head.

    `mean` [..., K] is the window under the first calendar; `first` and `day` [..., F, K_day] are the days under the
    first calendar and under the one asked about.

    >>> plan = DayPlan((0, -1), ("any", "sum"))
    >>> low, high = np.full((1, 2, 1), 0.1), np.full((1, 2, 1), 0.19)
    >>> implied(plan, np.array([[0.19, 5.0]]), low, high).round(4).tolist()
    [[0.3439, nan]]
    """
    return from_risks(plan, mean, risks(plan, first), risks(plan, day))


def risks(plan: DayPlan, day: np.ndarray) -> np.ndarray:
    """Add up days [..., F, K_day] to [..., K]: amounts, or the risk L of a chance; NaN without a day head."""
    found = np.full((*day.shape[:-2], len(plan.column)), np.nan)
    for k, (column, kind) in enumerate(zip(plan.column, plan.aggregation)):
        if column >= 0:
            days = day[..., column]
            found[..., k] = _risk(days, kind) if kind in ("any", "none") else days.sum(axis=-1)
    return found


def from_risks(plan: DayPlan, mean: np.ndarray, first: np.ndarray, risk: np.ndarray) -> np.ndarray:
    """Do what `implied` does, from days that `risks` added up: [..., K]."""
    found = np.array(risk)
    for k, kind in enumerate(plan.aggregation):
        if plan.column[k] >= 0 and kind in ("any", "none"):
            p, now, before = mean[..., k], risk[..., k], first[..., k]
            nothing = 1 - p if kind == "any" else p
            changed = np.exp(-_hazard(-np.log(np.clip(nothing, LEAST, 1)), before, now))
            found[..., k] = np.where(now == before, p, 1 - changed if kind == "any" else changed)
    return found


def _hazard(hazard: np.ndarray, before: np.ndarray, now: np.ndarray) -> np.ndarray:
    """Give -log of the chance of nothing when a risk of `before` becomes `now`; with `before` it was `hazard`.

    log(1 + x) / x = hazard / before has one root x = k before > 0 when the right side is below 1 (Lambert's W).
    """
    before = np.maximum(before, LEAST)
    q = np.clip(hazard / before, LEAST, 1.0)
    is_frail = q < STRAIGHT
    safe = np.where(is_frail, q, 0.5)
    x = -np.real(lambertw(-safe * np.exp(-safe), -1)) / safe - 1
    return np.where(is_frail, before * np.log1p(x * now / before) / x, hazard * now / before)


def _risk(p: np.ndarray, kind: str) -> np.ndarray:
    nothing = 1 - p if kind == "any" else p
    return -np.log(np.clip(nothing, LEAST, 1)).sum(axis=-1)
