"""The offline generator: boosted trees say how likely a retrieved asset is bought, and how likely it rises."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from habitus.apps.advisor.features import FACTS, NAMES, features
from habitus.apps.advisor.market import Market, Trades, View
from habitus.apps.advisor.select import RetrievalConfig, Retrieved, retrieve_many
from habitus.core.atomic import new_file, write_json
from habitus.core.config import Config
from habitus.core.errors import ArtifactError, TrainingError
from habitus.core.seeds import generator

Objective = Literal["pref", "prof", "comb"]
PARTS = ("buy", "rise")


class RankerConfig(Config):
    """How the two models are fitted. `n_customers` of each training date are drawn; rounds stop on the validation date.

    >>> RankerConfig().objective
    'comb'
    """

    objective: Objective = "comb"
    n_customers: int = Field(1500, gt=0)
    rounds: int = Field(300, gt=0)
    patience: int = Field(30, gt=0)
    lr: float = Field(0.05, gt=0)
    leaves: int = Field(31, gt=1)
    min_leaf: int = Field(50, gt=0)
    rise_leaves: int = Field(7, gt=1)
    seed: int = 0


@dataclass(frozen=True)
class Ranker:
    """Two boosters and what they were told. `parts[name]` scores rows [n, F]; P(buy) and P(rise)."""

    parts: dict[str, Any]
    config: RankerConfig
    retrieval: RetrievalConfig

    def chances(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Give P(buy) and P(rise) of rows [..., F], each [...]; NaN where the row is all NaN."""
        flat = rows.reshape(-1, rows.shape[-1])
        is_row = ~np.isnan(flat).all(axis=1)
        found = {}
        for name, booster in self.parts.items():
            p = np.full(len(flat), np.nan)
            if is_row.any():
                p[is_row] = booster.predict(flat[is_row], num_threads=1)
            found[name] = p.reshape(rows.shape[:-1])
        return found

    def scores(self, rows: np.ndarray, objective: Objective | None = None) -> np.ndarray:
        """Give the score of rows [..., F] for an objective; -inf where there is no asset."""
        return self.score_of(self.chances(rows), objective)

    def score_of(self, p: dict[str, np.ndarray], objective: Objective | None = None) -> np.ndarray:
        """Give the score of an objective from what `chances` gave."""
        wanted = objective or self.config.objective
        score = p["buy"] if wanted == "pref" else p["rise"] if wanted == "prof" else p["buy"] * p["rise"]
        return np.where(np.isnan(score), -np.inf, score)

    def save(self, folder: str | Path) -> None:
        """Write the boosters as text, and the configs."""
        folder = Path(folder)
        for name, booster in self.parts.items():
            with new_file(folder / f"{name}.txt") as beside:
                beside.write_text(booster.model_to_string(), "utf-8")
        write_json(folder / "ranker.json", {"format": 1, "names": NAMES, "config": self.config.model_dump(),
                                            "retrieval": self.retrieval.model_dump()})  # fmt: skip


def load_ranker(folder: str | Path) -> Ranker:
    """Read what `Ranker.save` wrote. Errors: `ArtifactError`."""
    import json

    import lightgbm as lgb

    folder = Path(folder)
    try:
        kept = json.loads((folder / "ranker.json").read_text("utf-8"))
        parts = {name: lgb.Booster(model_str=(folder / f"{name}.txt").read_text("utf-8")) for name in PARTS}
    except (OSError, ValueError, lgb.basic.LightGBMError) as cause:
        fix = "habitus advisor train RECIPE --out RUN"
        raise ArtifactError("a ranker", str(cause), where=str(folder), fix=fix) from None
    if kept["names"] != list(NAMES):
        raise ArtifactError("the features of this version", "others", where=str(folder), fix="train again")
    return Ranker(parts, RankerConfig.parse(kept["config"]), RetrievalConfig.parse(kept["retrieval"]))


@dataclass(frozen=True)
class Rows:
    """Training rows: x float32 [n, F], bought and rises bool [n]."""

    x: np.ndarray
    bought: np.ndarray
    rises: np.ndarray


def rows_at(view: View, customers: np.ndarray, retrieval: RetrievalConfig) -> Rows:
    """Make the rows of retrieved assets of some customers on a day, with what happened after it."""
    trades = view.trades(customers)
    found = retrieve_many(view, trades, retrieval)
    x, outcome = features(view, trades, found, market=retrieval.market), view.outcome(customers)
    keep, assets = found.assets >= 0, np.maximum(found.assets, 0)
    return Rows(x[keep], np.take_along_axis(outcome.bought, assets, 1)[keep], outcome.rises[assets][keep])


def active_customers(view: View) -> np.ndarray:
    """Give the codes of customers with a transaction up to the day."""
    return np.unique(view.market.source.customer[view.seen])


def fit_ranker(
    market: Market, days: list[int], valid: int, refit: list[int], config: RankerConfig, retrieval: RetrievalConfig
) -> Ranker:
    """Fit on `days`, stop on `valid`, fit again on `refit` with the rounds found.

    Errors: `TrainingError` when nobody traded or bought on these days.
    """
    import lightgbm as lgb

    of = {day: _drawn_rows(market.view(day), config, retrieval) for day in sorted({*days, valid, *refit})}
    parts: dict[str, Any] = {}
    for name in PARTS:
        options = _options(name, config)
        train, stop = _pooled([of[day] for day in days], name), _pooled([of[valid]], name)
        if train[1].sum() == 0:
            raise TrainingError(f"rows with {name}", "none", where="the training dates")
        first = lgb.train(
            options, lgb.Dataset(*train, feature_name=list(NAMES)), config.rounds,
            valid_sets=[lgb.Dataset(*stop, feature_name=list(NAMES))],
            callbacks=[lgb.early_stopping(config.patience, verbose=False)],
        )  # fmt: skip
        again = _pooled([of[day] for day in refit], name)
        rounds = max(first.best_iteration, 10)
        parts[name] = lgb.train(options, lgb.Dataset(*again, feature_name=list(NAMES)), rounds)
    return Ranker(parts, config, retrieval)


def _drawn_rows(view: View, config: RankerConfig, retrieval: RetrievalConfig) -> Rows:
    draw = generator(config.seed, "training customers", view.day)
    people = active_customers(view)
    return rows_at(view, np.sort(draw.permutation(people)[: config.n_customers]), retrieval)


def _pooled(rows: list[Rows], name: str) -> tuple[np.ndarray, np.ndarray]:
    x = np.concatenate([each.x for each in rows])
    y = np.concatenate([each.bought if name == "buy" else each.rises for each in rows])
    if name == "rise":  # whether an asset rises is not the customer's doing
        x = x.copy()
        x[:, [place for place, column in enumerate(NAMES) if column not in (*FACTS, "category")]] = np.nan
    return x, y.astype(np.int8)


def _options(name: str, config: RankerConfig) -> dict[str, Any]:
    return {
        "objective": "binary", "learning_rate": config.lr, "min_data_in_leaf": config.min_leaf, "verbosity": -1,
        "num_leaves": config.leaves if name == "buy" else config.rise_leaves, "num_threads": 1, "deterministic": True,
        "seed": config.seed, "force_row_wise": True, "feature_pre_filter": False,
    }  # fmt: skip


def rank(
    ranker: Ranker, view: View, trades: Trades, found: Retrieved, objective: Objective | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Order the retrieved assets: asset int [B, R] and score [B, R], best first; -1 and -inf where fewer."""
    score = ranker.scores(features(view, trades, found, market=ranker.retrieval.market), objective)
    order = np.argsort(-score, axis=1, kind="stable")
    return np.take_along_axis(found.assets, order, 1), np.take_along_axis(score, order, 1)
