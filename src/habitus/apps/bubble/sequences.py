"""SASRec, Caser, GRU4Rec: models of events trained on the likes of the loop, asked for what comes next."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field

from habitus.apps.bubble.catalogue import Catalogue, Likes
from habitus.apps.bubble.recommenders import How
from habitus.core.config import Config
from habitus.core.registry import MODELS, resolve
from habitus.core.seeds import derive, generator
from habitus.models.layers.catalogue import FIRST
from habitus.tokens.batch import EventBatch
from habitus.tokens.events import EventShape
from habitus.training.objectives.next_event import full

ASKED = 256  # agents scored at once


class SequencesConfig(Config):
    """Which model, how long its rows are, how it is trained: Adam, full softmax over the catalogue.

    `kind` is a name of the registry whose states are compared with its own item table; `model` are keys of its config.
    A user is one row of `length` likes each epoch: half of the time the newest ones, else a stretch drawn evenly.

    >>> SequencesConfig(kind="caser").length
    50
    """

    kind: Literal["sasrec", "caser", "gru4rec"] = "sasrec"
    model: dict[str, Any] = Field(default_factory=dict)
    length: int = Field(50, ge=2)
    lr: float = Field(3e-3, gt=0)
    l2: float = Field(0.0, ge=0)
    batch: int = Field(64, ge=1)
    epochs: int = Field(20, ge=0)
    warm_epochs: int = Field(2, ge=0)


class Sequences:
    """A model of events behind the interface of recommenders. Same seed, same bits, on one thread.

    `update` reads the new likes (nothing else is needed to fold them in) and, when retrained, learns on.
    """

    Config = SequencesConfig

    def __init__(self, config: SequencesConfig, catalogue: Catalogue) -> None:
        self.config = config
        self.shape = EventShape((("item", catalogue.n_items + FIRST),), n_amounts=0, length=config.length)
        self.maker: Any = resolve(MODELS, config.kind, kind="model")
        self.chosen = self.maker.Config.parse(config.model, where=f"model of {config.kind}")
        self.model: Any = None
        self.step: Any = None
        self.likes = Likes.of(np.zeros(0, int), np.zeros(0, int), 0, catalogue.n_items)

    def fit(self, likes: Likes, seed: int) -> None:
        """Learn from the start."""
        self.model = self.maker(self.chosen, self.shape, seed=derive(seed, self.config.kind) % 2**31)
        self.step = torch.optim.AdamW(self.model.parameters(), lr=self.config.lr, weight_decay=self.config.l2)
        self.likes = likes
        self._learn(seed, self.config.epochs)

    def update(self, likes: Likes, how: How, seed: int) -> None:
        """Read the new likes, and learn on when retrained."""
        if how == "none":
            return
        self.likes = likes
        if how == "retrain":
            self._learn(seed, self.config.warm_epochs)

    def _learn(self, seed: int, epochs: int) -> None:
        able = np.flatnonzero(np.diff(self.likes.offsets) > 1)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, "dropout") % 2**63)
            self.model.train()
            for epoch in range(epochs):
                draw = generator(seed, "rows", epoch)
                order, end = draw.permutation(able), self._ends(draw)
                for first in range(0, len(order), self.config.batch):
                    self._one(order[first : first + self.config.batch], end)
        self.model.eval()

    def _ends(self, draw: np.random.Generator) -> np.ndarray:
        """Where the row of each user ends this epoch: at the newest like, or evenly among those with a full row."""
        size = np.diff(self.likes.offsets)
        spare = np.maximum(size - 1 - self.config.length, 0)
        return size - (draw.random(len(size)) * (spare + 1)).astype(np.int64) * (draw.random(len(size)) < 0.5)

    def _one(self, users: np.ndarray, end: np.ndarray) -> None:
        """One step on the rows of some users."""
        size = np.minimum(end[users], self.config.length + 1)
        width = int(size.max())
        place = np.arange(width)
        at = (self.likes.offsets[users] + end[users] - size)[:, None] + place
        is_there = place < size[:, None]
        ids = np.where(is_there, self.likes.item[np.where(is_there, at, 0)].astype(np.int64) + FIRST, 0)
        given, told = torch.from_numpy(ids[:, :-1]), torch.from_numpy(ids[:, 1:])
        is_asked = told >= FIRST
        given = given * is_asked
        hidden = self.model(rows_of(given, torch.from_numpy(size - 1)))
        weight, bias = self.model.output("item")
        loss = full(self.model.query(hidden[is_asked], "item"), weight, bias, told[is_asked]) / int(is_asked.sum())
        self.step.zero_grad()
        loss.backward()
        self.step.step()

    @torch.no_grad()
    def scores(self, n_agents: int) -> np.ndarray:
        """See `Recommender`; agents without likes get the popular items."""
        items, size = self.likes.last(self.config.length)
        found = np.empty((n_agents, self.likes.n_items), np.float32)
        for first in range(0, n_agents, ASKED):
            some = slice(first, min(first + ASKED, n_agents))
            ids = torch.from_numpy(items[some].astype(np.int64) + FIRST)
            ids = torch.where(ids < FIRST, 0, ids)
            batch = rows_of(ids, torch.from_numpy(np.maximum(size[some], 1)))
            found[some] = self.model.scores(batch, "item")[:, FIRST:].numpy()
        is_new = size[:n_agents] == 0
        found[is_new] = np.bincount(self.likes.item, minlength=self.likes.n_items)
        return found


def rows_of(ids: torch.Tensor, length: torch.Tensor) -> EventBatch:
    """Wrap item ids B T, padded at the end, as a batch of events without times."""
    n, width = ids.shape
    nothing = torch.zeros(n, width, dtype=torch.int64)
    return EventBatch(
        ids=ids[..., None],
        amount=torch.zeros(n, width, 0),
        time=nothing,
        length=length.clamp(min=1),
        next_ids=nothing[..., None],
        next_amount=torch.zeros(n, width, 0),
        next_time=nothing,
        is_target=nothing.bool(),
        remaining=torch.full((n,), torch.nan),
        sample=torch.arange(n),
    )
