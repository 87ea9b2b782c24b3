"""How good are probabilities of a yes or no? Every function takes outcomes y in {0, 1} and scores p, both [n].

`weight` is None, one weight per row [n], or one row of weights per resample [R, n]; with the last, one value per
resample comes back [R]. A metric that cannot be had (no rows, or one class only) is NaN, never an invented number.
"""

from __future__ import annotations

import numpy as np

from habitus.core.errors import ConfigError
from habitus.metrics.weights import Value, answer, as_rows, as_weights, groups, ratio, running, total

EPSILON = 1e-15  # probabilities are kept this far from 0 and 1 in `log_loss`


def auc(y: np.ndarray, p: np.ndarray, weight: np.ndarray | None = None) -> Value:
    """Area under the ROC curve: how often a positive is ranked above a negative, ties counting one half.

    Needs no calibration: only the order of p matters. NaN when a class is missing.
    Errors: `ConfigError` when y holds anything but 0 and 1.
    Source: Mann-Whitney U; Hanley and McNeil 1982. One sort serves all resamples.

    >>> auc(np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8]))
    0.75
    """
    y, p = _outcomes(y, p)
    weights = as_weights(weight, y.size)
    order = np.argsort(p, kind="stable")
    start, end = groups(p[order])
    positive = np.flatnonzero(y[order] == 1)
    sorted_weights = np.take(weights, order, axis=1)
    of_positive = np.take(sorted_weights, positive, axis=1)
    everyone, positives = running(sorted_weights), running(of_positive)
    n_positive, n_negative = positives[:, -1], everyone[:, -1] - positives[:, -1]
    wins = np.zeros(weights.shape[0])
    for edge in (start[positive], end[positive]):  # negatives below, and negatives below or level
        below = np.take(everyone, edge, axis=1) - np.take(positives, np.searchsorted(positive, edge), axis=1)
        wins += np.einsum("rp,rp->r", of_positive, below) / 2
    return answer(ratio(wins, n_positive * n_negative), weight)


def average_precision(y: np.ndarray, p: np.ndarray, weight: np.ndarray | None = None) -> Value:
    """Area under the precision-recall curve as a step function: sum of precision x gain in recall.

    Rows of equal score enter together. The base line is the share of positives. NaN without a positive.
    Errors: `ConfigError` when y holds anything but 0 and 1.
    Source: the definition of scikit-learn's `average_precision_score`.

    >>> round(average_precision(np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8])), 4)
    0.8333
    """
    y, p = _outcomes(y, p)
    weights = as_weights(weight, y.size)
    order = np.argsort(-p, kind="stable")
    positive = np.flatnonzero(y[order] == 1)
    end = groups(p[order])[1][positive]  # rows of equal score enter together
    sorted_weights = np.take(weights, order, axis=1)
    of_positive = np.take(sorted_weights, positive, axis=1)
    positives = running(of_positive)
    found = np.take(positives, np.searchsorted(positive, end), axis=1)
    everyone = np.take(running(sorted_weights), end, axis=1)
    precision = np.divide(found, everyone, out=np.zeros_like(found), where=everyone > 0)
    return answer(ratio(np.einsum("rp,rp->r", of_positive, precision), positives[:, -1]), weight)


def log_loss(y: np.ndarray, p: np.ndarray, weight: np.ndarray | None = None) -> Value:
    """Mean of -ln(probability given to what happened). A proper score: only true probabilities minimise it.

    p is kept within [1e-15, 1 - 1e-15]. NaN without rows.
    Errors: `ConfigError` when y is not 0 or 1, or p lies outside [0, 1].

    >>> round(log_loss(np.array([1, 0]), np.array([0.5, 0.25])), 4)
    0.4904
    """
    y, p = _outcomes(y, p, is_probability=True)
    weights = as_weights(weight, y.size)
    p = np.clip(p, EPSILON, 1 - EPSILON)
    loss = -np.where(y == 1, np.log(p), np.log1p(-p))
    return answer(ratio(total(loss, weights), weights.sum(axis=1, dtype=np.float64)), weight)


def normalised_entropy(y: np.ndarray, p: np.ndarray, weight: np.ndarray | None = None) -> Value:
    """Log loss over that of the base rate of the same rows: 1 says nothing, below 1 is better.

    Comparable between logs of different rates, where the log loss alone is not. NaN when a class is missing.
    Source: He et al. 2014.

    >>> normalised_entropy(np.array([1, 0, 0, 0]), np.full(4, 0.25))
    1.0
    """
    y, p = _outcomes(y, p, is_probability=True)
    weights = as_weights(weight, y.size)
    rate = ratio(total(y, weights), weights.sum(axis=1, dtype=np.float64))
    inner = np.clip(rate, EPSILON, 1 - EPSILON)
    base = np.where((rate > 0) & (rate < 1), -rate * np.log(inner) - (1 - rate) * np.log1p(-inner), 0.0)
    return answer(ratio(np.atleast_1d(log_loss(y, p, weights)), base), weight)


def brier(y: np.ndarray, p: np.ndarray, weight: np.ndarray | None = None) -> Value:
    """Mean of (p - y)^2. A proper score; Brier 1950. NaN without rows.

    Errors: `ConfigError` when y is not 0 or 1, or p lies outside [0, 1].

    >>> brier(np.array([1, 0]), np.array([0.5, 0.25]))
    0.15625
    """
    y, p = _outcomes(y, p, is_probability=True)
    weights = as_weights(weight, y.size)
    return answer(ratio(total((p - y) ** 2, weights), weights.sum(axis=1, dtype=np.float64)), weight)


def _outcomes(y: np.ndarray, p: np.ndarray, *, is_probability: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Check outcomes and scores; NaN anywhere is an error, not a silent rank."""
    y, p = as_rows(y, p)
    bad = y[(y != 0) & (y != 1)]
    if bad.size:
        raise ConfigError("outcomes 0 and 1", f"{bad[0]}", where="metric", fix="use a regression metric for amounts")
    if np.isnan(p).any():
        raise ConfigError("a score for every row", f"{int(np.isnan(p).sum())} NaN", where="metric")
    if is_probability and p.size and (p.min() < 0 or p.max() > 1):
        raise ConfigError("probabilities in [0, 1]", f"{p.min():.4g} .. {p.max():.4g}", where="metric")
    return y, p
