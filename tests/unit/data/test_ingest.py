"""Ingest: what is kept and what not, in which order, with which codes and days, and that counts add up."""

from __future__ import annotations

import datetime
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from habitus.core.errors import ConfigError, DiskError, IngestError
from habitus.data.ingest import ingest
from habitus.data.log import EventLog
from habitus.data.pipeline import stream, zones
from habitus.data.schema import Schema
from habitus.data.shards import TEXT_ROWS, TextFile, map_text
from habitus.data.store import Store

FIRST = datetime.datetime(2024, 5, 1)


def schema_of(events: dict[str, Any] | None = None, **others: Any) -> Schema:
    least = {"user": "u", "time": "t", "type": {"constant": "visit"}}
    return Schema.parse({"max_rejected": 1.0, "events": least | (events or {}), **others})


def rows_of(store: Store) -> list[tuple]:
    """Give (user, time, every other value) of all rows in the order of the store."""
    users, found = store.users["user"].to_list(), []
    for i in range(store.n_shards):
        shard = store.shard(i)
        user = np.repeat(np.arange(shard.n_users) + shard.first_user, np.diff(shard.offsets))
        columns = [shard.time, shard.type, *shard.amounts.values(), *shard.categories.values()]
        found += list(zip((users[u] for u in user), *(column.tolist() for column in columns)))
    return found


def bytes_of(path: Path, *, without: str = "rejected") -> dict[str, bytes]:
    files = (file for file in sorted(path.rglob("*")) if file.is_file())
    return {file.name: file.read_bytes() for file in files if without not in file.name and file.name != "manifest.json"}


def at(*hours: float) -> list[datetime.datetime]:
    return [FIRST + datetime.timedelta(hours=hour) for hour in hours]


def test_online_retail_counts_are_those_of_the_data_set(retail_store: Store):
    counts = retail_store.manifest["counts"]
    assert (counts["read"], counts["kept"], counts["rejected"]) == (541_909, 406_829, {"no user": 135_080})
    assert retail_store.n_users == 4_372
    assert sorted(retail_store.types) == ["cancellation", "other", "purchase"]
    assert datetime.date(1970, 1, 1) + datetime.timedelta(days=retail_store.last_day) == datetime.date(2011, 12, 8)
    assert retail_store.profiles is not None
    assert retail_store.profiles["country"].null_count() == 0
    assert retail_store.rejected.height == 135_080
    assert retail_store.rejected["row"][0] == 623
    retail_store.check()


def test_online_retail_amounts_equal_a_plain_aggregation(retail_store: Store):
    from habitus.data.sources.online_retail import FOLDER

    raw = pl.read_parquet(FOLDER / "transactions.parquet").drop_nulls("CustomerID")
    is_purchase = ~pl.col("InvoiceNo").str.starts_with("C") & (pl.col("Quantity") > 0) & (pl.col("UnitPrice") > 0)
    wanted = raw.filter(is_purchase).select(
        n=pl.len(),
        spend=(pl.col("Quantity") * pl.col("UnitPrice")).sum(),
        days=pl.struct("CustomerID", pl.col("InvoiceDate").dt.date()).n_unique(),
        baskets=pl.struct("CustomerID", "InvoiceNo").n_unique(),
    )
    n, spend, days, baskets = 0, 0.0, 0, 0
    for i in range(retail_store.n_shards):
        shard = retail_store.shard(i)
        user = np.repeat(np.arange(shard.n_users), np.diff(shard.offsets))
        bought = shard.type == retail_store.types.index("purchase")
        assert shard.session is not None
        n += int(bought.sum())
        spend += float(shard.amounts["spend"][bought].sum())
        days += len(np.unique(np.stack([user, shard.day])[:, bought], axis=1).T)
        baskets += len(np.unique(np.stack([user, shard.session])[:, bought], axis=1).T)
    assert wanted.row(0) == (n, pytest.approx(spend), days, baskets)


def test_rows_are_sorted_by_user_then_time_and_ties_keep_source_order(tmp_path: Path):
    table = pl.DataFrame({"u": ["b", "a", "b", "a", "b"], "t": at(2, 1, 1, 1, 1), "a": [0.0, 1.0, 2.0, 3.0, 4.0]})
    store = ingest(EventLog(schema_of({"amounts": {"a": {"value": "a"}}}), table), tmp_path / "s")
    assert [(row[0], row[3]) for row in rows_of(store)] == [("a", 1.0), ("a", 3.0), ("b", 2.0), ("b", 4.0), ("b", 0.0)]


def test_a_declared_order_breaks_ties_and_missing_comes_last(tmp_path: Path):
    table = pl.DataFrame({"u": [1] * 4, "t": at(0, 0, 0, 0), "o": [None, 3, 1, 3], "a": [0.0, 1.0, 2.0, 3.0]})
    schema = schema_of({"order": "o", "amounts": {"a": {"value": "a"}}})
    store = ingest(EventLog(schema, table), tmp_path / "s")
    assert [row[3] for row in rows_of(store)] == [2.0, 1.0, 3.0, 0.0]


def test_users_live_in_the_shard_of_their_hash_sorted_by_id(tmp_path: Path):
    users = [str(u) for u in range(50)]
    store = ingest(EventLog(schema_of(), pl.DataFrame({"u": users, "t": at(*range(50))})), tmp_path / "s", n_shards=4)

    def shard_of(user: str) -> int:
        return int(hashlib.md5(user.encode()).hexdigest()[:15], 16) % 4

    assert store.users["user"].to_list() == sorted(users, key=lambda user: (shard_of(user), user))
    firsts = [store.shard(i).first_user for i in range(4)]
    assert firsts == [sum(shard_of(user) < i for user in users) for i in range(4)]


def test_whole_number_ids_stay_numbers_and_sort_as_numbers(tmp_path: Path):
    store = ingest(EventLog(schema_of(), pl.DataFrame({"u": [10, 9, 100], "t": at(0, 1, 2)})), tmp_path / "s")
    assert store.users["user"].to_list() == [9, 10, 100]


ROWS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 10**9), st.sampled_from("abc")), min_size=1, max_size=40)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS, seed=st.integers(0, 99))
def test_any_order_of_distinct_instants_gives_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple], seed: int
):
    distinct = list({(u, t): (u, t, k) for u, t, k in rows}.values())
    table = pl.DataFrame(distinct, schema={"u": pl.Int64, "t": pl.Int64, "k": pl.String}, orient="row")
    schema = schema_of({"time_unit": "s", "type": "k", "categories": {"k2": "k"}})
    stores = []
    for name, given_rows in (("one", table), ("two", table.sample(fraction=1.0, shuffle=True, seed=seed))):
        folder = tmp_path_factory.mktemp("order") / name
        stores.append(ingest(EventLog(schema, given_rows), folder, n_shards=2))
    assert bytes_of(stores[0].path) == bytes_of(stores[1].path)
    assert stores[0].fingerprint == stores[1].fingerprint


def test_threads_and_memory_do_not_change_the_bytes(tmp_path: Path):
    draw = np.random.default_rng(0)
    table = pl.DataFrame(
        {
            "u": draw.integers(0, 5000, 300_000),
            "t": draw.integers(0, 10**6, 300_000),
            "k": draw.choice(["a", "b"], 300_000),
        }
    )
    schema = schema_of({"time_unit": "s", "type": "k", "text": {"k2": "k"}})
    one = ingest(EventLog(schema, table), tmp_path / "one", threads=1, memory_limit="500MB", n_shards=2)
    two = ingest(EventLog(schema, table), tmp_path / "two", threads=4, memory_limit="2GB", n_shards=2)
    assert bytes_of(one.path) == bytes_of(two.path)


def test_codes_follow_the_first_instant_then_the_text(tmp_path: Path):
    table = pl.DataFrame(
        {"u": [1] * 5, "t": at(3, 2, 1, 1, 9), "k": ["late", "mid", "b", "a", "b"], "i": ["x", None, "", "y", "x"]}
    )
    store = ingest(EventLog(schema_of({"type": "k", "item": "i"}), table), tmp_path / "s")
    assert store.types == ["a", "b", "mid", "late"]
    assert store.items == ["y", "x"]
    codes = store.shard(0).item
    assert codes is not None
    assert codes.tolist() == [-1, 0, -1, 1, 1]


def test_unusable_rows_are_counted_with_reason_and_place(tmp_path: Path):
    table = pl.DataFrame(
        {
            "u": ["a", None, "", "a", "a", "a", "a", "a", "a"],
            "t": ["2024-05-01"] * 3 + [None, "yesterday", "2023-12-31 23:59", "2024-05-01", "2024-05-01", "2024-05-01"],
            "k": ["v"] * 6 + [None, "v", "v"],
            "a": ["1"] * 7 + ["x", "1e9"],
        }
    )
    events = {"type": "k", "time_range": ["2024-01-01", "2024-12-31"], "amounts": {"a": {"value": "a", "max": 100}}}
    store = ingest(EventLog(schema_of(events), table), tmp_path / "s")
    counts = store.manifest["counts"]
    assert counts["rejected"] == {
        "no user": 2,
        "a above its maximum": 1,
        "a cannot be read": 1,
        "no time": 1,
        "no type": 1,
        "time cannot be read": 1,
        "time outside the stated range": 1,
    }
    assert counts["read"] == counts["kept"] + sum(counts["rejected"].values())
    assert store.rejected["row"].to_list() == [2, 3, 4, 5, 6, 7, 8, 9]
    assert store.rejected["raw"][3] == '{"u":"a","t":"yesterday","k":"v","a":"1"}'


def test_missing_amounts_are_nan_and_infinite_ones_are_rejected(tmp_path: Path):
    table = pl.DataFrame({"u": [1] * 4, "t": at(0, 1, 2, 3), "a": [1.0, None, float("nan"), float("inf")]})
    store = ingest(EventLog(schema_of({"amounts": {"a": {"value": "a", "max": 5}}}), table), tmp_path / "s")
    np.testing.assert_array_equal(store.shard(0).amounts["a"], [1.0, np.nan, np.nan])
    assert store.manifest["counts"]["rejected"] == {"a is not finite": 1}


def test_the_first_row_of_a_key_is_kept(tmp_path: Path):
    table = pl.DataFrame(
        {"u": ["a", "a", "b", None], "t": at(5, 1, 1, 0), "id": [1, 1, 2, 2], "a": [0.0, 1.0, 2.0, 3.0]}
    )
    schema = schema_of({"key": ["id"], "amounts": {"a": {"value": "a"}}})
    store = ingest(EventLog(schema, table), tmp_path / "s")
    assert [row[3] for row in rows_of(store)] == [0.0, 2.0]
    assert store.manifest["counts"]["rejected"] == {"duplicate key": 1, "no user": 1}


@pytest.mark.parametrize(
    ("zone", "local", "utc"),
    [
        ("Europe/London", "2024-03-31 00:59", "2024-03-31 00:59"),
        ("Europe/London", "2024-03-31 01:30", "2024-03-31 01:30"),  # skipped by the clock
        ("Europe/London", "2024-03-31 02:00", "2024-03-31 01:00"),
        ("Europe/London", "2024-10-27 01:30", "2024-10-27 00:30"),  # occurs twice: the first
        ("Europe/London", "2024-10-27 02:00", "2024-10-27 02:00"),
        ("Asia/Kolkata", "2024-01-01 00:00", "2023-12-31 18:30"),
        ("America/Sao_Paulo", "2018-11-04 00:30", "2018-11-04 03:30"),  # midnight itself is skipped
    ],
)
def test_local_times_become_instants(tmp_path: Path, zone: str, local: str, utc: str):
    store = ingest(EventLog(schema_of(time_zone=zone), pl.DataFrame({"u": [1], "t": [local]})), tmp_path / "s")
    assert np.array(store.shard(0).time, "datetime64[us]").astype("datetime64[m]") == np.datetime64(utc)


def test_offsets_in_the_text_and_utc_times_are_instants(tmp_path: Path):
    table = pl.DataFrame(
        {"u": [1, 2, 3], "t": ["2024-07-01T00:30:00+01:00", "2024-07-01T00:30:00Z", "2024-07-01 00:30"]}
    )
    day = np.datetime64("2024-07-01").astype(int)
    store = ingest(EventLog(schema_of(time_zone="Europe/London"), table), tmp_path / "s")
    assert store.users["first_day"].to_list() == [day, day, day]
    assert np.diff(store.users["first_time"].to_numpy()).tolist() == [3600 * 10**6, -3600 * 10**6]
    utc = ingest(EventLog(schema_of({"time_is": "utc"}, time_zone="America/New_York"), table), tmp_path / "u")
    assert utc.users["first_day"].to_list() == [day - 1] * 3


@pytest.mark.parametrize("dtype", [pl.Date, pl.Datetime("ms"), pl.Datetime("us", "Asia/Tokyo"), pl.Datetime("ns")])
def test_every_type_of_time_is_read(tmp_path: Path, dtype: pl.DataType):
    table = pl.DataFrame({"u": [1, 2], "t": [FIRST, FIRST]}).with_columns(pl.col("t").cast(dtype))
    store = ingest(EventLog(schema_of(), table), tmp_path / "s")
    expected = (
        table["t"].dt.epoch("us")[0] if dtype != pl.Date else table["t"].cast(pl.Datetime("us")).dt.epoch("us")[0]
    )
    assert store.users["first_time"].to_list() == [expected] * 2


@given(
    st.integers(-(10**15), 4 * 10**15), st.sampled_from(["Europe/London", "America/St_Johns", "Pacific/Apia", "UTC"])
)
def test_local_days_agree_with_the_standard_library(time: int, zone: str):
    from zoneinfo import ZoneInfo

    instant = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(microseconds=time)
    if instant.year < 2037:
        wanted = instant.astimezone(ZoneInfo(zone)).date().toordinal() - datetime.date(1970, 1, 1).toordinal()
        assert zones.local_days(np.array([time]), zone).tolist() == [wanted]


def test_profiles_are_those_of_the_first_row_and_items_of_the_first_value(tmp_path: Path):
    table = pl.DataFrame(
        {
            "u": ["a", "a", "b"],
            "t": at(5, 1, 2),
            "c": ["late", "early", None],
            "i": ["x", "x", "y"],
            "d": ["new", None, "why"],
        }
    )
    schema = schema_of(
        {"item": "i"},
        profile={"columns": {"c": {"column": "c"}}},
        items={"columns": {"d": {"column": "d", "kind": "text"}}},
    )
    store = ingest(EventLog(schema, table), tmp_path / "s")
    assert store.profiles is not None
    assert store.item_table is not None
    assert store.profiles.rows() == [("a", "early"), ("b", None)]
    assert sorted(store.item_table.rows()) == [("x", "new"), ("y", "why")]


def test_profiles_from_a_table_keep_the_last_row_of_a_user(tmp_path: Path):
    profiles = pl.DataFrame({"id": ["a", "z", "a"], "age": ["31", "5", "32"], "since": ["2020-01-01"] * 3})
    columns = {"age": {"column": "age", "kind": "number"}, "since": {"column": "since", "kind": "registered"}}
    schema = schema_of(profile={"from": "table", "key": "id", "columns": columns})
    log = EventLog(schema, pl.DataFrame({"u": ["a", "b"], "t": at(0, 1)}), profiles=profiles)
    store = ingest(log, tmp_path / "s")
    assert store.profiles is not None
    assert store.profiles.rows() == [("a", 32.0, datetime.date(2020, 1, 1)), ("b", None, None)]


def test_text_columns_stand_beside_the_shard(tmp_path: Path):
    table = pl.DataFrame({"u": ["b", "a", "b"], "t": at(2, 1, 1), "q": ["last", None, "first"]})
    store = ingest(EventLog(schema_of({"text": {"query": "q"}}), table), tmp_path / "s")
    assert store.shard(0).text["query"].to_pylist() == [None, "first", "last"]


def test_text_files_are_cut_the_same_however_rows_arrive(tmp_path: Path):
    import pyarrow as pa

    rows = pa.record_batch({"q": pa.array([f"text {i}" for i in range(2 * TEXT_ROWS + 7)])})
    for name, step in (("one", len(rows)), ("two", 30_011)):
        file = TextFile(tmp_path / name, ("q",))
        for start in range(0, len(rows), step):
            file.write(rows.slice(start, step))
        file.close()
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert map_text(tmp_path / "one").num_rows == len(rows)


def test_a_source_that_changes_between_the_passes_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from habitus.core.errors import SourceError

    honest = stream.sorted_rows
    monkeypatch.setattr(stream, "sorted_rows", lambda *given: (batch.slice(1) for batch in honest(*given)))
    with pytest.raises(SourceError, match="another number of rows"):
        ingest(EventLog(schema_of(), pl.DataFrame({"u": [1, 2], "t": at(0, 1)})), tmp_path / "s")
    assert list(tmp_path.iterdir()) == []
    pl.DataFrame({"u": [1, 2], "t": at(0, 1)}).write_parquet(tmp_path / "e.parquet")

    def touched(*given: Any) -> Any:
        yield from honest(*given)
        (tmp_path / "e.parquet").touch()

    monkeypatch.setattr(stream, "sorted_rows", touched)
    with pytest.raises(SourceError, match="a file that changed"):
        ingest(EventLog(schema_of(), tmp_path / "e.parquet"), tmp_path / "s")


def test_nothing_is_left_when_too_many_rows_are_rejected(tmp_path: Path):
    table = pl.DataFrame({"u": [1] * 97 + [None] * 3, "t": at(*range(100))})
    schema = Schema.parse({"events": {"user": "u", "time": "t", "type": {"constant": "v"}}})
    with pytest.raises(IngestError) as caught:
        ingest(EventLog(schema, table), tmp_path / "s")
    assert "3 of 100 (3.00%)" in str(caught.value)
    assert 'row 98: no user: {"u":null' in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_replace_takes_the_place_of_a_store_and_of_nothing_else(tmp_path: Path):
    log = EventLog(schema_of(), pl.DataFrame({"u": [1, 2], "t": at(0, 1)}))
    more = EventLog(schema_of(), pl.DataFrame({"u": [1, 2, 3], "t": at(0, 1, 2)}))
    fresh = ingest(more, tmp_path / "fresh")
    ingest(log, tmp_path / "s")
    with pytest.raises(DiskError, match="exists already"):
        ingest(more, tmp_path / "s")
    assert ingest(more, tmp_path / "s", replace=True).fingerprint == fresh.fingerprint
    assert bytes_of(tmp_path / "s") == bytes_of(tmp_path / "fresh")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "precious.txt").write_text("")
    with pytest.raises(Exception, match="a store"):
        ingest(more, tmp_path / "other", replace=True)
    assert (tmp_path / "other" / "precious.txt").exists()


@pytest.mark.parametrize("limit", ["lots", "4", "100MB"])
def test_a_senseless_memory_limit_is_refused(tmp_path: Path, limit: str):
    log = EventLog(schema_of(), pl.DataFrame({"u": [1], "t": at(0)}))
    with pytest.raises(ConfigError, match="memory_limit"):
        ingest(log, tmp_path / "s", memory_limit=limit)
    assert list(tmp_path.iterdir()) == []
