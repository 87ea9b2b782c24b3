"""The road of whole lives: recipe to run to vectors, cut off in time, refused where it has no say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from habitus.core.errors import ConfigError, CutoffError
from habitus.data.pipeline.swap import changing
from habitus.data.store import Store
from habitus.models.artifact import load_artifact
from habitus.tasks.embed import embed
from habitus.tasks.evaluate import evaluate
from habitus.tasks.predict import predict
from habitus.tasks.train import train
from habitus.testing.threads import one_thread

__all__ = ["one_thread"]

RECIPE = """
name = "lives"
store = "{store}"
until = 2020-03-31
interests = {{ way = "item" }}
model = {{ name = "lurm", size = "tiny", scales = "1x3, 2x3, life" }}
views = {{ batch_size = 16, held_out = 0.2 }}
training = {{ epochs = 2, log_every = 1 }}
"""


def trained(store, folder: Path):
    path = folder / "lives.toml"
    path.write_text(RECIPE.format(store=store.path))
    return train(path, out=folder / "run")


def test_a_recipe_becomes_vectors(make_store, shop, tmp_path):
    store = make_store(shop)
    run = trained(store, tmp_path)
    metrics = json.loads((run.path / "metrics.json").read_text())
    assert len(metrics["history"]) == 2
    assert metrics["n_trained"] + metrics["n_too_short"] <= store.n_users
    assert sum(metrics["mass"]) == pytest.approx(1, abs=1e-4)
    assert load_artifact(run.artifact_path).fingerprint == metrics["interests"]["version"]
    table = embed(run.path, out=tmp_path / "z.parquet")
    assert table.columns == [
        "user", "as_of", "n_events", "n_interests", "last_event", "flat", "vectors", "codebook_version", "model",
    ]  # fmt: skip
    assert table.height == store.n_users
    assert table["n_events"].to_list() == store.users["n_events"].to_list()
    flat = np.stack(table["flat"].to_list())
    assert flat.shape[1] == 64
    np.testing.assert_allclose(np.linalg.norm(flat, axis=1), 1, atol=1e-5)
    assert table["vectors"].dtype == pl.Array(pl.Float32, (4, 16))
    told = json.loads((tmp_path / "z.manifest.json").read_text())
    assert told["codebook_version"] == table["codebook_version"][0]
    last = shop.group_by("user").agg(pl.col("time").max().cast(pl.Date)).rename({"time": "day"})
    joined = table.join(last.with_columns(pl.col("user").cast(table["user"].dtype)), on="user")
    assert joined.height == store.n_users
    assert (joined["last_event"] == joined["day"]).all()
    again = trained(store, tmp_path)
    assert embed(again.path)["flat"].to_list() == table["flat"].to_list()
    for task in (predict, evaluate):
        with pytest.raises(ConfigError, match="user-days"):
            task(run.path)


def test_what_comes_after_the_cut_off_changes_no_vector_before_it(make_store, shop, tmp_path):
    """Fits and vectors of a log that ends otherwise are equal, bit by bit."""
    late = pl.col("time") >= pl.datetime(2020, 4, 1)
    turned = shop.with_columns(item=pl.when(late).then(pl.col("item").reverse()).otherwise(pl.col("item")))
    assert not turned.equals(shop)
    found = []
    for name, log in (("one", shop), ("two", turned)):
        folder = tmp_path / name
        folder.mkdir()
        run = trained(make_store(log, name=name), folder)
        found.append(embed(run.path, cutoff="2020-03-31").sort("user"))
    assert found[0]["n_events"].sum() > 0
    assert found[0]["flat"].to_list() == found[1]["flat"].to_list()
    with pytest.raises(CutoffError, match="last day of a week"):
        embed(tmp_path / "one" / "run", cutoff="2020-03-30")


def test_the_comparator_goes_the_same_road_and_reads_the_counts_of_the_store(make_store, shop, tmp_path):
    store = make_store(shop)
    path = tmp_path / "lives.toml"
    chosen = '{ name = "coles", scales = "1x8", d_model = 16, d_out = 24 }'
    text = RECIPE.format(store=store.path).replace(
        '{ name = "lurm", size = "tiny", scales = "1x3, 2x3, life" }', chosen
    )
    path.write_text(text)
    run = train(path, out=tmp_path / "run")
    assert json.loads((run.path / "metrics.json").read_text())["model"]["name"] == "CoLES"
    version = load_artifact(run.artifact_path).fingerprint
    assert version in Store.open(store.path).manifest["interests"]
    with changing(store.path):  # a store that another process is changing is counted for the fit alone
        path.write_text(text.replace("2020-03-31", "2020-02-29").replace("epochs = 2", "epochs = 1"))
        beside = train(path, out=tmp_path / "beside")
    assert load_artifact(beside.artifact_path).fingerprint not in Store.open(store.path).manifest["interests"]
    table = embed(run.path)
    assert table["flat"].dtype == pl.Array(pl.Float32, 24)
    assert table["n_events"].to_list() == store.users["n_events"].to_list()
    path.write_text(text.replace('"coles"', '"colse"'))
    with pytest.raises(ConfigError, match="coles"):
        train(path, out=tmp_path / "other")
