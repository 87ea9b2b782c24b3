"""The closed loop: worlds that differ in nothing but what their agents try.

A pair of worlds has the same agents, first weights, training seeds and draws; each world has a recommender and a log of
its own. Every round a recommender scores, agents browse, what they took joins the log, the recommender learns on.

Letters: A arms, Q rounds, U agents, N places of a list, K depth of a kept ranking.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, model_validator

from habitus.apps.bubble.catalogue import Catalogue
from habitus.apps.bubble.lists import first_free, ranking, varied, with_chance
from habitus.apps.bubble.policies import ARMS, Policy, State, browse
from habitus.apps.bubble.recommenders import How, Recommender
from habitus.apps.bubble.traits import Agents
from habitus.core.atomic import new_file
from habitus.core.config import Config
from habitus.core.seeds import derive
from habitus.metrics.ranking import row_scores

DEPTH = 256
AT = 20  # of the accuracies


class LoopConfig(Config):
    """How long, how wide, how often.

    `how`: `retrain` learns on each round, `fold_in` only reads new likes, `none` leaves the first scores as they are.
    `eps` gives a slot to chance, `mmr` trades rank for variety. `pairs` are replicates. `has_frozen` plays each arm a
    second time with the first scores: what the emptying of a list alone does. The base arm, which no score of escape
    needs, is played in the first `base_pairs` alone.

    >>> LoopConfig(pairs=2).n_places
    20
    """

    rounds: int = Field(5, ge=2)
    pages: int = Field(5, ge=1)
    per_page: int = Field(4, ge=1)
    pairs: int = Field(6, ge=1)
    how: How = "retrain"
    eps: float = Field(0.0, ge=0, le=1)
    mmr: float = Field(0.0, ge=0, le=1)
    arms: tuple[str, ...] = ("positive", "negative", "base")
    has_frozen: bool = True
    base_pairs: int = Field(2, ge=0)
    seed: int = 0

    @model_validator(mode="after")
    def _known_arms(self) -> LoopConfig:
        unknown = [name for name in self.arms if name not in ARMS]
        if unknown:
            raise ValueError(f"arms out of: {', '.join(ARMS)}")
        if self.arms[:2] != ("positive", "negative"):
            raise ValueError('arms begin with "positive", "negative"')
        return self

    @property
    def n_places(self) -> int:
        """N, items offered per round."""
        return self.pages * self.per_page

    def depth(self, n_items: int) -> int:
        """K: deep enough that what an agent took never empties its list."""
        return min(n_items, max(DEPTH, self.n_places * (self.rounds + 1)))


@dataclass(frozen=True)
class Stage:
    """What all worlds of a run share."""

    catalogue: Catalogue
    agents: Agents
    policy: Policy


@dataclass(frozen=True)
class Played:
    """What happened in one set of worlds, and what would have been shown.

    Attributes
    ----------
    arms
        Names, in the order of the first axis.
    ranked
        int [A, Q, U, K]: best items outside what was seen before the loop, per round, before anybody's own mask.
    lists, taken, pages
        int [A, Q, U, N] offered; bool, what was taken; int [A, Q, U] pages opened.
    frozen
        `lists` of both arms with the first scores kept, int [2, Q, U, N], or empty.
    facts
        seed, accuracies before and after, seconds.
    """

    arms: tuple[str, ...]
    ranked: np.ndarray
    lists: np.ndarray
    taken: np.ndarray
    pages: np.ndarray
    frozen: np.ndarray
    facts: dict[str, Any]

    def save(self, path: Path) -> None:
        """Write one file, atomically."""
        import json

        arrays = {k: v for k, v in vars(self).items() if isinstance(v, np.ndarray)}
        with new_file(path) as beside, beside.open("wb") as file:
            np.savez(file, facts=np.array(json.dumps(self.facts | {"arms": list(self.arms)})), **arrays)  # pyright: ignore

    @classmethod
    def load(cls, path: Path) -> Played:
        """Read what `save` wrote."""
        import json

        with np.load(path, allow_pickle=False) as file:
            facts = json.loads(str(file["facts"]))
            arrays = {name: file[name] for name in file.files if name != "facts"}
        return cls(arms=tuple(facts.pop("arms")), facts=facts, **arrays)


def play(stage: Stage, make: Callable[[], Recommender], config: LoopConfig, pair: int) -> Played:
    """Play every arm of one pair of worlds, from one first fit. Runs on one thread: same seed, same bits."""
    seed = derive(config.seed, "pair", pair) % 2**31
    arms = tuple(name for name in config.arms if name != "base" or pair < config.base_pairs)
    with single_thread():
        began, used = time.perf_counter(), time.process_time()
        first = make()
        first.fit(stage.agents.likes, seed)
        scores = first.scores(len(stage.agents))
        facts: dict[str, Any] = {"seed": seed, "pair": pair, "fit_seconds": time.perf_counter() - began}
        facts |= {f"{k} before": v for k, v in accuracy(scores, stage.agents, stage.catalogue.is_repeated).items()}
        worlds = []
        for name in arms:
            world, last = _play_arm(stage, copy.deepcopy(first), config, name, seed)
            worlds.append(world)
            if last is not None:
                after = accuracy(last, stage.agents, stage.catalogue.is_repeated)
                facts |= {f"{k} after": v for k, v in after.items()}
        frozen = np.zeros((0, 0, 0, 0), np.int32)
        if config.has_frozen:
            still = config.model_copy(update={"how": "none"})
            both = [_play_arm(stage, copy.deepcopy(first), still, name, seed)[0] for name in arms[:2]]
            frozen = np.stack([world["lists"] for world in both])
        facts["seconds"], facts["cpu_seconds"] = time.perf_counter() - began, time.process_time() - used
    stacked = {name: np.stack([world[name] for world in worlds]) for name in worlds[0]}
    return Played(arms=arms, frozen=frozen, facts=facts, **stacked)


def _play_arm(
    stage: Stage, recommender: Recommender, config: LoopConfig, arm: str, seed: int
) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    """Play one world; gives its arrays, and the last scores of the base arm."""
    agents, catalogue = stage.agents, stage.catalogue
    activity, diversity = ARMS[arm].levels(agents)
    likes, mass = agents.likes, agents.old
    seen = None if catalogue.is_repeated else agents.mask()
    own = None if seen is None else seen.copy()
    kind = np.int16 if catalogue.n_items < 2**15 else np.int32
    found: dict[str, list[np.ndarray]] = {"ranked": [], "lists": [], "taken": [], "pages": []}
    for number in range(1, config.rounds + 1):
        ranked = ranking(recommender.scores(len(agents)), seen, config.depth(catalogue.n_items))
        lists = offered(ranked, own, catalogue, config, seed, agents.key, number)
        state = State(mass, activity, diversity, seed, arm)
        taken, pages, mass = browse(stage.policy, lists, state, catalogue.share, number, config.per_page)
        for name, value in zip(found, (ranked.astype(kind), lists.astype(kind), taken, pages.astype(np.int16))):
            found[name].append(value)
        row, place = np.nonzero(taken)
        if own is not None:
            own[row, lists[row, place]] = True
        likes = likes.plus(row, lists[row, place])
        if number < config.rounds or arm == "base":
            recommender.update(likes, config.how, derive(seed, "update", number) % 2**31)
    last = recommender.scores(len(agents)) if arm == "base" else None
    return {name: np.stack(values) for name, values in found.items()}, last


def offered(
    ranked: np.ndarray,
    blocked: np.ndarray | None,
    catalogue: Catalogue,
    config: LoopConfig,
    seed: int,
    key: np.ndarray,
    number: int,
    *,
    eps: float | None = None,
) -> np.ndarray:
    """Give the list of a round out of a ranking and a mask of what may not be offered, int64 [U, N]."""
    n = config.n_places
    lists = first_free(ranked, blocked, 4 * n if config.mmr else n)
    if config.mmr:
        lists = varied(lists, catalogue.share, n, config.mmr)
    share = config.eps if eps is None else eps
    return with_chance(lists, blocked, catalogue.n_items, share, seed, key, number)


@contextmanager
def single_thread() -> Iterator[None]:
    """Run torch on one thread: sums then have one order, and two processes do not fight for two cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def accuracy(scores: np.ndarray, agents: Agents, is_repeated: bool) -> dict[str, float]:
    """Recall and NDCG at 20 on the later likes, what was seen before the loop left out; means over agents with any.

    Ties count by the item's number.
    """
    held = agents.held
    if not len(held.item):
        return {f"recall@{AT}": float("nan"), f"ndcg@{AT}": float("nan")}
    top = ranking(scores, None if is_repeated else agents.mask(), min(AT, agents.likes.n_items))
    place = np.full((len(agents), agents.likes.n_items), AT + 1, np.int16)
    row, at = np.nonzero(top >= 0)
    place[row, top[row, at]] = at + 1
    pairs = np.unique(held.user * held.n_items + held.item)
    owner, item = pairs // held.n_items, pairs % held.n_items
    rank = place[owner, item].astype(np.int64)
    return {f"{m}@{AT}": float(row_scores(rank, AT, m, owner).mean()) for m in ("recall", "ndcg")}
