"""The crowd columns equal sums over the raw rows, and never see past the cut-off."""

from __future__ import annotations

import numpy as np
import polars as pl

from habitus.data.calendar import to_date, to_day
from habitus.data.cutoffs import samples_at
from habitus.tokens.aggregates import aggregate_spec, aggregates
from habitus.tokens.crowd import crowd
from habitus.tokens.spec import ProfileEncoder

FIRST = to_day("2020-01-01")


def test_columns_equal_a_plain_count(make_store, shop):
    store = make_store(shop)
    cutoff = np.array([FIRST + 90, FIRST + 30, FIRST + 90])
    found = crowd(store, cutoff, ("purchase", "never seen"), (7, 28))
    day = pl.col("time").dt.date()
    for row, c in enumerate(cutoff):
        rows = shop.filter((pl.col("kind") == "purchase") & (day <= to_date(int(c))))
        usual = rows.height / (c - store.first_day + 1)  # a log younger than 112 days
        for window in (7, 28):
            now = rows.filter(day > to_date(int(c) - window)).height / window
            assert found[f"crowd.purchase.{window}d"][row] == np.float32(np.log(now / usual))
    assert not found["crowd.never seen.7d"].any()


def test_later_rows_change_nothing_and_earlier_ones_do(make_store, shop):
    cutoff, day = np.array([FIRST + 60]), pl.col("time").dt.date()
    whole = crowd(make_store(shop, name="one"), cutoff, ("purchase",), (14,))
    past = crowd(make_store(shop.filter(day <= to_date(FIRST + 60)), name="two"), cutoff, ("purchase",), (14,))
    busy = pl.concat([shop, shop.filter((day <= to_date(FIRST + 60)) & (day > to_date(FIRST + 50)))])
    more = crowd(make_store(busy, name="three"), cutoff, ("purchase",), (14,))
    assert np.array_equal(whole["crowd.purchase.14d"], past["crowd.purchase.14d"])
    assert more["crowd.purchase.14d"][0] > whole["crowd.purchase.14d"][0]


def test_the_profile_holds_them_where_asked_for_and_aggregates_stay_as_they_were(make_store, shop):
    store = make_store(shop)
    samples = samples_at(store, np.array([FIRST + 60, FIRST + 90], np.int32))
    with_crowd = ProfileEncoder.fit(store, samples, "windows", horizon=7, has_crowd=True)
    without = ProfileEncoder.fit(store, samples, "windows", horizon=7)
    extra = [name for name in with_crowd.chosen if name not in without.chosen]
    assert extra
    assert all(name.startswith("crowd.") for name in extra)
    assert ProfileEncoder.from_json(with_crowd.to_json()).chosen == with_crowd.chosen
    spec = aggregate_spec(store, until=FIRST + 60)
    assert not any(name.startswith("crowd.") for name in aggregates(store, samples, horizon=7, spec=spec).names)
