"""User-day tokens: one sparse row per user and active day, made from the log in one pass and memory-mapped.

Columns are named as targets are: `count(purchase)`, `sum(spend of purchase)`, `items`, `sessions`.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.lib.format import open_memmap

from habitus.core.atomic import new_folder, write_json
from habitus.core.progress import track

if TYPE_CHECKING:
    from habitus.data.store import Shard, Store

MAX_TYPES = 32  # types beyond the most frequent ones share one column, `count(other)`


@dataclass(frozen=True)
class DayTable:
    """The active days of every user.

    Attributes
    ----------
    features
        Names of the A columns of `value`.
    offsets
        int64 [n_users + 1]: rows of user u are offsets[u]:offsets[u + 1], ascending in day.
    day
        int32 [n], days since 1970-01-01 on the schema's day grid.
    value
        float32 [n, A]: counts, sums in the amounts' units, distinct items and sessions of that day.
    """

    features: tuple[str, ...]
    offsets: np.ndarray
    day: np.ndarray
    value: np.ndarray

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Memory-map a table written by `day_table`."""
        folder = Path(folder)
        features = tuple(json.loads((folder / "features.json").read_text("utf-8")))
        columns = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("offsets", "day", "value"))
        return cls(features, *columns)


def day_table(store: Store) -> DayTable:
    """Give the store's user-day table; made at the first call, kept in the store, remade when the log changed."""
    folder = store.derived / f"days-{store.fingerprint[:16]}"
    if not (folder / "features.json").is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        _write(store, folder)
        for stale in folder.parent.glob("days-*"):
            if stale != folder:
                shutil.rmtree(stale, ignore_errors=True)
    return DayTable.load(folder)


def days_of_shard(shard: Shard, store: Store, features: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Aggregate a shard in memory under the features of a table made before: day [d], values [d, A], days per user."""
    place = {name: j for j, name in enumerate(features)}
    kept = np.array([place.get(f"count({name})", place.get("count(other)", 0)) for name in store.types])
    return _shard_days(shard, store, kept)


def _write(store: Store, folder: Path) -> None:
    """Two passes over the shards: count the user-days, then fill columns of exactly that length."""
    kept = _kept_types(store)
    features = _features(store, kept)
    shards = range(store.n_shards)
    sizes = [int(_day_starts(store.shard(i)).sum()) for i in shards]
    with new_folder(folder, replace=True) as beside:
        n = sum(sizes)
        offsets = np.zeros(store.n_users + 1, np.int64)
        day = open_memmap(beside / "day.npy", mode="w+", dtype=np.int32, shape=(n,))
        value = open_memmap(beside / "value.npy", mode="w+", dtype=np.float32, shape=(n, len(features)))
        row = 0
        for i in track(shards, "day tokens"):
            shard = store.shard(i)
            days, values, n_per_user = _shard_days(shard, store, kept)
            day[row : row + len(days)] = days
            value[row : row + len(days)] = values
            first = shard.first_user
            offsets[first + 1 : first + 1 + len(n_per_user)] = row + np.cumsum(n_per_user)
            row += len(days)
        day.flush()
        value.flush()
        np.save(beside / "offsets.npy", offsets)
        write_json(beside / "features.json", list(features))


def _kept_types(store: Store) -> np.ndarray:
    """Give type code -> column, int64 [n_types]: the MAX_TYPES most frequent have their own, the rest the last."""
    n_types = len(store.types)
    if n_types <= MAX_TYPES:
        return np.arange(n_types)
    column = np.full(n_types, MAX_TYPES)
    frequent = np.sort(np.argsort(-_type_counts(getattr(store, "whole", store)), kind="stable")[:MAX_TYPES])
    column[frequent] = np.arange(MAX_TYPES)
    return column


def _type_counts(store: Store) -> np.ndarray:
    """Count the events of each type; kept beside the table, so that whoever opens a part need not read the whole."""
    file = store.derived / f"types-{store.fingerprint[:16]}.json"
    if file.is_file():
        return np.array(json.loads(file.read_text("utf-8")), np.int64)
    counts = np.zeros(len(store.types), np.int64)
    for i in range(store.n_shards):
        counts += np.bincount(store.shard(i).type, minlength=len(counts))
    write_json(file, counts.tolist())
    return counts


def _features(store: Store, kept: np.ndarray) -> tuple[str, ...]:
    names = [store.types[int(np.flatnonzero(kept == c)[0])] for c in range(min(len(store.types), MAX_TYPES))]
    names += ["other"] if len(store.types) > MAX_TYPES else []
    shard = store.shard(0)
    counts = [f"count({name})" for name in names]
    sums = [f"sum({amount} of {name})" for amount in store.amounts for name in names]
    distinct = [name for name in ("items", "sessions") if _ids(shard, name) is not None]
    return (*counts, *sums, *distinct)


def _shard_days(shard: Shard, store: Store, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Aggregate one shard: day [d], values [d, A], days per user."""
    starts = _day_starts(shard)
    first = np.flatnonzero(starts)
    n_days, n_columns = len(first), int(kept.max()) + 1 if len(kept) else 0
    group = np.cumsum(starts) - 1
    cell = group * n_columns + kept[shard.type]
    blocks = [np.bincount(cell, minlength=n_days * n_columns).reshape(n_days, n_columns)]
    for amount in store.amounts:
        weights = np.nan_to_num(shard.amounts[amount], nan=0.0)
        blocks.append(np.bincount(cell, weights, minlength=n_days * n_columns).reshape(n_days, n_columns))
    for name in ("items", "sessions"):
        ids = _ids(shard, name)
        if ids is not None:
            blocks.append(_distinct(group, ids, n_days)[:, None])
    n_per_user = np.diff(np.searchsorted(first, shard.offsets))
    return shard.day[first], np.concatenate(blocks, axis=1), n_per_user


def _day_starts(shard: Shard) -> np.ndarray:
    """True where a row is the first of its user and day."""
    starts = np.ones(len(shard.day), dtype=bool)
    starts[1:] = shard.day[1:] != shard.day[:-1]
    begins = shard.offsets[:-1]
    starts[begins[begins < len(starts)]] = True
    return starts


def _ids(shard: Shard, name: str) -> np.ndarray | None:
    return shard.item if name == "items" else shard.session


def _distinct(group: np.ndarray, ids: np.ndarray, n_groups: int) -> np.ndarray:
    """Count the distinct non-negative ids of each group."""
    order = np.lexsort((ids, group))
    g, v = group[order], ids[order]
    is_new = np.ones(len(g), dtype=bool)
    is_new[1:] = (g[1:] != g[:-1]) | (v[1:] != v[:-1])
    return np.bincount(g[is_new & (v >= 0)], minlength=n_groups)
