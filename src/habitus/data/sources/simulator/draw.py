"""Events drawn from the rates, block by block of users: no loop over users, days or events."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from habitus.core.seeds import generator
from habitus.data.sources.simulator.rates import Plan, Rates, shocks
from habitus.data.sources.simulator.users import Users, users_of
from habitus.data.sources.simulator.world import EventType, World

DAY = 86_400_000_000  # microseconds
_ROWS_PER_BLOCK = 2_000_000
EVENT_SCHEMA = pa.schema(
    [
        ("user", pa.int64()),
        ("time", pa.timestamp("us")),
        ("type", pa.dictionary(pa.int32(), pa.string())),
        ("item", pa.int32()),
        ("spend", pa.float64()),
    ]
)


def block_size(world: World) -> int:
    """Users per block: about two million user-days or events, whichever are more."""
    return int(min(max(_ROWS_PER_BLOCK / (world.n_days * max(world.mean_rate, 1.0)), 16), 50_000))


def draw_blocks(world: World, *, shuffle: bool = False) -> Iterator[pa.Table]:
    """Draw all events, one table per block of users: user, time (UTC), type, item, spend.

    Sorted by user and time, or in random order with `shuffle`; the rows are the same. Memory is that of one block.

    >>> sum(block.num_rows for block in draw_blocks(World(n_users=10, n_days=30))) > 0
    True
    """
    size = block_size(world)
    for block, first in enumerate(range(0, world.n_users, size)):
        yield _draw_block(world, block, users_of(world, first, min(size, world.n_users - first)), shuffle)


def _draw_block(world: World, block: int, users: Users, shuffle: bool) -> pa.Table:
    rates = Rates(world, users, Plan.of(world), 0, world.n_days)
    days = np.arange(world.n_days)
    is_there = (days >= users.arrived[:, None]) & (days < users.left[:, None])
    parts = []
    for code, event_type in enumerate(world.event_types):
        draws = generator(world.seed, "events", block, event_type.name)
        parts.append(_draw_type(rates, is_there, event_type, code, draws))
    row, time, code, item, spend = (np.concatenate(columns) for columns in zip(*parts))
    if shuffle:
        order = generator(world.seed, "order", block).permutation(len(row))
    else:
        order = np.argsort(row * np.int64(world.n_days * DAY) + time, kind="stable")
    start = np.datetime64(world.start, "us").astype(np.int64)
    names = pa.array(world.event_names)
    columns = [
        pa.array(users.number[0] + row[order]),
        pa.array(start + time[order]).cast(pa.timestamp("us")),
        pa.DictionaryArray.from_arrays(pa.array(code[order]), names),
        pa.array(item[order], mask=item[order] < 0),
        pa.array(spend[order], mask=np.isnan(spend[order])),
    ]
    return pa.Table.from_arrays(columns, schema=EVENT_SCHEMA)


def _draw_type(
    rates: Rates, is_there: np.ndarray, event_type: EventType, code: int, draws: np.random.Generator
) -> tuple[np.ndarray, ...]:
    """Columns row of the user, microseconds since the world's start, type code, item or -1, spend or NaN."""
    world = rates.world
    counts = draws.poisson(rates.rate(event_type.name) * is_there * shocks(world)).ravel()
    cells = np.flatnonzero(counts)
    cell = np.repeat(cells, counts[cells])
    row, day = np.divmod(cell, world.n_days)
    time = day * DAY + _time_of_day(rates, row, draws)
    item = _items(rates, row, draws) if event_type.has_item else np.full(len(row), -1, dtype=np.int32)
    spend = np.full(len(row), np.nan)
    if event_type.median is not None:
        mean = rates.amount_mean_log(event_type.name)[row, day]
        spend = np.round(np.exp(mean + event_type.sigma * draws.standard_normal(len(row))), 2)
    return row, time, np.full(len(row), code, dtype=np.int32), item, spend


def _time_of_day(rates: Rates, row: np.ndarray, draws: np.random.Generator) -> np.ndarray:
    """Microseconds into the day: around the peak hour of the user type, four hours of spread."""
    peak = np.array([t.peak_hour for t in rates.world.user_types])[rates.users.type]
    hour = (peak[row] + 4.0 * draws.standard_normal(len(row))) % 24.0
    return np.minimum((hour * 3_600_000_000).astype(np.int64), DAY - 1)


def _items(rates: Rates, row: np.ndarray, draws: np.random.Generator) -> np.ndarray:
    """Item codes int32: an interest, then a rank in it, Zipf with exponent 1. Item = interest + n_interests x rank."""
    items = rates.world.items
    is_own = draws.random(len(row)) < items.focus
    which = draws.integers(0, 2, size=len(row))
    anywhere = draws.integers(0, items.n_interests, size=len(row))
    interest = np.where(is_own, rates.users.interests[row, which], anywhere)
    n_ranks = max(items.n_items // items.n_interests, 1)
    rank = np.floor(np.exp(draws.random(len(row)) * np.log(n_ranks + 1))) - 1
    item = interest + items.n_interests * np.minimum(rank, n_ranks - 1).astype(np.int64)
    return np.minimum(item, items.n_items - 1).astype(np.int32)
