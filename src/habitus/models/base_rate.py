"""The base rate: everybody gets the mean of the training rows. Whatever does not beat it has learnt nothing."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from habitus.core.errors import ArtifactError, TrainingError


@dataclass(frozen=True)
class BaseRate:
    """One number: a share for a binary target, a mean in original units for an amount."""

    value: float


def fit(y: np.ndarray) -> BaseRate:
    """Take the mean of the target over training rows [n].

    It is the best constant for log loss and RMSE; for MAE and WAPE the median would be, mostly zero.
    Errors: `TrainingError` without rows, or when the mean is not finite.

    >>> fit(np.array([0, 0, 0, 1])).value
    0.25
    """
    y = np.asarray(y, dtype=np.float64)
    if not y.size or not np.isfinite(y.mean()):
        raise TrainingError("training rows with finite values", f"{y.size} rows", where="base rate")
    return BaseRate(float(y.mean()))


def predict(model: BaseRate, n: int) -> np.ndarray:
    """Give the same forecast n times, float64.

    >>> predict(BaseRate(0.25), 2).tolist()
    [0.25, 0.25]
    """
    return np.full(n, model.value)


def to_json(model: BaseRate) -> dict[str, Any]:
    """Give plain values.

    >>> to_json(BaseRate(0.25))
    {'value': 0.25}
    """
    return asdict(model)


def from_json(values: dict[str, Any]) -> BaseRate:
    """Read what `to_json` gave. Errors: `ArtifactError` for other keys.

    >>> from_json({"value": 0.25})
    BaseRate(value=0.25)
    """
    try:
        return BaseRate(float(values["value"]))
    except (KeyError, TypeError, ValueError) as cause:
        raise ArtifactError("a base rate", str(values)[:80]) from cause
