"""The whole road on a small log: train, evaluate, predict, what if, embed, report, each as people call it."""

from __future__ import annotations

import datetime as dt
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

import habitus
from habitus.cli.main import app
from habitus.core.errors import (
    ArtifactError,
    CalendarError,
    ConfigError,
    CutoffError,
    FingerprintError,
    HabitusError,
    TargetError,
)
from habitus.data.calendar import Calendar
from habitus.data.ingest import ingest
from habitus.data.log import EventLog
from habitus.data.schema import Schema
from habitus.data.store import Store
from habitus.tasks.run import Run

RECIPE = """
name = "road"
store = "unused.store"
seeds = [0, 1, 2]

[cutoffs]
horizon = 7
train = { first = 2020-01-15, last = 2020-02-19, every = 7 }
gap = { days = [2020-02-26] }
valid = { first = 2020-02-27, last = 2020-03-17, every = 6 }
test = { days = [2020-04-01, 2020-04-10] }

[tokens]
history = 60

[[targets]]
name = "buy"
define = "any(purchase) in 7d"
per_day = true

[[targets]]
name = "spend"
define = "sum(spend of purchase) in 7d"
unit = "EUR"
per_day = true

[[targets]]
name = "days"
define = "days(visit) in 7d"

[[targets]]
name = "visits"
define = "count(visit) in 7d"

[model]
name = "lumos"
size = "tiny"
d_model = 16
n_heads = 2
d_ff = 32
d_profile = 8

[loader]
batch_size = 64
per_user = 3

[training]
epochs = 2
lr = 1e-3
loggers = ["csv"]

[gate]
n_resamples = 100
"""
SALES = [
    {"event": "winter sale", "type": "sale", "start": "2020-01-25", "end": "2020-01-28"},
    {"event": "leap sale", "type": "sale", "start": "2020-02-27", "end": "2020-02-29"},
    {"event": "spring sale", "type": "sale", "start": "2020-04-13", "end": "2020-04-15"},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("road")


@pytest.fixture(scope="module")
def store(folder: Path) -> Store:
    from tests.conftest import SHOP_SCHEMA, shop_table

    log = EventLog(Schema.parse(SHOP_SCHEMA), shop_table(n_users=80), calendar=Calendar.build(SALES))
    return ingest(log, folder / "shop.store", n_shards=2)


@pytest.fixture(scope="module")
def run(folder: Path, store: Store) -> Run:
    (folder / "road.toml").write_text(RECIPE)
    return habitus.train(folder / "road.toml", out=folder / "run", store=store.path)


@pytest.fixture(scope="module")
def metrics(run: Run) -> dict:
    return habitus.evaluate(run)


def test_the_run_leaves_what_it_promises(run, metrics):
    assert {"recipe.toml", "run.json", "metrics.json", "artifact"} <= {p.name for p in run.path.iterdir()}
    assert {"weights-0.safetensors", "weights-2.safetensors"} <= {p.name for p in run.artifact_path.iterdir()}
    assert not list(run.path.rglob("*.pkl"))
    assert json.loads((run.path / "metrics.json").read_text()) == metrics


def test_every_model_is_scored_on_every_target_with_intervals(metrics):
    names = [row["name"] for row in metrics["models"]]
    assert {"base rate", "recency x frequency", "LightGBM", "LightGBM + known future", "LUMOS"} <= set(names)
    assert len(metrics["table"]) == len(names) * 4
    for row in metrics["table"]:
        leading = row["metrics"]["auc" if row["target"] == "buy" else "wape"]
        assert leading["low"] <= leading["value"] <= leading["high"]
    mine = [row for row in metrics["table"] if row["model"] == "LUMOS"]
    assert all(row["seed_sd"] for row in mine)
    base = next(r for r in metrics["table"] if r["model"] == "base rate" and r["target"] == "buy")
    assert base["metrics"]["auc"]["value"] == 0.5


def test_a_difference_is_the_difference_of_the_table(metrics):
    value = {(r["target"], r["model"]): r["metrics"] for r in metrics["table"]}
    assert metrics["differences"]
    for found in metrics["differences"]:
        mine, other = (value[found["target"], found[who]][found["metric"]]["value"] for who in ("model", "against"))
        if mine is None or other is None:  # no rank correlation with a constant
            assert found["value"] is None
            continue
        assert found["value"] == pytest.approx(mine - other)
        assert found["is_better"] is None or not (found["low"] <= 0 <= found["high"])


def test_evaluating_again_gives_the_same_figures(run, metrics):
    again = habitus.evaluate(run)
    for section in ("table", "differences", "reliability", "daily", "totals"):
        assert again[section] == metrics[section], section


def test_daily_totals_add_up_and_know_what_happened(metrics, store):
    for section in metrics["daily"]:
        assert len(section["forecast"]["day"]) == 7
        assert section["past"]["day"][-1] == section["cutoff"]
        assert all(v is not None for v in section["forecast"]["actual"])
    spend = next(s for s in metrics["totals"] if s["target"] == "spend")
    daily = next(s for s in metrics["daily"] if s["target"] == "spend")
    assert spend["actual"] == pytest.approx(sum(daily["forecast"]["actual"]))
    assert spend["low"] <= spend["value"] <= spend["high"]


def test_predictions_are_keyed_by_the_users_own_ids(run, folder):
    table = habitus.predict(run, cutoff="2020-04-10", out=folder / "p.parquet")
    assert table.equals(pl.read_parquet(folder / "p.parquet"))
    assert set(table["user"]) <= {f"u{i:03d}" for i in range(80)}
    assert table["as_of"].unique().to_list() == [dt.date(2020, 4, 10)]
    buy = table.filter(target="buy")
    assert buy["value"].is_between(0, 1).all()
    assert buy["q50"].null_count() == len(buy)
    spend = table.filter(target="spend").select("q05", "q10", "q25", "q50", "q75", "q90", "q95").to_numpy()
    assert (np.diff(spend, axis=1) >= 0).all()
    facts = json.loads((folder / "p.manifest.json").read_text())
    assert facts["as_of"] == "2020-04-10"
    assert facts["spec_fingerprint"]


def test_predictions_do_not_depend_on_who_else_is_asked(run, monkeypatch):
    whole = habitus.predict(run, cutoff="2020-04-10")
    monkeypatch.setattr("habitus.tasks.predict.CHUNK", 7)
    parts = habitus.predict(run, cutoff="2020-04-10").sort("user", "target")
    whole = whole.sort("user", "target")
    assert parts["user"].equals(whole["user"])
    assert np.allclose(parts["value"], whole["value"], rtol=1e-5, atol=1e-7)


def test_the_same_calendar_twice_gives_the_same_answer_bit_for_bit(run, store):
    answer = habitus.whatif(run, [store.calendar, store.calendar], cutoff="2020-04-10")
    assert [row["difference"] for row in answer["rows"]] == [0.0] * 8
    assert answer["changes"] == []
    for daily in answer["daily"]:
        one, other = daily["values"].values()
        assert one == other


def test_a_dropped_event_is_named_with_its_evidence(run, store, folder):
    dropped = store.calendar.without(events=["spring sale"])
    answer = habitus.whatif(run, [store.calendar, dropped], cutoff="2020-04-10", out=folder / "w.parquet")
    (change,) = answer["changes"]
    assert (change["event"], change["what"], change["kind"], change["n_past"]) == (
        "spring sale",
        "dropped",
        "shared by all",
        2,
    )
    assert "2 past events" in change["warning"]
    table = pl.read_parquet(folder / "w.parquet")
    for row in answer["rows"]:
        mine = table.filter(target=row["target"], calendar=row["calendar"])
        assert mine["difference"].sum() == pytest.approx(row["difference"], abs=1e-6)
        assert row["low"] <= row["difference"] <= row["high"]
    assert any(row["difference"] != 0 for row in answer["rows"])


def test_an_event_addressed_to_some_leaves_the_others_bit_equal(run, store):
    groups = pl.DataFrame({"audience": ["few"], "user": ["u007"]})
    more = Calendar.build([{"type": "sale", "start": "2020-04-12", "audience": "few"}], groups)
    habitus.whatif(
        run, [store.calendar, store.calendar.joined(more)], cutoff="2020-04-10", out=run.path / "few.parquet"
    )
    table = pl.read_parquet(run.path / "few.parquet").filter(pl.col("calendar") == "calendar 1")
    assert table.filter(pl.col("user") != "u007")["difference"].abs().max() == 0.0
    assert table.filter(pl.col("user") == "u007")["difference"].abs().max() > 0.0


@pytest.mark.parametrize(
    ("calendars", "said"),
    [
        (lambda c: [c], "two or more calendars"),
        (lambda c: [c, c.without(events=["leap sale"])], "agree on what began"),
        (lambda c: [c, c.joined(Calendar.build([{"type": "sail", "start": "2020-04-12"}]))], "did you mean 'sale'?"),
    ],
)
def test_a_what_if_that_cannot_be_answered_says_why(run, store, calendars, said):
    with pytest.raises(CalendarError) as caught:
        habitus.whatif(run, calendars(store.calendar), cutoff="2020-04-10")
    assert said in str(caught.value)


@pytest.mark.parametrize("pooling", ["mean", "max", "last", "recent"])
def test_vectors_are_finite_and_of_the_models_width(run, pooling):
    table = habitus.embed(run, cutoff="2020-04-10", pooling=pooling)
    vectors = table["vector"].to_numpy()
    assert vectors.shape == (table.height, 16)
    assert np.isfinite(vectors).all()
    assert np.unique(vectors, axis=0).shape[0] > table.height // 2


def test_the_report_is_one_page(run, metrics):
    page = habitus.report(run.path)
    text = page.read_text("utf-8")
    assert "LUMOS" in text
    assert "spring sale" in text or "buy" in text


def test_training_again_changes_nothing(run, folder, store):
    before = (run.artifact_path / "weights-1.safetensors").read_bytes()
    again = habitus.train(folder / "road.toml", out=run.path, store=store.path)
    assert (again.artifact_path / "weights-1.safetensors").read_bytes() == before


DYING = """
import os, signal, sys
from habitus.tokens.loader import DayLoader
import habitus
made, n_left = DayLoader._make, [int(sys.argv[4])]
def dying(self, rows):
    n_left[0] -= self.is_training
    if n_left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return made(self, rows)
DayLoader._make = dying
habitus.train(sys.argv[1], out=sys.argv[2], store=sys.argv[3])
"""


@pytest.mark.parametrize("n_batches", [9, 40], ids=["in the search", "in the refit"])
def test_a_killed_run_goes_on_to_the_same_weights(run, folder, store, tmp_path, n_batches):
    arguments = [str(folder / "road.toml"), str(tmp_path / "run"), str(store.path), str(n_batches)]
    died = subprocess.run([sys.executable, "-c", DYING, *arguments], capture_output=True, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    assert not (tmp_path / "run" / "artifact").exists()
    again = habitus.train(folder / "road.toml", out=tmp_path / "run", store=store.path)
    for seed in range(3):
        name = f"weights-{seed}.safetensors"
        assert (again.artifact_path / name).read_bytes() == (run.artifact_path / name).read_bytes(), name


def test_a_run_is_not_taken_over_by_another_recipe_or_another_log(run, folder, store):
    (folder / "other.toml").write_text(RECIPE.replace("epochs = 2", "epochs = 3"))
    with pytest.raises(ConfigError, match="the recipe this run began with"):
        habitus.train(folder / "other.toml", out=run.path, store=store.path)
    from tests.conftest import SHOP_SCHEMA, shop_table

    other = ingest(EventLog(Schema.parse(SHOP_SCHEMA), shop_table(n_users=9)), folder / "other.store")
    with pytest.raises(FingerprintError):
        habitus.train(folder / "road.toml", out=run.path, store=other.path)


def _spoilt(change: tuple[str, str]):
    return RECIPE.replace(*change)


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (("epochs = 2", "epoch = 2"), ConfigError, "did you mean 'epochs'?"),
        (('size = "tiny"', 'sise = "tiny"'), ConfigError, "did you mean 'size'?"),
        (('name = "lumos"', 'name = "lumoss"'), ConfigError, "did you mean 'lumos'?"),
        (("any(purchase)", "any(purchas)"), TargetError, "did you mean 'purchase'?"),
        (("any(purchase) in 7d", "any(purchase) in 9d"), TargetError, "one horizon in both places"),
        (("any(purchase)", "any(refundd)"), TargetError, "refund"),
        (("2020-04-10]", "2020-05-20]"), CutoffError, "cut-offs"),
        (("2020-02-19", "2020-02-26"), CutoffError, "end train at"),
        (
            ('define = "count(visit) in 7d"', 'define = "count(visit) in 7d"\nhead = "binary"'),
            TargetError,
            "a head that fits",
        ),
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused_in_one_screen(folder, store, tmp_path, change, error, said):
    (tmp_path / "r.toml").write_text(_spoilt(change))
    with pytest.raises(error) as caught:
        habitus.evaluate(habitus.train(tmp_path / "r.toml", out=tmp_path / "run", store=store.path))
    assert said in str(caught.value)
    assert len(str(caught.value)) < 1200
    assert not (tmp_path / "run" / "artifact").exists() or error is CutoffError


def test_a_target_that_never_happens_is_refused(folder, tmp_path):
    from tests.conftest import SHOP_SCHEMA, shop_table

    table = shop_table(n_users=40).filter((pl.col("kind") != "refund") | (pl.col("time") > dt.datetime(2020, 4, 20)))
    log = EventLog(Schema.parse(SHOP_SCHEMA), table)
    rare = ingest(log, tmp_path / "rare.store")
    (tmp_path / "r.toml").write_text(_spoilt(("any(purchase)", "any(refund)")))
    with pytest.raises(TargetError, match="at least one"):
        habitus.train(tmp_path / "r.toml", out=tmp_path / "run", store=rare.path)


def test_questions_outside_the_log_and_missing_runs_are_refused(run, tmp_path):
    with pytest.raises(CutoffError):
        habitus.predict(run, cutoff="2031-01-01")
    with pytest.raises(CutoffError, match="YYYY-MM-DD"):
        habitus.predict(run, cutoff="next week")
    with pytest.raises(ArtifactError, match="habitus train"):
        habitus.evaluate(tmp_path)
    with pytest.raises(HabitusError):
        habitus.predict(run, store=tmp_path / "nowhere.store")


def test_every_verb_answers_on_the_command_line(run, metrics, store, tmp_path):
    store.calendar.write(tmp_path / "base.csv")
    store.calendar.without(events=["spring sale"]).write(tmp_path / "none.csv")
    shell = CliRunner()
    calendars = ["--calendar", str(tmp_path / "base.csv"), "--calendar", str(tmp_path / "none.csv")]
    calls = [
        ["evaluate", str(run.path), "--json"],
        ["predict", str(run.path), "--cutoff", "2020-04-10", "--out", str(tmp_path / "p.csv")],
        ["embed", str(run.path), "--out", str(tmp_path / "z.parquet")],
        ["whatif", str(run.path), "--cutoff", "2020-04-10", *calendars],
        ["report", str(run.path), "--out", str(tmp_path / "r.html")],
    ]
    for call in calls:
        answer = shell.invoke(app, call)
        assert answer.exit_code == 0, (call, answer.output)
    assert pl.read_csv(tmp_path / "p.csv").height > 0
    assert (tmp_path / "r.html").stat().st_size > 100_000
    printed = json.loads(shell.invoke(app, calls[0]).stdout)
    assert printed["table"] == metrics["table"]
