"""Targets: parsed strictly, measured as a plain loop over the raw rows would."""

import numpy as np
import polars as pl
import pytest

from habitus.core.errors import TargetError
from habitus.data.calendar import to_day
from habitus.data.cutoffs import Samples
from habitus.data.targets import Target, holds, measure, measure_days

DECLARED = (
    "any(purchase) in 14d",
    "none(visit | purchase) in 14d",
    "count(*) in 14d",
    "days(visit) in 14d",
    "sum(spend of purchase) in 14d",
    "sessions(purchase | refund) in 14d",
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("purchase in 7d", "aggregation(type)"),
        ("anny(purchase) in 7d", "did you mean 'any'?"),
        ("sum(purchase) in 7d", "AMOUNT of TYPE"),
        ("any(spend of purchase) in 7d", "AMOUNT of TYPE"),
        ("any(purchase) in 0d", "at least 1 day"),
        ("any() in 7d", "aggregation(type)"),
    ],
)
def test_a_bad_declaration_says_what_is_wrong(text, said):
    with pytest.raises(TargetError) as caught:
        Target.parse(text)
    assert said in str(caught.value)


@pytest.mark.parametrize("text", DECLARED)
def test_a_declaration_prints_as_it_was_written(text):
    assert Target.parse(str(Target.parse(text))) == Target.parse(str(Target.parse(text)), name=str(Target.parse(text)))
    assert str(Target.parse(text)) == text


def _by_hand(table: pl.DataFrame, target: Target, user: str, first: int, last: int) -> float:
    day = table["time"].dt.date().to_physical()
    rows = table.filter((table["user"] == user) & (day >= first) & (day <= last))
    if target.types:
        rows = rows.filter(pl.col("kind").is_in(list(target.types)))
    return {
        "any": lambda: float(len(rows) > 0),
        "none": lambda: float(len(rows) == 0),
        "count": lambda: len(rows),
        "days": lambda: rows["time"].dt.date().n_unique(),
        "sum": lambda: rows["spend"].sum(),
        "sessions": lambda: _sessions_begun(table, target, user, first, last),
    }[target.aggregation]()


def _sessions_begun(table: pl.DataFrame, target: Target, user: str, first: int, last: int) -> int:
    """Sessions counted on the day of their first row of these types."""
    rows = table.filter((pl.col("user") == user) & pl.col("kind").is_in(list(target.types)))
    begun = rows.group_by("basket").agg(pl.col("time").min().dt.date().to_physical().alias("day"))
    return begun.filter((pl.col("day") >= first) & (pl.col("day") <= last)).height


def test_measured_as_a_loop_over_raw_rows_would(make_store, shop):
    store = make_store(shop)
    targets = tuple(Target.parse(text, name=text) for text in DECLARED)
    start = to_day("2020-01-01")
    users = np.repeat(np.arange(store.n_users), 3)
    cutoffs = np.tile(np.array([start + 20, start + 60, start + 115], np.int32), store.n_users)
    measured = measure(targets, store, Samples(users, cutoffs))
    ids = store.users["user"].to_list()
    for i, (u, c) in enumerate(zip(users, cutoffs)):
        for k, target in enumerate(targets):
            assert measured.value[i, k] == pytest.approx(_by_hand(shop, target, ids[u], c + 1, c + 14)), (target, u, c)
    assert measured.is_observed[cutoffs == start + 60].all()
    assert not measured.is_observed[cutoffs == start + 115].any()


def test_days_add_up_to_the_window(make_store, shop):
    store = make_store(shop)
    start = to_day("2020-01-01")
    samples = Samples(np.arange(store.n_users), np.full(store.n_users, start + 50, np.int32))
    targets = tuple(Target.parse(t, name=t) for t in DECLARED if not t.startswith(("any", "none", "sessions")))
    daily, window = measure_days(targets, store, samples, 14), measure(targets, store, samples)
    assert np.allclose(daily.value.sum(axis=1), window.value)
    any_day = measure_days((Target.parse("any(purchase) in 14d"),), store, samples, 14)
    assert np.array_equal(
        any_day.value.max(axis=1)[:, 0] > 0,
        measure((Target.parse("any(purchase) in 14d"),), store, samples).value[:, 0] > 0,
    )


def test_eligibility_looks_back_only(make_store, shop):
    store = make_store(shop)
    start = to_day("2020-01-01")
    samples = Samples(np.arange(store.n_users), np.full(store.n_users, start + 9, np.int32))
    ids = store.users["user"].to_list()
    for condition in ("any(refund)", "any(refund) in 5d", "none(purchase) in 3d"):
        target = Target.parse(condition)
        first = start + 9 - (target.horizon or 10_000) + 1
        expected = [_by_hand(shop, target, user, first, start + 9) > 0 for user in ids]
        assert holds(condition, store, samples).tolist() == expected


def test_unknown_type_and_amount_are_named(make_store, shop):
    store = make_store(shop)
    samples = Samples(np.array([0]), np.array([to_day("2020-02-01")], np.int32))
    with pytest.raises(TargetError, match="did you mean 'purchase'"):
        measure((Target.parse("any(purchse) in 3d"),), store, samples)
    with pytest.raises(TargetError, match="did you mean 'spend'"):
        measure((Target.parse("sum(spnd of purchase) in 3d"),), store, samples)
    with pytest.raises(TargetError, match="any"):
        holds("count(purchase)", store, samples)
