"""Recency x frequency: a table of means. Two numbers per user, and hard to beat by much on churn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from habitus.core.errors import ArtifactError, ConfigError, TrainingError
from habitus.tokens.aggregates import Aggregates


@dataclass(frozen=True)
class RecencyFrequency:
    """A table of smoothed means.

    Attributes
    ----------
    recency_edges, frequency_edges
        Inner edges of the bins, rising; a value goes into the first bin whose edge is not below it.
    value
        float64 [recency bins + 1, frequency bins]; the last row is for users without a recency (never seen).
    """

    recency_edges: np.ndarray
    frequency_edges: np.ndarray
    value: np.ndarray


def recency_and_frequency(table: Aggregates, types: Sequence[str] = ()) -> tuple[np.ndarray, np.ndarray]:
    """Take days since the last active day, and the number of active days so far, from windowed aggregates.

    Those of the one type given, if it has columns of its own; else of all types together.
    Errors: `ConfigError` when the table has no such columns.

    >>> table = Aggregates(("buy.recency", "buy.days.all"), np.ones((3, 2), np.float32), np.zeros(2), np.zeros(2))
    >>> recency_and_frequency(table, ["buy"])[0].shape
    (3,)
    """
    kinds = [name.removesuffix(".recency") for name in table.names if name.endswith(".recency")]
    kinds = [kind for kind in kinds if f"{kind}.days.all" in table.names]
    if not kinds:
        raise ConfigError("columns *.recency and *.days.all", "none", where="recency x frequency")
    any_type = "*" if "*" in kinds else kinds[0]  # a log of one type has no other
    kind = types[0] if len(types) == 1 and types[0] in kinds else any_type
    recency, frequency = (table.value[:, table.names.index(f"{kind}.{what}")] for what in ("recency", "days.all"))
    return recency, frequency


def fit(
    recency: np.ndarray, frequency: np.ndarray, y: np.ndarray, *, n_bins: int = 12, prior_rows: float = 20.0
) -> RecencyFrequency:
    """Fill the table from training rows [n]: a share for a binary target, a mean in original units for an amount.

    Bins hold about equally many rows; small whole numbers keep a bin each. A cell of few rows is drawn towards the
    mean of all, as if `prior_rows` rows of it stood in every cell.
    Errors: `TrainingError` without rows; `ConfigError` when lengths differ.

    >>> model = fit(np.array([1, 1, 90, 90]), np.array([5, 5, 1, 1]), np.array([1, 1, 0, 0]), prior_rows=1.0)
    >>> predict(model, np.array([1, 90]), np.array([5, 1])).round(2).tolist()
    [0.83, 0.17]
    """
    recency, frequency, y = (np.asarray(values, dtype=np.float64) for values in (recency, frequency, y))
    if not y.size:
        raise TrainingError("training rows", "none", where="recency x frequency")
    if not y.size == recency.size == frequency.size:
        raise ConfigError(f"{recency.size} target values", f"{y.size}", where="recency x frequency")
    recency_edges, frequency_edges = _edges(recency, n_bins), _edges(frequency, n_bins)
    shape = (recency_edges.size + 2, frequency_edges.size + 1)
    cell = _cell(recency_edges, frequency_edges, recency, frequency)
    n, sums = (np.bincount(cell, weights=w, minlength=shape[0] * shape[1]) for w in (None, y))
    value = (sums + prior_rows * y.mean()) / (n + prior_rows)
    return RecencyFrequency(recency_edges, frequency_edges, value.reshape(shape))


def predict(model: RecencyFrequency, recency: np.ndarray, frequency: np.ndarray) -> np.ndarray:
    """Look every row up, float64 [n]. Ties are many, since a table has few cells."""
    return model.value.ravel()[_cell(model.recency_edges, model.frequency_edges, recency, frequency)]


def to_json(model: RecencyFrequency) -> dict[str, Any]:
    """Give plain values."""
    return {name: values.tolist() for name, values in vars(model).items()}


def from_json(values: dict[str, Any]) -> RecencyFrequency:
    """Read what `to_json` gave. Errors: `ArtifactError` for other keys.

    >>> from_json({"recency_edges": [7.0], "frequency_edges": [], "value": [[0.5], [0.1], [0.0]]}).value.shape
    (3, 1)
    """
    try:
        return RecencyFrequency(**{name: np.asarray(v, dtype=np.float64) for name, v in values.items()})
    except (TypeError, ValueError) as cause:
        raise ArtifactError("a recency x frequency table", str(values)[:80]) from cause


def _edges(values: np.ndarray, n_bins: int) -> np.ndarray:
    """Inner edges of bins of about equal mass."""
    known = np.asarray(values, dtype=np.float64)
    known = known[~np.isnan(known)]
    if not known.size:
        return np.zeros(0)
    inner = np.quantile(known, np.arange(1, n_bins) / n_bins, method="lower")
    return np.unique(inner[inner < known.max()])


def _cell(
    recency_edges: np.ndarray, frequency_edges: np.ndarray, recency: np.ndarray, frequency: np.ndarray
) -> np.ndarray:
    never = recency_edges.size + 1
    row = np.where(np.isnan(recency), never, np.searchsorted(recency_edges, recency, side="left"))
    column = np.searchsorted(frequency_edges, np.nan_to_num(frequency), side="left")
    return row * (frequency_edges.size + 1) + column
