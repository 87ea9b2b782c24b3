"""What learnt vectors are held against, all in one place: each gives numbers of the same users at the same cut-off.

Nothing here sees a label. What is fitted (SVD) is fitted on the bags of all users up to the cut-off, as the model is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from habitus.core.seeds import generator
from habitus.tasks.probe.features import Block

if TYPE_CHECKING:
    from habitus.data.store import Store


def event_count(bag_counts: Any) -> Block:
    """Give log(1 + events) of each user: what volume alone says.

    >>> event_count(np.array([[1, 2], [0, 0]])).value.round(2).ravel().tolist()
    [1.39, 0.0]
    """
    return Block(np.log1p(np.asarray(bag_counts.sum(axis=1), np.float64).reshape(-1, 1)))


def hand_aggregates(
    store: Store, users: np.ndarray, day: int, horizon: int = 28, *, has_profile: bool = False
) -> Block:
    """Give the windowed aggregates of each user up to `day`; columns of the profile only when asked for."""
    from habitus.data.cutoffs import Samples
    from habitus.tokens.aggregates import aggregate_spec, aggregates

    spec = aggregate_spec(store, until=day)
    samples = Samples(np.asarray(users, np.int64), np.full(len(users), day, np.int32))
    table = aggregates(store, samples, horizon=horizon, spec=spec)
    keep = np.array([has_profile or not name.startswith("profile.") for name in table.names], bool)
    return Block(table.value[:, keep].astype(np.float64), kind="numbers")


def tfidf_svd(bag: Any, width: int, *, seed: int = 0) -> Block:
    """Give the bag on its `width` strongest directions, at unit length: what a linear encoder keeps.

    Randomised SVD with four power iterations (Halko, Martinsson, Tropp 2011).
    """
    left, values, _ = randomised_svd(sparse.csr_matrix(bag), width, seed=seed)
    return Block(unit(left * values))


def mean_item_vector(item_counts: Any, width: int, *, seed: int = 0) -> Block:
    """Give the mean vector of a user's items, weighted by log(1 + n); items get vectors from who shares them (SVD)."""
    weight = sparse.csr_matrix(item_counts, dtype=np.float64)
    weight.data = np.log1p(weight.data)
    norms = np.asarray(np.sqrt(weight.multiply(weight).sum(axis=0))).ravel()
    shared = weight @ sparse.diags_array(1 / np.maximum(norms, 1e-12))
    _, values, right = randomised_svd(sparse.csr_matrix(shared), width, seed=seed)
    items = unit(right.T * np.sqrt(values))
    total = np.asarray(weight.sum(axis=1)).reshape(-1, 1)
    return Block(np.asarray(weight @ items) / np.maximum(total, 1e-12))


def random_projection(bag: Any, width: int, *, seed: int = 0) -> Block:
    """Give the bag on `width` random directions, at unit length: what width alone keeps (Achlioptas 2003)."""
    bag = sparse.csr_matrix(bag)
    signs = generator(seed, "projection", bag.shape[1], width).choice(
        np.array([-1.0, 1.0], np.float32), (bag.shape[1], width)
    )
    return Block(unit(np.asarray(bag @ signs)))


def counts_matrix(counts: Any, n_interests: int, users: np.ndarray, cutoff_block: int) -> sparse.csr_matrix:
    """Give events per user and interest up to the end of a block: CSR [n, V]."""
    low, high = counts.user_offsets[users], counts.user_offsets[np.asarray(users) + 1]
    from habitus.data.cutoffs import ranges

    which, rows = ranges(np.asarray(low), np.asarray(high))
    keep = np.asarray(counts.block)[rows] <= cutoff_block
    which, rows = which[keep], rows[keep]
    entries = (np.asarray(counts.n)[rows].astype(np.float64), (which, np.asarray(counts.interest)[rows]))
    return sparse.csr_matrix(entries, shape=(len(users), n_interests))


def randomised_svd(matrix: Any, width: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give left vectors [n, k], singular values [k], right vectors [k, d], k = min(width, n, d); signs are fixed."""
    k = min(width, *matrix.shape)
    size = min(k + 16, *matrix.shape)
    basis = matrix @ generator(seed, "svd", *matrix.shape).normal(size=(matrix.shape[1], size)).astype(np.float32)
    for _ in range(4):
        basis = np.linalg.qr(basis)[0]
        basis = matrix @ np.linalg.qr(matrix.T @ basis)[0]
    basis = np.linalg.qr(basis)[0]
    left, values, right = np.linalg.svd((matrix.T @ basis).T, full_matrices=False)
    left, values, right = (basis @ left)[:, :k], values[:k], right[:k]
    sign = np.sign(right[np.arange(k), np.abs(right).argmax(axis=1)])
    return left * sign, values, right * sign[:, None]


def unit(rows: np.ndarray) -> np.ndarray:
    """Bring rows to length 1; an empty row stays 0."""
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
