"""Known events as numbers per day: one shared table per cut-off, and each user's own rows added at load time.

E = 10 + 4 x types. Columns: weekday (7, Monday first) · sine and cosine of the day of the year (2) · public holiday (1)
· per event type: is on, days since the last start, days to the next start (both clipped at 14, divided by 14; 1 = none
near), log strength. Future days do not see each other, so the day before a sale carries it in its own columns.
Past days know only events that began by the cut-off: another future then leaves an encoded past as it was.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from habitus.data.calendar import Calendar
from habitus.data.cutoffs import ranges

CLOCK = 10
PER_TYPE = 4
NEAR = 14  # days
HOLIDAY = "holiday"  # the type that also sets the public-holiday column
_EPOCH = np.datetime64("1970-01-01", "D")


@dataclass(frozen=True)
class KnownEvents:
    """A calendar as arrays, rows sorted by start: what the loader reads.

    `type` is -1 for a type the model was not fitted with. `rows` of user u, `rows[offsets[u]:offsets[u + 1]]`, are its
    audience events; `is_shared` marks the events of everyone.
    """

    types: tuple[str, ...]
    type: np.ndarray  # int64 [n]
    start: np.ndarray  # int32 [n] days
    end: np.ndarray
    announced_at: np.ndarray
    log_strength: np.ndarray  # float32 [n]
    is_shared: np.ndarray  # bool [n]
    is_notable: np.ndarray  # bool [n]
    offsets: np.ndarray  # int64 [n_users + 1]
    rows: np.ndarray  # int64

    @property
    def width(self) -> int:
        """E."""
        return CLOCK + PER_TYPE * len(self.types)


def known_events(calendar: Calendar, types: tuple[str, ...], users: np.ndarray) -> KnownEvents:
    """Prepare a calendar for a log whose users are `users` (ids in store order).

    Users of an audience who are not in the log are passed over.
    """
    events = calendar.events.sort("start", "event", "type", maintain_order=True)
    day = {
        name: events[name].to_numpy().astype("datetime64[D]").astype(np.int32)
        for name in ("start", "end", "announced_at")
    }
    offsets, rows = _audience_rows(calendar, users)
    codes = {name: i for i, name in enumerate(types)}
    return KnownEvents(
        types=types,
        type=np.array([codes.get(name, -1) for name in events["type"]], dtype=np.int64),
        **day,
        log_strength=np.log(events["strength"].to_numpy()).astype(np.float32),
        is_shared=events["audience"].is_null().to_numpy(),
        is_notable=events["is_notable"].to_numpy(),
        offsets=offsets,
        rows=rows,
    )


def shared_table(known: KnownEvents, cutoff: int, first_day: int, n_days: int) -> np.ndarray:
    """Give the columns of everyone for days first_day .. as known at the cut-off: float32 [n_days, E]."""
    days = first_day + np.arange(n_days)
    table = np.zeros((n_days, known.width), dtype=np.float32)
    dates = _EPOCH + days
    table[np.arange(n_days), (days + 3) % 7] = 1.0  # 1970-01-01 was a Thursday
    phase = 2 * np.pi * (dates - dates.astype("datetime64[Y]").astype("datetime64[D]")).astype(float) / 365.25
    table[:, 7], table[:, 8] = np.sin(phase), np.cos(phase)
    for code in range(len(known.types)):
        columns = CLOCK + PER_TYPE * code
        table[:, columns + 1 : columns + 3] = 1.0
    usable = np.flatnonzero(known.is_shared & (known.type >= 0) & (known.announced_at <= cutoff))
    for row, block in zip(usable, _block(known, usable, days, np.full(len(usable), cutoff))):
        columns = CLOCK + PER_TYPE * known.type[row]
        _merge(table[:, columns : columns + PER_TYPE], block)
    if HOLIDAY in known.types:
        table[:, 9] = table[:, CLOCK + PER_TYPE * known.types.index(HOLIDAY)]
    return table


def hide_events(table: np.ndarray) -> None:
    """Make the days of `table` [..., E] say in place that nothing is known of any event; the clock stays.

    >>> day = np.ones((1, CLOCK + PER_TYPE), np.float32)
    >>> hide_events(day)
    >>> day[0, 7:].tolist()
    [1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0]
    """
    table[..., CLOCK - 1 :] = 0.0
    for column in (CLOCK + 1, CLOCK + 2):
        table[..., column::PER_TYPE] = 1.0


def add_audience_events(
    table: np.ndarray, known: KnownEvents, users: np.ndarray, cutoffs: np.ndarray, days: np.ndarray
) -> None:
    """Merge each user's own events into `table` B n E in place; `days` B n are the days of its rows.

    Works through the k-th event of all users at once: the loop is as long as the longest list, not the batch.
    """
    sample, row = audience_pairs(known, users, cutoffs)
    near = (known.end[row] >= days.min(axis=1, initial=2**30)[sample] - NEAR) & (
        known.start[row] <= days.max(axis=1, initial=-(2**30))[sample] + NEAR
    )
    sample, row = sample[near], row[near]
    for slot in _slots(sample):
        b, r = sample[slot], row[slot]
        columns = (CLOCK + PER_TYPE * known.type[r])[:, None] + np.arange(PER_TYPE)
        place = (b[:, None, None], np.arange(days.shape[1])[None, :, None], columns[:, None, :])
        block = table[place]
        _merge(block, _block(known, r, days[b], cutoffs[b]))
        table[place] = block


def audience_pairs(known: KnownEvents, users: np.ndarray, cutoffs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """List (position in `users`, calendar row) of the audience events each user's cut-off may know of."""
    sample, place = ranges(known.offsets[users], known.offsets[users + 1])
    row = known.rows[place]
    usable = (known.announced_at[row] <= cutoffs[sample]) & (known.type[row] >= 0)
    return sample[usable], row[usable]


def notable_days(
    known: KnownEvents, users: np.ndarray, cutoffs: np.ndarray, history: int
) -> tuple[np.ndarray, np.ndarray]:
    """List (position in `users`, day): the first days of notable events within the last `history` days."""
    shared = np.flatnonzero(known.is_shared & known.is_notable)
    sample, row = np.repeat(np.arange(len(users)), len(shared)), np.tile(shared, len(users))
    own_sample, own_row = audience_pairs(known, users, cutoffs)
    own = known.is_notable[own_row]
    sample, row = np.concatenate([sample, own_sample[own]]), np.concatenate([row, own_row[own]])
    day, cutoff = known.start[row], cutoffs[sample]
    inside = (day <= cutoff) & (day > cutoff - history) & (known.announced_at[row] <= cutoff)
    return sample[inside], day[inside]


def _block(known: KnownEvents, row: np.ndarray, days: np.ndarray, cutoff: np.ndarray) -> np.ndarray:
    """Give the four columns of event rows on days: [..., n, 4]; up to the cut-off, later starts are unseen."""
    start, end = known.start[row][..., None], known.end[row][..., None]
    is_on = (days >= start) & (days <= end)
    since = np.where(days >= start, np.minimum(days - start, NEAR), NEAR) / NEAR
    is_seen = (days > cutoff[..., None]) | (start <= cutoff[..., None])
    to_next = np.where((days < start) & is_seen, np.minimum(start - days, NEAR), NEAR) / NEAR
    strength = np.where(is_on, known.log_strength[row][..., None], 0.0)
    return np.stack([is_on, since, to_next, strength], axis=-1).astype(np.float32)


def _merge(into: np.ndarray, block: np.ndarray) -> None:
    """Combine two descriptions of one type: on and strength by maximum, day counts by minimum."""
    was_on = into[..., 0] > 0
    is_on = block[..., 0] > 0
    both = np.maximum(into[..., 3], block[..., 3])
    into[..., 3] = np.where(was_on & is_on, both, np.where(is_on, block[..., 3], into[..., 3]))
    into[..., 0] = np.maximum(into[..., 0], block[..., 0])
    into[..., 1:3] = np.minimum(into[..., 1:3], block[..., 1:3])


def _slots(sample: np.ndarray):
    """Split rows, sorted by sample, into groups that hold each sample at most once."""
    if not len(sample):
        return
    starts = np.r_[True, sample[1:] != sample[:-1]]
    rank = np.arange(len(sample)) - np.flatnonzero(starts)[np.cumsum(starts) - 1]
    for k in range(int(rank.max()) + 1):
        yield np.flatnonzero(rank == k)


def _audience_rows(calendar: Calendar, users: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give user -> calendar rows as offsets and rows (CSR), in calendar order."""
    import polars as pl

    events = calendar.events.sort("start", "event", "type", maintain_order=True)
    ids = pl.DataFrame(
        {"user": [str(u) for u in users], "index": np.arange(len(users))}, schema={"user": pl.String, "index": pl.Int64}
    )
    pairs = (
        events.with_row_index("row")
        .select("row", "audience")
        .drop_nulls()
        .join(calendar.audiences, on="audience")
        .join(ids, on="user")
        .sort("index", "row")
    )
    counts = np.bincount(pairs["index"].to_numpy(), minlength=len(users))
    return np.r_[0, np.cumsum(counts)].astype(np.int64), pairs["row"].to_numpy().astype(np.int64)
