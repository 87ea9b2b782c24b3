"""Interests and counts: additive, exact, equal to a plain group-by, blind to what comes after the cut-off."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from habitus.core.errors import ArtifactError, ConfigError, CutoffError, FingerprintError
from habitus.data.ingest import ingest
from habitus.data.log import EventLog
from habitus.data.schema import Schema
from habitus.data.store import Store
from habitus.tokens.blocks import block_of, block_until, last_day
from habitus.tokens.counts import (
    BLOCK_COLUMNS,
    LIFE_COLUMNS,
    Counts,
    count_interests,
    join_users,
    merge_counts,
    read_counts,
    summed,
    take_users,
    users_of,
    write_counts,
)
from habitus.tokens.interest_lookup import lookup
from habitus.tokens.interests import InterestConfig, Interests, fit_interests

SCHEMA = {
    "events": {
        "user": "user", "time": "time", "type": "kind", "item": "item",
        "amounts": {"spend": {"value": "spend"}}, "categories": {"place": "kind"},
    },
    "items": {
        "from": "table", "key": "item", "columns": {"part": "part", "title": {"column": "title", "kind": "text"}},
    },
}  # fmt: skip
UNTIL = 18262 + 83  # 2020-01-01 + 83 days: a block end by definition


def items() -> pl.DataFrame:
    part = [None if i == 7 else f"p{i % 4}" for i in range(20)]
    return pl.DataFrame(
        {"item": [f"i{i}" for i in range(20)], "part": part, "title": [f"thing {i % 4}" for i in range(20)]}
    )


@pytest.fixture
def parts_store(tmp_path: Path, shop: pl.DataFrame) -> Callable[..., Store]:
    """Ingest a shop whose items have a part, all but one."""

    def make(table: pl.DataFrame = shop, name: str = "s", n_shards: int = 2) -> Store:
        return ingest(EventLog(Schema.parse(SCHEMA), table, items=items()), tmp_path / name, n_shards=n_shards)

    return make


def assert_equal(a: Counts, b: Counts) -> None:
    assert a.version == b.version
    for x, y, names in ((a, b, BLOCK_COLUMNS), (a.life, b.life, LIFE_COLUMNS)):
        for name in ("user_offsets", *names):
            left, right = getattr(x, name), getattr(y, name)
            assert left.dtype == right.dtype, name
            np.testing.assert_array_equal(left, right, err_msg=name)


def as_frame(counts: Counts, store: Store, interests: Interests) -> pl.DataFrame:
    users = store.users["user"].to_numpy()[users_of(counts.user_offsets)]
    columns = {name: getattr(counts, name) for name in BLOCK_COLUMNS}
    names = np.array(interests.names)[counts.interest]
    return pl.DataFrame({"user": users, "name": names, **columns}).drop("interest")


def test_counts_are_a_plain_group_by(parts_store: Callable[..., Store], shop: pl.DataFrame):
    store = parts_store()
    groups = (("purchase", "refund"), ("visit",))
    config = InterestConfig(way="field", fields=("part",), groups=groups, amount="spend")
    interests = fit_interests(store, config, until=UNTIL)
    found = as_frame(count_interests(store, interests), store, interests)
    day = shop["time"].dt.epoch("d").to_numpy()
    plain = (
        shop.with_columns(
            block=pl.Series(block_of(day, "week", interests.week_starts)),
            group=(pl.col("kind") == "visit").cast(pl.Int16),
            name=pl.col("item").replace_strict(dict(zip(items()["item"], items()["part"]))).fill_null("(no content)"),
            cents=(pl.col("spend") * 100).round().cast(pl.Int64),
        )
        .group_by("user", "name", "block", "group")
        .agg(n=pl.len().cast(pl.Int64), amount=pl.col("cents").sum())
    )
    keys = ["user", "block", "group", "name"]
    assert found.height > 1000
    assert found.select(*keys, "n", "amount").sort(keys).equals(plain.select(*keys, "n", "amount").sort(keys))
    assert interests.names == ("(no content)", "p0", "p1", "p2", "p3")
    assert interests.figures["share_of_0"] > 0


def test_life_is_the_sum_of_blocks(parts_store: Callable[..., Store]):
    store = parts_store()
    counts = count_interests(store, fit_interests(store, InterestConfig(way="item"), until=UNTIL))
    user = users_of(counts.user_offsets)
    again = summed(counts.version, counts.n_users, user, 0 * counts.block, *(getattr(counts, n) for n in LIFE_COLUMNS))
    for name in LIFE_COLUMNS:
        np.testing.assert_array_equal(getattr(again, name), getattr(counts.life, name))
    assert counts.life.n.sum() == counts.n.sum() == store.n_events


rows = st.lists(st.tuples(*(st.integers(0, 3),) * 4, st.integers(1, 5), st.integers(-9, 9)), max_size=40)


@given(rows, st.lists(st.booleans(), min_size=40, max_size=40), st.randoms())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
def test_counts_of_parts_add_up_in_any_order(table: list, chosen: list[bool], random):
    def count(some: list) -> Counts:
        columns = np.array(some, np.int64).reshape(-1, 6).T
        return summed("v", 4, *columns)

    sides = [[r for r, c in zip(table, chosen) if c is side] for side in (True, False)]
    for side in sides:
        random.shuffle(side)
    assert_equal(count(table), merge_counts(*map(count, sides)))
    assert_equal(count(table), merge_counts(*map(count, reversed(sides))))


def test_an_event_after_the_cutoff_changes_neither_fit_nor_earlier_counts(
    parts_store: Callable[..., Store], shop: pl.DataFrame
):
    draw = np.random.default_rng(1)
    late = pl.col("time").dt.epoch("d") > UNTIL
    past = shop.filter(~late)
    future = shop.filter(late).with_columns(
        item=pl.Series([f"i{i}" for i in draw.integers(0, 20, shop.filter(late).height)]), spend=pl.lit(7.0)
    )
    assert future.height > 100
    for config in (InterestConfig(way="field", fields=("part",)), InterestConfig(way="item"),
                   InterestConfig(way="field", fields=("place",), block="month")):  # fmt: skip
        stores = [parts_store(table, f"{config.way}{i}{config.block}") for i, table in
                  enumerate((shop, pl.concat([past, future])))]  # fmt: skip
        fits = [fit_interests(store, config, until=UNTIL) for store in stores]
        assert fits[0].names == fits[1].names
        np.testing.assert_array_equal(fits[0].idf, fits[1].idf)
        if config.way != "item":
            assert fits[0].figures == fits[1].figures


def test_a_user_with_none_one_and_many_events(tmp_path: Path):
    n = 100_000
    table = pl.DataFrame(
        {
            "user": ["a"] + ["b"] * n,
            "time": ["2020-01-01"] * (n + 1),
            "kind": ["x"] * (n + 1),
        }
    )
    schema = Schema.parse({"events": {"user": "user", "time": "time", "type": "kind"}})
    store = ingest(EventLog(schema, table), tmp_path / "s")
    interests = fit_interests(store, InterestConfig(way="field", fields=("type",)), until=store.last_day)
    counts = count_interests(store, interests)
    assert counts.n.tolist() == [1, n]
    none = take_users(count_interests(store, dataclasses.replace(interests, groups=(("other",),))), np.array([1]))
    assert (len(none), none.user_offsets.tolist()) == (0, [0, 0])
    assert_equal(join_users([take_users(counts, np.array([u])) for u in (0, 1)]), counts)


def test_counts_and_interests_on_disk(tmp_path: Path, parts_store: Callable[..., Store]):
    store = parts_store()
    interests = fit_interests(store, InterestConfig(way="field", fields=("part", "title")), until=UNTIL)
    counts = count_interests(store, interests)
    write_counts(tmp_path / "counts", counts)
    assert_equal(read_counts(tmp_path / "counts"), counts)
    interests.save(tmp_path / "interests")
    again = Interests.load(tmp_path / "interests")
    assert again.version == interests.version
    assert_equal(count_interests(store, again), counts)
    words = tmp_path / "interests" / "interests.json"
    words.write_text(words.read_text().replace('"week"', '"day"'))
    with pytest.raises(FingerprintError, match=interests.version):
        Interests.load(tmp_path / "interests")
    with pytest.raises(ArtifactError):
        read_counts(tmp_path / "interests")


def test_counts_of_two_versions_never_meet(parts_store: Callable[..., Store]):
    store = parts_store()
    counts = [count_interests(store, fit_interests(store, InterestConfig(way="item", block=block), until=UNTIL))
              for block in ("day", "week")]  # fmt: skip
    with pytest.raises(FingerprintError, match=f"(?s){counts[0].version}.*{counts[1].version}"):
        merge_counts(*counts)


def test_permuted_items_and_relabelled_users_count_alike(parts_store: Callable[..., Store], shop: pl.DataFrame):
    """Other names give other codes and other rows, and the same counts under the names they belong to."""
    renamed = shop.with_columns(user=pl.lit("z") + pl.col("user").str.reverse())
    config = InterestConfig(way="field", fields=("part",))
    tables = []
    for i, table in enumerate((shop, renamed)):
        store = parts_store(table, f"s{i}")
        interests = fit_interests(store, config, until=UNTIL)
        frame = as_frame(count_interests(store, interests), store, interests)
        if i:
            frame = frame.with_columns(user=pl.col("user").str.slice(1).str.reverse())
        tables.append(frame.sort("user", "block", "group", "name"))
    assert tables[0].equals(tables[1])


def test_an_unknown_value_is_interest_0_and_a_known_one_is_found(parts_store: Callable[..., Store]):
    store = parts_store()
    interests = fit_interests(store, InterestConfig(way="field", fields=("place", "type")), until=UNTIL)
    assert set(interests.names) == {"(no content)", *(f"{k} / {k}" for k in store.types)}
    find = lookup(dataclasses.replace(interests, values=interests.values[1:]), store)
    codes = np.arange(len(store.types))
    place = store.vocabulary("place")
    same = {"day": codes, "type": codes, "place": np.array([place.index(k) for k in store.types])}
    first = interests.values[0].split("\x1f")[0]
    assert [bool(v) for v in find(same)] == [k != first for k in store.types]
    mixed = same | {"place": np.roll(same["place"], 1)}
    assert find(mixed).tolist() == [0] * len(codes)


def test_a_cutoff_inside_a_block_names_the_two_nearest(parts_store: Callable[..., Store]):
    interests = fit_interests(parts_store(), InterestConfig(way="item"), until=UNTIL)
    number = block_until(UNTIL, "week", interests.week_starts)
    assert last_day(np.array(number), "week", interests.week_starts) == UNTIL
    with pytest.raises(CutoffError, match="2020-03-24 or 2020-03-31"):
        block_until(UNTIL + 2, "week", interests.week_starts)


def test_errors_name_what_is_meant(parts_store: Callable[..., Store]):
    store = parts_store()
    with pytest.raises(ConfigError, match="did you mean 'part'"):
        fit_interests(store, InterestConfig(way="field", fields=("parts",)), until=UNTIL)
    with pytest.raises(ConfigError, match="did you mean 'visit'"):
        fit_interests(store, InterestConfig(way="item", groups=(("visits",),)), until=UNTIL)
    with pytest.raises(ConfigError, match="spend"):
        fit_interests(store, InterestConfig(way="item", amount="spent"), until=UNTIL)
