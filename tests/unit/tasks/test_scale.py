"""The ladder: nested budgets, rungs kept, a law or the verdict that there is none, and a page that says so."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from habitus.core.errors import ConfigError
from habitus.metrics.scaling import Law, fit_law
from habitus.tasks.run import start_run
from habitus.tasks.scale import _laws, _subset, scale
from habitus.tasks.scale_page import scale_page
from habitus.tasks.train_events import plan_events
from habitus.testing.threads import one_thread

__all__ = ["one_thread"]

RECIPE = """
name = "ladder"
store = "{store}"
model = {{ name = "gru4rec" }}
objective = {{ field = "item" }}
tokens = {{ length = 16 }}
loader = {{ tokens_per_batch = 256 }}
training = {{ loggers = [] }}
split = {{ protocol = "leave_last_out" }}
[scale]
sizes = [{{ d_model = 4, lr = 1e-2 }}, {{ d_model = 8 }}]
budgets = {budgets}
seeds = [0]
n_resamples = 20
"""


@pytest.fixture
def recipe(make_store, shop, tmp_path) -> Path:
    path = tmp_path / "ladder.toml"
    path.write_text(RECIPE.format(store=make_store(shop).path, budgets="[150, 400]"))
    return path


def test_a_ladder_is_trained_once_and_goes_on(recipe, tmp_path):
    found = scale(recipe, out=tmp_path / "run")
    assert len(found["rungs"]) == 4
    assert len({rung["n_weights"] for rung in found["rungs"]}) == 2
    assert all(0 < rung["loss"] < 10 and rung["n_events"] >= rung["budget"] for rung in found["rungs"])
    assert json.loads((tmp_path / "run" / "scale.json").read_text())["laws"] == found["laws"]
    page = (tmp_path / "run" / "scale.html").read_text()
    assert "Plotly.newPlot" in page
    assert "No law is drawn: not identified: 4 distinct points of 2 sizes and 2 budgets" in page
    stamps = {file: file.stat().st_mtime_ns for file in (tmp_path / "run" / "rungs").rglob("rung.json")}
    next(iter(stamps)).unlink()
    again = scale(recipe, out=tmp_path / "run")
    assert [rung["loss"] for rung in again["rungs"]] == [rung["loss"] for rung in found["rungs"]]
    assert sum(file.stat().st_mtime_ns == stamp for file, stamp in stamps.items()) == 3


def test_smaller_budgets_are_part_of_larger_ones_and_seeds_differ(recipe, tmp_path):
    inputs = plan_events(start_run(recipe, tmp_path / "run")).parts["train"]
    (small, n_small), (large, n_large) = (_subset(inputs, budget, 0) for budget in (200, 600))
    assert set(small.stretches.user) < set(large.stretches.user)
    assert 200 <= n_small < 300
    assert 600 <= n_large < 700
    assert set(_subset(inputs, 200, 1)[0].stretches.user) != set(small.stretches.user)


def test_a_budget_that_is_not_there_and_a_recipe_without_a_ladder_are_refused(make_store, shop, tmp_path):
    text = RECIPE.format(store=make_store(shop).path, budgets="[99_999]")
    (tmp_path / "ladder.toml").write_text(text)
    with pytest.raises(ConfigError, match="training events"):
        scale(tmp_path / "ladder.toml", out=tmp_path / "run")
    (tmp_path / "other.toml").write_text(text[: text.index("[scale]")])
    with pytest.raises(ConfigError, match=r"a table \[scale\]"):
        scale(tmp_path / "other.toml", out=tmp_path / "other")


def test_a_law_is_drawn_and_foretells_the_largest_run():
    law, rungs = Law(1.0, 20.0, 90.0, 0.4, 0.4), []
    for n in (100, 1000, 10_000):
        for d in (1000, 10_000, 100_000):
            loss = float(law.loss(np.array(n), np.array(d)))
            sizes = {"size": {"d": n}, "budget": d, "n_weights": n, "n_events": d, "seed": 0, "n_steps": 1}
            rungs.append(sizes | {"loss": loss, "missed_recall": 0.5})
    config = type("Config", (), {"n_held_out": 1, "n_resamples": 20})()
    found = {"rungs": rungs, "hardware": "h", "commit": "c", "created": "2020-01-01", **_laws(rungs, config)}
    assert found["laws"]["loss"]["verdict"] == ""
    assert abs(found["held_out"]["loss"]["mean_error"]) < 0.02
    assert found["laws"]["missed_recall"]["verdict"].startswith("not identified")
    page = scale_page("<ladder>", json.loads(json.dumps(found)))
    assert "&lt;ladder&gt;" in page
    assert "No law is drawn" in page
    assert "best-0" in page
    assert "best-1" not in page
    assert fit_law(np.array([1.0]), np.array([1.0]), np.array([1.0])).verdict
