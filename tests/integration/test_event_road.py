"""The road of events: recipe to run to answers, for every model of the registry."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from habitus.core.errors import ConfigError, CutoffError, SchemaError
from habitus.core.registry import MODELS, resolve
from habitus.data.calendar import Calendar
from habitus.models.artifact import load_artifact
from habitus.tasks.embed import embed
from habitus.tasks.predict import predict
from habitus.tasks.run import open_run
from habitus.tasks.train import train
from habitus.tasks.whatif import whatif
from habitus.testing.threads import one_thread
from habitus.tokens.event_loader import assemble_events, last_states
from habitus.tokens.event_requests import request_batch
from habitus.tokens.events import EventShape, EventSpec

__all__ = ["one_thread"]

RECIPE = """
name = "{name}"
store = "{store}"
seeds = {seeds}
refit = {refit}
model = {{ name = "{model}"{extra} }}
objective = {objective}
tokens = {{ length = 16 }}
loader = {{ tokens_per_batch = 512 }}
training = {{ epochs = 2, lr = 3e-3, loggers = ["csv"] }}
[split]
protocol = "time"
train_until = 2020-03-10
valid = [2020-03-11, 2020-03-31]
test = [2020-04-01, 2020-04-20]
"""
NEURAL = {
    "sasrec": ", d_model = 16",
    "gru4rec": ", d_model = 16",
    "hstu": ", d_model = 16",
    "caser": ", d_model = 16",
    "behavegpt": ', size = "tiny", n_blocks = 1',
}
COUNTED = ("popularity", "transition", "history_density")


def trained(store, folder: Path, model: str, *, field="item", objective=None, seeds="[0]", refit="false", extra=None):
    path = folder / f"{model}.toml"
    path.write_text(
        RECIPE.format(
            name=model, store=store.path, seeds=seeds, refit=refit, model=model,
            extra=NEURAL.get(model, "") if extra is None else extra,
            objective=objective or f'{{ field = "{field}" }}',
        )
    )  # fmt: skip
    return train(path, out=folder / f"run-{model}")


def test_every_model_of_events_is_tried_here():
    of_events = {name for name in MODELS if resolve(MODELS, name, kind="model").Shape is EventShape}
    assert {*NEURAL, *COUNTED} == of_events


@pytest.mark.parametrize("model", [*NEURAL, *COUNTED])
def test_a_recipe_becomes_a_run_that_answers(make_store, shop, tmp_path, model):
    store = make_store(shop)
    run = trained(store, tmp_path, model)
    metrics = json.loads((run.path / "metrics.json").read_text())
    assert metrics["field"] == "item"
    assert len(metrics["history"]) == (2 if model in NEURAL else 0)
    table = predict(run.path, cutoff="2020-03-31", top=5, out=tmp_path / "next.parquet")
    assert table.columns == ["user", "as_of", "rank", "item", "probability"]
    assert table.height == 5 * store.n_users
    falls = table.group_by("user", maintain_order=True).agg(pl.col("probability").diff().drop_nulls().max())
    assert falls["probability"].max() <= 0
    assert set(table["item"]) <= set(store.items)
    told = json.loads((tmp_path / "next.manifest.json").read_text())
    assert told["store_fingerprint"] == store.fingerprint
    if model in NEURAL:
        vectors = embed(run.path, cutoff="2020-03-31")
        assert vectors["vector"].dtype == pl.Array(pl.Float32, 64 if model == "behavegpt" else 16)
        assert vectors.height == store.n_users
    else:
        with pytest.raises(ConfigError, match="which counts"):
            embed(run.path)


def test_probabilities_of_all_values_sum_to_one_and_new_ones_are_new(make_store, shop, tmp_path):
    store = make_store(shop)
    run = trained(store, tmp_path, "sasrec", seeds="[0, 1]", refit="true")
    assert len(load_artifact(run.artifact_path).members) == 2
    assert (run.path / "seed-1" / "refit").is_dir()
    table = predict(run.path, cutoff="2020-02-10", top=99)
    assert np.allclose(table.group_by("user").agg(pl.col("probability").sum())["probability"], 1, atol=1e-4)
    fresh = predict(run.path, cutoff="2020-02-10", top=99, is_new=True)
    before = shop.filter(pl.col("time") < pl.datetime(2020, 2, 11)).select("user", "item").unique()
    assert fresh.join(before, on=["user", "item"], how="inner").height == 0
    assert fresh.height + before.join(table, on=["user", "item"], how="semi").height == table.height


def test_the_joint_objective_counts_silence(make_store, shop, tmp_path):
    run = trained(make_store(shop), tmp_path, "behavegpt", objective='{ name = "joint" }')
    assert run.recipe.field == "type"
    history = json.loads((run.path / "metrics.json").read_text())["history"]
    assert set(history[-1]["targets"]) == {"gap", "type", "item", "spend", "next type"}
    assert set(predict(run)["type"]) == {"visit", "purchase", "refund"}


def test_a_history_in_the_request_is_answered_as_if_it_were_in_the_store(make_store, shop, tmp_path):
    store = make_store(shop)
    run = trained(store, tmp_path, "behavegpt")
    histories = shop.rename({"kind": "type"}).sample(fraction=1, shuffle=True, seed=3)
    histories = histories.join(shop.with_row_index("order"), on=["user", "time", "item", "basket"]).sort("order")
    spec = EventSpec.from_json(load_artifact(run.artifact_path).spec)
    batch, users = request_batch(spec, histories)
    place = {user: row for row, user in enumerate(store.users["user"])}
    numbers = np.array([place[user] for user in users])
    stored = assemble_events(
        last_states(store, spec, numbers, np.full(len(users), store.last_day)), np.arange(len(users))
    )
    for name in ("ids", "amount", "time", "length"):
        assert np.array_equal(getattr(batch, name), getattr(stored, name)), name
    one, two = predict(run, histories=histories), predict(run)
    joined = one.join(two, on=["user", "rank"])
    assert joined.height == two.height
    assert np.allclose(joined["probability"], joined["probability_right"], atol=1e-6)
    per_event = embed(run, histories=histories, per_event=True)
    assert per_event.columns == ["user", "time", "vector"]
    assert per_event.height == int(batch.length.sum())
    last = per_event.group_by("user", maintain_order=True).last()
    whole = embed(run, histories=histories)
    assert np.allclose(last["vector"].to_numpy(), whole["vector"].to_numpy(), atol=1e-5)


def test_a_stranger_of_one_event_with_unseen_values_is_answered(make_store, shop, tmp_path):
    run = trained(make_store(shop), tmp_path, "gru4rec")
    stranger = {"user": ["x"], "time": ["2020-04-01 10:00"], "type": ["dance"], "item": ["moon"], "spend": [None]}
    assert predict(run, histories=stranger, top=3)["user"].to_list() == ["x"] * 3
    with pytest.raises(SchemaError, match="a column 'item'"):
        predict(run, histories={k: v for k, v in stranger.items() if k != "item"})
    with pytest.raises(SchemaError, match="dates or datetimes"):
        predict(run, histories=stranger | {"time": ["yesterday"]})
    with pytest.raises(CutoffError, match="a day from"):
        predict(run, cutoff="2031-01-01")


def test_a_recipe_goes_on_where_it_was(make_store, shop, tmp_path):
    store = make_store(shop)
    run = trained(store, tmp_path, "sasrec")
    weights = (run.artifact_path / "weights-0.safetensors").read_bytes()
    trained(store, tmp_path, "sasrec")
    assert (run.artifact_path / "weights-0.safetensors").read_bytes() == weights
    assert open_run(run.path).recipe.name == "sasrec"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": '{ name = "next" }'}, "an objective out of"),
        ({"objective": '{ field = "itm" }'}, "did you mean 'item'"),
        ({"extra": ', field = "type"'}, "objective.field"),
        ({"extra": ", widht = 3"}, "unknown key 'widht'"),
    ],
)
def test_recipes_with_mistakes_say_which(make_store, shop, tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        trained(make_store(shop), tmp_path, "sasrec", **options)


def test_questions_about_coming_days_are_refused(make_store, shop, tmp_path):
    run = trained(make_store(shop), tmp_path, "popularity")
    with pytest.raises(ConfigError, match=r"a run of events \(popularity\)"):
        whatif(run.path, Calendar.empty())
