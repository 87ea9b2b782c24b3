"""One column at a time: fit on train, then encode; every encoder is frozen, small and readable as JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np


def signed_log1p(values: np.ndarray) -> np.ndarray:
    """Give sign(x) log(1 + |x|): small numbers stay, large ones shrink, the sign survives.

    >>> signed_log1p(np.array([-1.0, 0.0, 1.0])).round(3).tolist()
    [-0.693, 0.0, 0.693]
    """
    return np.sign(values) * np.log1p(np.abs(values))


@dataclass(frozen=True)
class Scaler:
    """Signed logarithm, then mean 0 and standard deviation 1 per column; missing values become 0, the mean.

    >>> scaler = Scaler.fit(np.array([[1.0, 5.0], [3.0, 5.0]]))
    >>> scaler.encode(np.array([[1.0, 5.0]])).round(2).tolist()
    [[-1.0, 0.0]]
    """

    location: np.ndarray  # float32 [n_columns]
    scale: np.ndarray  # float32 [n_columns], > 0

    @classmethod
    def fit(cls, values: np.ndarray, *, clip: float = 1e-6) -> Self:
        """Fit on rows n x columns; a constant column gets scale 1, an empty table location 0."""
        if len(values) == 0:
            return cls(np.zeros(values.shape[1], np.float32), np.ones(values.shape[1], np.float32))
        logs = signed_log1p(np.asarray(values, np.float64))
        known = np.isfinite(logs)
        count = np.maximum(known.sum(axis=0), 1)
        location = np.where(known, logs, 0.0).sum(axis=0) / count
        variance = np.where(known, (logs - location) ** 2, 0.0).sum(axis=0) / count
        scale = np.where(variance > clip, np.sqrt(variance), 1.0)
        return cls(location.astype(np.float32), scale.astype(np.float32))

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Give float32 of the same shape; the last axis is the columns. Extremes are cut at 8 deviations."""
        scaled = (signed_log1p(np.asarray(values)).astype(np.float32) - self.location) / self.scale
        return np.nan_to_num(np.clip(scaled, -8.0, 8.0), nan=0.0).astype(np.float32)

    def to_json(self) -> dict[str, Any]:
        """Give plain lists."""
        return {"location": [float(v) for v in self.location], "scale": [float(v) for v in self.scale]}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Read what `to_json` gave."""
        return cls(np.array(values["location"], np.float32), np.array(values["scale"], np.float32))
