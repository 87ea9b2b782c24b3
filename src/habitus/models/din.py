"""DIN: every token of the history weighs as much as it concerns the ad; the weights are summed, not shared out.

Source: Zhou et al., "Deep Interest Network", arXiv 1706.06978. Two additions of ours, both in the input of the
attention: flags for the ad's own category and brand, and the kind of event as part of the token's vector, so that a sum
of weights counts matches of each kind.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from habitus.models.layers.click import ClickBatch, ClickNetConfig, ClickShape, Tables, Tower, drawn_from, same

_ATTENTION = {"tiny": (64, 32), "small": (64, 32), "base": (512, 256), "large": (512, 256)}


class DINConfig(ClickNetConfig):
    """What the user chooses: see `ClickNetConfig`; the size says how wide the attention is, too.

    >>> DINConfig(size="base").tokens
    50
    """


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
        one, two = _ATTENTION[config.size]
        with drawn_from(seed):
            self.tables = Tables(shape, d)
            self.of_token, self.of_ad = nn.Linear(3 * d, one), nn.Linear(2 * d, one, bias=False)
            self.of_gap, self.of_product = (nn.Linear(2 * d, one, bias=False) for _ in range(2))
            self.of_same = nn.Linear(2, one, bias=False)
            self.second, self.last = nn.Linear(one, two), nn.Linear(two, 1)
            self.tower = Tower(shape, config, 8 * d + 2)

    def forward(self, batch: ClickBatch) -> Tensor:
        token, ad = self.tables.history(batch.tokens), self.tables.ad(batch.target)
        thing = token[..., : 2 * self.config.width]
        # the layer on the joined vectors, part by part: what comes from the ad is computed once per row
        hidden = self.of_token(token) + self.of_gap(thing - ad[:, None]) + self.of_product(thing * ad[:, None])
        hidden = F.relu(hidden + self.of_ad(ad)[:, None] + self.of_same(same(batch)))
        weight = self.last(F.relu(self.second(hidden)))[..., 0].masked_fill(batch.is_padding, 0.0)
        interest = (weight[:, None] @ token)[:, 0]
        squeezed = interest.sign() * interest.abs().log1p()  # a sum has a long tail
        total = weight.sum(1, keepdim=True)
        total = total.sign() * total.abs().log1p()
        n = (~batch.is_padding).sum(1, keepdim=True).float().log1p() / 4
        return self.tower(batch, [interest, squeezed, total, n, ad])

    def touched(self, batch: ClickBatch) -> list[tuple[Tensor, Tensor]]:
        """List (table, ids read by the batch), for the penalty on rows."""
        return [*self.tables.touched(batch), *self.tower.touched(batch)]
