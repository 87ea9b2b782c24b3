"""A study of personas from threads to page, and what must never change its answers."""

from __future__ import annotations

import json
import runpy
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from habitus.apps.personas.evaluate import evaluate_personas
from habitus.apps.personas.fit import fit_personas
from habitus.apps.personas.predict import predict_personas
from habitus.apps.personas.report import page, write_report
from habitus.apps.personas.settings import PersonasRecipe
from habitus.cli.main import app
from habitus.core.errors import ArtifactError, ConfigError, IngestError, SourceError
from habitus.data.sources.persona_threads import LABELS

SMALL = runpy.run_path(str(Path(__file__).with_name("conftest.py")))["SMALL"]


@pytest.fixture(scope="module")
def metrics(run: Path, world: Path) -> dict:
    return evaluate_personas(run, truth=world / "truth.parquet")


def by_model(metrics: dict, key: str) -> dict[str, float]:
    return {card["model"]: card[key] for card in metrics["cards"]}


def test_the_hybrid_stands_between_the_baselines_and_the_best_there_is(metrics: dict):
    score, loss = by_model(metrics, "macro_f1"), by_model(metrics, "log_loss")
    assert score["hybrid"] > score["persona majority"] + 0.1
    assert loss["Bayes"] < loss["hybrid"] < loss["persona majority"] - 0.2
    best = next(card for card in metrics["cards"] if card["model"] == "Bayes")
    error = (best["high"] - best["low"]) / 3.92
    assert all(value <= best["macro_f1"] + 3 * error for value in score.values())
    assert {row["against"] for row in metrics["differences"]} == set(score) - {"hybrid", "Bayes"}


def test_chances_add_up_to_what_happens(metrics: dict):
    assert sum(row["n"] for row in metrics["actions"]) == metrics["n_rows"]
    for row in metrics["actions"]:
        assert row["mean_p"] == pytest.approx(row["n"] / metrics["n_rows"], abs=0.04)
    assert np.sum(metrics["confusion"]) == metrics["n_rows"]


def test_found_replies_are_nearer_than_shuffled_ones(metrics: dict):
    assert metrics["replies"]["cosine"] > metrics["replies"]["shuffled"] + 0.1


def test_the_page_names_every_action_and_holds_no_text(metrics: dict, run: Path, world: Path):
    text = write_report(run).read_text("utf-8")
    assert text == page(json.loads((run / "metrics.json").read_text("utf-8")))
    assert all(f"<td>{name}</td>" in text for name in LABELS)
    first = json.loads((world / "threads.jsonl").read_text("utf-8").splitlines()[0])
    assert first["thread"][0]["text"] not in text


def test_answers_do_not_depend_on_order_ids_labels_or_company(run: Path, world: Path, tmp_path: Path):
    lines = [json.loads(line) for line in (world / "threads.jsonl").read_text("utf-8").splitlines()[:300]]
    other = json.loads(json.dumps(lines))
    for thread in other:
        thread["thread"][-1]["actions"] = {"block": True}
        for message in thread["thread"]:
            message["user_id"] = "x" + message["user_id"]
    cut = other[::-1][:120]
    tables = []
    for name, some in (("a", lines), ("b", cut)):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(each) + "\n" for each in some), "utf-8")
        done = predict_personas(run, path, tmp_path / f"{name}.parquet", lines=tmp_path / f"{name}.out")
        assert done.n_rows == len(some)
        tables.append(pl.read_parquet(tmp_path / f"{name}.parquet"))
    whole, part = tables
    same = part.select("thread_id").join(whole, on="thread_id", how="left", maintain_order="left")
    assert same.equals(part)
    p = whole.select([f"p_{name}" for name in LABELS]).to_numpy()
    assert np.allclose(p.sum(axis=1), 1, atol=1e-5)
    carries = whole["action"].is_in(["reply", "quote", "post_update"])
    assert ((whole["text"] != "") == carries).all()
    assert len((tmp_path / "a.out").read_text("utf-8").splitlines()) == 300


def test_another_persona_answers_otherwise_and_an_unknown_one_too(run: Path, world: Path, tmp_path: Path):
    path = tmp_path / "t.jsonl"
    path.write_text("\n".join((world / "threads.jsonl").read_text("utf-8").splitlines()[:100]), "utf-8")
    found = []
    for who in (0, 2, 99):
        predict_personas(run, path, tmp_path / "p.parquet", cluster=who)
        found.append(pl.read_parquet(tmp_path / "p.parquet")["p_like"].to_numpy())
    assert np.abs(found[0] - found[1]).max() > 0.05
    assert np.isfinite(found[2]).all()


def test_the_command_from_world_to_page(world: Path, tmp_path: Path):
    recipe = tmp_path / "r.toml"
    recipe.write_text('name = "r"\napp = "personas"\n[trees]\nrounds = 3\n[rare]\nepochs = 1\n', "utf-8")
    bad = tmp_path / "bad.jsonl"
    bad.write_text("{oops\n" * 30, "utf-8")
    for words, code, said in (
        (f"world --out {tmp_path}/w --threads 1500 --personas 2", 0, "habitus personas fit"),
        (f"fit {recipe} --threads {tmp_path}/w/threads.jsonl --out {tmp_path}/run", 0, "habitus personas evaluate"),
        (f"evaluate {tmp_path}/run", 0, "hybrid"),
        (f"report {tmp_path}/run", 0, "report.html"),
        (
            f"predict {tmp_path}/run --threads {tmp_path}/w/threads.jsonl --out {tmp_path}/p.parquet",
            0,
            "rejected: none",
        ),
        (f"predict {tmp_path}/run --threads {bad} --out {tmp_path}/q.parquet", 1, ""),
        (f"evaluate {tmp_path}/run --part train", 1, ""),
        (f"evaluate {tmp_path}/w", 1, ""),
        (f"report {tmp_path}", 1, ""),
        (f"world --out {tmp_path}/v --personas 0", 1, ""),
        (f"fit {recipe} --threads {bad} --out {tmp_path}/bad", 1, ""),
        (f"fit {recipe} --threads {tmp_path}/none --out {tmp_path}/bad", 1, ""),
    ):
        result = CliRunner().invoke(app, ["personas", *words.split()])
        assert result.exit_code == code, result.output
        assert said in result.output
    assert not (tmp_path / "q.parquet").exists()
    assert [path.name for path in (tmp_path / "bad").iterdir()] == ["rejected.parquet"]


def test_too_many_unusable_lines_stop_and_are_kept(world: Path, tmp_path: Path):
    path = tmp_path / "t.jsonl"
    path.write_text((world / "threads.jsonl").read_text("utf-8")[:200_000] + "\n" + "{bad\n" * 50, "utf-8")
    recipe = PersonasRecipe.parse(SMALL)
    with pytest.raises(IngestError, match="bad JSON"):
        fit_personas(recipe, path, tmp_path / "run", say=lambda line: None)
    assert pl.read_parquet(tmp_path / "run" / "rejected.parquet")["reason"].to_list().count("bad JSON") >= 50
    assert not (tmp_path / "run" / "rows").exists()


def test_a_killed_fit_goes_on_and_gives_the_same_bytes(run: Path, world: Path, tmp_path: Path):
    again = tmp_path / "run"
    shutil.copytree(run, again)
    for gone in ("facts.json", "trees/gate.txt", "rare.safetensors"):
        (again / "model" / gone).unlink()
    with pytest.raises(ArtifactError, match="goes on"):
        evaluate_personas(again)
    fit_personas(PersonasRecipe.parse(SMALL), world / "threads.jsonl", again, say=lambda line: None)
    for name in ("trees/gate.txt", "rare.safetensors"):
        assert (again / "model" / name).read_bytes() == (run / "model" / name).read_bytes()
    with pytest.raises(ConfigError, match="another one"):
        fit_personas(PersonasRecipe.parse(SMALL | {"seed": 1}), world / "threads.jsonl", again, say=lambda line: None)


def test_wrong_names_are_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="rounds"):
        PersonasRecipe.parse({"name": "x", "trees": {"round": 3}})
    with pytest.raises(SourceError, match="no such path"):
        fit_personas(PersonasRecipe(name="x"), tmp_path / "none.jsonl", tmp_path / "r", say=lambda line: None)


def test_an_empty_file_is_named_and_leaves_nothing(tmp_path: Path):
    (tmp_path / "empty.jsonl").touch()
    recipe = PersonasRecipe.parse(SMALL)
    with pytest.raises(IngestError, match="an empty file"):
        fit_personas(recipe, tmp_path / "empty.jsonl", tmp_path / "run", say=lambda _: None)
    assert [path.name for path in tmp_path.iterdir()] == ["empty.jsonl"]
