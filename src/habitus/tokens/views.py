"""Two views of a user that share no event: what a contrastive objective is fed.

Baskets (or sessions, or blocks) are halved before they are merged to windows; the lines of one basket stay together,
for a basket cut in two is trivially like itself. Each draw is a function of seed, epoch and user.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from torch import Tensor

from habitus.core.seeds import derive, generator, uniforms
from habitus.data.cutoffs import ranges
from habitus.tokens.bags import TOP, Bags, Rows, ScaleBags, ScaleConfig, bags_of_rows, parse_scales
from habitus.tokens.blocks import block_of
from habitus.tokens.place import Place

if TYPE_CHECKING:
    from habitus.data.store import Store
    from habitus.tokens.interests import Interests

KINDS = (0.4, 0.7)  # below the first: halves of the blocks; below the second: halves of the baskets; else past | future
MOST = 1 << 24  # baskets of one user


class Tallied(Protocol):
    """What `baskets_of_counts` needs of `Counts`."""

    @property
    def user_offsets(self) -> np.ndarray: ...
    @property
    def block(self) -> np.ndarray: ...
    @property
    def interest(self) -> np.ndarray: ...
    @property
    def n(self) -> np.ndarray: ...


@dataclass(frozen=True)
class Baskets:
    """Rows of counts that know their basket, sorted by user, block, basket; those of user u are offsets[u]:[u + 1].

    `basket` counts from 0 within a user and never falls.
    """

    user_offsets: np.ndarray  # int64 [n_users + 1]
    block: np.ndarray  # int32
    basket: np.ndarray  # int64
    interest: np.ndarray  # int32
    n: np.ndarray  # int64

    def until(self, block: int) -> Baskets:
        """Leave out what lies after a block."""
        kept = self.block <= block
        offsets = np.concatenate([[0], np.cumsum(kept)])[self.user_offsets]
        return Baskets(offsets, self.block[kept], self.basket[kept], self.interest[kept], self.n[kept])

    def n_baskets(self) -> np.ndarray:
        """Give the baskets of each user, int64 [n_users]."""
        last = np.maximum(self.user_offsets[1:] - 1, 0)
        has = self.user_offsets[1:] > self.user_offsets[:-1]
        if not len(self.basket):
            return np.zeros(len(last), np.int64)
        first = np.minimum(self.user_offsets[:-1], len(self.basket) - 1)
        return np.where(has, self.basket[last] - self.basket[first] + 1, 0)


def baskets_of_counts(counts: Tallied) -> Baskets:
    """Take each user's block as one basket: what counts alone can tell."""
    user = np.repeat(np.arange(len(counts.user_offsets) - 1), np.diff(counts.user_offsets))
    basket = _ranks(user, counts.block, counts.user_offsets)
    return Baskets(counts.user_offsets, counts.block, basket, counts.interest, counts.n)


def baskets_of_store(store: Store, interests: Interests, *, gap_minutes: float = 30.0, chunk: int = 0) -> Baskets:
    """Read the log once, for training alone: a basket is a session, or ends at a pause of `gap_minutes`.

    A block ends a basket too. With `chunk`, baskets are cut after so many events: for logs whose times say nothing.
    """
    from habitus.tokens.counts import Counter
    from habitus.tokens.interest_lookup import lookup

    counter = Counter.of(interests, store.types, lookup(interests, store))
    parts: list[tuple[np.ndarray, ...]] = []
    for i in range(store.n_shards):
        shard = store.shard(i)
        kept = np.flatnonzero(counter.of_type[shard.type] >= 0)
        user = np.repeat(np.arange(shard.n_users), np.diff(shard.offsets))[kept]
        columns = {"day": shard.day, "type": shard.type, "item": shard.item} | dict(shard.categories)
        found = counter.find({name: values[kept] for name, values in columns.items() if values is not None})
        block = block_of(shard.day[kept], interests.block, interests.week_starts)
        mark = shard.session[kept] if shard.session is not None else None
        if mark is None:
            pause = np.diff(shard.time[kept], prepend=0) > gap_minutes * 60e6
            mark = np.cumsum(pause)
        offsets = np.concatenate([[0], np.cumsum(np.bincount(user, minlength=shard.n_users))])
        mark = _ranks(block, mark, offsets)
        if chunk:
            mark = _ranks(mark, _since(mark, offsets) // chunk, offsets)
        parts.append((np.diff(offsets), block, mark, found))
    size, block, basket, found = (np.concatenate(columns) for columns in zip(*parts))
    offsets = np.concatenate([[0], np.cumsum(size)])
    return Baskets(offsets, block, basket, found.astype(np.int32), np.ones(len(found), np.int64))


@dataclass(frozen=True)
class ViewBatch:
    """Two views of n users: `bags` holds the first views, then the second, 2n rows; `content` the life bag of each."""

    bags: Bags
    content: ScaleBags

    def __len__(self) -> int:
        return len(self.bags) // 2

    @property
    def is_padding(self) -> Tensor:
        """2n x windows: which hold nothing."""
        return self.bags.is_padding

    def to(self, device: Any) -> ViewBatch:
        """Give the same on another device."""
        return ViewBatch(self.bags.to(device), Bags((self.content,)).to(device).scales[0])


class ViewLoader(Place):
    """Batches of two views of each user; resumes after any batch.

    Parameters
    ----------
    users
        int64, rows of `baskets`, each with two baskets or more.
    is_training
        Shuffle users and draw anew in each epoch; otherwise order and views are always the same.

    >>> baskets = Baskets(*(np.array(v) for v in ([0, 2], [3, 4], [0, 1], [5, 6], [1, 1])))
    >>> (batch,) = ViewLoader(baskets, np.ones(9), np.array([0]), "life", batch_size=4)
    >>> len(batch), batch.content.interest.sort().values.tolist()
    (1, [5, 6])
    """

    def __init__(
        self,
        baskets: Baskets,
        idf: np.ndarray,
        users: np.ndarray,
        scales: str,
        *,
        batch_size: int = 512,
        top: int = TOP,
        kinds: tuple[float, float] = KINDS,
        is_training: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(seed)
        self.baskets, self.idf, self.users = baskets, idf, users
        self.scales: tuple[ScaleConfig, ...] = parse_scales(scales)
        self.batch_size, self.top, self.kinds, self.is_training = batch_size, top, kinds, is_training

    def __len__(self) -> int:
        return -(-len(self.users) // self.batch_size)

    def __iter__(self) -> Iterator[ViewBatch]:
        order = np.arange(len(self.users))
        if self.is_training:
            order = generator(self.seed, "order", self.epoch).permutation(len(order))
        for batch in range(self.batch, len(self)):
            self.batch = batch + 1
            yield self.views(self.users[order[batch * self.batch_size : (batch + 1) * self.batch_size]])
        self.batch = 0

    def views(self, users: np.ndarray) -> ViewBatch:
        """Give the views of these users in the present epoch."""
        rows, side, cutoff = split_views(
            self.baskets, users, derive(self.seed, "views", self.epoch if self.is_training else -1), self.kinds
        )
        rows = Rows(rows.row + side * len(users), rows.block, rows.interest, rows.n)
        life = parse_scales("life")
        asked = (*self.scales, *(scale for scale in life if scale not in self.scales))
        bags = bags_of_rows(rows, 2 * len(users), cutoff.T.ravel(), self.idf, asked, self.top)
        content = next(made for scale, made in zip(asked, bags.scales) if not scale.blocks)
        return ViewBatch(Bags(bags.scales[: len(self.scales)], bags.dropped), content)


def split_views(
    baskets: Baskets, users: np.ndarray, seed: int, kinds: tuple[float, float] = KINDS
) -> tuple[Rows, np.ndarray, np.ndarray]:
    """Give the rows of users, the view (0 or 1) of each, and the cut-off block of both views, int64 [n, 2].

    A kind is drawn per user: halves of the blocks, halves of the baskets, or past | future. Users of one block get
    halves of their baskets.
    """
    row, at = ranges(baskets.user_offsets[users], baskets.user_offsets[users + 1])
    rows = Rows(row, baskets.block[at], baskets.interest[at], baskets.n[at])
    offsets = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=len(users)))])
    block, basket = _ranks(row, rows.block, offsets), _ranks(row, baskets.basket[at], offsets)
    last = np.maximum(offsets[1:] - 1, 0)
    n_blocks = block[last] + 1 if len(row) else np.ones(len(users), np.int64)
    n_baskets = basket[last] + 1 if len(row) else np.ones(len(users), np.int64)
    kind = uniforms(seed, users.astype(np.uint64), stream="kind")
    by_basket = ((kind >= kinds[0]) & (kind < kinds[1]) & (n_baskets > 1)) | (n_blocks < 2)
    is_cut = ~by_basket & (kind >= kinds[1])
    unit, n_units = np.where(by_basket[row], basket, block), np.where(by_basket, n_baskets, n_blocks)
    chance = uniforms(seed, (users[row] * MOST + unit).astype(np.uint64), stream="unit")
    place = np.where(is_cut[row], unit, _ranked(row, chance, unit, offsets))
    where = uniforms(seed, users.astype(np.uint64), stream="cut")
    first = np.where(is_cut, 1 + np.floor(where * np.maximum(n_units - 1, 1)), n_units - n_units // 2)
    side = (place >= first[row]).astype(np.int64)
    newest = rows.block[last].astype(np.int64) if len(row) else np.zeros(len(users), np.int64)
    early = np.full(len(users), np.iinfo(np.int64).min)
    np.maximum.at(early, row, np.where(side == 0, rows.block, np.iinfo(np.int64).min))
    return rows, side, np.stack([np.where(is_cut, early, newest), newest], axis=1)


def trainable(baskets: Baskets) -> np.ndarray:
    """Give the users that have two views: two baskets or more, int64."""
    return np.flatnonzero(baskets.n_baskets() > 1)


def _ranks(outer: np.ndarray, inner: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Number the runs of equal (outer, inner) within each range of `offsets`, from 0."""
    if not len(inner):
        return np.zeros(0, np.int64)
    new = np.ones(len(inner), bool)
    new[1:] = (np.diff(inner) != 0) | (np.diff(outer) != 0)
    firsts = offsets[:-1][np.diff(offsets) > 0]
    new[firsts] = True
    number = np.cumsum(new) - 1
    return number - np.repeat(number[firsts], np.diff(offsets)[np.diff(offsets) > 0])


def _since(mark: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Count the events since a mark began, from 0."""
    new = np.ones(len(mark), bool)
    new[1:] = np.diff(mark) != 0
    new[offsets[:-1][np.diff(offsets) > 0]] = True
    starts = np.flatnonzero(new)
    return np.arange(len(mark)) - np.repeat(starts, np.diff(np.append(starts, len(mark))))


def _ranked(row: np.ndarray, chance: np.ndarray, unit: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Give the rank of each unit among its user's units by `chance`."""
    order = np.lexsort((unit, chance, row))
    rank = np.empty(len(order), np.int64)
    rank[order] = _ranks(unit[order], chance[order], offsets)
    return rank
