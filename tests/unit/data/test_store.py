"""The store: what it gives, by memory map, and what it says of a folder that is none."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable

import numpy as np
import polars as pl
import pytest

from habitus.core.errors import StoreError
from habitus.data.store import Store


@pytest.fixture
def store(make_store: Callable[..., Store], shop: pl.DataFrame) -> Store:
    return make_store(shop)


def test_shards_hold_every_user_once_in_order(store: Store, shop: pl.DataFrame):
    shards = [store.shard(i) for i in range(store.n_shards)]
    assert sum(shard.n_events for shard in shards) == store.n_events == shop.height
    assert [shard.first_user for shard in shards] == np.cumsum([0, *(s.n_users for s in shards[:-1])]).tolist()
    assert sum(shard.n_users for shard in shards) == store.n_users == shop["user"].n_unique()
    users = store.users["user"].to_list()
    for shard in shards:
        for j in range(shard.n_users):
            rows = slice(shard.offsets[j], shard.offsets[j + 1])
            own = shop.filter(pl.col("user") == users[shard.first_user + j]).sort("time", maintain_order=True)
            assert shard.time[rows].tolist() == own["time"].dt.epoch("us").to_list()
            assert [store.types[code] for code in shard.type[rows]] == own["kind"].to_list()
            assert shard.item is not None
            assert store.items is not None
            assert [store.items[code] for code in shard.item[rows]] == own["item"].to_list()
            assert shard.amounts["spend"][rows].tolist() == own["spend"].to_list()
            assert shard.day[rows].tolist() == own["time"].dt.date().dt.epoch("d").to_list()
            assert shard.session is not None
            assert shard.session[rows].tolist() == own["basket"].to_list()


def test_columns_are_mapped_not_loaded_and_cannot_be_written(store: Store):
    shard = store.shard(0)
    for column in (shard.time, shard.day, shard.type, shard.amounts["spend"]):
        assert not column.flags.owndata
        assert not column.flags.writeable
        assert column.flags.c_contiguous


def test_any_arrow_engine_reads_a_shard(store: Store):
    import pyarrow as pa

    file = store.path / store.manifest["shards"][0]["file"]
    frame = pl.read_ipc(file)
    assert frame["time"].to_list() == store.shard(0).time.tolist()
    with pa.OSFile(str(file)) as source:
        assert pa.ipc.open_file(source).num_record_batches == 1


def test_users_have_counts_and_first_and_last_instants(store: Store, shop: pl.DataFrame):
    wanted = shop.group_by("user").agg(
        n_events=pl.len(), first_time=pl.col("time").min().dt.epoch("us"), last_time=pl.col("time").max().dt.epoch("us")
    )
    found = store.users.select("user", "n_events", "first_time", "last_time")
    assert sorted(found.rows()) == sorted(wanted.rows())
    assert store.first_day == store.users["first_day"].min()


def test_days_and_counts_are_in_the_manifest(store: Store, shop: pl.DataFrame):
    assert store.first_day == shop["time"].dt.date().dt.epoch("d").min()
    assert store.last_day == shop["time"].dt.date().dt.epoch("d").max()
    assert store.manifest["counts"] == {"read": shop.height, "kept": shop.height, "rejected": {}}
    assert (store.amounts, store.categories, store.profiles, store.item_table) == (("spend",), (), None, None)
    assert store.calendar.events.height == 0


def test_an_unknown_vocabulary_names_the_nearest(store: Store):
    with pytest.raises(StoreError, match="did you mean 'item'"):
        store.vocabulary("items")


def test_the_fingerprint_is_that_of_the_content(make_store: Callable[..., Store], shop: pl.DataFrame):
    one, same = make_store(shop, name="one"), make_store(shop, name="same")
    other = make_store(shop.with_columns(pl.col("spend") + 1), name="other")
    assert one.fingerprint == same.fingerprint != other.fingerprint


def test_check_finds_a_changed_byte(store: Store):
    store.check()
    file = store.path / store.manifest["shards"][1]["file"]
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(StoreError, match="00001-"):
        store.check()


def test_a_lost_or_broken_file_is_named(store: Store):
    shard, users = (
        store.path / entry["file"] for entry in (store.manifest["shards"][0], store.manifest["tables"]["users"])
    )
    shard.write_bytes(b"ARROW1")
    users.unlink()
    fresh = Store.open(store.path)
    with pytest.raises(StoreError, match="users-"):
        _ = fresh.users
    with pytest.raises(StoreError, match=r"users-|00000-"):
        fresh.shard(0)
    (store.path / store.manifest["tables"]["users"]["file"]).write_bytes(b"PAR1")
    with pytest.raises(StoreError, match="users-"):
        fresh.shard(0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda path: shutil.rmtree(path), "no such folder"),
        (lambda path: (path / "manifest.json").unlink(), r"no manifest\.json"),
        (lambda path: (path / "manifest.json").write_text("{"), "manifest"),
        (lambda path: (path / "manifest.json").write_text("[]"), "manifest"),
        (lambda path: (path / "manifest.json").write_text(json.dumps({"format": 99})), "format version 1"),
    ],
)
def test_what_is_no_store_is_said_to_be_none(store: Store, change: Callable, words: str):
    change(store.path)
    with pytest.raises(StoreError, match=words):
        Store.open(store.path)
