"""Cut-offs: which (user, day) pairs are trained on, tuned on and tested on, and the guard that keeps the future out.

A cut-off is the last usable day: inputs are days <= cut-off, targets days cut-off + 1 .. cut-off + horizon.
`rows_until` is the only way from a cut-off to rows of the log: no later row can reach an input.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
from pydantic import model_validator

from habitus.core.config import Config
from habitus.core.errors import CutoffError
from habitus.core.seeds import uniforms
from habitus.data.calendar import to_date, to_day

if TYPE_CHECKING:
    from habitus.data.store import Store

Part = Literal["train", "gap", "valid", "test"]


class Days(Config):
    """A list of days, or a regular range of days.

    >>> Days(first=dt.date(2011, 1, 6), last=dt.date(2011, 1, 20), every=7).numbers().tolist()
    [14980, 14987, 14994]
    """

    first: dt.date | None = None
    last: dt.date | None = None
    every: int = 7
    days: tuple[dt.date, ...] = ()

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if bool(self.days) == (self.first is not None and self.last is not None):
            raise ValueError("either days = [...], or first, last and every")
        if self.every < 1:
            raise ValueError("every must be at least 1 day")
        return self

    def numbers(self) -> np.ndarray:
        """Give the days as int32 numbers since 1970-01-01, ascending."""
        if self.days:
            return np.array(sorted(to_day(day) for day in self.days), dtype=np.int32)
        assert self.first is not None
        assert self.last is not None
        return np.arange(to_day(self.first), to_day(self.last) + 1, self.every, dtype=np.int32)


class Cutoffs(Config):
    """The cut-offs of a run, in days.

    `gap` holds cut-offs whose label windows reach past the first validation cut-off: used only when the model is
    refitted on train + gap + validation. `unseen_users` is the share of users kept out of every part;
    `samples_of(..., unseen=True)` gives theirs, for a test of one's own. `eligible` are histories a user must have at
    the cut-off, such as `any(purchase)`.

    Errors: `CutoffError` when a label window of one part reaches past the first cut-off of a later part.
    """

    horizon: int
    train: Days
    valid: Days
    test: Days
    gap: Days | None = None
    eligible: tuple[str, ...] = ()
    unseen_users: float = 0.0

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.horizon < 1:
            raise ValueError("horizon must be at least 1 day")
        if not 0 <= self.unseen_users < 1:
            raise ValueError("unseen_users must be a share in [0, 1)")
        for early, late in (("train", "valid"), ("valid", "test"), ("gap", "test")):
            if getattr(self, early) is None:
                continue
            end = int(self.days(early)[-1]) + self.horizon  # type: ignore[arg-type]
            start = int(self.days(late)[0])  # type: ignore[arg-type]
            if end > start:
                raise CutoffError(
                    f"every {early} label window to end at or before the first {late} cut-off, {to_date(start)}",
                    f"one ends on {to_date(end)}",
                    where=f"cutoffs.{early}",
                    fix=f"end {early} at {to_date(start - self.horizon)} or earlier",
                )
        return self

    def days(self, part: Part) -> np.ndarray:
        """Give the cut-off days of a part, int32, ascending; none for an absent gap."""
        chosen: Days | None = getattr(self, part)
        return np.zeros(0, np.int32) if chosen is None else chosen.numbers()


@dataclass(frozen=True)
class Samples:
    """Pairs (user index int64 [n], cut-off day int32 [n])."""

    user: np.ndarray
    cutoff: np.ndarray

    def __len__(self) -> int:
        return len(self.user)

    def take(self, rows: np.ndarray) -> Samples:
        """Give the samples at these row numbers, or under this mask."""
        return Samples(self.user[rows], self.cutoff[rows])

    def joined(self, *others: Samples) -> Samples:
        """Give these samples followed by the others."""
        every = (self, *others)
        return Samples(np.concatenate([s.user for s in every]), np.concatenate([s.cutoff for s in every]))


def samples_at(store: Store, days: np.ndarray, eligible: tuple[str, ...] = ()) -> Samples:
    """List the users eligible at each day, cut-off by cut-off, users in store order.

    A user is eligible once seen (first event on or before the cut-off) and when every history in `eligible` holds.
    Errors: `CutoffError` when a day lies outside the log.
    """
    from habitus.data.targets import holds

    _check_inside(store, days)
    first_day = store.users["first_day"].to_numpy()
    users = [np.flatnonzero(first_day <= day) for day in days]
    if not users:
        return Samples(np.zeros(0, np.int64), np.zeros(0, np.int32))
    samples = Samples(np.concatenate(users), np.repeat(np.asarray(days, np.int32), [len(u) for u in users]))
    for condition in eligible:
        samples = samples.take(holds(condition, store, samples))
    return samples


def samples_of(store: Store, cutoffs: Cutoffs, part: Part, *, unseen: bool = False) -> Samples:
    """List the samples of a part; with `unseen`, those of the users held out of training instead.

    Errors: `CutoffError` when nobody is eligible, or when a label window ends after the last complete day of the log.
    """
    days = cutoffs.days(part)
    late = days[days + cutoffs.horizon > store.last_day]
    if len(late):
        raise CutoffError(
            f"label windows of {cutoffs.horizon} days that end by {to_date(store.last_day)}, the last complete day",
            f"the cut-off {to_date(late[0])} needs {to_date(late[0] + cutoffs.horizon)}",
            where=f"cutoffs.{part}",
            fix=f"use cut-offs up to {to_date(store.last_day - cutoffs.horizon)}",
        )
    samples = samples_at(store, days, cutoffs.eligible)
    if cutoffs.unseen_users:
        is_unseen = uniforms(0, user_keys(store), stream="unseen users") < cutoffs.unseen_users
        samples = samples.take(is_unseen[samples.user] == unseen)
    elif unseen:
        samples = samples.take(np.zeros(0, np.int64))
    if not len(samples) and len(days) and not unseen:
        raise CutoffError(
            "at least one eligible user",
            f"none at {len(days)} cut-offs with eligible = {list(cutoffs.eligible)}",
            where=f"cutoffs.{part}",
            fix="use later cut-offs, or mend the eligibility",
        )
    return samples


def rows_until(
    offsets: np.ndarray, day: np.ndarray, users: np.ndarray, cutoffs: np.ndarray, history: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Give per sample the row range [low, high) of its history: the leakage guard.

    Rows are sorted by user, then day. With `history`, only the last `history` days up to the cut-off.

    >>> rows_until(np.array([0, 3]), np.array([1, 5, 9]), np.array([0]), np.array([5]))
    (array([0]), array([2]))
    """
    start, end = offsets[users], offsets[users + 1]
    high = bisect(day, start, end, cutoffs + 1)
    low = start if history is None else bisect(day, start, high, cutoffs - history + 1)
    return low, high


def rows_after(
    offsets: np.ndarray, day: np.ndarray, users: np.ndarray, cutoffs: np.ndarray, horizon: int
) -> tuple[np.ndarray, np.ndarray]:
    """Give per sample the row range [low, high) of its label window, days cut-off + 1 .. cut-off + horizon.

    For targets only; nothing here may reach an input.
    """
    start, end = offsets[users], offsets[users + 1]
    low = bisect(day, start, end, cutoffs + 1)
    return low, bisect(day, low, end, cutoffs + horizon + 1)


def bisect(sorted_values: np.ndarray, low: np.ndarray, high: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Give, for many slices [low, high) at once, the first position whose value is >= wanted.

    Touches only the log2(longest slice) places that it looks at, so a memory-mapped column is never read whole.
    """
    low, high = low.astype(np.int64), high.astype(np.int64)
    if len(sorted_values) == 0:
        return low
    while True:
        is_open = low < high
        if not is_open.any():
            return low
        middle = (low + high) // 2
        is_less = sorted_values[np.minimum(middle, len(sorted_values) - 1)] < wanted
        low = np.where(is_open & is_less, middle + 1, low)
        high = np.where(is_open & ~is_less, middle, high)


def ranges(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Write out many ranges [low, high): (which range, row), both int64, in order.

    >>> ranges(np.array([0, 7]), np.array([2, 8]))
    (array([0, 0, 1]), array([0, 1, 7]))
    """
    n = high - low
    which = np.repeat(np.arange(len(n)), n)
    return which, np.arange(len(which)) + (low - (np.cumsum(n) - n))[which]


def user_keys(store: Store) -> np.ndarray:
    """Give a 64-bit key per user, uint64 [n_users]: half of the MD5 of the id's text, so the same in any store."""
    import duckdb

    with duckdb.connect() as connection:
        connection.register("users", store.users.select("user").to_arrow())
        table = connection.sql("SELECT md5_number_lower(user::VARCHAR) AS key FROM users").fetchnumpy()
    return table["key"].astype(np.uint64)


def _check_inside(store: Store, days: np.ndarray) -> None:
    outside = days[(days < store.first_day) | (days > store.last_day)]
    if len(outside):
        raise CutoffError(
            f"cut-offs between {to_date(store.first_day)} and {to_date(store.last_day)}",
            str(to_date(outside[0])),
            where=str(store.path),
            fix="choose a day inside the log",
        )
