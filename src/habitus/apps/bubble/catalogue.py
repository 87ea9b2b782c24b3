"""What the loop stands on: which items lie in which categories, and what every user has seen and liked so far.

Letters: V items, C categories, n rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from pydantic import Field, model_validator

from habitus.core.config import Config
from habitus.core.errors import ConfigError, nearest

if TYPE_CHECKING:
    from habitus.data.store import Store

SPLIT_SHARE = 0.8  # of a user's likes that a recommender may learn from; the later ones measure accuracy


class LogConfig(Config):
    """How a store is read.

    `likes`: an amount and its lowest value that counts as a like, or none: then every event of `types` is one.
    `column` names the column of the item table with the categories, which `separator` parts; without it, `interests`
    clusters of item vectors are the categories, fitted on the first 80 % of the days (`tower` are keys of
    `TowerConfig`). `dropped` categories are no
    category. With `is_repeated` an item may be offered again after it was taken. Users with fewer than `min_likes`
    likes are no agents; items with fewer than `min_events` events are left out.

    >>> LogConfig(column="genres").min_likes
    10
    """

    types: tuple[str, ...] = ()
    amount: str | None = None
    at_least: float = 0.0
    column: str | None = None
    separator: str = "|"
    dropped: tuple[str, ...] = ()
    interests: int | None = Field(None, ge=2)
    tower: dict[str, Any] = Field(default_factory=dict)
    is_repeated: bool = False
    min_likes: int = Field(10, ge=2)
    min_events: int = Field(1, ge=1)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.column is None) == (self.interests is None):
            raise ValueError("column, or interests, and not both")
        return self


@dataclass(frozen=True)
class Catalogue:
    """Items and their categories.

    `share` float32 [V, C]: category shares of an item, rows sum to 1; an item without a category has the mean of the
    others. `is_repeated`: whether an item may be offered again after it was taken.
    """

    items: tuple[str, ...]
    categories: tuple[str, ...]
    share: np.ndarray
    is_repeated: bool = False

    @property
    def n_items(self) -> int:
        """V."""
        return len(self.items)

    @classmethod
    def of(
        cls, items: tuple[str, ...], categories: tuple[str, ...], is_in: np.ndarray, *, is_repeated: bool = False
    ) -> Self:
        """Make one from a table V C of who is in what.

        >>> Catalogue.of(("a", "b"), ("x", "y"), np.array([[1, 1], [0, 0]])).share.tolist()
        [[0.5, 0.5], [0.5, 0.5]]
        """
        counts = np.asarray(is_in, dtype=np.float64)
        total = counts.sum(axis=1, keepdims=True)
        share = np.divide(counts, total, out=np.zeros_like(counts), where=total > 0)
        has_any = total[:, 0] > 0
        mean = share[has_any].mean(axis=0) if has_any.any() else np.full(counts.shape[1], 1 / counts.shape[1])
        share[~has_any] = mean
        return cls(items, categories, share.astype(np.float32), is_repeated)


@dataclass(frozen=True)
class Likes:
    """Who liked what, in order: users 0 .. n_users - 1, each user's items in the order of time.

    `offsets` int64 [n_users + 1], `item` int32 [n].
    """

    offsets: np.ndarray
    item: np.ndarray
    n_items: int

    @property
    def n_users(self) -> int:
        """Users, with likes or without."""
        return len(self.offsets) - 1

    @property
    def user(self) -> np.ndarray:
        """int64 [n], the user of every row."""
        return np.repeat(np.arange(self.n_users), np.diff(self.offsets))

    @classmethod
    def of(cls, user: np.ndarray, item: np.ndarray, n_users: int, n_items: int) -> Self:
        """Make one from rows in the order of time, users in any order.

        >>> Likes.of(np.array([1, 0, 1]), np.array([5, 6, 4]), 2, 9).item.tolist()
        [6, 5, 4]
        """
        order = np.argsort(user, kind="stable")
        offsets = np.r_[0, np.cumsum(np.bincount(user, minlength=n_users))].astype(np.int64)
        return cls(offsets, np.asarray(item)[order].astype(np.int32), n_items)

    def plus(self, user: np.ndarray, item: np.ndarray) -> Likes:
        """Give a log with these rows at the end of their users."""
        return Likes.of(np.r_[self.user, user], np.r_[self.item, item], self.n_users, self.n_items)

    def take(self, users: np.ndarray) -> Likes:
        """Give the log of these users, in this order; a user may come twice."""
        size = np.diff(self.offsets)[users]
        offsets = np.r_[0, np.cumsum(size)]
        at = np.repeat(self.offsets[users] - offsets[:-1], size) + np.arange(offsets[-1])
        return Likes(offsets.astype(np.int64), self.item[at], self.n_items)

    def matrix(self) -> Any:
        """Give the counts as a sparse table, n_users V, float32."""
        from scipy.sparse import csr_array

        ones = np.ones(len(self.item), np.float32)
        parts = (ones, self.item.copy(), self.offsets.copy())  # summing duplicates works in place
        table = csr_array(parts, shape=(self.n_users, self.n_items))
        table.sum_duplicates()
        return table

    def last(self, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Give the newest items of every user in order, padded at the end: int32 [n_users, length], -1; and sizes."""
        size = np.minimum(np.diff(self.offsets), length)
        place = np.arange(length)
        at = (self.offsets[1:] - size)[:, None] + place
        is_there = place < size[:, None]
        return np.where(is_there, self.item[np.where(is_there, at, 0)] if len(self.item) else -1, -1), size


@dataclass(frozen=True)
class History:
    """A log read from a store, split per user in time.

    `train` are the likes that recommenders learn from, `held` the later ones; `seen` all items met up to the last like
    of train, liked or not; `rated` rows (user, item, value) of train and of the later part, values NaN where there is
    none. `users` are ids as given, `profile` columns of the users to group by.
    """

    users: tuple[str, ...]
    train: Likes
    held: Likes
    seen: Likes
    rated: tuple[np.ndarray, np.ndarray, np.ndarray]
    rated_later: tuple[np.ndarray, np.ndarray, np.ndarray]
    profile: dict[str, np.ndarray]


def read_log(store: Store, config: LogConfig, *, seed: int = 0) -> tuple[Catalogue, History]:
    """Read catalogue and history from a store.

    Errors: `ConfigError` for a column, amount or type that the store does not have, or a log without items.
    """
    user, item, value, is_like = _rows(store, config)
    catalogue, kept = _catalogue(store, config, item, seed)
    place = np.full(len(store.items or ()), -1)
    place[kept] = np.arange(len(kept))
    is_kept = place[item] >= 0
    user, item, value, is_like = user[is_kept], place[item[is_kept]], value[is_kept], is_like[is_kept]
    return catalogue, split_rows(
        user, item, value, is_like, catalogue, tuple(store.users["user"].cast(str).to_list()), _profile(store)
    )


def split_rows(
    user: np.ndarray,
    item: np.ndarray,
    value: np.ndarray,
    is_like: np.ndarray,
    catalogue: Catalogue,
    users: tuple[str, ...],
    profile: dict[str, np.ndarray] | None = None,
) -> History:
    """Split rows (users together, each in order of time) at 80 % of a user's likes."""
    n, n_items = len(users), catalogue.n_items
    number = np.cumsum(is_like) - is_like  # likes before a row
    first = np.searchsorted(user, np.arange(n))
    before = np.r_[number, is_like.sum()][first]
    n_likes = np.bincount(user[is_like], minlength=n)
    n_train = np.where(n_likes > 1, np.ceil(SPLIT_SHARE * n_likes - 1e-9), n_likes).astype(np.int64)
    n_train = np.minimum(n_train, np.maximum(n_likes - 1, 1))
    nth = number - before[user]
    in_train = nth < n_train[user]  # rows after the last train like belong to the later part
    if not catalogue.is_repeated:
        known = np.unique(user[in_train] * n_items + item[in_train])
        is_new = ~np.isin(user * n_items + item, known)
    else:
        is_new = np.ones(len(user), bool)

    def rows(chosen: np.ndarray) -> Likes:
        return Likes.of(user[chosen], item[chosen], n, n_items)

    def values(chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return user[chosen], item[chosen], value[chosen]

    return History(
        users=users,
        train=rows(is_like & in_train),
        held=rows(is_like & ~in_train & is_new),
        seen=rows(in_train),
        rated=values(in_train),
        rated_later=values(~in_train),
        profile=profile or {},
    )


def _rows(store: Store, config: LogConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    if store.items is None:
        raise ConfigError("a store with items", "none", where=str(store.path))
    unknown = [name for name in config.types if name not in store.types]
    if unknown or (config.amount is not None and config.amount not in store.amounts):
        name, known = (unknown[0], store.types) if unknown else (str(config.amount), list(store.amounts))
        meant = nearest(name, known)
        fix = f"did you mean {meant!r}?" if meant else ""
        raise ConfigError(f"one of: {', '.join(known)}", repr(name), where="log", fix=fix)
    chosen = np.isin(store.types, config.types) if config.types else np.ones(len(store.types), bool)
    parts = []
    for number in range(store.n_shards):
        shard = store.shard(number)
        assert shard.item is not None
        owner = np.repeat(np.arange(shard.n_users) + shard.first_user, np.diff(shard.offsets))
        value = np.asarray(shard.amounts[config.amount]) if config.amount else np.full(len(owner), np.nan)
        is_kept = chosen[shard.type] & (np.asarray(shard.item) >= 0)
        parts.append((owner[is_kept], np.asarray(shard.item)[is_kept].astype(np.int64), value[is_kept]))
    user, item, value = (np.concatenate(column) for column in zip(*parts))
    is_like = value >= config.at_least if config.amount else np.ones(len(user), bool)
    if not config.is_repeated:  # the first time counts
        _, first = np.unique(user * len(store.items) + item, return_index=True)
        first.sort()
        user, item, value, is_like = user[first], item[first], value[first], is_like[first]
    return user, item, value, is_like


def _catalogue(store: Store, config: LogConfig, item: np.ndarray, seed: int) -> tuple[Catalogue, np.ndarray]:
    """Give the catalogue of the items with events, and their codes in the store."""
    assert store.items is not None
    kept = np.flatnonzero(np.bincount(item, minlength=len(store.items)) >= config.min_events)
    if not len(kept):
        raise ConfigError("items with events", "none", where="log", fix="lower min_events, or mend types")
    names = tuple(str(store.items[code]) for code in kept.tolist())
    if config.interests is not None:
        from habitus.tasks.interests import learn_interests
        from habitus.tokens.interests import InterestConfig

        until = store.first_day + int(SPLIT_SHARE * (store.last_day - store.first_day))
        chosen = InterestConfig.parse({"way": "cluster", "n": config.interests, "tower": config.tower}, where="log")
        found = learn_interests(store, chosen, until=until, seed=seed)
        used, column = np.unique(found.of_item[kept], return_inverse=True)
        is_in = np.zeros((len(kept), len(used)))
        is_in[np.arange(len(kept)), column] = used[column] > 0  # interest 0 is what nothing is known of
        is_any = is_in.any(axis=0)
        labels = tuple(str(found.names[c]) for c in used[is_any].tolist())
        return Catalogue.of(names, labels, is_in[:, is_any], is_repeated=config.is_repeated), kept
    return Catalogue.of(names, *_declared(store, config, kept), is_repeated=config.is_repeated), kept


def _declared(store: Store, config: LogConfig, kept: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
    """Categories out of a column of the item table: names, and who is in what."""
    import polars as pl

    table = store.item_table
    columns = [] if table is None else table.columns
    if table is None or config.column not in columns:
        meant = nearest(str(config.column), columns)
        fix = f"did you mean {meant!r}?" if meant else "set interests = 50 to make categories"
        raise ConfigError(f"a column of items out of: {', '.join(columns)}", repr(config.column), where="log", fix=fix)
    text = table[config.column].cast(pl.String).gather(pl.Series(kept))
    rows = pl.DataFrame({"row": np.arange(len(kept)), "text": text.str.split(config.separator)}).explode("text")
    rows = rows.with_columns(pl.col("text").str.strip_chars())
    rows = rows.filter(pl.col("text").is_not_null() & (pl.col("text") != ""))
    rows = rows.filter(~pl.col("text").is_in(list(config.dropped)))
    labels = tuple(sorted(rows["text"].unique().to_list()))
    if not labels:
        raise ConfigError("categories", f"none in {config.column!r}", where="log")
    is_in = np.zeros((len(kept), len(labels)))
    is_in[rows["row"].to_numpy(), np.searchsorted(np.array(labels), rows["text"].to_numpy().astype(str))] = 1
    return labels, is_in


def _profile(store: Store) -> dict[str, np.ndarray]:
    """Columns of the profile with few values as text, numbers as thirds."""
    import polars as pl

    table, found = store.profiles, {}
    for name in table.columns if table is not None else ():
        column = table[name]  # pyright: ignore
        if name == "user":
            continue
        if column.dtype.is_numeric() and column.n_unique() > 8:
            values = column.cast(pl.Float64).to_numpy()
            edges = np.nanquantile(values, [1 / 3, 2 / 3])
            words = [f"up to {edges[0]:g}", f"{edges[0]:g} to {edges[1]:g}", f"above {edges[1]:g}"]
            found[name] = np.where(np.isnan(values), "", np.array(words)[np.searchsorted(edges, values)])
        elif column.n_unique() <= 30:
            found[name] = column.cast(pl.String).fill_null("").to_numpy().astype(str)
    return found
