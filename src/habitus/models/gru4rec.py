"""GRU4Rec: a recurrent state read over the items of a user, compared with the item table.

Source: Hidasi et al., "Session-based Recommendations with Recurrent Neural Networks", arXiv 1511.06939, with tied
tables and the softmax losses of this project instead of the pairwise ones. One field is read and predicted.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from habitus.core.config import Config
from habitus.models.layers.catalogue import Tied, lookup
from habitus.tokens.batch import EventBatch
from habitus.tokens.events import EventShape


class GRU4RecConfig(Config):
    """What the user chooses. Errors: an unknown key is a `ConfigError` from `parse`.

    >>> GRU4RecConfig().d_model
    64
    """

    field: str = "item"
    d_model: int = Field(64, gt=0)
    n_layers: int = Field(1, ge=1)
    dropout: float = Field(0.2, ge=0, lt=1)
    start: Literal["random", "counts"] = "random"


class GRU4Rec(Tied):
    """Events in, a state per position out; logits are products with the item table (tied).

    Parameters
    ----------
    config, shape
        What the user chose, and what the data imply.
    seed
        Of the first weights; the global random state is left as it was.

    >>> shape = EventShape((("item", 12),), n_amounts=0, length=8)
    >>> GRU4Rec(GRU4RecConfig(d_model=16), shape)(EventBatch.empty(n_fields=1)).shape
    torch.Size([0, 1, 16])
    """

    Config = GRU4RecConfig

    def __init__(self, config: GRU4RecConfig, shape: EventShape, seed: int = 0) -> None:
        super().__init__(config, shape)
        d = config.d_model
        with torch.device("meta"):  # `_initialise` draws everything
            self.table = nn.Parameter(torch.empty(shape.n_rows(config.field), d))
            self.layers = nn.ModuleList(nn.GRU(d, d, batch_first=True) for _ in range(config.n_layers))
        self.dropout = nn.Dropout(config.dropout)
        self.to_empty(device="cpu")
        self._initialise(seed)

    @torch.no_grad()
    def _initialise(self, seed: int) -> None:
        """Small vectors; recurrent weights uniform within 1 / sqrt D; zero biases."""
        draw = torch.Generator().manual_seed(seed)
        self.table.normal_(0.0, 0.02, generator=draw)
        edge = self.config.d_model**-0.5
        for weight in self.layers.parameters():
            if weight.ndim > 1:
                weight.uniform_(-edge, edge, generator=draw)
            else:
                weight.zero_()

    def forward(self, batch: EventBatch) -> Tensor:
        """Give the state after each event, B T D."""
        x = self.dropout(lookup(batch.ids[..., self.column], self.table))
        if not len(batch):  # the recurrent kernel refuses an empty batch
            return x
        for layer in self.layers:
            x = self.dropout(layer(x)[0])
        return x
