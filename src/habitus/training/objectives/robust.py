"""Losses that look after rare classes: re-weighted, adjusted, or worst-case over label shares near those of training.

Every variant is `start(config, counts)`, `loss(config, logits, target, state)` and
`update(config, state, ce_sum, count)`: pure functions on a small state. `Robust` holds config and state in buffers for
an objective. Letters: n rows, C classes.

Sources: class-balanced weights, Cui et al., arXiv 1901.05555; logit adjustment, Menon et al., arXiv 2007.07314; focal
loss, Lin et al., arXiv 1708.02002; group DRO, Sagawa et al., arXiv 1911.08731. The class-wise radius follows the idea
of BehaveGPT, arXiv 2505.17631 (wider for rare classes); its formula and its exact solution are ours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Self

import torch
import torch.distributed as dist
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from habitus.core.config import Config

Name = Literal["erm", "class_balanced", "logit_adjusted", "focal", "group_dro", "kl_dro", "box_dro"]
_KNOBS: dict[str, set[str]] = {
    "erm": set(),
    "class_balanced": {"beta"},
    "logit_adjusted": {"tau"},
    "focal": {"focus"},
    "group_dro": {"eta", "bonus"},
    "kl_dro": {"temperature", "level"},
    "box_dro": {"kappa", "gamma", "r_max", "r_low"},
}


class RobustConfig(Config):
    """Which loss, and its knobs; a knob of another loss is an error.

    Each is plain cross-entropy (`erm`) at: beta 0, tau 0, focus 0, eta 0, temperature infinite, kappa 0. `decay` is the
    memory of a class's running loss per row seen; `warm_up` is the share of the run that begins with plain
    cross-entropy.

    >>> RobustConfig(name="box_dro").kappa
    0.3
    >>> RobustConfig.parse({"name": "erm", "kappa": 1})
    Traceback (most recent call last):
    ...
    habitus.core.errors.ConfigError: expected  knobs of erm alone: none
    ...
    """

    name: Name = "erm"
    beta: float = Field(default=0.999, ge=0, lt=1)
    tau: float = Field(default=1.0, ge=0)
    focus: float = Field(default=2.0, ge=0)
    eta: float = Field(default=0.01, ge=0)
    bonus: float = Field(default=0.0, ge=0)
    temperature: float = Field(default=1.0, gt=0)
    level: Literal["class", "sample"] = "class"
    kappa: float = Field(default=0.3, ge=0)
    gamma: float = Field(default=0.25, ge=0)
    r_max: float = Field(default=5.0, ge=0)
    r_low: float = Field(default=0.5, ge=0, le=1)
    decay: float = Field(default=0.98, ge=0, lt=1)
    warm_up: float = Field(default=0.05, ge=0, le=1)

    @model_validator(mode="after")
    def _own_knobs(self) -> Self:
        foreign = self.model_fields_set - _KNOBS[self.name] - {"name", "decay", "warm_up"}
        if foreign:
            raise ValueError(f"knobs of {self.name} alone: {', '.join(sorted(_KNOBS[self.name])) or 'none'}")
        return self


_PLAIN = RobustConfig()


@dataclass(frozen=True)
class State:
    """What a loss remembers. All f32, C long, but `n_updates`."""

    counts: Tensor  # training rows per class
    mean: Tensor  # running mean cross-entropy
    is_seen: Tensor  # 1 once a class has been in a batch
    log_q: Tensor  # log share, of group_dro alone
    n_updates: Tensor  # scalar


@dataclass(frozen=True)
class RobustLoss:
    """`value` is what backward() starts from; `ce` and `weight` are per row, without gradient."""

    value: Tensor  # scalar
    ce: Tensor  # n, plain cross-entropy
    weight: Tensor  # n, of the row in the mean


def start(config: RobustConfig, counts: Tensor) -> State:
    """Give the first state from the training rows of each class (C, counts; classes that never occur have 0).

    >>> start(RobustConfig(), torch.tensor([3.0, 1.0])).mean
    tensor([0., 0.])
    """
    counts = counts.to(torch.float32)
    share = counts / counts.sum().clamp(min=1)
    zeros = torch.zeros_like(counts)
    return State(counts, zeros, zeros.clone(), share.clamp(min=1e-30).log(), torch.zeros((), device=counts.device))


def loss(config: RobustConfig, logits: Tensor, target: Tensor, state: State) -> RobustLoss:
    """Give the loss of n rows: logits (n C; -inf where a class cannot be) and target (n). No row gives 0.

    Cross-entropies and weights are computed in f32 whatever the logits are.
    """
    logits = logits.float()
    ce = F.cross_entropy(logits, target, reduction="none")
    plain = ce.detach()
    if config.name == "logit_adjusted":
        shifted = F.cross_entropy(logits + config.tau * log_prior(state.counts), target, reduction="none")
        return RobustLoss(_mean(shifted), plain, torch.ones_like(plain))
    if config.name == "focal":
        weight = (-torch.expm1(-ce)).clamp(min=1e-12) ** config.focus if config.focus else torch.ones_like(ce)
        return RobustLoss(_mean(weight * ce), plain, weight.detach())
    if config.name == "kl_dro" and config.level == "sample":
        weight = torch.softmax(plain / config.temperature, dim=0) * max(len(plain), 1)
    else:
        weight = class_weights(config, state)[target]
    return RobustLoss(_mean(weight * ce), plain, weight)


def update(config: RobustConfig, state: State, ce_sum: Tensor, count: Tensor) -> State:
    """Give the state after a step in which class c had `count` (C) rows of summed cross-entropy `ce_sum` (C).

    A class's mean moves by 1 - decay^count towards its mean in the batch. Classes not yet seen stand at the mean of the
    first batch: at 0 they would look easy.
    """
    has_rows = count > 0
    own = ce_sum / count.clamp(min=1)
    share = 1 - config.decay**count
    moved = torch.where(state.is_seen > 0, state.mean + share * (own - state.mean), own)
    first = ce_sum.sum() / count.sum().clamp(min=1)
    rest = torch.where(state.n_updates > 0, state.mean, first)
    is_empty = ~has_rows.any()
    mean = torch.where(has_rows, moved, torch.where(is_empty, state.mean, rest))
    found = replace(
        state,
        mean=mean,
        is_seen=torch.maximum(state.is_seen, has_rows.float()),
        n_updates=state.n_updates + (~is_empty).float(),
    )
    if config.name != "group_dro":
        return found
    push = config.eta * (mean + config.bonus / state.counts.clamp(min=1).sqrt())
    return replace(found, log_q=torch.log_softmax(state.log_q + push, dim=0).clamp(min=-60.0))


def class_weights(config: RobustConfig, state: State) -> Tensor:
    """Give q_c / p_c for every class (C): mean 1 under the training shares, 1 for classes that training lacks.

    >>> config = RobustConfig(name="class_balanced", beta=0.0)
    >>> class_weights(config, start(config, torch.tensor([9.0, 1.0, 0.0])))
    tensor([1., 1., 1.])
    """
    p = state.counts.double()
    p = p / p.sum().clamp(min=1)
    is_there = p > 0
    if config.name == "class_balanced":
        n = state.counts.double().clamp(min=1)
        weight = (1 - config.beta) / (1 - config.beta**n)
        weight = weight / (p * weight).sum().clamp(min=1e-30)
    elif config.name in ("kl_dro", "group_dro", "box_dro") and bool(state.n_updates > 0):
        weight = _worst(config, state, p) / p.clamp(min=1e-30)
    else:
        weight = torch.ones_like(p)
    return torch.where(is_there, weight, 1.0).float()


def _worst(config: RobustConfig, state: State, p: Tensor) -> Tensor:
    """The label shares q (C) of the three worst-case losses."""
    mean = state.mean.double()
    if config.name == "box_dro":
        return box_maximum(mean, p, *box(state.counts, config))
    tilt = p.clamp(min=1e-30).log() + mean / config.temperature if config.name == "kl_dro" else state.log_q.double()
    return torch.softmax(tilt.masked_fill(p <= 0, -torch.inf), dim=0)


def box(counts: Tensor, config: RobustConfig) -> tuple[Tensor, Tensor]:
    """Give the lowest and the highest share of every class (C, f64): wider, relative to p_c, for rarer classes."""
    n = counts.double()
    p = n / n.sum().clamp(min=1)
    radius = (config.kappa * (n.max().clamp(min=1) / n.clamp(min=1)) ** config.gamma).clamp(max=config.r_max)
    return p * (1 - radius.clamp(max=config.r_low)), p * (1 + radius)


def box_maximum(mean: Tensor, p: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Give the q with sum 1 and low <= q <= high that maximises sum q_c mean_c; exact, in O(C log C).

    It starts at the lower ends and hands what is missing to the classes in order of falling loss. Classes of equal loss
    share in proportion to their room, so that the order of classes does not matter.

    >>> mean, p = torch.tensor([1.0, 2.0]), torch.tensor([0.8, 0.2])
    >>> box_maximum(mean, p, 0.5 * p, 2 * p)
    tensor([0.6000, 0.4000])
    """
    levels, group = torch.unique(-mean, return_inverse=True)  # ascending, so the largest loss comes first
    room = torch.zeros(len(levels), dtype=p.dtype, device=p.device).index_add_(0, group, high - low)
    missing = p.sum() - low.sum()
    filled = ((missing - (room.cumsum(0) - room)) / room.clamp(min=1e-300)).clamp(0, 1)
    return low + torch.where(high > low, filled[group], 0.0) * (high - low)


def post_hoc(logits: Tensor, counts: Tensor, tau: float) -> Tensor:
    """Correct the logits (.. C) of a model trained by plain cross-entropy: subtract tau log p_c. Costs no training.

    >>> post_hoc(torch.zeros(2), torch.tensor([3.0, 1.0]), 1.0).softmax(0)
    tensor([0.2500, 0.7500])
    """
    return logits - tau * log_prior(counts).to(logits)


def log_prior(counts: Tensor) -> Tensor:
    """Give log p_c (C); a class without a training row counts as half a row."""
    counts = counts.float().clamp(min=0.5)
    return (counts / counts.sum()).log()


class Robust(nn.Module):
    """A loss with its state in buffers, for an objective that predicts one of C classes.

    Call it with logits and targets; in training mode it gathers losses per class, and `after_step` updates the state
    from them, summed over devices. In evaluation mode, and in the first `warm_up` of the run, the value is plain
    cross-entropy.

    >>> robust = Robust(RobustConfig(name="box_dro"), torch.tensor([8.0, 2.0]))
    >>> robust(torch.zeros(4, 2), torch.tensor([0, 0, 1, 0])).value
    tensor(0.6931)
    """

    counts: Tensor
    mean: Tensor
    is_seen: Tensor
    log_q: Tensor
    n_updates: Tensor
    gathered: Tensor
    is_on: Tensor

    def __init__(self, config: RobustConfig, counts: Tensor) -> None:
        super().__init__()
        self.config = config
        for name, value in vars(start(config, counts)).items():
            self.register_buffer(name, value)
        self.register_buffer("gathered", torch.zeros(2, len(counts)))
        self.register_buffer("is_on", torch.tensor(config.warm_up == 0))

    def extra_repr(self) -> str:
        return repr(self.config)

    @property
    def state(self) -> State:
        """The state as a value."""
        return State(self.counts, self.mean, self.is_seen, self.log_q, self.n_updates)

    def forward(self, logits: Tensor, target: Tensor) -> RobustLoss:
        is_plain = not (self.training and bool(self.is_on))
        found = loss(_PLAIN if is_plain else self.config, logits, target, self.state)
        if self.training:
            self.gathered[0].index_add_(0, target, found.ce)
            self.gathered[1].index_add_(0, target, torch.ones_like(found.ce))
        return found

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Update the state; `progress` is the share of the run that is done."""
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(self.gathered)
        found = update(self.config, self.state, self.gathered[0], self.gathered[1])
        for name, value in vars(found).items():
            getattr(self, name).copy_(value)
        self.gathered.zero_()
        self.is_on.fill_(progress >= self.config.warm_up)


def _mean(values: Tensor) -> Tensor:
    """The mean; 0 with gradients for no rows."""
    return values.sum() / max(len(values), 1)
