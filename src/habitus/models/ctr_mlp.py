"""The pooled model of clicks: the history as means of its tokens per kind of event, without order.

Source: the MLP of arXiv 2511.21963, whose widths are not disclosed; those here are ours.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from habitus.models.layers.click import KIND, ClickBatch, ClickNetConfig, ClickShape, Tables, Tower, drawn_from


class CtrMLPConfig(ClickNetConfig):
    """What the user chooses: see `ClickNetConfig`.

    >>> CtrMLPConfig(size="tiny").tokens
    20
    """


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
            d_read = n_kinds * 2 * d + 2 * n_kinds + 1 + 2 * d
            self.tower = Tower(shape, config, d_read)

    def forward(self, batch: ClickBatch) -> Tensor:
        vectors = self.tables.history(batch.tokens)
        kinds = torch.arange(self.shape.n_kinds, device=vectors.device)
        of_kind = ((batch.tokens[..., KIND, None] == kinds) & ~batch.is_padding[..., None]).float()  # B T K
        n = of_kind.sum(1)
        total = n.sum(1, keepdim=True)
        means = of_kind.transpose(1, 2) @ vectors / total.clamp(min=1)[..., None]  # adds up to the mean of all tokens
        shares = torch.cat([n / total.clamp(min=1), n.log1p(), total.log1p() / 4], -1)
        return self.tower(batch, [means.flatten(1), shares, self.tables.ad(batch.target)])

    def touched(self, batch: ClickBatch) -> list[tuple[Tensor, Tensor]]:
        """List (table, ids read by the batch), for the penalty on rows."""
        return [*self.tables.touched(batch), *self.tower.touched(batch)]
