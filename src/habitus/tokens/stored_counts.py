"""Counts kept in the store, a file per shard, below `interests/<version>`: made once, then changed with the log.

An append counts the new rows alone and lays them beside the counts there are, as a layer of its own (`tokens.layers`);
layers are summed when they have grown to an eighth of the counts below. An erasure sums them and leaves the rows of the
users out. The sum of the layers is what a count of the whole new log would give, byte for byte. Only where an item that
was counted as 0 got its content by the append is its shard counted anew.
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
from habitus.tokens.layers import MOST, Layers, is_large, merged

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
    """Give counts that the store keeps, layers summed. Errors: `FingerprintError`, naming the versions there are."""
    return join_users([layers.whole() for layers in stored_layers(store, version)])


def stored_layers(store: Store, version: str) -> list[Layers]:
    """Map counts that the store keeps, shard by shard, without reading them. Errors: `FingerprintError`."""
    return [Layers(tuple(_mapped(store, version, shard))) for shard in _entry(store, version)["shards"]]


def settle_counts(store: Store, version: str) -> Counts:
    """Sum all layers on disk, which a reader of many users may want; the bytes are those of one count of the log.

    Errors: `FingerprintError`; `StoreError` when another process is changing the store.
    """
    _entry(store, version)
    with changing(store.path) as (now, staging):
        kept = now.manifest["interests"]
        shards = [
            shard
            if len(parts := _mapped(now, version, shard)) == 1
            else _write_shard(staging, version, i, merged(parts))
            for i, shard in enumerate(kept[version]["shards"])
        ]
        entry = kept[version] | {"shards": shards}
        adopt(staging, store.path, now.manifest | {"interests": kept | {version: entry}})
    return stored_counts(Store.open(store.path), version)


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
            parts = _mapped(change.old, version, entry["shards"][i])
            stays = np.flatnonzero(part.place >= 0)
            if part.added is not None and len(stays) == parts[0].n_users:
                shards.append(_appended(change, version, i, entry["shards"][i], parts, part, counter(part.added)))
                continue
            counts = _added(merged(parts), part, counter)
        else:
            shards.append(entry["shards"][i])
            continue
        shards.append(_write_shard(change.staging, version, i, counts))
    return {"fit": entry["fit"], "shards": shards}


def _appended(
    change: Change, version: str, i: int, entry: dict[str, Any], parts: list[Counts], part: ShardChange, new: Counts
) -> dict[str, Any]:
    """Write the new rows as a layer beside those there are, or the sum where it is due; give the shard's entry."""
    if not len(new):
        layers, first_new = parts, len(parts)
    elif is_large(parts, new):
        return _write_shard(change.staging, version, i, _both(parts, part, new))
    elif len(parts) > MOST:
        later = merge_counts(place_users(merged(parts[1:]), part.place, new.n_users), new)
        layers, first_new = [parts[0], later], 1
    else:
        layers, first_new = [*parts, new], len(parts)
    found: dict[str, Any] = {}
    is_same_place = parts[0].n_users == new.n_users
    for k, counts in enumerate(layers):
        if k >= first_new:
            found |= _write_layer(change.staging, version, i, k, counts)
            continue
        found |= {key: entry[key] for key in _keys(k).values()}
        if not is_same_place:
            found |= _write_users(change.staging, version, i, k, place_users(counts, part.place, new.n_users))
    return found


def _both(parts: list[Counts], part: ShardChange, new: Counts) -> Counts:
    """Sum all layers and the new rows; users without new rows are moved, not summed."""
    return _with_new(place_users(merged(parts), part.place, new.n_users), new)


def _added(old: Counts, part: ShardChange, counter: Counter) -> Counts:
    """Move the old users to their new rows, without those that go, and add the counts of the new rows."""
    stays = np.flatnonzero(part.place >= 0)
    kept = old if len(stays) == old.n_users else take_users(old, stays)
    if part.added is None:
        return kept
    new = counter(part.added)
    return _with_new(place_users(kept, part.place[stays], new.n_users), new)


def _with_new(before: Counts, new: Counts) -> Counts:
    is_touched = np.diff(new.user_offsets) > 0
    if is_touched.mean() > FEW:
        return merge_counts(before, new)
    touched, rest = np.flatnonzero(is_touched), np.flatnonzero(~is_touched)
    both = join_users([merge_counts(take_users(before, touched), take_users(new, touched)), take_users(before, rest)])
    order = np.empty(new.n_users, np.int64)
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
    return _write_layer(staging, version, i, 0, counts)


def _write_layer(staging: Path, version: str, i: int, layer: int, counts: Counts) -> dict[str, Any]:
    return {
        _keys(layer)[name]: _write_table(staging, version, f"{i:05d}-{name}", columns, n_rows)
        for name, (columns, n_rows) in tables_of(counts).items()
    }


def _write_users(staging: Path, version: str, i: int, layer: int, counts: Counts) -> dict[str, Any]:
    """Write how many rows each user has, where users came in between; the rows themselves stay as they lie."""
    columns, n_rows = tables_of(counts)["users"]
    return {_keys(layer)["users"]: _write_table(staging, version, f"{i:05d}-users", columns, n_rows)}


def _write_table(staging: Path, version: str, name: str, columns: Any, n_rows: int) -> dict[str, Any]:
    file = _folder(staging, version) / f"{name}.arrow"
    write_columns(file, columns, n_rows)
    return seal(staging, file, name)


def _keys(layer: int) -> dict[str, str]:
    """Name the tables of a layer in the entry of a shard: those of the first carry no number."""
    return {name: name if not layer else f"{name}.{layer}" for name in ("blocks", "life", "users")}


def _folder(staging: Path, version: str) -> Path:
    folder = staging / "interests" / version
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _mapped(store: Store, version: str, shard: dict[str, Any]) -> list[Counts]:
    """Map the layers of a shard."""
    layers = [_keys(k) for k in range(sum(key.partition(".")[0] == "blocks" for key in shard))]
    return [map_counts(version, *(store.file(shard[key]["file"]) for key in keys.values())) for keys in layers]


def _entry(store: Store, version: str) -> dict[str, Any]:
    kept = store.manifest.get("interests", {})
    if version not in kept:
        there = ", ".join(sorted(kept)) or "none"
        raise FingerprintError(
            f"counts of interests {version}", f"those of: {there}", where=str(store.path), fix="see keep_counts"
        )
    return kept[version]
