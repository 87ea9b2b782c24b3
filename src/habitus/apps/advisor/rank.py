"""The offline generator: how likely a retrieved asset is bought, and how likely it rises."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from habitus.apps.advisor.buy import Buy, Rows, fit_buy
from habitus.apps.advisor.features import NAMES, features
from habitus.apps.advisor.market import HORIZON, Market, Trades, View
from habitus.apps.advisor.rise import Rise, fit_rise
from habitus.apps.advisor.select import RetrievalConfig, Retrieved, retrieve_many
from habitus.core.atomic import write_json
from habitus.core.config import Config
from habitus.core.errors import ArtifactError
from habitus.core.seeds import generator

Objective = Literal["pref", "prof", "comb"]
FORMAT = 2


class RankerConfig(Config):
    """How the two models are fitted. `n_customers` with a later buy are drawn per training date, and as many of all on
    the last one, for the probabilities; rounds stop on the validation date.

    >>> RankerConfig().objective
    'comb'
    """

    objective: Objective = "comb"
    n_customers: int = Field(2000, gt=0)
    rounds: int = Field(200, gt=0)
    patience: int = Field(30, gt=0)
    lr: float = Field(0.05, gt=0)
    leaves: int = Field(31, gt=1)
    min_leaf: int = Field(50, gt=0)
    seed: int = 0


@dataclass(frozen=True)
class Ranker:
    """Two models and what they were told: `buy` and `rise` score rows [n, F] of features."""

    buy: Buy
    rise: Rise
    config: RankerConfig
    retrieval: RetrievalConfig

    def chances(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Give P(buy) and P(rise) of rows [..., F], each [...]; NaN where the row is all NaN."""
        flat = rows.reshape(-1, rows.shape[-1])
        is_row = ~np.isnan(flat).all(axis=1)
        found = {}
        for name, model in (("buy", self.buy), ("rise", self.rise)):
            p = np.full(len(flat), np.nan)
            if is_row.any():
                p[is_row] = model.predict(flat[is_row])
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
        """Write both models, and the configs last: a folder with ranker.json is whole."""
        folder = Path(folder)
        self.buy.save(folder)
        self.rise.save(folder / "rise.json")
        write_json(folder / "ranker.json", {"format": FORMAT, "names": NAMES, "config": self.config.model_dump(),
                                            "retrieval": self.retrieval.model_dump()})  # fmt: skip


def load_ranker(folder: str | Path) -> Ranker:
    """Read what `Ranker.save` wrote. Errors: `ArtifactError`."""
    import json

    import lightgbm as lgb

    folder = Path(folder)
    fix = "habitus advisor train RECIPE --out RUN"
    try:
        kept = json.loads((folder / "ranker.json").read_text("utf-8"))
        if kept["format"] != FORMAT or kept["names"] != list(NAMES):
            raise ArtifactError(
                "a ranker of this version", "another one", where=str(folder), fix="train into a new folder"
            )
        buy, rise = Buy.load(folder), Rise.load(folder / "rise.json")
    except (OSError, ValueError, KeyError, lgb.basic.LightGBMError) as cause:
        raise ArtifactError("a ranker", str(cause), where=str(folder), fix=fix) from None
    return Ranker(buy, rise, RankerConfig.parse(kept["config"]), RetrievalConfig.parse(kept["retrieval"]))


def rows_at(view: View, customers: np.ndarray, retrieval: RetrievalConfig) -> Rows:
    """Make the rows of retrieved assets of some customers on a day, with what happened after it."""
    trades = view.trades(customers)
    found = retrieve_many(view, trades, retrieval)
    x, outcome = features(view, trades, found, market=retrieval.market), view.outcome(customers)
    keep, assets = found.assets >= 0, np.maximum(found.assets, 0)
    bought, good = (np.take_along_axis(which, assets, 1).astype(np.int8) for which in (outcome.bought, outcome.good))
    return Rows(x[keep], (bought + good)[keep], keep.sum(axis=1))


def active_customers(view: View) -> np.ndarray:
    """Give the codes of customers with a transaction up to the day."""
    return np.unique(view.market.source.customer[view.seen])


def later_buyers(view: View) -> np.ndarray:
    """Give the codes of active customers with a buy in the window after the day. For training only."""
    people = active_customers(view)
    source = view.market.source
    after = (source.day > view.day) & (source.day <= view.day + HORIZON) & source.is_buy
    return people[np.isin(people, source.customer[after])]


def fit_ranker(
    market: Market, days: list[int], valid: int, refit: list[int], config: RankerConfig, retrieval: RetrievalConfig
) -> Ranker:
    """Fit on `days`, stop on `valid`, fit again on `refit` with the rounds found.

    Probabilities are those of the last day of `refit`.

    Errors: `TrainingError` when nobody traded or bought on these days.
    """
    every = sorted({*days, valid, *refit})
    of = {day: _drawn(market.view(day), later_buyers(market.view(day)), config, retrieval) for day in every}
    last = market.view(max(refit))
    everybody = _drawn(last, active_customers(last), config, retrieval)
    train, again = (_pooled([of[day] for day in some]) for some in (days, refit))
    buy = fit_buy(train, of[valid], again, everybody, _options(config), config.rounds, config.patience)
    return Ranker(buy, fit_rise([market.view(day) for day in refit]), config, retrieval)


def _drawn(view: View, people: np.ndarray, config: RankerConfig, retrieval: RetrievalConfig) -> Rows:
    draw = generator(config.seed, "training customers", view.day)
    return rows_at(view, np.sort(draw.permutation(people)[: config.n_customers]), retrieval)


def _pooled(rows: list[Rows]) -> Rows:
    return Rows(*(np.concatenate([getattr(each, name) for each in rows]) for name in ("x", "grade", "size")))


def _options(config: RankerConfig) -> dict[str, Any]:
    return {
        "objective": "lambdarank", "lambdarank_truncation_level": 5, "learning_rate": config.lr, "verbosity": -1,
        "min_data_in_leaf": config.min_leaf, "num_leaves": config.leaves, "num_threads": 1, "deterministic": True,
        "seed": config.seed, "force_row_wise": True, "feature_pre_filter": False,
    }  # fmt: skip


def rank(
    ranker: Ranker, view: View, trades: Trades, found: Retrieved, objective: Objective | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Order the retrieved assets: asset int [B, R] and score [B, R], best first; -1 and -inf where fewer."""
    score = ranker.scores(features(view, trades, found, market=ranker.retrieval.market), objective)
    order = np.argsort(-score, axis=1, kind="stable")
    return np.take_along_axis(found.assets, order, 1), np.take_along_axis(score, order, 1)
