"""Do told events stand near the real ones? Two answers over a horizon: the cost of turning one row into the other, and
how many told events find a real one of their kind in time.

Both match events of one row and one label in order of time, so both are one recurrence along the told events, run for
all rows and labels at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from habitus.core.errors import ConfigError

_CELLS = 4_000_000  # cells of the recurrence held at once


@dataclass(frozen=True)
class Timeline:
    """Events of many rows, flat and in any order: `row` n int, `time` n float, `label` n int, `score` n float or None.

    A score says how sure a told event is; None makes all alike.

    >>> Timeline(np.array([0]), np.array([1.5]), np.array([2])).score.tolist()
    [1.0]
    """

    row: np.ndarray
    time: np.ndarray
    label: np.ndarray
    score: np.ndarray = None  # pyright: ignore[reportAssignmentType]

    def __post_init__(self) -> None:
        given = np.ones(len(self.row)) if self.score is None else np.asarray(self.score, dtype=np.float64)
        object.__setattr__(self, "score", given)
        sizes = {len(column) for column in (self.row, self.time, self.label, given)}
        if len(sizes) > 1:
            raise ConfigError("columns of one length", f"lengths {sorted(sizes)}", where="timeline")
        if not (np.isfinite(np.asarray(self.time, float)).all() and np.isfinite(given).all()):
            raise ConfigError("finite times and scores", "nan or infinite ones", where="timeline")


def otd(real: Timeline, told: Timeline, n_rows: int, *, insert: float = 1.0, delete: float = 1.0) -> np.ndarray:
    """Cost of turning each told row into the real one, float64 [n_rows]: the mean of it is the figure to report.

    A told event may move in time (cost: how far, in units of `time`), be deleted, or a missing one be inserted; labels
    never change. Divide times by a unit that makes one insertion worth one unit.
    Source: Mei, Qin and Eisner 2019, arXiv 1905.05570, with equal costs for all labels.

    >>> real = Timeline(np.array([0, 0]), np.array([1.0, 3.0]), np.array([5, 5]))
    >>> otd(real, Timeline(np.array([0]), np.array([1.25]), np.array([5])), 1)
    array([1.25])
    """
    cost = np.zeros(n_rows)
    for pair_row, told_time, _, real_time, n_told, n_real in _pairs(real, told, n_rows):
        steps = np.arange(real_time.shape[1] + 1) * insert
        before = np.tile(steps, (len(pair_row), 1))
        best = before[np.arange(len(pair_row)), n_real].copy()
        for i in range(told_time.shape[1]):
            with np.errstate(invalid="ignore"):
                moved = before[:, :-1] + np.nan_to_num(np.abs(told_time[:, i, None] - real_time), nan=np.inf)
            now = before + delete
            now[:, 1:] = np.minimum(now[:, 1:], moved)
            before = np.minimum.accumulate(now - steps, axis=1) + steps
            is_last = n_told == i + 1
            best[is_last] = before[is_last, n_real[is_last]]
        np.add.at(cost, pair_row, best)
    return cost


def matched(real: Timeline, told: Timeline, n_rows: int, delta: float) -> np.ndarray:
    """Say which told events find a real one of the same row and label within `delta`, bool [len(told.row)].

    Each real event serves once; the surest told events come first, as far as all of them can be served: no other
    matching has more matched events above any score.

    >>> real = Timeline(np.array([0]), np.array([1.0]), np.array([5]))
    >>> told = Timeline(np.array([0, 0]), np.array([1.1, 0.9]), np.array([5, 5]), np.array([0.3, 0.8]))
    >>> matched(real, told, 1, 0.5)
    array([False,  True])
    """
    found = np.zeros(len(told.row), dtype=bool)
    for _, told_time, told_place, real_time, n_told, _ in _pairs(real, told, n_rows):
        n, width = told_time.shape
        is_real = np.arange(width) < n_told[:, None]
        score = np.where(is_real, told.score[told_place], -np.inf)
        gain = width - np.argsort(np.argsort(-score, axis=1, kind="stable"), axis=1)  # distinct, the surest the most
        table = np.zeros((width + 1, n, real_time.shape[1] + 1), dtype=np.int64)
        for i in range(width):
            with np.errstate(invalid="ignore"):
                is_near = np.abs(told_time[:, i, None] - real_time) <= delta  # padding is infinite: never near
            now = table[i].copy()
            now[:, 1:] = np.maximum(now[:, 1:], np.where(is_near, table[i, :, :-1] + gain[:, i, None], 0))
            table[i + 1] = np.maximum.accumulate(now, axis=1)
        at, every = np.full(n, real_time.shape[1]), np.arange(n)
        for i in reversed(range(width)):
            is_used = table[i + 1, every, at] != table[i, every, at]
            value = table[i + 1, every, at]
            first = (table[i + 1] == value[:, None]).argmax(axis=1)
            at = np.where(is_used, first - 1, at)
            found[told_place[is_used, i]] = True
    return found


def t_map(real: Timeline, told: Timeline, n_rows: int, delta: float) -> float:
    """Temporal mean average precision: per label the area under precision and recall over scores, then the mean.

    A told event is right when it is matched (see `matched`); recall is over all real events of the label. The mean is
    over labels that occur in `real`; NaN without any.
    Source: HoTPP, Karpukhin et al. 2024, arXiv 2406.14341.

    >>> real = Timeline(np.array([0]), np.array([1.0]), np.array([5]))
    >>> t_map(real, Timeline(np.array([0, 0]), np.array([1.1, 7.0]), np.array([5, 5]), np.array([0.3, 0.8])), 1, 0.5)
    0.5
    """
    labels, n_real = np.unique(real.label, return_counts=True)
    if not labels.size:
        return float("nan")
    is_right = matched(real, told, n_rows, delta)
    place = np.searchsorted(labels, told.label).clip(max=labels.size - 1)
    is_known = labels[place] == told.label
    place, is_right, score = place[is_known], is_right[is_known], told.score[is_known]
    order = np.lexsort((-score, place))
    place, is_right, score = place[order], is_right[order], score[order]
    start = np.searchsorted(place, np.arange(labels.size))
    right = np.cumsum(is_right)
    n_before = np.where(start > 0, np.append(0, right)[start], 0)
    is_end = np.ones(place.size, dtype=bool)  # told events of one score enter together
    is_end[:-1] = (place[1:] != place[:-1]) | (score[1:] != score[:-1])
    end = np.flatnonzero(is_end)
    hits = right[end] - n_before[place[end]]
    precision = hits / (end - start[place[end]] + 1)
    gained = np.diff(hits, prepend=0)
    is_first = np.ones(end.size, dtype=bool)
    is_first[1:] = place[end][1:] != place[end][:-1]
    gained[is_first] = hits[is_first]
    area = np.bincount(place[end], weights=precision * gained, minlength=labels.size)
    return float((area / n_real).mean())


def _pairs(real: Timeline, told: Timeline, n_rows: int) -> Iterator[tuple[np.ndarray, ...]]:
    """Give blocks of (row, label) pairs of like size: row, told times, told places, real times, n told, n real.

    Times are sorted and padded with infinity; places are numbers in `told`.
    """
    n_labels = int(max(np.max(real.label, initial=0), np.max(told.label, initial=0))) + 1
    for timeline in (real, told):
        if len(timeline.row) and (np.min(timeline.row) < 0 or np.max(timeline.row) >= n_rows):
            raise ConfigError(f"rows 0 .. {n_rows - 1}", f"row {np.max(timeline.row)}", where="timeline")
    orders = [np.lexsort((t.time, t.label, t.row)) for t in (real, told)]
    codes = [(np.asarray(t.row) * n_labels + t.label)[o] for t, o in zip((real, told), orders)]
    pairs = np.union1d(*codes)
    (real_start, real_end), (told_start, told_end) = (
        (np.searchsorted(code, pairs), np.searchsorted(code, pairs, "right")) for code in codes
    )
    n_real, n_told = real_end - real_start, told_end - told_start
    by_size = np.lexsort((n_real, n_told))[::-1]
    done = 0
    while done < by_size.size:
        width, height = int(n_told[by_size[done]]), int(n_real[by_size[done:]].max())
        some = by_size[done : done + max(1, _CELLS // ((width + 1) * (height + 1)))]
        height = int(n_real[some].max())
        told_times, places = _padded(told, orders[1], told_start[some], n_told[some], width)
        real_times, _ = _padded(real, orders[0], real_start[some], n_real[some], height)
        yield pairs[some] // n_labels, told_times, places, real_times, n_told[some], n_real[some]
        done += some.size


def _padded(
    timeline: Timeline, order: np.ndarray, start: np.ndarray, n: np.ndarray, width: int
) -> tuple[np.ndarray, np.ndarray]:
    column = np.arange(width)
    is_in = column < n[:, None]
    place = np.append(order, 0)[np.where(is_in, start[:, None] + column, -1)]
    times = np.append(np.asarray(timeline.time, dtype=np.float64), 0.0)
    return np.where(is_in, times[place], np.inf), place
