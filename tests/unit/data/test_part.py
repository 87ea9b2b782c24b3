"""A part of a store is read as the whole is: what a worker finds in it is what the whole holds of its users."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from habitus.core.errors import FingerprintError
from habitus.data.ingest import ingest
from habitus.data.log import EventLog
from habitus.data.part import check_same, part_of
from habitus.data.store import Store
from habitus.tokens import days
from habitus.tokens.days import day_table


@pytest.fixture
def store(make_store: Callable[..., Store], shop: pl.DataFrame) -> Store:
    return make_store(shop, n_shards=4)


def test_parts_put_together_are_the_whole(store: Store, tmp_path: Path):
    parts = [part_of(store, shards, tmp_path) for shards in ([0], [1, 2], [3])]
    assert sum(part.n_users for part in parts) == store.n_users
    assert sum(part.n_events for part in parts) == store.n_events
    assert pl.concat([part.users for part in parts]).equals(store.users)
    assert all(part.shard(0).first_user == 0 and part.fingerprint == store.fingerprint for part in parts)
    times = [part.shard(i).time for part in parts for i in range(part.n_shards)]
    assert np.array_equal(np.concatenate(times), np.concatenate([store.shard(i).time for i in range(4)]))
    assert parts[1].shard(1).first_user == parts[1].shard(0).n_users


@pytest.mark.parametrize("most", [32, 2])
def test_days_of_a_part_are_those_of_the_whole(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
):
    monkeypatch.setattr(days, "MAX_TYPES", most)  # with 2, the third type is "other", by its count in the whole log
    whole = day_table(store)
    parts = [day_table(part_of(store, [i], tmp_path / str(i))) for i in range(4)]
    assert np.array_equal(np.concatenate([part.value for part in parts]), whole.value)
    assert {part.features for part in parts} == {whole.features}
    assert len(list((store.path / "derived").glob("days-*"))) == 1  # those of parts lie elsewhere


def test_a_store_that_changed_is_noticed(store: Store, shop: pl.DataFrame):
    check_same(Store.open(store.path), store.fingerprint)
    ingest(EventLog(store.schema, shop.head(500)), store.path, replace=True)
    with pytest.raises(FingerprintError, match="another one"):
        check_same(Store.open(store.path), store.fingerprint)
