"""AUC when rows come in users: inside users (gAUC), its standard error over users, and its exact value under a truth.

A user brings many impressions, so rows are not independent. The error here adds what each user contributes to the
AUC before it squares; it needs one sort, where a bootstrap over users sorts or sums hundreds of times.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from habitus.core.errors import ConfigError
from habitus.metrics.bootstrap import Interval
from habitus.metrics.classification import auc
from habitus.metrics.weights import as_rows, groups

_Z = 1.959963984540054  # 97.5 % point of the normal distribution


@dataclass(frozen=True)
class UserAuc:
    """AUC inside users: `value` weighted by impressions, `share` of them that belong to users with both labels."""

    value: float
    share: float
    n_users: int


def user_auc(y: np.ndarray, p: np.ndarray, user: np.ndarray) -> UserAuc:
    """Give gAUC: each user's own AUC, weighted by impressions, over the users that have both labels.

    Read it with its share: users with one label say nothing and are left out. NaN when no user has both.
    Errors: `ConfigError` for arrays of different lengths or outcomes other than 0 and 1.
    Source: Zhu et al. 2017 (GAUC).

    >>> user_auc(np.array([0, 1, 1, 0, 0]), np.array([0.1, 0.2, 0.3, 0.4, 0.5]), np.array([1, 1, 2, 2, 3]))
    UserAuc(value=0.5, share=0.8, n_users=2)
    """
    y, p = _outcomes(y, p)
    place = np.unique(np.asarray(user), return_inverse=True)[1]
    if place.size != y.size:
        raise ConfigError("a user for every row", f"{place.size} users for {y.size} rows", where="gAUC")
    order = np.lexsort((p, place))
    whose, label, scores = place[order], y[order], p[order]
    n = np.bincount(whose)
    n_positive = np.bincount(whose, weights=label)
    run = np.cumsum(np.append(False, (np.diff(whose) != 0) | (np.diff(scores) != 0)))[: y.size]
    first, end = groups(run)
    rank = (first + end + 1) / 2 - (np.cumsum(n) - n)[whose]  # average rank among equal scores, from 1
    above = np.bincount(whose, weights=rank * label, minlength=n.size) - n_positive * (n_positive + 1) / 2
    pairs = n_positive * (n - n_positive)
    is_used = pairs > 0
    if not is_used.any():
        return UserAuc(float("nan"), 0.0, 0)
    value = float(np.average(above[is_used] / pairs[is_used], weights=n[is_used]))
    return UserAuc(value, float(n[is_used].sum() / n.sum()), int(is_used.sum()))


def placements(y: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Give per row the share of the other class that it is ordered rightly against, ties half; their mean is the AUC.

    Source: DeLong, DeLong and Clarke-Pearson 1988 (structural components).

    >>> placements(np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8])).tolist()
    [1.0, 0.5, 0.5, 1.0]
    """
    y, p = _outcomes(y, p)
    is_positive = y == 1
    positive, negative = np.sort(p[is_positive]), np.sort(p[~is_positive])
    if not positive.size or not negative.size:
        return np.full(y.size, np.nan)
    below = (np.searchsorted(negative, p) + np.searchsorted(negative, p, "right")) / (2 * negative.size)
    above = 1 - (np.searchsorted(positive, p) + np.searchsorted(positive, p, "right")) / (2 * positive.size)
    return np.where(is_positive, below, above)


def auc_interval(y: np.ndarray, p: np.ndarray, user: np.ndarray) -> Interval:
    """Give the AUC with its normal 95 % interval, users independent and rows of one user not.

    NaN limits when a class is missing or there is one user. Source: Obuchowski 1997, clustered components.

    >>> found = auc_interval(np.array([0, 1, 0, 1]), np.array([0.1, 0.9, 0.6, 0.4]), np.array([1, 1, 2, 2]))
    >>> round(found.value, 2), found.low < 0.75 < found.high
    (0.75, True)
    """
    return _around(float(auc(y, p)), auc_error(y, p, user))


def auc_difference(y: np.ndarray, p: np.ndarray, against: np.ndarray, user: np.ndarray) -> Interval:
    """Give AUC(p) - AUC(against) with its normal 95 % interval, paired by row and clustered by user.

    >>> y, user = np.array([0, 1, 0, 1]), np.array([1, 1, 2, 2])
    >>> auc_difference(y, np.array([0.1, 0.9, 0.6, 0.4]), np.array([0.1, 0.9, 0.6, 0.4]), user).value
    0.0
    """
    value = float(auc(y, p)) - float(auc(y, against))
    return _around(value, auc_error(y, p, user, against=against))


def auc_error(y: np.ndarray, p: np.ndarray, user: np.ndarray, *, against: np.ndarray | None = None) -> float:
    """Give the standard error of an AUC, or of the difference to that of `against`, clustered by user."""
    share = _shares(y, p) - (0 if against is None else _shares(y, against))
    place = np.unique(np.asarray(user), return_inverse=True)[1]
    per_user = np.bincount(place, weights=share)
    if per_user.size < 2:
        return float("nan")
    return float(np.sqrt(per_user.size / (per_user.size - 1) * np.sum(per_user**2)))


def expected_auc(truth: np.ndarray, score: np.ndarray) -> float:
    """Give the AUC that `score` has on average over labels drawn from the known probabilities `truth`.

    No label is drawn, so there is no noise: with `score = truth` it is the best that anything can reach.
    Errors: `ConfigError` for probabilities outside [0, 1].

    >>> round(expected_auc(np.array([0.1, 0.2, 0.6]), np.array([1, 2, 3])), 4)
    0.8571
    """
    truth, score = as_rows(truth, score)
    if truth.size and (truth.min() < 0 or truth.max() > 1):
        raise ConfigError("probabilities in [0, 1]", f"{truth.min():.4g} .. {truth.max():.4g}", where="truth")
    order = np.argsort(score, kind="stable")
    p = truth[order]
    first, end = groups(score[order])
    running = np.append(0.0, np.cumsum(1 - p))
    level = running[end] - running[first] - (1 - p)  # of equal score, without the row itself
    wins = np.sum(p * (running[first] + level / 2))
    pairs = p.sum() * (1 - p).sum() - np.sum(p * (1 - p))
    return float(wins / pairs) if pairs > 0 else float("nan")


def _shares(y: np.ndarray, p: np.ndarray) -> np.ndarray:
    """What each row adds to the AUC, centred: positives and negatives each share one half of the pairs' luck."""
    y, p = _outcomes(y, p)
    placed = placements(y, p)
    n_positive = y.sum()
    n = np.where(y == 1, n_positive, y.size - n_positive)
    return (placed - placed[y == 1].mean() if n_positive else placed) / np.maximum(n, 1)


def _around(value: float, error: float) -> Interval:
    return Interval(value, value - _Z * error, value + _Z * error)


def _outcomes(y: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    y, p = as_rows(y, p)
    if not np.isin(y, (0, 1)).all():
        raise ConfigError("outcomes 0 and 1", f"{y[~np.isin(y, (0, 1))][0]}", where="metric")
    if np.isnan(p).any():
        raise ConfigError("a score for every row", f"{int(np.isnan(p).sum())} NaN", where="metric")
    return y, p
