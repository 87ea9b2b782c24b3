"""Windowed aggregates: one row of plain numbers per sample, for boosted trees and for tables.

A sample is (user, cut-off). Every past column comes from rows with day <= cut-off, whatever happens later in the log;
known-future columns come from the calendar as it was announced at the cut-off (see `tokens.known_future`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from habitus.core.config import Config
from habitus.core.errors import CutoffError
from habitus.tokens.crowd import crowd
from habitus.tokens.known_events import known_events
from habitus.tokens.known_future import known_future, known_items, known_past

WINDOWS = (1, 7, 14, 28, 56, 112)  # days; 2, 3 and 84 as well gained nothing on validation
YEAR = 364  # 52 weeks: the same weekday a year ago
_ANY = "*"


@dataclass(frozen=True)
class Aggregates:
    """A matrix of features with what each column is.

    Attributes
    ----------
    names
        M column names, such as `purchase.count.28d`, `purchase.spend.all`, `*.recency`, `future.holiday.days`.
    value
        float32 [n, M], one row per sample in the order given; NaN where there is nothing to measure.
    is_known_future, is_category
        bool [M]: the column looks past the cut-off through the calendar; the column holds integer codes.
    """

    names: tuple[str, ...]
    value: np.ndarray
    is_known_future: np.ndarray
    is_category: np.ndarray

    def __len__(self) -> int:
        return self.value.shape[0]


class AggregateSpec(Config):
    """Which columns there are: fixed on the training cut-offs, so that later data cannot change the matrix."""

    windows: tuple[int, ...] = WINDOWS
    types: tuple[str, ...]
    amounts: tuple[tuple[str, str], ...] = ()  # (type, amount), the pairs that occur
    has_items: bool = False
    has_sessions: bool = False
    has_year_ago: bool = False
    numbers: tuple[str, ...] = ()  # profile columns
    dates: tuple[str, ...] = ()
    categories: tuple[tuple[str, tuple[str, ...]], ...] = ()  # profile column, its values; the code is the place
    event_types: tuple[str, ...] = ()  # of the calendar
    item_types: tuple[str, ...] = ()  # those of them that name the items they are about
    crowd: tuple[int, ...] = ()  # windows over all users, days


def aggregate_spec(
    store: Any, *, until: int, calendar: Any = None, windows: tuple[int, ...] = WINDOWS, max_types: int = 8
) -> AggregateSpec:
    """Choose the columns from rows with day <= `until` (days since 1970-01-01; the last training cut-off).

    The `max_types` most frequent event types get columns of their own, if at least 1 in 100 users have them; `*` counts
    all types, without items, sessions and amounts, unless there is one type only. Amounts are kept for the types that
    carry them. Windows of a year ago come in once `until` lies two years into the log.
    """
    windows = tuple(sorted(set(windows)))
    if not windows or windows[0] < 1:
        raise CutoffError("windows of at least 1 day", f"{windows}", where="aggregates")
    counts, users, filled = _type_counts(store, until)
    known = np.flatnonzero(users * 100 >= max(int(users.max(initial=0)), 1))
    order = sorted(known, key=lambda t: (-counts[t], store.types[t]))[:max_types]
    amounts = [(store.types[t], name) for t in order for j, name in enumerate(store.amounts) if filled[t, j]]
    return AggregateSpec(
        windows=windows,
        types=tuple(store.types[t] for t in order),
        amounts=tuple(amounts),
        has_items=store.items is not None,
        has_sessions=any(shard.session is not None for shard in _shards(store)),
        has_year_ago=until - store.first_day >= 2 * YEAR,
        event_types=() if calendar is None else calendar.types,
        item_types=() if calendar is None or store.items is None else calendar.item_types,
        **_profile_columns(store.profiles),
    )


def _type_counts(store: Any, until: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows [types], users [types] and filled amounts [types, amounts] among rows with day <= `until`."""
    n_types = len(store.types)
    counts, users = np.zeros(n_types, np.int64), np.zeros(n_types, np.int64)
    filled = np.zeros((n_types, len(store.amounts)), np.int64)
    for shard in _shards(store):
        keep = np.flatnonzero(np.asarray(shard.day) <= until)
        kind = np.asarray(shard.type)[keep]
        owner = np.searchsorted(shard.offsets, keep, side="right")
        counts += np.bincount(kind, minlength=n_types)
        users += np.bincount(np.unique(owner * n_types + kind) % n_types, minlength=n_types)
        for j, name in enumerate(store.amounts):
            has = ~np.isnan(np.asarray(shard.amounts[name])[keep])
            filled[:, j] += np.bincount(kind[has], minlength=n_types)
    return counts, users, filled


def aggregates(
    store: Any,
    samples: Any,
    *,
    horizon: int,
    calendar: Any = None,
    spec: AggregateSpec | None = None,
    has_future: bool = True,
) -> Aggregates:
    """Measure every column of `spec` for every sample.

    Parameters
    ----------
    store
        A `Store`; its rows are sorted by user and time.
    samples
        `user` int64 [n] and `cutoff` int32 [n] (days since 1970-01-01), in any order, repeats allowed.
    horizon
        Days after the cut-off that known-future columns look at. It never changes a past column, except `year_ago`.
    calendar
        Known events; None gives a matrix without `received.*` (events addressed to the user, begun by the cut-off) and
        without known-future columns.
    spec
        The columns; None derives them from rows up to the earliest cut-off of `samples`.
    has_future
        Whether there are known-future columns.

    What it does not do: scale, fill or select. Nothing is learnt from the samples' targets.
    Errors: `CutoffError` for a user index outside the store.

    Windows: `w`d covers days (cut-off - w, cut-off]; `all` everything up to the cut-off.
    """
    user = np.asarray(samples.user, dtype=np.int64)
    cutoff = np.asarray(samples.cutoff, dtype=np.int64)
    if user.size and (user.min() < 0 or user.max() >= store.n_users):
        raise CutoffError(f"user indices 0 .. {store.n_users - 1}", f"{user.min()} .. {user.max()}", where="samples")
    if spec is None:
        until = int(cutoff.min()) if cutoff.size else int(store.first_day)
        spec = aggregate_spec(store, until=until, calendar=calendar)
    columns = _past_columns(store, user, cutoff, horizon, spec) | _profile(store.profiles, user, cutoff, spec)
    if spec.crowd:
        columns |= crowd(store, cutoff, spec.types, spec.crowd)
    future: dict[str, np.ndarray] = {}
    if calendar is not None:
        columns, future = _calendar_columns(store, calendar, user, cutoff, horizon, spec, columns)
        columns |= future if has_future else {}
    categories = {f"profile.{name}" for name, _ in spec.categories}
    value = np.empty((len(user), len(columns)), dtype=np.float32)
    for j, column in enumerate(columns.values()):
        value[:, j] = column
    return Aggregates(
        names=tuple(columns),
        value=value,
        is_known_future=np.array([name in future for name in columns], dtype=bool),
        is_category=np.array([name in categories for name in columns], dtype=bool),
    )


def _calendar_columns(
    store: Any,
    calendar: Any,
    user: np.ndarray,
    cutoff: np.ndarray,
    horizon: int,
    spec: AggregateSpec,
    columns: dict[str, np.ndarray],
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Give the columns with what the calendar says of the past, and those of the future."""
    ids, types = store.users["user"], spec.event_types
    columns = columns | known_past(calendar, ids, user, cutoff, types=types)
    future = known_future(calendar, ids, user, cutoff, horizon=horizon, types=types)
    if not spec.item_types:
        return columns, future
    known = known_events(calendar, spec.item_types, ids.to_numpy(), item_types=spec.item_types, store=store)
    begun, ahead = known_items(known, user, cutoff, horizon=horizon)
    return columns | begun, future | ahead


def without_future(table: Aggregates) -> Aggregates:
    """Give the same table without its known-future columns.

    >>> import numpy as np
    >>> both = Aggregates(("a", "future.b"), np.zeros((2, 2), np.float32), np.array([False, True]), np.zeros(2, bool))
    >>> without_future(both).names
    ('a',)
    """
    keep = ~table.is_known_future
    names = tuple(name for name, is_kept in zip(table.names, keep) if is_kept)
    return Aggregates(names, table.value[:, keep], table.is_known_future[keep], table.is_category[keep])


# --- the past ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Rows:
    """Rows of one shard and one type, ascending in `key` = user in shard * span + day - first day."""

    key: np.ndarray
    at: np.ndarray  # their places in the shard
    span: int
    first: int

    @property
    def day(self) -> np.ndarray:
        return self.key % self.span + self.first

    def place(self, user: np.ndarray, day: np.ndarray) -> np.ndarray:
        """Count rows of earlier users, or of this user before `day`."""
        return np.searchsorted(self.key, user * self.span + np.clip(day - self.first, 0, self.span - 1))


def _shards(store: Any) -> Iterator[Any]:
    return (store.shard(i) for i in range(store.n_shards))


def _past_columns(
    store: Any, user: np.ndarray, cutoff: np.ndarray, horizon: int, spec: AggregateSpec
) -> dict[str, np.ndarray]:
    order = np.lexsort((cutoff, user))  # neighbours share rows, and the sums below never run backwards far
    bounds = np.searchsorted(user[order], [0] + [_end(shard) for shard in _shards(store)])
    parts = [
        _shard_columns(store, shard, user[rows], cutoff[rows], horizon, spec)
        for shard, lo, hi in zip(_shards(store), bounds[:-1], bounds[1:])
        for rows in [order[lo:hi]]
    ]
    columns: dict[str, np.ndarray] = {}
    for name in parts[0] if parts else ():
        columns[name] = np.empty(len(user), dtype=np.float32)
        columns[name][order] = np.concatenate([part[name] for part in parts])
    return columns


def _end(shard: Any) -> int:
    return shard.first_user + len(shard.offsets) - 1


def _shard_columns(
    store: Any, shard: Any, user: np.ndarray, cutoff: np.ndarray, horizon: int, spec: AggregateSpec
) -> dict[str, np.ndarray]:
    """Measure the samples of one shard, sorted by user and cut-off."""
    local = user - shard.first_user
    day = np.asarray(shard.day, dtype=np.int64)
    first, span = (int(day.min()), int(day.max() - day.min()) + 2) if day.size else (0, 2)
    owner = np.repeat(np.arange(len(shard.offsets) - 1), np.diff(shard.offsets))
    everything = _Rows(owner * span + day - first, np.arange(day.size), span, first)
    columns = {"cutoff.weekday": (cutoff + 3) % 7}  # 1970-01-01 was a Thursday; Monday is 0
    if spec.has_year_ago:
        columns["cutoff.year_day"] = cutoff.astype("datetime64[D]") - cutoff.astype("datetime64[D]").astype("M8[Y]")
        columns["cutoff.year_day"] = columns["cutoff.year_day"].astype(np.int64)
    start = np.asarray(shard.offsets, dtype=np.int64)[local]
    is_seen = (start < np.asarray(shard.offsets)[local + 1]) & (_at(day, start, 0) <= cutoff)
    columns["tenure"] = np.where(is_seen, cutoff - _at(day, start, 0), np.nan)
    kind = np.asarray(shard.type)
    for name in (_ANY, *spec.types):
        if name == _ANY:
            if len(store.types) == 1:
                continue  # the only type there is: the same as all of them
            rows = everything
        else:
            at = np.flatnonzero(kind == store.types.index(name)) if name in store.types else np.zeros(0, np.int64)
            rows = _Rows(everything.key[at], at, span, first)
        columns |= _group_columns(shard, name, rows, local, cutoff, horizon, spec)
    return columns


def _group_columns(
    shard: Any, name: str, rows: _Rows, user: np.ndarray, cutoff: np.ndarray, horizon: int, spec: AggregateSpec
) -> dict[str, np.ndarray]:
    """Measure one type (or all) for the samples of one shard."""
    columns: dict[str, np.ndarray] = {}
    windows = [f"{w}d" for w in spec.windows] + ["all"]
    edges = _edges(rows, user, cutoff, spec.windows)
    counts = edges[:, :1] - edges[:, 1:]
    columns |= _named(name, "count", windows, counts)
    is_new_day = np.diff(rows.key, prepend=-1) > 0
    n_days = np.concatenate([[0], np.cumsum(is_new_day)])
    columns |= _named(name, "days", windows, n_days[edges[:, :1]] - n_days[edges[:, 1:]])
    columns |= _rhythm(name, rows, is_new_day, n_days, edges, cutoff)
    for values, label in ((shard.item, "items"), (shard.session, "sessions")):
        is_wanted = name != _ANY and (spec.has_items if label == "items" else spec.has_sessions)
        if values is not None and is_wanted:
            columns |= _named(name, label, windows, _distinct(rows, np.asarray(values), user, cutoff, spec.windows))
    for kind, amount in spec.amounts:
        if kind == name:
            value = np.nan_to_num(np.asarray(shard.amounts[amount], dtype=np.float64)[rows.at])
            sums = _sums(value, edges)
            columns |= _named(name, amount, windows, sums)
            columns[f"{name}.{amount}.per_day"] = _ratio(sums[:, -1], columns[f"{name}.days.all"])
            if spec.has_year_ago:
                columns[f"{name}.{amount}.year_ago"] = _year_ago(rows, value, user, cutoff, horizon)
    if spec.has_year_ago:
        columns[f"{name}.count.year_ago"] = _year_ago(rows, None, user, cutoff, horizon)
    return columns


def _named(name: str, what: str, windows: list[str], value: np.ndarray) -> dict[str, np.ndarray]:
    return {f"{name}.{what}.{window}": value[:, j] for j, window in enumerate(windows)}


def _at(values: np.ndarray, place: np.ndarray, absent: float) -> np.ndarray:
    """Take values at places, and `absent` at places outside."""
    if not values.size:
        return np.full(place.shape, absent)
    inside = (place >= 0) & (place < values.size)
    return np.where(inside, values[np.clip(place, 0, values.size - 1)], absent)


def _ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    return np.where(bottom > 0, top / np.maximum(bottom, 1), np.nan)


def _edges(rows: _Rows, user: np.ndarray, cutoff: np.ndarray, windows: tuple[int, ...]) -> np.ndarray:
    """Give row places [n, W + 2], falling: end of the cut-off day, start of each window, start of the user."""
    days = [cutoff + 1, *(cutoff + 1 - w for w in windows), np.full_like(cutoff, rows.first)]
    return np.stack([rows.place(user, day) for day in days], axis=1)


def _rhythm(
    name: str, rows: _Rows, is_new_day: np.ndarray, n_days: np.ndarray, edges: np.ndarray, cutoff: np.ndarray
) -> dict[str, np.ndarray]:
    """Recency, and mean, standard deviation and last of the gaps between active days."""
    end, start = n_days[edges[:, 0]], n_days[edges[:, -1]]  # the user's active days are start .. end - 1
    day = rows.day[is_new_day]
    has_day, has_gap = end > start, end > start + 1
    last = _at(day, end - 1, 0)
    recency = np.where(has_day, cutoff - last, np.nan)
    gap = np.diff(day, prepend=0)
    squares = np.concatenate([[0], np.cumsum(gap * gap)])  # whole numbers: differences are exact
    n_gaps = np.maximum(end - start - 1, 1)
    mean = np.where(has_gap, (last - _at(day, start, 0)) / n_gaps, np.nan)
    square = (squares[end] - squares[np.minimum(start + 1, end)]) / n_gaps
    deviation = np.sqrt(np.maximum(square - mean * mean, 0))
    return {
        f"{name}.recency": recency,
        f"{name}.gap.mean": mean,
        f"{name}.gap.sd": np.where(has_gap, deviation, np.nan),
        f"{name}.gap.last": np.where(has_gap, _at(gap, end - 1, 0), np.nan),
        f"{name}.recency_per_gap": np.where(has_gap, recency / mean, np.nan),
    }


def _sums(value: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Sum rows from each edge to the first column of `edges` -> [n, W + 1].

    Each ring between two edges is summed on its own and rings are added up from the newest: a row outside the window
    cannot change even the last bit, as it would in a running sum over the whole shard.
    """
    rings = edges[:, ::-1]  # rising
    padded = np.append(value, 0.0)
    ring = np.add.reduceat(padded, rings.ravel()).reshape(rings.shape)[:, :-1]
    ring = np.where(rings[:, 1:] > rings[:, :-1], ring, 0.0)  # reduceat gives a row where a ring is empty
    return np.cumsum(ring[:, ::-1], axis=1)


def _year_ago(rows: _Rows, value: np.ndarray | None, user: np.ndarray, cutoff: np.ndarray, horizon: int) -> np.ndarray:
    """Count rows, or sum a value, over the days (cut-off - 364, cut-off - 364 + horizon]; NaN before the log begins."""
    end = np.minimum(cutoff - YEAR + horizon, cutoff) + 1
    edges = np.stack([rows.place(user, end), rows.place(user, cutoff - YEAR + 1)], axis=1)
    total = edges[:, 0] - edges[:, 1] if value is None else _sums(value, edges)[:, 0]
    return np.where(cutoff - YEAR + 1 >= rows.first, total, np.nan)


def _distinct(
    rows: _Rows, values: np.ndarray, user: np.ndarray, cutoff: np.ndarray, windows: tuple[int, ...]
) -> np.ndarray:
    """Count distinct values (-1: none) in every window -> [n, W + 1].

    In a window, distinct values = rows - rows whose value has occurred earlier in the same window. The second number
    is a count of rows by the place of their predecessor, which a wavelet matrix answers for all windows at once.
    """
    value = values[rows.at].astype(np.int64)
    kept = np.flatnonzero(value >= 0)
    key, value = rows.key[kept], value[kept]
    order = np.lexsort((value, key))  # one row per user, day and value is enough
    key, value = key[order], value[order]
    once = np.ones(key.size, dtype=bool)
    once[1:] = (np.diff(key) != 0) | (np.diff(value) != 0)
    key, value = key[once], value[once]
    subset = _Rows(key, np.empty(0, np.int64), rows.span, rows.first)
    edges = _edges(subset, user, cutoff, windows)
    end = np.repeat(edges[:, 0], edges.shape[1] - 1)
    start = edges[:, 1:].ravel()
    repeats = _count_at_least(_predecessors(key // rows.span, value) + 1, start, end, start + 1)
    return (end - start - repeats).reshape(len(user), edges.shape[1] - 1)


def _predecessors(user: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Give for each row the place of the user's previous row with the same value, or -1."""
    order = np.lexsort((value, user))
    same = (np.diff(user[order]) == 0) & (np.diff(value[order]) == 0)
    before = np.full(user.size, -1, dtype=np.int64)
    before[order[1:][same]] = order[:-1][same]
    return before


def _count_at_least(values: np.ndarray, start: np.ndarray, end: np.ndarray, bound: np.ndarray) -> np.ndarray:
    """Count places in [start, end) where values >= bound, for many queries: a wavelet matrix (Claude, Navarro 2012)."""
    left, right = start.astype(np.int32), end.astype(np.int32)
    level, total = values.astype(np.int32), np.zeros(start.size, dtype=np.int32)
    n_bits = max(int(values.max(initial=0)), int(bound.max(initial=0)), 1).bit_length()
    for bit in reversed(range(n_bits)):
        is_one = (level >> bit) & 1
        zeros = np.zeros(level.size + 1, dtype=np.int32)
        np.cumsum(1 - is_one, out=zeros[1:])
        zeros_left, zeros_right = zeros[left], zeros[right]
        goes_up = ((bound >> bit) & 1).astype(bool)
        total += np.where(goes_up, 0, (right - left) - (zeros_right - zeros_left))
        left = np.where(goes_up, zeros[-1] + left - zeros_left, zeros_left)
        right = np.where(goes_up, zeros[-1] + right - zeros_right, zeros_right)
        level = np.concatenate([level[is_one == 0], level[is_one == 1]])
    return total + (right - left)


# --- the profile ------------------------------------------------------------------------------------------------------


def _profile_columns(profiles: pl.DataFrame | None) -> dict[str, Any]:
    """Sort the profile columns by what they hold, and list the values of categories."""
    numbers, dates, categories = [], [], []
    for name, kind in (profiles.schema if profiles is not None else {}).items():
        if name == "user":
            continue
        if kind.is_numeric():
            numbers.append(name)
        elif kind.is_temporal():
            dates.append(name)
        else:
            assert profiles is not None
            categories.append((name, tuple(profiles[name].drop_nulls().cast(pl.String).unique().sort())))
    return {"numbers": tuple(numbers), "dates": tuple(dates), "categories": tuple(categories)}


def _profile(
    profiles: pl.DataFrame | None, user: np.ndarray, cutoff: np.ndarray, spec: AggregateSpec
) -> dict[str, np.ndarray]:
    """Numbers as they are, dates as days before the cut-off (NaN when later), categories as codes (NaN: unknown)."""
    columns: dict[str, np.ndarray] = {}
    if profiles is None:
        return columns
    for name in spec.numbers:
        columns[f"profile.{name}"] = profiles[name].cast(pl.Float64).fill_null(np.nan).to_numpy()[user]
    for name in spec.dates:
        day = profiles[name].cast(pl.Date).to_physical().cast(pl.Float64).fill_null(np.nan).to_numpy()[user]
        columns[f"profile.{name}"] = np.where(day <= cutoff, cutoff - day, np.nan)
    for name, values in spec.categories:
        codes = {text: code for code, text in enumerate(values)}
        code = profiles[name].cast(pl.String).replace_strict(codes, default=None, return_dtype=pl.Float64)
        columns[f"profile.{name}"] = code.fill_null(np.nan).to_numpy()[user]
    return columns
