"""Forecasts in original units: members averaged, probabilities calibrated, totals with honest intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.special import ndtr, ndtri
from torch import Tensor

from habitus.core.progress import track
from habitus.data.cutoffs import Samples
from habitus.metrics.calibration import calibrate, calibrator_from_json, calibrator_to_json, fit_platt
from habitus.models.head_kinds import mixture
from habitus.models.heads import Head, amount_quantile, expected, has_amount, n_outputs, probability, quantile
from habitus.models.lumos import Lumos, LumosOutput
from habitus.tokens.loader import DayLoader, Inputs, future_events

LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
MEDIAN = LEVELS.index(0.5)
BATCH = 1024
PER_SAMPLE = ("cutoff_place", "low", "high", "first_day", "has_start", "profile")  # columns of Inputs
COVERAGE = 0.8  # of the intervals of totals
MIN_AMOUNTS = 100  # fewer amounts on validation say nothing about the tails of their distribution


@dataclass(frozen=True)
class Forecast:
    """Answers for n samples, K targets, F future days.

    Attributes
    ----------
    mean
        float64 [n, K]: the calibrated probability of a binary target, else the expected value in the target's unit.
    quantile
        float64 [n, K, 7] at `LEVELS`; NaN for binary targets.
    day_mean
        float64 [n, F, K_day]: the same as `mean`, for each future day of each day target.
    zero
        float64 [n, K]: the probability that there is no amount; NaN for heads that do not say it apart.
    amount
        float64 [n, K, 7]: quantiles of the amount given that there is one, at `LEVELS`; NaN for the same heads.
    """

    samples: Samples
    mean: np.ndarray
    quantile: np.ndarray
    day_mean: np.ndarray
    zero: np.ndarray
    amount: np.ndarray

    @property
    def median(self) -> np.ndarray:
        """float64 [n, K]: the forecast with the smallest expected absolute error."""
        return self.quantile[..., MEDIAN]


@dataclass(frozen=True)
class Heads:
    """The window heads and the day heads of one model."""

    window: tuple[Head, ...]
    day: tuple[Head, ...]


def of_rows(inputs: Inputs, rows: np.ndarray) -> Inputs:
    """Give the inputs of the samples `rows` alone, in that order; targets are left out."""
    columns = {name: getattr(inputs, name)[rows] for name in PER_SAMPLE}
    return replace(inputs, samples=inputs.samples.take(rows), **columns, measured=None, day_measured=None)


def forecast(
    members: Sequence[Lumos], heads: Heads, inputs: Inputs, calibration: Mapping[str, Any] | None = None
) -> Forecast:
    """Ask every member about every sample and average: log-odds of probabilities, values and quantiles of the rest.

    Answers depend neither on the order of samples nor on the size of batches.
    """
    return read_answers(ask(members, [inputs])[0], heads, inputs, calibration)


@torch.no_grad()
def ask(members: Sequence[Lumos], futures: Sequence[Inputs]) -> list[list[LumosOutput]]:
    """Give the raw outputs of every member under every calendar: [calendar][member], rows in sample order.

    `futures` hold the same samples under calendars that agree up to the cut-offs: the past is encoded once, with the
    first, and each further calendar costs a decode.
    """
    base = futures[0]
    loader = DayLoader(base, batch_size=BATCH)
    rows: list[np.ndarray] = []
    parts: list[list[list[LumosOutput]]] = [[[] for _ in members] for _ in futures]
    for batch in track(loader, "forecast", len(loader)):
        rows.append(batch.sample.numpy())
        known = [batch.known_future, *(future_events(other, rows[-1]) for other in futures[1:])]
        for m, member in enumerate(members):
            cache = member.encode(batch)
            for c, future in enumerate(known):
                parts[c][m].append(member.decode(cache, future))
    order = torch.from_numpy(np.argsort(np.concatenate(rows)))
    return [[_joined(chunks, order) for chunks in calendar] for calendar in parts]


def _joined(chunks: list[LumosOutput], order: Tensor) -> LumosOutput:
    window = torch.cat([chunk.window for chunk in chunks])[order]
    day = None if chunks[0].day is None else torch.cat([c.day for c in chunks if c.day is not None])[order]
    return LumosOutput(window, day)


def read_answers(
    outputs: list[LumosOutput], heads: Heads, inputs: Inputs, calibration: Mapping[str, Any] | None = None
) -> Forecast:
    """Turn raw outputs, one per member, into one forecast.

    A head that says amounts apart is mixed last: log-odds of there being one, and quantiles of the amount, are averaged
    over members, and the recalibrated levels are asked for.
    """
    mean, day_mean = read_means(outputs, heads, calibration)
    if not heads.day:
        day_mean = np.zeros((len(mean), inputs.spec.horizon, 0))
    n, k = mean.shape
    found = Forecast(
        inputs.samples,
        mean,
        np.full((n, k, len(LEVELS)), np.nan),
        day_mean,
        np.full((n, k), np.nan),
        np.full((n, k, len(LEVELS)), np.nan),
    )
    asked = (calibration or {}).get("amounts", {})
    for j, (head, *parts) in enumerate(zip(heads.window, *(_split(heads.window, o.window) for o in outputs))):
        if has_amount(head):
            mixed = mix_amounts(head, parts, asked.get(head.name, LEVELS))
            found.quantile[:, j], found.zero[:, j], found.amount[:, j] = mixed
        elif head.kind != "binary":
            found.quantile[:, j] = np.mean([quantile(head, raw, LEVELS).double().numpy() for raw in parts], axis=0)
    return found


@dataclass(frozen=True)
class _Levels:
    """Which level to ask a head for, so that the answer is the quantile wanted: known at `LEVELS`, a line between.

    Levels are compared as normal deviates: a straight line there is a shift and a stretch of a normal distribution.
    """

    asked: np.ndarray

    def __call__(self, wanted: Tensor) -> Tensor:
        at, to = ndtri(np.array(LEVELS)), ndtri(self.asked)
        deviate = ndtri(wanted.double().numpy())
        inside = np.interp(deviate, at, to)
        beyond = np.where(deviate < at[0], deviate - at[0], np.maximum(deviate - at[-1], 0.0))
        return torch.from_numpy(np.clip(ndtr(inside + beyond), 1e-6, 1 - 1e-6))


def mix_amounts(
    head: Head, parts: Sequence[Tensor], asked: Sequence[float] = LEVELS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give quantiles of zero-or-amount [n, 7], the probability of zero [n], and quantiles of the amount [n, 7].

    `parts` are raw outputs of an amount head, one per member; `asked` the recalibrated levels that stand for `LEVELS`.
    """
    levels = _Levels(np.array(asked))

    def amount(wanted: Tensor) -> Tensor:
        recalibrated = levels(wanted)
        return torch.stack([amount_quantile(head, raw, recalibrated).double() for raw in parts]).mean(dim=0)

    p = _mean_log_odds([probability(head, raw).double() for raw in parts])[:, None]
    wanted = torch.tensor(LEVELS, dtype=torch.float64).expand(len(p), -1)
    return mixture(p, wanted, amount).numpy(), 1 - p[:, 0].numpy(), amount(wanted).numpy()


def _mean_log_odds(probabilities: Sequence[Tensor]) -> Tensor:
    return torch.sigmoid(torch.logit(torch.stack(list(probabilities)), eps=1e-9).mean(dim=0))


def read_means(
    outputs: Sequence[LumosOutput], heads: Heads, calibration: Mapping[str, Any] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Turn raw outputs, one per member, into `mean` [n, K] and `day_mean` [n, F, K_day] alone: no quantiles.

    Without day heads, `day_mean` is [n, 0, 0].
    """
    mean = _means(heads.window, [output.window for output in outputs])
    day_mean = np.zeros((len(mean), 0, 0))
    if heads.day:
        day_mean = _means(heads.day, [output.day for output in outputs if output.day is not None])
    for name, values in (calibration or {}).get("targets", {}).items():
        column = [head.name for head in heads.window].index(name)
        mean[:, column] = calibrate(calibrator_from_json(values), mean[:, column])
    return mean, day_mean


def _means(heads: tuple[Head, ...], raw: list[Tensor]) -> np.ndarray:
    """Average the members: [..., K]."""
    columns = []
    for head, *parts in zip(heads, *(_split(heads, r) for r in raw)):
        values = torch.stack([expected(head, part).double() for part in parts])
        if head.kind == "binary":
            columns.append(_mean_log_odds(list(values)))
        else:
            columns.append(values.mean(dim=0))
    return torch.stack(columns, dim=-1).numpy()


def _split(heads: tuple[Head, ...], raw: Tensor) -> tuple[Tensor, ...]:
    return raw.split([n_outputs(head) for head in heads], dim=-1)


def fit_calibration(answer: Forecast, heads: Heads, inputs: Inputs) -> dict[str, Any]:
    """Fit, on validation, what turns raw answers into calibrated ones; plain JSON, stored in the artifact.

    `targets`: slope and shift of the log-odds of each binary target. `amounts`: the levels to ask an amount head for,
    so that a tenth of the amounts seen lies below the quantile .1, and so on. `totals` and `daily`: relative errors of
    totals over users, of the window and by day, for intervals. A target with one class only, or with fewer than 100
    amounts, is left as it is. `answer` is not calibrated yet.

    Source of the recalibrated levels: Kuleshov, Fenner and Ermon, arXiv 1807.00263.
    """
    assert inputs.measured is not None, "calibration needs targets"
    found: dict[str, Any] = {"targets": {}, "amounts": {}, "totals": {}, "daily": {}}
    for k, head in enumerate(heads.window):
        y, value = inputs.measured.value[:, k], answer.mean[:, k]
        if head.kind == "binary" and 0 < y.mean() < 1:
            calibrator = fit_platt(y, value)
            found["targets"][head.name] = calibrator_to_json(calibrator)
            value = calibrate(calibrator, value)
        if has_amount(head) and (y > 0).sum() >= MIN_AMOUNTS:
            found["amounts"][head.name] = _asked_levels(answer.amount[:, k][y > 0], y[y > 0])
        found["totals"][head.name] = _total_error(value, y, answer.samples.cutoff)
    if inputs.day_measured is not None:
        for k, head in enumerate(heads.day):
            errors = _relative_errors(answer, inputs.day_measured.value[..., k], k)
            found["daily"][head.name] = _conformal(errors)
    return found


def _asked_levels(amount: np.ndarray, y: np.ndarray) -> list[float]:
    """Give the forecast levels below which the shares `LEVELS` of the amounts y [n] lie, given quantiles [n, 7].

    Between its seven quantiles, and beyond them, each forecast is taken as a log-normal law through two of them.
    """
    knots, value = np.log(np.maximum(amount, 1e-9)), np.log(y)
    right = np.clip((knots < value[:, None]).sum(axis=1), 1, len(LEVELS) - 1)
    rows, deviates = np.arange(len(y)), ndtri(np.array(LEVELS))
    low, high = knots[rows, right - 1], knots[rows, right]
    share = (value - low) / np.maximum(high - low, 1e-6)
    reached = deviates[right - 1] + share * (deviates[right] - deviates[right - 1])
    return ndtr(np.quantile(np.clip(reached, -3.0, 3.0), LEVELS)).tolist()


def total_interval(total: float, error: Mapping[str, Any]) -> tuple[float, float]:
    """Widen a total by the errors seen on validation; NaN where too few cut-offs were seen to tell."""
    if error["log_ratio"] is None:
        return math.nan, math.nan
    return total * math.exp(-error["log_ratio"]), total * math.exp(error["log_ratio"])


def _total_error(value: np.ndarray, actual: np.ndarray, cutoff: np.ndarray) -> dict[str, Any]:
    """Give the |log(actual / forecast)| of totals that a new cut-off stays below in 80 % of cases.

    Split-conformal over n earlier cut-offs: the error of rank ceil((n + 1) 0.8); too few cut-offs give none.
    """
    days = np.unique(cutoff)
    pairs = [(actual[cutoff == day].sum(), value[cutoff == day].sum()) for day in days]
    errors = sorted(abs(math.log(a / f)) for a, f in pairs if a > 0 and f > 0)
    rank = math.ceil((len(errors) + 1) * COVERAGE)
    found = errors[rank - 1] if rank <= len(errors) else None
    return {"log_ratio": found, "n_cutoffs": len(errors), "coverage": COVERAGE}


def day_totals(answer: Forecast, column: int) -> dict[int, np.ndarray]:
    """Give, per cut-off day, the sum over its users of one day target: float64 [F]."""
    cutoffs = answer.samples.cutoff
    return {int(c): answer.day_mean[cutoffs == c, :, column].sum(axis=0) for c in np.unique(cutoffs)}


def day_interval(total: np.ndarray, error: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Widen daily totals [F] by the errors seen on validation; NaN where too few cut-offs were seen to tell."""
    if error["low"] is None:
        return np.full(len(total), np.nan), np.full(len(total), np.nan)
    base = total + 0.05 * total.mean()
    return np.maximum(total + error["low"] * base, 0.0), total + error["high"] * base


def _relative_errors(answer: Forecast, actual: np.ndarray, column: int) -> np.ndarray:
    """(actual - forecast) / (forecast + 5 % of the mean day) of daily totals: [n_cutoffs, F]."""
    errors = []
    for cutoff, total in day_totals(answer, column).items():
        truth = actual[answer.samples.cutoff == cutoff].sum(axis=0)
        errors.append((truth - total) / np.maximum(total + 0.05 * total.mean(), 1e-9))
    return np.array(errors)


def _conformal(errors: np.ndarray) -> dict[str, Any]:
    """Give the interval of a new day's error: split-conformal ranks over cut-offs, days of one cut-off pooled.

    With n cut-offs the ranks are ceil((n + 1)(1 - a)), at most n: few cut-offs give the whole range of errors seen, and
    fewer than 4 give no interval.
    """
    n = len(errors)
    share = (1 - COVERAGE) / 2
    if n < 4:
        return {"low": None, "high": None, "n_cutoffs": n, "coverage": COVERAGE}
    upper = min(math.ceil((n + 1) * (1 - share)) / n, 1.0)
    low, high = np.quantile(errors, [1 - upper, upper])
    return {"low": float(low), "high": float(high), "n_cutoffs": n, "coverage": COVERAGE}
