"""LightGBM on the dense features and the low-cardinality codes; large ids enter through time-safe rates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import Field

from habitus.apps.ctr.batches import columns_without, places_of
from habitus.apps.ctr.examples import Examples
from habitus.apps.ctr.linear import LinearConfig, LinearScorer, fit_linear
from habitus.core.config import Config
from habitus.core.seeds import derive

_MOST_CATEGORIES = 128


class ClickTreesConfig(Config):
    """How hard the trees try.

    Static fields of more than 128 codes are left out, or with `has_rates` replaced by the smoothed click rate of their
    code (see `CodeRates`), save those in `left_out`. `crossed` names pairs of fields; each pair of codes has a rate.
    With `start` a linear model is fitted first, and the trees are added to its log odds.

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
    crossed: tuple[tuple[str, str], ...] = ()
    cat_smooth: float = Field(10.0, ge=0)
    start: LinearConfig | None = None
    n_threads: int = Field(1, gt=0)


@dataclass(frozen=True)
class CodeRates:
    """Clicks and views per code of the large static fields and per pair of codes, by training day.

    The rate of a training row counts complete days before its own; a later row counts all training days. The label of a
    row is therefore never in its own input.
    """

    places: tuple[tuple[int, ...], ...]  # one or two static fields each
    sizes: tuple[int, ...]  # codes per place
    days: np.ndarray  # int32 [D], sorted
    clicks: tuple[np.ndarray, ...]  # per field float64 [D + 1, codes]: before day 0, before day 1, ...
    views: tuple[np.ndarray, ...]
    rate: np.ndarray  # float64 [D + 1]
    prior: float

    @classmethod
    def fit(cls, train: Examples, places: tuple[tuple[int, ...], ...], prior: float) -> CodeRates:
        """Count per day and code. A pair with a code 0 is not counted."""
        fields = train.spec.static_sizes
        sizes = tuple(int(np.prod([fields[each] for each in place])) for place in places)
        days, at = np.unique(train.day, return_inverse=True)
        clicks, views = [], []
        for place, size in zip(places, sizes):
            key = at * size + _code(train, place)
            for found, weights in ((clicks, train.label), (views, None)):
                table = np.bincount(key, weights=weights, minlength=days.size * size).reshape(days.size, size)
                found.append(np.concatenate([np.zeros((1, size)), table.cumsum(0)]))
        total = np.append(0.0, np.bincount(at, weights=train.label).cumsum())
        seen = np.append(0, np.bincount(at).cumsum())
        overall = train.label.mean()
        rate = np.where(seen > 0, total / np.maximum(seen, 1), overall)
        return cls(places, sizes, days, tuple(clicks), tuple(views), rate, prior)

    def columns(self, examples: Examples) -> np.ndarray:
        """Give smoothed rate and log views per field, float32 [n, 2 F]."""
        before = np.searchsorted(self.days, examples.day)
        found = []
        for place, clicks, views in zip(self.places, self.clicks, self.views):
            code = _code(examples, place)
            n = np.where(code > 0, views[before, code], 0)
            won = np.where(code > 0, clicks[before, code], 0)
            found += [(won + self.prior * self.rate[before]) / (n + self.prior), np.log1p(n)]
        return np.stack(found, 1).astype(np.float32) if found else np.zeros((len(examples), 0), np.float32)


def _code(examples: Examples, place: tuple[int, ...]) -> np.ndarray:
    """One code for one or two static fields, 0 where one of them is."""
    code = examples.static[:, place[0]].astype(np.int64)
    for other in place[1:]:
        more = examples.static[:, other]
        code = np.where((code > 0) & (more > 0), code * examples.spec.static_sizes[other] + more, 0)
    return code


@dataclass(frozen=True)
class TreesScorer:
    """LightGBM's text and what it reads; the trees add to `start`."""

    text: str
    small: tuple[int, ...]
    rates: CodeRates
    n_rounds: int
    start: LinearScorer | None = None

    def logits(self, examples: Examples) -> np.ndarray:
        """Give log odds of a click, float64 [n]."""
        import lightgbm

        booster = lightgbm.Booster(model_str=self.text)
        found = np.asarray(booster.predict(matrix(examples, self.small, self.rates), raw_score=True), np.float64)
        return found if self.start is None else found + self.start.logits(examples)

    @property
    def n_parameters(self) -> int:
        """Leaves of all trees, and the weights of the start."""
        leaves = (int(line.split("=")[1]) for line in self.text.splitlines() if line.startswith("num_leaves="))
        return sum(leaves) + (0 if self.start is None else self.start.n_parameters)


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
    large = tuple((place,) for place in kept if sizes[place] > _MOST_CATEGORIES) if config.has_rates else ()
    large += tuple(tuple(places_of(train, pair)) for pair in config.crossed)
    rates = CodeRates.fit(train, large, config.prior)
    parameters: dict[str, Any] = {
        "objective": "binary",
        "num_leaves": config.leaves,
        "learning_rate": config.lr,
        "min_data_in_leaf": config.min_data,
        "feature_fraction": config.column_share,
        "lambda_l2": config.l2,
        "cat_smooth": config.cat_smooth,
        "num_threads": config.n_threads,
        "seed": derive(seed, "trees") % 2**31,
        "deterministic": True,
        "force_row_wise": True,
        "verbosity": -1,
    }
    is_late = train.day > train.day.min() if large and np.unique(train.day).size > 1 else slice(None)
    known = train.rows(is_late)  # rates of the first day are only the prior
    start = None if config.start is None else fit_linear(config.start, train, seed=seed)
    begin = [None if start is None else start.logits(rows) for rows in (known, valid)]
    names, first = list(range(len(small))), matrix(known, small, rates)
    first = lightgbm.Dataset(first, known.label, init_score=begin[0], categorical_feature=names, params=parameters)
    second = matrix(valid, small, rates)
    second = lightgbm.Dataset(second, valid.label, init_score=begin[1], reference=first, params=parameters)
    stop = lightgbm.early_stopping(config.patience, verbose=False)
    booster = lightgbm.train(parameters, first, config.rounds, valid_sets=[second], callbacks=[stop])
    n_rounds = booster.best_iteration or config.rounds
    return TreesScorer(booster.model_to_string(num_iteration=n_rounds), small, rates, n_rounds, start)
