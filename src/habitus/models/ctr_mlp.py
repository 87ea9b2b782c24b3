"""The pooled model of clicks: the history as means of its tokens per kind of event, without order.

Source: the MLP of arXiv 2511.21963, whose widths are not disclosed; those here are ours.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from habitus.core.config import Config
from habitus.models.layers.click import KIND, ClickBatch, ClickShape, Tables, Tower, drawn_from

_D_FIELD = {"tiny": 8, "small": 16, "base": 32, "large": 32}
_TOKENS = {"tiny": 20, "small": 50, "base": 50, "large": 200}


class CtrMLPConfig(Config):
    """What the user chooses: one dial, and what departs from it (0: as the size says).

    >>> CtrMLPConfig(size="tiny").tokens
    20
    """

    size: Literal["tiny", "small", "base", "large"] = "small"
    n_tokens: int = Field(0, ge=0)
    d_field: int = Field(0, ge=0)
    dropout: float = Field(0.1, ge=0, lt=1)

    @property
    def tokens(self) -> int:
        """Tokens of the history that are read, T."""
        return self.n_tokens or _TOKENS[self.size]

    @property
    def width(self) -> int:
        """Width of a field's vector."""
        return self.d_field or _D_FIELD[self.size]


class CtrMLP(nn.Module):
    """Means over the tokens of category and brand vectors, one part per kind, shares of the kinds, the ad -> logit B.

    >>> shape = ClickShape((5, 3), 2, 10, 10, 5)
    >>> CtrMLP(CtrMLPConfig(size="tiny"), shape).config.width
    8
    """

    Config, Shape = CtrMLPConfig, ClickShape

    def __init__(self, config: CtrMLPConfig, shape: ClickShape, *, seed: int = 0) -> None:
        super().__init__()
        self.config, self.shape = config, shape
        d, n_kinds = config.width, shape.n_kinds
        with drawn_from(seed):
            self.tables = Tables(shape, d, has_kind=False)
            d_read = n_kinds * 2 * d + n_kinds + 1 + 2 * d
            self.tower = Tower(shape, d, d_read, config.size, config.dropout)

    def forward(self, batch: ClickBatch) -> Tensor:
        vectors = self.tables.history(batch.tokens)
        kinds = torch.arange(self.shape.n_kinds, device=vectors.device)
        of_kind = ((batch.tokens[..., KIND, None] == kinds) & ~batch.is_padding[..., None]).float()  # B T K
        n = of_kind.sum(1)
        total = n.sum(1, keepdim=True)
        means = of_kind.transpose(1, 2) @ vectors / total.clamp(min=1)[..., None]  # adds up to the mean of all tokens
        shares = torch.cat([n / total.clamp(min=1), total.log1p() / 4], -1)
        return self.tower(batch, [means.flatten(1), shares, self.tables.ad(batch.target)])

    def touched(self, batch: ClickBatch) -> list[tuple[Tensor, Tensor]]:
        """List (table, ids read by the batch), for the penalty on rows."""
        return [*self.tables.touched(batch), *self.tower.touched(batch)]
