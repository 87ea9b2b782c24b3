"""What an item is, as numbers: categories, title tokens, a binned price; and a frozen encoder that needs no network.

The encoder is a handful of tables and one matrix (learnt by `models.item_tower`), so that an append can place a new
item with plain arrays. An item without any content gets no vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from habitus.core.seeds import text_keys

WORD = r"[\p{L}\p{N}]+"


@dataclass(frozen=True, eq=False)
class ContentSpec:
    """Which columns of the item table are content, and how they become ids; fitted on train items.

    `categories`: column -> known values (id 0: unknown or missing). `titles` are text columns, whose words are hashed
    into `n_buckets`. `edges`: number column -> float64 inner edges of quantile bins (bin 0: missing).
    """

    categories: dict[str, tuple[str, ...]]
    titles: tuple[str, ...]
    edges: dict[str, tuple[float, ...]]
    n_buckets: int

    @property
    def is_empty(self) -> bool:
        return not (self.categories or self.titles or self.edges)

    @property
    def sizes(self) -> dict[str, int]:
        """Rows of each table, in the order of the columns of `ids`."""
        sizes = {name: len(values) + 1 for name, values in self.categories.items()}
        return sizes | {name: len(edges) + 2 for name, edges in self.edges.items()}


@dataclass(frozen=True, eq=False)
class Content:
    """Content of items as ids: `ids` int32 [n, columns]; title words `words` int32 [nnz] at `offsets` int64 [n + 1]."""

    ids: np.ndarray
    words: np.ndarray
    offsets: np.ndarray

    @property
    def is_there(self) -> np.ndarray:
        """Which items have any content (bool [n])."""
        return (self.ids > 0).any(1) | (np.diff(self.offsets) > 0)


def fit_content(table: Any, kinds: dict[str, str], rows: np.ndarray, n_buckets: int, price_bins: int) -> ContentSpec:
    """Fit on some rows (train items) of the item table; `kinds` are the declared kinds of its columns."""
    train = table[rows]
    categories, titles, edges = {}, [], {}
    for name, kind in kinds.items():
        if kind == "text":
            titles.append(name)
        elif kind == "number":
            values = np.unique(train[name].drop_nulls().to_numpy().astype(np.float64))
            inner = np.unique(np.quantile(values, np.linspace(0, 1, price_bins + 1)[1:-1])) if len(values) else []
            edges[name] = tuple(float(edge) for edge in inner)
        elif kind == "category":
            categories[name] = tuple(sorted(set(train[name].drop_nulls().cast(str).to_list())))
    return ContentSpec(categories, tuple(titles), edges, n_buckets)


def content_of(spec: ContentSpec, table: Any) -> Content:
    """Turn rows of an item table into ids."""
    columns = []
    for name, values in spec.categories.items():
        place = {value: i + 1 for i, value in enumerate(values)}
        texts = table[name].cast(str).to_list()
        columns.append(np.fromiter((place.get(text, 0) for text in texts), np.int32, len(texts)))
    for name, inner in spec.edges.items():
        values = table[name].cast(float).fill_null(float("nan")).to_numpy()
        columns.append(np.where(np.isnan(values), 0, np.searchsorted(inner, values) + 1).astype(np.int32))
    ids = np.stack(columns, 1) if columns else np.zeros((table.height, 0), np.int32)
    words, offsets = _words(table, spec.titles, spec.n_buckets)
    return Content(ids, words, offsets)


def _words(table: Any, titles: Sequence[str], n_buckets: int) -> tuple[np.ndarray, np.ndarray]:
    """Hash the words of all text columns together: a stated function, the same on every machine."""
    import polars as pl

    if not titles:
        return np.zeros(0, np.int32), np.zeros(table.height + 1, np.int64)
    text = pl.concat_str([pl.col(name).fill_null("") for name in titles], separator=" ")
    found = table.select(text.str.to_lowercase().str.extract_all(WORD).alias("words"))
    size = found["words"].list.len().fill_null(0).to_numpy().astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(size)]).astype(np.int64)
    flat = (
        found["words"].explode(empty_as_null=False, keep_nulls=False) if size.sum() else pl.Series([], dtype=pl.String)
    )
    distinct, place = np.unique(np.asarray(flat.to_list(), dtype=np.str_), return_inverse=True)
    buckets = (text_keys(distinct.tolist()) % np.uint64(n_buckets)).astype(np.int32)
    return buckets[place] if len(distinct) else np.zeros(0, np.int32), offsets


@dataclass(frozen=True, eq=False)
class ContentEncoder:
    """The frozen content half of the item tower.

    `tables`: one float32 [rows, d] per column of ids. `word`: float32 [n_buckets, d]. `weight` float32 [d, d], `bias`
    float32 [d]. vector = unit(weight @ (sum of table rows + mean of word rows) + bias); row 0 of a table is unknown.
    """

    spec: ContentSpec
    tables: dict[str, np.ndarray]
    word: np.ndarray
    weight: np.ndarray
    bias: np.ndarray

    def encode(self, table: Any) -> tuple[np.ndarray, np.ndarray]:
        """Give a unit vector per item (float32 [n, d]) and whether it has content; others get zeros."""
        content = content_of(self.spec, table)
        total = np.zeros((table.height, self.word.shape[1]), np.float32)
        for column, name in enumerate(self.spec.sizes):
            total += self.tables[name][content.ids[:, column]]
        total += mean_rows(self.word, content.words, content.offsets)
        return finish(total, self.weight, self.bias, content.is_there), content.is_there


def mean_rows(table: np.ndarray, rows: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Give the mean of the named rows per bag (float32 [n, d]); an empty bag is zero."""
    size = np.diff(offsets)
    found = np.zeros((len(size), table.shape[1]), np.float32)
    there = np.flatnonzero(size)
    if len(there):
        found[there] = np.add.reduceat(table[rows], offsets[:-1][there], axis=0) / size[there, None]
    return found


def finish(total: np.ndarray, weight: np.ndarray, bias: np.ndarray, is_there: np.ndarray) -> np.ndarray:
    """Map sums to unit vectors, zero where nothing is there."""
    vector = total @ weight.T + bias
    norm = np.linalg.norm(vector, axis=1, keepdims=True)
    return np.where(is_there[:, None], vector / np.maximum(norm, 1e-12), 0).astype(np.float32)
