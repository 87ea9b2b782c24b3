"""How sure is a figure? Resamples of users, each drawn with all of its rows, the same for every model compared.

Rows of one user are not independent (overlapping windows, one temper), so users are drawn, not rows. A resample is a
set of counts: a user drawn twice weighs two. Metrics take these weights directly, so nothing is copied or sorted again.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from habitus.core.errors import ConfigError
from habitus.core.seeds import generator
from habitus.metrics.weights import Value

N_RESAMPLES = 500
_BLOCK = 2_000_000  # weights held at once by a thread
_THREADS = 2

Metric = Callable[..., Value]  # metric(y, p, weight) -> float, or [R] for weights [R, n]


@dataclass(frozen=True)
class Interval:
    """A figure with the percentile interval of its resamples."""

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, float | None]:
        """Give plain values; NaN becomes None."""
        return {k: None if np.isnan(v) else v for k, v in vars(self).items()}


@dataclass(frozen=True)
class Resamples:
    """R draws of the same number of users, with replacement.

    Attributes
    ----------
    count
        uint8 [R, users]: how often each user was drawn.
    row_user
        int64 [n]: place of each row's user in `count`.
    """

    count: np.ndarray
    row_user: np.ndarray

    def __len__(self) -> int:
        return self.count.shape[0]

    def weights(self, some: slice) -> np.ndarray:
        """Give the row weights of some resamples, float32 [some, n]."""
        return np.take(self.count[some].astype(np.float32), self.row_user, axis=1)


def resamples(user: np.ndarray, n_resamples: int = N_RESAMPLES, *, seed: int = 0) -> Resamples:
    """Draw users with replacement, as multinomial counts; `user` [n] names the user of each row, in any coding.

    The draws depend on `seed`, the number of users and their order alone.
    Errors: `ConfigError` for fewer than 2 resamples.

    >>> drawn = resamples(np.array([7, 7, 9]), 100)
    >>> int(drawn.count.sum(axis=1).max()), drawn.weights(slice(0, 9)).shape
    (2, (9, 3))
    """
    if n_resamples < 2:
        raise ConfigError("at least 2 resamples", f"{n_resamples}", where="bootstrap")
    people, row_user = np.unique(np.asarray(user), return_inverse=True)
    rng = generator(seed, "bootstrap")
    count = np.zeros((n_resamples, people.size), dtype=np.uint8)
    for row in count:
        drawn = np.bincount(rng.integers(0, max(people.size, 1), people.size), minlength=people.size)
        row[:] = np.minimum(drawn, 255)
    return Resamples(count, row_user)


def interval(
    metric: Metric, y: np.ndarray, p: np.ndarray, drawn: Resamples, *, confidence: float = 0.95, **options: Any
) -> Interval:
    """Give a metric with its percentile interval over users.

    Resamples in which the metric does not exist (one class only) are left out; NaN limits when none is left. Seed noise
    of the model is not inside the interval.

    >>> from habitus.metrics.regression import mae
    >>> y = np.arange(100.0)
    >>> found = interval(mae, y, y + 1, resamples(np.arange(100)))
    >>> (found.value, found.low, found.high)
    (1.0, 1.0, 1.0)
    """
    return of_draws(float(metric(y, p, None, **options)), distribution(metric, y, p, drawn, **options), confidence)


def paired_difference(
    metric: Metric,
    y: np.ndarray,
    p: np.ndarray,
    against: np.ndarray,
    drawn: Resamples,
    *,
    confidence: float = 0.95,
    **options: Any,
) -> Interval:
    """Give metric(y, p) - metric(y, against) with its interval, both on the same users in every resample.

    Pairing removes what both share: the interval is mostly far narrower than the two single intervals suggest.

    >>> from habitus.metrics.regression import mae
    >>> y = np.arange(100.0)
    >>> found = paired_difference(mae, y, y + 1, y + 3, resamples(np.arange(100)))
    >>> (found.value, found.high)
    (-2.0, -2.0)
    """
    value = float(metric(y, p, None, **options)) - float(metric(y, against, None, **options))
    one, other = (distribution(metric, y, q, drawn, **options) for q in (p, against))
    return of_draws(value, one - other, confidence)


def distribution(metric: Metric, y: np.ndarray, p: np.ndarray, drawn: Resamples, **options: Any) -> np.ndarray:
    """Give the metric of every resample [R]: difference two of these when many pairs are compared.

    Errors: `ConfigError` when y has not one row per row of the resamples.
    """
    if len(y) != drawn.row_user.size:
        raise ConfigError(f"{drawn.row_user.size} rows, as resampled", f"{len(y)} rows", where="bootstrap")
    step = max(1, _BLOCK // max(drawn.row_user.size, 1))
    blocks = [slice(start, start + step) for start in range(0, len(drawn), step)]
    with ThreadPoolExecutor(_THREADS) as pool:  # numpy lets go of the interpreter in long array work
        parts = pool.map(lambda some: np.atleast_1d(metric(y, p, drawn.weights(some), **options)), blocks)
        return np.concatenate(list(parts))


def of_draws(value: float, draws: np.ndarray, confidence: float = 0.95) -> Interval:
    """Give the interval of a value from its draws, or from the difference of two models' draws.

    >>> of_draws(2.0, np.arange(5.0), confidence=0.5)
    Interval(value=2.0, low=1.0, high=3.0)
    """
    draws = draws[~np.isnan(draws)]
    if not draws.size:
        return Interval(value, float("nan"), float("nan"))
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(value, float(low), float(high))
