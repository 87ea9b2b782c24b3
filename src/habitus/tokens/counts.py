"""Counts per user, block, group and interest: integers, so that they add up exactly in any order.

Float sums would depend on the order of the rows; amounts are therefore whole minor units (cents). Row numbers of users
are those of the store. `life` is the same without the block.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from habitus.core.atomic import new_folder, write_json
from habitus.core.errors import ArtifactError, FingerprintError
from habitus.core.progress import track
from habitus.data.shards import ShardFile, map_shard
from habitus.tokens.blocks import block_of
from habitus.tokens.interest_lookup import Lookup, lookup

if TYPE_CHECKING:
    from habitus.data.store import Shard, Store
    from habitus.tokens.interests import Interests

FORMAT = 1
LIFE_COLUMNS = {"group": np.dtype("<i2"), "interest": np.dtype("<i4"), "n": np.dtype("<i8"), "amount": np.dtype("<i8")}
BLOCK_COLUMNS = {"block": np.dtype("<i4")} | LIFE_COLUMNS
USER_COLUMNS = {"n_blocks": np.dtype("<i8"), "n_life": np.dtype("<i8")}


@dataclass(frozen=True, eq=False)
class Life:
    """Sums over all blocks: rows of user u are `user_offsets[u]:user_offsets[u + 1]`, sorted by group, interest."""

    user_offsets: np.ndarray
    group: np.ndarray
    interest: np.ndarray
    n: np.ndarray
    amount: np.ndarray


@dataclass(frozen=True, eq=False)
class Counts:
    """What users did, as sparse integer counts.

    Attributes
    ----------
    version
        That of the interests. Counts of different versions never meet.
    user_offsets
        int64 [n_users + 1]: rows of user u are user_offsets[u]:user_offsets[u + 1], sorted by block, group, interest.
    block
        int32, see `tokens.blocks`.
    group
        int16, which group of event types.
    interest
        int32.
    n
        int64, number of events.
    amount
        int64, sum of the amount in minor units; a missing amount adds nothing.
    life
        The same without the block.
    """

    version: str
    user_offsets: np.ndarray
    block: np.ndarray
    group: np.ndarray
    interest: np.ndarray
    n: np.ndarray
    amount: np.ndarray
    life: Life

    @property
    def n_users(self) -> int:
        return len(self.user_offsets) - 1

    def __len__(self) -> int:
        return len(self.block)


def count_interests(store: Store, interests: Interests) -> Counts:
    """Count a whole store, one shard after the other; no file is written. See `stored_counts` to keep them.

    Memory: one shard's rows at a time, and the counts.
    """
    counter = Counter.of(interests, store.types, lookup(interests, store))
    parts = [counter(store.shard(i)) for i in track(range(store.n_shards), "counting interests")]
    return join_users(parts)


@dataclass(frozen=True, eq=False)
class Counter:
    """Counts the rows of one shard: `of_type` is the group of each event type (int16, -1: not counted)."""

    interests: Interests
    of_type: np.ndarray
    find: Lookup

    @classmethod
    def of(cls, interests: Interests, types: list[str], find: Lookup) -> Counter:
        place = {name: g for g, group in enumerate(interests.groups) for name in group}
        default = -1 if interests.groups else 0
        return cls(interests, np.array([place.get(name, default) for name in types], np.int16), find)

    def __call__(self, shard: Shard, rows: np.ndarray | None = None) -> Counts:
        """Give the counts of a shard's users, or of some of its rows (bool [n_events])."""
        columns = {"day": shard.day, "type": shard.type, "item": shard.item} | dict(shard.categories)
        user = np.repeat(np.arange(shard.n_users), np.diff(shard.offsets))
        group = self.of_type[shard.type]
        kept = np.flatnonzero(group >= 0) if rows is None else np.flatnonzero((group >= 0) & rows)
        find = self.interests
        block = block_of(shard.day[kept], find.block, find.week_starts)
        taken = {name: values[kept] for name, values in columns.items() if values is not None}
        amount = np.zeros(len(kept), np.int64)
        if find.amount is not None:
            amount = minor_units(shard.amounts[find.amount][kept], find.digits)
        ones = np.ones(len(kept), np.int64)
        return summed(
            find.version, shard.n_users, user[kept], block, group[kept], self.find(taken), ones, amount
        )  # fmt: skip


def minor_units(amount: np.ndarray, digits: int) -> np.ndarray:
    """Turn amounts into whole minor units (int64), each rounded to the nearest; missing ones are 0.

    >>> minor_units(np.array([1.005, np.nan, -0.1]), 2).tolist()
    [100, 0, -10]
    """
    return np.rint(np.nan_to_num(np.asarray(amount, np.float64) * 10.0**digits, nan=0.0)).astype(np.int64)


def merge_counts(a: Counts, b: Counts) -> Counts:
    """Add two counts of the same users, row by row. Errors: `FingerprintError` for other interests or other users.

    Exact and in any order: merge_counts(a, b) equals the counts of both logs together.
    """
    if a.version != b.version:
        raise FingerprintError(
            f"counts of version {a.version}", f"version {b.version}", where="merge_counts",
            fix="count both with the same interests",
        )  # fmt: skip
    if a.n_users != b.n_users:
        raise FingerprintError(
            f"{a.n_users} users", f"{b.n_users}", where="merge_counts", fix="use `place_users` first"
        )
    both = [np.concatenate([getattr(a, name), getattr(b, name)]) for name in BLOCK_COLUMNS]
    user = np.concatenate([users_of(a.user_offsets), users_of(b.user_offsets)])
    return summed(a.version, a.n_users, user, *both)


def place_users(counts: Counts, place: np.ndarray, n_users: int) -> Counts:
    """Give the same counts with user u at `place[u]` (int64, ascending) of `n_users`; the users between have none."""

    def spread(offsets: np.ndarray) -> np.ndarray:
        size = np.zeros(n_users + 1, np.int64)
        size[place + 1] = np.diff(offsets)
        return np.cumsum(size)

    life = Life(spread(counts.life.user_offsets), **{name: getattr(counts.life, name) for name in LIFE_COLUMNS})
    columns = {name: getattr(counts, name) for name in BLOCK_COLUMNS}
    return Counts(counts.version, spread(counts.user_offsets), **columns, life=life)


def take_users(counts: Counts, users: np.ndarray) -> Counts:
    """Give the counts of some users (int64 rows), in that order."""
    rows, offsets = _rows_of(counts.user_offsets, users)
    life_rows, life_offsets = _rows_of(counts.life.user_offsets, users)
    life = Life(life_offsets, **{name: getattr(counts.life, name)[life_rows] for name in LIFE_COLUMNS})
    columns = {name: getattr(counts, name)[rows] for name in BLOCK_COLUMNS}
    return Counts(counts.version, offsets, **columns, life=life)


def join_users(parts: list[Counts]) -> Counts:
    """Put counts of different users behind each other; one part is handed on as it is."""
    if len(parts) == 1:
        return parts[0]

    def offsets(all_of: list[np.ndarray]) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(np.concatenate([np.diff(one) for one in all_of]))]).astype(np.int64)

    lives = [part.life for part in parts]
    life = Life(
        offsets([life.user_offsets for life in lives]),
        **{name: np.concatenate([getattr(life, name) for life in lives]) for name in LIFE_COLUMNS},
    )
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in BLOCK_COLUMNS}
    return Counts(parts[0].version, offsets([part.user_offsets for part in parts]), **columns, life=life)


def summed(
    version: str,
    n_users: int,
    user: np.ndarray,
    block: np.ndarray,
    group: np.ndarray,
    interest: np.ndarray,
    n: np.ndarray,
    amount: np.ndarray,
) -> Counts:
    """Sum rows of equal user, block, group and interest; give them sorted, with the sums over life."""
    columns, order_user = _sum_equal((user, block, group, interest), n, amount)
    life_columns, life_user = _sum_equal((user, group, interest), n, amount)
    life = Life(_offsets(life_user, n_users), **_typed(life_columns, LIFE_COLUMNS))
    return Counts(version, _offsets(order_user, n_users), **_typed(columns, BLOCK_COLUMNS), life=life)


def users_of(offsets: np.ndarray) -> np.ndarray:
    """Give the user (int64) of each row."""
    return np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))


def write_counts(path: str | Path, counts: Counts) -> None:
    """Write counts to a folder: three Arrow files and `counts.json`; atomic. Equal counts give equal bytes."""
    with new_folder(path, replace=True) as folder:
        for name, (columns, n_rows) in tables_of(counts).items():
            write_columns(folder / f"{name}.arrow", columns, n_rows)
        write_json(folder / "counts.json", {"format": FORMAT, "version": counts.version, "n_users": counts.n_users})


def read_counts(path: str | Path) -> Counts:
    """Memory-map counts that `write_counts` wrote. Errors: `ArtifactError`."""
    import json

    path = Path(path)
    try:
        facts = json.loads((path / "counts.json").read_text("utf-8"))
        if facts["format"] != FORMAT:
            raise ArtifactError(f"counts of format {FORMAT}", str(facts["format"]), where=str(path), fix="count again")
        return map_counts(facts["version"], *(path / f"{name}.arrow" for name in ("blocks", "life", "users")))
    except (OSError, ValueError, KeyError) as cause:
        raise ArtifactError("a folder of counts", str(cause)[:300], where=str(path), fix="count again") from cause


def tables_of(counts: Counts) -> dict[str, tuple[dict[str, np.ndarray], int]]:
    """Give the three tables as they lie on disk: columns and number of rows, by name."""
    life = counts.life
    users = {"n_blocks": np.diff(counts.user_offsets), "n_life": np.diff(life.user_offsets)}
    return {
        "blocks": ({name: getattr(counts, name) for name in BLOCK_COLUMNS}, len(counts)),
        "life": ({name: getattr(life, name) for name in LIFE_COLUMNS}, len(life.n)),
        "users": (users, counts.n_users),
    }


def write_columns(path: Path, columns: Mapping[str, np.ndarray], n_rows: int) -> None:
    """Write columns as one Arrow file that can be memory-mapped."""
    dtypes = {name: (BLOCK_COLUMNS | USER_COLUMNS)[name] for name in columns}
    with closing(ShardFile(path, n_rows, dtypes)) as file:
        for name, values in columns.items():
            file.write(name, 0, values)


def map_counts(version: str, blocks: Path, life: Path, users: Path) -> Counts:
    """Memory-map the three tables of counts."""
    sizes, rows, sums = map_shard(users), map_shard(blocks), map_shard(life)
    offsets = [np.concatenate([[0], np.cumsum(sizes[name])]).astype(np.int64) for name in USER_COLUMNS]
    whole = Life(offsets[1], **{name: sums[name] for name in LIFE_COLUMNS})
    return Counts(version, offsets[0], **{name: rows[name] for name in BLOCK_COLUMNS}, life=whole)


def _sum_equal(
    keys: tuple[np.ndarray, ...], n: np.ndarray, amount: np.ndarray
) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """Sum `n` and `amount` over rows of equal keys; give (keys but the first, n, amount) sorted, and the first key."""
    order = _order(keys)
    sorted_keys = [key[order] for key in keys]
    is_new = np.ones(len(order), bool)
    if len(order):
        is_new[1:] = np.logical_or.reduce([key[1:] != key[:-1] for key in sorted_keys])
    starts = np.flatnonzero(is_new)
    sums = [np.add.reduceat(values[order], starts) if len(starts) else values[:0] for values in (n, amount)]
    firsts = [key[starts] for key in sorted_keys]
    return (*firsts[1:], *sums), firsts[0]


def _order(keys: tuple[np.ndarray, ...]) -> np.ndarray:
    """Sort rows by several keys: by one mixed integer where 63 bits suffice. Sorted runs are found and merged."""
    if not len(keys[0]):
        return np.zeros(0, np.int64)
    lows = [int(key.min()) for key in keys]
    sizes = [int(key.max()) - low + 1 for key, low in zip(keys, lows)]
    room = 1
    for size in sizes:
        room *= size
    if room >= 2**63:
        return np.lexsort(keys[::-1])
    mixed = np.zeros(len(keys[0]), np.int64)
    for key, low, size in zip(keys, lows, sizes):
        mixed = mixed * size + (key.astype(np.int64) - low)
    return np.argsort(mixed, kind="stable")


def _offsets(user: np.ndarray, n_users: int) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(np.bincount(user, minlength=n_users))]).astype(np.int64)


def _typed(columns: tuple[np.ndarray, ...], dtypes: Mapping[str, np.dtype]) -> dict[str, np.ndarray]:
    return {n: np.ascontiguousarray(v, dtype) for v, (n, dtype) in zip(columns, dtypes.items(), strict=True)}


def _rows_of(offsets: np.ndarray, users: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give the rows of some users, and their offsets."""
    size = offsets[users + 1] - offsets[users]
    ends = np.concatenate([[0], np.cumsum(size)]).astype(np.int64)
    return np.arange(ends[-1]) + np.repeat(offsets[users] - ends[:-1], size), ends
