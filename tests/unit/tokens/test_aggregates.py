"""Windowed aggregates equal a plain loop over the raw rows, and never see past the cut-off."""

from __future__ import annotations

import datetime as dt
from itertools import pairwise

import numpy as np
import polars as pl
import pytest

from habitus.core.errors import CutoffError
from habitus.data.calendar import Calendar, to_date, to_day
from habitus.data.cutoffs import Samples
from habitus.data.store import Store
from habitus.tokens.aggregates import Aggregates, aggregate_spec, aggregates, without_future

FIRST = to_day("2020-01-01")
WINDOWS = (1, 7, 28)
CALENDAR = Calendar.build(
    [
        {"event": "sale", "type": "sale", "start": "2020-03-05", "end": "2020-03-07", "announced_at": "2020-02-20"},
        {"event": "fair", "type": "fair", "start": "2020-03-01", "end": "2020-03-20", "audience": "a"},
        {"event": "fair 2", "type": "fair", "start": "2020-03-10", "strength": 3.0, "audience": "b"},
        {"event": "old fair", "type": "fair", "start": "2020-02-01", "audience": "a"},
        {"event": "far sale", "type": "sale", "start": "2021-01-01"},
    ],
    pl.DataFrame({"audience": ["a", "a", "b"], "user": ["u001", "u002", "u002"]}),
)


def some_samples(store: Store) -> Samples:
    """Every user at three cut-offs, in a shuffled order, one of them twice."""
    user = np.tile(np.arange(store.n_users), 3)
    cutoff = np.repeat(FIRST + np.array([10, 60, 90], np.int32), store.n_users)
    order = np.random.default_rng(1).permutation(user.size)
    return Samples(
        np.append(user[order], user[order[:1]]), np.append(cutoff[order], cutoff[order[:1]]).astype(np.int32)
    )


def column(table: Aggregates, name: str) -> np.ndarray:
    return table.value[:, table.names.index(name)]


def rows_of(shop: pl.DataFrame, user: str, cutoff: int, days: int | None = None, kind: str = "*") -> pl.DataFrame:
    day = pl.col("time").dt.date()
    found = shop.filter((pl.col("user") == user) & (day <= to_date(cutoff)))
    found = found if days is None else found.filter(day > to_date(cutoff - days))
    return found if kind == "*" else found.filter(pl.col("kind") == kind)


def by_hand(shop: pl.DataFrame, user: str, cutoff: int, name: str) -> float:
    """One cell, computed from the raw rows by a plain reading of its name."""
    kind, what, *window = name.split(".")
    days = None if window in ([], ["all"]) else int(window[0].removesuffix("d")) if window[0][0].isdigit() else None
    found = rows_of(shop, user, cutoff, days, kind)
    active = sorted({time.date() for time in found["time"]})
    if what == "count":
        return len(found)
    if what == "days":
        return len(active)
    if what in ("items", "sessions"):
        return found["item" if what == "items" else "basket"].n_unique()
    if what == "spend":
        total = found["spend"].sum()
        return total if window != ["per_day"] else total / len(active) if active else np.nan
    if not active:
        return np.nan
    recency = (to_date(cutoff) - active[-1]).days
    if what == "recency":
        return recency
    gaps = [(b - a).days for a, b in pairwise(active)]
    if not gaps:
        return np.nan
    answers = {"mean": np.mean(gaps), "sd": np.std(gaps), "last": gaps[-1]}
    return recency / np.mean(gaps) if what == "recency_per_gap" else answers[window[0]]


def test_every_past_column_equals_a_loop_over_the_raw_rows(make_store, shop):
    shop = shop.filter(~((pl.col("user") == "u005") & (pl.col("time") < dt.datetime(2020, 3, 10))))  # starts late
    store = make_store(shop)
    samples = some_samples(store)
    spec = aggregate_spec(store, until=FIRST + 90, windows=WINDOWS)
    table = aggregates(store, samples, horizon=14, spec=spec)
    ids = store.users["user"].to_list()
    names = [name for name in table.names if name.split(".")[0] in ("*", *store.types)]
    assert len(names) > 60
    rows = np.random.default_rng(0).choice(len(samples), 25, replace=False)
    rows = np.append(rows, np.flatnonzero(samples.user == ids.index("u005")))
    for row in rows:
        user, cutoff = ids[samples.user[row]], int(samples.cutoff[row])
        expected = [by_hand(shop, user, cutoff, name) for name in names]
        found = [column(table, name)[row] for name in names]
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-4, nan_ok=True), (user, cutoff)


def test_nothing_after_the_cutoff_reaches_a_column(make_store, shop):
    cutoff = FIRST + 60
    is_late = pl.col("time").dt.date() > to_date(cutoff)
    late = shop.filter(is_late)
    shuffle = np.random.default_rng(3).permutation(late.height)
    mixed = late.with_columns(
        late["kind"][shuffle], late["item"][shuffle], pl.Series("spend", late["spend"].to_numpy()[shuffle] * 17.3)
    ).with_columns(user=late["user"][shuffle[::-1]])
    unknown = [*CALENDAR.events.to_dicts(), {"event": "x", "type": "sale", "start": dt.date(2020, 3, 2)}]
    unknown[-1]["announced_at"] = to_date(cutoff + 1)
    tables = []
    calendars = (CALENDAR, Calendar.build(pl.DataFrame(unknown), CALENDAR.audiences))
    for i, (part, calendar) in enumerate(zip((late, mixed), calendars)):
        store = make_store(pl.concat([shop.filter(~is_late), part]), name=f"shop{i}")
        # users are numbered by their ids, and all of them were seen before the cut-off
        samples = Samples(np.arange(store.n_users), np.full(store.n_users, cutoff, np.int32))
        tables.append(aggregates(store, samples, horizon=28, calendar=calendar))
    assert tables[0].names == tables[1].names
    assert tables[0].value.tobytes() == tables[1].value.tobytes()


def test_order_and_repeats_of_samples_do_not_matter(make_store, shop):
    store = make_store(shop)
    samples = some_samples(store)
    spec = aggregate_spec(store, until=FIRST + 90, calendar=CALENDAR)
    whole = aggregates(store, samples, horizon=14, calendar=CALENDAR, spec=spec)
    one_by_one = [
        aggregates(store, samples.take(np.array([i])), horizon=14, calendar=CALENDAR, spec=spec).value
        for i in (0, 7, 31)
    ]
    assert np.concatenate(one_by_one).tobytes() == whole.value[[0, 7, 31]].tobytes()
    assert whole.value[0].tobytes() == whole.value[-1].tobytes()
    again = aggregates(make_store(shop, n_shards=1, name="one"), samples, horizon=14, calendar=CALENDAR, spec=spec)
    assert again.names == whole.names


def test_known_future_is_counted_per_user_and_type(make_store, shop):
    store = make_store(shop)
    ids = store.users["user"].to_list()
    user = np.array([ids.index(name) for name in ("u000", "u001", "u002")] * 2)
    cutoff = np.repeat(np.array([to_day("2020-02-19"), to_day("2020-03-05")], np.int32), 3)
    table = aggregates(store, Samples(user, cutoff), horizon=14, calendar=CALENDAR)
    seen = {name: column(table, name).tolist() for name in table.names}
    nan = np.nan
    # on 19 February the sale is not announced; the fair of a begins in 11 days, that of b in 20: outside the 14 days
    assert seen["future.sale.days"] == [0, 0, 0, 2, 2, 2]
    assert seen["future.sale.next_start"] == pytest.approx([nan] * 6, nan_ok=True)  # the far one is not counted down
    assert seen["future.sale.last_end"] == pytest.approx([nan] * 3 + [2] * 3, nan_ok=True)
    assert seen["future.sale.running"] == [0, 0, 0, 1, 1, 1]
    assert seen["future.fair.days"] == [0, 4, 4, 0, 14, 15]
    assert seen["future.fair.starts"] == [0, 1, 1, 0, 0, 1]
    assert seen["future.fair.starts.7d"] == [0, 0, 0, 0, 0, 1]
    assert seen["future.fair.strength"] == [0, 1, 1, 0, 0, 3]
    assert seen["future.fair.running"] == [0, 0, 0, 0, 1, 1]
    assert seen["future.fair.next_start"] == pytest.approx([nan, 11, 11, nan, nan, 5], nan_ok=True)
    assert seen["future.fair.last_end"] == pytest.approx([nan, 30, 30, nan, 15, 15], nan_ok=True)
    assert seen["received.fair.count"] == [0, 1, 1, 0, 2, 2]
    assert seen["received.fair.count.28d"] == [0, 1, 1, 0, 1, 1]
    assert seen["received.fair.recency"] == pytest.approx([nan, 18, 18, nan, 4, 4], nan_ok=True)
    assert seen["future.weekend_days"] == [4] * 6
    assert "received.sale.count" not in seen
    kept = without_future(table)
    assert set(table.names) - set(kept.names) == {name for name in table.names if name.startswith("future.")}
    assert kept.value.shape == (6, len(kept.names))


def test_an_event_after_the_horizon_says_nothing_of_the_date(make_store, shop):
    store = make_store(shop)
    samples = Samples(np.zeros(3, np.int64), FIRST + np.array([60, 70, 80], np.int32))
    shared = Calendar.build([{"event": "year end", "type": "holiday", "start": "2020-12-31"}])
    table = aggregates(store, samples, horizon=14, calendar=shared)
    future = table.value[:, table.is_known_future]
    assert (np.nan_to_num(future, nan=-1) == np.nan_to_num(future[:1], nan=-1)).all()


def test_columns_are_fixed_by_the_spec(make_store, shop):
    store = make_store(shop)
    early = aggregate_spec(store, until=FIRST + 30, calendar=CALENDAR)
    late = pl.DataFrame({"user": ["u000"], "time": [dt.datetime(2020, 5, 1)], "kind": ["gift"]})
    grown = make_store(pl.concat([shop, late], how="diagonal_relaxed"), name="grown")
    assert aggregate_spec(grown, until=FIRST + 30, calendar=CALENDAR) == early
    samples = Samples(np.array([0]), np.array([FIRST + 40], np.int32))
    first, second = (aggregates(s, samples, horizon=14, calendar=CALENDAR, spec=early) for s in (store, grown))
    assert first.names == second.names
    assert "gift" not in early.types


def test_a_year_ago_and_one_type_only(make_store):
    shop = pl.DataFrame(
        {
            "user": ["a"] * 4,
            "time": [
                dt.datetime(2018, 1, 1),
                dt.datetime(2019, 6, 5),
                dt.datetime(2019, 6, 20),
                dt.datetime(2020, 6, 1),
            ],
            "kind": ["visit"] * 4,
            "item": [None, "i1", "i1", "i2"],
            "basket": [1, 2, 3, 4],
            "spend": [1.0, 2.0, None, 8.0],
        }
    )
    store = make_store(shop, n_shards=1)
    cutoff = np.array([to_day("2020-06-01"), to_day("2018-06-01")], np.int32)
    spec = aggregate_spec(store, until=int(cutoff[0]))
    table = aggregates(store, Samples(np.zeros(2, np.int64), cutoff), horizon=14, spec=spec)
    assert not any(name.startswith("*") for name in table.names)
    assert column(table, "visit.count.year_ago") == pytest.approx([1, np.nan], nan_ok=True)  # 4 .. 17 June 2019
    assert column(table, "visit.spend.year_ago") == pytest.approx([2, np.nan], nan_ok=True)
    assert column(table, "visit.spend.all").tolist() == [11, 1]
    assert column(table, "visit.items.all").tolist() == [2, 0]
    assert column(table, "tenure").tolist() == [882, 151]
    assert column(table, "cutoff.weekday").tolist() == [0, 4]  # a Monday, a Friday


def test_profiles_become_numbers_ages_and_codes(make_store, shop, monkeypatch):
    store = make_store(shop)
    n = store.n_users
    profiles = pl.DataFrame(
        {
            "user": store.users["user"],
            "country": ["UK", None, "FR"] * (n // 3),
            "income": [1.5, None, 3.0] * (n // 3),
            "registered": [dt.date(2019, 12, 31), None, dt.date(2020, 12, 31)] * (n // 3),
        }
    )
    monkeypatch.setitem(store.__dict__, "profiles", profiles)
    table = aggregates(store, Samples(np.arange(3), np.full(3, FIRST, np.int32)), horizon=7)
    assert column(table, "profile.country") == pytest.approx([1, np.nan, 0], nan_ok=True)
    assert column(table, "profile.income") == pytest.approx([1.5, np.nan, 3], nan_ok=True)
    assert column(table, "profile.registered") == pytest.approx([1, np.nan, np.nan], nan_ok=True)  # not yet registered
    assert [n for n, is_code in zip(table.names, table.is_category) if is_code] == ["profile.country"]


def test_no_samples_and_users_without_events(make_store, shop):
    store = make_store(shop)
    none = aggregates(store, Samples(np.zeros(0, np.int64), np.zeros(0, np.int32)), horizon=7, calendar=CALENDAR)
    assert none.value.shape == (0, len(none.names))
    before = aggregates(store, Samples(np.array([0]), np.array([FIRST - 5], np.int32)), horizon=7)
    assert column(before, "*.count.all").tolist() == [0]
    assert np.isnan(column(before, "tenure")).all()
    with pytest.raises(CutoffError, match=r"0 \.\. 29"):
        aggregates(store, Samples(np.array([30]), np.array([FIRST], np.int32)), horizon=7)
    with pytest.raises(CutoffError, match="at least 1 day"):
        aggregate_spec(store, until=FIRST, windows=(0, 7))
