"""Bags of users with many events as one table: a user's own interests side by side, a row per window.

Where windows are nearly full, a table is what the products of an encoder want; the sparse form between would be made
and taken apart again. The weights are those of `tokens.bags`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from habitus.tokens.bags import ScaleBags, log1p
from habitus.tokens.window_sums import Grid, Rows, ScaleConfig


@dataclass(frozen=True)
class BagTable:
    """B users: `interest` int64 B J (0 beyond a user's own), `weight` float32 B W J, all windows of all scales in turn.

    `scales` tell each window's events and age; their own weights are left out.
    """

    scales: tuple[ScaleBags, ...]
    interest: Tensor
    weight: Tensor

    def __len__(self) -> int:
        return len(self.interest)


def bag_table(grid: Grid, life: Rows, cutoff: np.ndarray, idf: np.ndarray, scales: Sequence[ScaleConfig]) -> BagTable:
    """Give the bags of a grid made with `life`, the sums over whole lives, at each user's `cutoff` (int64 [B]).

    Nothing is cut off: a user's interests must be no more than a bag may keep.
    """
    b, j = grid.interest.shape
    own, tables, told = idf[grid.interest][:, None], [], []
    for scale in scales:
        if scale.blocks:
            sums, n_events, newest = grid.sums(scale)
        else:
            sums = np.bincount(grid.places(life), weights=life.n, minlength=b * j).reshape(b, 1, j)
            n_events, newest = sums.sum(axis=2), np.full(b, np.iinfo(np.int64).max)
            np.minimum.at(newest, life.row, cutoff[life.row] - life.block)
            newest = np.where(n_events[:, 0] > 0, newest, 0)[:, None]
        weight = log1p(sums) * own
        norm = np.sqrt(np.einsum("btj,btj->bt", weight, weight))
        tables.append((weight / np.maximum(norm, 1e-12)[:, :, None]).astype(np.float32))
        told.append(_told(n_events, newest))
    weight = torch.from_numpy(tables[0] if len(tables) == 1 else np.concatenate(tables, axis=1))
    return BagTable(tuple(told), torch.from_numpy(grid.interest), weight)


def _told(n_events: np.ndarray, newest: np.ndarray) -> ScaleBags:
    dense = (np.log1p(n_events).astype(np.float32), np.log1p(newest).astype(np.float32), n_events == 0)
    none = torch.zeros(0)
    return ScaleBags(none.long(), none, none.long(), *(torch.from_numpy(np.ascontiguousarray(x)) for x in dense))
