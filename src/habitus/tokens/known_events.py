"""Known events as numbers per day: one shared table per cut-off, and each user's own rows added at load time.

E = 10 + 4 x types + 3 x types that name items. Columns: weekday (7, Monday first) · sine and cosine of the day of the
year (2) · public holiday (1) · per event type: is on, days since the last start, days to the next start (both clipped
at 14, divided by 14; 1 = none near), log strength · per type that names items: touched, open, missed.

Touched is log1p of how many events of the user, up to the cut-off, were about the items of the event that is on. Open:
not touched by the cut-off, 1 while it is on and falling to 0 over the 14 days before it. Missed: over by that day and
not touched, 1 falling to 0 over the 14 days after. A deadline that names the piece of work is the plain case.

Future days do not see each other, so the day before a sale carries it in its own columns. Past days know only events
that began by the cut-off: another future then leaves an encoded past as it was.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from habitus.data.calendar import Calendar
from habitus.data.cutoffs import ranges

if TYPE_CHECKING:
    import polars as pl

    from habitus.data.store import Store

CLOCK = 10
PER_TYPE = 4
PER_ITEM_TYPE = 3
NEAR = 14  # days
HOLIDAY = "holiday"  # the type that also sets the public-holiday column
_EPOCH = np.datetime64("1970-01-01", "D")
_DAYS = 2**20  # days that a touch key can tell apart, half of them before 1970


@dataclass(frozen=True)
class KnownEvents:
    """A calendar as arrays, rows sorted by start: what the loader reads.

    `type` is -1 for a type the model was not fitted with. `rows` of user u, `rows[offsets[u]:offsets[u + 1]]`, are its
    audience events; `is_shared` marks the events of everyone. `item_type` is the place of the event's type in
    `item_types` when the event names items, else -1; `touches` holds one sorted key per (user, event row, day) on which
    an event of the user was about an item of the known event (see `n_touches`).
    """

    types: tuple[str, ...]
    item_types: tuple[str, ...]
    type: np.ndarray  # int64 [n]
    item_type: np.ndarray  # int64 [n]
    start: np.ndarray  # int32 [n] days
    end: np.ndarray
    announced_at: np.ndarray
    log_strength: np.ndarray  # float32 [n]
    is_shared: np.ndarray  # bool [n]
    is_notable: np.ndarray  # bool [n]
    offsets: np.ndarray  # int64 [n_users + 1]
    rows: np.ndarray  # int64
    touches: np.ndarray  # int64

    @property
    def width(self) -> int:
        """E."""
        return n_columns(self.types, self.item_types)


def n_columns(types: tuple[str, ...], item_types: tuple[str, ...] = ()) -> int:
    """Give E.

    >>> n_columns(("due", "holiday")), n_columns(("due", "holiday"), ("due",))
    (18, 21)
    """
    return CLOCK + PER_TYPE * len(types) + PER_ITEM_TYPE * len(item_types)


def known_events(
    calendar: Calendar,
    types: tuple[str, ...],
    users: np.ndarray,
    *,
    item_types: tuple[str, ...] = (),
    store: Store | None = None,
) -> KnownEvents:
    """Prepare a calendar for a log whose users are `users` (ids in store order).

    Users of an audience who are not in the log are passed over, and so are items. Touches are looked up in `store`,
    which `item_types` need.
    """
    import polars as pl

    events = calendar.events.sort("start", "event", "type", maintain_order=True)
    day = {
        name: events[name].to_numpy().astype("datetime64[D]").astype(np.int32)
        for name in ("start", "end", "announced_at")
    }
    offsets, rows = _audience_rows(calendar, users)
    codes = {name: i for i, name in enumerate(types)}
    item_codes = {name: i for i, name in enumerate(item_types)}
    names_items = events.select(pl.col("event").is_in(calendar.items["event"].implode()))["event"].to_numpy()
    item_type = np.array([item_codes.get(name, -1) for name in events["type"]], dtype=np.int64)
    known = KnownEvents(
        types=types,
        item_types=item_types,
        type=np.array([codes.get(name, -1) for name in events["type"]], dtype=np.int64),
        item_type=np.where(names_items, item_type, -1),
        **day,
        log_strength=np.log(events["strength"].to_numpy()).astype(np.float32),
        is_shared=events["audience"].is_null().to_numpy(),
        is_notable=events["is_notable"].to_numpy(),
        offsets=offsets,
        rows=rows,
        touches=np.zeros(0, np.int64),
    )
    if store is None or not (known.item_type >= 0).any():
        return known
    about = events.with_row_index("row").join(calendar.items, on="event").select("row", "item")
    return replace(known, touches=_touches(known, about, store))


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


def hide_events(table: np.ndarray, n_types: int) -> None:
    """Make the days of `table` [..., E] say in place that nothing is known of any event; the clock stays.

    >>> day = np.ones((1, n_columns(("due",), ("due",))), np.float32)
    >>> hide_events(day, n_types=1)
    >>> day[0, 7:].tolist()
    [1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    """
    table[..., CLOCK - 1 :] = 0.0
    for column in (CLOCK + 1, CLOCK + 2):
        table[..., column : CLOCK + PER_TYPE * n_types : PER_TYPE] = 1.0


def add_audience_events(
    table: np.ndarray, known: KnownEvents, users: np.ndarray, cutoffs: np.ndarray, days: np.ndarray
) -> None:
    """Merge each user's own events into `table` B n E in place; `days` B n are the days of its rows.

    Works through the k-th event of all users at once: the loop is as long as the longest list, not the batch.
    """
    near = _near(known, days)
    sample, row = near(*audience_pairs(known, users, cutoffs))
    for b, r in _slots(sample, row):
        place = _place(b, CLOCK + PER_TYPE * known.type[r], PER_TYPE, days.shape[1])
        block = table[place]
        _merge(block, _block(known, r, days[b], cutoffs[b]))
        table[place] = block
    first = n_columns(known.types)
    for b, r in _slots(*near(*item_pairs(known, users, cutoffs))):
        place = _place(b, first + PER_ITEM_TYPE * known.item_type[r], PER_ITEM_TYPE, days.shape[1])
        count = n_touches(known, users[b], r, cutoffs[b])
        table[place] = np.maximum(table[place], _item_block(known, r, days[b], cutoffs[b], count))


def audience_pairs(known: KnownEvents, users: np.ndarray, cutoffs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """List (position in `users`, calendar row) of the audience events each user's cut-off may know of."""
    sample, place = ranges(known.offsets[users], known.offsets[users + 1])
    row = known.rows[place]
    usable = (known.announced_at[row] <= cutoffs[sample]) & (known.type[row] >= 0)
    return sample[usable], row[usable]


def item_pairs(known: KnownEvents, users: np.ndarray, cutoffs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """List (position in `users`, calendar row) of the events that name items, addressed to the user or to everyone."""
    sample, row = audience_pairs(known, users, cutoffs)
    own = known.item_type[row] >= 0
    shared = np.flatnonzero(known.is_shared & (known.item_type >= 0) & (known.type >= 0))
    every, each = np.repeat(np.arange(len(users)), len(shared)), np.tile(shared, len(users))
    usable = known.announced_at[each] <= cutoffs[every]
    sample, row = np.concatenate([sample[own], every[usable]]), np.concatenate([row[own], each[usable]])
    order = np.lexsort((row, sample))
    return sample[order], row[order]


def n_touches(known: KnownEvents, users: np.ndarray, rows: np.ndarray, cutoffs: np.ndarray) -> np.ndarray:
    """Count, per (user, event row), the events of the user up to the cut-off that were about the event's items."""
    pair = _pair(known, users, rows) * _DAYS
    low, high = pair, pair + _DAYS // 2 + cutoffs.astype(np.int64) + 1
    return np.searchsorted(known.touches, high) - np.searchsorted(known.touches, low)


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


def _item_block(
    known: KnownEvents, row: np.ndarray, days: np.ndarray, cutoff: np.ndarray, count: np.ndarray
) -> np.ndarray:
    """Give touched, open and missed of event rows on days: [n, days, 3]."""
    start, end = known.start[row][:, None], known.end[row][:, None]
    is_open = count[:, None] == 0
    is_on = (days >= start) & (days <= end)
    is_seen = (days > cutoff[:, None]) | (start <= cutoff[:, None])
    before = np.where((days < start) & is_seen, np.maximum(1 - (start - days) / NEAR, 0), 0)
    after = np.where(days > end, np.maximum(1 - (days - end) / NEAR, 0), 0)
    touched = np.where(is_on, np.log1p(count)[:, None], 0)
    open_ = np.where(is_open, np.where(is_on, 1.0, before), 0)
    return np.stack([touched, open_, np.where(is_open, after, 0)], axis=-1).astype(np.float32)


def _merge(into: np.ndarray, block: np.ndarray) -> None:
    """Combine two descriptions of one type: on and strength by maximum, day counts by minimum."""
    was_on = into[..., 0] > 0
    is_on = block[..., 0] > 0
    both = np.maximum(into[..., 3], block[..., 3])
    into[..., 3] = np.where(was_on & is_on, both, np.where(is_on, block[..., 3], into[..., 3]))
    into[..., 0] = np.maximum(into[..., 0], block[..., 0])
    into[..., 1:3] = np.minimum(into[..., 1:3], block[..., 1:3])


def _near(known: KnownEvents, days: np.ndarray):
    """Give a filter of (sample, row) pairs: events within NEAR days of any day of the sample."""
    first, last = days.min(axis=1, initial=2**30) - NEAR, days.max(axis=1, initial=-(2**30)) + NEAR

    def near(sample: np.ndarray, row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        is_near = (known.end[row] >= first[sample]) & (known.start[row] <= last[sample])
        return sample[is_near], row[is_near]

    return near


def _place(sample: np.ndarray, first: np.ndarray, width: int, n_days: int) -> tuple[np.ndarray, ...]:
    """Index the columns first .. first + width of all days of some samples of a table B n E."""
    columns = first[:, None] + np.arange(width)
    return sample[:, None, None], np.arange(n_days)[None, :, None], columns[:, None, :]


def _slots(sample: np.ndarray, row: np.ndarray):
    """Split pairs, sorted by sample, into groups that hold each sample at most once."""
    if not len(sample):
        return
    starts = np.r_[True, sample[1:] != sample[:-1]]
    rank = np.arange(len(sample)) - np.flatnonzero(starts)[np.cumsum(starts) - 1]
    order = np.argsort(rank, kind="stable")
    for slot in np.split(order, np.cumsum(np.bincount(rank))[:-1]):
        yield sample[slot], row[slot]


def _pair(known: KnownEvents, users: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return users.astype(np.int64) * len(known.start) + rows


def _touches(known: KnownEvents, about: pl.DataFrame, store: Store) -> np.ndarray:
    """List the touch keys, sorted; `about` holds the rows and items of the events that name any."""
    import polars as pl

    if store.items is None:
        return np.zeros(0, np.int64)
    codes = pl.DataFrame({"item": store.items, "code": np.arange(len(store.items), dtype=np.int32)})
    about = about.join(codes, on="item").select("row", "code").unique()
    is_named = np.zeros(len(store.items) + 1, dtype=bool)  # the last place is that of no item
    is_named[about["code"].to_numpy()] = True
    owned = _pair(known, np.repeat(np.arange(len(known.offsets) - 1), np.diff(known.offsets)), known.rows)
    found = []
    for i in range(store.n_shards):
        shard = store.shard(i)
        assert shard.item is not None
        at = np.flatnonzero(is_named[shard.item])
        user = shard.first_user + np.searchsorted(shard.offsets, at, side="right") - 1
        rows = pl.DataFrame({"user": user, "code": np.asarray(shard.item)[at], "day": np.asarray(shard.day)[at]})
        both = rows.join(about, on="code")
        row = both["row"].to_numpy().astype(np.int64)
        pair = _pair(known, both["user"].to_numpy(), row)
        keep = known.is_shared[row] | np.isin(pair, owned)
        found.append(pair[keep] * _DAYS + _DAYS // 2 + both["day"].to_numpy()[keep])
    return np.sort(np.concatenate(found)) if found else np.zeros(0, np.int64)


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
