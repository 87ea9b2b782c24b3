"""Bins of the time between two events, as distributions: silence so far, silence to come, and draws within a bin.

A gap id is 0 (padding), 1 (unknown as an input; as an outcome: longer than every gap of training, so never), 2 (exactly
0 seconds), then 3.. for bins between `edges`. Within a bin the gap is log-uniform.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

NEVER = 1  # the outcome of a user who does not come back
FOREVER = 2.0**40  # seconds
TIE = 2  # the id of a gap of exactly 0


@dataclass(frozen=True)
class GapBins:
    """G bins by their `log_edges` (G + 1, ascending, log seconds); with padding, unknown and ties G + 3 ids.

    >>> bins = GapBins.of([1.0, 60.0, 3600.0])
    >>> bins.n_rows, bins.log_edges.exp().round().tolist()
    (5, [1.0, 60.0, 3600.0])
    """

    log_edges: Tensor

    @classmethod
    def of(cls, seconds: Sequence[float]) -> GapBins:
        """Make bins from edges in seconds."""
        return cls(torch.as_tensor(list(seconds), dtype=torch.float64).log())

    @property
    def n_rows(self) -> int:
        """Rows of the gap table: padding, unknown, ties, bins."""
        return len(self.log_edges) + 2

    def beyond(self, seconds: Tensor) -> Tensor:
        """Give the share of each id's gaps that are longer than `seconds` (n): n x n_rows in [0, 1].

        A gap of 0 is not longer than 0 seconds; never is longer than anything.
        """
        at = seconds.to(self.log_edges).clamp(min=1e-9).log()[:, None]
        low, high = self.log_edges[:-1], self.log_edges[1:]
        share = ((high - at) / (high - low)).clamp(0, 1)
        found = torch.cat([torch.zeros(len(share), TIE + 1, dtype=share.dtype, device=share.device), share], dim=1)
        found[:, NEVER] = 1
        return found

    def log_survival(self, log_p: Tensor, seconds: Tensor) -> Tensor:
        """Give log P(gap > seconds), n, for log probabilities (n x n_rows)."""
        share = self.beyond(seconds).to(log_p)
        return torch.logsumexp(log_p + share.clamp(min=1e-30).log(), dim=1)

    def after(self, p: Tensor, elapsed: Tensor) -> Tensor:
        """Give probabilities (n x n_rows) of a gap given that nothing happened for `elapsed` (n) seconds.

        Where no bin reaches that far, all of the mass is on never.
        """
        kept = p * self.beyond(elapsed).to(p)
        total = kept.sum(dim=1, keepdim=True)
        last = torch.zeros_like(kept)
        last[:, NEVER] = 1
        return torch.where(total > 1e-30, kept / total.clamp(min=1e-30), last)

    def draw(self, ids: Tensor, uniform: Tensor, elapsed: Tensor | None = None) -> Tensor:
        """Give seconds (n, f64) within the bins of `ids` (n), above `elapsed` (n) where it is given."""
        place = (ids - TIE - 1).clamp(min=0)
        low, high = self.log_edges[place], self.log_edges[place + 1]
        if elapsed is not None:
            low = torch.maximum(low, elapsed.to(low).clamp(min=1e-9).log()).minimum(high)
        seconds = (low + uniform.to(low) * (high - low)).exp()
        return torch.where(ids == NEVER, FOREVER, torch.where(ids <= TIE, 0.0, seconds))

    def encode(self, seconds: Tensor) -> Tensor:
        """Give the ids (n) of gaps in seconds (n); beyond the edges the nearest bin."""
        place = torch.bucketize(seconds.to(self.log_edges).clamp(min=1e-9).log(), self.log_edges[1:-1], right=True)
        return torch.where(seconds <= 0, TIE, place + TIE + 1)
