"""Posts as vectors without any language model: TF-IDF, singular vectors, unit length; and groups of like posts."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from habitus.apps.personas.settings import TextSettings

if TYPE_CHECKING:
    import polars as pl

_BLOCK = 20_000


@dataclass(frozen=True)
class TextEncoder:
    """Fitted on training posts. `components` float32 [terms, width]; `centres` float32 [groups, width]."""

    settings: TextSettings
    terms: tuple[list[str], list[str]]  # of words, of characters
    idf: np.ndarray
    components: np.ndarray
    centres: np.ndarray

    def encode(self, texts: pl.Series) -> np.ndarray:
        """Give unit vectors, float32 [n, width]; a text without a known term is all zeros."""
        found = np.zeros((len(texts), self.components.shape[1]), np.float32)
        for start in range(0, len(texts), _BLOCK):
            some = texts[start : start + _BLOCK].to_list()
            vectors = weighted(self.settings, self.terms, self.idf, some) @ self.components
            found[start : start + len(some)] = _unit(np.asarray(vectors, np.float32))
        return found

    def groups(self, vectors: np.ndarray) -> np.ndarray:
        """Give the group of the nearest centre, int64 [n]; one without a known term is in a group of its own."""
        score = vectors @ self.centres.T - 0.5 * (self.centres**2).sum(axis=1)
        return np.where(np.abs(vectors).sum(axis=1) > 0, score.argmax(axis=1), len(self.centres))

    def save(self, folder: Path) -> None:
        """Write terms.json and encoder.npz."""
        (folder / "terms.json").write_text(json.dumps(list(self.terms), ensure_ascii=False), "utf-8")
        np.savez(folder / "encoder.npz", idf=self.idf, components=self.components, centres=self.centres)

    @classmethod
    def load(cls, folder: Path, settings: TextSettings) -> TextEncoder:
        """Read what `save` wrote."""
        words, characters = json.loads((folder / "terms.json").read_text("utf-8"))
        with np.load(folder / "encoder.npz", allow_pickle=False) as arrays:
            return cls(settings, (words, characters), arrays["idf"], arrays["components"], arrays["centres"])


def fit_encoder(settings: TextSettings, texts: pl.Series, *, seed: int) -> TextEncoder:
    """Fit on distinct training texts [n]; the order of texts does not matter, they are sorted first."""
    chosen = texts.unique().sort()
    if len(chosen) > settings.max_posts:
        chosen = chosen.sample(settings.max_posts, seed=seed).sort()
    given = chosen.to_list()
    terms = (_terms(_words(settings), given, settings), _terms(_characters(settings), given, settings))
    idf = np.ones(sum(map(len, terms)), np.float32)
    counts = weighted(settings, terms, idf, given, is_binary=True)
    idf = (np.log((1 + len(given)) / (1 + np.asarray(counts.sum(axis=0)).ravel())) + 1).astype(np.float32)
    matrix = weighted(settings, terms, idf, given)
    components = _singular(matrix, settings.width, seed)
    vectors = _unit(np.asarray(matrix @ components, np.float32))
    n_groups = min(settings.n_groups, len(given))
    centres = _centres(vectors, n_groups, seed)
    return TextEncoder(settings, terms, idf, components, np.asarray(centres, np.float32))


def _singular(matrix: Any, width: int, seed: int) -> np.ndarray:
    from sklearn.decomposition import TruncatedSVD

    found = np.zeros((matrix.shape[1], width), np.float32)
    n = min(width, min(matrix.shape) - 1)
    if n >= 1:
        made: Any = TruncatedSVD(n, random_state=seed, n_iter=3).fit(matrix)
        found[:, :n] = made.components_.T
    return found


def _centres(vectors: np.ndarray, n_groups: int, seed: int) -> Any:
    from sklearn.cluster import MiniBatchKMeans

    made: Any = MiniBatchKMeans
    return made(n_groups, random_state=seed, n_init=3, batch_size=4096).fit(vectors).cluster_centers_


def _words(settings: TextSettings) -> dict[str, Any]:
    return {"analyzer": "word", "ngram_range": (1, 2), "token_pattern": r"(?u)\S+"}


def _characters(settings: TextSettings) -> dict[str, Any] | None:
    return {"analyzer": "char_wb", "ngram_range": (3, 5)} if settings.has_characters else None


def _terms(how: dict[str, Any] | None, texts: list[str], settings: TextSettings) -> list[str]:
    from sklearn.feature_extraction.text import CountVectorizer

    if how is None or not any(text.strip() for text in texts):
        return []
    least = min(settings.min_posts, max(len(texts) // 2, 1))
    made = CountVectorizer(**how, min_df=least, max_features=settings.max_terms)
    try:
        return sorted(made.fit(texts).vocabulary_)
    except ValueError:  # no term is frequent enough
        return []


def weighted(settings: TextSettings, terms: tuple[list[str], list[str]], idf: np.ndarray, texts: list[str], *,
              is_binary: bool = False) -> Any:  # fmt: skip
    """Rows of log-scaled counts times idf, of unit length; sparse [n, terms]."""
    from scipy.sparse import csr_matrix, hstack
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.preprocessing import normalize

    made: list[Any] = [csr_matrix(np.zeros((len(texts), 0), np.float32))]
    for known, how in zip(terms, (_words(settings), _characters(settings))):
        if known and how is not None:
            counter: Any = CountVectorizer
            made.append(counter(**how, vocabulary=known, dtype=np.float32, binary=is_binary).transform(texts))
    matrix: Any = hstack(made, format="csr")
    if is_binary:
        return matrix
    matrix.data = (1 + np.log(matrix.data)) * idf[matrix.indices]
    return normalize(matrix, copy=False)


def _unit(vectors: np.ndarray) -> np.ndarray:
    size = np.sqrt((vectors**2).sum(axis=1, keepdims=True))
    return vectors / np.maximum(size, 1e-12) * (size > 1e-12)
