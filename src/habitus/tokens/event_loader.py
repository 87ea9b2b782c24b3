"""From a log to batches of events: stretches of at most T events, each target once, bucketed by length, resumable."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
import torch

from habitus.core.errors import CutoffError, TrainingError
from habitus.core.seeds import generator
from habitus.data.calendar import to_date
from habitus.data.cutoffs import bisect, ranges
from habitus.data.pipeline.zones import first_instant
from habitus.tokens.batch import EventBatch
from habitus.tokens.event_split import EventPart, EventSplit
from habitus.tokens.event_table import EventTable, event_table
from habitus.tokens.events import UNKNOWN, EventSpec
from habitus.tokens.place import Place

if TYPE_CHECKING:
    from habitus.data.store import Store

BUCKET = 50  # batches whose stretches are sorted by length together
MAX_PADDING = 0.05  # share of a batch that may be padding
SMALLEST = 8  # a batch is at least this part of its budget, whatever it pads


@dataclass(frozen=True)
class Stretches:
    """n stretches of the event table: inputs are rows [low, high); rows from `first` on ask for the row after them.

    Rows from `told` on are never shown, not even as targets. `end` is the end of observation in seconds UTC where the
    stretch holds the last event its user is known to have had, else nan. All int64 [n] but `end` float64.
    """

    user: np.ndarray
    low: np.ndarray
    high: np.ndarray
    first: np.ndarray
    told: np.ndarray
    end: np.ndarray

    def __len__(self) -> int:
        return len(self.user)

    @property
    def length(self) -> np.ndarray:
        """Events per stretch, at least 1."""
        return self.high - self.low

    def take(self, rows: np.ndarray) -> Stretches:
        """Give the stretches at these numbers, or under this mask."""
        return Stretches(*(getattr(self, f.name)[rows] for f in fields(self)))


@dataclass(frozen=True)
class EventInputs:
    """All that batches are made of; see `prepare_events` and `last_states`."""

    table: EventTable
    stretches: Stretches

    def __len__(self) -> int:
        return len(self.stretches)


def prepare_events(
    store: Store,
    spec: EventSpec,
    split: EventSplit,
    part: EventPart,
    *,
    context: int | None = None,
    per_user: int = 0,
    has_end: bool = False,
    unseen: bool = False,
) -> EventInputs:
    """Cut the targets of a part into stretches.

    Parameters
    ----------
    context
        Events that a target has before it at least, unless it is one of its user's first; default a quarter of T. A
        stretch re-reads that many events of the one before. T - 1 gives every target all the past there is room for.
    per_user
        The newest stretches of each user that are kept; 0 keeps all.
    has_end
        Read the last event of the part too, which asks for nothing, so that its silence until the end of observation is
        known (`remaining`). Split by time only.
    unseen
        The users held out of every part, instead of the others.

    The first event of a user is never a target. Errors: `CutoffError` when the part has no target, `FingerprintError`.
    """
    table = event_table(store, spec)
    first, end = split.rows(table.offsets, table.day, part)
    is_chosen = split.is_chosen(store, unseen=unseen)
    until = split.observed_until(part, spec.zone)
    has_end = has_end and not np.isnan(until)
    has_rows = is_chosen & (end > first)
    first = np.maximum(first, table.offsets[:-1] + 1)
    has_rows &= (end > first) | has_end
    if not (has_rows & (end > first)).any():
        fix = "move the days, or look for users with more events"
        raise CutoffError("at least one target", f"none in the {part} part", where="split", fix=fix)
    users = np.flatnonzero(has_rows)
    context = max(spec.length // 4, 1) if context is None else min(context, spec.length - 1)
    begin = table.offsets[users]
    low = np.minimum(first, end)[users] - 1
    stretches = _cut(users, begin, np.maximum(low, begin), end[users], spec.length, context, per_user, has_end)
    is_newest = np.r_[True, stretches.user[1:] != stretches.user[:-1]]
    stretches.end[is_newest & has_end] = until
    return EventInputs(table, stretches)


def last_states(store: Store, spec: EventSpec, users: np.ndarray, cutoffs: np.ndarray) -> EventInputs:
    """Give one stretch per user (int64 [n]) that ends at the last event on or before a day (int32 [n]); no targets.

    `remaining` is the silence from there to the end of that day. Errors: `CutoffError` for a user without an event
    until then; `FingerprintError`.
    """
    table = event_table(store, spec)
    begin = table.offsets[users]
    high = bisect(table.day, begin, table.offsets[users + 1], np.asarray(cutoffs, np.int64) + 1)
    if len(users) and (high == begin).any():
        row = int(np.argmax(high == begin))
        where = f"user {store.users['user'][int(users[row])]}, {to_date(int(cutoffs[row]))}"
        raise CutoffError("at least one event on or before the cut-off", "none", where=where, fix="leave the user out")
    days, place = np.unique(cutoffs, return_inverse=True)
    ends = np.array([first_instant(to_date(int(day) + 1), spec.zone) / 1e6 for day in days.tolist()])
    low = np.maximum(begin, high - spec.length)
    return EventInputs(table, Stretches(np.asarray(users, np.int64), low, high, high, high, ends[place]))


def _cut(
    user: np.ndarray,
    begin: np.ndarray,
    low: np.ndarray,
    end: np.ndarray,
    length: int,
    context: int,
    per_user: int,
    has_end: bool,
) -> Stretches:
    """Lay stretches from the newest event backwards; rows [low, end - 1) ask, `begin` is each user's first row."""
    high, step = end - (0 if has_end else 1), length - context
    n = np.minimum(-(-(high - low) // step), -(-np.maximum(high - begin - length, 0) // step) + 1)
    n = np.minimum(n, per_user) if per_user else n
    which, number = ranges(np.zeros_like(n), n)
    high = high[which] - number * step
    begins, lows = begin[which], low[which]
    start = np.maximum(begins, high - length)
    first = np.where(start == begins, lows, np.maximum(lows, high - step))
    return Stretches(user[which], start, high, first, end[which], np.full(len(which), np.nan))


def assemble_events(inputs: EventInputs, rows: np.ndarray) -> EventBatch:
    """Make the batch of stretches `rows` int64 [B]."""
    table, part = inputs.table, inputs.stretches.take(rows)
    width = max(int(part.length.max(initial=0)), 1)
    place = part.low[:, None] + np.arange(width + 1)
    is_kept = place[:, :-1] < part.high[:, None]
    has_next = is_kept & (place[:, 1:] < part.told[:, None])
    is_shown = np.concatenate([is_kept, np.zeros((len(rows), 1), bool)], axis=1)
    is_shown[:, 1:] |= has_next
    found = np.minimum(place, max(len(table) - 1, 0))
    ids = _tensor(np.where(is_shown[..., None], table.ids[found], 0), torch.int64)
    amount = _tensor(np.where(is_shown[..., None], table.amount[found], 0), torch.float32)
    times = np.where(is_shown, table.time[found], 0)
    kept, told = torch.from_numpy(is_kept), torch.from_numpy(has_next)
    is_target = told & torch.from_numpy(place[:, :-1] >= part.first[:, None])
    names = table.spec.fields
    if "type" in names:
        is_target &= ids[:, 1:, names.index("type")] != UNKNOWN
    last = times[np.arange(len(rows)), part.length - 1]
    clock = _tensor(times, torch.int64)
    return EventBatch(
        ids=ids[:, :-1] * kept[..., None],
        amount=amount[:, :-1] * kept[..., None],
        time=clock[:, :-1] * kept,
        length=_tensor(part.length, torch.int64),
        next_ids=ids[:, 1:] * told[..., None],
        next_amount=amount[:, 1:] * told[..., None],
        next_time=clock[:, 1:] * told,
        is_target=is_target,
        remaining=_tensor(part.end - last, torch.float32),
        sample=_tensor(np.asarray(rows), torch.int64),
    )


class EventLoader(Place):
    """Iterate over batches of stretches, the same order for the same (seed, epoch), resumable after any batch.

    Parameters
    ----------
    inputs
        What `prepare_events` or `last_states` gave.
    tokens_per_batch
        Places of a batch, padding included: many short stretches or few long ones. Never less than one stretch.
    is_training
        Shuffle. Otherwise stretches come sorted by length.

    `seconds` counts the time spent making batches; `n_tokens` and `n_places` the events served and the places they
    took, so that the padding share is `1 - n_tokens / n_places`.
    """

    def __init__(
        self, inputs: EventInputs, *, tokens_per_batch: int = 16_384, is_training: bool = False, seed: int = 0
    ) -> None:
        if len(inputs) == 0:
            raise TrainingError("at least one stretch of events", "none", fix="check the split")
        super().__init__(seed)
        self.inputs, self.tokens_per_batch = inputs, tokens_per_batch
        self.is_training = is_training
        self.seconds, self.n_tokens, self.n_places = 0.0, 0, 0
        self._plan: tuple[int, list[np.ndarray]] | None = None

    @property
    def stretches(self) -> Stretches:
        """What `sample` of a batch numbers."""
        return self.inputs.stretches

    def __len__(self) -> int:
        return len(self._batches())

    def __iter__(self) -> Iterator[EventBatch]:
        batches = self._batches()
        while self.batch < len(batches):
            if not self.is_own():
                self.batch += 1
                yield None  # pyright: ignore
                continue
            began = time.perf_counter()
            made = assemble_events(self.inputs, batches[self.batch])
            self.seconds += time.perf_counter() - began
            self.n_tokens += int(made.length.sum())
            self.n_places += made.time.numel()
            self.batch += 1  # counted before the batch is handed out: a state saved while it is used starts after it
            yield made
        self.batch = 0

    def _batches(self) -> list[np.ndarray]:
        epoch = self.epoch if self.is_training else 0
        if self._plan is None or self._plan[0] != epoch:
            self._plan = (epoch, self._planned(epoch))
        return self._plan[1]

    def _planned(self, epoch: int) -> list[np.ndarray]:
        """Shuffle, sort by length inside large buckets, cut by the budget, shuffle the batches."""
        length = self.stretches.length
        if not self.is_training:
            return _split_by_budget(np.arange(len(length)), length, self.tokens_per_batch)
        random = generator(self.seed, "event order", epoch)
        shuffled = random.permutation(len(length))
        bucket = np.cumsum(length[shuffled]) // (self.tokens_per_batch * BUCKET)
        batches: list[np.ndarray] = []
        for rows in np.split(shuffled, np.flatnonzero(np.diff(bucket)) + 1):
            batches += _split_by_budget(rows, length[rows], self.tokens_per_batch)
        return [batches[i] for i in random.permutation(len(batches))]


def _split_by_budget(rows: np.ndarray, length: np.ndarray, budget: int) -> list[np.ndarray]:
    """Sort rows by length and cut them into batches of at most `budget` places that waste at most MAX_PADDING.

    Where lengths differ most, batches are smaller than the budget, but hold an eighth of it at least.
    """
    order = np.argsort(length, kind="stable")
    rows, length = rows[order], length[order]
    total = np.r_[0, np.cumsum(length)]
    batches, i = [], 0
    while i < len(rows):
        n = np.arange(1, min(max(budget // int(length[i]), 1), len(rows) - i) + 1)
        places = n * length[i + n - 1]
        padding = 1 - (total[i + n] - total[i]) / places
        is_fine = (places <= budget) & ((padding <= MAX_PADDING) | (places <= budget // SMALLEST))
        taken = int(n[is_fine][-1]) if is_fine.any() else 1
        batches.append(rows[i : i + taken])
        i += taken
    return batches


def _tensor(values: np.ndarray, kind: torch.dtype) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).to(kind)
