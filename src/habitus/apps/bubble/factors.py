"""MF-BPR and LightGCN: vectors of users and items, learnt from liked against unliked ones.

One model, `models.lightgcn`, with layers or without; here is how it is trained, trained on, and asked.
"""

from __future__ import annotations

import numpy as np
import torch
from pydantic import Field

from habitus.apps.bubble.catalogue import Catalogue, Likes
from habitus.apps.bubble.recommenders import How
from habitus.core.config import Config
from habitus.core.seeds import derive, generator
from habitus.models.lightgcn import LightGCN, LightGCNConfig, bpr


class FactorsConfig(Config):
    """How vectors are learnt: Adam on the pairwise loss, `l2` on the vectors of each batch.

    `warm_epochs` are those of an update. Folding in moves the vectors of users alone.

    >>> FactorsConfig(epochs=10).lr
    0.005
    """

    d_model: int = Field(64, gt=0)
    n_layers: int = Field(0, ge=0)
    std: float = Field(0.1, gt=0)
    lr: float = Field(5e-3, gt=0)
    l2: float = Field(1e-4, ge=0)
    batch: int = Field(4096, ge=1)
    epochs: int = Field(30, ge=0)
    warm_epochs: int = Field(5, ge=0)


class Factors:
    """Learnt vectors; a score is the product of a user's and an item's. Same seed, same bits, on one thread."""

    Config = FactorsConfig

    def __init__(self, config: FactorsConfig, catalogue: Catalogue) -> None:
        self.config, self.n_items = config, catalogue.n_items
        self.model: LightGCN | None = None
        self.step: torch.optim.Optimizer | None = None

    def fit(self, likes: Likes, seed: int) -> None:
        """Learn from the start."""
        config = self.config
        shape = LightGCNConfig(d_model=config.d_model, n_layers=config.n_layers, std=config.std)
        self.model = LightGCN(shape, likes.n_users, self.n_items, seed=derive(seed, "factors") % 2**31)
        self.step = torch.optim.Adam(self.model.parameters(), lr=config.lr, eps=1e-8)
        self._learn(likes, seed, config.epochs, is_whole=True)

    def update(self, likes: Likes, how: How, seed: int) -> None:
        """Learn on for some epochs; folded in, from the new graph and with the items held still."""
        if how != "none":
            self._learn(likes, seed, self.config.warm_epochs, is_whole=how == "retrain")

    def _learn(self, likes: Likes, seed: int, epochs: int, *, is_whole: bool) -> None:
        assert self.model is not None
        assert self.step is not None
        model, config = self.model, self.config
        user, item = likes.user, likes.item.astype(np.int64)
        known = np.unique(user * self.n_items + item)
        if config.n_layers:
            model.connect(user, item)
        for epoch in range(epochs):
            draw = generator(seed, "pairs", epoch)
            order = draw.permutation(len(user))
            other = unliked(known, user, self.n_items, draw)
            for first in range(0, len(order), config.batch):
                rows = order[first : first + config.batch]
                self._one(*(torch.from_numpy(x[rows]) for x in (user, item, other)), is_whole=is_whole)

    def _one(self, user: torch.Tensor, item: torch.Tensor, other: torch.Tensor, *, is_whole: bool) -> None:
        assert self.model is not None
        assert self.step is not None
        model = self.model
        users, items = model()
        loss = bpr(users[user], items[item], items[other])
        rows = torch.cat([user, item + model.n_users, other + model.n_users])
        loss = loss + self.config.l2 * model.table[rows].square().sum() / len(user)
        self.step.zero_grad()
        loss.backward()
        if not is_whole:
            assert model.table.grad is not None
            model.table.grad[model.n_users :] = 0
            before = model.table.detach()[model.n_users :].clone()
        self.step.step()
        if not is_whole:
            model.table.data[model.n_users :] = before  # pyright: ignore

    @torch.no_grad()
    def scores(self, n_agents: int) -> np.ndarray:
        """See `Recommender`."""
        assert self.model is not None
        users, items = self.model()
        return (users[:n_agents] @ items.T).numpy()


def unliked(known: np.ndarray, user: np.ndarray, n_items: int, draw: np.random.Generator) -> np.ndarray:
    """Draw an item for every row that its user does not have, as far as three tries find one; int64."""
    item = draw.integers(0, n_items, len(user))
    for _ in range(2):
        code = user * n_items + item
        at = np.minimum(np.searchsorted(known, code), max(len(known) - 1, 0))
        is_known = known[at] == code
        item[is_known] = draw.integers(0, n_items, int(is_known.sum()))
    return item
