"""What to write where the action carries a text: what was once replied to the likest post of the same persona.

Only training texts are given. A writer (a language model) may take the place of the first of them; see `writer.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from habitus.apps.personas.encode import TextEncoder
from habitus.apps.personas.lookup import LookupStore
from habitus.core.seeds import generator
from habitus.data.sources.persona_threads import asked

if TYPE_CHECKING:
    import polars as pl

TEXTED = ("reply", "quote", "post_update")
_MOST, _BLOCK = 5000, 4096  # replies per persona looked through; rows compared at once


@dataclass
class Replies:
    """Replies with the vector of the post each was given to, float32 [n, width], and their personas."""

    text: pl.Series
    cluster: np.ndarray
    vectors: np.ndarray

    @classmethod
    def open(cls, store: LookupStore, encoder: TextEncoder, *, most: int = _MOST) -> Replies:
        """Read at most `most` replies per persona from the store."""
        table = asked(
            store.db,
            "SELECT r.cluster, r.text, coalesce(p.text, '') AS post FROM replies r LEFT JOIN posts p USING (key) "
            f"QUALIFY row_number() OVER (PARTITION BY r.cluster ORDER BY hash(r.text), r.text) <= {most} "
            "ORDER BY r.cluster, r.text, post",
        )
        return cls(table["text"], table["cluster"].to_numpy(), encoder.encode(table["post"]))

    def nearest(self, vectors: np.ndarray, cluster: np.ndarray, k: int = 1) -> np.ndarray:
        """Give the places of the k likest replies per row, int64 [n, k]: the own persona's, else anybody's; -1 none."""
        found = np.full((len(cluster), k), -1, np.int64)
        if not len(self.text):
            return found
        for persona in np.unique(cluster).tolist():
            rows = np.flatnonzero(cluster == persona)
            own = np.flatnonzero(self.cluster == persona)
            own = own if own.size else np.arange(len(self.text))
            for start in range(0, rows.size, _BLOCK):
                some = rows[start : start + _BLOCK]
                score = vectors[some] @ self.vectors[own].T
                n = min(k, own.size)
                best = np.argpartition(-score, n - 1, axis=1)[:, :n]
                order = np.argsort(-np.take_along_axis(score, best, axis=1), axis=1, kind="stable")
                found[some, :n] = own[np.take_along_axis(best, order, axis=1)]
        return found

    def write(self, vectors: np.ndarray, cluster: np.ndarray) -> list[str]:
        """Give one text per row, '' where there is no reply at all."""
        places = self.nearest(vectors, cluster)[:, 0]
        if not len(self.text):
            return [""] * len(cluster)
        return [text if place >= 0 else "" for text, place in zip(self.text.gather(np.maximum(places, 0)), places)]


def judged(encoder: TextEncoder, real: pl.Series, made: pl.Series, *, seed: int = 0) -> dict[str, float]:
    """Give the mean cosine of real and made texts, the same with the made ones shuffled, and the share of copies."""
    if not len(real):
        return {"n": 0.0}
    a, b = encoder.encode(real), encoder.encode(made)
    mixed = b[generator(seed, "shuffled replies").permutation(len(b))]
    return {
        "n": float(len(real)),
        "cosine": float((a * b).sum(axis=1).mean()),
        "shuffled": float((a * mixed).sum(axis=1).mean()),
        "copies": float((real == made).to_numpy().mean()),
    }
