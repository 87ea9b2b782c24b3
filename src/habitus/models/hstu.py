"""HSTU: attention without softmax, weighed by how long ago, gated by what is asked.

Source: Zhai et al., "Actions Speak Louder than Words", arXiv 2402.17152, equations 1-4. The published time bias reads
the instant of the event that is to be told; here that is a switch, `target_time`, and off by default.

Shape letters: B rows, T positions, D width, H heads.
"""

from __future__ import annotations

from typing import Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from habitus.core.config import Config
from habitus.core.errors import ConfigError
from habitus.models.layers.catalogue import Tied, lookup
from habitus.tokens.batch import EventBatch
from habitus.tokens.events import EventShape

N_BUCKETS = 128
LOG_STEP = 0.301  # a bucket holds gaps of a factor of e^0.301 = 1.35


class HSTUConfig(Config):
    """What the user chooses.

    `target_time = "hidden"`: a gap is counted from the asking event. `"known"`: from the instant of the event to tell,
    as published; that instant must then be given (`next_time`), and figures must say so. With `start = "counts"`
    blocks do nothing yet when training begins.

    Errors: an unknown key, or a width that the heads do not divide, is a `ConfigError` from `parse`.

    >>> HSTUConfig().target_time
    'hidden'
    """

    field: str = "item"
    d_model: int = Field(50, gt=0)
    n_heads: int = Field(1, gt=0)
    n_blocks: int = Field(2, ge=1)
    dropout: float = Field(0.2, ge=0, lt=1)
    target_time: Literal["hidden", "known"] = "hidden"
    start: Literal["random", "counts"] = "random"

    @model_validator(mode="after")
    def _widths(self) -> Self:
        if self.d_model % self.n_heads:
            raise ValueError(f"d_model must be a multiple of n_heads ({self.n_heads})")
        return self


class Linear(nn.Linear):
    """A linear layer that `HSTU` draws."""

    def reset_parameters(self) -> None:
        pass


class Block(nn.Module):
    """y = x + out(norm(sum of weight * v) * u), weight = SiLU(q k + bias of place + bias of time) / T."""

    def __init__(self, config: HSTUConfig, length: int) -> None:
        super().__init__()
        d = config.d_model
        self.n_heads, self.length = config.n_heads, length
        self.norm, self.mixed_norm = nn.LayerNorm(d), nn.LayerNorm(d)
        self.ask, self.out = Linear(d, 4 * d), Linear(d, d)
        self.by_place = nn.Parameter(torch.empty(length))
        self.by_time = nn.Parameter(torch.empty(N_BUCKETS))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, bucket: Tensor) -> Tensor:
        """Take x (B T D) and the bucket of the gap between every two positions (B T T)."""
        n = x.shape[1]
        u, v, q, k = F.silu(self.ask(self.norm(x))).chunk(4, dim=-1)
        q, k, v = (part.unflatten(-1, (self.n_heads, -1)).transpose(1, 2) for part in (q, k, v))
        back = (torch.arange(n, device=x.device)[:, None] - torch.arange(n, device=x.device)).clamp(min=0)
        bias = self.by_place[back] + self.by_time[bucket]
        weight = F.silu(q @ k.mT + bias[:, None]).tril() / self.length
        mixed = (weight @ v).transpose(1, 2).flatten(2)
        return x + self.out(self.dropout(self.mixed_norm(mixed) * u))


class HSTU(Tied):
    """Events with their instants in, a state per position out; logits are products with the item table (tied).

    Parameters
    ----------
    config, shape
        What the user chose, and what the data imply.
    seed
        Of the first weights; the global random state is left as it was.

    Errors: `ConfigError` from `forward` with `target_time = "known"` when `next_time` is missing (before its event).

    >>> shape = EventShape((("item", 12),), n_amounts=0, length=8)
    >>> HSTU(HSTUConfig(d_model=16), shape)(EventBatch.empty(n_fields=1)).shape
    torch.Size([0, 1, 16])
    """

    Config = HSTUConfig

    def __init__(self, config: HSTUConfig, shape: EventShape, seed: int = 0) -> None:
        super().__init__(config, shape)
        with torch.device("meta"):  # `_initialise` draws everything
            self.table = nn.Parameter(torch.empty(shape.n_rows(config.field), config.d_model))
            self.places = nn.Parameter(torch.empty(shape.length, config.d_model))
            self.blocks = nn.ModuleList(Block(config, shape.length) for _ in range(config.n_blocks))
            self.norm = nn.LayerNorm(config.d_model)
        self.dropout = nn.Dropout(config.dropout)
        self.to_empty(device="cpu")
        self._initialise(seed)

    @torch.no_grad()
    def _initialise(self, seed: int) -> None:
        """Small vectors and biases of place and time, Xavier for matrices, zero for other biases."""
        draw = torch.Generator().manual_seed(seed)
        for name, weight in self.named_parameters():
            if name.endswith(("table", "places", "by_place", "by_time")):
                weight.normal_(0.0, 0.02, generator=draw)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_normal_(module.weight, generator=draw)
                module.bias.zero_()
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()
        if self.config.start == "counts":
            for block in self.blocks:
                block.out.weight.zero_()  # type: ignore[operator]

    def forward(self, batch: EventBatch) -> Tensor:
        """Give the state after each event, B T D."""
        ids = batch.ids[..., self.column]
        bucket = self._buckets(batch)
        x = self.dropout(lookup(ids, self.table) + self.places[: ids.shape[1]])
        for block in self.blocks:
            x = block(x, bucket)
        return self.norm(x)

    def _buckets(self, batch: EventBatch) -> Tensor:
        """Give the bucket of the gap from each earlier event (last axis) to the asking, or the asked, one: B T T."""
        asked = batch.time
        if self.config.target_time == "known":
            is_missing = (batch.next_time < batch.time) & ~batch.is_padding
            if bool(is_missing.any()):
                raise ConfigError(
                    "the instant of every event to tell, in next_time",
                    f"{int(is_missing.sum())} positions without one",
                    where="HSTU, target_time = 'known'",
                    fix="give the instants, or train with target_time = 'hidden'",
                )
            asked = batch.next_time
        gap = (asked[:, :, None] - batch.time[:, None, :]).clamp(min=1)
        return (gap.double().log() / LOG_STEP).long().clamp(max=N_BUCKETS - 1)
