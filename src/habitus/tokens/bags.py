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

from habitus.core.errors import ConfigError
from habitus.data.cutoffs import ranges
from habitus.tokens.window_sums import LIFE, Grid, Rows, ScaleConfig, Windows, grid_of

if TYPE_CHECKING:
    import scipy.sparse

    from habitus.tokens.layers import Layers

DEFAULT = "1x13, 4x13, 13x8, life"
TOP = 512  # interests of a window that are kept
LOGS = np.log1p(np.arange(4096))
NOTHING = np.iinfo(np.int64).min
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


def parse_scales(text: str) -> tuple[ScaleConfig, ...]:
    """Read scales such as `1x13, 4x13, life`: blocks per window x windows. Errors: `ConfigError`.

    >>> [str(scale) for scale in parse_scales("4x13, life")]
    ['4x13', 'life']
    """
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


def rows_of(
    counts: Tallies | Layers, users: np.ndarray, cutoff_block: int | np.ndarray = NOW, *, has_group: bool = False
) -> Rows:
    """Give the rows of some users up to a cut-off (one for all, or one per user), its block included."""
    users = np.asarray(users, np.int64)
    cutoff = np.broadcast_to(np.asarray(cutoff_block), users.shape)
    found = []
    for part in layers_of(counts):
        row, at = ranges(part.user_offsets[users], part.user_offsets[users + 1])
        rows = Rows(row, part.block[at], part.interest[at], part.n[at], part.group[at] if has_group else None)
        found.append(rows.take(rows.block <= cutoff[row]))
    return joined(found)


def life_of(counts: Tallies | Layers, users: np.ndarray, cutoff_block: int) -> Rows:
    """Give rows that add up to each user's whole life up to a cut-off: the sums kept where they hold, else all rows."""
    users, layers = np.asarray(users, np.int64), layers_of(counts)
    if any((_newest(layer, users) > cutoff_block).any() for layer in layers):
        return rows_of(counts, users, cutoff_block)
    return joined([_recent(layer, users, NOW)[1] for layer in layers])


def make_bags(
    counts: Tallies | Layers,
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
    scales, users = parse_scales(scales) if isinstance(scales, str) else tuple(scales), np.asarray(users, np.int64)
    cutoff = np.broadcast_to(np.asarray(cutoff_block, np.int64), users.shape)
    if (cutoff == NOW).any():
        cutoff = np.where(cutoff == NOW, newest_block(counts), cutoff)
    rows, life = read_rows(counts, users, cutoff, reach_of(scales))
    return bags_of_rows(rows, len(users), cutoff, interests.idf, scales, top, life)


def read_rows(
    counts: Any, users: np.ndarray, cutoff: np.ndarray, reach: int, *, has_group: bool = False
) -> tuple[Rows, Rows | None]:
    """Give rows that hold the newest `reach` blocks, and the kept sums over life; all rows and None without those."""
    layers = layers_of(counts)
    has_life = all(getattr(layer, "life", None) is not None for layer in layers)
    if not has_life or not len(cutoff) or any((_newest(layer, users) > cutoff).any() for layer in layers):
        return rows_of(counts, users, cutoff, has_group=has_group), None
    recent, whole = zip(*(_recent(layer, users, int(cutoff.min()) - reach + 1, has_group) for layer in layers))
    return joined(recent), joined(whole)


def reach_of(scales: Sequence[ScaleConfig]) -> int:
    """Give how many blocks the windows look back.

    >>> reach_of(parse_scales("1x13, 4x13, life"))
    52
    """
    return max((scale.blocks * scale.windows for scale in scales), default=0)


def layers_of(counts: Any) -> tuple[Any, ...]:
    """Give the layers of counts, which are mostly one."""
    return getattr(counts, "parts", (counts,))


def newest_block(counts: Tallies | Layers) -> int:
    """Give the newest block that holds an event, 0 without one: ages are counted from there."""
    everybody = np.arange(len(layers_of(counts)[0].user_offsets) - 1)
    found = [int(_newest(layer, everybody).max(initial=NOTHING)) for layer in layers_of(counts)]
    return 0 if max(found) == NOTHING else max(found)


def _newest(counts: Tallies, users: np.ndarray) -> np.ndarray:
    """Give the newest block of each user, int64; `NOTHING` for one without events."""
    end = counts.user_offsets[users + 1]
    if not len(counts.block):
        return np.full(len(users), NOTHING)
    return np.where(end > counts.user_offsets[users], counts.block[np.maximum(end - 1, 0)], np.int64(NOTHING))


def joined(parts: Sequence[Rows]) -> Rows:
    """Put rows of the same users behind each other."""
    if len(parts) == 1:
        return parts[0]
    columns = zip(*((part.row, part.block, part.interest, part.n) for part in parts))
    group = None if parts[0].group is None else np.concatenate([part.group for part in parts])  # type: ignore[misc]
    row, block, interest, n = (np.concatenate(column) for column in columns)
    return Rows(row, block, interest, n, group)


def _recent(counts: Any, users: np.ndarray, first: int, has_group: bool = False) -> tuple[Rows, Rows]:
    """Give a layer's rows at or after block `first`, and its sums over life at the newest block of each user."""
    row, at = ranges(_first_rows(counts, users, first), counts.user_offsets[users + 1])
    recent = Rows(row, counts.block[at], counts.interest[at], counts.n[at], counts.group[at] if has_group else None)
    life, newest = counts.life, _newest(counts, users)
    row, at = ranges(life.user_offsets[users], life.user_offsets[users + 1])
    return recent, Rows(row, newest[row], life.interest[at], life.n[at], life.group[at] if has_group else None)


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
    grid: Grid | None = None,
) -> Bags:
    """Give the bags of rows that lie at or before each user's `cutoff` (int64 [B]).

    `life` holds sums over all blocks, at the block of the newest event; it and the `grid` are made here when absent.
    """
    if grid is None and (reach := reach_of(scales)):
        grid = grid_of(rows, cutoff, n_users, reach, len(idf))
    made = []
    for scale in scales:
        if grid is not None and scale.blocks:
            made.append(_as_bags(grid.windows(scale), n_users, scale, idf, top))
            continue
        read = rows if scale.blocks or life is None else life
        made.append(_as_bags(_windows(read, cutoff, n_users, scale, len(idf)), n_users, scale, idf, top))
    whole, lost = sum(part[1] for part in made), sum(part[2] for part in made)
    return Bags(tuple(part[0] for part in made), float(lost / whole) if whole else 0.0)


def raw_bag(
    counts: Tallies | Layers, interests: Codebook, users: np.ndarray, cutoff_block: int | np.ndarray = NOW
) -> scipy.sparse.csr_matrix:
    """Give the life bag of each user whole, as a sparse table n x V of unit rows: what a probe of the raw bag reads."""
    rows = rows_of(counts, users, cutoff_block)
    table = _summed(rows.row, rows.interest, rows.n, len(users), interests.n)
    weight, indptr, _, _ = _weighted(table, interests.idf, top=interests.n)
    table.data = weight
    assert len(indptr) == len(table.indptr)
    return table


def _as_bags(
    windows: Windows, n_users: int, scale: ScaleConfig, idf: np.ndarray, top: int
) -> tuple[ScaleBags, float, float]:
    """Weight one scale; also give the weight of all its bags, and the part of it beyond `top`."""
    weight, indptr, indices, mass = _weighted(windows, idf, top)
    shape = (n_users, scale.windows)
    made = ScaleBags(
        torch.from_numpy(indices.astype(np.int64)),
        torch.from_numpy(weight.astype(np.float32)),
        torch.from_numpy(indptr.astype(np.int64)),
        torch.from_numpy(np.log1p(windows.n_events).astype(np.float32).reshape(shape)),
        torch.from_numpy(np.log1p(windows.newest).astype(np.float32).reshape(shape)),
        torch.from_numpy((np.diff(indptr) == 0).reshape(shape)),
    )
    return made, *mass


def _windows(rows: Rows, cutoff: np.ndarray, n_users: int, scale: ScaleConfig, n_interests: int) -> Windows:
    """Sum the windows of one scale by sorting their rows."""
    t, age = scale.windows, cutoff[rows.row] - rows.block
    place = t - 1 - age // scale.blocks if scale.blocks else np.zeros(len(age), np.int64)
    kept = place >= 0
    rows, age, place = rows.take(kept), age[kept], place[kept]
    bag = rows.row * t + place
    table = _summed(bag, rows.interest, rows.n, n_users * t, n_interests)
    n_events = np.bincount(bag, weights=rows.n, minlength=n_users * t)
    newest = np.full(n_users * t, np.iinfo(np.int64).max)
    np.minimum.at(newest, bag, age)
    newest[n_events == 0] = 0
    return Windows(table.indptr, table.indices, table.data, n_events, newest)


def _summed(bag: np.ndarray, interest: np.ndarray, n: np.ndarray, n_bags: int, n_interests: int) -> Any:
    """Add up equal (bag, interest), in integers; indices of a bag ascend."""
    import scipy.sparse

    table = scipy.sparse.csr_matrix((n.astype(np.int64), (bag, interest)), shape=(n_bags, n_interests))
    table.sum_duplicates()
    return table


def log1p(n: np.ndarray) -> np.ndarray:
    """Give log(1 + n) of whole numbers; small ones, which are most, from a table."""
    if n.size and n.max() < len(LOGS):
        return LOGS[n.astype(np.intp)]
    return np.log1p(n)


def _weighted(
    table: Windows | Any, idf: np.ndarray, top: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[float, float]]:
    """Give weight, indptr, indices of the largest `top` of each bag at unit length, and the weight in all and lost."""
    n_bags = len(table.indptr) - 1
    weight, indices, indptr = log1p(table.data) * idf[table.indices], table.indices, table.indptr
    total = float(weight.sum())
    if len(weight) and int(np.diff(indptr).max()) > top:
        bag = np.repeat(np.arange(n_bags), np.diff(indptr))
        order = np.lexsort((indices, -weight, bag))
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order)) - indptr[bag[order]]
        kept = rank < top
        weight, indices = weight[kept], indices[kept]
        indptr = np.concatenate([[0], np.cumsum(np.bincount(bag[kept], minlength=n_bags))])
    size = np.diff(indptr)
    norm = np.sqrt(np.add.reduceat(weight**2, indptr[:-1][size > 0])) if len(weight) else np.zeros(0)
    whole = total if len(weight) == len(table.data) else float(weight.sum())
    return weight / np.repeat(np.maximum(norm, 1e-12), size[size > 0]), indptr, indices, (total, total - whole)
