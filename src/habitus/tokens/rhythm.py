"""Rhythm: when and how often a user did something of each group of event types; never what.

Bags say which interests; at unit length they tell little of how much, and nothing of the kind of event. The rhythm is
the counts themselves. For each group: log(1 + events) of the last 1, 2, 4, .. blocks and of the whole life,
log(1 + age) of the newest event and log(1 + blocks with an event); and once, log(1 + age) of the oldest. Blocks beyond
the reach of the scales tell their sum alone.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from habitus.tokens.window_sums import Rows

BESIDE = 3  # numbers of a group that are no window: life, newest, blocks


def rhythm_width(reach: int, n_groups: int) -> int:
    """Give the numbers of a rhythm of so many blocks.

    >>> rhythm_width(52, 1), rhythm_width(52, 3)
    (11, 31)
    """
    return n_groups * (len(_ends(reach)) + BESIDE) + 1


def rhythm_of(
    rows: Rows,
    life: Rows | None,
    n_users: int,
    cutoff: np.ndarray,
    reach: int,
    n_groups: int = 1,
    events: np.ndarray | None = None,
) -> Tensor:
    """Give the rhythm of B users, float32 B x `rhythm_width`; 0 throughout without an event.

    `rows` and `life` are what `read_rows` gives, with groups where there are more than one; `cutoff` int64 [B]. Other
    users, layers and what lies after a cut-off change nothing. `events` are those by user and age B x reach, where a
    grid has summed them already.
    """
    has_events = events is not None and n_groups == 1
    n = events[:, None] if has_events else _by_age(rows, n_users, cutoff, reach, n_groups)  # type: ignore[index]
    read = rows if life is None else life
    whole = np.bincount(_whose(read, n_groups), weights=read.n, minlength=n_users * n_groups).reshape(n_users, -1)
    is_there = n > 0
    is_known = whole > 0
    newest = np.where(is_there.any(axis=-1), is_there.argmax(axis=2), reach) * is_known
    is_any: np.ndarray = np.logical_or.reduce(is_there, axis=1)
    age: np.ndarray = np.where(is_any.any(axis=-1), reach - 1 - is_any[:, ::-1].argmax(axis=1), reach)
    oldest = age * is_known.any(axis=-1)
    windows = n.cumsum(axis=2)[:, :, _ends(reach)]
    parts = [windows.reshape(n_users, -1), whole, newest, is_there.sum(axis=2), oldest[:, None]]
    return torch.from_numpy(np.log1p(np.concatenate(parts, axis=1)).astype(np.float32))


def _ends(reach: int) -> list[int]:
    """Give the last age in each window: 1, 2, 4, .. blocks long, the last `reach`."""
    return [2**k - 1 for k in range(reach.bit_length()) if 2**k < reach] + [reach - 1]


def _by_age(rows: Rows, n_users: int, cutoff: np.ndarray, reach: int, n_groups: int) -> np.ndarray:
    """Give events by user, group and age in blocks, float64 (whole numbers)."""
    cell = _whose(rows, n_groups) * reach
    age = cutoff[rows.row] - rows.block
    cell += age
    weight = rows.n
    if (old := age >= reach).any():
        cell, weight = cell[~old], weight[~old]
    n = np.bincount(cell, weights=weight, minlength=n_users * n_groups * reach)
    return n.reshape(n_users, n_groups, reach)


def _whose(rows: Rows, n_groups: int) -> np.ndarray:
    if n_groups == 1:
        return rows.row.copy()
    assert rows.group is not None
    return rows.row * n_groups + rows.group
