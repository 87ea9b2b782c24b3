"""Recency x frequency: a table of means, the analyst's first answer and often a hard one to beat.

Users are put into cells by how long ago they were last active and on how many days they ever were; the forecast is the
training mean of the cell, drawn towards the mean of all in cells with few rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from habitus.core.errors import FingerprintError
from habitus.tokens.aggregates import Aggregates

N_BINS = 12
WEIGHT = 20.0  # rows of the mean of all that every cell holds from the start


@dataclass(frozen=True)
class RecencyFrequency:
    """Bin edges and the mean of each cell.

    Attributes
    ----------
    columns
        The recency column (days) and the frequency column (active days).
    recency, frequency
        Inner bin edges, ascending; a missing value falls into a last bin of its own.
    mean
        float64 [n_recency + 1, n_frequency + 1], original units.
    """

    columns: tuple[str, str]
    recency: np.ndarray
    frequency: np.ndarray
    mean: np.ndarray


def fit(tables: Sequence[Aggregates], y: np.ndarray, event_type: str = "*") -> RecencyFrequency:
    """Fit on rows of several tables, joined in order, with their target values [n].

    `event_type` says whose recency and frequency count; `*` counts all events.
    Errors: `FingerprintError` when the tables lack the columns.
    """
    columns = (f"{event_type}.recency", f"{event_type}.days.all")
    values = np.concatenate([np.stack([_column(table, name) for name in columns], axis=1) for table in tables])
    edges = [_edges(values[:, j]) for j in range(2)]
    cells = [_bin(values[:, j], edges[j]) for j in range(2)]
    shape = (len(edges[0]) + 2, len(edges[1]) + 2)
    flat = cells[0] * shape[1] + cells[1]
    n = np.bincount(flat, minlength=shape[0] * shape[1])
    total = np.bincount(flat, y, minlength=shape[0] * shape[1])
    mean = (total + WEIGHT * y.mean()) / (n + WEIGHT)
    return RecencyFrequency(columns, edges[0], edges[1], mean.reshape(shape))


def predict(model: RecencyFrequency, table: Aggregates) -> np.ndarray:
    """Forecast every row, float64 [n]: a share for binary targets, else the mean in original units."""
    recency, frequency = (_column(table, name) for name in model.columns)
    return model.mean[_bin(recency, model.recency), _bin(frequency, model.frequency)]


def _edges(values: np.ndarray) -> np.ndarray:
    """Give inner edges that put about equally many known values into each bin."""
    known = values[np.isfinite(values)]
    if not known.size:
        return np.zeros(0)
    return np.unique(np.quantile(known, np.linspace(0, 1, N_BINS + 1)[1:-1]))


def _bin(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Place values among edges; missing ones come last."""
    return np.where(np.isnan(values), len(edges) + 1, np.searchsorted(edges, values, side="right"))


def _column(table: Aggregates, name: str) -> np.ndarray:
    if name not in table.names:
        raise FingerprintError(f"a column {name!r}", f"columns {', '.join(table.names[:5])} ...", where="aggregates")
    return table.value[:, table.names.index(name)]
