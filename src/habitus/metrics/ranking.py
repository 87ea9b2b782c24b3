"""How early do the wanted items come? Plain functions on ranks: 1 is the first place.

One rank per row is the usual next-item case. With several wanted items per row, give all their ranks flat, and `owner`
with the row number of each; rows without a wanted item do not exist and are not counted.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from habitus.core.errors import ConfigError

Measure = Literal["hit_rate", "recall", "ndcg", "mrr"]


def ranks(score: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Rank of the wanted column in each row of scores [n, V] -> int64 [n].

    Ties count against it: a model that scores everything alike ranks last, not first.

    >>> ranks(np.array([[0.1, 0.9, 0.5], [0.3, 0.3, 0.3]]), np.array([2, 0]))
    array([2, 3])
    """
    own = np.take_along_axis(np.asarray(score), np.asarray(wanted)[:, None], axis=1)
    return (score >= own).sum(axis=1)


def row_scores(rank: np.ndarray, k: int, measure: Measure, owner: np.ndarray | None = None) -> np.ndarray:
    """Give one value per row, for means and for the bootstrap (`weights.mean` over them).

    `hit_rate`: 1 if any wanted item is within k. `recall`: share of the wanted items within k. `ndcg`: sum of
    1 / log2(rank + 1) within k over the best possible sum. `mrr`: 1 / best rank, 0 beyond k.
    Errors: `ConfigError` for ranks below 1 or k below 1.
    Source: Järvelin and Kekäläinen 2002 (NDCG, binary gains).

    >>> row_scores(np.array([1, 4, 2]), 3, "recall", owner=np.array([0, 0, 1]))
    array([0.5, 1. ])
    """
    rank = np.asarray(rank)
    if k < 1 or (rank.size and rank.min() < 1):
        raise ConfigError("k and ranks of at least 1", f"k={k}, lowest rank {rank.min(initial=k)}", where="ranking")
    row = np.arange(rank.size) if owner is None else np.unique(np.asarray(owner), return_inverse=True)[1]
    is_within = rank <= k
    n_wanted = np.bincount(row)
    if measure == "hit_rate":
        return (np.bincount(row, weights=is_within) > 0).astype(np.float64)
    if measure == "recall":
        return np.bincount(row, weights=is_within) / n_wanted
    if measure == "mrr":
        best = np.zeros(n_wanted.size)
        np.maximum.at(best, row, is_within / rank)
        return best
    gain = np.bincount(row, weights=is_within / np.log2(rank + 1))
    ideal = np.cumsum(1 / np.log2(np.arange(min(k, int(n_wanted.max(initial=1)))) + 2))
    return gain / ideal[np.minimum(n_wanted, k) - 1]


def hit_rate(rank: np.ndarray, k: int, *, owner: np.ndarray | None = None) -> float:
    """Share of rows with a wanted item within the first k. NaN without rows.

    >>> hit_rate(np.array([1, 4, 30]), 10)
    0.6666666666666666
    """
    return _mean(row_scores(rank, k, "hit_rate", owner))


def recall(rank: np.ndarray, k: int, *, owner: np.ndarray | None = None) -> float:
    """Mean share of a row's wanted items within the first k; the hit rate when there is one each. NaN without rows.

    >>> recall(np.array([1, 4, 2]), 3, owner=np.array([0, 0, 1]))
    0.75
    """
    return _mean(row_scores(rank, k, "recall", owner))


def ndcg(rank: np.ndarray, k: int, *, owner: np.ndarray | None = None) -> float:
    """Mean discounted gain, 1 / log2(rank + 1) within k, over the best possible. NaN without rows.

    >>> ndcg(np.array([1, 3, 30]), 10)
    0.5
    """
    return _mean(row_scores(rank, k, "ndcg", owner))


def mrr(rank: np.ndarray, k: int, *, owner: np.ndarray | None = None) -> float:
    """Mean of 1 / rank of the first wanted item, 0 beyond k. NaN without rows.

    >>> mrr(np.array([1, 2, 30]), 10)
    0.5
    """
    return _mean(row_scores(rank, k, "mrr", owner))


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float("nan")
