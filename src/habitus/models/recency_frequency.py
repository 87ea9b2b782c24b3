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
    kind
        The event type whose recency and frequency are looked up; `*` is any.
    recency_edges, frequency_edges
        Inner edges of the bins, rising; a value goes into the first bin whose edge is not below it.
    value
        float64 [recency bins + 1, frequency bins]; the last row is for users without a recency (never seen).
    """

    kind: str
    recency_edges: np.ndarray
    frequency_edges: np.ndarray
    value: np.ndarray


def fit(
    tables: Sequence[Aggregates], y: np.ndarray, kind: str = "*", *, n_bins: int = 12, prior_rows: float = 20.0
) -> RecencyFrequency:
    """Fill the table from training rows: a share for a binary target, a mean in original units for an amount.

    Recency is days since the last day active in `kind`, frequency the number of such days so far. Bins hold about
    equally many rows; small whole numbers keep a bin each. A cell of few rows is drawn towards the mean of all, as if
    `prior_rows` rows of it stood in every cell.

    `y` [n] has one value per row of the tables, one after the other.
    Errors: `TrainingError` without rows; `ConfigError` when `kind` has no columns, or y another length.

    >>> value = np.array([[1, 5], [1, 5], [90, 1], [90, 1]], np.float32)
    >>> table = Aggregates(("buy.recency", "buy.days.all"), value, np.zeros(2, bool), np.zeros(2, bool))
    >>> model = fit([table], np.array([1, 1, 0, 0]), "buy", prior_rows=1.0)
    >>> predict(model, table).round(2).tolist()
    [0.83, 0.83, 0.17, 0.17]
    """
    y = np.asarray(y, dtype=np.float64)
    recency, frequency = (np.concatenate(parts) for parts in zip(*(_columns(table, kind) for table in tables)))
    if not y.size:
        raise TrainingError("training rows", "none", where="recency x frequency")
    if y.size != recency.size:
        raise ConfigError(f"{recency.size} target values", f"{y.size}", where="recency x frequency")
    recency_edges, frequency_edges = _edges(recency, n_bins), _edges(frequency, n_bins)
    shape = (recency_edges.size + 2, frequency_edges.size + 1)
    cell = _cell(recency_edges, frequency_edges, recency, frequency)
    n, sums = (np.bincount(cell, weights=w, minlength=shape[0] * shape[1]) for w in (None, y))
    value = (sums + prior_rows * y.mean()) / (n + prior_rows)
    return RecencyFrequency(kind, recency_edges, frequency_edges, value.reshape(shape))


def predict(model: RecencyFrequency, table: Aggregates) -> np.ndarray:
    """Look every row up, float64 [n]. Ties are many, since a table has few cells.

    Errors: `ConfigError` when the aggregates lack the columns.
    """
    cell = _cell(model.recency_edges, model.frequency_edges, *_columns(table, model.kind))
    return model.value.ravel()[cell]


def to_json(model: RecencyFrequency) -> dict[str, Any]:
    """Give plain values."""
    return {name: v.tolist() if isinstance(v, np.ndarray) else v for name, v in vars(model).items()}


def from_json(values: dict[str, Any]) -> RecencyFrequency:
    """Read what `to_json` gave. Errors: `ArtifactError` for other keys.

    >>> table = {"kind": "*", "recency_edges": [7.0], "frequency_edges": [], "value": [[0.5], [0.1], [0.0]]}
    >>> from_json(table).value.shape
    (3, 1)
    """
    try:
        arrays = {name: np.asarray(v, dtype=np.float64) for name, v in values.items() if name != "kind"}
        return RecencyFrequency(kind=str(values["kind"]), **arrays)
    except (KeyError, TypeError, ValueError) as cause:
        raise ArtifactError("a recency x frequency table", str(values)[:80]) from cause


def _columns(table: Aggregates, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Recency and frequency of a type; where the log has one type only, `*` stands for it."""
    wanted = [f"{kind}.recency", f"{kind}.days.all"]
    if kind == "*" and wanted[0] not in table.names:
        wanted = [next((n for n in table.names if n.endswith(end)), end) for end in (".recency", ".days.all")]
    missing = [name for name in wanted if name not in table.names]
    if missing:
        known = [name.removesuffix(".recency") for name in table.names if name.endswith(".recency")]
        raise ConfigError("a type out of: " + ", ".join(known), repr(kind), where="recency x frequency")
    recency, frequency = (table.value[:, table.names.index(name)] for name in wanted)
    return recency, frequency


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
