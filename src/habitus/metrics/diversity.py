"""How varied is what was shown? Plain functions on category shares and on lists.

Letters: .. any leading axes, C categories, V items, N places of a list, n lists. A list holds item numbers, -1 for an
empty place. Item features G [V, C] are category shares.
"""

from __future__ import annotations

import numpy as np

TINY = 1e-12


def shares(counts: np.ndarray) -> np.ndarray:
    """Scale the last axis to sum to 1; rows of zeros stay zeros.

    >>> shares(np.array([[1.0, 3.0], [0.0, 0.0]]))
    array([[0.25, 0.75],
           [0.  , 0.  ]])
    """
    counts = np.asarray(counts, dtype=np.float64)
    total = counts.sum(axis=-1, keepdims=True)
    return np.divide(counts, total, out=np.zeros_like(counts), where=total > 0)


def entropy(p: np.ndarray) -> np.ndarray:
    """Shannon entropy of the last axis as a share of its largest value, .. C -> ..; 0 for a single category.

    >>> entropy(np.array([[0.5, 0.5], [1.0, 0.0]]))
    array([1., 0.])
    """
    p = np.asarray(p, dtype=np.float64)
    if p.shape[-1] < 2:
        return np.zeros(p.shape[:-1])
    return -np.where(p > 0, p * np.log(np.maximum(p, TINY)), 0.0).sum(axis=-1) / np.log(p.shape[-1]) + 0.0


def jensen_shannon(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Jensen-Shannon divergence in bits, between 0 and 1, .. C -> ..

    >>> float(jensen_shannon(np.array([1.0, 0.0]), np.array([0.0, 1.0])))
    1.0
    """
    p, q = np.asarray(p, dtype=np.float64), np.asarray(q, dtype=np.float64)
    m = (p + q) / 2
    return (_relative(p, m) + _relative(q, m)) / 2


def divergence(p: np.ndarray, q: np.ndarray, *, floor: float = 1e-4) -> np.ndarray:
    """Kullback-Leibler divergence of p from q in bits; q is mixed with an even share of `floor` so that it is finite.

    >>> float(divergence(np.array([0.5, 0.5]), np.array([0.5, 0.5])))
    0.0
    """
    q = np.asarray(q, dtype=np.float64)
    return _relative(np.asarray(p, dtype=np.float64), (1 - floor) * q + floor / q.shape[-1])


def coverage(lists: np.ndarray, n_items: int) -> float:
    """Share of the catalogue that stands in any of the lists.

    >>> coverage(np.array([[0, 1], [1, -1]]), 4)
    0.5
    """
    shown = np.asarray(lists)
    return np.unique(shown[shown >= 0]).size / max(n_items, 1)


def gini(lists: np.ndarray, n_items: int) -> float:
    """Gini coefficient of how often each item of the catalogue stands in the lists: 0 even, near 1 one item alone.

    >>> gini(np.array([[0, 1, 2, 3]]), 4)
    0.0
    """
    shown = np.asarray(lists)
    count = np.sort(np.bincount(shown[shown >= 0], minlength=n_items)).astype(np.float64)
    if not count.sum():
        return 0.0
    place = np.arange(1, n_items + 1)
    return float((2 * place - n_items - 1) @ count / (n_items * count.sum()))


def exposure(lists: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Sum the features of the items in each list, n N -> n C.

    >>> exposure(np.array([[0, 1], [1, -1]]), np.array([[1.0, 0.0], [0.5, 0.5]]))
    array([[1.5, 0.5],
           [0.5, 0.5]])
    """
    from scipy.sparse import csr_array

    lists = np.asarray(lists)
    row, place = np.nonzero(lists >= 0)
    ones = np.ones(row.size, dtype=np.float64)
    counts = csr_array((ones, (row, lists[row, place])), shape=(len(lists), len(features)))
    return counts @ np.asarray(features, dtype=np.float64)


def intra_list(lists: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Mean of 1 - cosine over the pairs of items in each list, n N -> n; NaN for fewer than two items.

    >>> intra_list(np.array([[0, 1]]), np.array([[1.0, 0.0], [0.0, 1.0]]))
    array([1.])
    """
    size = np.linalg.norm(features, axis=1, keepdims=True)
    unit = np.divide(features, size, out=np.zeros(features.shape, dtype=np.float64), where=size > 0)
    n = (np.asarray(lists) >= 0).sum(axis=1)
    alike = (exposure(lists, unit) ** 2).sum(axis=1) - exposure(lists, (unit**2).sum(axis=1)[:, None])[:, 0]
    pairs = n * (n - 1.0)
    return np.divide(pairs - alike, pairs, out=np.full(len(n), np.nan), where=pairs > 0)


def top_share(p: np.ndarray) -> np.ndarray:
    """Share of the largest category, .. C -> ..

    >>> top_share(np.array([0.2, 0.8])).item()
    0.8
    """
    return np.asarray(p).max(axis=-1)


def n_categories(p: np.ndarray) -> np.ndarray:
    """Number of categories with any share, .. C -> ..

    >>> n_categories(np.array([0.2, 0.8, 0.0])).item()
    2
    """
    return (np.asarray(p) > 0).sum(axis=-1)


def _relative(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    return np.where(p > 0, p * np.log2(np.maximum(p, TINY) / np.maximum(q, TINY)), 0.0).sum(axis=-1)
