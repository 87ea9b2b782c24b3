"""How well are classes of very different size told? Macro-F1, its intervals, and the decision that maximises it.

Class i of C is the code i; y and told are int [n], p is float [n, C] with rows that sum to 1. The mean runs over the
classes present in the truth scored, so a class nobody had cannot lift or sink a figure.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from habitus.core.errors import ConfigError
from habitus.metrics.bootstrap import Interval, of_draws, resamples

_ROUNDS, _DAMPING = 60, 0.5
MIN_ROWS = 50  # a class with fewer validation rows cannot tune a threshold


def class_f1(y: np.ndarray, told: np.ndarray, n_classes: int) -> np.ndarray:
    """Give 2TP / (2TP + FP + FN) per class, float64 [C]: 0 where never told, NaN where absent from the truth.

    Errors: `ConfigError` when lengths differ or a code lies outside 0 .. C - 1.

    >>> class_f1(np.array([0, 0, 1]), np.array([0, 1, 1]), 3)
    array([0.66666667, 0.66666667,        nan])
    """
    right, said, true = _tally(y, told, n_classes)
    return _f1(right[None], said[None], true[None])[0]


def macro_f1(y: np.ndarray, told: np.ndarray, n_classes: int) -> float:
    """Give the mean of `class_f1` over the classes present in y; NaN without rows.

    >>> macro_f1(np.array([0, 0, 1, 1]), np.array([0, 0, 0, 0]), 5)
    0.3333333333333333
    """
    found = class_f1(y, told, n_classes)
    return float(np.nanmean(found)) if np.isfinite(found).any() else float("nan")


def macro_f1_interval(
    y: np.ndarray, told: np.ndarray, n_classes: int, unit: np.ndarray, *, against: np.ndarray | None = None,
    n_resamples: int = 500, seed: int = 0,
) -> Interval:  # fmt: skip
    """Give macro-F1, or its difference to the answers `against`, with the bootstrap interval over units.

    `unit` [n] says which rows come and go together (a post, a user). Only tallies per unit are resampled, so the cost
    does not grow with the rows.

    >>> y = np.arange(300) % 3
    >>> found = macro_f1_interval(y, y, 3, np.arange(300))
    >>> (found.value, found.low)
    (1.0, 1.0)
    """
    drawn = resamples(unit, n_resamples, seed=seed)
    count = drawn.count.astype(np.float32)

    def draws(answer: np.ndarray) -> np.ndarray:
        sums = [count @ table for table in _by_unit(y, answer, drawn.row_user, count.shape[1], n_classes)]
        return np.nanmean(_f1(*sums), axis=1)

    value, spread = macro_f1(y, told, n_classes), draws(told)
    if against is None:
        return of_draws(value, spread)
    return of_draws(value - macro_f1(y, against, n_classes), spread - draws(against))


@dataclass(frozen=True)
class Decision:
    """Tell class argmax (p - half) / size. With half 0 and size 1 it is the plain argmax.

    >>> Decision.plain(2).tell(np.array([[0.4, 0.6]]))
    array([1])
    """

    half: np.ndarray  # F1 of each class, halved, [C]
    size: np.ndarray  # share in the truth + share told, [C]

    @classmethod
    def plain(cls, n_classes: int) -> Decision:
        """Give the argmax."""
        return cls(np.zeros(n_classes), np.ones(n_classes))

    def tell(self, p: np.ndarray) -> np.ndarray:
        """Give the class told per row, int64 [n]."""
        return np.argmax((p - self.half) / self.size, axis=1)

    def to_json(self) -> dict[str, list[float]]:
        """Give plain values."""
        return {"half": self.half.tolist(), "size": self.size.tolist()}

    @classmethod
    def from_json(cls, values: dict[str, list[float]]) -> Decision:
        """Read what `to_json` gave."""
        return cls(np.asarray(values["half"], np.float64), np.asarray(values["size"], np.float64))


def fit_decision(p: np.ndarray, y: np.ndarray) -> Decision:
    """Find the decision with the highest macro-F1 on rows whose truth is known; never worse there than argmax.

    For true posteriors the optimum of expected macro-F1 is told = argmax (p_a - F_a / 2) / (r_a + q_a), with r the
    share of a class, q the share told and F its F1: the derivative of 2TP / (true + said) by one more row told. F and q
    depend on the answer, so it is solved as a fixed point, damped, and the best of its rounds is kept. A class with
    fewer than 50 rows in y keeps its share's scale but gets no threshold of its own.

    >>> p = np.array([[0.6, 0.4]] * 30 + [[0.9, 0.1]] * 70)
    >>> int(fit_decision(p, np.array([1] * 12 + [0] * 88)).tell(p)[0])
    1
    """
    n_classes = p.shape[1]
    best = Decision.plain(n_classes)
    rows = np.bincount(y, minlength=n_classes)
    share = np.maximum(p.mean(axis=0), 1e-6)
    score = macro_f1(y, best.tell(p), n_classes)
    f1, said = np.full(n_classes, 0.5), share.copy()
    for _ in range(_ROUNDS):
        half = np.where(rows < MIN_ROWS, f1[rows >= MIN_ROWS].mean() / 2 if (rows >= MIN_ROWS).any() else 0.0, f1 / 2)
        tried = Decision(half, share + np.maximum(said, 1e-6))
        told = tried.tell(p)
        found = macro_f1(y, told, n_classes)
        if found > score:
            best, score = replace(tried), found
        expected = np.bincount(told, weights=p[np.arange(len(p)), told], minlength=n_classes) / max(len(p), 1)
        now = np.bincount(told, minlength=n_classes) / max(len(p), 1)
        f1 += _DAMPING * (2 * expected / (share + np.maximum(now, 1e-9)) - f1)
        said += _DAMPING * (now - said)
    return best


def _tally(y: np.ndarray, told: np.ndarray, n_classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    y, told = np.asarray(y), np.asarray(told)
    if y.shape != told.shape or y.ndim != 1:
        raise ConfigError("two flat arrays of one length", f"{y.shape} and {told.shape}", where="macro-F1")
    codes = np.concatenate([y, told])
    if codes.size and (codes.min() < 0 or codes.max() >= n_classes):
        raise ConfigError(f"codes 0 .. {n_classes - 1}", f"{codes.min()} .. {codes.max()}", where="macro-F1")
    right = np.bincount(y[y == told], minlength=n_classes)
    return right, np.bincount(told, minlength=n_classes), np.bincount(y, minlength=n_classes)


def _by_unit(y: np.ndarray, told: np.ndarray, unit: np.ndarray, n_units: int, n_classes: int) -> list[np.ndarray]:
    """TP, said and true per unit, float32 [units, C] each."""
    _tally(y, told, n_classes)

    def table(rows: np.ndarray, code: np.ndarray) -> np.ndarray:
        flat = np.bincount(unit[rows] * n_classes + code[rows], minlength=n_units * n_classes)
        return flat.reshape(n_units, n_classes).astype(np.float32)

    everything = np.arange(len(y))
    return [table(np.flatnonzero(y == told), y), table(everything, told), table(everything, y)]


def _f1(right: np.ndarray, said: np.ndarray, true: np.ndarray) -> np.ndarray:
    found = 2 * right / np.maximum(said + true, 1e-9)
    return np.where(true > 0, found, np.nan)
