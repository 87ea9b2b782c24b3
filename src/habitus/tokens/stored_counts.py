"""Counts kept in the store, a file per shard, below `interests/<version>`: made once, then changed with the log.

An append counts the new rows alone and adds them; an erasure leaves the rows of the users out. Both give the bytes that
a count of the whole new log would give. Only where an item that was counted as 0 got its content by the append is its
shard counted anew.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from habitus.core.errors import FingerprintError, StoreError
from habitus.core.progress import track
from habitus.data.pipeline.derived import Change, ShardChange
from habitus.data.pipeline.swap import adopt, changing
from habitus.data.pipeline.tables import seal
from habitus.data.store import Store
from habitus.tokens.counts import (
    Counter,
    Counts,
    join_users,
    map_counts,
    merge_counts,
    place_users,
    tables_of,
    take_users,
    write_columns,
)
from habitus.tokens.interest_files import read_pair, write_pair
from habitus.tokens.interest_lookup import is_of_events, items_on, lookup
from habitus.tokens.interests import Interests

FEW = 0.3  # above this share of users with new rows, all are summed at once


def keep_counts(store: Store, interests: Interests) -> Counts:
    """Give the counts of a store, made at the first call and kept in it; `append` and `erase` keep them right.

    The counts are memory-mapped where the store has one shard; several shards are put together in memory.
    Errors: `StoreError` when another process is changing the store.
    """
    if interests.version not in store.manifest.get("interests", {}):
        with changing(store.path) as (now, staging):
            if now.fingerprint != store.fingerprint:
                raise StoreError("the store that was opened", "one changed since", where=str(store.path), fix="open it")
            entry = _write_all(now, interests, staging)
            kept = now.manifest.get("interests", {}) | {interests.version: entry}
            adopt(staging, store.path, now.manifest | {"interests": dict(sorted(kept.items()))})
        store = Store.open(store.path)
    return stored_counts(store, interests.version)


def stored_counts(store: Store, version: str) -> Counts:
    """Map counts that the store keeps. Errors: `FingerprintError`, naming the versions there are."""
    entry = _entry(store, version)
    return join_users([_mapped(store, version, shard) for shard in entry["shards"]])


def stored_interests(store: Store, version: str) -> Interests:
    """Read interests that the store keeps. Errors: `FingerprintError`, naming the versions there are."""
    fit = _entry(store, version)["fit"]
    return read_pair(store.file(fit["words"]["file"]), store.file(fit["arrays"]["file"]))


def derive_counts(change: Change) -> dict[str, Any]:
    """Bring all counts of a store to its new state; what `append` and `erase` hand to the store's change."""
    kept = change.old.manifest["interests"]
    return {version: _changed(change, version, kept[version]) for version in sorted(kept)}


def _changed(change: Change, version: str, entry: dict[str, Any]) -> dict[str, Any]:
    interests = stored_interests(change.old, version)
    counter = Counter.of(interests, change.new.types, lookup(interests, change.new))
    moved = _moved_items(interests, change)
    shards = []
    for i in track(range(change.new.n_shards), "counting interests"):
        part = change.shards.get(i)
        if moved is not None and _holds(change.new, i, moved):
            counts = counter(change.new.shard(i))
        elif part is not None:
            counts = _added(_mapped(change.old, version, entry["shards"][i]), part, counter)
        else:
            shards.append(entry["shards"][i])
            continue
        shards.append(_write_shard(change.staging, version, i, counts))
    return {"fit": entry["fit"], "shards": shards}


def _added(old: Counts, part: ShardChange, counter: Counter) -> Counts:
    """Move the old users to their new rows, and add the counts of the new rows; only users with new rows are summed."""
    stays = np.flatnonzero(part.place >= 0)
    kept = old if len(stays) == old.n_users else take_users(old, stays)
    if part.added is None:
        return kept
    n_users = part.added.n_users
    before, new = place_users(kept, part.place[stays], n_users), counter(part.added)
    is_touched = np.diff(new.user_offsets) > 0
    if is_touched.mean() > FEW:
        return merge_counts(before, new)
    touched, rest = np.flatnonzero(is_touched), np.flatnonzero(~is_touched)
    both = join_users([merge_counts(take_users(before, touched), take_users(new, touched)), take_users(before, rest)])
    order = np.empty(n_users, np.int64)
    order[touched], order[rest] = np.arange(len(touched)), len(touched) + np.arange(len(rest))
    return take_users(both, order)


def _moved_items(interests: Interests, change: Change) -> np.ndarray | None:
    """Give the new codes of items that were there before and have another interest now; None where there are none."""
    if change.old.items is None or is_of_events(change.old, interests.fields):
        return None
    before = items_on(interests, change.old.items, change.old.item_table)
    items = change.new.items or []
    now = items_on(interests, items, change.new.item_table)
    was = dict(zip(change.old.items, before.tolist()))
    moved = np.array([was.get(item, interest) != interest for item, interest in zip(items, now.tolist())], bool)
    return np.append(moved, False) if moved.any() else None


def _holds(store: Store, i: int, moved: np.ndarray) -> bool:
    items = store.shard(i).item
    return items is not None and bool(moved[items].any())


def _write_all(store: Store, interests: Interests, staging: Path) -> dict[str, Any]:
    folder = _folder(staging, interests.version)
    fit = {}
    for name, file in write_pair(interests, folder).items():
        fit[name] = seal(staging, file, file.stem)
    counter = Counter.of(interests, store.types, lookup(interests, store))
    shards = [
        _write_shard(staging, interests.version, i, counter(store.shard(i)))
        for i in track(range(store.n_shards), "counting interests")
    ]
    return {"fit": fit, "shards": shards}


def _write_shard(staging: Path, version: str, i: int, counts: Counts) -> dict[str, Any]:
    folder, entry = _folder(staging, version), {}
    for name, (columns, n_rows) in tables_of(counts).items():
        file = folder / f"{i:05d}-{name}.arrow"
        write_columns(file, columns, n_rows)
        entry[name] = seal(staging, file, file.stem)
    return entry


def _folder(staging: Path, version: str) -> Path:
    folder = staging / "interests" / version
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _mapped(store: Store, version: str, shard: dict[str, Any]) -> Counts:
    return map_counts(version, *(store.file(shard[name]["file"]) for name in ("blocks", "life", "users")))


def _entry(store: Store, version: str) -> dict[str, Any]:
    kept = store.manifest.get("interests", {})
    if version not in kept:
        there = ", ".join(sorted(kept)) or "none"
        raise FingerprintError(
            f"counts of interests {version}", f"those of: {there}", where=str(store.path), fix="see keep_counts"
        )
    return kept[version]
