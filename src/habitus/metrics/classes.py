"""How well is each of many classes told? Every function takes the true class y [n] and either hits or told classes [n].

A hit is whatever counts as right: the first guess, or one of the first k. `weight` is None, one weight per row [n], or
one row of weights per resample [R, n]; with the last, one value per resample comes back [R].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from habitus.core.errors import ConfigError
from habitus.metrics.weights import Value, answer, as_weights, mean, ratio


@dataclass(frozen=True)
class Groups:
    """Which classes are frequent in training, bool [C] each: `head` and `tail` share them out, `bottom` is in addition.

    `head`: the fewest classes that cover the share asked for; `tail`: the other classes, unseen ones included;
    `bottom`: the rarest third of all classes.
    """

    head: np.ndarray
    tail: np.ndarray
    bottom: np.ndarray


def frequency_groups(count: np.ndarray, share: float = 0.8) -> Groups:
    """Split classes by their training counts [C]; of equally frequent ones the first counts as more frequent.

    >>> groups = frequency_groups(np.array([1, 70, 20, 9, 0, 0]))
    >>> groups.head.astype(int).tolist(), groups.bottom.astype(int).tolist()
    ([0, 1, 1, 0, 0, 0], [0, 0, 0, 0, 1, 1])
    """
    count = np.asarray(count, dtype=np.float64)
    order = np.argsort(-count, kind="stable")
    before = np.cumsum(count[order]) - count[order]
    head, bottom = np.zeros(count.size, dtype=bool), np.zeros(count.size, dtype=bool)
    head[order] = (before < share * count.sum() * (1 - 1e-12)) & (count[order] > 0)
    bottom[order[count.size - count.size // 3 :]] = True
    return Groups(head, ~head, bottom)


def weighted_recall(y: np.ndarray, hit: np.ndarray, weight: np.ndarray | None = None) -> Value:
    """Recall of each class weighted by how often it occurs: with first guesses the accuracy under a longer name.

    >>> weighted_recall(np.array([0, 0, 0, 1]), np.array([1, 1, 1, 0]))
    0.75
    """
    _check(y, hit)
    return mean(np.asarray(hit), weight)


def macro_recall(y: np.ndarray, hit: np.ndarray, weight: np.ndarray | None = None) -> Value:
    """Mean over the classes that occur of the share of their rows that hit; say how many there are (`n_classes`).

    A class of a few rows moves it as much as one of thousands: show the interval. In a resample, classes that were not
    drawn do not count. NaN without rows.

    >>> macro_recall(np.array([0, 0, 0, 1]), np.array([1, 1, 1, 0]))
    0.5
    """
    _check(y, hit)
    weights = as_weights(weight, len(y))
    if not len(y):
        return answer(np.full(len(weights), np.nan), weight)
    of_class = _summed(y, weights)
    right = _summed(y, weights * np.asarray(hit, dtype=weights.dtype))
    is_there = of_class > 0
    recall = np.divide(right, of_class, out=np.zeros_like(right), where=is_there)
    return answer(ratio(recall.sum(axis=1), is_there.sum(axis=1).astype(np.float64)), weight)


def n_classes(y: np.ndarray) -> int:
    """Number of classes that occur.

    >>> n_classes(np.array([0, 0, 7]))
    2
    """
    return int(np.unique(y).size)


def precision(y: np.ndarray, told: np.ndarray, *, is_macro: bool = False) -> float:
    """Mean over classes of the share of told rows that are right, weighted by true frequency, or each class alike.

    The mean is over classes that occur or are told; one that is never told has 0. NaN without rows.

    >>> precision(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1])), precision(np.array([0, 0, 1]), np.array([0, 0, 0]))
    (0.8333333333333333, 0.4444444444444444)
    """
    _check(y, told)
    if not len(y):
        return float("nan")
    classes, code = np.unique(np.concatenate([y, told]), return_inverse=True)
    true, said = code[: len(y)], code[len(y) :]
    n_said = np.bincount(said, minlength=classes.size)
    right = np.bincount(said[true == said], minlength=classes.size)
    of_class = np.divide(right, n_said, out=np.zeros(classes.size), where=n_said > 0)
    weight = np.ones(classes.size) if is_macro else np.bincount(true, minlength=classes.size)
    return float((of_class * weight).sum() / weight.sum())


def _summed(y: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Sum weights [R, n] by class -> [R, classes that occur]."""
    order = np.argsort(y, kind="stable")
    ordered = np.asarray(y)[order]
    start = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    return np.add.reduceat(np.take(weight, order, axis=1), start, axis=1, dtype=np.float64)


def _check(y: np.ndarray, other: np.ndarray) -> None:
    if np.shape(y) != np.shape(other) or np.ndim(y) != 1:
        raise ConfigError("two flat arrays of one length", f"{np.shape(y)} and {np.shape(other)}", where="classes")
