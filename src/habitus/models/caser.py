"""Caser: convolutions over the last few items of a user, along time and across the vectors.

Source: Tang and Wang, "Personalized Top-N Sequential Recommendation via Convolutional Sequence Embedding", WSDM 2018,
arXiv 1809.07426. Two things are left out so that it is a model of events like the others here: the vector of the user
(users that training never met are answered as well), and the second item table (the table is tied).

Shape letters: B rows, T positions, D width, L window, f filters.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from habitus.core.config import Config
from habitus.models.layers.catalogue import Tied, lookup
from habitus.tokens.batch import EventBatch
from habitus.tokens.events import EventShape


class CaserConfig(Config):
    """What the user chooses: `window` L, `n_wide` filters of every height 1 .. L, `n_tall` across the window.

    >>> CaserConfig(window=5).n_wide
    16
    """

    field: str = "item"
    d_model: int = Field(48, gt=0)
    window: int = Field(5, ge=1)
    n_wide: int = Field(16, ge=1)
    n_tall: int = Field(4, ge=1)
    dropout: float = Field(0.2, ge=0, lt=1)


class Caser(Tied):
    """Events in, a state per position out; logits are products with the item table (tied).

    A position reads the L events that end with it, and zeros where there are none: every window of a row comes out of
    one pass of the same filters.

    >>> shape = EventShape((("item", 12),), n_amounts=0, length=8)
    >>> Caser(CaserConfig(d_model=16), shape)(EventBatch.empty(n_fields=1)).shape
    torch.Size([0, 1, 16])
    """

    Config = CaserConfig

    def __init__(self, config: CaserConfig, shape: EventShape, seed: int = 0) -> None:
        super().__init__(config, shape)
        d, n_read = config.d_model, config.n_wide * config.window + config.n_tall * config.d_model
        with torch.device("meta"):  # `_initialise` draws everything
            self.table = nn.Parameter(torch.empty(shape.n_rows(config.field), d))
            self.wide = nn.ModuleList(nn.Conv1d(d, config.n_wide, h + 1) for h in range(config.window))
            self.tall = nn.Parameter(torch.empty(config.n_tall, config.window))
            self.mix = nn.Linear(n_read, d)
        self.dropout = nn.Dropout(config.dropout)
        self.to_empty(device="cpu")
        self._initialise(seed)

    @torch.no_grad()
    def _initialise(self, seed: int) -> None:
        """Small vectors, Xavier for filters and matrices, zero for biases, even means down the window."""
        draw = torch.Generator().manual_seed(seed)
        self.table.normal_(0.0, 0.02, generator=draw)
        self.tall.normal_(1 / self.config.window, 0.1, generator=draw)
        for module in self.modules():
            if isinstance(module, nn.Conv1d | nn.Linear):
                nn.init.xavier_normal_(module.weight, generator=draw)
                module.bias.zero_()  # type: ignore[union-attr]

    def forward(self, batch: EventBatch) -> Tensor:
        """Give the state after each event, B T D."""
        ids = batch.ids[..., self.column]
        if not len(batch):
            return lookup(ids, self.table)
        x = F.pad(lookup(ids, self.table).transpose(1, 2), (self.config.window - 1, 0))  # B D T + L - 1
        parts = [self._highest(x, wide, h) for h, wide in enumerate(self.wide)]
        windows = x.unfold(2, self.config.window, 1)  # B D T L
        tall = torch.einsum("bdtl,fl->btfd", windows, self.tall).flatten(2)
        read = torch.cat([*(part.transpose(1, 2) for part in parts), tall], dim=2)
        return F.relu(self.mix(self.dropout(read)))

    def _highest(self, x: Tensor, wide: nn.Module, h: int) -> Tensor:
        """Give the largest answer of filters of height h + 1 in every window, B f T."""
        return F.max_pool1d(F.relu(wide(x)), self.config.window - h, stride=1)
