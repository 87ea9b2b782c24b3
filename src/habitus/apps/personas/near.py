"""Near duplicates of texts: MinHash of word runs, bands to find candidates, the true Jaccard similarity to decide.

64 permutations in 16 bands of 4 (Broder 1997; Leskovec et al., Mining of Massive Datasets, ch. 3): two texts of
similarity .7 share a band with a chance of .99.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from habitus.core.seeds import generator, mix
from habitus.data.sources.persona_threads import normal_texts

if TYPE_CHECKING:
    import polars as pl

N_BANDS, N_IN_BAND = 16, 4
_SHORT, _BLOCK, _MOST = 6, 50_000, 8  # words of a short text; texts at once; partners of a bucket looked at


@dataclass(frozen=True)
class Shingles:
    """Runs of words as hashes: those of text i lie in flat[start[i] : start[i + 1]], sorted and distinct."""

    flat: np.ndarray
    start: np.ndarray

    def bands(self) -> np.ndarray:
        """Give the hash of each band, uint64 [n, 16]; texts without words have zeros."""
        n, rng = len(self.start) - 1, generator(0, "min-hash")
        salt = rng.integers(0, 2**63, N_BANDS * N_IN_BAND, dtype=np.uint64)
        found = np.zeros((n, N_BANDS), np.uint64)
        has = np.flatnonzero(np.diff(self.start) > 0)
        for band in range(N_BANDS):
            value = np.full(has.size, band, np.uint64)
            for one in salt[band * N_IN_BAND : (band + 1) * N_IN_BAND]:
                low = np.minimum.reduceat(mix(self.flat ^ one), self.start[has]) if has.size else value
                value = mix(value ^ low)
            found[has, band] = value
        return found


def shingles(texts: pl.Series) -> Shingles:
    """Give the runs of 3 words of each text (2 below 6 words, 1 for a single word).

    >>> import polars as pl
    >>> np.diff(shingles(pl.Series(["a b c d e f", "a b c", "a", ""])).start).tolist()
    [4, 2, 1, 0]
    """
    import polars as pl

    words = normal_texts(texts).str.split(" ").list.eval(pl.element().filter(pl.element() != ""))
    size = words.list.len().to_numpy().astype(np.int64)
    flat = words.explode(empty_as_null=False) if size.size else pl.Series([], dtype=pl.String)
    codes = _word_codes(flat)
    start = np.concatenate([[0], np.cumsum(size)])
    run = np.where(size >= _SHORT, 3, np.where(size >= 2, 2, 1))
    n_runs = np.maximum(size - run + 1, 0) * (size > 0)
    row = np.repeat(np.arange(size.size), n_runs)
    at = np.arange(row.size) - np.repeat(np.cumsum(n_runs) - n_runs, n_runs) + start[row]
    value = codes[at]
    for step in (1, 2):
        more = run[row] > step
        value = np.where(more, mix(value + np.uint64(1)) ^ codes[np.minimum(at + step, max(codes.size - 1, 0))], value)
    value = mix(value)
    order = np.lexsort((value, row))
    row, value = row[order], value[order]
    is_new = np.ones(row.size, bool)
    is_new[1:] = (row[1:] != row[:-1]) | (value[1:] != value[:-1])
    row, value = row[is_new], value[is_new]
    return Shingles(value, np.searchsorted(row, np.arange(size.size + 1)))


def jaccard(a: Shingles, i: np.ndarray, b: Shingles, j: np.ndarray) -> np.ndarray:
    """Give the similarity of text i of `a` and text j of `b`, pair by pair, float64."""
    n_a, n_b = np.diff(a.start)[i], np.diff(b.start)[j]
    pair = np.concatenate([np.repeat(np.arange(len(i)), n_a), np.repeat(np.arange(len(j)), n_b)])
    value = np.concatenate([a.flat[_ranges(a.start[i], n_a)], b.flat[_ranges(b.start[j], n_b)]])
    order = np.lexsort((value, pair))
    pair, value = pair[order], value[order]
    is_both = (pair[1:] == pair[:-1]) & (value[1:] == value[:-1])
    both = np.bincount(pair[1:][is_both], minlength=len(i))
    return both / np.maximum(n_a + n_b - both, 1)


def near_groups(texts: pl.Series, keys: np.ndarray, least: float) -> np.ndarray:
    """Give each text the smallest key among those it is joined to by pairs of similarity `least`, uint64 [n].

    Joining is transitive. A text without a partner has its own key. In a bucket of many texts each is compared with the
    next few only, so a boilerplate of thousands still joins up.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    made = shingles(texts)
    bands = made.bands()
    n, pairs = len(texts), []
    filled = np.flatnonzero(np.diff(made.start) > 0)
    for band in bands.T:
        order = filled[np.argsort(band[filled], kind="stable")]
        for step in range(1, _MOST + 1):
            same = band[order[step:]] == band[order[:-step]]
            if not same.any():
                break
            pairs.append(np.stack([order[:-step][same], order[step:][same]], axis=1))
    if not pairs:
        return keys.copy()
    both = np.unique(np.sort(np.concatenate(pairs), axis=1), axis=0)
    cut = range(_BLOCK, len(both), _BLOCK)
    sure = np.concatenate([jaccard(made, some[:, 0], made, some[:, 1]) for some in np.split(both, cut)])
    both = both[sure >= least]
    graph = coo_matrix((np.ones(len(both)), (both[:, 0], both[:, 1])), shape=(n, n))
    part = connected_components(graph, directed=False)[1]
    smallest = np.full(part.max() + 1, np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(smallest, part, keys)
    return smallest[part]


def _word_codes(words: pl.Series) -> np.ndarray:
    """A stable hash per word."""
    from habitus.data.sources.persona_threads import text_keys

    return text_keys(words) if len(words) else np.zeros(0, np.uint64)


def _ranges(start: np.ndarray, size: np.ndarray) -> np.ndarray:
    return np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size) + np.repeat(start, size)
