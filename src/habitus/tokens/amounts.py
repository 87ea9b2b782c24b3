"""What the ids of an amount stand for: nothing, one value, or a range of values."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class AmountBins:
    """The lowest and the highest value of every id (n_rows each, f64); nan where an id stands for no amount.

    Within a range above 0 a value is log-uniform, else uniform.

    >>> nan = torch.nan
    >>> bins = AmountBins(torch.tensor([nan, nan, 0.0, 1.0]), torch.tensor([nan, nan, 0.0, 4.0]))
    >>> bins.draw(torch.tensor([1, 2, 3]), torch.tensor([0.5, 0.5, 0.5]))
    tensor([nan, 0., 2.])
    """

    low: Tensor
    high: Tensor

    def draw(self, ids: Tensor, uniform: Tensor) -> Tensor:
        """Give a value (n) for each id (n)."""
        low, high, uniform = self.low[ids], self.high[ids], uniform.to(self.low)
        linear = low + uniform * (high - low)
        is_log = low > 0
        log = (low.clamp(min=1e-300).log() + uniform * (high / low.clamp(min=1e-300)).clamp(min=1e-300).log()).exp()
        return torch.where(is_log, log, linear)
