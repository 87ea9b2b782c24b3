"""What would a mistake in time have earned? One small model under honest and under leaking inputs, side by side.

The honest rows end the history some seconds before the impression (guard 0 is strictly before). The two leaking ones
are mistakes that are easy to make: joining the history by day, and click rates that hold the same day. In a world with
known probabilities the best possible AUC is known too, and a row above it by three standard errors is a leak.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from habitus.apps.ctr.features import default_days
from habitus.apps.ctr.match import match_columns
from habitus.apps.ctr.target_stats import stat_columns
from habitus.core.errors import CutoffError
from habitus.data.history import History, rows_before
from habitus.data.impressions import DAY, Impressions
from habitus.metrics.classification import auc
from habitus.metrics.clustered import auc_error, expected_auc

if TYPE_CHECKING:
    import polars as pl

GUARDS = (0, 1, 60, 600, 3600)
ROUNDS = 120
LIMIT = 3.0  # standard errors above the ceiling
_PARAMETERS = {
    "objective": "binary", "num_leaves": 31, "learning_rate": 0.05, "min_data_in_leaf": 100, "feature_fraction": 0.8,
    "verbosity": -1, "seed": 0, "deterministic": True, "num_threads": 1, "force_row_wise": True,
}  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """AUC of one way to join on the test days, its standard error over users, and what is known about the best."""

    join: str
    is_honest: bool
    auc: float
    error: float
    ceiling: float | None

    @property
    def is_leak(self) -> bool:
        """Above the best possible AUC by three standard errors. Without a ceiling nothing can be said."""
        return self.ceiling is not None and self.auc > self.ceiling + LIMIT * self.error


def audit(shown: Impressions, *, guards: tuple[int, ...] = GUARDS) -> list[Finding]:
    """Fit LightGBM on match columns and click rates, once per guard and once per mistake; score the last day.

    The two mistakes are "history joined by day" and "click rates with the same day". Trees of fixed size, nothing is
    tuned: compare rows with each other, not with a model.

    Errors: `CutoffError` when there are not three days or a class is missing.
    """
    days = default_days(shown)
    train = (shown.day >= days["train"][0]) & (shown.day < days["train"][1])
    test = shown.day == days["test"][0]
    if np.ptp(shown.label[train]) == 0 or np.ptp(shown.label[test]) == 0:
        raise CutoffError("clicks and no clicks on training and test days", "one class only", where="audit")
    honest = np.stack(list(stat_columns(shown).values()), axis=1)
    leaking = np.stack(list(stat_columns(shown, same_day=True).values()), axis=1)
    findings = []
    for guard in guards:
        columns = np.concatenate([match_columns(shown, guard=guard), honest], axis=1)
        findings.append(_judged(shown, columns, train, test, f"history ends {guard} s before", is_honest=True))
    strict = match_columns(shown)
    by_day = match_columns(shown, history=_by_day(shown))
    for name, parts in (
        ("history joined by day", (strict, by_day, honest)),
        ("click rates with the same day", (strict, honest, leaking)),
    ):
        findings.append(_judged(shown, np.concatenate(parts, axis=1), train, test, name, is_honest=False))
    return findings


def findings_table(findings: list[Finding]) -> pl.DataFrame:
    """Give one row per finding: join, is_honest, auc, error, ceiling, earned (against the first row), is_leak."""
    import polars as pl

    rows = [
        {
            "join": found.join,
            "is_honest": found.is_honest,
            "auc": found.auc,
            "error": found.error,
            "ceiling": found.ceiling,
            "earned": found.auc - findings[0].auc,
            "is_leak": found.is_leak,
        }
        for found in findings
    ]
    return pl.DataFrame(rows)


def ceilings(parts: np.ndarray, p: np.ndarray) -> tuple[float, ...]:
    """Give the best expected AUC of every rung: the running sums of parts [n, 5] against the known p [n].

    Labels are not drawn. See `habitus.metrics.clustered.expected_auc`.

    >>> p = np.array([0.1, 0.2, 0.6])
    >>> ceilings(np.log(p / (1 - p))[:, None], p) == (expected_auc(p, p),)
    True
    """
    return tuple(expected_auc(p, score) for score in np.cumsum(parts, axis=1).T)


def _by_day(shown: Impressions) -> History:
    """The mistake: the whole local day of the impression counts as its past."""
    midnight = (shown.day.astype(np.int64) + 1) * DAY - shown.utc_offset
    return History(shown.log, shown.log.offsets[shown.user], rows_before(shown.log, shown.user, midnight))


def _judged(
    shown: Impressions, columns: np.ndarray, train: np.ndarray, test: np.ndarray, name: str, *, is_honest: bool
) -> Finding:
    import lightgbm as lgb

    data = lgb.Dataset(columns[train], shown.label[train])
    score = np.asarray(lgb.train(_PARAMETERS, data, ROUNDS).predict(columns[test]))
    y, user = shown.label[test], shown.user[test]
    best = None if shown.truth is None else expected_auc(shown.truth[test], shown.truth[test])
    return Finding(name, is_honest, float(auc(y, score)), auc_error(y, score, user), best)
