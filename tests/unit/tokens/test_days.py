"""User-day tokens equal a plain group-by of the log."""

import numpy as np
import polars as pl

from habitus.tokens.days import day_table


def test_day_tokens_equal_a_group_by_of_the_log(make_store, shop):
    store = make_store(shop)
    table = day_table(store)
    names = {name: j for j, name in enumerate(table.features)}
    expected = shop.group_by("user", pl.col("time").dt.date().to_physical().alias("day")).agg(
        visits=(pl.col("kind") == "visit").sum(),
        purchases=(pl.col("kind") == "purchase").sum(),
        spend=pl.col("spend").filter(pl.col("kind") == "purchase").sum(),
        items=pl.col("item").n_unique(),
        sessions=pl.col("basket").n_unique(),
    )
    assert len(table.day) == expected.height
    wanted = {(row["user"], row["day"]): row for row in expected.to_dicts()}
    columns = {"visits": "count(visit)", "purchases": "count(purchase)", "spend": "sum(spend of purchase)"}
    columns |= {"items": "items", "sessions": "sessions"}
    for u, user in enumerate(store.users["user"]):
        days = table.day[table.offsets[u] : table.offsets[u + 1]]
        assert (np.diff(days) > 0).all()
        for row in range(table.offsets[u], table.offsets[u + 1]):
            for ours, theirs in columns.items():
                assert np.isclose(table.value[row, names[theirs]], wanted[user, int(table.day[row])][ours])


def test_made_once_and_kept_in_the_store(make_store, shop):
    store = make_store(shop)
    first = day_table(store)
    stamp = (store.path / "derived").stat().st_mtime_ns
    second = day_table(store)
    assert np.array_equal(first.value, second.value)
    assert (store.path / "derived").stat().st_mtime_ns == stamp


def test_rare_types_share_one_column(make_store, shop, monkeypatch):
    monkeypatch.setattr("habitus.tokens.days.MAX_TYPES", 2)
    table = day_table(make_store(shop))
    counts = {name for name in table.features if name.startswith("count(")}
    assert counts == {"count(visit)", "count(purchase)", "count(other)"}
    column = table.features.index("count(other)")
    assert table.value[:, column].sum() == (shop["kind"] == "refund").sum()
