"""Personas: users with like texts, in clusters of a least size. k-means whose assignment is a transport problem.

With a lower bound on sizes, assigning is a linear programme with whole solutions (Bradley, Bennett and Demiriz 2000):
solved exactly while users x clusters is at most 50,000, beyond that by discounts for small clusters and,
where ties leave one short, the cheapest moves.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from habitus.core.errors import ConfigError
from habitus.core.seeds import derive

EXACT = 50_000


def assign(distance: np.ndarray, least: int, *, is_exact: bool | None = None) -> np.ndarray:
    """Give the cluster of each row of distance [n, k], at least `least` rows in each, int64 [n], cheapest in sum.

    Errors: `ConfigError` when n is less than k times `least`.

    >>> assign(np.array([[0.0, 1.0], [0.0, 2.0], [0.0, 3.0]]), 1).tolist()
    [1, 0, 0]
    """
    n, k = distance.shape
    if n < k * least:
        fix = "ask for fewer personas, or smaller ones"
        raise ConfigError(f"{k} x {least} users or more", f"{n} users", where="personas", fix=fix)
    nearest = distance.argmin(axis=1)
    if np.bincount(nearest, minlength=k).min() >= least:
        return nearest
    exact = distance.size <= EXACT if is_exact is None else is_exact
    return _transported(distance, least) if exact else _repaired(distance, _priced(distance, least), least)


def _transported(distance: np.ndarray, least: int) -> np.ndarray:
    from scipy.optimize import linprog
    from scipy.sparse import coo_matrix

    n, k = distance.shape
    flat = np.arange(n * k)
    rows = coo_matrix((np.ones(n * k), (flat // k, flat)), shape=(n, n * k)).tocsr()
    columns = coo_matrix((-np.ones(n * k), (flat % k, flat)), shape=(k, n * k)).tocsr()
    bounds = {"A_ub": columns, "b_ub": np.full(k, -least), "A_eq": rows, "b_eq": np.ones(n)}
    found: Any = linprog(distance.ravel(), **bounds, method="highs-ds")
    return np.asarray(found.x).reshape(n, k).argmax(axis=1)


def _priced(distance: np.ndarray, least: int, rounds: int = 50) -> np.ndarray:
    """Assign with a discount per small cluster, raised one after the other until each has its rows (dual ascent)."""
    k = distance.shape[1]
    discount = np.zeros(k)
    for _ in range(rounds):
        before = discount.copy()
        for c in range(k):
            others = np.delete(distance - discount, c, axis=1).min(axis=1)
            needed = np.partition(distance[:, c] - others, least - 1)[least - 1]
            discount[c] = max(0.0, needed)
        if np.allclose(before, discount, atol=1e-9):
            break
    return (distance - discount - 1e-12 * (discount > 0)).argmin(axis=1)


def _repaired(distance: np.ndarray, nearest: np.ndarray, least: int) -> np.ndarray:
    """Fill clusters below the bound, one row at a time, each with the cheapest move there is."""
    at, (n, k) = nearest.copy(), distance.shape
    size = np.bincount(at, minlength=k)
    while size.min() < least:
        short = np.flatnonzero(size < least)
        can_go = size[at] > least
        extra = distance[:, short] - distance[np.arange(n), at][:, None]
        extra[~can_go] = np.inf
        row, place = np.unravel_index(extra.argmin(), extra.shape)
        size[at[row]] -= 1
        at[row] = short[place]
        size[short[place]] += 1
    return at


def fit_clusters(
    vectors: np.ndarray, k: int, *, least: int = 10, n_starts: int = 4, rounds: int = 300, seed: int = 0
) -> np.ndarray:
    """Give k centres, float32 [k, d], of the best of `n_starts` bounded k-means from k-means++ starts."""
    from sklearn.cluster import kmeans_plusplus

    best, lowest = vectors[:0], np.inf
    for start in range(n_starts):
        centres, _ = kmeans_plusplus(vectors, k, random_state=derive(seed, "persona", start) % 2**31)
        before = np.full(len(vectors), -1)
        for _ in range(rounds):
            now = assign(squared(vectors, centres), least)
            if np.array_equal(now, before):
                break
            before = now
            size = np.bincount(now, minlength=k)[:, None]
            sums = np.stack([np.bincount(now, weights=column, minlength=k) for column in vectors.T], axis=1)
            centres = np.where(size > 0, sums / np.maximum(size, 1), centres)
        cost = float(squared(vectors, centres)[np.arange(len(vectors)), before].sum())
        if cost < lowest:
            best, lowest = centres, cost
    return best.astype(np.float32)


def squared(vectors: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Give squared distances [n, k]."""
    cross = vectors @ centres.T
    return (vectors**2).sum(axis=1)[:, None] - 2 * cross + (centres**2).sum(axis=1)
