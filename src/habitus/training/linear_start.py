"""A linear start: the straight way from the profile fitted alone, on all heads at once, before the rest is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from habitus.core.seeds import generator
from habitus.models.heads import Head, is_usable, loss, n_outputs
from habitus.models.lumos import Lumos

ROWS = 40_000  # samples looked at, drawn at random
STEPS = 60
PENALTY = 3e-3  # of a squared weight, beside losses that are 1 for the base rate


@dataclass(frozen=True)
class LinearStart:
    """Weights O x P and biases O from profile columns to raw outputs, targets side by side."""

    weight: Tensor
    bias: Tensor

    @torch.no_grad()
    def put_into(self, model: Lumos) -> None:
        """Let a model start from it. Nothing happens to a model without the straight way (`profile_gain = 0`)."""
        if model.straight is not None:
            model.straight.line.weight.copy_(self.weight / model.straight.gain)
            model.straight.line.bias.copy_(self.bias / model.straight.gain)


def fit_linear(
    heads: Sequence[Head],
    profile: Tensor,
    target: Tensor,
    is_observed: Tensor,
    *,
    n_rows: int = ROWS,
    penalty: float = PENALTY,
    seed: int = 0,
) -> LinearStart:
    """Minimise the mean over targets of loss / loss of the base rate, plus a ridge penalty.

    For a binary target that is a ridge-penalised logistic regression, for a count a negative binomial one, and so on:
    whatever the head says. It is convex for most heads and takes seconds. The step size of a network would need
    thousands of steps for the same.

    Parameters
    ----------
    heads
        K fitted heads.
    profile, target, is_observed
        n x P (standardised), n x K in original units, n x K.

    >>> head = Head("binary", "buy", 28)
    >>> x, y = torch.tensor([[1.0], [1.0], [-1.0], [-1.0]]), torch.tensor([[1.0], [1.0], [0.0], [1.0]])
    >>> fit_linear([head], x, y, torch.ones(4, 1, dtype=torch.bool)).weight.shape
    torch.Size([1, 1])
    """
    rows = torch.from_numpy(generator(seed, "linear start").permutation(len(profile))[:n_rows].copy())
    x, y, seen = profile[rows].double(), target[rows].double(), is_observed[rows]
    usable = [is_usable(head, y[:, k], seen[:, k]) for k, head in enumerate(heads)]
    safe = [torch.where(is_used, y[:, k], 1.0) for k, is_used in enumerate(usable)]  # 1: any head can model it
    widths = [n_outputs(head) for head in heads]

    def losses(raw: Tensor) -> Tensor:
        parts = zip(heads, raw.split(widths, dim=1), safe, usable)
        sums = [(torch.where(is_used, loss(head, z, v), 0.0).sum(), is_used.sum()) for head, z, v, is_used in parts]
        return torch.stack([total / n.clamp(min=1) for total, n in sums])

    weight = torch.zeros(sum(widths), x.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(sum(widths), dtype=torch.float64, requires_grad=True)
    base = losses(x.new_zeros(len(x), sum(widths))).clamp(min=1e-9)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=STEPS, history_size=20, line_search_fn="strong_wolfe")

    def closure() -> float:
        optimiser.zero_grad()
        total = (losses(x @ weight.T + bias) / base).sum() + penalty * weight.square().sum()
        total.backward()
        return float(total.detach())

    optimiser.step(closure)
    return LinearStart(weight.detach().float(), bias.detach().float())
