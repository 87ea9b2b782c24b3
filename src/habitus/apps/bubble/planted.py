"""A small log whose tastes are planted: users with a few favourite categories. For trials, tests and examples."""

from __future__ import annotations

import numpy as np

from habitus.apps.bubble.catalogue import Catalogue, History, split_rows
from habitus.apps.bubble.loop import Stage
from habitus.apps.bubble.policies import PolicyConfig, RulePolicy
from habitus.apps.bubble.traits import AgentConfig, make_agents


def planted_log(
    n_users: int = 80, n_items: int = 180, n_categories: int = 6, *, seed: int = 0, is_repeated: bool = False
) -> tuple[Catalogue, History]:
    """Give ratings whose likes follow the favourite categories of each user; 18 to 44 ratings a user.

    >>> catalogue, history = planted_log(20)
    >>> catalogue.n_items, len(history.users)
    (180, 20)
    """
    rng = np.random.default_rng(seed)
    is_in = np.zeros((n_items, n_categories), bool)
    is_in[np.arange(n_items), rng.integers(0, n_categories, n_items)] = True
    is_in |= rng.random(is_in.shape) < 0.12
    names = tuple(f"c{c}" for c in range(n_categories))
    catalogue = Catalogue.of(tuple(f"i{i}" for i in range(n_items)), names, is_in, is_repeated=is_repeated)
    taste = rng.dirichlet(np.full(n_categories, 0.35), n_users) @ catalogue.share.T
    weight = 0.1 / n_items + taste
    luck = rng.gumbel(size=weight.shape) + np.log(weight)
    n_rated = rng.integers(18, 45, n_users)
    order = np.argsort(-luck, axis=1)[:, : int(n_rated.max(initial=1))]
    user, place = np.nonzero(np.arange(order.shape[1]) < n_rated[:, None])
    item = order[user, place]
    value = np.clip(np.round(2.6 + 4 * taste[user, item] + rng.normal(0, 0.8, len(user))), 1, 5)
    side = {"side": np.where(np.arange(n_users) % 2 == 0, "even", "odd")}
    users = tuple(f"u{u}" for u in range(n_users))
    return catalogue, split_rows(user, item, value, value >= 4, catalogue, users, side)


def planted_stage(
    n_agents: int = 60,
    *,
    n_users: int = 80,
    seed: int = 0,
    is_repeated: bool = False,
    policy: PolicyConfig | None = None,
) -> Stage:
    """Give the stage of a planted log.

    >>> len(planted_stage(10).agents)
    10
    """
    catalogue, history = planted_log(n_users, seed=seed, is_repeated=is_repeated)
    agents = make_agents(catalogue, history, AgentConfig.parse({"n": n_agents}), min_likes=5)
    popular = np.bincount(agents.likes.item, minlength=catalogue.n_items)
    return Stage(catalogue, agents, RulePolicy(agents, catalogue.share, popular, policy or PolicyConfig.parse({})))
