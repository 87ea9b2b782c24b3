"""A trained run of this project as a recommender: any model of events that scores what comes next."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field

from habitus.apps.bubble.catalogue import Catalogue, Likes
from habitus.apps.bubble.recommenders import How
from habitus.core.config import Config
from habitus.core.errors import ArtifactError, ConfigError
from habitus.models.artifact import load_artifact
from habitus.tokens.event_loader import EventLoader
from habitus.tokens.event_requests import request_inputs
from habitus.tokens.events import FIRST, EventSpec

TOKENS = 16_384  # places of a batch
APART = 3_600_000_000  # microseconds between two likes
START = 1_262_304_000_000_000  # 2010-01-01


class ArtifactConfig(Config):
    """`path` is a run folder of `habitus train`, or its artifact; `field` what it predicts, with the catalogue's items.

    `type` is the event type that likes are given; by default the most frequent one.

    >>> ArtifactConfig(path="runs/beauty_sasrec").field
    'item'
    """

    path: str
    field: str = "item"
    type: str | None = None
    length: int = Field(0, ge=0)


class TrainedRun:
    """A frozen model that reads new likes: `retrain` and `fold_in` are the same to it.

    Likes carry no times: they are given to the model an hour apart, so what it knows of gaps and weekdays is idle.
    Members are averaged. Items that the model does not know come last. It was trained elsewhere: make sure that later
    likes, which measure accuracy here, were no part of that.

    Errors: `ConfigError` for a model that does not score the field; `ArtifactError` for a folder that holds none, or
    one that knows none of the items.
    """

    Config = ArtifactConfig

    def __init__(self, config: ArtifactConfig, catalogue: Catalogue) -> None:
        path = Path(config.path)
        artifact = load_artifact(path / "artifact" if (path / "artifact").is_dir() else path)
        if not all(hasattr(member, "scores") for member in artifact.members) or "values" not in artifact.spec:
            raise ConfigError(
                "a model of events that scores what comes next",
                artifact.name,
                where=str(path),
                fix="sasrec, behavegpt, ...",
            )
        self.config, self.members, self.items = config, artifact.members, catalogue.items
        self.spec = EventSpec.from_json(artifact.spec)
        if config.field not in self.spec.values:
            known = ", ".join(self.spec.values)
            raise ConfigError(f"a field out of: {known}", repr(config.field), where=f"{path}: field")
        self.id = self.spec.lookup(config.field, list(catalogue.items))[:-1]
        if not (self.id >= FIRST).any():
            raise ArtifactError("items of the catalogue", f"none that {artifact.name} knows", where=str(path))
        self.likes = Likes.of(np.zeros(0, int), np.zeros(0, int), 0, catalogue.n_items)

    def fit(self, likes: Likes, seed: int) -> None:
        """Keep the log; nothing is trained."""
        self.likes = likes

    def update(self, likes: Likes, how: How, seed: int) -> None:
        """Read the new likes, unless frozen."""
        if how != "none":
            self.likes = likes

    @torch.no_grad()
    def scores(self, n_agents: int) -> np.ndarray:
        """See `Recommender`."""
        found = np.full((n_agents, len(self.id)), -np.inf, np.float32)
        table, users = self._table(n_agents)
        inputs, order = request_inputs(self.spec, table)
        who = order.to_numpy()
        for batch in EventLoader(inputs, tokens_per_batch=TOKENS):
            share = sum(member.scores(batch, self.config.field).softmax(dim=1) for member in self.members)
            known = np.where(self.id >= FIRST, np.asarray(share)[:, np.maximum(self.id, 0)], -1.0)
            found[who[batch.sample.numpy()]] = known
        missing = np.setdiff1d(np.arange(n_agents), users)
        found[missing] = np.bincount(self.likes.item, minlength=len(self.id))
        return found

    def _table(self, n_agents: int) -> tuple[Any, np.ndarray]:
        import polars as pl

        items, size = self.likes.last(self.config.length or self.spec.length)
        row, place = np.nonzero(np.arange(items.shape[1]) < size[:n_agents, None])
        text = pl.Series(self.items).gather(pl.Series(items[row, place]))
        columns: dict[str, Any] = {"user": row, "time": pl.Series(START + place * APART).cast(pl.Datetime("us"))}
        for name in (*self.spec.values, *self.spec.amount_edges):
            columns[name] = pl.Series([None] * len(row), dtype=pl.String if name in self.spec.values else pl.Float64)
        if self.spec.tokens.place and "place" in self.spec.fields:
            columns[self.spec.tokens.place] = pl.Series([None] * len(row), dtype=pl.String)
        if "type" in self.spec.values:
            kind = self.config.type or self.spec.values["type"][0]
            columns["type"] = pl.Series([kind] * len(row), dtype=pl.String)
        columns[self.config.field] = text
        return pl.DataFrame(columns), np.unique(row)
