"""Local time and instants: offsets of a time zone as a step function, for NumPy and as a DuckDB expression."""

from __future__ import annotations

import datetime
from functools import lru_cache
from zoneinfo import ZoneInfo

import numpy as np

SECOND = 1_000_000
DAY = 86_400 * SECOND
EPOCH = datetime.datetime(1970, 1, 1)
FIRST_YEAR, LAST_YEAR = 1900, 2100
FAR_DAYS = 10_000_000  # added before dividing, so that days before 1970 round down


@lru_cache(maxsize=16)
def transitions(zone: str) -> tuple[np.ndarray, np.ndarray]:
    """Give instants (microseconds, int64 [n]) at which the offset changes, and offsets (int64 [n + 1]) between them.

    Covers 1900 .. 2100; outside, the first and the last offset hold.

    >>> transitions("UTC")
    (array([], dtype=int64), array([0]))
    """
    info = ZoneInfo(zone)

    def offset(second: int) -> int:
        aware = (EPOCH + datetime.timedelta(seconds=second)).replace(tzinfo=datetime.UTC).astimezone(info)
        return round(aware.utcoffset().total_seconds())  # type: ignore[union-attr]

    start = (datetime.datetime(FIRST_YEAR, 1, 1) - EPOCH).days * 86_400
    stop = (datetime.datetime(LAST_YEAR, 1, 1) - EPOCH).days * 86_400
    instants, offsets = [], [offset(start)]
    step = 7 * 86_400
    for left in range(start, stop, step):
        while offset(left + step) != offsets[-1]:
            low, high = left, left + step
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if offset(middle) == offsets[-1] else (low, middle)
            instants.append(high)
            offsets.append(offset(high))
    return np.array(instants, np.int64) * SECOND, np.array(offsets, np.int64) * SECOND


def local_days(time: np.ndarray, zone: str) -> np.ndarray:
    """Give the local day (int32, days since 1970-01-01) of UTC instants (int64 microseconds).

    >>> local_days(np.array([0, -1]), "UTC").tolist()
    [0, -1]
    """
    instants, offsets = transitions(zone)
    shift = offsets[np.searchsorted(instants, time, side="right")] if len(instants) else offsets[0]
    return ((np.asarray(time) + shift) // DAY).astype(np.int32)


def first_instant(day: datetime.date, zone: str) -> int:
    """Give the UTC instant (microseconds) at which a local day begins."""
    instants, offsets = transitions(zone)
    midnight = (day - EPOCH.date()).days * DAY
    return midnight - _at(midnight, *_local_steps(instants, offsets))


def utc_sql(local: str, zone: str, low: int, high: int) -> str:
    """Write the expression local microseconds -> UTC microseconds, right for local times in low .. high.

    A time that occurs twice is the first one; a time that the clock skips counts on from before the jump (PEP 495,
    fold 0).
    """
    return f"({local} - {_steps_sql(local, *_local_steps(*transitions(zone)), low, high)})"


def day_sql(time: str, zone: str, low: int, high: int) -> str:
    """Write the expression UTC microseconds -> local day, right for instants in low .. high."""
    shifted = f"({time} + {_steps_sql(time, *transitions(zone), low, high)} + {FAR_DAYS * DAY})"
    return f"CAST({shifted} // {DAY} - {FAR_DAYS} AS INTEGER)"


def has_steps(zone: str) -> bool:
    return len(transitions(zone)[0]) > 0


def _local_steps(instants: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return instants + np.maximum(offsets[:-1], offsets[1:]), offsets


def _at(value: int, steps: np.ndarray, offsets: np.ndarray) -> int:
    return int(offsets[np.searchsorted(steps, value, side="right")])


def _steps_sql(value: str, steps: np.ndarray, offsets: np.ndarray, low: int, high: int) -> str:
    """Write a step function as a balanced tree of CASE, with the steps inside low .. high only."""
    first, last = np.searchsorted(steps, [low, high], side="right")

    def tree(i: int, j: int) -> str:
        if i == j:
            return str(int(offsets[i]))
        middle = (i + j) // 2
        return f"CASE WHEN {value} < {int(steps[middle])} THEN {tree(i, middle)} ELSE {tree(middle + 1, j)} END"

    return f"({tree(int(first), int(last))})"
