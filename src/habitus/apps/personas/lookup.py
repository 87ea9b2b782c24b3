"""The store of past answers: one DuckDB file, exact and near keys, counts by fold so that no row sees its own label.

    posts(key, near, text)         training posts, each with the key of its group of near duplicates
    bands(band, hash, key)         MinHash bands of the posts
    counts(level, key, fold, n0 .. )   answers per level, key and fold; level `expected` holds sums of probabilities
    replies(key, cluster, text)    what was once replied to a post

A training row asks with its own fold, which is left out of everything it is told; a new row asks with fold -1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from habitus.apps.personas.near import N_BANDS, Shingles, jaccard, near_groups, shingles
from habitus.apps.personas.settings import LookupSettings
from habitus.core.errors import ArtifactError
from habitus.core.seeds import mix
from habitus.data.sources.persona_threads import asked

if TYPE_CHECKING:
    import polars as pl

LEVELS = ("near", "exact", "own", "group", "persona")  # rows counted; level 5 is what was expected of them
EXPECTED = len(LEVELS)
NEW = -1  # the fold of a row that was not trained on


@dataclass(frozen=True)
class Asked:
    """What n rows ask with: keys per level, uint64 [n] (0: nothing), and the fold to leave out, int16 [n]."""

    keys: Mapping[str, np.ndarray]
    fold: np.ndarray


@dataclass(frozen=True)
class Found:
    """Answers: counts float32 [n, A] per level, and `expected` at the near level, float32 [n, A]."""

    counts: Mapping[str, np.ndarray]
    expected: np.ndarray


def keys_of(cluster: np.ndarray, key: np.ndarray, near: np.ndarray, group: np.ndarray) -> dict[str, np.ndarray]:
    """Give the key of every level; a persona's own key mixes the persona in."""
    who = mix(cluster.astype(np.int64) + 1)
    return {
        "near": near,
        "exact": key,
        "own": np.where(key == 0, np.uint64(0), mix(key ^ who)),
        "group": mix(who + group.astype(np.uint64) * np.uint64(2654435761)),
        "persona": who,
    }


def chain(found: Found, settings: LookupSettings, lift_weight: float) -> dict[str, np.ndarray]:
    """Turn counts into probabilities, float64 [n, A].

    group = (n + w persona) / (N + w). The post lifts each action by (n + k) / (expected + k), where expected is
    what its rows would have done, had they been like others of their personas and groups: a gamma prior around 1.
    own = (n + w lifted) / (N + w).
    """
    counts = {name: np.asarray(value, np.float64) for name, value in found.counts.items()}
    persona = _shares(counts["persona"] + 1.0 / counts["persona"].shape[1])
    group = _shares(counts["group"] + settings.group_weight * persona)
    lift = (counts["near"] + lift_weight) / (found.expected + lift_weight)
    lifted = _shares(group * lift)
    return {
        "persona": persona, "group": group, "lifted": lifted,
        "own": _shares(counts["own"] + settings.own_weight * lifted),
    }  # fmt: skip


class LookupStore:
    """A built store, open for reading. Errors: `ArtifactError` when the file is none."""

    def __init__(self, path: str | Path, n_actions: int) -> None:
        import duckdb

        try:
            self.db = duckdb.connect(str(path), read_only=True, config={"threads": 2})
            self.db.execute("SELECT level FROM counts LIMIT 1").fetchall()
        except (duckdb.Error, OSError) as cause:
            raise ArtifactError("a lookup store", str(cause).splitlines()[0], where=str(path)) from None
        self.n_actions = n_actions

    def close(self) -> None:
        """Let the file go."""
        self.db.close()

    def look(self, asking: Asked) -> Found:
        """Give what is known of n rows, each without its own fold."""
        import polars as pl

        n, names = len(asking.fold), [*LEVELS, "expected"]
        keys = dict(asking.keys) | {"expected": asking.keys["near"]}
        parts = []
        for level, name in enumerate(names):
            has = np.flatnonzero(keys[name])
            columns = {"level": np.full(has.size, level, np.int16), "key": keys[name][has], "fold": asking.fold[has]}
            parts.append(pl.DataFrame(columns | {"row": has}))
        wanted = pl.concat(parts)
        distinct = wanted.select("level", "key", "fold").unique(maintain_order=True).with_row_index("place")
        self.db.register("wanted", distinct.to_arrow())
        sums = ", ".join(f"sum(c.n{i})::FLOAT AS n{i}" for i in range(self.n_actions))
        answers = asked(
            self.db,
            f"SELECT w.place, {sums} FROM wanted w JOIN counts c ON c.level = w.level AND c.key = w.key WHERE "
            f"CASE WHEN w.level = {EXPECTED} THEN c.fold = w.fold ELSE c.fold <> w.fold END GROUP BY w.place",
        )
        self.db.unregister("wanted")
        at = wanted.join(distinct, on=["level", "key", "fold"], how="left", maintain_order="left")["place"].to_numpy()
        table = np.zeros((len(distinct), self.n_actions), np.float32)
        table[answers["place"].to_numpy()] = answers.drop("place").to_numpy()
        dense, place = {}, 0
        for name, part in zip(names, parts):
            dense[name] = np.zeros((n, self.n_actions), np.float32)
            dense[name][part["row"].to_numpy()] = table[at[place : place + len(part)]]
            place += len(part)
        expected = dense.pop("expected")
        return Found(dense, expected)

    def near(self, keys: np.ndarray, texts: pl.Series, least: float) -> np.ndarray:
        """Give the near key of posts: their own group, else that of the likest training post, else their own key."""
        import polars as pl

        self.db.register("given", pl.DataFrame({"place": np.arange(len(keys)), "key": keys}).to_arrow())
        known = asked(self.db, "SELECT g.place, p.near FROM given g JOIN posts p USING (key)")
        self.db.unregister("given")
        found = keys.copy()
        found[known["place"].to_numpy()] = known["near"].to_numpy()
        is_new = keys != 0
        is_new[known["place"].to_numpy()] = False
        rows = np.flatnonzero(is_new)
        if rows.size and self.has_bands:
            found[rows] = self._likest(keys[rows], shingles(texts.gather(rows)), least)
        return found

    @property
    def has_bands(self) -> bool:
        """Tell whether near duplicates are looked for."""
        return bool(self.db.execute("SELECT band FROM bands LIMIT 1").fetchall())

    def _likest(self, keys: np.ndarray, made: Shingles, least: float) -> np.ndarray:
        import polars as pl

        bands = made.bands()
        given = pl.DataFrame({
            "place": np.repeat(np.arange(len(keys)), N_BANDS),
            "band": np.tile(np.arange(N_BANDS), len(keys)).astype(np.int16),
            "hash": bands.ravel(),
        }).filter(pl.col("hash") != 0)  # fmt: skip
        self.db.register("given", given.to_arrow())
        pairs = asked(
            self.db,
            "SELECT place, key, any_value(p.text) AS text, any_value(p.near) AS near FROM "
            "(SELECT DISTINCT g.place, b.key FROM given g JOIN bands b USING (band, hash) "
            "QUALIFY row_number() OVER (PARTITION BY g.place ORDER BY b.key) <= 64) "
            "JOIN posts p USING (key) GROUP BY place, key ORDER BY place, key",
        )
        self.db.unregister("given")
        if not len(pairs):
            return keys
        at = pairs["place"].to_numpy()
        sure = jaccard(made, at, shingles(pairs["text"]), np.arange(len(pairs)))
        best = pl.DataFrame({"place": at, "near": pairs["near"], "sure": sure}).filter(pl.col("sure") >= least)
        best = best.sort(["place", "sure", "near"], descending=[False, True, False]).unique("place", keep="first")
        found = keys.copy()
        found[best["place"].to_numpy()] = best["near"].to_numpy()
        return found


def build_store(
    path: Path,
    settings: LookupSettings,
    *,
    posts: pl.DataFrame,
    cluster: np.ndarray,
    key: np.ndarray,
    group: np.ndarray,
    label: np.ndarray,
    fold: np.ndarray,
    n_actions: int,
    replies: pl.DataFrame | None = None,
    near: np.ndarray | None = None,
) -> None:
    """Write the file from training rows: persona, exact key, group of the text, label and fold, [n] each.

    `posts` has key and text, distinct. `near` are near keys per row where the source brings its own.
    """
    import duckdb
    import polars as pl

    posts = posts.filter(pl.col("key") != 0).sort("key")
    own = posts["key"].to_numpy()
    groups = near_groups(posts["text"], own, settings.jaccard) if settings.has_near and near is None else own
    if near is None:
        place = np.minimum(np.searchsorted(own, key), max(len(own) - 1, 0))
        near = np.where(key == 0, np.uint64(0), groups[place]) if len(own) else np.zeros_like(key)
    keys = keys_of(cluster, key, near, group)
    with duckdb.connect(str(path), config={"threads": 2}) as db:
        columns = ", ".join(f"n{i} FLOAT" for i in range(n_actions))
        db.execute(f"CREATE TABLE counts (level SMALLINT, key UBIGINT, fold SMALLINT, {columns})")
        for level, name in enumerate(LEVELS):
            _insert(db, level, *_tally(keys[name], fold, label, n_actions))
        tables = {f: _group_shares(keys, fold, label, f, settings, n_actions) for f in (NEW, *np.unique(fold).tolist())}
        for left_out, shares in tables.items():
            kept = np.flatnonzero((fold != left_out) & (near != 0))
            distinct, code = np.unique(near[kept], return_inverse=True)
            sums = [np.bincount(code, weights=shares[kept, i], minlength=distinct.size) for i in range(n_actions)]
            _insert(db, EXPECTED, distinct, np.full(distinct.size, left_out, np.int16), np.stack(sums, axis=1))
        db.register("given", posts.with_columns(near=pl.Series(groups)).select("key", "near", "text").to_arrow())
        db.execute("CREATE TABLE posts AS SELECT * FROM given ORDER BY key")
        db.execute("CREATE TABLE bands (band SMALLINT, hash UBIGINT, key UBIGINT)")
        if settings.has_near and len(posts):
            _insert_bands(db, posts)
        empty = {"key": pl.UInt64, "cluster": pl.Int32, "text": pl.String}
        db.register("given", (replies if replies is not None else pl.DataFrame(schema=empty)).to_arrow())
        db.execute("CREATE TABLE replies AS SELECT key, cluster, text FROM given ORDER BY cluster, key, text")


def _insert_bands(db: Any, posts: pl.DataFrame) -> None:
    import polars as pl

    for some in posts.iter_slices(100_000):
        bands, n = shingles(some["text"]).bands(), len(some)
        table = {
            "band": np.tile(np.arange(N_BANDS, dtype=np.int16), n), "hash": bands.ravel(),
            "key": np.repeat(some["key"].to_numpy(), N_BANDS),
        }  # fmt: skip
        db.register("given", pl.DataFrame(table).filter(pl.col("hash") != 0).to_arrow())
        db.execute("INSERT INTO bands SELECT * FROM given")


def _insert(db: Any, level: int, key: np.ndarray, fold: np.ndarray, counts: np.ndarray) -> None:
    import polars as pl

    columns = {"level": np.full(len(key), level, np.int16), "key": key, "fold": fold}
    columns |= {f"n{i}": counts[:, i].astype(np.float32) for i in range(counts.shape[1])}
    db.register("given", pl.DataFrame(columns).to_arrow())
    db.execute("INSERT INTO counts SELECT * FROM given")


def _tally(key: np.ndarray, fold: np.ndarray, label: np.ndarray, n_actions: int) -> tuple[np.ndarray, ...]:
    """Count labels per (key, fold): keys, folds, counts. Key 0 is nothing and is left out."""
    kept = np.flatnonzero(key)
    order = kept[np.lexsort((fold[kept], key[kept]))]
    k, f = key[order], fold[order]
    is_first = np.ones(k.size, bool)
    is_first[1:] = (k[1:] != k[:-1]) | (f[1:] != f[:-1])
    run = np.cumsum(is_first) - 1
    n = int(is_first.sum())
    counts = np.bincount(run * n_actions + label[order], minlength=n * n_actions).reshape(n, n_actions)
    return k[is_first], f[is_first].astype(np.int16), counts


def _group_shares(
    keys: Mapping[str, np.ndarray], fold: np.ndarray, label: np.ndarray, left_out: int, settings: LookupSettings, n: int
) -> np.ndarray:
    """Give each row the shares of its persona and group, counted without one fold, float32 [rows, A]."""
    kept = fold != left_out
    found = []
    for name in ("persona", "group"):
        _, code = np.unique(keys[name], return_inverse=True)
        table = np.bincount(code[kept] * n + label[kept], minlength=(code.max() + 1) * n).reshape(-1, n)
        found.append((code, table))
    (who, of_persona), (code, of_group) = found
    prior = _shares(of_persona + 1.0 / n)
    first = np.zeros(len(of_group), np.int64)
    first[code] = who
    shares = _shares(of_group + settings.group_weight * prior[first])
    return shares.astype(np.float32)[code]


def _shares(counts: np.ndarray) -> np.ndarray:
    return counts / counts.sum(axis=1, keepdims=True)
