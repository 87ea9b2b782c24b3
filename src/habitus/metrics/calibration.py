"""Do probabilities mean what they say? Reliability, expected calibration error, and calibrators fitted on validation.

Calibrators are small frozen records that travel as JSON: `fit_*` makes one, `calibrate` applies it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from habitus.core.errors import ArtifactError, ConfigError, TargetError
from habitus.metrics.classification import EPSILON
from habitus.metrics.weights import Value, answer, as_rows, as_weights, ratio

N_BINS = 10


@dataclass(frozen=True)
class Reliability:
    """One entry per bin, from the lowest forecasts to the highest."""

    predicted: np.ndarray  # mean forecast of the bin
    observed: np.ndarray  # share of positives in it
    n: np.ndarray  # rows in it


def reliability(y: np.ndarray, p: np.ndarray, n_bins: int = N_BINS) -> Reliability:
    """Compare forecast and outcome in bins of equal mass (rows sorted by p, cut into n_bins parts of equal size).

    Fewer rows than bins give one row a bin. A tie in p may be cut in two; bins of equal width would leave most of them
    nearly empty for rare outcomes.

    >>> reliability(np.array([0, 1, 1, 1]), np.array([0.2, 0.4, 0.7, 0.9]), n_bins=2).observed
    array([0.5, 1. ])
    """
    y, p = as_rows(y, p)
    table = _bin_totals(y, p, as_weights(None, y.size), n_bins)
    n, forecast, outcome = table[:, 0]
    return Reliability(ratio(forecast, n), ratio(outcome, n), n.astype(np.int64))


def ece(y: np.ndarray, p: np.ndarray, weight: np.ndarray | None = None, *, n_bins: int = N_BINS) -> Value:
    """Expected calibration error over bins of equal mass: sum of (bin weight) x |mean forecast - share of positives|.

    Bins are those of the data as given, kept for all resamples. Biased upwards on small samples; NaN without rows.
    Source: Naeini, Cooper and Hauskrecht 2015; equal-mass bins as in Nixon et al. 2019.

    >>> round(ece(np.array([0, 1, 1, 1]), np.array([0.2, 0.4, 0.7, 0.9]), n_bins=2), 3)
    0.2
    """
    y, p = as_rows(y, p)
    n, forecast, outcome = _bin_totals(y, p, as_weights(weight, y.size), n_bins)
    return answer(ratio(np.abs(forecast - outcome).sum(axis=1), n.sum(axis=1)), weight)


def _bin_totals(y: np.ndarray, p: np.ndarray, weight: np.ndarray, n_bins: int) -> np.ndarray:
    """Sums of weight, weight x p and weight x y per bin -> [3, R, bins]."""
    if n_bins < 1:
        raise ConfigError("at least 1 bin", f"{n_bins}", where="calibration")
    order = np.argsort(p, kind="stable")
    edges = np.unique(np.linspace(0, y.size, min(n_bins, y.size) + 1).round().astype(np.int64))
    result = np.zeros((3, weight.shape[0], max(edges.size - 1, 1)))
    for j, (low, high) in enumerate(pairwise(edges)):
        rows = order[low:high]
        columns = np.stack([np.ones(rows.size), p[rows], y[rows]])
        result[:, :, j] = np.einsum("rn,cn->cr", weight[:, rows], columns, dtype=np.float64)
    return result


@dataclass(frozen=True)
class Platt:
    """p -> sigmoid(slope logit(p) + shift). With shift 0 this is temperature scaling, temperature = 1 / slope."""

    slope: float
    shift: float = 0.0


@dataclass(frozen=True)
class Isotonic:
    """p -> a rising piecewise linear function through the points (x, y); flat beyond the first and last."""

    x: tuple[float, ...]
    y: tuple[float, ...]


Calibrator = Platt | Isotonic
_KINDS = {"platt": Platt, "isotonic": Isotonic}


def fit_temperature(y: np.ndarray, p: np.ndarray) -> Platt:
    """Find the one temperature that minimises log loss on validation rows; the order of users never changes.

    Errors: `TargetError` when the rows hold one class only. Source: Guo et al. 2017.

    >>> p = np.array([0.02, 0.02, 0.98, 0.98])
    >>> calibrator = fit_temperature(np.array([0, 1, 1, 1]), p)  # over-confident
    >>> 0 < calibrator.slope < 1
    True
    """
    return Platt(_fit_logistic(y, p, with_shift=False)[0])


def fit_platt(y: np.ndarray, p: np.ndarray) -> Platt:
    """Find slope and shift of the log-odds that minimise log loss on validation rows: also corrects the mean.

    Errors: `TargetError` when the rows hold one class only. Source: Platt 1999, on log-odds.

    >>> calibrator = fit_platt(np.array([0, 0, 0, 1]), np.array([0.4, 0.5, 0.6, 0.7]))
    >>> round(float(calibrate(calibrator, np.array([0.4, 0.5, 0.6, 0.7])).mean()), 3)
    0.25
    """
    return Platt(*_fit_logistic(y, p, with_shift=True))


def fit_isotonic(y: np.ndarray, p: np.ndarray) -> Isotonic:
    """Find the best rising step function (least squares) and join its steps with straight lines.

    Values stay within [1 / (2 n + 2), 1 - 1 / (2 n + 2)], as a share of 0 or 1 would cost an infinite log loss later.
    Needs some thousand rows; with fewer prefer `fit_platt`. It can make ties, which costs a little AUC.
    Errors: `TargetError` when the rows hold one class only. Source: Zadrozny and Elkan 2002.

    >>> calibrator = fit_isotonic(np.array([0, 1, 0, 1]), np.array([0.1, 0.2, 0.3, 0.4]))
    >>> calibrate(calibrator, np.array([0.2, 0.3])).tolist()
    [0.5, 0.5]
    """
    from scipy.optimize import isotonic_regression

    y, p = _checked(y, p)
    points, place, n = np.unique(p, return_inverse=True, return_counts=True)
    level = isotonic_regression(np.bincount(place, weights=y) / n, weights=n).x
    edge = np.ones(points.size, dtype=bool)  # the ends of each flat stretch are enough
    edge[1:-1] = (level[1:-1] != level[:-2]) | (level[1:-1] != level[2:])
    floor = 1 / (2 * y.size + 2)
    return Isotonic(tuple(points[edge].tolist()), tuple(np.clip(level[edge], floor, 1 - floor).tolist()))


def calibrate(calibrator: Calibrator | None, p: np.ndarray) -> np.ndarray:
    """Apply a calibrator to probabilities of any shape; None gives them back unchanged.

    >>> calibrate(Platt(slope=1.0), np.array([0.25])).round(6).tolist()
    [0.25]
    """
    p = np.asarray(p, dtype=np.float64)
    if calibrator is None:
        return p
    if isinstance(calibrator, Isotonic):
        return np.interp(p, calibrator.x, calibrator.y)
    return _sigmoid(calibrator.slope * _logit(p) + calibrator.shift)


def calibrator_to_json(calibrator: Calibrator) -> dict[str, Any]:
    """Give a calibrator as plain values.

    >>> calibrator_to_json(Platt(slope=0.5))
    {'kind': 'platt', 'slope': 0.5, 'shift': 0.0}
    """
    kind = next(name for name, cls in _KINDS.items() if isinstance(calibrator, cls))
    values = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(calibrator).items()}
    return {"kind": kind, **values}


def calibrator_from_json(values: dict[str, Any]) -> Calibrator:
    """Read what `calibrator_to_json` gave. Errors: `ArtifactError` for another kind or other keys.

    >>> calibrator_from_json({"kind": "isotonic", "x": [0.1, 0.9], "y": [0.2, 0.8]})
    Isotonic(x=(0.1, 0.9), y=(0.2, 0.8))
    """
    rest = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items() if name != "kind"}
    try:
        return _KINDS[values["kind"]](**rest)
    except (KeyError, TypeError) as cause:
        raise ArtifactError(f"a calibrator of kind {' or '.join(_KINDS)}", str(values)[:80]) from cause


def _checked(y: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    y, p = as_rows(y, p)
    n_positive = int(np.sum(y == 1))
    if n_positive == 0 or n_positive == y.size:
        raise TargetError("both outcomes among the validation rows", f"{n_positive} of {y.size} positive")
    return y, p


def _fit_logistic(y: np.ndarray, p: np.ndarray, *, with_shift: bool) -> tuple[float, float]:
    """Newton's method with halving steps on the log loss of sigmoid(a logit(p) + b); a is kept positive."""
    y, p = _checked(y, p)
    x = _logit(p)
    design = np.stack([x, np.ones_like(x)]) if with_shift else x[None]
    weight = np.array([1.0, 0.0])[: len(design)]
    loss = _logistic_loss(weight, design, y)
    for _ in range(100):
        q = _sigmoid(weight @ design)
        slope = design @ (q - y) / y.size
        bend = (design * (q * (1 - q))) @ design.T / y.size + 1e-9 * np.eye(len(design))
        step = np.linalg.solve(bend, slope)
        while (candidate := _logistic_loss(weight - step, design, y)) > loss and np.abs(step).max() > 1e-12:
            step = step / 2
        weight, gain, loss = weight - step, loss - candidate, candidate
        if gain < 1e-14:
            break
    slope, shift = float(max(weight[0], 1e-3)), float(weight[1]) if with_shift else 0.0
    return slope, shift


def _logistic_loss(weight: np.ndarray, design: np.ndarray, y: np.ndarray) -> float:
    z = weight @ design
    return float(np.mean(np.logaddexp(0, z) - y * z))


def _logit(p: np.ndarray) -> np.ndarray:
    p = np.clip(p, EPSILON, 1 - EPSILON)
    return np.log(p) - np.log1p(-p)


def _sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(z, -700, 700)))
