"""Similar: who is like whom. Exact inner products always; with the extra [search] an index whose recall is measured.

Vectors are those of one `embed`: `flat` compares whole users, `--anchor any` one respect at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import polars as pl

from habitus.core.errors import ConfigError, FingerprintError, nearest
from habitus.tasks.vectors import read_table, read_vectors

How = Literal["each", "mean", "classifier"]
BLOCK = 2_000_000  # scores held at once
HUBS = 10  # neighbours of each user when hubs are counted


@dataclass(frozen=True)
class Neighbours:
    """The k most alike of each query, best first: place int64 [q, k] (-1: none left), score float32 [q, k]."""

    place: np.ndarray
    score: np.ndarray


def nearest_users(vectors: np.ndarray, queries: np.ndarray, k: int, *, without: np.ndarray | None = None) -> Neighbours:
    """Give the k rows of `vectors` with the largest inner product with each query, equal scores by row.

    vectors float32 [n, d], queries float32 [q, d]; `without` int64 [q] is a row each query may not find (its own).
    Exact, in blocks of rows, so memory stays bounded; what comes out does not depend on the blocks.

    >>> nearest_users(np.eye(3, dtype=np.float32), np.ones((1, 3), np.float32), 2).place.tolist()
    [[0, 1]]
    """
    vectors, queries = np.ascontiguousarray(vectors, np.float32), np.ascontiguousarray(queries, np.float32)
    n, q = len(vectors), len(queries)
    place = np.full((q, k), -1, np.int64)
    score = np.full((q, k), -np.inf, np.float32)
    step = 8_192  # fixed: another width of the product may round the last bit another way
    for first in range(0, q, max(BLOCK // step, 1)):
        rows = slice(first, min(first + max(BLOCK // step, 1), q))
        for start in range(0, n, step):
            found = queries[rows] @ vectors[start : start + step].T
            if without is not None:
                own = without[rows] - start
                hit = np.flatnonzero((own >= 0) & (own < found.shape[1]))
                found[hit, own[hit]] = -np.inf
            place[rows], score[rows] = _best(place[rows], score[rows], found, start, k)
    place[np.isneginf(score)] = -1
    return Neighbours(place, score)


def hubness(place: np.ndarray, n: int) -> dict[str, float]:
    """Say how unevenly users are found: skew of how often each is among the neighbours, and the largest share.

    Source: k-occurrence skew of Radovanović, Nanopoulos, Ivanović 2010. Near 0 is even; above 1 some are hubs.

    >>> hubness(np.array([[1], [0], [0]]), 3)["most"]
    2.0
    """
    count = np.bincount(place[place >= 0], minlength=n).astype(np.float64)
    deviation = count.std()
    skew = float(((count - count.mean()) ** 3).mean() / deviation**3) if deviation > 0 else 0.0
    top = np.sort(count)[::-1][: max(n // 100, 1)].sum() / max(count.sum(), 1)
    return {"skew": skew, "most": float(count.max(initial=0)), "share_of_top_percent": float(top)}


def similar(
    vectors: str | Path | pl.DataFrame,
    *,
    users: Any,
    k: int = 100,
    anchor: int | Literal["any"] | None = None,
    how: How = "each",
    index: str | Path | None = None,
    out: str | Path | None = None,
) -> pl.DataFrame:
    """Find the users most like the given ones.

    Parameters
    ----------
    vectors
        What `embed` wrote, its table, or a run, which is embedded at the end of its log: `user` and `flat` (or
        `vector`); `vectors` (M x P) for anchors.
    users
        A file or table with a column `user`, or a list of ids.
    k
        How many for each; fewer when there are fewer.
    anchor
        None compares whole users. A number compares that anchor alone; `any` takes the best anchor of each pair.
    how
        `each`: neighbours of each user. `mean`: one audience for the whole list, by the mean inner product.
        `classifier`: one audience by a logistic regression of the list against the rest. The list itself is left out.
    index
        A folder made by `build_index`: faster and approximate, by whole users only.

    Gives `user, like, rank, score` (an audience is in `user`, and `like` is empty); with `anchor="any"` also `anchor`.
    Equal scores are in the order of user ids (as text), so the answer does not depend on the order of the table.
    Errors: `ConfigError` for unknown users, an unknown way or a table without vectors; `FingerprintError` for an index
    of other vectors.
    """
    if how not in get_args(How):
        meant = nearest(str(how), get_args(How))
        raise ConfigError(
            "one of " + ", ".join(get_args(How)), repr(how), fix=f"did you mean {meant!r}?" if meant else ""
        )
    if k < 1:
        raise ConfigError("k of at least 1", str(k), where="similar")
    table = by_user(read_vectors(vectors))
    asked = _places(table, users)
    if index is not None and (anchor is not None or how != "each"):
        raise ConfigError("whole users, each", "an anchor or an audience", where="index", fix="leave the index out")
    if how != "each":
        answer = _audience(table, asked, k, how, anchor)
    elif anchor == "any":
        answer = _any_anchor(table, asked, k)
    else:
        value = matrix(table, anchor)
        found = (
            nearest_users(value, value[asked], k, without=asked)
            if index is None
            else _by_index(index, table, value, asked, k)
        )
        answer = _answer(table, asked, found)
    if out is not None:
        from habitus.tasks.predict import write_table

        write_table(answer, out)
    return answer


def by_user(table: pl.DataFrame) -> pl.DataFrame:
    """Sort by user id as text, so that ties come out the same whatever the order of the file.

    Errors: `ConfigError` without a column user, or with a user twice.
    """
    if "user" not in table.columns:
        raise ConfigError("a column user", ", ".join(table.columns), where="vectors")
    if table["user"].n_unique() != table.height:
        raise ConfigError("each user once", "some twice", where="vectors")
    return table.sort(pl.col("user").cast(pl.String))


def matrix(table: pl.DataFrame, anchor: int | None = None) -> np.ndarray:
    """Give float32 [n, d]: whole users, or one anchor of them. Errors: `ConfigError` naming what there is."""
    name = next((c for c in ("flat", "vector") if c in table.columns), None) if anchor is None else "vectors"
    if name is None or name not in table.columns:
        raise ConfigError("columns flat or vector; vectors for anchors", ", ".join(table.columns), where="vectors")
    value = table[name].to_numpy()
    if anchor is None:
        return np.ascontiguousarray(value.reshape(table.height, -1), np.float32)
    if value.ndim != 3 or not 0 <= anchor < value.shape[1]:
        raise ConfigError(f"an anchor 0 .. {value.shape[1] - 1}", str(anchor), where="similar")
    return np.ascontiguousarray(value[:, anchor], np.float32)


def _best(place: np.ndarray, score: np.ndarray, found: np.ndarray, start: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Merge the best so far with a block of later rows; among equals the earlier row stays before the later."""
    width = found.shape[1]
    if width > 4 * k:  # a first cut: everything at or above the k-th value
        bound = np.partition(found, width - k, axis=1)[:, width - k]
        kept = found >= bound[:, None]
        most = int(kept.sum(axis=1).max())
        rows = np.argsort(~kept, axis=1, kind="stable")[:, :most]
        found = np.where(np.take_along_axis(kept, rows, 1), np.take_along_axis(found, rows, 1), -np.inf)
        later = rows + start
    else:
        later = np.broadcast_to(np.arange(start, start + width), found.shape)
    every = np.concatenate([score, found], axis=1)
    order = np.argsort(-every, axis=1, kind="stable")[:, :k]
    places = np.concatenate([place, later], axis=1)
    return np.take_along_axis(places, order, 1), np.take_along_axis(every, order, 1)


def _audience(table: pl.DataFrame, asked: np.ndarray, k: int, how: How, anchor: Any) -> pl.DataFrame:
    """Score everybody against the whole list."""
    if anchor == "any":
        raise ConfigError("an anchor number or none for an audience", "'any'", where="similar")
    value = matrix(table, anchor)
    score = value @ value[asked].mean(axis=0) if how == "mean" else _classified(value, asked)
    score[asked] = -np.inf
    order = np.argsort(-score, kind="stable")[:k]
    order = order[~np.isneginf(score[order])]
    return pl.DataFrame(
        {
            "user": table["user"].gather(order),
            "like": pl.Series([None] * len(order), dtype=table.schema["user"]),
            "rank": np.arange(1, len(order) + 1),
            "score": score[order].astype(np.float32),
        }
    )


def _classified(value: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Log-odds of belonging to the list, both classes weighing the same."""
    from sklearn.linear_model import LogisticRegression

    if len(asked) == len(value):
        raise ConfigError("somebody outside the list", "everybody is in it", where="similar")
    y = np.zeros(len(value))
    y[asked] = 1
    model = LogisticRegression(C=1.0, class_weight="balanced", max_iter=500).fit(value, y)
    return np.asarray(model.decision_function(value), np.float32)


def _any_anchor(table: pl.DataFrame, asked: np.ndarray, k: int) -> pl.DataFrame:
    """Search each anchor, then rank each pair by its best single cosine."""
    n_anchors = table["vectors"].to_numpy().shape[1] if "vectors" in table.columns else 0
    parts = []
    for m in range(n_anchors) if n_anchors else [matrix(table, 0)]:
        value = matrix(table, int(m))
        value = value / np.maximum(np.linalg.norm(value, axis=1, keepdims=True), 1e-12)
        found = nearest_users(value, value[asked], k, without=asked)
        parts.append(_answer(table, asked, found).with_columns(anchor=pl.lit(m, pl.Int32)))
    every = pl.concat(parts).sort("score", descending=True, maintain_order=True)
    best = every.unique(["user", "like"], keep="first", maintain_order=True)
    order = best.with_columns(text=pl.col("like").cast(pl.String)).sort(
        ["score", "text"], descending=[True, False], maintain_order=True
    )
    ranked = order.with_columns(rank=pl.int_range(pl.len()).over("user") + 1).filter(pl.col("rank") <= k)
    asked_order = pl.DataFrame({"user": table["user"].gather(asked)}).with_row_index("at")
    ranked = ranked.join(asked_order, on="user").sort("at", "rank")
    return ranked.select("user", "like", "rank", "score", "anchor")


def _answer(table: pl.DataFrame, asked: np.ndarray, found: Neighbours) -> pl.DataFrame:
    k = found.place.shape[1]
    there = found.place.ravel() >= 0
    return pl.DataFrame(
        {
            "user": table["user"].gather(np.repeat(asked, k)[there]),
            "like": table["user"].gather(found.place.ravel()[there]),
            "rank": np.tile(np.arange(1, k + 1), len(asked))[there],
            "score": found.score.ravel()[there],
        }
    )


def _by_index(index: Any, table: pl.DataFrame, value: np.ndarray, asked: np.ndarray, k: int) -> Neighbours:
    from habitus.tasks.similar_index import fingerprint, open_index

    opened = open_index(index)
    if opened.fingerprint != fingerprint(table["user"], value):
        raise FingerprintError(
            "the vectors the index was built from", "other vectors", where=str(index), fix="build the index again"
        )
    return opened.search(value[asked], k, without=asked)


def _places(table: pl.DataFrame, users: Any) -> np.ndarray:
    """Give the row of each asked user once, in the order asked."""
    given = users if isinstance(users, list | tuple | np.ndarray | pl.Series) else read_table(users)
    if isinstance(given, pl.DataFrame):
        if "user" not in given.columns:
            raise ConfigError("a column user", ", ".join(given.columns), where="users")
        given = given["user"]
    wanted = pl.DataFrame({"user": pl.Series("user", given).cast(pl.String)}).unique(maintain_order=True)
    known = table.select(pl.col("user").cast(pl.String)).with_row_index("at")
    at = wanted.join(known, on="user", how="left", maintain_order="left")
    if not at.height or at["at"].null_count():
        missing = at.filter(pl.col("at").is_null())["user"].to_list()
        found = f"{len(missing)} unknown, such as {missing[0]!r}" if missing else "none"
        raise ConfigError("users that have vectors", found, where="users")
    return at["at"].to_numpy().astype(np.int64)
