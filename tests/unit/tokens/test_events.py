"""Event tokens: ids by hand, fitted on train alone, frozen."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest

from habitus.core.errors import ConfigError, CutoffError, FingerprintError
from habitus.data.ingest import ingest
from habitus.data.log import EventLog
from habitus.data.schema import Schema
from habitus.tokens.event_split import EventSplit
from habitus.tokens.event_table import event_table
from habitus.tokens.events import EventSpec, EventTokenConfig, fit_event_spec

TIME = {"protocol": "time", "train_until": "2020-02-29", "valid": ["2020-03-02", "2020-03-31"]}
TIME |= {"test": ["2020-04-01", "2020-04-20"]}
SPLIT = EventSplit.parse(TIME)


def visits(rows: list[tuple[str, str, str, str, float | None]], folder, zone: str = "UTC"):
    """A store of (user, time, type, place, amount)."""
    schema = {
        "name": "visits",
        "time_zone": zone,
        "events": {
            "user": "user", "time": "time", "type": "type", "time_is": "utc",
            "categories": {"cell": "cell"}, "amounts": {"spend": {"value": "spend"}},
        },
    }  # fmt: skip
    table = pl.DataFrame(rows, schema=["user", "time", "type", "cell", "spend"], orient="row")
    return ingest(EventLog(Schema.parse(schema), table), folder / "visits.store")


ROWS = [
    ("a", "2020-02-03 11:59:00", "visit", "home", None),
    ("a", "2020-02-03 11:59:00", "buy", "shop", 5.0),
    ("a", "2020-02-04 23:31:00", "visit", "home", 0.0),
    ("a", "2020-03-05 10:00:00", "visit", "gym", -1.0),
    ("a", "2020-04-06 10:00:00", "rare", "shop", 100.0),
    ("b", "2020-02-03 12:00:00", "buy", "office", 7.0),
]


def test_ids_of_a_log_small_enough_to_check_by_hand(tmp_path):
    store = visits(ROWS, tmp_path)
    spec = fit_event_spec(store, EventTokenConfig(place="cell"), SPLIT)
    assert spec.fields == ("gap", "weekday", "slot", "type", "spend", "place")
    assert spec.values == {"type": ("buy", "visit")}  # `rare` and `gym` happen after train
    table = event_table(store, spec)
    one = {name: table.ids[:5, spec.column(name)].tolist() for name in spec.fields}
    assert one["gap"][:2] == [1, 2]  # unknown before the first event, then a tie
    assert min(one["gap"][2:]) > 2
    assert one["weekday"] == [2, 2, 3, 5, 2]  # Monday is 2
    assert one["slot"] == [25, 25, 49, 22, 22]
    assert one["type"] == [3, 2, 3, 3, 1]
    assert one["spend"][0] == 2  # none
    assert one["spend"][2:4] == [3, 4]  # zero, negative
    assert min(one["spend"][1], one["spend"][4]) >= 5
    assert one["place"] == [2, 3, 2, 4, 3]  # the user's own number, in order of first visit
    assert table.ids[5, spec.column("place")] == 2
    assert table.offsets.tolist() == [0, 5, 6]
    assert all(table.ids[:, j].min() >= 0 and table.ids[:, j].max() < n for j, (_, n) in enumerate(spec.shape.fields))


def test_clock_fields_follow_the_zone_of_the_schema_through_daylight_saving(tmp_path):
    store = visits(ROWS, tmp_path, zone="Europe/Paris")
    spec = fit_event_spec(store, EventTokenConfig(fields=("weekday", "slot")), SPLIT)
    times = np.array(["2020-02-04T23:31", "2020-03-29T00:59", "2020-03-29T01:00"], "datetime64[s]").astype(np.int64)
    weekday, slot = spec.clock(times)
    assert weekday.tolist() == [4, 8, 8]  # half past midnight is Wednesday; two Sunday hours
    assert slot.tolist() == [3, 5, 8]  # 00:31, 01:59, then 03:00: the clock jumps
    assert event_table(store, spec).ids[2].tolist() == [4, 3]


def test_it_is_fitted_on_train_alone(make_store, shop):
    config = EventTokenConfig()
    store = make_store(shop)
    rest = shop.filter(pl.col("time") < pl.datetime(2020, 3, 1))
    alone = make_store(rest, name="train")
    assert fit_event_spec(store, config, SPLIT).to_json() == fit_event_spec(alone, config, SPLIT).to_json()


def test_it_survives_json_and_its_fingerprint_tells_another(make_store, shop):
    store = make_store(shop)
    spec = fit_event_spec(store, EventTokenConfig(length=9), SPLIT)
    again = EventSpec.from_json(json.loads(json.dumps(spec.to_json())))
    assert again.fingerprint == spec.fingerprint
    assert again.shape == spec.shape
    assert np.array_equal(event_table(store, again).ids, event_table(store, spec).ids)
    assert fit_event_spec(store, EventTokenConfig(length=8), SPLIT).fingerprint != spec.fingerprint


def test_rare_and_held_out_values_are_unknown(make_store, shop):
    store = make_store(shop)
    config = EventTokenConfig(fields=("type", "item"), held_out=("refund",), min_count=32)
    spec = fit_event_spec(store, config, SPLIT)
    assert spec.values["type"] == ("visit", "purchase")
    assert 0 < len(spec.values["item"]) < 20
    types = event_table(store, spec).ids[:, 0]
    assert (types == 1).sum() == shop.filter(pl.col("kind") == "refund").height


def test_the_table_is_made_once_per_spec_and_mapped(make_store, shop):
    store = make_store(shop)
    spec = fit_event_spec(store, EventTokenConfig(), SPLIT)
    table = event_table(store, spec)
    assert all(isinstance(getattr(table, name), np.memmap) for name in ("ids", "time", "amount", "day"))
    stamp = (store.path / "derived").stat().st_mtime_ns
    event_table(store, spec)
    assert (store.path / "derived").stat().st_mtime_ns == stamp
    assert np.array_equal(np.diff(table.offsets), store.users["n_events"].to_numpy())


def test_another_schema_is_refused(make_store, shop, tmp_path):
    spec = fit_event_spec(make_store(shop), EventTokenConfig(), SPLIT)
    with pytest.raises(FingerprintError, match="schema 'visits'"):
        event_table(visits(ROWS, tmp_path), spec)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ({"fields": ("tipe",)}, "did you mean 'type'"),
        ({"place": "town"}, "a category out of"),
        ({"held_out": ("refnd",)}, "held-out types"),
        ({"held_out": ("refund",), "fields": ("item",)}, "no field 'type'"),
    ],
)
def test_names_that_the_log_lacks_are_refused(make_store, shop, tokens, message):
    with pytest.raises(ConfigError, match=message):
        fit_event_spec(make_store(shop), EventTokenConfig(**tokens), SPLIT)


@pytest.mark.parametrize(
    "change",
    [{"valid": ["2020-02-29", "2020-03-31"]}, {"test": ["2020-03-31", "2020-04-02"]}, {"train_until": None}],
)
def test_parts_that_overlap_or_are_missing_are_refused(change):
    with pytest.raises(CutoffError):
        EventSplit.parse(TIME | change)


def test_leave_last_out_takes_no_days():
    with pytest.raises(CutoffError, match="leave_last_out"):
        EventSplit.parse(TIME | {"protocol": "leave_last_out"})
