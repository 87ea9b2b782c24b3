"""Two sorted shards into one: new rows go behind the old rows of the same user and instant, slice by slice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from habitus.data.pipeline.stream import open_text
from habitus.data.shards import TEXT_ROWS, Columns, ShardFile, TextFile, map_shard, map_text

if TYPE_CHECKING:
    import pyarrow as pa

SLICE = 8 * TEXT_ROWS
TEXT_SLICE = TEXT_ROWS


@dataclass(frozen=True)
class Side:
    """One of two shard files to merge: its path, that of its text, and how many rows each user has in it."""

    path: Path
    text: Path | None
    counts: np.ndarray


def merge_shard(old: Side, new: Side, maps: Mapping[str, np.ndarray], columns: Columns, path: Path) -> None:
    """Write the merge of two shard files to `path`; `maps` turn the old codes into the new ones."""
    before, after = map_shard(old.path), map_shard(new.path)
    places = positions(old.counts, before, new.counts, after)
    n_rows = int(old.counts.sum() + new.counts.sum())
    with closing(ShardFile(path, n_rows, columns.dtypes)) as shard:
        for at, taken_old, taken_new, is_old in _slices(places, n_rows, SLICE):
            for name, dtype in columns.dtypes.items():
                values = np.empty(len(is_old), dtype)
                kept = before[name][taken_old]
                values[is_old] = maps[name][kept] if name in maps else kept
                values[~is_old] = after[name][taken_new]
                shard.write(name, at, values)
    with open_text(path, columns) as text:
        if text is not None and old.text is not None and new.text is not None:
            _merge_text(map_text(old.text), map_text(new.text), places, n_rows, text)


def positions(
    old_counts: np.ndarray, old: Mapping[str, np.ndarray], new_counts: np.ndarray, new: Mapping[str, np.ndarray]
) -> np.ndarray:
    """Give the row (int64) of the merged shard at which each new row stands.

    A binary search within the old rows of the same user, for all new rows at once.

    >>> positions(np.array([2, 0]), {"time": np.array([10, 20])}, np.array([1, 1]), {"time": np.array([10, 5])})
    array([1, 3])
    """
    ends = np.cumsum(old_counts)
    low = np.repeat(ends - old_counts, new_counts)
    high = np.repeat(ends, new_counts)
    time = new["time"]
    while (is_open := low < high).any():
        rows = np.flatnonzero(is_open)
        middle = (low[rows] + high[rows]) // 2
        is_behind = old["time"][middle] < time[rows]
        is_tie = old["time"][middle] == time[rows]
        is_behind |= is_tie & (old["order"][middle] <= new["order"][rows]) if "order" in old else is_tie
        low[rows] = np.where(is_behind, middle + 1, low[rows])
        high[rows] = np.where(is_behind, high[rows], middle)
    return low + np.arange(len(low))


def _slices(places: np.ndarray, n_rows: int, size: int) -> Iterator[tuple[int, slice, slice, np.ndarray]]:
    """Cut the merged rows: first row, slice of the old rows, slice of the new rows, which of the slice are old."""
    for start in range(0, n_rows, size):
        stop = min(start + size, n_rows)
        first, last = (int(k) for k in np.searchsorted(places, [start, stop]))
        is_old = np.ones(stop - start, bool)
        is_old[places[first:last] - start] = False
        yield start, slice(start - first, stop - last), slice(first, last), is_old


def _merge_text(before: pa.Table, after: pa.Table, places: np.ndarray, n_rows: int, out: TextFile) -> None:
    import pyarrow as pa

    for _, taken_old, taken_new, is_old in _slices(places, n_rows, TEXT_SLICE):
        parts = [t.slice(s.start, s.stop - s.start) for t, s in ((before, taken_old), (after, taken_new))]
        rank = np.empty(len(is_old), np.int64)
        rank[is_old] = np.arange(parts[0].num_rows)
        rank[~is_old] = parts[0].num_rows + np.arange(parts[1].num_rows)
        for batch in pa.concat_tables(parts).take(pa.array(rank)).combine_chunks().to_batches():
            out.write(batch)
