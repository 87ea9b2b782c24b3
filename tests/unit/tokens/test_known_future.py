"""Events that name items: what is open or was missed, counted per user and type, up to the cut-off only."""

from __future__ import annotations

import numpy as np
import polars as pl

from habitus.data.calendar import Calendar, to_day
from habitus.data.cutoffs import Samples
from habitus.tokens.aggregates import aggregates, without_future

CUTOFF = to_day("2020-03-10")


def _calendar() -> Calendar:
    rows = [
        {"event": "late", "type": "due", "start": "2020-02-01", "strength": 4.0, "audience": "a"},
        {"event": "recent", "type": "due", "start": "2020-03-08", "strength": 2.0, "audience": "a"},
        {"event": "soon", "type": "due", "start": "2020-03-15", "strength": 3.0, "audience": "a"},
        {"event": "later", "type": "due", "start": "2020-03-30", "strength": 5.0, "audience": "a"},
        {"event": "secret", "type": "due", "start": "2020-03-14", "announced_at": "2020-03-11", "audience": "a"},
        {"event": "fair", "type": "fair", "start": "2020-03-01", "end": "2020-03-20"},
    ]
    groups = pl.DataFrame({"audience": ["a", "a"], "user": ["u001", "u002"]})
    items = [(name, name) for name in ("late", "recent", "soon", "later", "secret")]
    return Calendar.build(rows, groups, pl.DataFrame(items, schema=["event", "item"], orient="row"))


def _with(shop: pl.DataFrame, *rows: tuple[str, str, str]) -> pl.DataFrame:
    more = pl.DataFrame(rows, schema=["user", "time", "item"], orient="row").with_columns(
        pl.col("time").str.to_datetime("%Y-%m-%d", time_unit="us"),
        kind=pl.lit("visit"),
        basket=pl.lit(0, pl.Int64),
        spend=pl.lit(0.0),
    )
    return pl.concat([shop, more.select(shop.columns)])


def _table(make_store, shop: pl.DataFrame, name: str = "shop"):
    store = make_store(shop, name=name)
    users = [store.users["user"].to_list().index(u) for u in ("u001", "u002", "u003")]
    samples = Samples(np.array(users), np.full(3, CUTOFF, np.int32))
    return aggregates(store, samples, horizon=28, calendar=_calendar())


def _row(table, user: int) -> dict[str, float]:
    return dict(zip(table.names, table.value[user].tolist()))


def test_open_and_missed_by_hand(make_store, shop):
    table = _table(make_store, _with(shop, ("u001", "2020-02-20", "late"), ("u001", "2020-03-09", "soon")))
    one, two, outside = (_row(table, u) for u in range(3))
    assert (one["received.due.open"], one["received.due.open.strength"], one["received.due.open.recency"]) == (1, 2, 2)
    assert (one["received.due.touches"], one["future.due.touches"]) == (1, 1)
    assert (two["received.due.open"], two["received.due.open.28d"], two["received.due.open.strength"]) == (2, 1, 6)
    assert (one["future.due.open"], one["future.due.open.7d"], one["future.due.next_open"]) == (1, 0, 20)
    assert (two["future.due.open"], two["future.due.open.7d"], two["future.due.next_open"]) == (2, 1, 5)
    assert (two["future.due.open.strength"], two["future.due.open.strength.7d"]) == (8, 3)
    assert outside["received.due.open"] == outside["future.due.open"] == 0
    assert np.isnan(outside["future.due.next_open"])
    assert not [name for name in table.names if name.startswith("received.fair.open")]
    assert [n for n in without_future(table).names if ".open" in n] == [
        f"received.due.{n}" for n in ("open", "open.28d", "open.strength", "open.recency")
    ]


def test_rows_after_the_cutoff_change_no_column(make_store, shop):
    before, after = ("u001", "2020-03-10", "soon"), ("u002", "2020-03-11", "recent")
    one, two = (_table(make_store, _with(shop, *rows), n) for rows, n in (((before,), "one"), ((before, after), "two")))
    # what the later row does do is add to the items of the log: the columns stay the same
    assert one.names == two.names
    assert np.array_equal(one.value, two.value, equal_nan=True)
    assert _row(two, 0)["future.due.open"] == 1


def test_a_calendar_without_items_has_no_such_column(make_store, shop):
    calendar = _calendar()
    store = make_store(shop)
    samples = Samples(np.arange(3), np.full(3, CUTOFF, np.int32))
    plain = Calendar.build(calendar.events, calendar.audiences)
    table = aggregates(store, samples, horizon=28, calendar=plain)
    assert not [name for name in table.names if ".open" in name or ".touches" in name]
    whole = aggregates(store, samples, horizon=28, calendar=calendar)
    kept = [whole.names.index(name) for name in table.names]
    assert np.array_equal(whole.value[:, kept], table.value, equal_nan=True)
