"""Spherical k-means: unit vectors to the nearest of many centres, in one level or, above 4,096 centres, in two.

Two levels keep every step below quadratic: n items meet sqrt(V) coarse centres, then only the centres inside theirs.
Centres that die are put into the largest cluster while they are learnt. `capped` then moves members of clusters above
five times the mean size to the nearest centres with room, so that equal vectors cannot make one huge cluster.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from habitus.core.seeds import generator

ONE_LEVEL = 4096
ROUNDS = 12
PER_CENTRE = 256  # vectors per centre that the coarse level learns from
MOST = 5.0  # times the mean size
CELLS = 1 << 24  # of one block of similarities: 64 MB


@dataclass(frozen=True, eq=False)
class Codebook:
    """Frozen centres, float32 [V, d] of unit length.

    With two levels, `coarse` is float32 [K, d] and the centres of coarse cell k are `offsets[k]:offsets[k + 1]`.
    """

    centres: np.ndarray
    coarse: np.ndarray | None = None
    offsets: np.ndarray | None = None

    def assign(self, vectors: np.ndarray) -> np.ndarray:
        """Give the nearest centre (int32) of each vector; of equally near ones the first."""
        vectors = np.ascontiguousarray(vectors, np.float32)
        if self.coarse is None or self.offsets is None:
            return nearest_centre(vectors, self.centres)[0]
        found = np.zeros(len(vectors), np.int32)
        for k, rows in cells(nearest_centre(vectors, self.coarse)[0], len(self.coarse)):
            start, stop = self.offsets[k], self.offsets[k + 1]
            found[rows] = start + nearest_centre(vectors[rows], self.centres[start:stop])[0]
        return found


def spherical_kmeans(
    vectors: np.ndarray, n_clusters: int, *, weights: np.ndarray | None = None, seed: int = 0, rounds: int = ROUNDS
) -> tuple[np.ndarray, np.ndarray]:
    """Cluster unit vectors (float32 [n, d]); give centres (float32 [V, d]) and each vector's cluster (int32 [n]).

    `weights` (float [n]) say how much each vector pulls its centre. V is `n_clusters`, or n if there are fewer vectors.
    """
    book, assigned = fit_codebook(vectors, n_clusters, weights=weights, seed=seed, rounds=rounds)
    return book.centres, assigned


def fit_codebook(
    vectors: np.ndarray,
    n_clusters: int,
    *,
    weights: np.ndarray | None = None,
    seed: int = 0,
    rounds: int = ROUNDS,
    one_level: int = ONE_LEVEL,
) -> tuple[Codebook, np.ndarray]:
    """Fit the centres that `spherical_kmeans` gives, with what is needed to assign later vectors.

    >>> book, cluster = fit_codebook(np.eye(3, dtype=np.float32)[[0, 1, 2, 0]], 3)
    >>> bool((cluster == book.assign(np.eye(3, dtype=np.float32)[[0, 1, 2, 0]])).all()), len(set(cluster.tolist()))
    (True, 3)
    """
    vectors = np.ascontiguousarray(vectors, np.float32)
    weight = np.ones(len(vectors)) if weights is None else np.asarray(weights, np.float64)
    n_clusters = max(1, min(n_clusters, len(vectors)))
    if n_clusters <= one_level:
        book = Codebook(_one_level(vectors, n_clusters, weight, seed, rounds))
        return book, book.assign(vectors)
    n_coarse = round(n_clusters**0.5)
    draw = generator(seed, "coarse")
    chosen = np.sort(draw.permutation(len(vectors))[: PER_CENTRE * n_coarse])
    coarse = _one_level(vectors[chosen], n_coarse, weight[chosen], seed, rounds)
    cell, _ = nearest_centre(vectors, coarse)
    shares = _shares(np.bincount(cell, minlength=n_coarse), n_clusters)
    offsets = np.concatenate([[0], np.cumsum(shares)]).astype(np.int64)
    centres = np.zeros((n_clusters, vectors.shape[1]), np.float32)
    for k, rows in cells(cell, n_coarse):
        if shares[k]:
            centres[offsets[k] : offsets[k + 1]] = _one_level(vectors[rows], int(shares[k]), weight[rows], seed, rounds)
    keep = shares > 0
    book = Codebook(centres, coarse[keep], np.concatenate([[0], np.cumsum(shares[keep])]).astype(np.int64))
    return book, book.assign(vectors)


def capped(book: Codebook, vectors: np.ndarray, assigned: np.ndarray, most: float = MOST) -> np.ndarray:
    """Give clusters (int32 [n]) of which none holds more than `most` times the mean.

    The members nearest to the centre stay; each of the others goes to the nearest centre with room, in the same coarse
    cell where there are two levels. Meant for the vectors the book was fitted on: what comes later goes by `assign`.

    >>> book, cluster = fit_codebook(np.eye(4, dtype=np.float32)[[0] * 9 + [1, 2, 3]], 4)
    >>> np.bincount(capped(book, np.eye(4, dtype=np.float32)[[0] * 9 + [1, 2, 3]], cluster, 2.0)).max().item()
    6
    """
    found, k = assigned.copy(), len(book.centres)
    limit = max(1, int(most * len(vectors) / k))
    room = limit - np.bincount(found, minlength=k)
    if (room >= 0).all():
        return found
    product = np.einsum("nd,nd->n", vectors, book.centres[found])
    order = np.lexsort((-product, found))
    rank = np.empty(len(found), np.int64)
    rank[order] = np.arange(len(found)) - (np.cumsum(limit - room) - (limit - room))[found[order]]
    over = np.flatnonzero(rank >= limit)
    room = np.maximum(room, 0)
    bounds = np.array([0, k]) if book.offsets is None else book.offsets
    for cell, at in cells(np.searchsorted(bounds, found[over], side="right") - 1, len(bounds) - 1):
        low, high = int(bounds[cell]), int(bounds[cell + 1])
        step = max(1, CELLS // (high - low))
        for begin in range(0, len(at), step):
            rows = over[at[begin : begin + step]]
            placed = _with_room(vectors[rows] @ book.centres[low:high].T, room[low:high])
            found[rows] = np.where(placed >= 0, low + placed, found[rows])
    return found


def _with_room(products: np.ndarray, room: np.ndarray) -> np.ndarray:
    """Give each row the best column with room (int64, -1: none), the best matches first; `room` is used up in place."""
    found = np.full(len(products), -1)
    left = np.arange(len(products))
    while len(left) and room.any():
        open_to = np.where(room > 0, products[left], -np.inf)
        pick = open_to.argmax(axis=1)
        order = np.lexsort((-open_to[np.arange(len(left)), pick], pick))
        size = np.bincount(pick, minlength=len(room))
        rank = np.arange(len(left)) - (np.cumsum(size) - size)[pick[order]]
        taken = order[rank < room[pick[order]]]
        found[left[taken]] = pick[taken]
        room -= np.bincount(pick[taken], minlength=len(room))
        left = np.delete(left, taken)
    return found


def nearest_centre(vectors: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give the centre of greatest inner product (int32) and that product, block by block."""
    found, best = np.zeros(len(vectors), np.int32), np.zeros(len(vectors), np.float32)
    step = max(1, CELLS // max(len(centres), 1))
    for at in range(0, len(vectors), step):
        products = vectors[at : at + step] @ centres.T
        found[at : at + step] = products.argmax(1)
        best[at : at + step] = products[np.arange(len(products)), found[at : at + step]]
    return found, best


def cells(cell: np.ndarray, n_cells: int):
    """Give (cell, rows in it) for every cell that is not empty; one sort in all."""
    order = np.argsort(cell, kind="stable")
    ends = np.cumsum(np.bincount(cell, minlength=n_cells))
    for k in np.flatnonzero(np.diff(np.concatenate([[0], ends]))):
        yield int(k), order[ends[k - 1] if k else 0 : ends[k]]


def _one_level(vectors: np.ndarray, k: int, weight: np.ndarray, seed: int, rounds: int) -> np.ndarray:
    if k >= len(vectors):
        return vectors[np.arange(k) % len(vectors)].copy()
    draw = generator(seed, "centres", k, len(vectors))
    centres = vectors[np.sort(draw.permutation(len(vectors))[:k])].copy()
    for turn in range(rounds):
        assigned, best = nearest_centre(vectors, centres)
        centres = _means(vectors, assigned, weight, centres)
        if turn < rounds - 1:
            _reseed(vectors, assigned, best, centres)
    return centres


def _means(vectors: np.ndarray, assigned: np.ndarray, weight: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Give the weighted mean direction of each cluster; an empty one keeps its centre."""
    k = len(centres)
    order = np.argsort(assigned, kind="stable")
    size = np.bincount(assigned, minlength=k)
    there = np.flatnonzero(size)
    starts = (np.cumsum(size) - size)[there]
    sums = np.add.reduceat(vectors[order] * weight[order, None], starts, axis=0)
    norm = np.linalg.norm(sums, axis=1, keepdims=True)
    found = centres.copy()
    found[there] = np.where(norm > 1e-12, sums / np.maximum(norm, 1e-12), centres[there]).astype(np.float32)
    return found


def _reseed(vectors: np.ndarray, assigned: np.ndarray, best: np.ndarray, centres: np.ndarray) -> None:
    """Move the centres of empty clusters, and of the smallest while some are too large, into the largest ones.

    Each takes the member that lies farthest from the centre of the cluster it splits.
    """
    size = np.bincount(assigned, minlength=len(centres))
    limit = MOST * len(vectors) / len(centres)
    n_large = int((size > limit).sum())
    free = np.argsort(size, kind="stable")
    free = free[: max(int((size == 0).sum()), min(n_large, len(size) // 4))]
    free = free[size[free] < limit / MOST]
    by_size = np.argsort(-size, kind="stable")[: len(free)]
    worst_first = np.lexsort((best, assigned))
    starts = np.cumsum(size) - size
    for donor, taker in zip(by_size, free):  # over a few clusters, not over items
        if donor != taker and size[donor] > 1:
            far = worst_first[starts[donor]]
            if best[far] < 1 - 1e-6:
                centres[taker] = vectors[far]


def _shares(size: np.ndarray, total: int) -> np.ndarray:
    """Split `total` centres among cells in proportion to their size, at most one per member (largest remainders)."""
    exact = size * (total / size.sum())
    shares = np.minimum(np.floor(exact).astype(np.int64), size)
    shares = np.maximum(shares, (size > 0).astype(np.int64))
    while (gap := int(total - shares.sum())) != 0:
        if gap > 0:
            able = np.flatnonzero(shares < size)
            most = able[np.argsort(-(exact - shares)[able], kind="stable")][:gap]
            shares[most] += 1
        else:
            able = np.flatnonzero(shares > 1)
            least = able[np.argsort((exact - shares)[able], kind="stable")][:-gap]
            shares[least] -= 1
    return shares
