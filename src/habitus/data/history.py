"""A behaviour log as four narrow columns by user and time, and the look-up of what lies strictly before an instant.

An event takes 11 bytes (time int32, kind uint8, category, brand int32) and one more for how often its category came
before; a run takes 4. All of it may be memory-mapped. Nothing of size impressions x tokens is ever written.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from habitus.core.errors import StoreError

RUN_GAP = 1800  # seconds: equal events closer than this are one run
MOST_REPEATS = 255
CHUNK = 8_000_000
_LATEST = 2**31


@dataclass(frozen=True)
class BehaviourLog:
    """Events by user, then time, then source order. m events, u users, r runs.

    `time` int32 seconds since 1970, `kind` uint8 code of `kinds`, `cate` and `brand` raw ids (0: none).
    Events of user j are rows `offsets[j]:offsets[j + 1]`. `run_start` holds the first row of every run: equal category,
    brand and kind, each within 30 minutes of the one before. `repeats` counts earlier events of the same category by
    the same user, at most 255. Run and repeats of an event depend on earlier events only.
    """

    time: np.ndarray
    kind: np.ndarray
    cate: np.ndarray
    brand: np.ndarray
    offsets: np.ndarray
    run_start: np.ndarray
    repeats: np.ndarray
    kinds: tuple[str, ...]

    @property
    def n_users(self) -> int:
        return len(self.offsets) - 1

    @property
    def n_events(self) -> int:
        return len(self.time)

    @classmethod
    def build(
        cls,
        user: np.ndarray,
        time: np.ndarray,
        kind: np.ndarray,
        cate: np.ndarray,
        brand: np.ndarray,
        *,
        n_users: int,
        kinds: tuple[str, ...],
    ) -> BehaviourLog:
        """Sort rows that fit in memory by user, time, source order, and index them.

        Errors: `StoreError` when a user lies outside 0 .. n_users - 1 or a time outside int32.

        >>> a = np.array
        >>> log = BehaviourLog.build(a([1, 0, 1]), a([9, 5, 7]), a([0, 0, 0]), a([4, 4, 4]), a([1, 1, 1]),
        ...                          n_users=2, kinds=("pv",))
        >>> log.time.tolist(), log.offsets.tolist(), log.run_start.tolist(), log.repeats.tolist()
        ([5, 7, 9], [0, 1, 3], [0, 1], [0, 0, 1])
        """
        user, time = np.asarray(user, np.int64), np.asarray(time, np.int64)
        if user.size and (user.min() < 0 or user.max() >= n_users):
            raise StoreError(f"users 0 .. {n_users - 1}", f"{user.min()} .. {user.max()}", where="behaviour log")
        if time.size and (time.min() < 0 or time.max() >= _LATEST):
            raise StoreError("seconds that fit int32", f"{time.min()} .. {time.max()}", where="behaviour log")
        order = np.argsort((user << 31) + time, kind="stable")
        time, kind = time[order].astype(np.int32), np.asarray(kind)[order].astype(np.uint8)
        cate, brand = np.asarray(cate)[order].astype(np.int32), np.asarray(brand)[order].astype(np.int32)
        offsets = np.concatenate([[0], np.bincount(user, minlength=n_users).cumsum()]).astype(np.int64)
        starts, repeats = index_rows(time, kind, cate, brand, offsets)
        return cls(time, kind, cate, brand, offsets, starts, repeats, kinds)


@dataclass(frozen=True)
class History:
    """What each of n impressions may know: rows `user_start[i]:hist_end[i]` of the log, all strictly before it.

    >>> a = np.array
    >>> log = BehaviourLog.build(a([0, 0]), a([5, 7]), a([0, 0]), a([4, 4]), a([1, 1]), n_users=1, kinds=("pv",))
    >>> History.before(log, a([0, 0]), a([7, 8])).hist_end.tolist()
    [1, 2]
    """

    log: BehaviourLog
    user_start: np.ndarray  # int64 [n]
    hist_end: np.ndarray  # int64 [n]

    @classmethod
    def before(cls, log: BehaviourLog, user: np.ndarray, time: np.ndarray, *, guard: int = 0) -> History:
        """Find the histories of impressions: the rows of the user with time < impression time - guard seconds."""
        return cls(log, log.offsets[user], rows_before(log, user, np.asarray(time, np.int64) - guard))

    @property
    def time(self) -> np.ndarray:
        return self.log.time

    @property
    def btag(self) -> np.ndarray:
        return self.log.kind

    @property
    def cate(self) -> np.ndarray:
        return self.log.cate

    @property
    def brand(self) -> np.ndarray:
        return self.log.brand

    def of(self, rows: np.ndarray) -> History:
        """Keep some impressions."""
        return History(self.log, self.user_start[rows], self.hist_end[rows])


def rows_before(log: BehaviourLog, user: np.ndarray, time: np.ndarray) -> np.ndarray:
    """Give for each (user, instant) the index after the user's last row with time < instant: int64 [n].

    One `searchsorted` on user * 2^31 + time per stretch of users, so that the keys of a stretch fit in memory.
    """
    user, time = np.asarray(user, np.int64), np.clip(np.asarray(time, np.int64), 0, _LATEST - 1)
    found = np.empty(len(user), np.int64)
    order = np.argsort((user << 31) + time, kind="stable") if _is_unsorted(user, time) else None
    sorted_user, sorted_time = (user, time) if order is None else (user[order], time[order])
    for first, last in user_stretches(log.offsets):
        low, high = np.searchsorted(sorted_user, (first, last))
        begin, end = log.offsets[first], log.offsets[last]
        owner = np.repeat(np.arange(last - first), np.diff(log.offsets[first : last + 1]))
        keys = (owner << 31) + log.time[begin:end]
        asked = ((sorted_user[low:high] - first) << 31) + sorted_time[low:high]
        rows = begin + np.searchsorted(keys, asked, side="left")
        found[slice(low, high) if order is None else order[low:high]] = rows
    return found


def last_runs(history: History, n_tokens: int, *, collapse: bool = True) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give first and last log row of the last `n_tokens` (T) runs before each of B instants, oldest first, all [B, T].

    A run is cut at the instant. The third array says what is padding, in front; rows there mean nothing. Without
    `collapse` every event is a run of its own.
    """
    begin, end, starts = history.user_start, history.hist_end, history.log.run_start
    back = np.arange(n_tokens - 1, -1, -1)
    if not collapse:
        first = end[:, None] - 1 - back
        is_pad = first < begin[:, None]
        first = np.where(is_pad, 0, first)
        return first, first, is_pad
    if not len(starts):
        nothing = np.zeros((len(begin), n_tokens), np.int64)
        return nothing, nothing, np.ones(nothing.shape, bool)
    run = (np.searchsorted(starts, end.astype(starts.dtype), side="left") - 1)[:, None] - back
    is_pad = run < np.searchsorted(starts, begin.astype(starts.dtype), side="left")[:, None]
    run = np.where(is_pad, 0, run)
    first = starts[run].astype(np.int64)
    following = starts[np.minimum(run + 1, len(starts) - 1)].astype(np.int64)
    following = np.where(run + 1 < len(starts), following, history.log.n_events)
    last = np.minimum(following, end[:, None]) - 1
    return first, np.where(is_pad, first, last), is_pad


def user_stretches(offsets: np.ndarray, n_events: int = CHUNK) -> list[tuple[int, int]]:
    """Cut users into stretches of about `n_events` events each; a user is never cut.

    >>> user_stretches(np.array([0, 3, 4, 9]), 4)
    [(0, 2), (2, 3)]
    """
    n_users, stretches, first = len(offsets) - 1, [], 0
    while first < n_users:
        last = int(np.searchsorted(offsets, offsets[first] + n_events, side="right")) - 1
        last = min(max(last, first + 1), n_users)
        stretches.append((first, last))
        first = last
    return stretches


def index_rows(
    time: np.ndarray, kind: np.ndarray, cate: np.ndarray, brand: np.ndarray, offsets: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Give the first row of every run (uint32, or int64 in long logs) and the earlier events of each category (uint8).

    Rows are sorted by user and time; `offsets` are those of their users.
    """
    n = len(time)
    same = (cate[1:] == cate[:-1]) & (brand[1:] == brand[:-1]) & (kind[1:] == kind[:-1])
    is_start = np.ones(n, bool)
    is_start[1:] = ~(same & (time[1:] - time[:-1] <= RUN_GAP))
    begins = offsets[:-1][np.diff(offsets) > 0]
    is_start[begins] = True
    owner = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    repeats = np.minimum(earlier_equal(owner, cate), MOST_REPEATS).astype(np.uint8)
    starts = np.flatnonzero(is_start)
    return starts.astype(np.uint32 if n < 2**32 else np.int64), repeats


def earlier_equal(owner: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Count for each row the earlier rows with the same owner and value: int64 [n]."""
    if not len(owner):
        return np.zeros(0, np.int64)
    width = int(np.max(value)) + 1
    key = np.asarray(owner, np.int64) * width + value
    n = len(key)
    if int(key.max()) < 2**62 // max(n, 1):
        packed = np.sort(key * n + np.arange(n))  # a sort of plain numbers, much faster than a stable argsort
        order, key = packed % n, packed // n
    else:
        order = np.argsort(key, kind="stable")
        key = key[order]
    at = np.arange(n)
    first = np.maximum.accumulate(np.where(np.concatenate([[True], key[1:] != key[:-1]]), at, 0))
    counted = np.empty(n, np.int64)
    counted[order] = at - first
    return counted


def _is_unsorted(user: np.ndarray, time: np.ndarray) -> bool:
    return bool(np.any(np.diff((user << 31) + time) < 0))
