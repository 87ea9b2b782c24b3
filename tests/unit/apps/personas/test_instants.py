"""The same hybrid on another log: users of a question-and-answer site, from tables to a page."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import numpy as np
import polars as pl

from habitus.apps.personas.evaluate import evaluate_personas
from habitus.apps.personas.fit import fit_personas
from habitus.apps.personas.report import write_report
from habitus.apps.personas.settings import PersonasRecipe
from habitus.data.sources.persona_stats_se import LABELS

SMALL = {
    "name": "site", "source": "stats_se", "split": "time", "labels": LABELS, "lookup": {"has_near": False},
    "text": {"width": 8, "read_by_trees": 2, "n_groups": 4}, "trees": {"rounds": 5, "leaves": 7, "min_leaf": 20},
    "rare": {"epochs": 1, "d_text": 8, "d_numbers": 8, "width": 8},
}  # fmt: skip


def tables(folder: Path) -> Path:
    """60 users: half ask and answer every 12 days, the others ask every 60 and get a badge ten days later."""
    rng, start = np.random.default_rng(0), dt.datetime(2012, 1, 1)
    posts, badges = [], []
    for user in range(1, 61):
        step = 12 if user % 2 else 60
        for day in range(int(rng.integers(0, step)), 950, step):
            when = start + dt.timedelta(days=day, minutes=user)
            posts.append((int(rng.integers(1, 3)) if user % 2 else 1, when, user))
            if user % 2 == 0:
                badges.append((user, when + dt.timedelta(days=10)))
    schema = ["PostTypeId", "CreationDate", "OwnerUserId"]
    pl.DataFrame(posts, schema=schema, orient="row").write_parquet(folder / "posts.parquet")
    pl.DataFrame(badges, schema=["UserId", "Date"], orient="row").write_parquet(folder / "badges.parquet")
    users = {"Id": list(range(1, 61)), "CreationDate": [start] * 60}
    pl.DataFrame(users).write_parquet(folder / "users.parquet")
    return folder


def test_the_hybrid_learns_who_asks_again_and_who_gets_a_badge(tmp_path: Path):
    run = fit_personas(PersonasRecipe.parse(SMALL), tables(tmp_path), tmp_path / "run", say=lambda line: None)
    found = evaluate_personas(run)
    score = {card["model"]: card["macro_f1"] for card in found["cards"]}
    assert found["n_rows"] > 500
    assert score["hybrid"] > score["majority"] + 0.2
    assert found["replies"] == {}
    assert "<td>badge</td>" in write_report(run).read_text("utf-8")
