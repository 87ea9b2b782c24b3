"""Which events are trained on, tuned on and tested on: by time, or the last two of every user."""

from __future__ import annotations

import datetime as dt
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from habitus.core.config import Config
from habitus.core.errors import CutoffError
from habitus.core.seeds import uniforms
from habitus.data.calendar import to_date, to_day
from habitus.data.cutoffs import bisect, user_keys
from habitus.data.pipeline.zones import first_instant

if TYPE_CHECKING:
    from habitus.data.store import Store

EventPart = Literal["train", "valid", "test", "train+valid"]
SHORTEST = 3  # events a user must have for the last two to be held out


class EventSplit(Config):
    """The parts of a log of events. A part is a set of targets; what a target is told from is everything before it.

    `time`: train until a day, validation and test from a day until a day, all inclusive, in the schema's zone; days
    between the parts are a gap, whose events are past for later parts and targets of none. `leave_last_out`: the last
    event of every user with at least 3 is the test, the one before it validation. It lets a model learn from what other
    users did later, so it is for comparison with published figures only.

    `train+valid` is everything before the test, the gap between the two included, for a refit.

    `eligible` is how many events a user must have had before a target of validation or test; 0 asks for none, though
    the first event of a user is never a target. Training keeps all.

    `unseen_users` is the share of users kept out of every part; `bounds(..., unseen=True)` gives theirs.

    Errors: `CutoffError` when a part is missing, or does not lie after the one before it.

    >>> EventSplit(protocol="time", train_until="2011-09-30", valid=("2011-10-01", "2011-10-31"),
    ...            test=("2011-11-01", "2011-11-30")).last_day("train")
    15247
    """

    protocol: Literal["time", "leave_last_out"] = "leave_last_out"
    train_until: dt.date | None = None
    valid: tuple[dt.date, dt.date] | None = None
    test: tuple[dt.date, dt.date] | None = None
    eligible: int = Field(0, ge=0)
    unseen_users: float = Field(0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        given = (self.train_until, self.valid, self.test)
        if self.protocol == "leave_last_out":
            if any(part is not None for part in given):
                raise CutoffError("no days with leave_last_out", "train_until, valid or test", where="split")
            return self
        if self.train_until is None or self.valid is None or self.test is None:
            raise CutoffError("train_until, valid and test", "one of them missing", where="split", fix="add the days")
        days = [self.train_until, *self.valid, *self.test]
        names = ("train_until", "valid from", "valid until", "test from", "test until")
        for i, (one, other) in enumerate(pairwise(days)):
            if other < one or (other == one and i in (0, 2)):
                found = f"{names[i]} {one}, {names[i + 1]} {other}"
                raise CutoffError("parts one after the other", found, where="split", fix="move a day")
        return self

    def first_day(self, part: EventPart) -> int | None:
        """Give the first day of a part, None where nothing comes before it."""
        return None if part.startswith("train") or self.protocol != "time" else to_day(getattr(self, part)[0])

    def last_day(self, part: EventPart) -> int | None:
        """Give the last day of a part, None without days."""
        if self.protocol != "time":
            return None
        return to_day(self.train_until if part == "train" else getattr(self, part.split("+")[-1])[1])  # type: ignore[arg-type]

    def observed_until(self, part: EventPart, zone: str) -> float:
        """Give the instant (seconds UTC) at which the last day of a part ends; nan without days."""
        day = self.last_day(part)
        return float("nan") if day is None else first_instant(to_date(day + 1), zone) / 1e6

    def rows(self, offsets: np.ndarray, day: np.ndarray, part: EventPart) -> tuple[np.ndarray, np.ndarray]:
        """Give per user the rows [first, end) that belong to a part, int64; a user's first event included.

        `offsets` (int64 [n_users + 1]) are the rows of each user, `day` (int32) the local day of a row.
        """
        first, end = self._rows(offsets, day, part)
        if not part.startswith("train"):
            first = np.minimum(np.maximum(first, offsets[:-1] + self.eligible), np.maximum(first, end))
        return first, end

    def _rows(self, offsets: np.ndarray, day: np.ndarray, part: EventPart) -> tuple[np.ndarray, np.ndarray]:
        low, high = offsets[:-1].astype(np.int64), offsets[1:].astype(np.int64)
        if self.protocol == "leave_last_out":
            held = np.where(high - low >= SHORTEST, 2, 0)
            if part.startswith("train"):
                return low, high - np.where(part == "train", held, held // 2)
            at = {"valid": 1, "test": 2}[part]
            return np.where(held, high - held + at - 1, high), np.where(held, high - held + at, high)
        begin, last = self.first_day(part), self.last_day(part)
        assert last is not None
        first = low if begin is None else bisect(day, low, high, np.full(len(low), begin))
        return first, bisect(day, first, high, np.full(len(low), last + 1))

    def is_chosen(self, store: Store, *, unseen: bool = False) -> np.ndarray:
        """Say per user (bool [n_users]) whether they take part; with `unseen`, whether they are held out instead."""
        if not self.unseen_users:
            return np.full(store.n_users, not unseen)
        return (uniforms(0, user_keys(store), stream="unseen users") < self.unseen_users) == unseen
