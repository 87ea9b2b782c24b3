"""Heads on frozen numbers: logistic regression, a network of one hidden layer, boosted trees.

Each takes training rows, labels [n, L] and test rows, and gives scores [n test, L] whose order counts. What a head
chooses for itself (C, steps, rounds) it chooses on inner folds of the training rows.
"""

from __future__ import annotations

import warnings
from typing import Any, Literal

import numpy as np
from scipy import sparse

from habitus.core.seeds import derive, generator
from habitus.tasks.probe.features import Features, prepared, scaled
from habitus.tasks.probe.logistic import logistic_scores

Head = Literal["logistic", "mlp", "trees"]
_TREES = {
    "objective": "binary",
    "num_threads": 1,
    "verbosity": -1,
    "deterministic": True,
    "force_row_wise": True,
    "learning_rate": 0.05,
    "num_leaves": 15,
    "min_data_in_leaf": 20,
    "feature_fraction": 0.3,
    "bagging_fraction": 0.7,
    "bagging_freq": 1,
}
ROUNDS, PATIENCE = 400, 40
HIDDEN = 64


def head_scores(
    head: Head, features: Features, y: np.ndarray, train: np.ndarray, test: np.ndarray, *, n_inner: int, seed: int
) -> np.ndarray:
    """Fit a head on the training rows and score the test rows: y [n, L] -> float64 [n test, L]."""
    one, two = prepared(features, train, test, is_linear=head != "trees")
    inner = folds_of(y[train], n_inner, seed)
    if head == "logistic":
        return logistic_scores(one, y[train], two, inner)
    score = _mlp if head == "mlp" else _trees
    columns = [score(one, y[train, k], two, inner[0], derive(seed, "label", k) % 2**31) for k in range(y.shape[1])]
    return np.stack(columns, axis=1)


def folds_of(y: np.ndarray, n_folds: int, seed: int) -> list[np.ndarray]:
    """Deal rows into folds at random, as many of each outcome in each when there is one label only.

    >>> [len(fold) for fold in folds_of(np.zeros((7, 1)), 3, 0)]
    [3, 2, 2]
    """
    order = generator(seed, "folds", n_folds).permutation(len(y))
    if y.shape[1] == 1:
        order = order[np.argsort(y[order, 0], kind="stable")]
    return [np.sort(order[i::n_folds]) for i in range(n_folds)]


def _mlp(train: Any, y: np.ndarray, test: Any, held: np.ndarray, seed: int) -> np.ndarray:
    """One hidden layer; steps are chosen on the held-out inner fold inside the fit."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    if not sparse.issparse(train):
        train, test = scaled(train, test)
    share = len(held) / len(y)
    rows: Any = int(np.clip(len(y) // 20, 16, 256))  # rows a step: some twenty steps a pass, however few the rows
    model = MLPClassifier(
        (HIDDEN,),
        alpha=1e-2,
        batch_size=rows,
        learning_rate_init=3e-3,
        early_stopping=True,
        validation_fraction=share,
        max_iter=60,
        random_state=seed,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(train, y)
    return np.asarray(model.predict_proba(test))[:, -1]


def _trees(train: Any, y: np.ndarray, test: Any, held: np.ndarray, seed: int) -> np.ndarray:
    """Rounds by early stopping on one inner fold, then all training rows with as many."""
    import lightgbm

    rest = np.setdiff1d(np.arange(len(y)), held)
    parameters = _TREES | {"seed": seed}
    data = lightgbm.Dataset(train[rest], label=y[rest])
    stop = lightgbm.early_stopping(PATIENCE, verbose=False)
    valid = lightgbm.Dataset(train[held], label=y[held], reference=data)
    trial = lightgbm.train(parameters, data, ROUNDS, [valid], callbacks=[stop])
    whole = lightgbm.Dataset(train, label=y)
    return np.asarray(lightgbm.train(parameters, whole, max(trial.best_iteration, 1)).predict(test, num_threads=1))
