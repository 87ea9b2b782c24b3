"""From a file of item sequences to a ranking, by the commands."""

import json
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from habitus.cli.main import app
from habitus.core.errors import ConfigError
from habitus.tasks.evaluate import evaluate
from habitus.testing.threads import one_thread

__all__ = ["one_thread"]

RECIPE = """
name = "{name}"
store = "{store}"
seeds = [0, 1]
[split]
protocol = "leave_last_out"
[tokens]
length = 6
fields = ["item"]
[model]
name = "{name}"
{model}
[objective]
field = "item"
{objective}
[loader]
tokens_per_batch = 64
[training]
epochs = 4
lr = 3e-2
loggers = []
[gate]
n_resamples = 100
"""


def recipe(folder: Path, name: str, model: str = "", objective: str = "") -> Path:
    path = folder / f"{name}.toml"
    path.write_text(RECIPE.format(name=name, store=folder / "ring.store", model=model, objective=objective))
    return path


def run(*arguments: str) -> str:
    found = CliRunner().invoke(app, list(map(str, arguments)))
    assert found.exit_code == 0, found.output
    return found.output


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Users walk round a ring of 12 items: what follows is certain, popularity tells nothing."""
    folder = tmp_path_factory.mktemp("events")
    rows = [(u, t, (5 * u + t) % 12) for u in range(60) for t in range(4 + u % 5)]
    pl.DataFrame(rows, schema=["user", "position", "item"], orient="row").write_parquet(folder / "ring.parquet")
    run("ingest", "item_sequences", "--folder", folder / "ring.parquet", "--out", folder / "ring.store")
    return folder


def test_a_trained_model_is_ranked_beside_counts(folder: Path) -> None:
    toml = recipe(folder, "sasrec", "d_model = 16\nn_heads = 1\nn_blocks = 1\ndropout = 0.0", 'loss = "full"')
    run("train", toml, "--out", folder / "sasrec")
    text = run("evaluate", folder / "sasrec")
    assert "60 targets of 60 users, 12 values ranked" in text
    assert "SASRec is better than popularity" in text
    section = json.loads((folder / "sasrec" / "metrics.json").read_text())["ranking"]
    by = {row["model"]: row["metrics"] for row in section["table"]}
    assert by["transition graph"]["hit_rate@1"]["value"] == 1.0
    assert by["SASRec"]["hit_rate@1"]["value"] > 0.9  # the ring is learnt
    assert json.loads((folder / "sasrec" / "artifact" / "metrics.json").read_text())["ranking"] == section


def test_a_counted_model_is_a_run_too_and_stands_beside_another(folder: Path) -> None:
    run("train", recipe(folder, "transition"), "--out", folder / "transition")
    run("train", recipe(folder, "popularity"), "--out", folder / "popularity")
    text = run("evaluate", folder / "transition", "--against", folder / "popularity")
    assert "Transition is better than popularity" in text
    assert text.count("Transition is") == 2  # the gate's own row of the same kind is left out
    toml = (
        recipe(folder, "popularity").read_text().replace('["item"]', '["type", "item"]').replace('"item"\n', '"type"\n')
    )
    (folder / "types.toml").write_text(toml)
    run("train", folder / "types.toml", "--out", folder / "types")
    with pytest.raises(ConfigError, match="same field"):
        evaluate(folder / "transition", against=[folder / "types"])


def test_users_held_out_of_training_are_ranked_apart(folder: Path) -> None:
    toml = recipe(folder, "transition").read_text()
    toml = toml.replace('protocol = "leave_last_out"', 'protocol = "leave_last_out"\nunseen_users = 0.3')
    (folder / "held.toml").write_text(toml)
    run("train", folder / "held.toml", "--out", folder / "held")
    text = run("evaluate", folder / "held")
    metrics = json.loads((folder / "held" / "metrics.json").read_text())
    counts = [metrics[name]["n_users"] for name in ("ranking", "ranking_unseen")]
    assert sum(counts) == 60
    assert 0 < counts[1] < 60
    assert f"users never seen in training, next item: {counts[1]} targets" in text
    assert metrics["ranking_unseen"]["table"][0]["metrics"]["hit_rate@1"]["value"] == 1.0  # the ring holds for them too
