"""The table of a probe: every feature set under every head, with intervals over users and paired differences."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pydantic import Field

from habitus.core.config import Config
from habitus.core.errors import ConfigError, TargetError
from habitus.core.seeds import derive
from habitus.metrics.bootstrap import Interval, Resamples, distribution, of_draws, resamples
from habitus.metrics.classification import auc
from habitus.tasks.probe.features import Features, as_features
from habitus.tasks.probe.heads import Head, folds_of, head_scores


class ProbeConfig(Config):
    """How hard a probe looks. With `is_joint`, labels known for the same users share folds and one fit."""

    heads: tuple[Head, ...] = ("logistic", "mlp", "trees")
    n_folds: int = Field(default=5, ge=2)
    n_seeds: int = Field(default=5, ge=1)
    n_inner: int = Field(default=3, ge=2)
    n_resamples: int = Field(default=500, ge=2)
    is_joint: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Cell:
    """One feature set under one head for one label: the AUC averaged over seeds, and its draws over users [R]."""

    label: str
    features: str
    head: str
    value: float
    draws: np.ndarray
    by_seed: tuple[float, ...]
    n_users: int
    n_positive: int
    seconds: float

    @property
    def interval(self) -> Interval:
        return of_draws(self.value, self.draws)


@dataclass(frozen=True)
class ProbeTable:
    """All cells of a probe; `why_not` says which labels could not be probed and why."""

    cells: tuple[Cell, ...]
    why_not: dict[str, str] = field(default_factory=dict)

    def cell(self, label: str, features: str, head: str) -> Cell:
        """Give one cell. Errors: `ConfigError` listing what there is."""
        for cell in self.cells:
            if (cell.label, cell.features, cell.head) == (label, features, head):
                return cell
        known = sorted({(c.label, c.features, c.head) for c in self.cells})
        raise ConfigError("a cell of the table", f"{(label, features, head)}; there are {known[:9]}", where="probe")

    @property
    def labels(self) -> list[str]:
        return list(dict.fromkeys(cell.label for cell in self.cells))

    @property
    def features(self) -> list[str]:
        return list(dict.fromkeys(cell.features for cell in self.cells))

    @property
    def heads(self) -> list[str]:
        return list(dict.fromkeys(cell.head for cell in self.cells))

    def difference(self, label: str, one: str, other: str, head: str) -> Interval:
        """Give AUC of `one` minus AUC of `other`, paired by resample of users."""
        a, b = self.cell(label, one, head), self.cell(label, other, head)
        return of_draws(a.value - b.value, a.draws - b.draws)

    def mean_difference(self, one: str, other: str, head: str) -> Interval:
        """Give the difference averaged over labels. Resample r of labels of the same users is the same draw of them."""
        pairs = [(self.cell(label, one, head), self.cell(label, other, head)) for label in self.labels]
        value = float(np.mean([a.value - b.value for a, b in pairs]))
        return of_draws(value, np.mean([a.draws - b.draws for a, b in pairs], axis=0))


def probe_features(
    features: Mapping[str, Any], labels: Mapping[str, np.ndarray], config: ProbeConfig | None = None
) -> ProbeTable:
    """Fit heads on frozen features of users and say how well each label can be read from each feature set.

    Parameters
    ----------
    features
        By name: float [n, d], CSR [n, d], a `Block`, or a tuple of blocks read together.
    labels
        By name: 0 or 1 per user [n], NaN where unknown.
    config
        Heads, outer folds, seeds; C, steps and rounds are chosen on inner folds of the training rows alone.

    Scores are ranks within their outer fold, so that folds cannot bias each other; AUCs are averaged over seeds; one
    set of resamples of users serves every cell of a label. A label with fewer positives or negatives than folds x 2 is
    left out and named in `why_not`.
    Errors: `ConfigError` for rows that differ in number; `TargetError` for a label that is not 0, 1 or NaN.

    >>> x = np.random.default_rng(0).normal(size=(120, 3))
    >>> config = ProbeConfig(heads=("logistic",), n_seeds=1, n_resamples=20)
    >>> table = probe_features({"x": x}, {"sign": (x[:, 0] > 0) * 1.0}, config)
    >>> table.cell("sign", "x", "logistic").value > 0.95
    True
    """
    config = config or ProbeConfig()
    ready = {name: as_features(given) for name, given in features.items()}
    whole = {name: _label(name, given, ready) for name, given in labels.items()}
    why_not = {name: reason for name, y in whole.items() for reason in [_too_few(y, config)] if reason}
    cells: list[Cell] = []
    for names, rows in _groups({n: y for n, y in whole.items() if n not in why_not}, config.is_joint):
        y = np.stack([whole[name][rows] for name in names], axis=1)
        drawn = resamples(np.arange(len(rows)), config.n_resamples, seed=config.seed)
        for name, blocks in ready.items():
            taken = tuple(block.take(rows) for block in blocks)
            for head in config.heads:
                cells += _cells(names, name, head, taken, y, drawn, config)
    return ProbeTable(tuple(cells), why_not)


def _cells(
    names: list[str], features: str, head: Head, blocks: Features, y: np.ndarray, drawn: Resamples, config: ProbeConfig
) -> list[Cell]:
    began = time.perf_counter()
    scores = np.stack([_out_of_fold(head, blocks, y, config, s) for s in range(config.n_seeds)])
    seconds = (time.perf_counter() - began) / len(names)
    cells = []
    for k, name in enumerate(names):
        by_seed = tuple(float(auc(y[:, k], score)) for score in scores[:, :, k])
        draws = np.mean([distribution(auc, y[:, k], score, drawn) for score in scores[:, :, k]], axis=0)
        value, positive = float(np.mean(by_seed)), int(y[:, k].sum())
        cells.append(Cell(name, features, head, value, draws, by_seed, len(y), positive, seconds))
    return cells


def _out_of_fold(head: Head, blocks: Features, y: np.ndarray, config: ProbeConfig, number: int) -> np.ndarray:
    """Score each row by a head that never saw it, as its rank within the fold: [n, L] in (0, 1)."""
    seed = derive(config.seed, "probe", number)
    folds = folds_of(y, config.n_folds, seed)
    scores = np.zeros(y.shape)
    for test in folds:
        train = np.setdiff1d(np.arange(len(y)), test)
        found = head_scores(head, blocks, y, train, test, n_inner=config.n_inner, seed=seed)
        for k in range(y.shape[1]):
            _, place, n = np.unique(found[:, k], return_inverse=True, return_counts=True)
            scores[test, k] = ((np.cumsum(n) - (n + 1) / 2)[place] + 0.5) / len(test)
    return scores


def _groups(labels: Mapping[str, np.ndarray], is_joint: bool) -> list[tuple[list[str], np.ndarray]]:
    """Give labels to be probed together, with the rows that know them."""
    known = {name: np.flatnonzero(~np.isnan(y)) for name, y in labels.items()}
    if not is_joint:
        return [([name], rows) for name, rows in known.items()]
    together: dict[bytes, list[str]] = {}
    for name, rows in known.items():
        together.setdefault(rows.tobytes(), []).append(name)
    return [(names, known[names[0]]) for names in together.values()]


def _label(name: str, given: Any, features: Mapping[str, Features]) -> np.ndarray:
    y = np.asarray(given, dtype=np.float64)
    for other, blocks in features.items():
        if len(y) != blocks[0].value.shape[0]:
            found = f"{len(y)} labels, {blocks[0].value.shape[0]} rows of {other!r}"
            raise ConfigError("one label per row", found, where=name)
    bad = y[~np.isnan(y) & (y != 0) & (y != 1)]
    if bad.size:
        raise TargetError("0, 1, or nothing where unknown", f"{bad[0]}", where=name, fix="make one yes-or-no column")
    return y


def _too_few(y: np.ndarray, config: ProbeConfig) -> str:
    n, positive = int((~np.isnan(y)).sum()), int(np.nansum(y))
    fewest = 2 * config.n_folds
    return f"{positive} of {n} positive" if min(positive, n - positive) < fewest else ""
