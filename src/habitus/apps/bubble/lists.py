"""Lists out of scores: the best items outside a mask, slots given to chance, other orders than the score's.

Letters: U agents, V items, K depth of a ranking, N places of a list.
"""

from __future__ import annotations

import numpy as np

from habitus.apps.bubble.draws import draws

EMPTY = -1


def ranking(scores: np.ndarray, blocked: np.ndarray | None, depth: int) -> np.ndarray:
    """Give the best items of every agent in order, int64 [U, depth], -1 where nothing is left; ties by number.

    >>> ranking(np.array([[0.1, 0.9, 0.5]]), np.array([[False, True, False]]), 3).tolist()
    [[2, 0, -1]]
    """
    score = np.asarray(scores, np.float32) if blocked is None else np.where(blocked, -np.inf, scores)
    n_items = score.shape[1]
    depth_here = min(depth, n_items)
    if depth_here < n_items:
        best = np.sort(np.argpartition(-score, depth_here - 1, axis=1)[:, :depth_here], axis=1)
    else:
        best = np.broadcast_to(np.arange(n_items), score.shape)
    value = np.take_along_axis(score, best, axis=1)
    order = np.argsort(-value, axis=1, kind="stable")
    found = np.take_along_axis(best, order, axis=1)
    found = np.where(np.take_along_axis(value, order, axis=1) > -np.inf, found, EMPTY)
    return np.pad(found, ((0, 0), (0, depth - depth_here)), constant_values=EMPTY)


def first_free(ranked: np.ndarray, blocked: np.ndarray | None, n: int) -> np.ndarray:
    """Give the first n items of a ranking that are not blocked, int64 [U, n]; -1 where the ranking ends before.

    >>> first_free(np.array([[2, 0, 1]]), np.array([[False, False, True]]), 2).tolist()
    [[0, 1]]
    """
    row = np.arange(len(ranked))[:, None]
    is_free = ranked >= 0
    if blocked is not None:
        is_free &= ~blocked[row, np.maximum(ranked, 0)]
    order = np.argsort(~is_free, axis=1, kind="stable")[:, :n]
    found = np.take_along_axis(ranked, order, axis=1).astype(np.int64)
    return np.where(np.take_along_axis(is_free, order, axis=1), found, EMPTY)


def with_chance(
    lists: np.ndarray, blocked: np.ndarray | None, n_items: int, eps: float, seed: int, key: np.ndarray, when: int
) -> np.ndarray:
    """Replace each slot with probability `eps` by an item drawn evenly among those not blocked nor on the list.

    Which slots and which items depends on agent and round alone: both worlds of a pair meet the same chance.
    """
    if not eps:
        return lists
    n_agents, n = lists.shape
    is_drawn = draws(seed, key[:, None], np.arange(n)[None], when, "slot") < eps
    taken = np.zeros((n_agents, n_items), bool) if blocked is None else blocked.copy()
    kept = np.where(is_drawn, EMPTY, lists)
    row, place = np.nonzero(kept >= 0)
    taken[row, kept[row, place]] = True
    order = ranking(draws(seed, key[:, None], np.arange(n_items)[None], when, "chance"), taken, min(n, n_items))
    order = np.pad(order, ((0, 0), (0, n - order.shape[1])), constant_values=EMPTY)
    number = np.cumsum(is_drawn, axis=1) - 1
    return np.where(is_drawn, np.take_along_axis(order, np.maximum(number, 0), axis=1), lists)


def varied(ranked: np.ndarray, share: np.ndarray, n: int, weight: float) -> np.ndarray:
    """Choose n of a ranking by maximal marginal relevance: (1 - weight) rank score - weight likeness to those chosen.

    Source: Carbonell and Goldstein 1998. The rank score falls evenly from 1; likeness is the largest cosine of category
    shares. Empty places are never chosen while others are left. int64 [U, n].

    >>> share = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> varied(np.array([[0, 1, 2]]), share, 2, 0.7).tolist()
    [[0, 2]]
    """
    unit = share / np.maximum(np.linalg.norm(share, axis=1, keepdims=True), 1e-12)
    n_agents, depth = ranked.shape
    unit = unit[np.maximum(ranked, 0)]  # U K C
    worth = (1 - weight) * (1 - np.arange(depth) / depth)[None] - np.where(ranked < 0, 10.0, 0.0)
    like, chosen, row = np.zeros((n_agents, depth)), np.zeros((n_agents, n), np.int64), np.arange(n_agents)
    worth = worth.repeat(1, axis=0) if worth.shape[0] == n_agents else np.broadcast_to(worth, like.shape).copy()
    for place in range(n):
        best = (worth - weight * like).argmax(axis=1)
        chosen[:, place] = ranked[row, best]
        worth[row, best] = -np.inf
        like = np.maximum(like, np.einsum("ukc,uc->uk", unit, unit[row, best]))
    return chosen
