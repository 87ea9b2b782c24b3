"""Logistic regression on hashed static codes, with or without crosses with the history."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from habitus.apps.ctr.batches import columns_without
from habitus.apps.ctr.examples import Examples, tokens
from habitus.core.config import Config
from habitus.core.seeds import generator, mix

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

_SMALL = 2_000_000  # up to here the exact solver
_STEP = 0.02  # the solver's own schedule began so large that log loss ended above the base rate's
_CHUNK = 500_000


class LinearConfig(Config):
    """How the linear model is fitted.

    `has_crosses` adds profile x category of the ad; `n_history` tokens of history add category x category of the ad and
    brand x brand of the ad. `alpha` is the ridge of the averaged stochastic gradient; up to 2 M rows the exact
    solver runs instead, with `c` as the inverse ridge.

    >>> LinearConfig().bits
    22
    """

    bits: int = Field(22, ge=8, le=28)
    alpha: float = Field(1e-6, gt=0)
    c: float = Field(0.03, gt=0)
    passes: int = Field(3, gt=0)
    has_crosses: bool = False
    n_history: int = Field(0, ge=0)
    has_dense: bool = True
    left_out: tuple[str, ...] = ()
    crossed: tuple[str, ...] = ("gender", "age_level", "final_gender_code", "cms_group_id")


@dataclass(frozen=True)
class LinearScorer:
    """Weights per hash bucket and per dense feature."""

    weight: np.ndarray
    shift: float
    config: LinearConfig

    def logits(self, examples: Examples) -> np.ndarray:
        """Give log odds of a click, float64 [n]."""
        parts = [np.zeros(0)]
        for start in range(0, len(examples), _CHUNK):
            rows = np.arange(start, min(start + _CHUNK, len(examples)))
            parts.append(hashed(examples, rows, self.config) @ self.weight + self.shift)
        return np.concatenate(parts)

    @property
    def n_parameters(self) -> int:
        """Weights that are not 0."""
        return int(np.count_nonzero(self.weight)) + 1


def hashed(examples: Examples, rows: np.ndarray, config: LinearConfig) -> csr_matrix:
    """Give rows as a sparse matrix [n, 2^bits + N]: splitmix64(field, value) mod 2^bits, then the dense features."""
    from scipy.sparse import csr_matrix, hstack

    columns = columns_without(examples, config.left_out)
    codes = examples.static[rows]
    keys = [_bucket(place, codes[:, place], config.bits) for place in columns]
    if config.has_crosses:
        names = examples.spec.static_names
        cate = examples.target[rows, 0].astype(np.int64)
        for place in (names.index(name) for name in config.crossed if name in names):
            keys.append(_bucket(100 + place, codes[:, place].astype(np.int64) * 2**32 + cate, config.bits))
    values = [np.ones(len(rows), np.float32)] * len(keys)
    if config.n_history:
        more, weights = _history(examples, rows, config)
        keys, values = [*keys, *more], [*values, *weights]
    n = len(rows)
    index = np.stack(keys, 1).ravel() if keys else np.zeros(0, np.int64)
    data = np.stack(values, 1).ravel() if keys else np.zeros(0, np.float32)
    sparse = csr_matrix((data, index, np.arange(n + 1) * len(keys)), (n, 2**config.bits))
    if not config.has_dense or not examples.dense.shape[1]:
        return sparse
    return hstack([sparse, csr_matrix(examples.dense[rows])], format="csr")  # type: ignore[return-value]


def fit_linear(config: LinearConfig, train: Examples, *, seed: int = 0) -> LinearScorer:
    """Fit on all rows; the order of passes comes from `seed`."""
    if len(train) <= _SMALL:
        return _exact(config, train)
    from sklearn.linear_model import SGDClassifier

    model: Any = SGDClassifier(
        loss="log_loss", alpha=config.alpha, average=True, learning_rate="constant", eta0=_STEP, random_state=seed
    )
    whole: Any = hashed(train, np.arange(len(train)), config)
    for number in range(config.passes):
        order = generator(seed, "linear", number).permutation(len(train))
        for start in range(0, len(order), _CHUNK):
            rows = order[start : start + _CHUNK]
            model.partial_fit(whole[rows], train.label[rows], classes=[0, 1])
    return LinearScorer(np.asarray(model.coef_, np.float64)[0], float(np.ravel(model.intercept_)[0]), config)


def _exact(config: LinearConfig, train: Examples) -> LinearScorer:
    """Solve on the columns that occur: all others have weight 0."""
    from sklearn.linear_model import LogisticRegression

    matrix: Any = hashed(train, np.arange(len(train)), config)
    used = np.unique(matrix.indices)
    model: Any = LogisticRegression(C=config.c, max_iter=2000)
    model.fit(matrix[:, used], train.label)
    weight = np.zeros(matrix.shape[1])
    weight[used] = np.asarray(model.coef_)[0]
    return LinearScorer(weight, float(np.ravel(model.intercept_)[0]), config)


def _bucket(field: int, value: np.ndarray, bits: int) -> np.ndarray:
    salt = mix(np.array([field], np.uint64))
    return (mix(value.astype(np.uint64) ^ salt) & np.uint64(2**bits - 1)).astype(np.int64)


def _history(examples: Examples, rows: np.ndarray, config: LinearConfig) -> tuple[list[Any], list[Any]]:
    """Crosses of the tokens' category and brand with those of the ad, and one weight for each kind of match."""
    codes, is_pad, _ = tokens(examples, rows, n_tokens=config.n_history)
    target = examples.target[rows].astype(np.int64)
    share = (1 / np.sqrt(np.maximum((~is_pad).sum(1), 1))).astype(np.float32)
    keys, values = [], []
    for token in range(codes.shape[1]):
        is_there = ~is_pad[:, token]
        for field in (0, 1):
            value = codes[:, token, field] * 2**32 + target[:, field]
            keys.append(_bucket(200 + field, value, config.bits))
            values.append(np.where(is_there, share, 0))
            match = (codes[:, token, field] == target[:, field]) & is_there & (target[:, field] > 0)
            keys.append(_bucket(300 + field, codes[:, token, 2], config.bits))
            values.append(match.astype(np.float32))
    return keys, values
