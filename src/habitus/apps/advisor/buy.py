"""P(buy) of a retrieved asset: LambdaMART upon the customer's taste, and two numbers that make its score a probability.

Trees alone spent most of their splits on how active a customer is, which no ranking of assets needs, and the crowd's
few favourites. So the score starts at the log of the share that the customer's group of buyers gives an asset, and
trees learn, from pairs of assets of one customer, what to add.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from habitus.apps.advisor.features import NAMES
from habitus.core.atomic import new_file, write_json
from habitus.core.errors import TrainingError

TASTE, ACTIVE = NAMES.index("taste"), NAMES.index("n_trades")
RIDGE = 1e-3


@dataclass(frozen=True)
class Rows:
    """Training rows: x float32 [n, F]; grade int [n], 2 bought and risen, 1 bought, 0 else; size int [customers]: rows
    per customer, in order."""

    x: np.ndarray
    grade: np.ndarray
    size: np.ndarray


@dataclass(frozen=True)
class Buy:
    """`booster` adds to the log share of taste; `line` [3] is intercept, slope of the score and slope of log trades."""

    booster: Any
    line: np.ndarray
    middle: float  # the taste of a row that has none

    def score(self, rows: np.ndarray) -> np.ndarray:
        """Give the score of rows [n, F] that ranks assets of one customer: float64 [n]."""
        return np.asarray(self.booster.predict(rows, raw_score=True, num_threads=1)) + self._offset(rows)

    def _offset(self, rows: np.ndarray) -> np.ndarray:
        return np.nan_to_num(rows[:, TASTE].astype(np.float64), nan=self.middle)

    def predict(self, rows: np.ndarray) -> np.ndarray:
        """Give P(buy) in the window of rows [n, F]."""
        return 1 / (1 + np.exp(-_columns(self.score(rows), rows) @ self.line))

    def contributions(self, rows: np.ndarray) -> np.ndarray:
        """Give what each feature adds to the score: float [n, F]; taste is counted from the mean of training."""
        made = np.array(self.booster.predict(rows, pred_contrib=True, num_threads=1))[:, :-1]
        made[:, TASTE] += self._offset(rows) - self.middle
        return made

    def save(self, folder: Path) -> None:
        """Write the trees as text, and the numbers."""
        with new_file(folder / "buy.txt") as beside:
            beside.write_text(self.booster.model_to_string(), "utf-8")
        write_json(folder / "buy.json", {"line": self.line.tolist(), "middle": self.middle})

    @classmethod
    def load(cls, folder: Path) -> Buy:
        """Read what `save` wrote. Errors: `OSError`, `ValueError`, `KeyError`, LightGBM's own."""
        import json

        import lightgbm as lgb

        kept = json.loads((folder / "buy.json").read_text("utf-8"))
        booster = lgb.Booster(model_str=(folder / "buy.txt").read_text("utf-8"))
        return cls(booster, np.array(kept["line"]), float(kept["middle"]))


def fit_buy(
    train: Rows, stop: Rows, again: Rows, everybody: Rows, options: dict[str, Any], rounds: int, patience: int
) -> Buy:
    """Fit on `train`, stop where nDCG on `stop` is best, fit again on `again`, and calibrate on `everybody` of one day.

    The first three hold customers with a buy; the last one also those without. Errors: `TrainingError` without a buy.
    """
    import lightgbm as lgb

    if not train.grade.any():
        raise TrainingError("rows with a buy", "none", where="the training dates")
    middle = float(np.nanmean(train.x[:, TASTE])) if np.isfinite(train.x[:, TASTE]).any() else 0.0

    def data(rows: Rows) -> Any:
        start = np.nan_to_num(rows.x[:, TASTE].astype(np.float64), nan=middle)
        return lgb.Dataset(rows.x, rows.grade, group=rows.size, init_score=start, feature_name=list(NAMES))

    first = lgb.train(options, data(train), rounds, valid_sets=[data(stop)],
                      callbacks=[lgb.early_stopping(patience, verbose=False)])  # fmt: skip
    booster = lgb.train(options, data(again), max(first.best_iteration, 10))
    return _calibrated(Buy(booster, np.array([0.0, 1.0, 0.0]), middle), everybody)


def _columns(score: np.ndarray, rows: np.ndarray) -> np.ndarray:
    active = np.log1p(np.nan_to_num(rows[:, ACTIVE].astype(np.float64)))
    return np.stack([np.ones(len(score)), score, active], axis=1)


def _calibrated(model: Buy, rows: Rows, steps: int = 30) -> Buy:
    """Fit the line by Newton's method for logistic regression."""
    x, y = _columns(model.score(rows.x), rows.x), (rows.grade > 0).astype(np.float64)
    line = np.zeros(3)
    for _ in range(steps):
        p = 1 / (1 + np.exp(-np.clip(x @ line, -30, 30)))
        hessian = (x * (p * (1 - p))[:, None]).T @ x + RIDGE * np.eye(3)
        line = line + np.linalg.solve(hessian, x.T @ (y - p) - RIDGE * line)
    return Buy(model.booster, line, model.middle)
