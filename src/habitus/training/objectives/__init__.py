"""What a training run minimises. An objective calls the model; the model knows no loss.

An objective owns whatever belongs to the loss alone: weights between targets, running class losses, projection heads.
All of its state lives in parameters and buffers, so that a checkpoint holds it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Loss:
    """The loss of one batch. n terms, in the order of the objective's `names`.

    >>> part = Loss(torch.tensor(1.5), torch.tensor([3.0, 0.0]), torch.tensor([2, 0]), torch.tensor([4.0, 0.0]))
    >>> part.means
    tensor([1.5000,    nan])
    """

    value: Tensor  # scalar, what backward() starts from
    sums: Tensor  # [n] unweighted loss per term, summed over its rows, no gradient
    counts: Tensor  # [n] rows behind each sum
    base: Tensor | None = None  # [n] the same sums for the base-rate predictor, where there is one

    @property
    def means(self) -> Tensor:
        """[n] mean loss per term; nan where a term has no row."""
        return self.sums / torch.where(self.counts > 0, self.counts, torch.nan)


class Objective(nn.Module):
    """The base of every objective: `names`, and a forward that gives a `Loss`.

    `forward(model, batch)` may call the model as often as it needs (two views of a user, say). It must give a finite
    loss for a batch of no rows. `after_step` is called once after every optimiser step.
    """

    names: tuple[str, ...] = ()
    is_by_batch: bool = False  # a step is the mean over its batches, however many devices share them

    def forward(self, model: nn.Module, batch: Any) -> Loss:
        """Give the loss of a batch."""
        raise NotImplementedError

    def after_step(self, progress: float) -> None:
        """Update own state; `progress` is the share of the run's steps done so far, 0 to 1."""


def ratios(sums: Tensor, counts: Tensor, base: Tensor | None) -> Tensor:
    """[n] mean loss per term over that of the base-rate predictor (or the mean loss itself, where there is none).

    Below 1 is better than the base rate. A term without rows, or whose base-rate loss is 0, gives nan.

    >>> ratios(torch.tensor([1.0, 0.0]), torch.tensor([2, 0]), torch.tensor([2.0, 0.0]))
    tensor([0.5000,    nan])
    """
    has_rows = counts > 0
    below = counts.to(sums.dtype) if base is None else base
    return sums / torch.where(has_rows & (below != 0), below, torch.nan)


def score(sums: Tensor, counts: Tensor, base: Tensor | None) -> float:
    """Give the one number that early stopping watches: the unweighted mean of `ratios`.

    >>> score(torch.tensor([1.0, 3.0]), torch.tensor([2, 2]), torch.tensor([2.0, 4.0]))
    0.625
    """
    return float(ratios(sums, counts, base).nanmean())
