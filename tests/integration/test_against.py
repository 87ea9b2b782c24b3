"""Two runs side by side: the same test, paired; runs that do not match are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

import habitus
from habitus.cli.main import app
from habitus.core.errors import ConfigError, CutoffError, FingerprintError, TargetError
from habitus.data.calendar import Calendar
from habitus.data.ingest import ingest
from habitus.data.log import EventLog
from habitus.data.schema import Schema
from habitus.data.store import Store
from habitus.tasks.report import report
from habitus.tasks.run import Run
from habitus.testing.threads import one_thread
from tests.conftest import SHOP_SCHEMA, shop_table

__all__ = ["one_thread"]

RECIPE = """
name = "NAME"
store = "unused.store"

[cutoffs]
horizon = 7
train = { first = 2020-02-01, last = 2020-02-19, every = 9 }
valid = { days = [2020-02-27, 2020-03-06] }
test = { days = [2020-04-01] }

[tokens]
history = 30
summary = "profile"
known = "KNOWN"

[[targets]]
name = "buy"
define = "any(purchase) in 7d"
per_day = true

[[targets]]
name = "spend"
define = "sum(spend of purchase) in 7d"

[model]
size = "tiny"
d_model = 16
n_heads = 2
d_ff = 16

[training]
epochs = 1
loggers = []

[gate]
rows = ["base_rate"]
n_resamples = 100
"""
SALES = [{"type": "sale", "start": day} for day in ("2020-02-05", "2020-02-29", "2020-04-04")]


def _store(folder: Path, seed: int = 0) -> Store:
    log = EventLog(Schema.parse(SHOP_SCHEMA), shop_table(n_users=40, seed=seed), calendar=Calendar.build(SALES))
    return ingest(log, folder / f"shop-{seed}.store", n_shards=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("against")


@pytest.fixture(scope="module")
def trained(folder: Path) -> Callable[..., Run]:
    stores = {0: _store(folder)}

    def train(name: str, known: str = "all", *changes: tuple[str, str], seed: int = 0, into: str = "") -> Run:
        text = RECIPE.replace("NAME", name).replace("KNOWN", known)
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        path = folder / f"{into or name}.toml"
        path.write_text(text)
        if seed not in stores:
            stores[seed] = _store(folder, seed)
        return habitus.train(path, out=folder / (into or name), store=stores[seed].path)

    return train


@pytest.fixture(scope="module")
def seeing(trained: Callable[..., Run]) -> Run:
    return trained("seeing")


@pytest.fixture(scope="module")
def blind(trained: Callable[..., Run]) -> Run:
    return trained("blind", "past")


def test_another_run_is_a_row_with_paired_differences(seeing, blind):
    alone = habitus.evaluate(blind)
    metrics = habitus.evaluate(seeing, against=[blind.path])
    assert {"name": "blind", "role": "run"} in metrics["models"]
    figures = {(r["target"], r["model"]): r["metrics"] for r in metrics["table"]}
    for row in alone["table"]:
        if row["model"] == "LUMOS":
            assert figures[row["target"], "blind"] == row["metrics"], "the same figures as evaluated alone"
    found = [d for d in metrics["differences"] if d["model"] == "LUMOS" and d["against"] == "blind"]
    assert {(d["target"], d["metric"]) for d in found} >= {("buy", "auc"), ("buy", "log_loss"), ("spend", "wape")}
    for d in found:
        if d["value"] is not None:
            mine, theirs = (figures[d["target"], who][d["metric"]]["value"] for who in ("LUMOS", "blind"))
            assert d["value"] == pytest.approx(mine - theirs)
            assert d["low"] <= d["high"]


def test_distributions_and_days_are_scored_for_both(seeing, blind):
    fine = habitus.evaluate(seeing, against=[blind.path])["distributions"]
    scores = {(r["target"], r["metric"], r["model"]): r["value"] for r in fine["table"]}
    for model in ("LUMOS", "blind"):
        assert 0 < scores["buy", "day_log_loss", model] < 1
        assert scores["spend", "pinball", model] > 0
        assert 0 <= scores["spend", "coverage_80", model] <= 1
    gaps = {(d["target"], d["metric"]): d for d in fine["differences"]}
    assert set(gaps) == {("buy", "day_log_loss"), ("spend", "pinball")}
    gap = gaps["buy", "day_log_loss"]
    assert gap["value"] == pytest.approx(
        scores["buy", "day_log_loss", "LUMOS"] - scores["buy", "day_log_loss", "blind"]
    )
    assert gap["low"] <= gap["value"] <= gap["high"]


def test_command_and_report_know_the_other_run(seeing, blind):
    answer = CliRunner().invoke(app, ["evaluate", str(seeing.path), "--against", str(blind.path)])
    assert answer.exit_code == 0, answer.output
    assert " blind: auc" in answer.output
    assert " blind: day_log_loss" in answer.output
    assert "blind" in Path(report(seeing.path)).read_text("utf-8")


def test_a_run_with_more_targets_is_read_by_name(seeing, trained):
    more = (
        '[[targets]]\nname = "buy"',
        '[[targets]]\nname = "days"\ndefine = "days(visit) in 7d"\n\n[[targets]]\nname = "buy"',
    )
    other = trained("more", "all", more)
    alone = {r["target"]: r["metrics"] for r in habitus.evaluate(other)["table"] if r["model"] == "LUMOS"}
    metrics = habitus.evaluate(seeing, against=[other])
    for row in metrics["table"]:
        if row["model"] == "more":
            assert row["metrics"] == alone[row["target"]]
    with pytest.raises(TargetError, match="days"):
        habitus.evaluate(other, against=[seeing])


def test_runs_that_do_not_match_are_refused(seeing, blind, trained):
    with pytest.raises(ConfigError, match="itself"):
        habitus.evaluate(seeing, against=[seeing.path])
    with pytest.raises(ConfigError, match="two called"):
        habitus.evaluate(seeing, against=[blind, blind])
    with pytest.raises(CutoffError, match="same test samples"):
        habitus.evaluate(seeing, against=[trained("later", "all", ("2020-04-01", "2020-04-08"))])
    with pytest.raises(TargetError, match="visit"):
        habitus.evaluate(seeing, against=[trained("visits", "all", ("any(purchase)", "any(visit)"))])
    with pytest.raises(FingerprintError, match="same store"):
        habitus.evaluate(seeing, against=[trained("elsewhere", seed=1)])
