"""SASRec: the items of a user as a sentence, the next one told from the state at the last.

Sources: Kang and McAuley, "Self-Attentive Sequential Recommendation", arXiv 1808.09781; the gated block follows the
recipe of eSASRec, arXiv 2508.06450 (LiGR layers). One field is read and predicted; times and the other fields are not.

Shape letters: B rows, T positions, D width, V rows of the table.
"""

from __future__ import annotations

from typing import Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from habitus.core.config import Config
from habitus.models.layers.catalogue import Tied, lookup
from habitus.tokens.batch import EventBatch
from habitus.tokens.events import EventShape


class SASRecConfig(Config):
    """What the user chooses.

    `block`: `plain` is the published one, pre-norm, ReLU, D -> D -> D; `gated` has a SwiGLU feed-forward of
    `d_ff` (default 4 D) and a learnt gate on every residual. `input_dropout` is that of the item vectors, `dropout` by
    default. `start = "counts"`: training begins with item vectors made from counts of what stands near what
    (`models.spectral`) and with blocks that do nothing yet; a fraction of the epochs is then enough.

    Errors: an unknown key, or a width that the heads do not divide, is a `ConfigError` from `parse`.

    >>> SASRecConfig(block="gated").d_ff, SASRecConfig().d_ff
    (256, 64)
    """

    field: str = "item"
    d_model: int = Field(64, gt=0)
    n_heads: int = Field(2, gt=0)
    n_blocks: int = Field(2, ge=0)
    d_ff: int = Field(0, ge=0)
    dropout: float = Field(0.2, ge=0, lt=1)
    input_dropout: float | None = Field(None, ge=0, lt=1)
    block: Literal["plain", "gated"] = "plain"
    start: Literal["random", "counts"] = "random"

    @model_validator(mode="after")
    def _widths(self) -> Self:
        if self.d_model % self.n_heads:
            raise ValueError(f"d_model must be a multiple of n_heads ({self.n_heads})")
        if not self.d_ff:
            object.__setattr__(self, "d_ff", self.d_model * (4 if self.block == "gated" else 1))
        return self


class Linear(nn.Linear):
    """A linear layer that `SASRec` draws."""

    def reset_parameters(self) -> None:
        pass


class Attention(nn.Module):
    """Causal multi-head attention with biases. Padding stands at the end, so causality alone hides it."""

    def __init__(self, config: SASRecConfig) -> None:
        super().__init__()
        self.n_heads, self.dropout = config.n_heads, config.dropout
        self.ask = Linear(config.d_model, 3 * config.d_model)
        self.out = Linear(config.d_model, config.d_model)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.ask(x).unflatten(-1, (3, self.n_heads, -1)).permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(*parts.unbind(0), dropout_p=dropout, is_causal=True)
        return self.out(mixed.transpose(1, 2).flatten(2))


class PlainBlock(nn.Module):
    """x + attention(norm x), then x + feed(norm x)."""

    def __init__(self, config: SASRecConfig) -> None:
        super().__init__()
        d = config.d_model
        self.attention, self.attention_norm, self.feed_norm = Attention(config), nn.LayerNorm(d), nn.LayerNorm(d)
        self.rise, self.fall = Linear(d, config.d_ff), Linear(config.d_ff, d)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x)))
        return x + self.dropout(self.fall(self.dropout(F.relu(self.rise(self.feed_norm(x))))))


class GatedBlock(nn.Module):
    """x + gate(x) * attention(norm x), then x + gate(x) * SwiGLU(norm x)."""

    def __init__(self, config: SASRecConfig) -> None:
        super().__init__()
        d = config.d_model
        self.attention, self.attention_norm, self.feed_norm = Attention(config), nn.LayerNorm(d), nn.LayerNorm(d)
        self.rise, self.side, self.fall = Linear(d, config.d_ff), Linear(d, config.d_ff), Linear(config.d_ff, d)
        self.attention_gate, self.feed_gate = Linear(d, d), Linear(d, d)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.attention(self.attention_norm(x))
        x = x + self.dropout(self.attention_gate(x).sigmoid() * mixed)
        read = self.feed_norm(x)
        fed = self.fall(self.dropout(F.silu(self.rise(read)) * self.side(read)))
        return x + self.dropout(self.feed_gate(x).sigmoid() * fed)


class SASRec(Tied):
    """Events in, a state per position out; logits are products with the item table (tied).

    Parameters
    ----------
    config, shape
        What the user chose, and what the data imply. Rows longer than `shape.length` are an error of the caller.
    seed
        Of the first weights; the global random state is left as it was.

    >>> shape = EventShape((("item", 12),), n_amounts=0, length=8)
    >>> SASRec(SASRecConfig(d_model=16), shape)(EventBatch.empty(n_fields=1)).shape
    torch.Size([0, 1, 16])
    """

    Config = SASRecConfig

    def __init__(self, config: SASRecConfig, shape: EventShape, seed: int = 0) -> None:
        super().__init__(config, shape)
        block = GatedBlock if config.block == "gated" else PlainBlock
        with torch.device("meta"):  # `_initialise` draws everything
            self.table = nn.Parameter(torch.empty(shape.n_rows(config.field), config.d_model))
            self.places = nn.Parameter(torch.empty(shape.length, config.d_model))
            self.blocks = nn.ModuleList(block(config) for _ in range(config.n_blocks))
            self.norm = nn.LayerNorm(config.d_model)
        into = config.dropout if config.input_dropout is None else config.input_dropout
        self.dropout = nn.Dropout(into)
        self.to_empty(device="cpu")
        self._initialise(seed)

    @torch.no_grad()
    def _initialise(self, seed: int) -> None:
        """Small vectors, Xavier for matrices, zero for biases."""
        draw = torch.Generator().manual_seed(seed)
        for weight in (self.table, self.places):
            weight.normal_(0.0, 0.02, generator=draw)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_normal_(module.weight, generator=draw)
                module.bias.zero_()
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()
        if self.config.start == "counts":
            for name, weight in self.blocks.named_parameters():
                if name.endswith(("attention.out.weight", "fall.weight")):
                    weight.zero_()

    def forward(self, batch: EventBatch) -> Tensor:
        """Give the state after each event, B T D."""
        ids = batch.ids[..., self.column]
        x = self.dropout(lookup(ids, self.table) + self.places[: ids.shape[1]])
        for block in self.blocks:
            x = block(x)
        return self.norm(x)
