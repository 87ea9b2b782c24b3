"""Counts of interests -> weighted bags per scale: what a model of whole lives reads, and the raw bag beside it.

A scale is so many windows of so many blocks, the newest ending at the cut-off; `life` is one window over everything.
The read-out of a window is x_v = log1p(sum_g n_gv) * idf_v, the largest kept, at unit length. Sums are of integers, so
the order of rows, of users and of chunks changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from habitus.core.config import Config
from habitus.core.errors import ConfigError
from habitus.data.cutoffs import ranges

if TYPE_CHECKING:
    import scipy.sparse

LIFE = "life"
DEFAULT = "1x13, 4x13, 13x8, life"
TOP = 512  # interests of a window that are kept
NOW = np.iinfo(np.int32).max  # a cut-off after every block


class Codebook(Protocol):
    """What bags need of `Interests`: how many there are, id 0 included, and their idf."""

    @property
    def n(self) -> int: ...
    @property
    def idf(self) -> np.ndarray: ...


class Tallies(Protocol):
    """What bags need of `Counts`: rows sorted by user and block; those of user u are user_offsets[u]:[u + 1]."""

    @property
    def user_offsets(self) -> np.ndarray: ...
    @property
    def block(self) -> np.ndarray: ...
    @property
    def group(self) -> np.ndarray: ...
    @property
    def interest(self) -> np.ndarray: ...
    @property
    def n(self) -> np.ndarray: ...


class ScaleConfig(Config):
    """One scale: `windows` windows of `blocks` blocks; 0 blocks is the whole life in one window.

    >>> [str(scale) for scale in parse_scales("4x13, life")]
    ['4x13', 'life']
    """

    blocks: int
    windows: int

    def __str__(self) -> str:
        return f"{self.blocks}x{self.windows}" if self.blocks else LIFE


def parse_scales(text: str) -> tuple[ScaleConfig, ...]:
    """Read scales such as `1x13, 4x13, life`: blocks per window x windows. Errors: `ConfigError`."""
    found = []
    for part in (piece.strip() for piece in text.split(",")):
        blocks, times, windows = part.partition("x")
        if part == LIFE:
            found.append(ScaleConfig(blocks=0, windows=1))
        elif times and blocks.isdigit() and windows.isdigit() and int(blocks) and int(windows):
            found.append(ScaleConfig(blocks=int(blocks), windows=int(windows)))
        else:
            raise ConfigError("scales such as '1x13, 4x13, life'", repr(part), where="scales")
    if len(set(map(str, found))) != len(found):
        raise ConfigError("scales that differ", repr(text), where="scales")
    return tuple(found)


@dataclass(frozen=True)
class ScaleBags:
    """The windows of one scale, oldest first: B users of T windows; bag b T + t is window t of user b.

    `interest` int64 [nnz] and `weight` float32 [nnz] of bag i are offset[i]:offset[i + 1] (int64 [B T + 1]).
    `log1p_n` (events) and `log_age` (blocks from the newest event to the cut-off) float32 B T; `is_empty` bool B T.
    """

    interest: Tensor
    weight: Tensor
    offset: Tensor
    log1p_n: Tensor
    log_age: Tensor
    is_empty: Tensor

    @property
    def n_windows(self) -> int:
        return self.is_empty.shape[1]

    def take(self, rows: Tensor) -> ScaleBags:
        """Give the users `rows`, int64, in that order."""
        t = self.n_windows
        bags = (rows[:, None] * t + torch.arange(t, device=rows.device)).flatten()
        low, n = self.offset[bags], self.offset[bags + 1] - self.offset[bags]
        offset = torch.cat([n.new_zeros(1), n.cumsum(0)])
        at = torch.arange(int(offset[-1]), device=rows.device) + torch.repeat_interleave(low - offset[:-1], n)
        dense = (self.log1p_n[rows], self.log_age[rows], self.is_empty[rows])
        return ScaleBags(self.interest[at], self.weight[at], offset, *dense)


@dataclass(frozen=True)
class Bags:
    """B users, one `ScaleBags` per scale. `dropped` is the share of weight beyond the largest kept, over all bags."""

    scales: tuple[ScaleBags, ...]
    dropped: float = 0.0

    def __len__(self) -> int:
        return len(self.scales[0].is_empty)

    @property
    def is_padding(self) -> Tensor:
        """B x all windows: which hold nothing."""
        return torch.cat([scale.is_empty for scale in self.scales], dim=1)

    def take(self, rows: Tensor) -> Bags:
        """Give the users `rows`, in that order."""
        return Bags(tuple(scale.take(rows) for scale in self.scales), self.dropped)

    def to(self, device: Any) -> Bags:
        """Give the same on another device."""
        moved = (ScaleBags(*(value.to(device) for value in vars(scale).values())) for scale in self.scales)
        return Bags(tuple(moved), self.dropped)


@dataclass(frozen=True)
class Rows:
    """Rows of counts of B chosen users: whose (0..B-1), when, of which interest, how many events."""

    row: np.ndarray  # int64 [k]
    block: np.ndarray
    interest: np.ndarray
    n: np.ndarray  # int64 [k]

    def take(self, kept: np.ndarray) -> Rows:
        """Give some of the rows."""
        return Rows(self.row[kept], self.block[kept], self.interest[kept], self.n[kept])


def rows_of(counts: Tallies, users: np.ndarray, cutoff_block: int | np.ndarray = NOW) -> Rows:
    """Give the rows of some users up to a cut-off (one for all, or one per user), its block included."""
    users = np.asarray(users, np.int64)
    row, at = ranges(counts.user_offsets[users], counts.user_offsets[users + 1])
    found = Rows(row, counts.block[at], counts.interest[at], counts.n[at])
    cutoff = np.broadcast_to(np.asarray(cutoff_block), users.shape)
    return found.take(found.block <= cutoff[row])


def make_bags(
    counts: Tallies,
    interests: Codebook,
    users: np.ndarray,
    cutoff_block: int | np.ndarray = NOW,
    scales: str | Sequence[ScaleConfig] = DEFAULT,
    top: int = TOP,
) -> Bags:
    """Give the bags of `users` (int64 [B]) from all blocks up to `cutoff_block`, which is the last one used.

    `NOW` reads everything and counts ages from the newest block of the counts; any other block is what ages are counted
    from, even where nobody has an event in it. Events after the cut-off change nothing.
    Errors: `ConfigError` for scales that do not read.
    """
    scales = parse_scales(scales) if isinstance(scales, str) else tuple(scales)
    now = int(counts.block.max()) if len(counts.block) else 0
    cutoff = np.broadcast_to(np.asarray(cutoff_block, np.int64), np.shape(users))
    cutoff = np.where(cutoff == NOW, now, cutoff)
    life = getattr(counts, "life", None)
    if life is None or not len(cutoff) or not len(counts.block) or bool((cutoff != now).any()):
        return bags_of_rows(rows_of(counts, users, cutoff), len(cutoff), cutoff, interests.idf, scales, top)
    users = np.asarray(users, np.int64)
    reach = max((scale.blocks * scale.windows for scale in scales), default=0)
    low = _first_rows(counts, users, now - reach + 1)
    row, at = ranges(low, counts.user_offsets[users + 1])
    recent = Rows(row, counts.block[at], counts.interest[at], counts.n[at])
    row, at = ranges(life.user_offsets[users], life.user_offsets[users + 1])
    last = counts.user_offsets[users + 1] - 1
    has = last >= counts.user_offsets[users]
    newest = np.where(has, counts.block[np.maximum(last, 0)], now - reach)  # older blocks may have been dropped
    whole = Rows(row, newest[row], life.interest[at], life.n[at])
    return bags_of_rows(recent, len(users), cutoff, interests.idf, scales, top, whole)


def _first_rows(counts: Tallies, users: np.ndarray, block: int) -> np.ndarray:
    """Give the first row of each user at or after a block, int64, by bisection: older rows are not touched."""
    low, high = counts.user_offsets[users].copy(), counts.user_offsets[users + 1].copy()
    while bool((low < high).any()):
        middle = (low + high) // 2
        is_open = low < high
        is_before = counts.block[np.where(is_open, middle, 0)] < block
        low = np.where(is_open & is_before, middle + 1, low)
        high = np.where(is_open & ~is_before, middle, high)
    return low


def bags_of_rows(
    rows: Rows,
    n_users: int,
    cutoff: np.ndarray,
    idf: np.ndarray,
    scales: Sequence[ScaleConfig],
    top: int = TOP,
    life: Rows | None = None,
) -> Bags:
    """Give the bags of rows that lie at or before each user's `cutoff` (int64 [B]).

    `life` holds sums over all blocks, at the block of the newest event, where they are known; else they are made here.
    """
    read = [rows if scale.blocks or life is None else life for scale in scales]
    made = [_scale_bags(r, cutoff[r.row] - r.block, n_users, idf, scale, top) for r, scale in zip(read, scales)]
    whole, lost = sum(part[1] for part in made), sum(part[2] for part in made)
    return Bags(tuple(part[0] for part in made), float(lost / whole) if whole else 0.0)


def raw_bag(
    counts: Tallies, interests: Codebook, users: np.ndarray, cutoff_block: int | np.ndarray = NOW
) -> scipy.sparse.csr_matrix:
    """Give the life bag of each user whole, as a sparse table n x V of unit rows: what a probe of the raw bag reads."""
    rows = rows_of(counts, users, cutoff_block)
    table = _summed(rows.row, rows.interest, rows.n, len(users), interests.n)
    weight, indptr, _, _ = _weighted(table, interests.idf, top=interests.n)
    table.data = weight
    assert len(indptr) == len(table.indptr)
    return table


def _scale_bags(
    rows: Rows, age: np.ndarray, n_users: int, idf: np.ndarray, scale: ScaleConfig, top: int
) -> tuple[ScaleBags, float, float]:
    """Make one scale; also give the weight of all its bags, and the part of it beyond `top`."""
    t = scale.windows
    if scale.blocks:
        place = t - 1 - age // scale.blocks
        kept = place >= 0
        rows, age, place = rows.take(kept), age[kept], place[kept]
    else:
        place = np.zeros(len(age), np.int64)
    bag = rows.row * t + place
    table = _summed(bag, rows.interest, rows.n, n_users * t, len(idf))
    n_events = np.bincount(bag, weights=rows.n, minlength=n_users * t)
    newest = np.full(n_users * t, np.iinfo(np.int64).max)
    np.minimum.at(newest, bag, age)
    newest[n_events == 0] = 0
    weight, indptr, indices, mass = _weighted(table, idf, top)
    made = ScaleBags(
        torch.from_numpy(indices.astype(np.int64)),
        torch.from_numpy(weight.astype(np.float32)),
        torch.from_numpy(indptr.astype(np.int64)),
        torch.from_numpy(np.log1p(n_events).astype(np.float32).reshape(n_users, t)),
        torch.from_numpy(np.log1p(newest).astype(np.float32).reshape(n_users, t)),
        torch.from_numpy((np.diff(indptr) == 0).reshape(n_users, t)),
    )
    return made, *mass


def _summed(bag: np.ndarray, interest: np.ndarray, n: np.ndarray, n_bags: int, n_interests: int) -> Any:
    """Add up equal (bag, interest), in integers; indices of a bag ascend."""
    import scipy.sparse

    table = scipy.sparse.csr_matrix((n.astype(np.int64), (bag, interest)), shape=(n_bags, n_interests))
    table.sum_duplicates()
    return table


def _weighted(table: Any, idf: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[float, float]]:
    """Give weight, indptr, indices of the largest `top` of each bag at unit length, and the weight in all and lost."""
    bag = np.repeat(np.arange(table.shape[0]), np.diff(table.indptr))
    weight, indices, indptr = np.log1p(table.data) * idf[table.indices], table.indices, table.indptr
    total = float(weight.sum())
    if len(weight) and int(np.diff(indptr).max()) > top:
        order = np.lexsort((indices, -weight, bag))
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order)) - indptr[bag[order]]
        kept = rank < top
        weight, indices, bag = weight[kept], indices[kept], bag[kept]
        indptr = np.concatenate([[0], np.cumsum(np.bincount(bag, minlength=table.shape[0]))])
    norm = np.sqrt(np.bincount(bag, weights=weight**2, minlength=table.shape[0]))
    return weight / np.maximum(norm, 1e-12)[bag], indptr, indices, (total, total - float(weight.sum()))
