"""Base rate: the training mean for everybody. What a model must beat to have learnt anything."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from habitus.core.errors import TargetError


@dataclass(frozen=True)
class BaseRate:
    """The training mean of one target: a share for binary targets, else an amount in original units."""

    value: float


def fit(y: np.ndarray) -> BaseRate:
    """Take the mean of training values [n]. Errors: `TargetError` without any.

    >>> fit(np.array([0.0, 0.0, 1.0, 1.0]))
    BaseRate(value=0.5)
    """
    if not len(y):
        raise TargetError("observed training values", "none", where="base rate")
    return BaseRate(float(np.mean(y)))


def predict(model: BaseRate, n: int) -> np.ndarray:
    """Forecast n rows, all alike: float64 [n]."""
    return np.full(n, model.value)
