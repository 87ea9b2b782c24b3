"""How good are forecasts of amounts? Every function takes actual y and forecast p, both [n], in original units.

`weight` as in `metrics.classification`: None, [n], or [R, n] for one value per resample. Which forecast minimises what:
MAE and WAPE the median, RMSE the mean, MAPE something lower than the median, pinball the quantile. A forecast that is
good for one of them may look poor under another. Without rows every metric is NaN.
"""

from __future__ import annotations

import numpy as np

from habitus.core.errors import ConfigError
from habitus.metrics.weights import Value, answer, as_rows, as_weights, mean, ratio, total


def mae(y: np.ndarray, p: np.ndarray, weight: np.ndarray | None = None) -> Value:
    """Mean of |y - p|, in units of y.

    >>> mae(np.array([0.0, 10.0]), np.array([1.0, 7.0]))
    2.0
    """
    y, p = as_rows(y, p)
    return mean(np.abs(y - p), weight)


def rmse(y: np.ndarray, p: np.ndarray, weight: np.ndarray | None = None) -> Value:
    """Root of the mean of (y - p)^2, in units of y. A few large users rule it.

    >>> rmse(np.array([0.0, 10.0]), np.array([1.0, 3.0]))
    5.0
    """
    y, p = as_rows(y, p)
    return answer(np.sqrt(np.atleast_1d(mean((y - p) ** 2, weight))), weight)


def wape(y: np.ndarray, p: np.ndarray, weight: np.ndarray | None = None) -> Value:
    """Weighted absolute percentage error: sum |y - p| / sum |y|. NaN when every y is 0.

    A forecast of zero everywhere has WAPE 1: a value near 1 says that nothing was learnt about amounts.

    >>> wape(np.array([0.0, 10.0]), np.array([1.0, 7.0]))
    0.4
    """
    y, p = as_rows(y, p)
    weights = as_weights(weight, y.size)
    return answer(ratio(total(np.abs(y - p), weights), total(np.abs(y), weights)), weight)


def smape(y: np.ndarray, p: np.ndarray, weight: np.ndarray | None = None) -> Value:
    """Symmetric MAPE, the form in [0, 2]: mean of 2 |y - p| / (|y| + |p|), and 0 where both are 0.

    A row with y = 0 and any p > 0 scores the full 2. Source: Makridakis 1993 (several forms exist; this one is named).

    >>> smape(np.array([0.0, 3.0]), np.array([0.0, 1.0]))
    0.5
    """
    y, p = as_rows(y, p)
    size = np.abs(y) + np.abs(p)
    return mean(np.divide(2 * np.abs(y - p), size, out=np.zeros_like(size), where=size > 0), weight)


def mape_nonzero(y: np.ndarray, p: np.ndarray, weight: np.ndarray | None = None) -> Value:
    """Mean of |y - p| / |y| over the rows with y != 0, in original units. NaN when there is none.

    MAPE is four metrics (scaled or original units, non-zero rows or all): this is the one on original units and
    non-zero rows. It says nothing about rows without an amount. For the other two spaces pass scaled y and p.

    >>> mape_nonzero(np.array([0.0, 10.0]), np.array([5.0, 7.0]))
    0.3
    """
    y, p = as_rows(y, p)
    weights = as_weights(weight, y.size)
    is_counted = y != 0
    error = np.divide(np.abs(y - p), np.abs(y), out=np.zeros_like(y), where=is_counted)
    return answer(ratio(total(error, weights), total(is_counted.astype(np.float64), weights)), weight)


def mape_all(y: np.ndarray, p: np.ndarray, weight: np.ndarray | None = None, *, floor: float) -> Value:
    """Mean of |y - p| / max(|y|, floor) over all rows; explodes with a small floor, so the floor is part of its name.

    Errors: `ConfigError` when the floor is not above 0.

    >>> mape_all(np.array([0.0, 10.0]), np.array([1.0, 5.0]), floor=1.0)
    0.75
    """
    if not floor > 0:
        raise ConfigError("a floor above 0", f"{floor}", where="mape_all")
    y, p = as_rows(y, p)
    return mean(np.abs(y - p) / np.maximum(np.abs(y), floor), weight)


def spearman(y: np.ndarray, p: np.ndarray, weight: np.ndarray | None = None) -> Value:
    """Rank correlation: Pearson's correlation of the mid-ranks of y and p. NaN when either is constant.

    Whole-number weights give exactly the value of the data with rows repeated.

    >>> round(spearman(np.array([1.0, 2.0, 3.0]), np.array([1.0, 30.0, 20.0])), 6)
    0.5
    """
    y, p = as_rows(y, p)
    weights = as_weights(weight, y.size)
    size = weights.sum(axis=1, dtype=np.float64)[:, None]
    one, other = (_mid_ranks(values, weights) - (size + 1) / 2 for values in (y, p))
    product = np.einsum("rn,rn,rn->r", weights, one, other)
    spread = np.einsum("rn,rn,rn->r", weights, one, one) * np.einsum("rn,rn,rn->r", weights, other, other)
    return answer(ratio(product, np.sqrt(np.where(spread > 1e-12, spread, 0))), weight)


def pinball(y: np.ndarray, p: np.ndarray, weight: np.ndarray | None = None, *, level: float) -> Value:
    """Mean pinball loss of the forecast quantile `level`: level (y - p) above it, (1 - level) (p - y) below.

    Half the MAE at level 0.5. Source: Koenker and Bassett 1978.
    Errors: `ConfigError` when the level is not inside (0, 1).

    >>> pinball(np.array([10.0, 0.0]), np.array([6.0, 6.0]), level=0.9)
    2.1
    """
    if not 0 < level < 1:
        raise ConfigError("a level inside (0, 1)", f"{level}", where="pinball")
    y, p = as_rows(y, p)
    return mean(np.maximum(level * (y - p), (level - 1) * (y - p)), weight)


def coverage(y: np.ndarray, low: np.ndarray, high: np.ndarray, weight: np.ndarray | None = None) -> Value:
    """Share of rows with low <= y <= high: near the nominal level for good intervals, whatever their width.

    >>> coverage(np.array([1.0, 5.0]), np.array([0.0, 0.0]), np.array([1.0, 4.0]))
    0.5
    """
    y, low, high = as_rows(y, low, high)
    return mean((low <= y) & (y <= high), weight)


def gini(y: np.ndarray, p: np.ndarray, weight: np.ndarray | None = None) -> Value:
    """Normalised Gini: how much of the amount lies with the users ranked first, against the best possible order.

    1 is the perfect order, 0 a random one. Needs y >= 0; NaN when y is constant or sums to 0. Ties in p share evenly.
    Source: Wang, Liu and Miao 2019 (customer lifetime value), the ratio of the two areas under the Lorenz curves.
    Errors: `ConfigError` for negative amounts.

    >>> gini(np.array([0.0, 1.0, 9.0]), np.array([0.1, 0.2, 0.3]))
    1.0
    """
    y, p = as_rows(y, p)
    if y.size and y.min() < 0:
        raise ConfigError("amounts of 0 or more", f"{y.min():.4g}", where="gini")
    weights = as_weights(weight, y.size)
    best = _concentration(y, y, weights)
    return answer(ratio(_concentration(y, p, weights), np.where(np.abs(best) > 1e-12, best, 0)), weight)


def _concentration(y: np.ndarray, p: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Weighted covariance of y with the mid-rank of p, over the mean of y: proportional to the Lorenz area [R]."""
    size = weight.sum(axis=1, dtype=np.float64)[:, None]
    rank = _mid_ranks(p, weight) - (size + 1) / 2
    return ratio(np.einsum("rn,rn,n->r", weight, rank, y), total(y, weight) * size[:, 0])


def _mid_ranks(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Mid-ranks from 1, as if each row stood `weight` times -> [R, n]."""
    level, group = np.unique(values, return_inverse=True)
    if not level.size:
        return np.empty(weight.shape)
    order = np.argsort(group, kind="stable")
    first = np.searchsorted(group[order], np.arange(level.size))
    of_level = np.add.reduceat(np.take(weight, order, axis=1), first, axis=1, dtype=np.float64)
    rank = np.cumsum(of_level, axis=1)
    rank -= (of_level - 1) / 2
    return np.take(rank, group, axis=1)
