"""Averages of weights along a run: a steadier model for the price of a copy, useful on small data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class Average:
    """Keeps an exponential average over steps, or the plain mean of the last epochs.

    `kind="ema"`: w <- decay·w + (1 - decay)·weights after every step, with decay at most (1 + n) / (10 + n) so that the
    start is forgotten. `kind="last"`: the mean of the weights at the end of the last `n_epochs` epochs (SWA; Izmailov
    and colleagues, arXiv 1803.05407).

    >>> weights = [torch.zeros(1)]
    >>> average = Average("last", decay=0.0, n_epochs=2)
    >>> for value in (1.0, 2.0, 4.0):
    ...     _ = weights[0].fill_(value)
    ...     average.after_epoch(weights)
    >>> average.swap(weights)
    >>> weights
    [tensor([3.])]
    """

    def __init__(self, kind: str, *, decay: float, n_epochs: int) -> None:
        self.kind, self.decay, self.n_epochs = kind, decay, n_epochs
        self.n_steps = 0
        self.kept: list[list[Tensor]] = []  # ema: one list, the average; last: one per epoch
        self._aside: list[Tensor] | None = None

    @torch.no_grad()
    def after_step(self, weights: Sequence[Tensor]) -> None:
        """Count a step."""
        if self.kind != "ema":
            return
        self.n_steps += 1
        if not self.kept:
            self.kept = [[w.detach().clone() for w in weights]]
            return
        share = 1 - min(self.decay, (1 + self.n_steps) / (10 + self.n_steps))
        for kept, weight in zip(self.kept[0], weights):
            kept.lerp_(weight.detach(), share)

    @torch.no_grad()
    def after_epoch(self, weights: Sequence[Tensor]) -> None:
        """Count an epoch."""
        if self.kind == "last":
            self.kept = [*self.kept, [w.detach().clone() for w in weights]][-self.n_epochs :]

    @torch.no_grad()
    def swap(self, weights: Sequence[Tensor]) -> None:
        """Put the average into `weights`; call again to put the weights back."""
        if self._aside is not None:
            for weight, own in zip(weights, self._aside):
                weight.copy_(own)
            self._aside = None
        elif self.kept:
            self._aside = [w.detach().clone() for w in weights]
            for weight, *own in zip(weights, *self.kept):
                weight.copy_(own[0] if len(own) == 1 else torch.stack(own).mean(dim=0))

    def state_dict(self) -> dict[str, Any]:
        """Give tensors and numbers."""
        return {"n_steps": self.n_steps, "kept": self.kept}

    def load_state_dict(self, state: dict[str, Any], weights: Sequence[Tensor]) -> None:
        """Read what `state_dict` gave, onto the devices of `weights`."""
        self.n_steps = state["n_steps"]
        self.kept = [[t.to(w.device) for t, w in zip(kept, weights)] for kept in state["kept"]]
