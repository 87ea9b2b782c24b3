"""Many targets at once: one masked loss per target, summed or weighed by learnt uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from habitus.core.errors import ConfigError
from habitus.models.heads import Head, check_values, is_usable, loss, n_outputs, weight_order
from habitus.tokens.batch import DayBatch
from habitus.training.objectives import Loss, Objective

LIMIT = 5.0


class MultiTask(Objective):
    """L = sum over targets of L_k / ((1 + r_k) e^{s_k}) + s_k / 2, with s_k = 0 at the start and kept in [-5, 5].

    Parameters
    ----------
    heads
        Per window target, in the order of `batch.target` and of the model's window outputs.
    day_heads
        Per target of each future day, in the order of `batch.day_target`.
    weighting
        `"uncertainty"` learns the s_k; `"sum"` holds them at 0, which is sum L_k / (1 + r_k).
    start
        The s_k to begin with; default 0, as in the paper. `balanced` gives those at which every target weighs alike.

    L_k is the mean over usable rows (observed; with an amount, for `masked_mse`) of `heads.loss`; r_k is 1 for squared
    error, else 0. A target with no usable row in the batch, over all devices, contributes neither term.
    In evaluation mode the target values are checked. Errors: `TargetError` with the target and the sample.

    Source: Kendall, Gal and Cipolla, arXiv 1705.07115, equation 10 with s = log sigma^2.

    >>> MultiTask([Head("binary", "buy", 28)], day_heads=[Head("binary", "active", 1)]).names
    ('buy', 'active by day')
    """

    def __init__(
        self,
        heads: list[Head] | tuple[Head, ...],
        weighting: Literal["uncertainty", "sum"] = "uncertainty",
        day_heads: list[Head] | tuple[Head, ...] = (),
        start: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.heads, self.day_heads, self.weighting = tuple(heads), tuple(day_heads), weighting
        self.names = tuple(h.name for h in self.heads) + tuple(f"{h.name} by day" for h in self.day_heads)
        if not self.names or len(set(self.names)) < len(self.names):
            raise ConfigError("at least one target, names that differ", ", ".join(self.names) or "none")
        orders = [float(weight_order(h)) for h in (*self.heads, *self.day_heads)]
        self.order: Tensor
        self.register_buffer("order", torch.tensor(orders), persistent=False)
        is_learnt = weighting == "uncertainty"
        first = torch.zeros(len(self.names)) if start is None else torch.tensor(start).clamp(-LIMIT, LIMIT)
        if len(first) != len(self.names):
            raise ConfigError(f"{len(self.names)} starts, one per target", f"{len(first)}", where="start")
        self.log_variance = nn.Parameter(first, requires_grad=is_learnt)

    def extra_repr(self) -> str:
        return ", ".join([self.weighting, *map(repr, (*self.heads, *self.day_heads))])

    def forward(self, model: nn.Module, batch: DayBatch) -> Loss:
        output = model(batch)
        parts = self._parts(self.heads, output.window, batch.target, batch.is_observed, batch.sample)
        if self.day_heads:
            parts += self._parts(self.day_heads, output.day, batch.day_target, batch.day_is_observed, batch.sample)
        sums, counts, base = (torch.stack(column) for column in zip(*parts))
        return Loss(self._weigh(sums, counts), sums.detach(), counts, base)

    def _parts(
        self, heads: tuple[Head, ...], raw: Tensor, target: Tensor, is_observed: Tensor, sample: Tensor
    ) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Per target: summed loss, number of usable rows, summed loss of the base-rate predictor."""
        parts = []
        for k, (head, z) in enumerate(zip(heads, raw.split([n_outputs(h) for h in heads], dim=-1))):
            y = target[..., k]
            usable = is_usable(head, y, is_observed[..., k])
            if not self.training:
                rows = sample.reshape(-1, *[1] * (y.ndim - 1)).expand_as(y)[usable]
                check_values(head, y[usable].cpu().numpy(), rows.cpu().numpy())
            y = torch.where(usable, y, 1.0)  # 1 is a value that every head can model
            with torch.no_grad():
                base = torch.where(usable, loss(head, torch.zeros_like(z), y), 0.0).sum()
            parts.append((torch.where(usable, loss(head, z, y), 0.0).sum(), usable.sum(), base))
        return parts

    def _weigh(self, sums: Tensor, counts: Tensor) -> Tensor:
        n_devices, counts = _over_devices(counts) if self.training and not self.is_by_batch else (1, counts)
        means = sums * n_devices / counts.clamp(min=1)
        s = self.log_variance.clamp(-LIMIT, LIMIT)
        terms = means / ((1 + self.order) * s.exp()) + 0.5 * s
        return torch.where(counts > 0, terms, 0.0).sum()

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Put the s_k back into [-5, 5]."""
        self.log_variance.clamp_(-LIMIT, LIMIT)


def balanced(heads: Sequence[Head], values: Sequence[np.ndarray]) -> list[float]:
    """Give the s_k at which every base-rate predictor contributes alike: s_k = ln(2 L_k / (1 + r_k)).

    It is where uncertainty weights settle for a model that has learnt nothing. Started from 0, a target whose loss is
    small by nature (a rare event, a single day) is hardly trained before its s_k has moved.

    Parameters
    ----------
    heads, values
        Fitted heads, and the observed training values of each (1-D, original units).

    >>> balanced([Head("binary", "buy", 28)], [np.array([0.0, 1.0])])[0] == np.log(2 * np.log(2))
    np.True_
    """
    found = []
    for head, y in zip(heads, values):
        target = torch.as_tensor(y, dtype=torch.float64)
        target = target[is_usable(head, target, torch.ones_like(target, dtype=torch.bool))]
        base = loss(head, torch.zeros(len(target), n_outputs(head), dtype=torch.float64), target).mean()
        found.append(float(torch.log(2 * base.clamp(min=1e-9) / (1 + weight_order(head)))))
    return found


def _over_devices(counts: Tensor) -> tuple[int, Tensor]:
    """Number of devices that average their gradients, and counts summed over them."""
    if not (dist.is_available() and dist.is_initialized()):
        return 1, counts
    total = counts.clone()
    dist.all_reduce(total)
    return dist.get_world_size(), total
