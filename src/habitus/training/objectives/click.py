"""Log loss of a click, with a penalty on the table rows that were read and a correction for dropped negatives."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from habitus.core.errors import ConfigError
from habitus.training.objectives import Loss, Objective


class Click(Objective):
    """`-(1/B) sum [y log p + (1 - y) log(1 - p)] + l2 / B * |rows read|^2`.

    Parameters
    ----------
    rate
        Share of clicks among all training rows: the base rate that losses are compared with.
    l2
        Weight of the penalty on table rows that the batch reads, each once.
    keep_rate
        Share w of the negatives that training keeps. Dropping them multiplies the odds by 1 / w; in evaluation mode
        `log w` is added to the logit, so that probabilities are those of all rows.

    Errors: `ConfigError` for a rate outside (0, 1) or a keep rate outside (0, 1].

    >>> round(Click(0.05, keep_rate=0.1).shift, 4)
    -2.3026
    """

    names = ("click",)

    def __init__(self, rate: float, *, l2: float = 5e-6, keep_rate: float = 1.0) -> None:
        super().__init__()
        if not 0 < rate < 1 or not 0 < keep_rate <= 1:
            found = f"rate {rate}, keep rate {keep_rate}"
            raise ConfigError("a rate in (0, 1) and a keep rate in (0, 1]", found, where="click")
        self.l2, self.shift, self.base = l2, math.log(keep_rate), math.log(rate / (1 - rate))

    def forward(self, model: nn.Module, batch: Any) -> Loss:
        logit, y = model(batch), batch.label
        base = self.base - (self.shift if self.training else 0.0)
        if not self.training:
            logit = logit + self.shift
        each = F.binary_cross_entropy_with_logits(logit, y, reduction="none")
        below = F.binary_cross_entropy_with_logits(torch.full_like(y, base), y, reduction="none")
        value = each.sum() / max(len(y), 1)
        if self.training and self.l2:
            value = value + self.l2 / max(len(y), 1) * self.penalty(model, batch)
        count = torch.tensor([len(y)], device=y.device)
        return Loss(value, each.detach().sum()[None], count, below.sum()[None])

    def penalty(self, model: Any, batch: Any) -> Tensor:
        """Sum of squares of the rows that the batch reads, each once."""
        sums = [table[ids.unique()].square().sum() for table, ids in model.touched(batch)]
        return torch.stack(sums).sum()

    def extra_repr(self) -> str:
        return f"l2={self.l2}, shift={self.shift}, base={self.base}"
