"""How an agent browses: which items of a page it takes, and whether it goes on. Rules over arrays, no agent at a time.

Letters: U agents, N places of a list, m items of a page, C categories.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from pydantic import Field

from habitus.apps.bubble.draws import draws
from habitus.apps.bubble.traits import Agents
from habitus.core.config import Config

DELTA = np.array([0.0, -1.0, 0.0, 1.0])  # by level of diversity
CROWD = np.array([0.0, 1.0, 0.0, -1.0])  # by level of conformity
PER_PAGE = 4  # of the lists that the threshold is set on


class PolicyConfig(Config):
    """The rules; indices of `caps` and `exits` are levels of activity.

    `novelty` weighs how new an item's categories are, `crowd` its popularity, `caps` are items taken per page at most,
    `exits` the chance to leave after a page, larger after the second and the fourth. `watch_rate` sets the common
    threshold: the share of what stands on opened pages that agents as they are take, where lists are ordered by taste.

    >>> PolicyConfig().caps
    (1, 2, 4)
    """

    novelty: float = Field(2.0, ge=0)
    crowd: float = Field(0.5, ge=0)
    caps: tuple[int, int, int] = (1, 2, 4)
    exits: tuple[float, float, float] = (0.5, 0.3, 0.1)
    half_life: float = Field(20.0, gt=0)
    watch_rate: float = Field(0.32, gt=0, lt=1)


@dataclass(frozen=True)
class Arm:
    """What an agent tries: levels of activity and diversity, None keeps its own.

    >>> ARMS["positive"].activity
    3
    """

    name: str
    activity: int | None = None
    diversity: int | None = None
    step: int | None = None

    def levels(self, agents: Agents) -> tuple[np.ndarray, np.ndarray]:
        """Give the levels of activity and diversity of every agent, int64 [U]."""
        own = (agents.activity, agents.diversity)
        goal = (self.activity, self.diversity)
        moved = [np.full(len(agents), g) if g is not None else level for g, level in zip(goal, own)]
        if self.step is not None:
            moved = [np.clip(m, level - self.step, level + self.step) for m, level in zip(moved, own)]
        return moved[0], moved[1]


ARMS = {
    "base": Arm("base"),
    "positive": Arm("positive", 3, 3),
    "negative": Arm("negative", 1, 1),
    "active": Arm("active", 3, 1),
    "diverse": Arm("diverse", 1, 3),
}


@dataclass(frozen=True)
class Page:
    """What U agents are shown at once: `items` int [U, m], -1 for an empty place; `number` from 1; `round` from 1."""

    items: np.ndarray
    number: int
    round: int


@dataclass(frozen=True)
class State:
    """What the agents are at this moment.

    `mass` float64 [U, C] decayed category mass, `activity` and `diversity` int [U] levels of the arm, `seed` of the
    pair of worlds, `arm` its name.
    """

    mass: np.ndarray
    activity: np.ndarray
    diversity: np.ndarray
    seed: int
    arm: str = "base"


class Policy(Protocol):
    """Anything that browses: the rules here, or a language model."""

    half_life: float

    def decide(self, page: Page, state: State) -> tuple[np.ndarray, np.ndarray]:
        """Give which items are taken, bool [U, m], and who leaves after the page, bool [U]."""
        ...


class RulePolicy:
    """The rules: taste, crowd, a taste for what is new or for what is known, a cap per page, tiredness.

    chance = sigmoid(theta + taste + crowd + novelty x delta x (n - mean n)), n = 1 - the mass share of the item's
    categories, delta = -1, 0, 1 by level of diversity. Taken items are liked.

    Parameters
    ----------
    share
        Category shares of the items [V, C].
    popular
        How often an item was liked before the loop [V].
    theta
        The threshold; None sets it by `watch_rate`.
    """

    def __init__(
        self,
        agents: Agents,
        share: np.ndarray,
        popular: np.ndarray,
        config: PolicyConfig,
        *,
        theta: float | None = None,
        n_list: int = 20,
    ) -> None:
        self.agents, self.config, self.half_life = agents, config, config.half_life
        self.share, self.is_in = share, (share > 0).astype(np.float64)
        self.mean_in = self.is_in.mean(axis=0)
        z = np.log1p(popular)
        self.popular = (z - z.mean()) / (z.std() or 1.0)
        self.theta = 0.0
        self.theta = self._calibrated(n_list) if theta is None else theta

    def some(self, rows: np.ndarray) -> RulePolicy:
        """Give the rules for some of the agents."""
        own = {name: getattr(self.agents, name)[rows] for name in ("source", "key", "activity", "diversity")}
        own |= {name: getattr(self.agents, name)[rows] for name in ("conformity", "taste", "old")}
        made = object.__new__(RulePolicy)
        made.__dict__ = self.__dict__ | {"agents": replace(self.agents, **own)}
        return made

    def chance(self, items: np.ndarray, mass: np.ndarray, diversity: np.ndarray) -> np.ndarray:
        """Give the chance that an agent takes an item it is shown, [U, m]; 0 for an empty place."""
        from scipy.special import expit

        agents = self.agents
        row, at = np.arange(len(items))[:, None], np.maximum(items, 0)
        total = mass.sum(axis=1, keepdims=True)
        s = np.divide(mass, total, out=np.zeros_like(mass), where=total > 0)
        known = np.einsum("umc,uc->um", self.is_in[at], s)
        novelty = (s @ self.mean_in)[:, None] - known  # n - mean n
        score = self.theta + agents.taste[row, at] + self.config.novelty * DELTA[diversity][:, None] * novelty
        score = score + self.config.crowd * CROWD[agents.conformity][:, None] * self.popular[at]
        return np.where(items >= 0, expit(score), 0.0)

    def decide(self, page: Page, state: State) -> tuple[np.ndarray, np.ndarray]:
        """See `Policy`."""
        p = self.chance(page.items, state.mass, state.diversity)
        key = self.agents.key
        u = draws(state.seed, key[:, None], page.items, page.round, "watch")
        cap = np.array((0, *self.config.caps))[state.activity]
        margin = np.where(u < p, p - u, -1.0)  # keyed by item, so that the place on the page does not matter
        order = np.argsort(-margin, axis=1, kind="stable")
        rank = np.empty_like(order)
        np.put_along_axis(rank, order, np.arange(margin.shape[1])[None], axis=1)
        is_taken = (margin > 0) & (rank < cap[:, None])
        tired = 2.0 if page.number >= 4 else 1.5 if page.number >= 2 else 1.0
        leave = np.minimum(np.array((0.0, *self.config.exits))[state.activity] * tired, 1.0)
        return is_taken, draws(state.seed, key, np.full(len(key), page.number), page.round, "exit") < leave

    def _calibrated(self, n_list: int) -> float:
        """Find the threshold at which agents as they are take `watch_rate` of the pages they open, best taste first."""
        agents = self.agents
        if not len(agents):
            return 0.0
        free = np.where(agents.mask(), -np.inf, agents.taste)
        n = min(n_list, free.shape[1])
        items = np.argsort(-free, axis=1, kind="stable")[:, :n]
        state = State(agents.old, agents.activity, agents.diversity, seed=0)
        low, high = -12.0, 12.0
        for _ in range(20):
            self.theta = (low + high) / 2
            taken, pages, _ = browse(self, items, state, self.share, 1, PER_PAGE)
            is_low = taken.sum() < self.config.watch_rate * pages.sum() * PER_PAGE
            low, high = (self.theta, high) if is_low else (low, self.theta)
        return (low + high) / 2


def browse(
    policy: Policy, lists: np.ndarray, state: State, share: np.ndarray, round_number: int, per_page: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Let all agents read a list page by page.

    Gives what was taken (bool [U, N]), pages opened (int64 [U]) and the new category mass [U, C]. Of a page's taken
    items each counts as much as the others.
    """
    n_agents, n_places = lists.shape
    taken, pages = np.zeros(lists.shape, bool), np.zeros(n_agents, np.int64)
    is_open, mass = np.ones(n_agents, bool), state.mass
    for number, first in enumerate(range(0, n_places, per_page), 1):
        items = lists[:, first : first + per_page]
        is_taken, leaves = policy.decide(
            Page(np.where(is_open[:, None], items, -1), number, round_number), replace(state, mass=mass)
        )
        is_taken &= is_open[:, None] & (items >= 0)
        pages += is_open
        taken[:, first : first + per_page] = is_taken
        n = is_taken.sum(axis=1, keepdims=True)
        gain = (share[np.maximum(items, 0)] * is_taken[..., None]).sum(axis=1)
        mass = mass * 0.5 ** (n / policy.half_life) + gain
        is_open = is_open & ~leaves
    return taken, pages, mass
