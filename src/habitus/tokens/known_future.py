"""What the calendar says at a cut-off: columns about the days after it, and about events of the past."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from habitus.tokens.known_events import KnownEvents, item_pairs, n_touches

SUB_HORIZONS = (7, 14, 28)
_NEVER = -1e9
_CHUNK = 2**17  # samples whose events are looked at together


@dataclass(frozen=True)
class _Events:
    """The events of the wanted types as arrays; audiences as (user index, event) pairs."""

    type: np.ndarray
    start: np.ndarray
    end: np.ndarray
    announced: np.ndarray
    strength: np.ndarray
    is_shared: np.ndarray
    pair_user: np.ndarray
    pair_event: np.ndarray


def known_future(
    calendar: Any, users: pl.Series, user: np.ndarray, cutoff: np.ndarray, *, horizon: int, types: Sequence[str]
) -> dict[str, np.ndarray]:
    """Describe the announced events after each cut-off -> columns `future.*`, each float [n].

    Only events with `announced_at` <= cut-off that end after it count, and those with an audience only for its users.
    Per type: `days` (event days in the horizon), `starts` (events that begin in it, also within its first 7, 14 and 28
    days), `strength` (sum over those), `running` (on at the cut-off and after it), `next_start` and `last_end` (days
    from the cut-off, NaN when there is none). `future.weekend_days` counts Saturdays and Sundays of the horizon.

    Events for everyone count up to the end of the horizon only: further away, "days to Christmas" would be another
    name for the date, and a tree would learn the dates of the training cut-offs by heart.

    `users` is the store's column of user ids: row number = user index.
    """
    steps = [h for h in SUB_HORIZONS if h < horizon] + [horizon]
    starts = ["starts" if h == horizon else f"starts.{h}d" for h in steps]
    names = ["days", *starts, "strength", "running", "next_start", "last_end"]
    columns = _columns(_arrays(calendar, users, types), "future", types, names, user, cutoff, (horizon, steps))
    ahead = (cutoff[:, None] + 1 + np.arange(horizon) + 3) % 7 >= 5
    return columns | {"future.weekend_days": ahead.sum(1).astype(np.float64)}


def known_past(
    calendar: Any, users: pl.Series, user: np.ndarray, cutoff: np.ndarray, *, types: Sequence[str]
) -> dict[str, np.ndarray]:
    """Describe the events addressed to each user that began up to the cut-off -> columns `received.*`, each float [n].

    Per type: `count` (how many), `count.28d` (in the last 28 days), `recency` (days since the last began; NaN: none).
    Events for everyone are left out: their past is the same for all users of a cut-off. Types without any event for
    an audience give no column. Ends are not looked at: they may lie after the cut-off.
    """
    events = _arrays(calendar, users, types)
    addressed = [name for j, name in enumerate(types) if (events.type[~events.is_shared] == j).any()]
    events = _arrays(calendar, users, addressed)
    return _columns(events, "received", addressed, ["count", "count.28d", "recency"], user, cutoff, None)


def known_items(
    known: KnownEvents, user: np.ndarray, cutoff: np.ndarray, *, horizon: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Describe the events that name items -> columns `received.*` of the past and `future.*`, each float [n].

    An event is open when no event of the user up to the cut-off was about its items: work not handed in, a campaign of
    products never bought. Per type, of events begun by the cut-off: `open` and `open.28d` (how many are still open),
    `open.strength` (summed), `open.recency` (days since the last of them began), `touches` (events of the user about
    their items). Of events that end after the cut-off and begin within the horizon: the same `touches`; `open` and
    `open.strength` of those that begin after it (within its first 7, 14 and 28 days too), `open.running` of the others,
    and `next_open`, the days to the next open one (NaN: none).
    """
    steps = [h for h in SUB_HORIZONS if h < horizon] + [horizon]
    parts = [
        _item_table(known, user[i : i + _CHUNK], cutoff[i : i + _CHUNK], horizon, steps)
        for i in range(0, max(len(user), 1), _CHUNK)
    ]
    sides = []
    for prefix, table in zip(("received", "future"), ([part[side] for part in parts] for side in (0, 1))):
        columns = {name: np.concatenate([one[name] for one in table]) for name in table[0]}
        sides.append({f"{prefix}.{t}.{n}": v[:, j] for j, t in enumerate(known.item_types) for n, v in columns.items()})
    return sides[0], sides[1]


def _item_table(
    known: KnownEvents, user: np.ndarray, cutoff: np.ndarray, horizon: int, steps: list[int]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Give the columns of the past and of the future, each [n, item types]."""
    sample, row = item_pairs(known, user, cutoff)
    n_types = len(known.item_types)
    cell, n_cells = sample * n_types + known.item_type[row], len(user) * n_types
    count = n_touches(known, user[sample], row, cutoff[sample])
    begin, finish = known.start[row] - cutoff[sample], known.end[row] - cutoff[sample]
    is_open, strength = count == 0, np.exp(known.log_strength[row].astype(np.float64))

    def total(value: np.ndarray) -> np.ndarray:
        return np.bincount(cell, weights=value.astype(np.float64), minlength=n_cells).reshape(-1, n_types)

    def nearest(gap: np.ndarray, counts: np.ndarray) -> np.ndarray:
        flat = np.full(n_cells, np.inf)
        np.minimum.at(flat, cell[counts], gap[counts].astype(np.float64))
        return np.where(np.isfinite(flat), flat, np.nan).reshape(-1, n_types)

    begun = is_open & (begin <= 0)
    past = {
        "open": total(begun),
        "open.28d": total(begun & (begin > -28)),
        "open.strength": total(np.where(begun, strength, 0)),
        "open.recency": nearest(-begin, begun),
        "touches": total(np.where(begin <= 0, count, 0)),
    }
    is_coming = (finish > 0) & (begin <= horizon)
    ahead = is_open & (begin >= 1)
    future = {"touches": total(np.where(is_coming, count, 0)), "open.running": total(is_open & is_coming & (begin < 1))}
    for h in steps:
        within, ending = ahead & (begin <= h), "" if h == horizon else f".{h}d"
        future |= {f"open{ending}": total(within), f"open.strength{ending}": total(np.where(within, strength, 0))}
    return past, future | {"next_open": nearest(begin, ahead & (is_coming | ~known.is_shared[row]))}


def _columns(
    events: _Events,
    prefix: str,
    types: Sequence[str],
    names: list[str],
    user: np.ndarray,
    cutoff: np.ndarray,
    ahead: tuple[int, list[int]] | None,
) -> dict[str, np.ndarray]:
    """Describe each cut-off for its samples; `ahead` is (horizon, first days of it), None looks back."""
    if not types:
        return {}
    value = np.zeros((len(user), len(names), len(types)))
    for day in np.unique(cutoff):
        rows = np.flatnonzero(cutoff == day)
        sums, extremes, is_usable = _past(events, int(day)) if ahead is None else _future(events, int(day), *ahead)
        value[rows] = _gather(events, user[rows], sums, extremes, is_usable, len(types))
    return {f"{prefix}.{kind}.{name}": value[:, i, j] for j, kind in enumerate(types) for i, name in enumerate(names)}


def _arrays(calendar: Any, users: pl.Series, types: Sequence[str]) -> _Events:
    code = pl.DataFrame({"type": list(types), "code": range(len(types))}, schema={"type": pl.String, "code": pl.Int64})
    table = calendar.events.join(code, on="type", maintain_order="left").with_row_index("row")
    index = pl.DataFrame({"user": users.cast(pl.String), "index": np.arange(len(users))})
    pairs = calendar.audiences.join(table.select("row", "audience"), on="audience").join(index, on="user")
    start, end, announced = (
        table[name].to_physical().cast(pl.Int64).to_numpy() for name in ("start", "end", "announced_at")
    )
    return _Events(
        type=table["code"].to_numpy(),
        start=start,
        end=end,
        announced=announced,
        strength=table["strength"].to_numpy(),
        is_shared=table["audience"].is_null().to_numpy(),
        pair_user=pairs["index"].cast(pl.Int64).to_numpy(),
        pair_event=pairs["row"].cast(pl.Int64).to_numpy(),
    )


def _future(
    events: _Events, day: int, horizon: int, steps: list[int]
) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
    """Give values to add up, values to take the maximum of, and which events count; each [events]."""
    begin, finish = events.start - day, events.end - day
    is_usable = (events.announced <= day) & (finish > 0) & (~events.is_shared | (begin <= horizon))
    finish = np.where(events.is_shared, np.minimum(finish, horizon), finish)
    overlap = np.clip(np.minimum(finish, horizon) - np.maximum(begin, 1) + 1, 0, None)
    is_ahead = begin >= 1
    sums = [overlap, *(is_ahead & (begin <= h) for h in steps)]
    sums += [np.where(is_ahead & (begin <= horizon), events.strength, 0.0), ~is_ahead]
    return sums, [np.where(is_ahead, -begin, _NEVER), finish], is_usable


def _past(events: _Events, day: int) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
    ago = day - events.start
    is_usable = (events.announced <= day) & (ago >= 0) & ~events.is_shared
    return [np.ones(ago.size), ago < 28], [-ago], is_usable


def _gather(
    events: _Events,
    user: np.ndarray,
    sums: list[np.ndarray],
    extremes: list[np.ndarray],
    is_usable: np.ndarray,
    n_types: int,
) -> np.ndarray:
    """Collect per user and type the events for everyone and the user's own -> [n, sums + extremes, types].

    Extremes are maxima, given without their sign; NaN where there is no event.
    """
    people, place = np.unique(user, return_inverse=True)
    slot = np.searchsorted(people, events.pair_user)
    is_here = (slot < people.size) & is_usable[events.pair_event]
    is_here[is_here] = people[slot[is_here]] == events.pair_user[is_here]
    shared = np.flatnonzero(is_usable & events.is_shared)
    which = np.concatenate([shared, events.pair_event[is_here]])
    # one table row per user, and a last one for the events that everybody shares
    row = np.concatenate([np.full(shared.size, people.size), slot[is_here]])
    cell, n_cells = row * n_types + events.type[which], (people.size + 1) * n_types
    result = np.zeros((user.size, len(sums) + len(extremes), n_types))
    for i, value in enumerate(sums):
        table = np.bincount(cell, weights=value[which].astype(np.float64), minlength=n_cells).reshape(-1, n_types)
        result[:, i] = table[place] + table[-1]
    for i, value in enumerate(extremes, start=len(sums)):
        flat = np.full(n_cells, _NEVER)
        np.maximum.at(flat, cell, value[which].astype(np.float64))
        table = flat.reshape(-1, n_types)
        best = np.maximum(table[place], table[-1])
        result[:, i] = np.where(best > _NEVER, np.abs(best), np.nan)
    return result
