"""A whole study on a small store: played once, resumed, measured, probed, drawn; and what goes wrong is said."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from typer.testing import CliRunner

from habitus.apps.bubble.artifacts import ArtifactConfig, TrainedRun
from habitus.apps.bubble.catalogue import Catalogue, Likes
from habitus.apps.bubble.report import page
from habitus.apps.bubble.run import open_bubble, parts_of, read_bubble_recipe, read_run, run_bubble
from habitus.cli.main import app
from habitus.core.errors import ArtifactError, ConfigError
from habitus.data.ingest import ingest
from habitus.data.log import EventLog
from habitus.data.schema import Schema
from habitus.models.artifact import save_artifact
from habitus.models.sasrec import SASRec, SASRecConfig
from habitus.tokens.event_split import EventSplit
from habitus.tokens.events import EventTokenConfig, fit_event_spec

RECIPE = """
name = "shop_bubble"
app = "bubble"
store = "shop.store"
[log]
types = ["purchase"]
{categories}
is_repeated = true
min_likes = 6
[agents]
n = 20
[loop]
rounds = 3
pages = 2
pairs = 2
arms = ["positive", "negative", "base", "active", "diverse"]
[recommenders]
random = {{ kind = "random" }}
popular = {{ kind = "popularity" }}
near = {{ kind = "item_knn", k = 5 }}
[strengths]
near = [{{ k = 2 }}]
[sweep]
eps = [0.5]
pairs = 2
recommenders = ["near"]
"""
DECLARED = 'column = "part"'
SCHEMA = {
    "name": "shop",
    "time_zone": "UTC",
    "events": {"user": "u", "time": "t", "type": {"constant": "purchase"}, "item": "i"},
    "items": {"from": "table", "key": "i", "columns": {"part": "part"}},
}


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    rng = np.random.default_rng(0)
    n, folder = 900, tmp_path_factory.mktemp("bubble")
    user = rng.integers(0, 30, n)
    rows = pl.DataFrame({
        "u": [f"u{u}" for u in user],
        "t": [f"2024-{1 + k // 300:02d}-{1 + k % 28:02d}" for k in range(n)],
        "i": [f"i{(u % 5) * 12 + i}" for u, i in zip(user, rng.integers(0, 20, n))],
    })  # fmt: skip
    items = pl.DataFrame({"i": [f"i{i}" for i in range(70)], "part": [f"p{i // 12}" for i in range(70)]})
    return ingest(EventLog(Schema.parse(SCHEMA), rows, items=items), folder / "shop.store")


def recipe(tmp_path: Path, categories: str = DECLARED) -> Path:
    path = tmp_path / "shop_bubble.toml"
    path.write_text(RECIPE.format(categories=categories), "utf-8")
    return path


@pytest.fixture(scope="module")
def done(shop, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    said = []
    run = run_bubble(recipe(folder), folder / "run", store=shop.path, workers=1, say=said.append)
    return run, said


def test_everything_of_a_recipe_is_measured(done):
    run, said = done
    found = read_run(run)
    labels = [row["label"] for row in found["rows"]]
    assert labels == ["random", "popular", "near", "mirror", "near, k 2", "near, eps 0.5"]
    by = {row["label"]: row for row in found["rows"]}
    assert by["random"]["gap"]["value"] == 0
    assert by["mirror"]["rel"] == 1
    assert set(by["near"]["effort"]) == {"both", "activity", "diversity", "interaction"}
    assert by["near, eps 0.5"]["model_slots"]["gap"] != by["near, eps 0.5"]["gap"]["value"]
    assert found["log"]["n_agents"] == 20
    assert len(found["findings"]) == 4
    assert sum("pair" in line for line in said) == 12


def test_a_second_call_plays_nothing_and_a_lost_world_is_played_again(done, shop, tmp_path):
    run, _ = done
    before, said = read_run(run), []
    world = run / "worlds" / "near" / "1.npz"
    run_bubble(recipe(tmp_path), run, store=shop.path, workers=1, say=said.append)
    assert not any("pair" in line for line in said)
    world.unlink()
    run_bubble(recipe(tmp_path), run, store=shop.path, workers=1, say=said.append)
    assert [line.split(":")[0] for line in said if "pair" in line] == ["near, pair 2"]
    gaps = [[row["gap"] for row in each["rows"]] for each in (before, read_run(run))]
    assert gaps[0] == gaps[1]


def test_a_first_look_at_one_pair_is_gone_on_from(shop, tmp_path):
    path, said = recipe(tmp_path), []
    text = path.read_text()
    path.write_text(text[: text.index("[strengths]")])
    run = run_bubble(path, tmp_path / "run", store=shop.path, workers=1, pairs=1, say=said.append)
    assert {row["n_pairs"] for row in read_run(run)["rows"]} == {1}
    assert read_run(run)["loop"]["pairs"] == 1
    assert "1 pair of worlds" in page(read_run(run))
    assert "popular and near: one pair of worlds cannot tell" in page(read_run(run))
    run_bubble(path, run, store=shop.path, workers=1, say=said.append)
    assert {row["n_pairs"] for row in read_run(run)["rows"]} == {2}
    assert sum("pair 1" in line for line in said) == sum("pair 2" in line for line in said) == 4


@pytest.mark.slow
def test_two_workers_give_the_same_figures(done, shop, tmp_path):
    run, _ = done
    other = run_bubble(recipe(tmp_path), tmp_path / "two", store=shop.path, workers=2, say=lambda line: None)
    gaps = [[row["gap"] for row in read_run(each)["rows"]] for each in (run, other)]
    assert gaps[0] == gaps[1]


def test_another_recipe_or_an_unfinished_run_is_refused(done, shop, tmp_path):
    run, _ = done
    other = recipe(tmp_path)
    other.write_text(other.read_text().replace("n = 20", "n = 21"))
    with pytest.raises(ConfigError, match="this run began with"):
        run_bubble(other, run, store=shop.path, workers=1)
    other.write_text(other.read_text().replace('"purchase"', '"purchas"'))
    with pytest.raises(ConfigError, match="one of: purchase"):
        run_bubble(other, tmp_path / "never", store=shop.path, workers=1)
    assert not (tmp_path / "never").exists()
    with pytest.raises(ArtifactError, match="habitus bubble run"):
        read_run(tmp_path)
    with pytest.raises(ArtifactError, match="habitus bubble run"):
        open_bubble(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('kind = "item_knn", k = 5', 'kind = "item_kn", k = 5', "did you mean 'item_knn'"),
        ('recommenders = ["near"]', 'recommenders = ["nearest"]', "one of: random, popular, near"),
        ('arms = ["positive", "negative"', 'arms = ["negative", "positive"', "arms begin with"),
        ('"diverse"]', '"diverce"]', "arms out of"),
        ("[{ k = 2 }]", "[{ kk = 2 }]", "unknown key 'kk'"),
        ("popular = {", "mirror = {", "the ruler's"),
    ],
)
def test_mistakes_in_a_recipe_are_named(tmp_path, old, new, says):
    path = recipe(tmp_path)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(ConfigError, match=says):
        read_bubble_recipe(path)


def test_parts_have_folders_of_their_own(tmp_path):
    parts = parts_of(read_bubble_recipe(recipe(tmp_path)))
    assert len({part.folder for part in parts}) == len(parts) == 6


def test_categories_may_be_clusters_of_items(shop, tmp_path):
    path = recipe(tmp_path, "interests = 6\ntower = { steps = 5, batch = 32 }")
    text = path.read_text()
    path.write_text(text[: text.index("[strengths]")].replace("pairs = 2", "pairs = 1"))
    run = run_bubble(path, tmp_path / "run", store=shop.path, workers=1, say=lambda line: None)
    found = read_run(run)
    assert 2 <= found["log"]["n_categories"] <= 6
    assert found["rows"][2]["js"]["value"] is None  # one pair has nothing to be net of


def test_the_commands_answer(done, tmp_path):
    run, _ = done
    says = CliRunner().invoke(app, ["bubble", "report", str(run), "--out", str(tmp_path / "page.html")])
    assert says.exit_code == 0, says.output
    text = (tmp_path / "page.html").read_text("utf-8")
    assert "Accuracy against escape" in text
    assert text.count("<svg") == 2 + 4 + 3  # scatter, sweep, one of rounds each, one of shares each but random
    assert "NaN" not in text
    assert "http" not in text.replace("http://www.w3.org", "")
    says = CliRunner().invoke(app, ["bubble", "probe", str(run), "--users", "15", "--k", "3"])
    assert says.exit_code == 0, says.output
    found = json.loads((run / "probe.json").read_text())
    assert [row["name"] for row in found["rows"]] == ["random", "popular", "near"]
    assert found["rows"][0]["gap"] == 0
    says = CliRunner().invoke(app, ["bubble", "report", str(tmp_path)])
    assert says.exit_code == 1
    assert "habitus bubble run" in says.output


def test_a_trained_run_joins_in(shop, tmp_path):
    split = {"protocol": "time", "train_until": "2024-02-10", "valid": ["2024-02-11", "2024-02-20"],
             "test": ["2024-02-21", "2024-03-28"]}  # fmt: skip
    spec = fit_event_spec(shop, EventTokenConfig.parse({"length": 8}), EventSplit.parse(split))
    config = {"d_model": 8, "n_blocks": 1}
    members = [SASRec(SASRecConfig.parse(config), spec.shape, seed=seed) for seed in (0, 1)]
    save_artifact(
        tmp_path / "artifact", members, name="sasrec", spec=spec.to_json(), fingerprint=spec.fingerprint, heads=(),
        config=config,
    )  # fmt: skip
    items = (*spec.values["item"][:9], "unheard of")
    catalogue = Catalogue.of(items, ("x",), np.ones((10, 1)))
    made = TrainedRun(ArtifactConfig.parse({"path": str(tmp_path)}), catalogue)
    likes = Likes.of(np.array([0, 0, 2]), np.array([1, 2, 9]), 3, 10)
    made.fit(likes, 0)
    scores = made.scores(3)
    assert scores.shape == (3, 10)
    assert (scores[[0, 2], 9] < scores[[0, 2], :9].min(axis=1)).all()
    assert np.argmax(scores[1]) in (1, 2, 9)  # nobody's likes: the popular items
    made.update(likes.plus(np.array([0]), np.array([5])), "fold_in", 0)
    moved = (made.scores(3) != scores).any(axis=1)
    assert moved.tolist()[0]
    assert not moved[2]
    with pytest.raises(ArtifactError, match="none that"):
        TrainedRun(ArtifactConfig.parse({"path": str(tmp_path)}), Catalogue.of(("?",), ("x",), np.ones((1, 1))))
    with pytest.raises(ConfigError, match="a field out of"):
        TrainedRun(ArtifactConfig.parse({"path": str(tmp_path), "field": "colour"}), catalogue)
    assert torch.get_num_threads() == 1
