"""An index of vectors (extra [search], FAISS): faster than exact, and built only when it finds what exact finds."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import polars as pl

from habitus.core.atomic import new_folder
from habitus.core.errors import ArtifactError, ConfigError, nearest, require
from habitus.core.seeds import generator
from habitus.tasks.similar import HUBS, Neighbours, by_user, hubness, matrix, nearest_users

Kind = Literal["flat", "hnsw", "ivf"]
FLOOR, N_QUERIES, K = 0.95, 1_000, 100
FORMAT = 1
_EFFORT = {"hnsw": (64, 128, 256, 512, 1024), "ivf": (8, 16, 32, 64, 128, 256), "flat": (0,)}


@dataclass(frozen=True)
class SearchIndex:
    """An opened index: rows are users in the order of their ids as text."""

    index: Any
    facts: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        return self.facts["fingerprint"]

    def search(self, queries: np.ndarray, k: int, *, without: np.ndarray | None = None) -> Neighbours:
        """Give about the k most alike of each query, best first, found equals by row."""
        asked = k + (without is not None)
        score, place = self.index.search(np.ascontiguousarray(queries, np.float32), asked)
        score = np.where(place < 0, -np.inf, score)
        if without is not None:
            score = np.where(place == without[:, None], -np.inf, score)
        order = np.lexsort((place, -score), axis=1)[:, :k]
        place, score = np.take_along_axis(place, order, 1), np.take_along_axis(score, order, 1)
        return Neighbours(np.where(np.isneginf(score), -1, place).astype(np.int64), score.astype(np.float32))


def build_index(
    vectors: pl.DataFrame,
    out: str | Path,
    *,
    kind: Kind = "hnsw",
    floor: float = FLOOR,
    k: int = K,
    seed: int = 0,
    n_threads: int = 1,
) -> dict[str, Any]:
    """Build an index over the whole-user vectors of a table, and keep it only if it is good enough.

    Recall@k against the exact answer is measured on 1,000 users (all, when there are fewer) with rising effort until it
    reaches `floor`; recall, effort, query rates and hubs are stored beside the index and given back.
    With one thread and one seed the same vectors give the same index.
    Errors: `ExtraError` without FAISS; `ArtifactError` when no effort reaches the floor: nothing is written then.
    """
    if kind not in get_args(Kind):
        meant = nearest(str(kind), get_args(Kind))
        raise ConfigError(
            "one of " + ", ".join(get_args(Kind)), repr(kind), fix=f"did you mean {meant!r}?" if meant else ""
        )
    faiss = require("faiss", "search")
    table = by_user(vectors)
    value = matrix(table)
    faiss.omp_set_num_threads(n_threads)
    began = time.perf_counter()
    index = _built(faiss, value, kind, seed)
    seconds = time.perf_counter() - began
    sample = np.sort(generator(seed, "queries", len(value)).permutation(len(value))[:N_QUERIES])
    began = time.perf_counter()
    exact = nearest_users(value, value[sample], k, without=sample)
    exact_rate = len(sample) / (time.perf_counter() - began)
    facts: dict[str, Any] = {"format": FORMAT, "kind": kind, "fingerprint": fingerprint(table["user"], value)}
    facts |= {"n_users": len(value), "d": value.shape[1], "k": k, "n_queries": len(sample), "floor": floor}
    for effort in _EFFORT[kind]:
        _try_hard(index, kind, effort)
        began = time.perf_counter()
        found = SearchIndex(index, facts).search(value[sample], k, without=sample)
        rate = len(sample) / (time.perf_counter() - began)
        facts |= {"recall": recall(found.place, exact.place), "effort": effort, "queries_per_second": rate}
        if facts["recall"] >= floor:
            break
    facts |= {"exact_queries_per_second": exact_rate, "build_seconds": seconds}
    facts["hubs"] = hubness(exact.place[:, :HUBS], len(value))
    if facts["recall"] < floor:
        raise ArtifactError(
            f"recall@{k} of at least {floor} against exact search", f"{facts['recall']:.3f}", where=f"index {kind}",
            fix="use kind='flat', another kind, or a lower floor",
        )  # fmt: skip
    with new_folder(out, replace=True) as beside:
        faiss.write_index(index, str(beside / "vectors.faiss"))
        table.select("user").write_parquet(beside / "users.parquet")
        (beside / "index.json").write_text(json.dumps(facts, indent=1) + "\n", "utf-8")
    return facts


def open_index(path: str | Path) -> SearchIndex:
    """Open what `build_index` wrote. Errors: `ArtifactError`, `ExtraError` without FAISS."""
    faiss, path = require("faiss", "search"), Path(path)
    try:
        facts = json.loads((path / "index.json").read_text("utf-8"))
        if facts["format"] != FORMAT:
            raise ValueError(f"format {facts['format']}")
        index = faiss.read_index(str(path / "vectors.faiss"))
    except (OSError, ValueError, KeyError, RuntimeError) as cause:
        raise ArtifactError("an index made by habitus", str(cause)[:200], where=str(path)) from None
    _try_hard(index, facts["kind"], facts["effort"])
    return SearchIndex(index, facts)


def recall(found: np.ndarray, exact: np.ndarray) -> float:
    """Give the share of the exact neighbours that were found.

    >>> recall(np.array([[1, 2]]), np.array([[2, 3]]))
    0.5
    """
    there = exact >= 0
    hit = (exact[:, :, None] == found[:, None, :]).any(axis=2) & there
    return float(hit.sum() / max(there.sum(), 1))


def fingerprint(users: pl.Series, value: np.ndarray) -> str:
    """Give a hash of ids and vectors, in order."""
    digest = hashlib.sha256("\x1f".join(users.cast(pl.String).to_list()).encode())
    digest.update(np.ascontiguousarray(value, np.float32).tobytes())
    return digest.hexdigest()[:16]


def _built(faiss: Any, value: np.ndarray, kind: Kind, seed: int) -> Any:
    n, d = value.shape
    inner = faiss.METRIC_INNER_PRODUCT
    if kind == "flat":
        index = faiss.IndexFlatIP(d)
    elif kind == "hnsw":
        index = faiss.IndexHNSWFlat(d, 32, inner)
        index.hnsw.efConstruction = 120
    else:
        n_lists = int(np.clip(np.sqrt(n), 1, 4096))
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(d), d, n_lists, inner)
        index.cp.seed, index.cp.min_points_per_centroid = seed + 1, 1
        index.cp.max_points_per_centroid = 64
        index.train(value)
    index.add(value)
    return index


def _try_hard(index: Any, kind: str, effort: int) -> None:
    if kind == "hnsw":
        index.hnsw.efSearch = effort
    elif kind == "ivf":
        index.nprobe = min(effort, index.nlist)
