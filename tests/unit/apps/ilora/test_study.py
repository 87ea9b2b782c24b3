"""The whole road in small: a study, its tables, one adapter at work, and the errors of the command."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from habitus.apps.ilora.prepare import Prepared
from habitus.apps.ilora.prompts import Prompts
from habitus.apps.ilora.study import read_ilora_recipe
from habitus.apps.ilora.tables import reading
from habitus.cli.main import app
from habitus.core.errors import ConfigError

from .conftest import title_log

RECIPE = """
name = "tiny"
app = "ilora"
seeds = [0, 1]
lm = { size = "mini", pieces = 400, tokens = 3000, rows = 6 }
training = { rows_per_epoch = 16, batch_size = 8, lr = 1e-2 }
[arms.LoRA]
gate = { name = "uniform" }
[arms.random]
gate = { name = "random" }
[arms.linear]
gate = { name = "linear" }
"""


def ran(*words: object, fails: bool = False) -> str:
    found = CliRunner().invoke(app, [str(word) for word in words])
    assert (found.exit_code == 1) == fails, found.output
    return found.output


@pytest.fixture(scope="module")
def road(prepared: Prepared, sasrec: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("road")
    paths = {"recipe": folder / "tiny.toml", "data": prepared.path, "lm": folder / "lm", "states": sasrec}
    paths |= {"study": folder / "study", "adapter": folder / "adapter"}
    paths["recipe"].write_text(RECIPE)
    ran("lm", "pretrain", paths["recipe"], "--data", prepared.path, "--out", paths["lm"])
    common = ["--data", paths["data"], "--lm", paths["lm"], "--states", sasrec]
    paths["text"] = folder / "study.txt"
    paths["text"].write_text(ran("ilora", "study", paths["recipe"], *common, "--out", paths["study"]))
    ran("ilora", "train", paths["recipe"], *common, "--out", paths["adapter"], "--arm", "linear", "--seed", 1)
    return paths


def common(road: dict[str, Path]) -> list[object]:
    return ["--data", road["data"], "--lm", road["lm"], "--states", road["states"]]


def test_a_study_judges_every_arm_beside_lines_without_a_language_model(road: dict[str, Path], sasrec: Path):
    whole = json.loads((road["study"] / "metrics-test-uniform.json").read_text("utf-8"))
    assert {*whole["figures"]} == {"popularity", sasrec.name, "zero-shot", "LoRA", "random", "linear"}
    own = whole["figures"]["linear"]
    assert own["likelihood HR@1"]["low"] <= own["likelihood HR@1"]["value"] <= own["likelihood HR@1"]["high"]
    assert 0 <= own["written correct/total"]["value"] <= own["valid ratio"]["value"] <= 1
    assert whole["cards"]["linear"]["n_seeds"] == 2
    assert whole["cards"]["linear"]["n_trained"]["gate"] == 68
    assert {*whole["cards"]["LoRA"]["gate"]} >= {"share", "entropy", "spread", "effective"}
    assert "unseen users" in whole["groups"]
    assert {*whole["differences"]} >= {"linear", "random"}
    text = road["text"].read_text()
    assert "HR@1 likelihood" in text
    assert whole["reading"] in text


def test_a_second_call_trains_nothing_again(road: dict[str, Path]):
    before = {file: file.stat().st_mtime_ns for file in road["study"].glob("*/*") if file.suffix != ".json"}
    assert len(before) > 10
    ran("ilora", "study", road["recipe"], *common(road), "--out", road["study"])
    assert {file: file.stat().st_mtime_ns for file in before} == before


def test_a_study_goes_on_with_its_own_recipe_only(road: dict[str, Path], tmp_path: Path):
    other = tmp_path / "other.toml"
    other.write_text(RECIPE + "[arms.mlp]\ngate = { name = 'mlp' }\n")
    asked = [*common(road), "--out", road["study"]]
    assert "another recipe" in ran("ilora", "study", other, *asked, fails=True)


def test_train_alone_is_the_arm_of_the_study(road: dict[str, Path]):
    from safetensors.torch import load_file

    one, other = (load_file(f / "adapter_model.safetensors") for f in (road["adapter"], road["study"] / "linear-1"))
    assert len(one) == 28
    assert all((one[name] == other[name]).all() for name in one)


def test_evaluate_prints_both_protocols(road: dict[str, Path]):
    text = ran("ilora", "evaluate", road["adapter"], *common(road), "--part", "valid")
    assert "likelihood HR@1" in text
    assert "written correct/total" in text


def test_recommend_ranks_for_users_by_their_own_ids(road: dict[str, Path], tmp_path: Path):
    users = tmp_path / "users.csv"
    users.write_text("user\nu3\nu7\n")
    ran("ilora", "recommend", road["adapter"], *common(road), "--users", users, "--out", tmp_path / "r.parquet")
    table = pl.read_parquet(tmp_path / "r.parquet")
    assert table["user"].unique(maintain_order=True).to_list() == ["u3", "u7"]
    assert table.group_by("user").len()["len"].to_list() == [20, 20]
    first = table.filter(pl.col("user") == "u3")
    assert first["probability"].sum() == pytest.approx(1)
    assert first["probability"].is_sorted(descending=True)
    log = title_log()
    had = set(log.events.filter(pl.col("user") == "u3")["item"])
    assert not had & set(first["item"])
    experts = first.select(pl.col("^expert_.$"))
    assert experts.row(0) == experts.row(5)
    assert sum(experts.row(0)) == pytest.approx(1)
    items = tmp_path / "items.csv"
    items.write_text("item\ni1\ni2\n")
    ran("ilora", "recommend", road["adapter"], *common(road), "--items", items, "--out", tmp_path / "r.parquet")
    assert len(pl.read_parquet(tmp_path / "r.parquet")) == 48
    users.write_text("user\nnobody\n")
    asked = ["--users", users, "--out", tmp_path / "r.parquet"]
    assert "nobody" in ran("ilora", "recommend", road["adapter"], *common(road), *asked, fails=True)


def test_candidates_of_another_hash_are_refused(road: dict[str, Path], prepared: Prepared, tmp_path: Path):
    import shutil

    other = tmp_path / "data"
    shutil.copytree(prepared.path, other)
    shutil.copy(other / "popular-test.npz", other / "uniform-test.npz")
    swapped = ["--data", other, "--lm", road["lm"], "--states", road["states"]]
    assert "do not compare" in ran("ilora", "evaluate", road["adapter"], *swapped, fails=True)


def test_mistakes_on_the_command_line_say_what_to_do(
    road: dict[str, Path], tmp_path: Path, prompts: Prompts, monkeypatch
):
    out = ["--out", tmp_path / "x"]
    wrong = ["--data", road["data"], "--lm", tmp_path, "--states", road["states"]]
    assert "habitus lm pretrain" in ran("ilora", "train", road["recipe"], *wrong, *out, "--arm", "linear", fails=True)
    asked = ["--arm", "liner", *out]
    assert "did you mean 'linear'" in ran("ilora", "train", road["recipe"], *common(road), *asked, fails=True)
    assert "ilora.json" in ran("ilora", "evaluate", tmp_path, *common(road), fails=True)
    assert "valid or test" in ran("ilora", "evaluate", road["adapter"], *common(road), "--part", "train", fails=True)
    assert "prepared.json" in ran("lm", "pretrain", road["recipe"], "--data", tmp_path, *out, fails=True)
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert "habitus[llm]" in ran("lm", "pretrain", road["recipe"], "--data", road["data"], *out, fails=True)
    assert not (tmp_path / "x").exists()


def test_a_recipe_is_checked_before_anything_runs(tmp_path: Path):
    path = tmp_path / "r.toml"
    for change, said in (
        ({'name = "random"': 'name = "randm"'}, "gate"),
        ({"rows_per_epoch": "rows_per_epohc"}, "did you mean 'rows_per_epoch'"),
        ({"[arms.LoRA]": "[arms.Lora]"}, "against"),
        ({"[arms.linear]": "[arms.linear]\nmix = { n_experts = 3 }"}, "divide"),
    ):
        text = RECIPE
        for old, new in change.items():
            text = text.replace(old, new)
        path.write_text(text)
        with pytest.raises(ConfigError, match=said):
            read_ilora_recipe(path)


def test_a_gain_is_claimed_only_beyond_the_intervals(tmp_path: Path):
    (tmp_path / "r.toml").write_text(RECIPE)
    recipe = read_ilora_recipe(tmp_path / "r.toml")

    def figure(value: float) -> dict[str, float]:
        return {"value": value, "low": value - 0.02, "high": value + 0.02}

    def table(gain: float, random: float) -> dict:
        names = ("likelihood HR@1", "written correct/total", "MRR")
        figures = {"linear": 0.5 + gain, "random": 0.5 + random, "LoRA": 0.5}
        return {
            "figures": {name: {key: figure(value) for key in names} for name, value in figures.items()},
            "differences": {name: {key: figure(value - 0.5) for key in names} for name, value in figures.items()},
        }

    assert reading(table(0.10, 0.0), recipe).startswith("Instance-wise mixing helps")
    assert reading(table(0.01, 0.0), recipe).startswith("Not shown")
    assert reading(table(0.10, 0.09), recipe).startswith("Not shown")
    assert np.isfinite(figure(0)["low"])
