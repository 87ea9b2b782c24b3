"""The whole road of the advisor by its command: world, graphs, rankers, figures, answer, page; and what goes wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from habitus.cli.main import app

RECIPE = """
name = "tiny"
app = "advisor"
baselines = "light"
n_checked = 12
valid = "2021-05-28"
n_refit = 3
train = { first = "2020-09-18", every = 84, n = 3 }
test = { first = "2021-12-02", every = 84, n = 1 }
ranker = { n_customers = 80, rounds = 8, min_leaf = 5 }
ways = { multi = {}, parallel = { path = "parallel" }, "multi, no market" = { market = false } }
"""


def habitus(*words: object, code: int = 0) -> str:
    done = CliRunner().invoke(app, ["advisor", *map(str, words)])
    assert done.exit_code == code, done.output
    return done.output


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("advisor")
    (folder / "tiny.toml").write_text(RECIPE)
    habitus("world", "--out", folder / "world", "--customers", 90)
    said = habitus("build", folder / "world", "--out", folder / "graph")
    assert "triples in" in said
    places = ("--source", folder / "world", "--graph", folder / "graph", "--out", folder / "run")
    habitus("train", folder / "tiny.toml", *places)
    assert "there already" in habitus("train", folder / "tiny.toml", *places)  # a killed call goes on
    return folder / "run"


def test_every_row_is_judged_on_the_same_cases(run):
    said = habitus("evaluate", run)
    metrics = json.loads((run / "metrics.json").read_text("utf-8"))
    rows = metrics["rows"]
    assert {"random", "popularity", "oracle P(buy)", "hindsight", "multi, comb", "parallel, comb"} <= set(rows)
    assert {row["all"]["pref"]["n"] for row in rows.values()} == {metrics["n_cases"]}
    assert rows["hindsight"]["cond"]["comb"]["value"] == 1.0
    for name, row in rows.items():
        for cases in ("all", "cond"):
            pref, prof, comb = (row[cases][figure]["value"] for figure in ("pref", "prof", "comb"))
            assert comb <= min(pref, prof), name
        assert name in said
        if name not in ("multi, comb, fitting only", "multi, no market, comb"):  # these may name nothing
            assert row["all"]["fit"]["n"] == rows["random"]["all"]["fit"]["n"] > 0
    assert rows["multi, comb, fitting only"]["all"]["fit"]["value"] == 1.0
    found = metrics["citations"]
    assert found["share_in_graph"] == found["share_dated"] == 1.0
    assert found["share_of_asset"] + found["share_of_customer"] == pytest.approx(1)
    assert {part["by"] for part in metrics["slices"]} == {"activity", "type", "declared class", "market phase"}
    assert sum(row["share"] for row in metrics["categories"]) == pytest.approx(1)
    assert "stand in the retrieved graph" in said
    assert habitus("evaluate", run).splitlines()[-2:] == said.splitlines()[-2:]  # from the cases kept


def test_an_answer_cites_and_a_page_draws(run, tmp_path):
    words = ("advise", run, "--customer", "C0000003", "--date", "2021-12-02", "--k", 3)
    said = habitus(*words, "--out", tmp_path / "a.json")
    assert "no investment advice" in said
    first, again = json.loads((tmp_path / "a.json").read_text("utf-8")), None
    habitus(*words, "--out", tmp_path / "b.json")
    again = json.loads((tmp_path / "b.json").read_text("utf-8"))
    for answer in (first, again):
        answer.pop("milliseconds")
    assert first == again
    assert len(first["assets"]) == 3
    assert first["counts"]["tokens"] <= 8000
    habitus("report", run, "--customer", "C0000003", "--date", "2021-12-02", "--out", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text("utf-8")
    assert "<svg" in page
    assert "http" not in page  # nothing is fetched
    assert all(each["isin"] in page for each in first["assets"])
    for section in ("Does it fit the customer?", "Do the citations hold?", "By category of the assets named"):
        assert section in page


def test_what_goes_wrong_says_what_to_do(run, tmp_path):
    asked = ("--date", "2021-12-02")
    assert "a customer of this market" in habitus("advise", run, "--customer", "NOBODY", *asked, code=1)
    assert "2018-01-02 to 2022-11-29" in habitus(
        "advise", run, "--customer", "C0000003", "--date", "2030-01-01", code=1
    )
    assert "habitus advisor train" in habitus("evaluate", tmp_path, code=1)
    assert "no such file" in habitus("build", tmp_path, "--out", tmp_path / "g", code=1)
    assert not (tmp_path / "g").exists()
    assert "pref, prof or comb" in habitus("advise", run, "--customer", "C0000003", *asked, "--objective", "x", code=1)
    assert "off, warn or filter" in habitus(
        "advise", run, "--customer", "C0000003", *asked, "--suitability", "x", code=1
    )
    late = RECIPE.replace('valid = "2021-05-28"', 'valid = "2021-07-28"')
    (tmp_path / "late.toml").write_text(late)
    places = ("--source", run, "--graph", run, "--out", tmp_path / "r")
    assert "training windows before" in habitus("train", tmp_path / "late.toml", *places, code=1)
