"""P(rise) of an asset over the next 180 days: what lasts from one phase of the market to the next, and nothing else.

Base rates swing with the market (in the generated one from .09 to .93), and so does the sign of most price facts: a
model that may use them learns the last phase. So every training day gets a base rate of its own, the weights are
fitted within days (a logistic regression with an intercept per day), and the answer averages over days. One fact held
on every day looked at: how surely an asset has climbed beyond its share of the market's moves. A second made it worse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from habitus.apps.advisor.features import NAMES
from habitus.apps.advisor.market import View
from habitus.core.atomic import write_json
from habitus.core.errors import TrainingError

LASTING = ("alpha_t",)
EDGE, RIDGE = 4.0, 10.0


@dataclass(frozen=True)
class Rise:
    """`weight` per fact of `LASTING`, `base` log odds per training day."""

    weight: np.ndarray
    base: np.ndarray

    def predict(self, rows: np.ndarray) -> np.ndarray:
        """Give P(rise) of rows [n, F] in the order of `NAMES`; an unknown fact counts as 0."""
        shift = _clipped(rows[:, [NAMES.index(name) for name in LASTING]]) @ self.weight
        return (1 / (1 + np.exp(-(self.base + shift[:, None])))).mean(axis=1)

    def save(self, path: Path) -> None:
        """Write the numbers."""
        write_json(path, {"facts": list(LASTING), "weight": self.weight.tolist(), "base": self.base.tolist()})

    @classmethod
    def load(cls, path: Path) -> Rise:
        """Read what `save` wrote. Errors: `OSError`, `ValueError`, `KeyError`."""
        import json

        kept = json.loads(path.read_text("utf-8"))
        return cls(np.array(kept["weight"]), np.array(kept["base"]))


def _clipped(facts: np.ndarray) -> np.ndarray:
    return np.clip(np.nan_to_num(facts.astype(np.float64)), -EDGE, EDGE)


def fit_rise(views: Sequence[View], steps: int = 25) -> Rise:
    """Fit on the open assets of some days and what they did after, by Newton's method with a ridge on the weights.

    Errors: `TrainingError` when nothing has a price on these days.
    """
    none = np.zeros(0, np.int64)
    facts = [_clipped(np.stack([view.facts[name][view.is_open] for name in LASTING], axis=1)) for view in views]
    rises = [view.outcome(none).rises[view.is_open] for view in views]
    day = np.repeat(np.arange(len(views)), [len(part) for part in facts])
    if not len(day):
        raise TrainingError("assets with a price", "none", where="the training dates")
    n = len(LASTING)
    x = np.concatenate([np.concatenate(facts), np.eye(len(views))[day]], axis=1)
    y = np.concatenate(rises).astype(np.float64)
    ridge = np.concatenate([np.full(n, RIDGE), np.full(len(views), 1.0)])  # a day on which all rise stays finite
    beta = np.zeros(x.shape[1])
    for _ in range(steps):
        p = 1 / (1 + np.exp(-x @ beta))
        slope = x.T @ (y - p) - ridge * beta
        beta = beta + np.linalg.solve((x * (p * (1 - p))[:, None]).T @ x + np.diag(ridge), slope)
    return Rise(beta[:n], beta[n:])
