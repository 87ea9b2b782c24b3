"""One interface for everything that ranks items, and the recommenders that only count.

A recommender is fitted on likes, told of new ones, and scores all items for the first users of the log, the agents. It
sees nothing else: no taste, no trait, no later like. Letters: U agents, V items, C categories.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol

import numpy as np
from pydantic import Field
from threadpoolctl import threadpool_limits

from habitus.apps.bubble.catalogue import Catalogue, Likes
from habitus.apps.bubble.draws import draws
from habitus.apps.bubble.traits import decayed, liked_mass
from habitus.core.config import Config
from habitus.core.errors import require
from habitus.metrics.diversity import shares

How = Literal["retrain", "fold_in", "none"]


class Recommender(Protocol):
    """What the loop asks of a recommender; anything with these three joins in."""

    def fit(self, likes: Likes, seed: int) -> None:
        """Learn from the log before the loop."""
        ...

    def update(self, likes: Likes, how: How, seed: int) -> None:
        """Take in the log with new likes at the ends of users: train on, only read them, or neither."""
        ...

    def scores(self, n_agents: int) -> np.ndarray:
        """Give the scores of all items for the first users of the log, float32 [U, V]; only their order counts."""
        ...


class RandomConfig(Config):
    """No options."""


class Random:
    """A fresh order every round, the same in both worlds of a pair: what no response looks like.

    >>> one = Random(RandomConfig(), Catalogue.of(("a", "b"), ("x",), np.ones((2, 1))))
    >>> one.fit(Likes.of(np.array([0]), np.array([1]), 1, 2), seed=0)
    >>> one.scores(1).shape
    (1, 2)
    """

    Config = RandomConfig

    def __init__(self, config: RandomConfig, catalogue: Catalogue) -> None:
        self.n_items, self.seed, self.round = catalogue.n_items, 0, 0

    def fit(self, likes: Likes, seed: int) -> None:
        """Keep the seed."""
        self.seed, self.round = seed, 0

    def update(self, likes: Likes, how: How, seed: int) -> None:
        """Draw anew next time, unless frozen."""
        self.round += how != "none"

    def scores(self, n_agents: int) -> np.ndarray:
        """See `Recommender`."""
        key = (np.arange(n_agents)[:, None], np.arange(self.n_items)[None])
        return draws(self.seed, *key, self.round, "random").astype(np.float32)


class PopularityConfig(Config):
    """No options."""


class PopularItems:
    """How often an item was liked, counted again each round; ties go by the item's number."""

    Config = PopularityConfig

    def __init__(self, config: PopularityConfig, catalogue: Catalogue) -> None:
        self.count = np.zeros(catalogue.n_items, np.float32)

    def fit(self, likes: Likes, seed: int) -> None:
        """Count."""
        self.count = np.bincount(likes.item, minlength=likes.n_items).astype(np.float32)

    def update(self, likes: Likes, how: How, seed: int) -> None:
        """Count again when retrained."""
        if how == "retrain":
            self.fit(likes, seed)

    def scores(self, n_agents: int) -> np.ndarray:
        """See `Recommender`."""
        return np.broadcast_to(self.count, (n_agents, len(self.count)))


class ItemKNNConfig(Config):
    """BM25 weights and the `k` nearest items; the same numbers as `implicit` gives (a test compares).

    >>> ItemKNNConfig(k=50).b
    0.75
    """

    k: int = Field(100, ge=1)
    k1: float = Field(1.2, gt=0)
    b: float = Field(0.75, ge=0, le=1)


class ItemKNN:
    """Items near those the user liked: products of BM25-weighted columns, the k largest kept per item.

    Source of the weights: Robertson et al., Okapi BM25; an item is the document, a user the term.
    """

    Config = ItemKNNConfig
    BLOCK = 4000  # items whose products are held at once

    def __init__(self, config: ItemKNNConfig, catalogue: Catalogue) -> None:
        self.config = config
        self.near: Any = None
        self.table: Any = None

    def fit(self, likes: Likes, seed: int) -> None:
        """Find the neighbours."""
        self.table = likes.matrix()
        weighted = bm25(self.table.T.tocsr(), self.config.k1, self.config.b)
        parts = []
        from scipy.sparse import csr_array, vstack

        for first in range(0, weighted.shape[0], self.BLOCK):
            product = (weighted[first : first + self.BLOCK] @ weighted.T).toarray()
            k = min(self.config.k, product.shape[1])
            best = np.argpartition(-product, k - 1, axis=1)[:, :k]
            kept = np.zeros_like(product)
            np.put_along_axis(kept, best, np.take_along_axis(product, best, axis=1), axis=1)
            parts.append(csr_array(kept))
        self.near = vstack(parts, format="csr")

    def update(self, likes: Likes, how: How, seed: int) -> None:
        """Find them again, or only read the new likes of users."""
        if how == "retrain":
            self.fit(likes, seed)
        elif how == "fold_in":
            self.table = likes.matrix()

    def scores(self, n_agents: int) -> np.ndarray:
        """See `Recommender`."""
        return (self.table[:n_agents] @ self.near).toarray().astype(np.float32)


def bm25(table: Any, k1: float, b: float) -> Any:
    """Weigh a sparse table of items by users: rare users tell more, long items less; float64."""
    table = table.tocoo().astype(np.float64)
    idf = np.log(float(table.shape[0])) - np.log1p(np.bincount(table.col, minlength=table.shape[1]))
    size = np.asarray(table.sum(axis=1)).ravel()
    norm = (1.0 - b) + b * size / max(size.mean(), 1e-12)
    table.data = table.data * (k1 + 1.0) / (k1 * norm[table.row] + table.data) * idf[table.col]
    return table.tocsr()


class AlsConfig(Config):
    """Alternating least squares by `implicit` (extra `recsys`).

    >>> AlsConfig(factors=32).alpha
    10.0
    """

    factors: int = Field(64, gt=0)
    regularisation: float = Field(0.05, ge=0)
    alpha: float = Field(10.0, gt=0)
    iterations: int = Field(15, ge=1)


class Als:
    """Factors of users and items, one exact solve at a time; folding in solves the users alone. One thread.

    Errors: `ExtraError` without `implicit`.
    """

    Config = AlsConfig

    def __init__(self, config: AlsConfig, catalogue: Catalogue) -> None:
        self.config = config
        self.users = self.items = np.zeros((0, 0), np.float32)

    def fit(self, likes: Likes, seed: int) -> None:
        """Solve from the start."""
        self._solve(likes, seed, self.config.iterations)

    def update(self, likes: Likes, how: How, seed: int) -> None:
        """Solve on from where the factors are, or users alone."""
        if how == "retrain":
            self._solve(likes, seed, 3, self.items)
        elif how == "fold_in":
            with threadpool_limits(1, "blas"):  # its own threads fight with those of `implicit`
                model = self._model(seed, 1)
                model.item_factors, model.user_factors = self.items, self.users
                table = _old_csr(likes)
                self.users = np.asarray(model.recalculate_user(np.arange(likes.n_users), table))

    def _solve(self, likes: Likes, seed: int, iterations: int, items: np.ndarray | None = None) -> None:
        with threadpool_limits(1, "blas"):
            model = self._model(seed, iterations)
            if items is not None:
                model.item_factors, model.user_factors = items.copy(), self.users.copy()
            model.fit(_old_csr(likes), show_progress=False)
        self.users, self.items = np.asarray(model.user_factors), np.asarray(model.item_factors)

    def _model(self, seed: int, iterations: int) -> Any:
        als = require("implicit.cpu.als", "recsys")
        chosen = self.config
        return als.AlternatingLeastSquares(
            factors=chosen.factors, regularization=chosen.regularisation, alpha=chosen.alpha,
            iterations=iterations, num_threads=1, random_state=seed % 2**31,
        )  # fmt: skip

    def scores(self, n_agents: int) -> np.ndarray:
        """See `Recommender`."""
        return self.users[:n_agents] @ self.items.T


def _old_csr(likes: Likes) -> Any:
    from scipy.sparse import csr_matrix

    return csr_matrix(likes.matrix())


class ResponderConfig(Config):
    """`rho`: how much of the answer follows what was taken since the loop began; `is_greedy` follows the top alone.

    `first` > 0 makes it stubborn: only the first so many likes of a user are ever read.

    >>> ResponderConfig(rho=0.5).is_greedy
    False
    """

    rho: float = Field(1.0, ge=0, le=1)
    is_greedy: bool = False
    first: int = Field(0, ge=0)


class Responder:
    """A recommender whose answer is known: draws items by category shares q = (1 - rho) old + rho recent.

    It knows the categories, which no other recommender does: `rho = 1` is a list that mirrors what the user does, the
    ruler that others are measured with. Draws are new each round and the same in both worlds.
    """

    Config = ResponderConfig

    def __init__(self, config: ResponderConfig, catalogue: Catalogue) -> None:
        self.config, self.share = config, catalogue.share.astype(np.float64)
        self.seed, self.round = 0, 0
        self.start = self.likes = Likes.of(np.zeros(0, int), np.zeros(0, int), 0, catalogue.n_items)
        self.weight = np.zeros_like(self.share)

    def fit(self, likes: Likes, seed: int) -> None:
        """Keep the log; items are drawn by popularity inside a category."""
        self.start = self.likes = likes
        self.seed, self.round = seed, 0
        popular = np.bincount(likes.item, minlength=likes.n_items) + 1.0
        weight = self.share * popular[:, None]
        self.weight = weight / weight.sum(axis=0)

    def update(self, likes: Likes, how: How, seed: int) -> None:
        """Read the new likes, unless frozen."""
        if how != "none":
            self.likes, self.round = likes, self.round + 1

    def scores(self, n_agents: int) -> np.ndarray:
        """See `Recommender`."""
        likes, some = self.start, np.arange(n_agents)
        if self.config.first:
            likes = _first(likes, self.config.first)
        old = shares(liked_mass(likes.take(some), self.share) + 1e-6)
        q = (1 - self.config.rho) * old + self.config.rho * self._recent(old)
        u = draws(self.seed, some[:, None], np.arange(len(self.share))[None], self.round, "responder")
        gumbel = -np.log(-np.log(np.clip(u, 1e-12, 1 - 1e-12)))
        return (np.log(q @ self.weight.T + 1e-30) + gumbel).astype(np.float32)

    def _recent(self, old: np.ndarray) -> np.ndarray:
        """Shares of what was taken since the start; who took nothing keeps the old ones."""
        if self.config.first:
            return old
        size = np.diff(self.start.offsets)
        place = np.arange(len(self.likes.item)) - self.likes.offsets[self.likes.user]
        is_new = place >= size[self.likes.user]
        new = Likes.of(self.likes.user[is_new], self.likes.item[is_new], self.likes.n_users, self.likes.n_items)
        mass = decayed(new, self.share, 20.0)[: len(old)]
        recent = np.where(mass.sum(axis=1, keepdims=True) > 0, shares(mass), old)
        if not self.config.is_greedy:
            return recent
        top = np.zeros_like(recent)
        top[np.arange(len(top)), recent.argmax(axis=1)] = 1
        return np.where(mass.sum(axis=1, keepdims=True) > 0, top, old)


def _first(likes: Likes, n: int) -> Likes:
    is_first = np.arange(len(likes.item)) - likes.offsets[likes.user] < n
    return Likes.of(likes.user[is_first], likes.item[is_first], likes.n_users, likes.n_items)
