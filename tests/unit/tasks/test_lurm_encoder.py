"""LurmEncoder: scikit-learn's manners, a policy for the unknown, and the same vectors after save, append and erase."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from habitus.core.errors import ArtifactError, ConfigError
from habitus.data.sources.interest_worlds import Twins, draw_tastes
from habitus.tasks.lurm_encoder import LurmEncoder
from habitus.testing.threads import one_thread  # noqa: F401

WAY = {"size": "tiny", "interests": "item", "epochs": 0, "scales": "4x3, life"}


@pytest.fixture(scope="module")
def log():
    return draw_tastes(Twins(n_users=60, n_interests=300, n_tastes=20, n_events=40)).log()


@pytest.fixture(scope="module")
def fitted(log):
    return LurmEncoder(**WAY).fit(log)


def test_the_constructor_only_stores_and_clones_are_equal(log, fitted):
    encoder = LurmEncoder(on_unknown="whatever", **WAY)  # type: ignore[arg-type]
    assert encoder.get_params()["on_unknown"] == "whatever"
    with pytest.raises(ConfigError, match="one of empty, error"):
        encoder.fit(log)
    users = ["u3", "u1"]
    assert np.array_equal(clone(fitted).fit(log).transform(users), fitted.transform(users))
    assert not hasattr(clone(fitted), "model_")


def test_vectors_are_unit_rows_in_the_order_asked(fitted):
    users = [f"u{i}" for i in range(60)]
    value = fitted.transform(users)
    assert value.dtype == np.float32
    assert value.shape == (60, 64) == (60, len(fitted.get_feature_names_out()))
    assert np.allclose(np.linalg.norm(value, axis=1), 1, atol=1e-5)
    assert np.allclose(fitted.transform(pl.Series(users[::-1])), value[::-1], atol=1e-6)
    assert np.allclose(fitted.transform(np.array([["u5"]], object)), value[5:6], atol=1e-6)


def test_a_pipeline_learns_from_it(fitted, log):
    users = np.array([f"u{i}" for i in range(60)], object)
    y = fitted.transform(users)[:, 0] > np.median(fitted.transform(users)[:, 0])
    model = make_pipeline(LurmEncoder(**WAY), LogisticRegression(C=100.0))
    model[0].fit(log)
    assert LogisticRegression(C=100.0).fit(model[0].transform(users), y).score(fitted.transform(users), y) > 0.8


def test_unknown_users_are_empty_or_an_error(fitted, log):
    nobody = fitted.transform(["nobody", "u1", "nowhere"])
    assert np.array_equal(nobody[0], nobody[2])
    assert not np.allclose(nobody[0], nobody[1])
    strict = LurmEncoder(on_unknown="error", **WAY).fit(log)
    assert strict.transform(["u1"]).shape == (1, 64)
    with pytest.raises(ConfigError, match="'nobody'"):
        strict.transform(["u1", "nobody"])


def test_saved_and_loaded_it_says_the_same(fitted, log, tmp_path):
    path = fitted.save(tmp_path / "encoder")
    again = LurmEncoder.load(path, log)
    assert np.allclose(again.transform(["u1", "u9"]), fitted.transform(["u1", "u9"]), atol=1e-6)
    assert again.get_params()["scales"] == "4x3, life"
    with pytest.raises(ArtifactError):
        LurmEncoder.load(tmp_path, log)


def test_append_and_erase_touch_those_they_name(log):
    encoder = LurmEncoder(**WAY).fit(log)
    users = [f"u{i}" for i in range(60)]
    before = encoder.transform(users)
    last = log.events["time"].max()
    encoder.append(pl.DataFrame({"user": ["u7"] * 3, "time": [last] * 3, "item": ["i3"] * 3}))
    after = encoder.transform(users)
    moved = np.abs(after - before).max(axis=1) > 1e-5
    assert moved[7]
    assert moved.sum() == 1
    done = encoder.erase(["u9"])
    assert done.n_users == 1
    left = [name for name in users if name != "u9"]
    assert np.allclose(encoder.transform(left), np.delete(after, 9, axis=0), atol=1e-6)
    assert np.array_equal(encoder.transform(["u9"]), encoder.transform(["nobody"]))


def test_it_finds_twins(log):
    encoder = LurmEncoder(**WAY).fit(log)
    found = encoder.similar(["u0", "u10"], k=10)
    assert found.filter(pl.col("user") == "u0")["like"].to_list().count("u1") == 1
    assert found.height == 20


def test_described_by_names_and_shares_that_sum_to_one(fitted, log):
    found = fitted.describe(["u4", "nobody", "u0"], k=300)
    assert set(found["user"]) == {"u4", "u0"}
    shares = found.unique(["user", "anchor"]).group_by("user").agg(pl.col("share").sum())["share"]
    assert np.allclose(shares, 1, atol=1e-5)
    mine = log.events.filter(pl.col("user") == "u4")["item"].value_counts().rows()
    seen = found.filter(pl.col("user") == "u4").unique("interest").select("interest", "n").rows()
    assert dict(seen) == dict(mine)
    few = fitted.describe(["u4"], k=2)
    assert few["rank"].max() == 2
    assert few.filter(pl.col("rank") == 1)["weight"].min() > 0
