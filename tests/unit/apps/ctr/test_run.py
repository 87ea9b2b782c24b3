"""A study from recipe to page, by the command, on a small generated world."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from habitus.apps.ctr.run import CtrRecipe, read_ctr_recipe
from habitus.cli.main import app
from habitus.core.errors import ConfigError

RECIPE = """
name = "small"
app = "ctr"
source = "taobao_ad"
min_count = 3
calibration = "platt"
pairs = [["DIN", "LR"]]

[models.LR]
kind = "linear"
bits = 12
left_out = ["user"]

[models.DIN]
kind = "din"
model = { size = "tiny" }
epochs = 1
train_share = 0.5
left_out = ["user"]

[rungs]
LR = ["s1", 0.2]
"""


def test_world_train_evaluate_predict_report(tmp_path: Path):
    recipe, world, run = tmp_path / "small.toml", tmp_path / "world", tmp_path / "run"
    recipe.write_text(RECIPE, "utf-8")
    wrong = f"train {recipe} --folder {world} --out {run} --only RL"
    asked = (
        f"world --out {world} --users 250 --ads 60",
        f"train {recipe} --folder {world} --out {run}",
        f"evaluate {run}",
        f"predict {run} --model DIN --out {run}/p.parquet",
        f"report {run}",
    )
    for words in asked:
        result = CliRunner().invoke(app, ["ctr", *words.split()])
        assert result.exit_code == 0, result.output
    found = json.loads((run / "metrics.json").read_text("utf-8"))
    assert [card["model"] for card in found["cards"]] == ["LR", "DIN"]
    assert list(found["ceilings"].values()) == sorted(found["ceilings"].values())
    assert found["ladder"][0]["rung"] == "s1"
    assert found["pairs"] == found["differences"]
    table = pl.read_parquet(run / "p.parquet")
    assert table.columns == ["user", "time", "ad", "score", "p", "model", "as_of"]
    assert len(table) == found["cards"][0]["n_rows"]
    np.testing.assert_allclose(1 / (1 + np.exp(-table["score"].to_numpy())), table["p"].to_numpy(), atol=1e-9)
    page = (run / "report.html").read_text("utf-8")
    assert "The ladder of ceilings" in page
    assert "DIN against LR" in page
    assert "http" not in page
    unknown = CliRunner().invoke(app, ["ctr", *wrong.split()])
    assert unknown.exit_code != 0
    shutil.rmtree(run / "models" / "LR-0")
    one = CliRunner().invoke(app, ["ctr", *asked[1].split(), "--only", "DIN"])
    assert "seed 0" not in one.output  # LR is missing, and was not asked for
    again = CliRunner().invoke(app, ["ctr", *asked[1].split()])
    assert "LR, seed 0" in again.output
    assert "DIN, seed 0" not in again.output  # nothing is trained twice


def test_what_a_recipe_may_not_say(tmp_path: Path):
    path = tmp_path / "bad.toml"
    for wrong, words in (
        (RECIPE.replace('kind = "din"', 'kind = "dim"'), "a kind out of"),
        (RECIPE.replace("epochs = 1", "epoch = 1"), "did you mean 'epochs'"),
        ('against = "RL"\n' + RECIPE, "one of: LR, DIN"),
        (RECIPE.replace('[["DIN", "LR"]]', '[["DIN", "RL"]]'), "pairs"),
    ):
        path.write_text(wrong, "utf-8")
        with pytest.raises(ConfigError, match=words):
            read_ctr_recipe(path)


def test_a_model_may_have_a_dial_of_its_own():
    recipe = CtrRecipe.parse(
        {"name": "x", "source": "taobao_ad",
         "models": {"a": {"kind": "trees", "features": "+match"}, "b": {"kind": "trees"}}}
    )  # fmt: skip
    assert (recipe.dial("a"), recipe.dial("b")) == ("+match", "static")
