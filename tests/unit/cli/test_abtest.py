"""habitus abtest: from a declaration to a page, and errors a person can act on."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from habitus.cli.main import app
from tests.unit.apps.abtest.world import tables

TRIAL = """
name = "trial"
salt = "salt"
start = 2024-03-04
days = 14
ramp = [0.5]

[tables]
assignment = "assignment.parquet"
metrics = "events.csv"

[[metrics]]
name = "buyers"
role = "primary"
kind = "binary"
value = "bought"
window_days = 7
baseline = 0.25
lift = 0.3
"""


def run(*words: str):
    return CliRunner().invoke(app, ["abtest", *words])


@pytest.fixture
def trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    made = tables(n=4000)
    made["assignment"].write_parquet("assignment.parquet")
    made["metrics"].write_csv("events.csv")
    made["assignment"].select("user").write_csv("users.csv")
    Path("trial.toml").write_text(TRIAL, "utf-8")
    return tmp_path


def test_each_verb_explains_itself():
    for verb in ("plan", "assign", "analyse", "monitor", "simulate"):
        answer = run(verb, "--help")
        assert answer.exit_code == 0
        assert answer.stdout.split("\n\n")[1].strip().endswith(".")


def test_the_whole_road(trial: Path):
    planned = run("plan", "trial.toml")
    assert planned.exit_code == 0, planned.output
    assert "users per arm find +0.3 relative on buyers" in planned.stdout
    assigned = run("assign", "trial.plan.json", "--users", "users.csv", "--out", "arms.parquet")
    assert assigned.exit_code == 0, assigned.output
    both = pl.read_parquet("arms.parquet").join(pl.read_parquet("assignment.parquet"), on="user")
    assert len(both) == 4000
    assert (both["arm"] == both["arm_right"]).all()
    judged = run("analyse", "trial.plan.json")
    assert judged.exit_code == 0, judged.output
    assert judged.stdout.startswith("Ship")
    assert Path("trial.analysis/report.html").is_file()
    looks = run("monitor", "trial.plan.json", "--as-of", "2024-03-20", "--out", "looks.json")
    assert "2024-03-12" in looks.stdout
    assert Path("looks.json").is_file()
    tried = run("simulate", "trial.plan.json", "--runs", "200")
    assert "no effect" in tried.stdout


def test_sql_is_printed_and_layers_are_kept(trial: Path):
    assert run("plan", "trial.toml").exit_code == 0
    assert "bit(32)" in run("assign", "trial.plan.json", "--sql", "postgresql").stdout
    answer = run("assign", "trial.plan.json", "--sql", "duckdb", "--beside", "trial.plan.json")
    assert answer.exit_code == 1
    assert "disjoint buckets" in answer.stderr


def test_a_date_that_is_none(trial: Path):
    assert run("plan", "trial.toml").exit_code == 0
    answer = run("analyse", "trial.plan.json", "--as-of", "soon")
    assert answer.exit_code == 1
    assert "a date such as" in answer.stderr
