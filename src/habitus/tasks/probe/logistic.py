"""Logistic regression with its strength chosen by inner folds: dense or sparse rows, many labels at once."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse
from scipy.optimize import minimize

from habitus.metrics.classification import auc
from habitus.tasks.probe.features import scaled

DENSE = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
SPARSE = (0.1, 1.0, 10.0, 100.0)
STEPS, ROUGH = 150, 40  # of the fit that counts, and of those that only compare strengths


def fit_logistic(x: Any, y: np.ndarray, c: float, start: np.ndarray | None = None, steps: int = STEPS) -> np.ndarray:
    """Minimise c x sum of log losses + |w|^2 / 2 for every label; the intercept is free.

    x [n, d] dense or CSR, y {0, 1} [n, L] -> weights [d + 1, L], the intercept last. L-BFGS over all labels together,
    which are independent of each other; `start` is a warm start.

    >>> w = fit_logistic(np.array([[-1.0], [1.0]] * 20), np.array([[0], [1]] * 20), 1.0)
    >>> bool(w[0, 0] > 1)
    True
    """
    n, d = x.shape
    n_labels = y.shape[1]
    turned = x.T.tocsr() if sparse.issparse(x) else x.T

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        w = flat.reshape(d + 1, n_labels)
        score = x @ w[:-1] + w[-1]
        p = 1 / (1 + np.exp(-np.clip(score, -500, 500)))
        value = np.logaddexp(0, score).sum() - (y * score).sum() + 0.5 / c * (w[:-1] ** 2).sum()
        slope = np.empty_like(w)
        slope[:-1] = turned @ (p - y) + w[:-1] / c
        slope[-1] = (p - y).sum(axis=0)
        return value / n, slope.ravel() / n

    if start is None:
        start = np.zeros((d + 1, n_labels))
        share = np.clip(y.mean(axis=0), 1e-6, 1 - 1e-6)
        start[-1] = np.log(share / (1 - share))
    found = minimize(loss, start.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": steps, "gtol": 1e-5})
    return found.x.reshape(d + 1, n_labels)


def logistic_scores(
    train: Any, y: np.ndarray, test: Any, inner: list[np.ndarray], strengths: tuple[float, ...] | None = None
) -> np.ndarray:
    """Choose C, and for dense rows whether columns are scaled, by the mean AUC of the inner folds; score the test rows.

    `inner` holds the held-out rows of each inner fold (places in `train`). y [n, L] -> log-odds [n test, L]; each label
    has its own C.
    """
    is_sparse = sparse.issparse(train)
    grid = strengths or (SPARSE if is_sparse else DENSE)
    ways = (False,) if is_sparse else (False, True)
    gains = np.zeros((len(ways), len(grid), y.shape[1]))
    for held in inner:
        rest = np.setdiff1d(np.arange(len(y)), held)
        for i, is_scaled in enumerate(ways):
            one, two = _view(train[rest], train[held], is_scaled)
            w = None
            for j, c in enumerate(grid):
                w = fit_logistic(one, y[rest], c, w, ROUGH)
                score = two @ w[:-1] + w[-1]
                gains[i, j] += [np.nan_to_num(float(auc(y[held, k], score[:, k])), nan=0.5) for k in range(y.shape[1])]
    best = gains.reshape(-1, y.shape[1]).argmax(axis=0)
    scores = np.zeros((test.shape[0], y.shape[1]))
    for choice in np.unique(best):
        labels = np.flatnonzero(best == choice)
        is_scaled = ways[choice // len(grid)]
        one, two = _view(train, test, is_scaled)
        w = fit_logistic(one, y[:, labels], grid[choice % len(grid)])
        scores[:, labels] = two @ w[:-1] + w[-1]
    return scores


def _view(train: Any, test: Any, is_scaled: bool) -> tuple[Any, Any]:
    """Scale columns, or only the mean length of a row (to the square root of the width, as scaled columns have)."""
    if sparse.issparse(train):
        return train, test
    if is_scaled:
        return scaled(train, test)
    mean = train.mean(axis=0)
    length = np.sqrt(((train - mean) ** 2).sum() / max(train.size, 1)) or 1.0
    return (train - mean) / length, (test - mean) / length
