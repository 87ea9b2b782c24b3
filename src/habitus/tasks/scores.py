"""Scores that need more than one number per sample: whole distributions of amounts, and the single days ahead."""

from __future__ import annotations

from typing import Any

import numpy as np

from habitus.data.store import Store
from habitus.data.targets import Measured, measure_days
from habitus.metrics.bootstrap import Resamples, distribution, of_draws
from habitus.metrics.classification import EPSILON
from habitus.metrics.weights import Value, mean
from habitus.models.heads import has_amount
from habitus.tasks.asked import Asked
from habitus.tasks.forecast import LEVELS

IS_LOSS = {"pinball": True, "day_log_loss": True, "coverage_80": False, "coverage_80_positive": False}
_LOW, _HIGH = LEVELS.index(0.1), LEVELS.index(0.9)


def row_scores(answer: Asked, measured: Measured, day: dict[str, Measured]) -> dict[tuple[str, str], np.ndarray]:
    """Score every sample: (target, score) -> float64 [n], NaN where a sample has none; means over samples are reported.

    `pinball`: mean pinball loss over the seven levels, in the unit of an amount, days or count. `coverage_80`: whether
    the value lies between the quantiles .1 and .9; a zero counts as the share of its chance that lies between them, so
    that a right forecast has .8 whatever the share of zeros. `coverage_80_positive`: the same for the amount given that
    there is one. `day_log_loss`: mean over the days ahead of a binary target by day.
    `measured` has the columns of the run's own targets; `day` one entry per day target.
    """
    found = {}
    for k, head in enumerate(answer.heads.window):
        if head.kind == "binary":
            continue
        y, quantiles = measured.value[:, k], answer.whole.quantile[:, k]
        found[head.name, "pinball"] = _pinball(y, quantiles)
        if has_amount(head):
            zero, amounts = answer.whole.zero[:, k], answer.whole.amount[:, k][:, [_LOW, _HIGH]]
            found[head.name, "coverage_80"] = _coverage(y, quantiles[:, [_LOW, _HIGH]], zero)
            is_inside = (y >= amounts[:, 0]) & (y <= amounts[:, 1])
            found[head.name, "coverage_80_positive"] = np.where(y > 0, is_inside, np.nan)
    for k, head in enumerate(answer.heads.day):
        if head.kind == "binary":
            p = np.clip(answer.whole.day_mean[..., k], EPSILON, 1 - EPSILON)
            y = day[head.name].value[..., 0]
            loss = -np.where(y > 0, np.log(p), np.log1p(-p))
            found[head.name, "day_log_loss"] = np.where(day[head.name].is_observed[..., 0], loss, np.nan).mean(axis=1)
    return found


def day_values(answer: Asked, store: Store) -> dict[str, Measured]:
    """Measure the day targets of a run: by name, [n, F, 1] each."""
    spec, samples = answer.spec, answer.whole.samples
    return {t.name: measure_days((t,), store, samples, spec.horizon) for t in spec.day_targets}


def scored_beside(
    model: str, rows: dict[str, dict[tuple[str, str], np.ndarray]], drawn: Resamples
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Average the scores of each model, and set the losses of `model` against those of the others, with intervals.

    Differences are paired: both models meet the same users in every resample.
    """
    table, differences = [], []
    draws: dict[tuple[str, str, str], tuple[float, np.ndarray]] = {}
    for name, scores in rows.items():
        for (target, score), values in scores.items():
            value, found = float(_mean(values, values)), distribution(_mean, values, values, drawn)
            draws[name, target, score] = value, found
            facts = {"target": target, "model": name, "metric": score}
            table.append(facts | of_draws(value, found).to_json())
    for (name, target, score), (value, found) in draws.items():
        if name == model or not IS_LOSS[score] or (model, target, score) not in draws:
            continue
        ours, our_draws = draws[model, target, score]
        gap = of_draws(ours - value, our_draws - found)
        is_better = None if np.isnan(gap.low) or gap.low <= 0 <= gap.high else gap.high < 0
        facts = {"target": target, "metric": score, "model": model, "against": name}
        differences.append(facts | gap.to_json() | {"is_better": is_better})
    return table, differences


def _mean(y: np.ndarray, p: np.ndarray, weight: np.ndarray | None = None) -> Value:
    """Weighted mean of p over the rows that have a value."""
    is_known = ~np.isnan(p)
    return mean(p[is_known], None if weight is None else weight[..., is_known])


def _pinball(y: np.ndarray, quantiles: np.ndarray) -> np.ndarray:
    error = y[:, None] - quantiles
    levels = np.array(LEVELS)
    return np.maximum(levels * error, (levels - 1) * error).mean(axis=1)


def _coverage(y: np.ndarray, bounds: np.ndarray, zero: np.ndarray) -> np.ndarray:
    """Whether y lies within the bounds; for y = 0, the share of P(0) that lies between the levels .1 and .9."""
    low, high = LEVELS[_LOW], LEVELS[_HIGH]
    share = np.clip(np.minimum(zero, high) - low, 0, None) / np.maximum(zero, 1e-12)
    is_inside = (y >= bounds[:, 0]) & (y <= bounds[:, 1])
    return np.where(y > 0, is_inside, share)
