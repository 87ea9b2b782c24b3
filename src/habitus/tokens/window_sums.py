"""Rows of counts -> sums per window, where users have many rows: on a grid of block and interest, without a sort.

A user of 10^5 events holds the same few hundred interests in every week. On a grid of their own interests the sums of
all windows are one pass over the rows and one over the grid, whose size a long history does not change.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from habitus.core.config import Config

LIFE = "life"
DENSE = 16  # cells per row up to which a grid is filled; sparser rows are sorted


class ScaleConfig(Config):
    """One scale: `windows` windows of `blocks` blocks; 0 blocks is the whole life in one window.

    >>> str(ScaleConfig(blocks=4, windows=13))
    '4x13'
    """

    blocks: int
    windows: int

    def __str__(self) -> str:
        return f"{self.blocks}x{self.windows}" if self.blocks else LIFE


@dataclass(frozen=True)
class Rows:
    """Rows of counts of B chosen users: whose (0..B-1), when, of which interest, how many events; group where asked."""

    row: np.ndarray  # int64 [k]
    block: np.ndarray
    interest: np.ndarray
    n: np.ndarray  # int64 [k]
    group: np.ndarray | None = None

    def take(self, kept: np.ndarray) -> Rows:
        """Give some of the rows."""
        group = None if self.group is None else self.group[kept]
        return Rows(self.row[kept], self.block[kept], self.interest[kept], self.n[kept], group)


@dataclass(frozen=True)
class Windows:
    """Sums of the windows of one scale, a row per bag (user-major, oldest window first): `indptr`, `indices`, `data`
    as CSR has them; `n_events` per bag and `newest`, the age of its newest event in blocks (0 without one).
    """

    indptr: np.ndarray
    indices: np.ndarray
    data: np.ndarray
    n_events: np.ndarray
    newest: np.ndarray


@dataclass(frozen=True)
class Grid:
    """Events by user, age in blocks and place among the user's own interests.

    `n` float64 B reach J (whole numbers), `events` B reach their sums; `interest` int64 B J, of which a user's own come
    first, ascending.
    """

    n: np.ndarray
    events: np.ndarray
    interest: np.ndarray
    place: np.ndarray  # of each (user, interest), int64 [B V]; without meaning where it is not the user's own

    def places(self, rows: Rows) -> np.ndarray:
        """Give the cell of B x J of each row."""
        b, j = self.interest.shape
        v = len(self.place) // b
        return rows.row * j + self.place[rows.row * v + rows.interest]

    def sums(self, scale: ScaleConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Sum the blocks of each window, oldest first: events by interest B T J, in all B T, age of the newest B T."""
        b, _, j = self.n.shape
        t, k = scale.windows, scale.blocks
        parts = self.n[:, : t * k].reshape(b, t, k, j)
        events = self.events[:, : t * k].reshape(b, t, k)
        newest = (events > 0).argmax(axis=2) + np.arange(t) * k
        n_events = events.sum(axis=2)
        newest = np.where(n_events > 0, newest, 0)
        sums = parts.sum(axis=2) if k > 1 else parts[:, :, 0]
        return sums[:, ::-1], n_events[:, ::-1], newest[:, ::-1]

    def windows(self, scale: ScaleConfig) -> Windows:
        """Give the same, as a sparse table of bags."""
        sums, n_events, newest = self.sums(scale)
        sums = sums.reshape(-1, sums.shape[2])
        is_held = sums > 0
        indptr = np.concatenate([[0], np.cumsum(np.count_nonzero(is_held, axis=1))])
        indices = np.repeat(self.interest, scale.windows, axis=0)[is_held]
        return Windows(indptr, indices, sums[is_held], n_events.ravel(), newest.ravel())


def grid_of(
    rows: Rows, cutoff: np.ndarray, n_users: int, reach: int, n_interests: int, life: Rows | None = None
) -> Grid | None:
    """Fill a grid of the newest `reach` blocks; None where it would hold more than `DENSE` cells per row.

    A user's own interests are those of `life`, sums over the whole life, where it is given; else those of the rows.
    """
    if not len(rows.row) or n_users * n_interests > DENSE * len(rows.row):
        return None
    base = np.arange(n_users) * n_interests
    key = base[rows.row]
    key += rows.interest
    is_own = np.zeros(n_users * n_interests, bool)
    is_own[key if life is None else base[life.row] + life.interest] = True
    own = np.flatnonzero(is_own)
    user = own // n_interests
    size = np.bincount(user, minlength=n_users)
    j = int(size.max())
    if n_users * reach * j > DENSE * len(rows.row):
        return None
    place = np.empty(n_users * n_interests, np.int64)
    place[own] = np.arange(len(own)) - (np.cumsum(size) - size)[user]
    cell = (np.arange(n_users) * reach + cutoff)[rows.row]
    cell -= rows.block
    cell *= j
    cell += place[key]
    weight = rows.n
    if rows.block.min() <= (cutoff - reach).max():
        young = rows.block > (cutoff - reach)[rows.row]
        cell, weight = cell[young], weight[young]
    n = np.bincount(cell, weights=weight, minlength=n_users * reach * j).reshape(n_users, reach, j)
    interest = np.zeros((n_users, j), np.int64)
    interest[user, place[own]] = own - user * n_interests
    return Grid(n, n.sum(axis=2), interest, place)
