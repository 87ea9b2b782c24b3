"""Models that are counted, not trained: tables in buffers, one streaming pass over a loader."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from habitus.tokens.batch import EventBatch


class Tables(nn.Module):
    """A module whose buffers take the size of what is loaded into them, so that an artifact can hold counts."""

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        for name, own in list(self.named_buffers(recurse=False)):
            found = state_dict.get(prefix + name)
            if found is not None and found.shape != own.shape:
                setattr(self, name, torch.empty_like(found, device=own.device))
        super()._load_from_state_dict(state_dict, prefix, *rest)


def last_positions(batch: EventBatch) -> tuple[Tensor, Tensor]:
    """Give the row numbers and the place of the last event of each row.

    >>> last_positions(EventBatch.empty(n_fields=1))
    (tensor([], dtype=torch.int64), tensor([], dtype=torch.int64))
    """
    return torch.arange(len(batch), device=batch.length.device), batch.length - 1


def added_up(pieces: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Sum weights by key, one piece (keys, weights) at a time: the distinct keys, sorted, and their sums in f64.

    Memory follows the number of distinct keys, not that of pieces.

    >>> added_up([(torch.tensor([3, 1]), torch.ones(2)), (torch.tensor([3]), torch.ones(1))])
    (tensor([1, 3]), tensor([1., 2.], dtype=torch.float64))
    """
    own, sums = torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.float64)
    waiting: list[tuple[Tensor, Tensor]] = []
    n_waiting = 0
    for key, weight in pieces:
        waiting.append((key, weight.double()))
        n_waiting += len(key)
        if n_waiting > max(1_000_000, len(own)):
            own, sums = _merge([(own, sums), *waiting])
            waiting, n_waiting = [], 0
    return _merge([(own, sums), *waiting])


def _merge(pieces: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    keys, weights = (torch.cat(column) for column in zip(*pieces))
    own, place = keys.unique(return_inverse=True)
    return own, torch.zeros(len(own), dtype=torch.float64).index_add_(0, place, weights)


def spread(first: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
    """List the places first[i] .. first[i] + n[i] - 1 of every i one after the other, and the i of each.

    >>> spread(torch.tensor([5, 0]), torch.tensor([2, 1]))
    (tensor([5, 6, 0]), tensor([0, 0, 1]))
    """
    owner = torch.repeat_interleave(torch.arange(len(n), device=n.device), n)
    before = n.cumsum(0) - n
    return first[owner] + torch.arange(len(owner), device=n.device) - before[owner], owner
