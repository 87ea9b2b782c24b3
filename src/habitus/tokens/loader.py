"""From samples to batches of user-days: vectorised end to end, bucketed by length, resumed mid-epoch exactly."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from habitus.core.errors import TrainingError
from habitus.core.seeds import derive, generator, uniforms
from habitus.data.calendar import Calendar
from habitus.data.cutoffs import Samples, ranges, rows_until
from habitus.data.targets import Measured, measure, measure_days
from habitus.tokens.batch import DayBatch, Kind
from habitus.tokens.days import DayTable, day_table
from habitus.tokens.known_events import (
    KnownEvents,
    add_audience_events,
    hide_events,
    known_events,
    notable_days,
    shared_table,
)
from habitus.tokens.place import Place
from habitus.tokens.spec import InputSpec, check_fits

if TYPE_CHECKING:
    from habitus.data.store import Store

SEEN_AT_START = 30  # days: whoever is first seen this soon after the log begins may be older than the log
BUCKET = 50  # batches whose samples are sorted by length together
MAX_PADDING = 0.05  # share of a batch that may be padding


@dataclass(frozen=True)
class Inputs:
    """All that batches are made of: the day table, known events, and per sample its history rows, profile and targets.

    n samples; see `prepare`.
    """

    spec: InputSpec
    store: Store
    table: DayTable
    columns: np.ndarray  # int64 [A]: column of `table` per feature, -1 = absent
    known: KnownEvents
    shared: np.ndarray  # float32 [n_cutoffs, H + F, E]: known events of everyone, per distinct cut-off
    cutoff_place: np.ndarray  # int64 [n]: place of a sample's cut-off in `shared`
    samples: Samples
    low: np.ndarray  # int64 [n]: history rows of a sample in `table`
    high: np.ndarray
    first_day: np.ndarray  # int32 [n]: the user's first day
    has_start: np.ndarray  # bool [n]: that day is the start of the user, not of the log
    profile: np.ndarray  # float32 [n, P]
    measured: Measured | None
    day_measured: Measured | None

    def __len__(self) -> int:
        return len(self.samples)

    def with_calendar(self, calendar: Calendar, users: np.ndarray) -> Inputs:
        """Give the same samples under another calendar; `users` are the store's ids in order."""
        spec = self.spec
        return self.with_known(
            known_events(calendar, spec.event_types, users, item_types=spec.item_types, store=self.store)
        )

    def with_known(self, known: KnownEvents) -> Inputs:
        """Give the same samples under a calendar that is prepared already."""
        return replace(self, known=known, shared=_shared(self.spec, known, self.samples)[0])


def prepare(
    store: Store, spec: InputSpec, samples: Samples, *, calendar: Calendar | None = None, has_targets: bool = True
) -> Inputs:
    """Look up everything that samples need, once. `calendar` defaults to the store's; targets only where asked for.

    Errors: `FingerprintError` when the store does not fit the spec.
    """
    table = day_table(store)
    in_force: Calendar = store.calendar if calendar is None else calendar
    low, high = rows_until(table.offsets, table.day, samples.user, samples.cutoff, spec.tokens.history)
    if spec.tokens.max_days is not None:
        low = np.maximum(low, high - spec.tokens.max_days)
    first_day = store.users["first_day"].to_numpy()[samples.user].astype(np.int32)
    users = store.users["user"].to_numpy()
    known = known_events(in_force, spec.event_types, users, item_types=spec.item_types, store=store)
    shared, cutoff_place = _shared(spec, known, samples)
    has_day_targets = has_targets and bool(spec.day_targets)
    return Inputs(
        spec=spec,
        store=store,
        table=table,
        columns=check_fits(spec, store, table),
        known=known,
        shared=shared,
        cutoff_place=cutoff_place,
        samples=samples,
        low=low,
        high=high,
        first_day=first_day,
        has_start=first_day - store.first_day > SEEN_AT_START,
        profile=spec.profile.encode(store, samples, horizon=spec.horizon, calendar=in_force),
        measured=measure(spec.targets, store, samples) if has_targets else None,
        day_measured=measure_days(spec.day_targets, store, samples, spec.horizon) if has_day_targets else None,
    )


def assemble(inputs: Inputs, rows: np.ndarray, *, is_dropped: np.ndarray | None = None) -> DayBatch:
    """Make the batch of samples `rows` int64 [B]; where `is_dropped`, the whole past is one start token."""
    spec, samples = inputs.spec, inputs.samples.take(rows)
    n, history = len(rows), spec.tokens.history
    origin = samples.cutoff.astype(np.int64) - history + 1  # the day at position 0
    row, position, kind, source = _kept(inputs, rows, origin, is_dropped)
    count = np.bincount(row, minlength=n)
    width = max(int(count.max(initial=0)), 1)
    column = np.arange(len(row)) - (np.cumsum(count) - count)[row]

    day = np.zeros((n, width), np.int64)
    kinds = np.full((n, width), int(Kind.PADDING), np.int64)
    activity = np.zeros((n, width, len(spec.features)), np.float32)
    day[row, column], kinds[row, column] = position, kind
    is_active = kind == Kind.ACTIVE
    activity[row[is_active], column[is_active]] = _activity(inputs, source[is_active])

    past = inputs.shared[inputs.cutoff_place[rows][:, None], day]
    if spec.tokens.sees_past:
        add_audience_events(past, inputs.known, samples.user, samples.cutoff, origin[:, None] + day)
    past[kinds == Kind.PADDING] = 0.0
    return DayBatch(
        activity=torch.from_numpy(activity),
        day=torch.from_numpy(day),
        kind=torch.from_numpy(kinds),
        known_past=torch.from_numpy(past),
        known_future=future_events(inputs, rows),
        profile=torch.from_numpy(inputs.profile[rows]),
        **_targets(inputs, rows),
        sample=torch.from_numpy(np.asarray(rows, np.int64)),
    )


def future_events(inputs: Inputs, rows: np.ndarray) -> torch.Tensor:
    """Give known_future B F E of samples `rows` alone: all that another calendar changes when the past stays."""
    samples, ahead = inputs.samples.take(rows), np.arange(1, inputs.spec.horizon + 1)
    future = inputs.shared[inputs.cutoff_place[rows], inputs.spec.tokens.history :]
    days = samples.cutoff.astype(np.int64)[:, None] + ahead
    if inputs.spec.tokens.sees_future:
        add_audience_events(future, inputs.known, samples.user, samples.cutoff, days)
    return torch.from_numpy(future)


class DayLoader(Place):
    """Iterate over batches of samples, the same order for the same (seed, epoch), resumable after any batch.

    Parameters
    ----------
    inputs
        What `prepare` gave.
    batch_size
        Samples per batch; the last one of an epoch may be smaller.
    per_user
        Cut-offs drawn per user and epoch (consecutive windows of a user are near copies); None takes all.
    is_training
        Shuffle, draw, and drop histories as `spec.tokens.history_dropout` says. Otherwise samples come in bucket order.
    bag_days
        In training, draw blocks of so many days with replacement, once per seed: samples whose cut-off lies in a block
        come as often as it was drawn. Members of an ensemble then disagree as much as other dates would have made them.
        None takes every date once.

    `seconds` counts the time spent making batches; `n_tokens` and `n_places` the days served and the places they took,
    so that the padding share is `1 - n_tokens / n_places`.
    """

    def __init__(
        self,
        inputs: Inputs,
        *,
        batch_size: int = 256,
        per_user: int | None = None,
        is_training: bool = False,
        bag_days: int | None = None,
        seed: int = 0,
    ) -> None:
        if len(inputs) == 0:
            raise TrainingError("at least one sample", "none", fix="check the cut-offs and who is eligible")
        super().__init__(seed)
        self.inputs, self.batch_size, self.per_user = inputs, batch_size, per_user
        self.is_training, self.bag_days = is_training, bag_days
        self._length = _lengths(inputs)
        self.seconds, self.n_tokens, self.n_places = 0.0, 0, 0
        self._plan: tuple[int, list[np.ndarray]] | None = None

    def __len__(self) -> int:
        return len(self._batches())

    def __iter__(self) -> Iterator[DayBatch]:
        batches = self._batches()
        while self.batch < len(batches):
            if not self.is_own():
                self.batch += 1
                yield None  # pyright: ignore
                continue
            began = time.perf_counter()
            made = self._make(batches[self.batch])
            self.seconds += time.perf_counter() - began
            self.n_tokens += int((made.kind != Kind.PADDING).sum())
            self.n_places += made.kind.numel()
            self.batch += 1  # counted before the batch is handed out: a state saved while it is used starts after it
            yield made
        self.batch = 0

    def _make(self, rows: np.ndarray) -> DayBatch:
        share = self.inputs.spec.tokens.history_dropout
        if not self.is_training or share == 0:
            return assemble(self.inputs, rows)
        draw = uniforms(derive(self.seed, "history dropout", self.epoch), rows)
        return assemble(self.inputs, rows, is_dropped=draw < share)

    def _batches(self) -> list[np.ndarray]:
        if self._plan is None or self._plan[0] != self.epoch:
            plan = self._plan_training if self.is_training else self._plan_reading
            self._plan = (self.epoch, plan())
        return self._plan[1]

    def _plan_reading(self) -> list[np.ndarray]:
        return _split_by_length(np.arange(len(self._length)), self._length, self.batch_size)

    def _plan_training(self) -> list[np.ndarray]:
        """Draw cut-offs per user, shuffle, sort by length inside large buckets, shuffle the batches."""
        random = generator(self.seed, "order", self.epoch)
        samples = self.inputs.samples
        times = None if self.bag_days is None else _bagged(samples.cutoff, self.bag_days, self.seed)
        chosen = _drawn(samples, self.per_user, derive(self.seed, "draw", self.epoch), times)
        shuffled = random.permutation(chosen)
        batches: list[np.ndarray] = []
        for bucket in _split(shuffled, self.batch_size * BUCKET):
            batches += _split_by_length(bucket, self._length[bucket], self.batch_size)
        return [batches[i] for i in random.permutation(len(batches))]


def _lengths(inputs: Inputs) -> np.ndarray:
    """Count the kept days of every sample, S before padding."""
    length = np.zeros(len(inputs), np.int64)
    for rows in _split(np.arange(len(inputs)), 2**16):
        origin = inputs.samples.cutoff[rows].astype(np.int64) - inputs.spec.tokens.history + 1
        length[rows] = np.bincount(_kept(inputs, rows, origin, None)[0], minlength=len(rows))
    return length


def _split(rows: np.ndarray, size: int) -> list[np.ndarray]:
    return [rows[i : i + size] for i in range(0, len(rows), size)]


def _split_by_length(rows: np.ndarray, length: np.ndarray, size: int) -> list[np.ndarray]:
    """Sort rows by length and cut them into batches of at most `size` that waste at most MAX_PADDING.

    The few longest histories differ most: they come in smaller batches, of an eighth of `size` at least.
    """
    order = np.argsort(length, kind="stable")
    rows, length = rows[order], length[order]
    total = np.r_[0, np.cumsum(length)]
    batches, i = [], 0
    while i < len(rows):
        n = np.arange(1, min(size, len(rows) - i) + 1)
        padding = 1 - (total[i + n] - total[i]) / np.maximum(n * length[i + n - 1], 1)
        is_fine = (padding <= MAX_PADDING) | (n <= max(size // 8, 1))
        taken = int(n[is_fine][-1])
        batches.append(rows[i : i + taken])
        i += taken
    return batches


def _bagged(cutoff: np.ndarray, n_days: int, seed: int) -> np.ndarray:
    """Draw blocks of `n_days` with replacement, as many as there are; give how often each sample's block came."""
    blocks, place = np.unique((cutoff.astype(np.int64) - int(cutoff.min())) // n_days, return_inverse=True)
    drawn = generator(seed, "blocks of days").integers(len(blocks), size=len(blocks))
    return np.bincount(drawn, minlength=len(blocks))[place]


def _drawn(samples: Samples, per_user: int | None, seed: int, times: np.ndarray | None = None) -> np.ndarray:
    """Choose at most `per_user` samples of each user, by a draw that depends on user and cut-off alone.

    `times` int64 [n] says how often a sample is there, 0 for not at all.
    """
    every = np.arange(len(samples)) if times is None else np.repeat(np.arange(len(samples)), times)
    if per_user is None:
        return every
    again = np.zeros(len(every), np.int64) if times is None else np.arange(len(every)) - np.searchsorted(every, every)
    draw = uniforms(seed, (samples.user.astype(np.int64) * 2**24 + samples.cutoff)[every] + again * 2**50)
    order = np.lexsort((draw, samples.user[every]))
    users = samples.user[every][order]
    starts = np.flatnonzero(np.r_[True, users[1:] != users[:-1]])
    rank = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
    return np.sort(every[order[rank < per_user]])


@dataclass(frozen=True)
class _Days:
    """Days kept for one reason: rows of the batch, positions, and rows of the day table where there is activity."""

    row: np.ndarray
    position: np.ndarray
    kind: Kind
    source: np.ndarray | None = None

    def only(self, is_kept: np.ndarray) -> _Days:
        keep = is_kept[self.row]
        source = None if self.source is None else self.source[keep]
        return _Days(self.row[keep], self.position[keep], self.kind, source)


def _kept(
    inputs: Inputs, rows: np.ndarray, origin: np.ndarray, is_dropped: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """List the kept days: (row in the batch, position, kind, row of the day table or -1), sorted by row and position.

    When several rules keep one day, the first of active, start, silent wins.
    """
    tokens = inputs.spec.tokens
    history, samples = tokens.history, inputs.samples.take(rows)
    born = inputs.first_day[rows].astype(np.int64) - origin  # position of the user's first day; may be negative
    active, source = ranges(inputs.low[rows], inputs.high[rows])
    lists = [_Days(active, inputs.table.day[source] - origin[active], Kind.ACTIVE, source)]

    started = np.flatnonzero(inputs.has_start[rows] & (born >= 1) & (born <= history))
    lists.append(_Days(started, born[started] - 1, Kind.START))

    n_silent = history if tokens.keep == "all" else min(tokens.keep_recent, history)
    silent = np.repeat(np.arange(len(rows)), n_silent)
    silent_position = np.tile(np.arange(history - n_silent, history), len(rows))
    if tokens.sees_past:
        notable, notable_day = notable_days(inputs.known, samples.user, samples.cutoff, history)
        silent = np.concatenate([silent, notable])
        silent_position = np.concatenate([silent_position, notable_day - origin[notable]])
    alive = silent_position >= born[silent]
    lists.append(_Days(silent[alive], silent_position[alive], Kind.INACTIVE))

    if is_dropped is not None and is_dropped.any():
        lists = [part.only(~is_dropped) for part in lists]
        gone = np.flatnonzero(is_dropped)
        lists.append(_Days(gone, np.full(len(gone), history - 1), Kind.START))
    row = np.concatenate([part.row for part in lists])
    position = np.concatenate([part.position for part in lists])
    kind = np.concatenate([np.full(len(part.row), int(part.kind)) for part in lists])
    source = np.concatenate([np.full(len(p.row), -1) if p.source is None else p.source for p in lists])
    _, first = np.unique(row * history + position, return_index=True)
    return row[first], position[first], kind[first], source[first]


def _activity(inputs: Inputs, source: np.ndarray) -> np.ndarray:
    """Give scaled activity of day-table rows, float32 [n, A]; a feature the store lacks counts as 0."""
    value = np.asarray(inputs.table.value[source])[:, np.maximum(inputs.columns, 0)]
    value[:, inputs.columns < 0] = 0.0
    return inputs.spec.activity.encode(value)


def _shared(spec: InputSpec, known: KnownEvents, samples: Samples) -> tuple[np.ndarray, np.ndarray]:
    """Give the shared known-event tables, one per distinct cut-off, and the place of each sample's among them."""
    cutoffs, place = np.unique(samples.cutoff, return_inverse=True)
    history, n_days = spec.tokens.history, spec.tokens.history + spec.horizon
    tables = [shared_table(known, int(c), int(c) - history + 1, n_days) for c in cutoffs]
    for table in tables:
        if not spec.tokens.sees_past:
            hide_events(table[:history], len(known.types))
        if not spec.tokens.sees_future:
            hide_events(table[history:], len(known.types))
    return np.stack(tables) if tables else np.zeros((0, n_days, known.width), np.float32), place


def _targets(inputs: Inputs, rows: np.ndarray) -> dict[str, torch.Tensor]:
    spec, n, horizon = inputs.spec, len(rows), inputs.spec.horizon
    window, daily = inputs.measured, inputs.day_measured
    n_day = len(spec.day_targets)
    blank = np.zeros((n, len(spec.targets)))
    day_blank = np.zeros((n, horizon, n_day))
    return {
        "target": _tensor(window.value[rows] if window else blank, np.float32),
        "is_observed": _tensor(window.is_observed[rows] if window else blank, np.bool_),
        "day_target": _tensor(daily.value[rows] if daily else day_blank, np.float32),
        "day_is_observed": _tensor(daily.is_observed[rows] if daily else day_blank, np.bool_),
    }


def _tensor(values: np.ndarray, kind: type) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values.astype(kind)))
