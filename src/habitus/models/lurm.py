"""LURM's encoder: a user's whole life as bags of interests in, M vectors and a flat one out.

A soft split of the interests among M anchors; per window and anchor the gated sum of the table's rows; aggregation over
the windows of a scale, then over scales. After arXiv 2110.11337, whose widths, numbers and losses are not disclosed:
"our LURM". Two additions are ours: a straight way, which adds a linear reading of the life bag to each anchor's vector,
and a flat vector in which an anchor weighs as much as its part of that vector does. `paper_form` leaves both out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from habitus.core.config import Config
from habitus.core.errors import ConfigError
from habitus.models.layers.catalogue import lookup
from habitus.models.lurm_read import dense_sums, distinct, gated_sums, table_sums
from habitus.tokens.bag_tables import BagTable
from habitus.tokens.bags import DEFAULT, Bags, ScaleBags, parse_scales, reach_of
from habitus.tokens.rhythm import rhythm_width

Size = Literal["tiny", "small", "base", "large"]
SIZES = {"tiny": (32, 4, 16, 16), "small": (64, 8, 32, 32), "base": (128, 8, 32, 64), "large": (256, 16, 64, 64)}
ON_TOP = 0.1  # gain of the aggregated states beside the straight way, at first
STILL = 2.0  # the number of a rhythm that never changes; the others vary by 1 in all


class LurmConfig(Config):
    """What the user chooses. One dial first: `size` sets D, M, R and P; each can be set alone.

    `start`: `spectral` begins at the leading directions of the train bags, one set per group of interests (see
    `models.lurm_start`); `random` at noise. `mass`: an anchor's weight in `flat` is its share of the `energy` of all
    anchors' vectors, its `share` of the life bag, or `none`. `rhythm`: the share of `flat` that says when and how often
    (see `tokens.rhythm`), which the last anchor tells instead of interests; 0, a single anchor or scales without
    windows have none. Errors: an unknown key is a `ConfigError` from `parse`.

    >>> config = LurmConfig(size="base")
    >>> config.widths, config.d_flat
    ((128, 8, 32, 64), 512)
    """

    size: Size = "small"
    d_model: int | None = Field(None, gt=0)
    n_anchors: int | None = Field(None, gt=0)
    d_gate: int | None = Field(None, gt=0)
    d_out: int | None = Field(None, gt=0)
    scales: str = DEFAULT
    top: int = Field(512, gt=0)
    rhythm: float = Field(0.1, ge=0, lt=1)
    time: Literal["gru", "attention", "mean"] = "gru"
    mass: Literal["energy", "share", "none"] = "energy"
    start: Literal["spectral", "random"] = "spectral"
    is_straight: bool = True
    paper_form: bool = False

    @property
    def widths(self) -> tuple[int, int, int, int]:
        """D, M, R, P in force."""
        asked = (self.d_model, self.n_anchors, self.d_gate, self.d_out)
        d, m, r, p = (own if own is not None else default for own, default in zip(asked, SIZES[self.size]))
        return d, m, r, p

    @property
    def d_flat(self) -> int:
        """M P."""
        return self.widths[1] * self.widths[3]

    @property
    def share_of_rhythm(self) -> float:
        """The share of `flat` in force."""
        has_windows = any(scale.blocks for scale in parse_scales(self.scales))
        return self.rhythm if has_windows and self.widths[1] > 1 and not self.paper_form else 0.0

    @property
    def d_content(self) -> int:
        """Numbers of `flat` that tell of interests: those that are trained."""
        return self.d_flat - (self.widths[3] if self.share_of_rhythm else 0)

    @property
    def form(self) -> tuple[str, str, bool]:
        """Mass, start and straight way in force."""
        return ("share", "random", False) if self.paper_form else (self.mass, self.start, self.is_straight)


@dataclass(frozen=True)
class LurmShape:
    """What the data imply: V, id 0 included, the number of windows per scale, and of groups of event types."""

    n_interests: int
    windows: tuple[int, ...]
    n_groups: int = 1


@dataclass(frozen=True)
class LurmOutput:
    """`vectors` B M P of unit length, `mass` B M that sums to 1, `flat` B M*P of unit length."""

    vectors: Tensor
    mass: Tensor
    flat: Tensor


class Lurm(nn.Module):
    """Bags in, vectors out. Users do not see each other; an empty history gives the model's empty vector.

    Parameters
    ----------
    config, shape
        What the user chose, and what the data imply.
    seed
        Of the first weights; the global random state is left as it was.

    >>> model = Lurm(LurmConfig(size="tiny", scales="life"), LurmShape(50, (1,)))
    >>> sum(p.numel() for p in model.parameters()) > 50 * 32
    True
    """

    Config = LurmConfig
    Shape = LurmShape

    def __init__(self, config: LurmConfig, shape: LurmShape, seed: int = 0) -> None:
        super().__init__()
        self.config, self.shape = config, shape
        self.mass, _, self.is_straight = config.form
        self.scales = parse_scales(config.scales)
        if tuple(scale.windows for scale in self.scales) != tuple(shape.windows):
            raise ConfigError(f"windows {[s.windows for s in self.scales]} of {config.scales}", str(shape.windows))
        self.life = next((k for k, scale in enumerate(self.scales) if not scale.blocks), None)
        if self.life is None and (self.is_straight or self.mass == "share"):
            raise ConfigError(
                "the scale life for the straight way and for mass = 'share'", config.scales, where="scales"
            )
        d, m, r, p = config.widths
        m = m - 1 if config.share_of_rhythm else m  # the last anchor has no interests
        with torch.device("meta"):  # `_initialise` draws everything
            self.table = nn.Parameter(torch.empty(shape.n_interests, d))
            self.gate = nn.Linear(d, r, bias=False)
            self.aspect = nn.Parameter(torch.empty(m, r))  # q
            self.told = nn.Linear(2, d)
            self.anchor = nn.Parameter(torch.empty(m, d))  # c
            self.empty = nn.Parameter(torch.empty(m, d))
            self.norm = nn.LayerNorm(d)
            self.over_time = nn.ModuleList(_TIME[config.time](d) for scale in self.scales if scale.windows > 1)
            self.query = nn.Parameter(torch.empty(m, d))
            self.prefer = nn.Parameter(torch.zeros(len(self.scales)))
            self.out = nn.Linear(d, p)
            self.straight = nn.Linear(d, p, bias=False) if self.is_straight else None
        self.to_empty(device="cpu")
        self._initialise(seed)
        width = rhythm_width(reach_of(self.scales), shape.n_groups)
        self.rhythm = Rhythm(width, p) if config.share_of_rhythm else None

    def forward(self, bags: Bags | BagTable, rhythm: Tensor | None = None) -> LurmOutput:
        """Give the vectors of B users. Without their `rhythm` (B K) the last anchor is left out, as in training."""
        found = self._content(bags)
        if self.rhythm is None or rhythm is None:
            return found
        share = self.config.share_of_rhythm
        last = torch.full_like(found.mass[:, :1], share)
        mass = torch.cat([(1 - share) * found.mass, last], dim=1)
        return _output(torch.cat([found.vectors, self.rhythm(rhythm)[:, None]], dim=1), mass)

    def _content(self, bags: Bags | BagTable) -> LurmOutput:
        summed, passed = self.anchored(bags)
        timed: Iterator[Any] = iter(self.over_time)
        states: list[Tensor] = []
        for scale, h in zip(bags.scales, summed):
            token = self._tokens(h, scale)
            states.append(next(timed)(token, scale.is_empty) if scale.n_windows > 1 else token[:, 0])
        states = [
            torch.where(scale.is_empty.all(dim=1)[:, None, None], self.empty, state)
            for scale, state in zip(bags.scales, states)
        ]
        state = torch.stack(states, dim=1)  # B S M D
        heed = (state * self.query).sum(-1) / math.sqrt(state.shape[-1]) + self.prefer[:, None]
        whole = self.out((heed.softmax(dim=1)[..., None] * state).sum(dim=1))  # B M P
        if self.straight is not None:
            assert self.life is not None
            whole = self.straight(summed[self.life][:, 0]) + ON_TOP * whole
        mass = self._masses(whole, passed)
        return _output(F.normalize(whole, dim=-1, eps=1e-8), mass)

    def gates(self, rows: Tensor) -> Tensor:
        """Give .. D -> .. M: how each row of the table is split among the anchors; sums to 1."""
        asked = self.aspect @ self.gate.weight  # M D: the same as two products, for less
        return (rows @ asked.T / math.sqrt(self.aspect.shape[1])).softmax(dim=-1)

    def anchored(self, bags: Bags | BagTable) -> tuple[list[Tensor], Tensor | None]:
        """Give, per scale, the gated sums B T M D; and the share of the life bag that passes each gate, B M."""
        if isinstance(bags, BagTable):
            return table_sums(bags, self.table, self.gates), None
        needs_share = self.mass == "share" and len(bags.scales) == len(self.scales)
        if not torch.is_grad_enabled() and not needs_share:
            dense = dense_sums(bags, self.table, self.gates)
            if dense is not None:
                return dense, None
        ids, inverse = distinct(torch.cat([scale.interest for scale in bags.scales]), len(self.table))
        rows = lookup(ids, self.table)
        gate = self.gates(rows)
        read = None if torch.is_grad_enabled() else gated_sums(bags, rows, gate, inverse)
        parts = self._summed(bags, rows, gate, inverse) if read is None else read
        if not needs_share:
            return parts, None
        assert self.life is not None
        life = bags.scales[self.life]
        here = inverse.split([len(scale.interest) for scale in bags.scales])[self.life]
        return parts, F.embedding_bag(here, gate, life.offset[:-1], mode="sum", per_sample_weights=life.weight)

    def _summed(self, bags: Bags, rows: Tensor, gate: Tensor, ids: Tensor) -> list[Tensor]:
        weight = torch.cat([scale.weight for scale in bags.scales])
        sizes = [len(scale.interest) for scale in bags.scales]
        offset = torch.cat([s.offset[:-1] + sum(sizes[:k]) for k, s in enumerate(bags.scales)])
        found = torch.stack([_bagged(rows, ids, offset, weight, gate[:, m]) for m in range(gate.shape[1])], dim=1)
        widths = [scale.is_empty.numel() for scale in bags.scales]
        return [
            part.view(len(bags), scale.n_windows, *part.shape[1:])
            for part, scale in zip(found.split(widths), bags.scales)
        ]

    def _tokens(self, h: Tensor, scale: ScaleBags) -> Tensor:
        told = self.told(torch.stack([scale.log1p_n, scale.log_age], dim=-1))
        token = F.gelu(self.norm(h + told[:, :, None] + self.anchor))
        return torch.where(scale.is_empty[:, :, None, None], self.empty, token)

    def _masses(self, whole: Tensor, passed: Tensor | None) -> Tensor:
        energy = whole.square().sum(-1) + 1e-12 if self.mass == "energy" else torch.ones_like(whole[..., 0])
        if passed is not None:
            energy = torch.where(passed.sum(1, keepdim=True) > 0, passed, 1.0)
        return energy / energy.sum(dim=1, keepdim=True)

    @torch.no_grad()
    def _initialise(self, seed: int) -> None:
        draw = torch.Generator().manual_seed(seed)
        for name, weight in self.named_parameters():
            if weight.ndim < 2:
                weight.fill_(float(name == "norm.weight"))
            else:
                scale = 1.0 if name == "aspect" else 0.1 if name in ("query", "anchor", "empty") else None
                weight.normal_(0, scale if scale is not None else weight.shape[1] ** -0.5, generator=draw)


def _output(vectors: Tensor, mass: Tensor) -> LurmOutput:
    return LurmOutput(vectors, mass, (mass.clamp(min=1e-12).sqrt()[..., None] * vectors).flatten(1))


class Rhythm(nn.Module):
    """Rhythm in, a unit vector out; not trained but set by `models.lurm_start`: every number on one scale, or where P
    is too small for that, their leading directions. One of the P never changes, so that unit length hides no amount.
    """

    mean: Tensor
    way: Tensor

    def __init__(self, width: int, p: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        draw = torch.Generator().manual_seed(0)
        self.register_buffer("way", torch.randn(width, p - 1, generator=draw) * width**-0.5)

    def forward(self, rhythm: Tensor) -> Tensor:
        """B K -> B P."""
        told = (rhythm - self.mean) @ self.way
        return F.normalize(torch.cat([torch.full_like(told[:, :1], STILL), told], dim=1), dim=-1)


def _bagged(rows: Tensor, ids: Tensor, offset: Tensor, weight: Tensor, gate: Tensor) -> Tensor:
    return F.embedding_bag(ids, rows, offset, mode="sum", per_sample_weights=weight * gate[ids])


class GruTime(nn.Module):
    """A GRU over the windows that hold something, read at the last of them."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.gru: nn.GRU = nn.GRU(d, d, batch_first=True)

    def forward(self, token: Tensor, is_empty: Tensor) -> Tensor:
        """B T M D -> B M D; users without a window get zeros."""
        b, t, m, d = token.shape
        n = (~is_empty).sum(dim=1)
        kept = n.nonzero()[:, 0]
        if not len(kept):
            return token.new_zeros(b, m, d)
        order = is_empty[kept].to(torch.uint8).argsort(dim=1, stable=True)
        order = order[:, :, None, None].expand(-1, -1, m, d)
        packed = token[kept].gather(1, order).transpose(1, 2).reshape(-1, t, d)
        lengths = n[kept].repeat_interleave(m)
        rows = nn.utils.rnn.pack_padded_sequence(packed, lengths.cpu(), batch_first=True, enforce_sorted=False)
        state = self.gru(rows)[1][0].view(-1, m, d)
        return token.new_zeros(b, m, d).index_copy(0, kept, state)


class AttentionTime(nn.Module):
    """The last window that holds something attends to those before it and itself; each place has its own key."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.ask, self.key, self.value = (nn.Linear(d, d) for _ in range(3))
        self.older = nn.Parameter(torch.zeros(1, 1))  # loss of heed per window of age

    def forward(self, token: Tensor, is_empty: Tensor) -> Tensor:
        """B T M D -> B M D."""
        t = token.shape[1]
        last = torch.where(is_empty, -1, torch.arange(t, device=token.device)).amax(dim=1).clamp(min=0)
        newest = token[torch.arange(len(token), device=token.device), last]
        heed = (self.key(token) * self.ask(newest)[:, None]).sum(-1) / math.sqrt(token.shape[-1])
        age = last[:, None] - torch.arange(t, device=token.device)
        heed = heed - F.softplus(self.older) * age[:, :, None]
        share = heed.masked_fill(is_empty[:, :, None], -1e9).softmax(dim=1)
        return newest + (share[..., None] * self.value(token)).sum(dim=1)


class MeanTime(nn.Module):
    """The mean over the windows that hold something."""

    def __init__(self, d: int) -> None:
        super().__init__()

    def forward(self, token: Tensor, is_empty: Tensor) -> Tensor:
        """B T M D -> B M D."""
        kept = (~is_empty)[:, :, None, None].to(token.dtype)
        return (token * kept).sum(dim=1) / kept.sum(dim=1).clamp(min=1)


_TIME: dict[str, Any] = {"gru": GruTime, "attention": AttentionTime, "mean": MeanTime}


def shape_of(config: Any, n_interests: int, n_groups: int = 1) -> LurmShape:
    """Give the shape that V and the groups of event types imply."""
    return LurmShape(n_interests, tuple(scale.windows for scale in parse_scales(config.scales)), n_groups)
