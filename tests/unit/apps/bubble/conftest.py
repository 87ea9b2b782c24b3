"""A small planted world: users with narrow tastes among six categories, known to the test and to nobody else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from habitus.apps.bubble.catalogue import Catalogue, History, split_rows
from habitus.apps.bubble.loop import LoopConfig, Stage
from habitus.apps.bubble.policies import PolicyConfig, RulePolicy
from habitus.apps.bubble.traits import AgentConfig, make_agents
from habitus.testing.threads import one_thread

__all__ = ["one_thread"]

N_USERS, N_ITEMS, N_CATEGORIES = 80, 180, 6


def small_log(seed: int = 0, *, is_repeated: bool = False) -> tuple[Catalogue, History]:
    """Ratings whose likes follow two favourite categories of each user."""
    rng = np.random.default_rng(seed)
    is_in = np.zeros((N_ITEMS, N_CATEGORIES), bool)
    is_in[np.arange(N_ITEMS), rng.integers(0, N_CATEGORIES, N_ITEMS)] = True
    is_in |= rng.random(is_in.shape) < 0.12
    names = tuple(f"c{c}" for c in range(N_CATEGORIES))
    catalogue = Catalogue.of(tuple(f"i{i}" for i in range(N_ITEMS)), names, is_in, is_repeated=is_repeated)
    taste = rng.dirichlet(np.full(N_CATEGORIES, 0.35), N_USERS) @ catalogue.share.T
    rows = []
    for user in range(N_USERS):
        n = int(rng.integers(18, 45))
        items = rng.choice(N_ITEMS, n, replace=False, p=(0.1 / N_ITEMS + taste[user]) / (0.1 + taste[user].sum()))
        rows.append(np.stack([np.full(n, user), items]))
    user, item = np.concatenate(rows, axis=1)
    value = np.clip(np.round(2.6 + 4 * taste[user, item] + rng.normal(0, 0.8, len(user))), 1, 5)
    users = tuple(f"u{u}" for u in range(N_USERS))
    side = {"side": np.where(np.arange(N_USERS) % 2 == 0, "even", "odd")}
    return catalogue, split_rows(user, item, value, value >= 4, catalogue, users, side)


def small_stage(n: int = 60, seed: int = 0, *, is_repeated: bool = False) -> Stage:
    catalogue, history = small_log(seed, is_repeated=is_repeated)
    agents = make_agents(catalogue, history, AgentConfig.parse({"n": n}), min_likes=5)
    popular = np.bincount(agents.likes.item, minlength=catalogue.n_items)
    return Stage(catalogue, agents, RulePolicy(agents, catalogue.share, popular, PolicyConfig.parse({})))


def with_agents(stage: Stage, **changed) -> Stage:
    """The same stage with some of its agents' attributes replaced."""
    agents = replace(stage.agents, **changed)
    policy = RulePolicy(
        agents, stage.catalogue.share, np.ones(stage.catalogue.n_items), PolicyConfig.parse({}), theta=0.0
    )
    return replace(stage, agents=agents, policy=policy)


@pytest.fixture(scope="session")
def stage() -> Stage:
    return small_stage()


@pytest.fixture(scope="session")
def short() -> LoopConfig:
    """Three rounds of three pages, two pairs."""
    return LoopConfig.parse({"rounds": 3, "pages": 3, "per_page": 4, "pairs": 2})


@pytest.fixture(scope="session")
def repeated() -> Stage:
    """A log in which an item may be offered again."""
    return small_stage(20, is_repeated=True)


@pytest.fixture(scope="session")
def planted() -> Stage:
    """Agents who take much of what they are shown, so that an answer to what they took can be seen."""
    stage = small_stage()
    popular = np.bincount(stage.agents.likes.item, minlength=stage.catalogue.n_items)
    config = PolicyConfig.parse({"watch_rate": 0.45, "novelty": 4.0})
    return replace(stage, policy=RulePolicy(stage.agents, stage.catalogue.share, popular, config))
