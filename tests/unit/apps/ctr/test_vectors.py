"""Vectors of users enter an impression only from days before it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from habitus.apps.ctr.features import make_examples
from habitus.apps.ctr.vectors import read_vectors, vectors_before
from habitus.core.errors import SchemaError, SourceError
from habitus.data.impressions import Impressions


def tables(folder: Path, shown: Impressions, *, shape: int = 3) -> None:
    """One table per day: the vector of user u on day d is (u, d, 1). User 5 has none."""
    users = np.setdiff1d(shown.ids["user"], [5])
    for day in np.unique(shown.day):
        vector = np.stack([users, np.full(len(users), day), np.ones(len(users))][:shape], 1).astype(np.float32)
        table = pl.DataFrame({"user": users, "as_of": np.full(len(users), day, np.int32), "vector": vector})
        table.with_columns(pl.col("as_of").cast(pl.Date)).write_parquet(folder / f"v{day}.parquet")


def test_a_vector_is_of_an_earlier_day(tmp_path: Path, shown: Impressions):
    tables(tmp_path, shown)
    found = vectors_before(shown, read_vectors(tmp_path, ["v*.parquet"]))
    first, user = int(shown.day.min()), shown.ids["user"]
    has = (shown.day > first) & (user != 5)
    assert 0 < has.mean() < 1
    np.testing.assert_array_equal(found[:, 0], has)
    np.testing.assert_array_equal(found[has, 1], user[has])
    np.testing.assert_array_equal(found[has, 2], shown.day[has] - 1)
    assert not found[~has].any()


def test_the_latest_of_several_days_is_taken(tmp_path: Path, shown: Impressions):
    tables(tmp_path, shown)
    first = int(shown.day.min())
    found = vectors_before(shown, read_vectors(tmp_path, [f"v{first}.parquet", f"v{first + 2}.parquet"]))
    rows = (shown.day == first + 2) & (shown.ids["user"] != 5)  # the vector of its own day exists, and is not taken
    assert set(found[rows, 2]) == {first}
    rows = (shown.day == first + 4) & (shown.ids["user"] != 5)
    assert set(found[rows, 2]) == {first + 2}


def test_models_read_them_as_dense_features(tmp_path: Path, shown: Impressions):
    tables(tmp_path, shown)
    lurm = vectors_before(shown, read_vectors(tmp_path, ["v*.parquet"]))
    spec = make_examples(shown, features="+lurm", lurm=lurm)["test"].spec
    assert [name for name in spec.dense_names if name.startswith("lurm")] == [f"lurm_{i}" for i in range(4)]


def test_what_is_refused(tmp_path: Path, shown: Impressions):
    with pytest.raises(SourceError, match="habitus embed"):
        read_vectors(tmp_path, ["none*.parquet"])
    with pytest.raises(SchemaError, match="patterns"):
        read_vectors(tmp_path, [])
    pl.DataFrame({"user": [1]}).write_parquet(tmp_path / "bad.parquet")
    with pytest.raises(SchemaError, match="as_of"):
        read_vectors(tmp_path, ["bad.parquet"])
    (tmp_path / "a").mkdir()
    tables(tmp_path / "a", shown)
    tables(tmp_path, shown, shape=2)
    with pytest.raises(SchemaError, match="one length"):
        read_vectors(tmp_path, ["v*.parquet", "a/v*.parquet"])
