"""The page of a run of events: its ranking, in words, drawings and a table."""

import json
from pathlib import Path

from habitus.tasks.report import report


def figure(value: float) -> dict:
    return {"value": value, "low": value - 0.01, "high": value + 0.01}


RANKING = {
    "field": "item",
    "n_targets": 2_000,
    "n_users": 1_000,
    "n_values": 12_101,
    "n_unknown": 3,
    "repeat_share": 0.25,
    "groups": {"head": 100, "tail": 12_001, "bottom": 4_000},
    "models": [{"name": "SASRec", "role": "model"}, {"name": "popularity <b>", "role": "gate"}],
    "table": [
        {
            "target": "item",
            "model": "SASRec",
            "metrics": {"new_ndcg@10": figure(0.0531)},
            "seed_sd": {"new_ndcg@10": 0.0007},
        },
        {"target": "item", "model": "popularity <b>", "metrics": {"new_ndcg@10": figure(0.0123)}},
    ],
    "differences": [
        {
            "target": "item",
            "metric": "new_ndcg@10",
            "model": "SASRec",
            "against": "popularity <b>",
            **figure(0.0408),
            "is_better": True,
        }
    ],
}


def page_of(run: Path, metrics: dict) -> str:
    (run / "metrics.json").write_text(json.dumps({"format": 1, "name": "beauty"} | metrics), "utf-8")
    return report(run).read_text("utf-8")


def test_the_ranking_is_shown_with_its_verdict(tmp_path: Path) -> None:
    page = page_of(tmp_path, {"ranking": RANKING})
    assert "2,000 times, for 1,000 users, the item of the next event was asked for, out of 12,101 values" in page
    assert "3 of them were never seen" in page
    assert "SASRec against popularity &lt;b&gt;: better" in page
    assert "0.0531" in page
    assert "seeds\u00a0±0.0007" in page
    assert "ranking-new_ndcg-10" in page
    assert "25" in page.split("of targets repeat")[0][-12:]
    assert "popularity <b>" not in page
    assert "The forecast day by day" not in page


def test_an_empty_ranking_names_its_command(tmp_path: Path) -> None:
    assert "Nothing has been ranked yet." in page_of(tmp_path, {"ranking": {}})


def test_runs_of_days_have_no_ranking(tmp_path: Path) -> None:
    assert "The ranking" not in page_of(tmp_path, {})


def test_the_first_screen_asks_what_comes_next(tmp_path: Path) -> None:
    page = page_of(tmp_path, {"ranking": RANKING, "data": {"name": "beauty", "n_events": 9_000, "n_users": 1_000}})
    screen = page[: page.index("The ranking")]
    assert "Which item comes next for the users of Beauty?" in screen
    assert "SASRec is better than popularity &lt;b&gt;." in screen
    assert "cut-off" not in screen.split("<body", 1)[1]
