"""Row weights of metrics: none, one per row, or one row of weights per resample."""

from __future__ import annotations

import numpy as np

from habitus.core.errors import ConfigError

Value = np.ndarray | float  # a float without resamples, else one value per resample [R]


def as_rows(*columns: np.ndarray) -> tuple[np.ndarray, ...]:
    """Give the columns as flat float64 arrays of one length.

    Errors: `ConfigError` when lengths differ.
    """
    rows = tuple(np.asarray(column, dtype=np.float64).ravel() for column in columns)
    if len({row.size for row in rows}) > 1:
        raise ConfigError("arrays of one length", f"lengths {', '.join(str(r.size) for r in rows)}", where="metric")
    return rows


def as_weights(weight: np.ndarray | None, n: int) -> np.ndarray:
    """Give weights [R, n]; None becomes one row of ones.

    Errors: `ConfigError` when the last axis is not n long.
    """
    if weight is None:
        return np.ones((1, n), dtype=np.float32)
    weight = np.atleast_2d(weight)
    if weight.shape[-1] != n:
        raise ConfigError(f"weights for {n} rows", f"weights of shape {weight.shape}", where="metric")
    return weight if weight.dtype.kind == "f" else weight.astype(np.float32)


def answer(value: np.ndarray, weight: np.ndarray | None) -> Value:
    """Give a float when the caller had no resamples, else the array [R]."""
    return value if weight is not None and np.ndim(weight) == 2 else float(value[0])


def total(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Sum of weight * value for each resample [R], added up in float64."""
    return np.einsum("rn,n->r", weight, values, dtype=np.float64)


def ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """Divide; NaN where there is nothing to divide by."""
    return np.divide(top, bottom, out=np.full(np.shape(bottom), np.nan), where=bottom != 0)


def mean(values: np.ndarray, weight: np.ndarray | None = None) -> Value:
    """Weighted mean of rows; NaN without rows.

    >>> mean(np.array([1.0, 4.0]), np.array([2, 1]))
    2.0
    """
    (values,) = as_rows(values)
    weights = as_weights(weight, values.size)
    return answer(ratio(total(values, weights), weights.sum(axis=1, dtype=np.float64)), weight)


def groups(sorted_values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give for each row of a sorted array where its run of equal values starts, and where it ends (exclusive).

    >>> groups(np.array([1, 3, 3, 9]))
    (array([0, 1, 1, 3]), array([1, 3, 3, 4]))
    """
    n = sorted_values.size
    is_first = np.ones(n, dtype=bool)
    is_first[1:] = sorted_values[1:] != sorted_values[:-1]
    starts = np.flatnonzero(is_first)
    run = np.cumsum(is_first) - 1
    return starts[run], np.append(starts[1:], n)[run]


def running(weight: np.ndarray) -> np.ndarray:
    """Running total along rows with a leading zero -> [R, n + 1] float64."""
    result = np.zeros((weight.shape[0], weight.shape[1] + 1))
    np.cumsum(weight, axis=1, dtype=np.float64, out=result[:, 1:])
    return result
