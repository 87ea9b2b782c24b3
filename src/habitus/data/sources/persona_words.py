"""Made-up words of a social world: 3,000 of them, each topic with its own favourites."""

from __future__ import annotations

from itertools import product

import numpy as np

N_WORDS, TOPICAL = 3000, 0.7
_CHUNK = 50_000


class Words:
    """The words and the favourites of each topic (Dirichlet .05).

    >>> words = Words(np.random.default_rng(0), 2)
    >>> ids, size = words.draw(np.random.default_rng(0), np.array([0, 1]), np.array([3, 4]))
    >>> (len(ids), size.tolist(), len(words.names))
    (7, [3, 4], 3000)
    """

    def __init__(self, rng: np.random.Generator, n_topics: int) -> None:
        syllables = [a + b for a, b in product("bdfgklmnprstvz", "aeiou")]
        made = [a + b for a, b in product(syllables, syllables)]
        self.names = np.array(made, dtype=object)[rng.permutation(len(made))[:N_WORDS]]
        self.edges = np.cumsum(rng.dirichlet(np.full(N_WORDS, 0.05), n_topics), axis=1)
        self.edges[:, -1] = 1.0

    def draw(self, rng: np.random.Generator, topic: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Give word ids, one text after the other, and the number of words of each text."""
        of = np.repeat(topic, size)
        ids = rng.integers(0, N_WORDS, of.size)
        chosen = np.flatnonzero(rng.random(of.size) < TOPICAL)
        flat = (self.edges + np.arange(len(self.edges))[:, None]).ravel()
        found = np.searchsorted(flat, of[chosen] + rng.random(chosen.size) * (1 - 1e-12))
        ids[chosen] = np.minimum(found - of[chosen] * N_WORDS, N_WORDS - 1)
        return ids, size


def join_words(names: np.ndarray, ids: np.ndarray, size: np.ndarray) -> list[str]:
    """Give the texts as strings, words with single spaces.

    >>> join_words(np.array(["a", "b"], dtype=object), np.array([0, 1, 1]), np.array([2, 1]))
    ['a b', 'b']
    """
    import polars as pl

    words, ends = pl.Series(names.tolist(), dtype=pl.String), np.concatenate([[0], np.cumsum(size)])
    found: list[str] = []
    for start in range(0, len(size), _CHUNK):
        stop = min(start + _CHUNK, len(size))
        rows = np.repeat(np.arange(stop - start), size[start:stop])
        table = pl.DataFrame({"row": rows, "word": words.gather(ids[ends[start] : ends[stop]])})
        found += table.group_by("row", maintain_order=True).agg(pl.col("word").str.join(" "))["word"].to_list()
    return found
