"""Numbers about what the history has to do with the target: how often, how long ago, how broad. No loop over rows."""

from __future__ import annotations

import numpy as np

from habitus.data.history import BehaviourLog, History, earlier_equal, rows_before, user_stretches
from habitus.data.impressions import DAY, Impressions

HOUR = 3600
WINDOWS = {"1h": HOUR, "1d": DAY, "3d": 3 * DAY, "7d": 7 * DAY, "22d": 22 * DAY}
NEVER = 400 * DAY  # seconds that stand for "not in the history"
SHAPE = ("history_length", "events_per_day", "cate_entropy")


def match_names(kinds: tuple[str, ...]) -> tuple[str, ...]:
    """Name the columns of `match_columns` in order."""
    pairs = [f"{what}_{kind}" for what in ("cate", "brand") for kind in kinds]
    return (*(f"{pair}_{item}" for pair in pairs for item in (*WINDOWS, "since")), *SHAPE)


def match_columns(shown: Impressions, *, history: History | None = None, guard: int = 0) -> np.ndarray:
    """Give float32 [n, N]: log(1 + count) per window and log seconds since the last, for {cate, brand} x kinds; shape.

    Counts are of events of the user with the target's category (brand) and that kind, within each window before the
    impression less `guard` seconds, and strictly before it. Shape: log(1 + events), log(1 + events per active day),
    entropy of the categories in nats. A `history` given here replaces the strict one: only the audit does so.
    """
    history = History.before(shown.log, shown.user, shown.time, guard=guard) if history is None else history
    columns = np.empty((len(shown), len(match_names(shown.log.kinds))), np.float32)
    bounds = [
        np.minimum(rows_before(shown.log, shown.user, shown.time - guard - length), history.hist_end)
        for length in WINDOWS.values()
    ]
    low_row = 0
    for first, last in user_stretches(shown.log.offsets):
        high_row = int(np.searchsorted(shown.user, last))
        part = slice(low_row, high_row)
        _fill(columns[part], shown, history, [bound[part] for bound in bounds], part, first, last)
        low_row = high_row
    return columns


def _fill(
    out: np.ndarray,
    shown: Impressions,
    history: History,
    bounds: list[np.ndarray],
    part: slice,
    first: int,
    last: int,
) -> None:
    """Fill the rows of one stretch of users."""
    log = shown.log
    base, stop = int(log.offsets[first]), int(log.offsets[last])
    rows = slice(base, stop)
    n, n_kinds = max(stop - base, 1), len(log.kinds)
    end, begin = history.hist_end[part] - base, history.user_start[part] - base
    lows = [bound - base for bound in bounds]
    time, kind = np.asarray(log.time[rows]), np.asarray(log.kind[rows]).astype(np.int64)
    column = 0
    for values, target in ((log.cate[rows], shown.cate[part]), (log.brand[rows], shown.brand[part])):
        packed = np.sort((np.asarray(values, np.int64) * n_kinds + kind) * n + np.arange(stop - base))
        for code in range(n_kinds):
            key = (target.astype(np.int64) * n_kinds + code) * n
            upper = np.searchsorted(packed, key + end)
            is_none = target == 0  # no brand is no match
            for low in lows:
                count = upper - np.searchsorted(packed, key + low)
                out[:, column] = np.log1p(np.where(is_none, 0, count))
                column += 1
            has = (upper > np.searchsorted(packed, key + begin)) & ~is_none
            seconds = np.full(len(target), NEVER, np.float64)
            at = packed[upper[has] - 1] % n
            seconds[has] = shown.time[part][has] - time[at]
            out[:, column] = np.log(np.clip(seconds, 1, NEVER))
            column += 1
    out[:, column:] = _shape(log, rows, begin, end, first, last, shown.utc_offset)


def _shape(
    log: BehaviourLog, rows: slice, begin: np.ndarray, end: np.ndarray, first: int, last: int, utc_offset: int
) -> np.ndarray:
    """Give history length, events per active day, entropy of categories, by running sums: [n, 3]."""
    owner = np.repeat(np.arange(last - first), np.diff(log.offsets[first : last + 1]))
    length = (end - begin).astype(np.float64)
    day = (np.asarray(log.time[rows]).astype(np.int64) + utc_offset) // DAY
    is_new = np.ones(len(day), bool)
    is_new[1:] = (day[1:] != day[:-1]) | (owner[1:] != owner[:-1])
    days = _between(is_new.astype(np.float64), begin, end)
    count = earlier_equal(owner, np.asarray(log.cate[rows])).astype(np.float64)
    # sum of c log c over categories grows by (c+1) log(c+1) - c log c with each event
    grown = (count + 1) * np.log(count + 1) - count * np.log(np.maximum(count, 1))
    safe = np.maximum(length, 1)
    entropy = np.maximum(np.log(safe) - _between(grown, begin, end) / safe, 0)
    return np.stack([np.log1p(length), np.log1p(length / np.maximum(days, 1)), entropy], axis=1)


def _between(values: np.ndarray, begin: np.ndarray, end: np.ndarray) -> np.ndarray:
    total = np.concatenate([[0], values.cumsum()])
    return total[end] - total[begin]
