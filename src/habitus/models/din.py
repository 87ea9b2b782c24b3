"""DIN: every token of the history weighs as much as it concerns the ad; the weights are summed, not shared out.

Source: Zhou et al., "Deep Interest Network", arXiv 1706.06978. Two additions of ours, both in the input of the
attention: flags for the ad's own category and brand, and the kind of event as part of the token's vector, so that a sum
of weights counts matches of each kind.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from habitus.core.config import Config
from habitus.models.layers.click import ClickBatch, ClickShape, Tables, Tower, drawn_from, same

_SIZES = {"tiny": (20, 8, 64, 32), "small": (50, 16, 64, 32), "base": (50, 32, 512, 256), "large": (200, 32, 512, 256)}


class DINConfig(Config):
    """What the user chooses: one dial, and what departs from it (0: as the size says).

    >>> DINConfig(size="base").tokens
    50
    """

    size: Literal["tiny", "small", "base", "large"] = "small"
    n_tokens: int = Field(0, ge=0)
    d_field: int = Field(0, ge=0)
    dropout: float = Field(0.1, ge=0, lt=1)

    @property
    def tokens(self) -> int:
        """Tokens of the history that are read, T."""
        return self.n_tokens or _SIZES[self.size][0]

    @property
    def width(self) -> int:
        """Width of a field's vector."""
        return self.d_field or _SIZES[self.size][1]


class DIN(nn.Module):
    """`a_j = MLP([e_j, e_t, e_j - e_t, e_j * e_t, same_j])`, `u = sum a_j e_j` -> logit B. Times are not read.

    >>> DIN(DINConfig(size="tiny"), ClickShape((5, 3), 2, 10, 10, 5)).config.width
    8
    """

    Config, Shape = DINConfig, ClickShape

    def __init__(self, config: DINConfig, shape: ClickShape, *, seed: int = 0) -> None:
        super().__init__()
        self.config, self.shape = config, shape
        d = config.width
        *_, one, two = _SIZES[config.size]
        with drawn_from(seed):
            self.tables = Tables(shape, d)
            self.of_token, self.of_ad = nn.Linear(3 * d, one), nn.Linear(2 * d, one, bias=False)
            self.of_gap, self.of_product = (nn.Linear(2 * d, one, bias=False) for _ in range(2))
            self.of_same = nn.Linear(2, one, bias=False)
            self.second, self.last = nn.Linear(one, two), nn.Linear(two, 1)
            self.tower = Tower(shape, d, 5 * d + 1, config.size, config.dropout)

    def forward(self, batch: ClickBatch) -> Tensor:
        token, ad = self.tables.history(batch.tokens), self.tables.ad(batch.target)
        thing = token[..., : 2 * self.config.width]
        # the layer on the joined vectors, part by part: what comes from the ad is computed once per row
        hidden = self.of_token(token) + self.of_gap(thing - ad[:, None]) + self.of_product(thing * ad[:, None])
        hidden = F.relu(hidden + self.of_ad(ad)[:, None] + self.of_same(same(batch)))
        weight = self.last(F.relu(self.second(hidden)))[..., 0].masked_fill(batch.is_padding, 0.0)
        interest = (weight[:, None] @ token)[:, 0]
        n = (~batch.is_padding).sum(1, keepdim=True).float().log1p() / 4
        return self.tower(batch, [interest, n, ad])

    def touched(self, batch: ClickBatch) -> list[tuple[Tensor, Tensor]]:
        """List (table, ids read by the batch), for the penalty on rows."""
        return [*self.tables.touched(batch), *self.tower.touched(batch)]
