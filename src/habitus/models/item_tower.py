"""Item tower: id, categories, title words and price of an item -> one unit vector; content alone carries a new item."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from habitus.tokens.item_content import Content, ContentEncoder, ContentSpec

SPREAD = 0.1  # of fresh tables


class ItemTower(nn.Module):
    """unit(W (id + sum of category and price rows + mean of title words) + b).

    Knows the content of its N items; `place` (int64 [N]) is the row of an item in the id table, 0 for one without.
    `forward` takes items (int64 [B]) and which of them show their id (bool [B]) and
    gives float32 [B, D]. An item with neither gets the direction of b; whoever asks leaves such items out.
    """

    def __init__(self, spec: ContentSpec, content: Content, place: np.ndarray, d: int) -> None:
        super().__init__()
        self.spec = spec
        self.id = nn.Embedding(int(place.max(initial=0)) + 1, d)
        self.tables = nn.ModuleList([nn.Embedding(rows, d) for rows in spec.sizes.values()])
        self.word = nn.EmbeddingBag(spec.n_buckets, d, mode="mean")
        self.out = nn.Linear(d, d)
        for table in (self.id, self.word, *self.tables):
            nn.init.normal_(table.weight, std=SPREAD)  # pyright: ignore
        self.register_buffer("place", torch.from_numpy(place.astype(np.int64)), persistent=False)
        self.register_buffer("ids", torch.from_numpy(content.ids.astype(np.int64)), persistent=False)
        self.register_buffer("words", torch.from_numpy(content.words.astype(np.int64)), persistent=False)
        self.register_buffer("offsets", torch.from_numpy(content.offsets), persistent=False)

    def forward(self, items: Tensor, shows_id: Tensor) -> Tensor:
        place, ids, words, offsets = self.place, self.ids, self.words, self.offsets
        assert isinstance(place, Tensor)
        assert isinstance(ids, Tensor)
        assert isinstance(words, Tensor)
        assert isinstance(offsets, Tensor)
        total = self.id(place[items]) * shows_id[:, None]
        for column, table in enumerate(self.tables):
            total = total + table(ids[items, column])
        if len(words):
            start = offsets[items]
            size = offsets[items + 1] - start
            ends = size.cumsum(0)
            rows = torch.arange(int(ends[-1])) + (start - ends + size).repeat_interleave(size)
            total = total + self.word(words[rows], ends - size)
        return functional.normalize(self.out(total), dim=-1)

    def encoder(self) -> ContentEncoder:
        """Give the content half as frozen arrays."""

        def array(weight: Tensor) -> np.ndarray:
            return weight.detach().cpu().numpy().astype(np.float32)

        tables = {name: array(table.weight) for name, table in zip(self.spec.sizes, self.tables, strict=True)}  # pyright: ignore
        return ContentEncoder(
            self.spec, tables, array(self.word.weight), array(self.out.weight), array(self.out.bias)
        )  # fmt: skip
