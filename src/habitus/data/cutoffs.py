"""Cut-offs: which (user, day) pairs are trained on, tuned on and tested on, and the guard that keeps the future out.

A cut-off is the last usable day: inputs are days <= cut-off, targets days cut-off + 1 .. cut-off + horizon.
`rows_until` is the only way from a cut-off to rows of the log: no later row can reach an input.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from habitus.core.config import Config
from habitus.core.errors import CutoffError
from habitus.core.seeds import uniforms
from habitus.data.calendar import to_date, to_day

if TYPE_CHECKING:
    import polars as pl

    from habitus.data.store import Store

Part = Literal["train", "gap", "valid", "test"]


class Days(Config):
    """A list of days, or a regular range of days: dates, or whole numbers where the cut-offs count `since` a date.

    `users` narrows a part to the users with one of the named values of a label of the profile.

    >>> Days(first=dt.date(2011, 1, 6), last=dt.date(2011, 1, 20), every=7).numbers().tolist()
    [14980, 14987, 14994]
    >>> Days(first=0, last=40, every=14, users={"run": ("2013B", "2013J")}).numbers().tolist()
    [0, 14, 28]
    """

    first: dt.date | int | None = None
    last: dt.date | int | None = None
    every: int = 7
    days: tuple[dt.date | int, ...] = ()
    users: dict[str, tuple[str, ...]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if bool(self.days) == (self.first is not None and self.last is not None):
            raise ValueError("either days = [...], or first, last and every")
        if self.every < 1:
            raise ValueError("every must be at least 1 day")
        if len({isinstance(day, int) for day in self._named()}) > 1:
            raise ValueError("dates or whole numbers, not both")
        return self

    @property
    def is_counted(self) -> bool:
        """True for whole numbers, which count from a date of each user."""
        return isinstance(self._named()[0], int)

    def numbers(self) -> np.ndarray:
        """Give the days as int32 numbers, ascending: since 1970-01-01, or since the date they count from."""
        named = [day if isinstance(day, int) else to_day(day) for day in self._named()]
        if self.days:
            return np.array(sorted(named), dtype=np.int32)
        return np.arange(named[0], named[1] + 1, self.every, dtype=np.int32)

    def is_apart(self, other: Days) -> bool:
        """Say whether no user can be in both, because a label keeps them apart."""
        return any(not set(self.users[label]) & set(other.users[label]) for label in self.users.keys() & other.users)

    def _named(self) -> list[dt.date | int]:
        return [day for day in (*self.days, self.first, self.last) if day is not None]


class Cutoffs(Config):
    """The cut-offs of a run, in days.

    `gap` holds cut-offs whose label windows reach past the first validation cut-off: used only when the model is
    refitted on train + gap + validation. `unseen_users` is the share of users kept out of every part;
    `samples_of(..., unseen=True)` gives theirs, for a test of one's own. `eligible` are histories a user must have at
    the cut-off, such as `any(purchase)`.

    Where each user has a clock of its own, such as the run of a course, `since` names the profile's date of day 0 and
    all parts count days from it; `length` names the profile's number of days by which a label window has to end. Parts
    whose users a label keeps apart (`train = { ..., users = { run = ["2013B"] } }`) may overlap in time, but for the
    test: its cut-offs come after every other label window.

    Errors: `CutoffError` when a label window of one part reaches past the first cut-off of a later part. With `since`
    that is found out by `samples_of`, which knows the dates.
    """

    horizon: int
    train: Days
    valid: Days
    test: Days
    gap: Days | None = None
    eligible: tuple[str, ...] = ()
    unseen_users: float = 0.0
    since: str | None = None
    length: str | None = None

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.horizon < 1:
            raise ValueError("horizon must be at least 1 day")
        if not 0 <= self.unseen_users < 1:
            raise ValueError("unseen_users must be a share in [0, 1)")
        wrong = [name for name, part in self._parts().items() if part.is_counted != (self.since is not None)]
        if wrong:
            wanted = "whole numbers of days since the date of each user" if self.since else "dates, or since = a column"
            raise ValueError(f"cutoffs.{wrong[0]}: {wanted}")
        if self.length is not None and self.since is None:
            raise ValueError("length counts from a date: name it in since")
        if self.since is None:
            self.check_order({name: part.numbers() for name, part in self._parts().items()})
        return self

    def days(self, part: Part) -> np.ndarray:
        """Give the cut-off days of a part as declared, int32, ascending; none for an absent gap. See `days_of`."""
        chosen: Days | None = getattr(self, part)
        return np.zeros(0, np.int32) if chosen is None else chosen.numbers()

    def check_order(self, days: dict[str, np.ndarray]) -> None:
        """Refuse label windows that reach into a later part; `days` since 1970-01-01, ascending, by part."""
        parts = self._parts()
        for early, late in (("train", "valid"), ("valid", "test"), ("gap", "test"), ("train", "test")):
            if not (early in parts and late in parts and len(days[early]) and len(days[late])):
                continue
            if late != "test" and parts[early].is_apart(parts[late]):
                continue
            end, start = int(days[early][-1]) + self.horizon, int(days[late][0])
            if end > start:
                raise CutoffError(
                    f"every {early} label window to end at or before the first {late} cut-off, {to_date(start)}",
                    f"one ends on {to_date(end)}",
                    where=f"cutoffs.{early}",
                    fix=f"end {early} at {to_date(start - self.horizon)} or earlier",
                )

    def _parts(self) -> dict[str, Days]:
        named = {name: getattr(self, name) for name in ("train", "gap", "valid", "test")}
        return {name: part for name, part in named.items() if part is not None}


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
    _check_inside(store, days)
    first_day = store.users["first_day"].to_numpy()
    users = [np.flatnonzero(first_day <= day) for day in days]
    if not users:
        return Samples(np.zeros(0, np.int64), np.zeros(0, np.int32))
    samples = Samples(np.concatenate(users), np.repeat(np.asarray(days, np.int32), [len(u) for u in users]))
    return _eligible(store, samples, eligible)


def samples_of(store: Store, cutoffs: Cutoffs, part: Part, *, unseen: bool = False) -> Samples:
    """List the samples of a part; with `unseen`, those of the users held out of training instead.

    Errors: `CutoffError` when nobody is eligible, when a label window ends after the last complete day of the log, or
    when parts that count days `since` a date are out of order.
    """
    chosen: Days | None = getattr(cutoffs, part)
    if chosen is None:
        return Samples(np.zeros(0, np.int64), np.zeros(0, np.int32))
    days = days_of(store, cutoffs, part)
    _check_end(store, cutoffs, part, days)
    if cutoffs.since is None:
        samples = samples_at(store, days, cutoffs.eligible)
    else:
        cutoffs.check_order({name: days_of(store, cutoffs, name) for name in ("train", "gap", "valid", "test")})
        samples = _counted(store, cutoffs, chosen.numbers())
    if chosen.users:
        samples = samples.take(_named_users(store, chosen)[samples.user])
    if cutoffs.since is not None:  # after the users of the part were chosen: eligibility reads the log
        samples = _eligible(store, samples, cutoffs.eligible)
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


def days_of(store: Store, cutoffs: Cutoffs, part: Part) -> np.ndarray:
    """Give the days on which a part has cut-offs, in days since 1970-01-01, int32, ascending."""
    chosen: Days | None = getattr(cutoffs, part)
    if chosen is None or cutoffs.since is None:
        return cutoffs.days(part)
    start, length = _clock(store, cutoffs)
    is_wanted = _named_users(store, chosen) & ~np.isnan(start)
    clocks = np.unique(np.stack([start[is_wanted], length[is_wanted]], axis=1), axis=0)
    grid, ahead = clocks[:, :1] + chosen.numbers(), chosen.numbers() + cutoffs.horizon
    return np.unique(grid[ahead <= clocks[:, 1:]]).astype(np.int32)


def samples_on(store: Store, cutoffs: Cutoffs, day: int) -> Samples:
    """List the users to forecast on one day, whatever part they belong to: those eligible whose clock still runs."""
    samples = samples_at(store, np.array([day], np.int32), cutoffs.eligible)
    if cutoffs.since is None:
        return samples
    start, length = (column[samples.user] for column in _clock(store, cutoffs))
    return samples.take((samples.cutoff >= start) & (samples.cutoff + cutoffs.horizon <= start + length))


def groups_of(store: Store, users: np.ndarray, label: str | None) -> np.ndarray:
    """Give the group of each user, int64: by a label of the profile, or each user alone where that is None or unknown.

    Errors: `CutoffError` for a label that the profile does not have.
    """
    if label is None:
        return users.astype(np.int64)
    names = _label(store, label)
    alone = store.n_users + np.arange(store.n_users, dtype=np.int64)
    return np.where(names.is_null().to_numpy(), alone, names.rank("dense").fill_null(0).to_numpy())[users]


def _counted(store: Store, cutoffs: Cutoffs, days: np.ndarray) -> Samples:
    """List who was seen by day d of the own clock and has a horizon left, for each d in turn."""
    start, length = _clock(store, cutoffs)
    first_day = store.users["first_day"].to_numpy()
    users = [np.flatnonzero((first_day <= start + day) & (day + cutoffs.horizon <= length)) for day in days]
    cutoff = [start[found] + day for found, day in zip(users, days)]
    return Samples(np.concatenate(users), np.concatenate(cutoff).astype(np.int32))


def _clock(store: Store, cutoffs: Cutoffs) -> tuple[np.ndarray, np.ndarray]:
    """Give per user day 0 and the days its clock runs, float64 [n_users]: NaN unknown, infinite without a length."""
    import polars as pl

    columns = []
    for place, name in (("since", cutoffs.since), ("length", cutoffs.length)):
        if name is None:
            columns.append(np.full(store.n_users, np.inf))
            continue
        known = store.profiles.columns[1:] if store.profiles is not None else []
        if name not in known:
            raise CutoffError(f"a profile column out of: {', '.join(known)}", repr(name), where=f"cutoffs.{place}")
        assert store.profiles is not None
        column = store.profiles[name]
        column = column.to_physical() if column.dtype.is_temporal() else column
        columns.append(column.cast(pl.Float64, strict=False).fill_null(np.nan).to_numpy())
    return columns[0], columns[1]


def _named_users(store: Store, chosen: Days) -> np.ndarray:
    """Mark the users of a part, bool [n_users]."""
    is_named = np.ones(store.n_users, dtype=bool)
    for label, values in chosen.users.items():
        is_named &= _label(store, label).is_in(list(values)).fill_null(False).to_numpy()
    return is_named


def _label(store: Store, label: str) -> pl.Series:
    known = store.labels.columns[1:]
    if label not in known:
        raise CutoffError(
            f"a label of the profile out of: {', '.join(known) or 'none declared'}",
            repr(label),
            where=str(store.path),
            fix="declare it in the schema: columns.NAME = { column = ..., kind = 'label' }",
        )
    return store.labels[label]


def _eligible(store: Store, samples: Samples, conditions: tuple[str, ...]) -> Samples:
    from habitus.data.targets import holds

    for condition in conditions:
        samples = samples.take(holds(condition, store, samples))
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


def _check_end(store: Store, cutoffs: Cutoffs, part: Part, days: np.ndarray) -> None:
    late = days[days + cutoffs.horizon > store.last_day]
    if len(late):
        raise CutoffError(
            f"label windows of {cutoffs.horizon} days that end by {to_date(store.last_day)}, the last complete day",
            f"the cut-off {to_date(late[0])} needs {to_date(late[0] + cutoffs.horizon)}",
            where=f"cutoffs.{part}",
            fix=f"use cut-offs up to {to_date(store.last_day - cutoffs.horizon)}",
        )


def _check_inside(store: Store, days: np.ndarray) -> None:
    outside = days[(days < store.first_day) | (days > store.last_day)]
    if len(outside):
        raise CutoffError(
            f"cut-offs between {to_date(store.first_day)} and {to_date(store.last_day)}",
            str(to_date(outside[0])),
            where=str(store.path),
            fix="choose a day inside the log",
        )
