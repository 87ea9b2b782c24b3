"""LightGBM on the dense features and the low-cardinality codes; large ids enter through time-safe rates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import Field

from habitus.apps.ctr.batches import columns_without
from habitus.apps.ctr.examples import Examples
from habitus.core.config import Config
from habitus.core.seeds import derive

_MOST_CATEGORIES = 128


class ClickTreesConfig(Config):
    """How hard the trees try.

    Static fields of more than 128 codes are left out, or with `has_rates` replaced by the smoothed click rate of their
    code (see `CodeRates`), save those in `left_out`.

    >>> ClickTreesConfig().leaves
    127
    """

    leaves: int = Field(127, gt=1)
    lr: float = Field(0.05, gt=0)
    rounds: int = Field(2000, gt=0)
    min_data: int = Field(200, gt=0)
    column_share: float = Field(0.8, gt=0, le=1)
    patience: int = Field(100, gt=0)
    l2: float = Field(0.0, ge=0)
    has_rates: bool = True
    prior: float = Field(50.0, gt=0)
    left_out: tuple[str, ...] = ()
    n_threads: int = Field(1, gt=0)


@dataclass(frozen=True)
class CodeRates:
    """Clicks and views per code of the large static fields, by training day.

    The rate of a training row counts complete days before its own; a later row counts all training days. The label of a
    row is therefore never in its own input.
    """

    places: tuple[int, ...]
    days: np.ndarray  # int32 [D], sorted
    clicks: tuple[np.ndarray, ...]  # per field float64 [D + 1, codes]: before day 0, before day 1, ...
    views: tuple[np.ndarray, ...]
    rate: np.ndarray  # float64 [D + 1]
    prior: float

    @classmethod
    def fit(cls, train: Examples, places: tuple[int, ...], prior: float) -> CodeRates:
        """Count per day and code."""
        days, at = np.unique(train.day, return_inverse=True)
        clicks, views = [], []
        for place in places:
            size = int(train.spec.static_sizes[place])
            key = at * size + train.static[:, place]
            for found, weights in ((clicks, train.label), (views, None)):
                table = np.bincount(key, weights=weights, minlength=days.size * size).reshape(days.size, size)
                found.append(np.concatenate([np.zeros((1, size)), table.cumsum(0)]))
        total = np.append(0.0, np.bincount(at, weights=train.label).cumsum())
        seen = np.append(0, np.bincount(at).cumsum())
        overall = train.label.mean()
        rate = np.where(seen > 0, total / np.maximum(seen, 1), overall)
        return cls(places, days, tuple(clicks), tuple(views), rate, prior)

    def columns(self, examples: Examples) -> np.ndarray:
        """Give smoothed rate and log views per field, float32 [n, 2 F]."""
        before = np.searchsorted(self.days, examples.day)
        found = []
        for place, clicks, views in zip(self.places, self.clicks, self.views):
            code = examples.static[:, place]
            n = np.where(code > 0, views[before, code], 0)
            won = np.where(code > 0, clicks[before, code], 0)
            found += [(won + self.prior * self.rate[before]) / (n + self.prior), np.log1p(n)]
        return np.stack(found, 1).astype(np.float32) if found else np.zeros((len(examples), 0), np.float32)


@dataclass(frozen=True)
class TreesScorer:
    """LightGBM's text and what it reads."""

    text: str
    small: tuple[int, ...]
    rates: CodeRates
    n_rounds: int

    def logits(self, examples: Examples) -> np.ndarray:
        """Give log odds of a click, float64 [n]."""
        import lightgbm

        booster = lightgbm.Booster(model_str=self.text)
        return np.asarray(booster.predict(matrix(examples, self.small, self.rates), raw_score=True), np.float64)

    @property
    def n_parameters(self) -> int:
        """Leaves of all trees."""
        return self.text.count(" ") if not self.text else sum(
            int(line.split("=")[1]) for line in self.text.splitlines() if line.startswith("num_leaves=")
        )  # fmt: skip


def matrix(examples: Examples, small: tuple[int, ...], rates: CodeRates) -> np.ndarray:
    """Give what the trees read: codes of small fields, rates of large ones, dense features."""
    codes = examples.static[:, list(small)].astype(np.float32)
    return np.concatenate([codes, rates.columns(examples), examples.dense], axis=1)


def fit_trees(config: ClickTreesConfig, train: Examples, valid: Examples, *, seed: int = 0) -> TreesScorer:
    """Fit on `train`, stop by the log loss on `valid`."""
    import lightgbm

    kept = columns_without(train, config.left_out)
    sizes = train.spec.static_sizes
    small = tuple(place for place in kept if sizes[place] <= _MOST_CATEGORIES)
    large = tuple(place for place in kept if sizes[place] > _MOST_CATEGORIES) if config.has_rates else ()
    rates = CodeRates.fit(train, large, config.prior)
    parameters: dict[str, Any] = {
        "objective": "binary",
        "num_leaves": config.leaves,
        "learning_rate": config.lr,
        "min_data_in_leaf": config.min_data,
        "feature_fraction": config.column_share,
        "lambda_l2": config.l2,
        "num_threads": config.n_threads,
        "seed": derive(seed, "trees") % 2**31,
        "deterministic": True,
        "force_row_wise": True,
        "verbosity": -1,
    }
    is_late = train.day > train.day.min() if large and np.unique(train.day).size > 1 else slice(None)
    known = train.rows(is_late)  # rates of the first day are only the prior
    first = lightgbm.Dataset(
        matrix(known, small, rates), known.label, categorical_feature=list(range(len(small))), params=parameters
    )
    second = lightgbm.Dataset(matrix(valid, small, rates), valid.label, reference=first, params=parameters)
    stop = lightgbm.early_stopping(config.patience, verbose=False)
    booster = lightgbm.train(parameters, first, config.rounds, valid_sets=[second], callbacks=[stop])
    n_rounds = booster.best_iteration or config.rounds
    return TreesScorer(booster.model_to_string(num_iteration=n_rounds), small, rates, n_rounds)
