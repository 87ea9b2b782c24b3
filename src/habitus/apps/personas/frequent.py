"""Trees: one LightGBM per persona for the common actions, one for the gate, one over everybody for all actions."""

from __future__ import annotations

from typing import Any

import numpy as np

from habitus.apps.personas.settings import TreeSettings

_MANY = 200_000  # rows predicted at once


def fit_trees(
    settings: TreeSettings,
    x: np.ndarray,
    y: np.ndarray,
    valid: tuple[np.ndarray, np.ndarray] | None,
    n_classes: int,
    *,
    seed: int,
    categories: tuple[int, ...] = (),
) -> str:
    """Fit trees on x [n, m] and classes y [n]; stop by the log loss on `valid`. Gives LightGBM's text.

    Two classes are one tree a round. Rows enter in the order given: sort them by content first.
    """
    import lightgbm

    parameters: dict[str, Any] = {
        "objective": "binary" if n_classes == 2 else "multiclass",
        "num_leaves": settings.leaves,
        "learning_rate": settings.lr,
        "min_data_in_leaf": settings.min_leaf,
        "feature_fraction": settings.share,
        "bagging_fraction": settings.share,
        "bagging_freq": 1,
        "max_bin": settings.max_bins,
        "seed": seed,
        "deterministic": True,
        "force_row_wise": True,
        "verbosity": -1,
    }
    if n_classes > 2:
        parameters["num_class"] = n_classes
    data = lightgbm.Dataset(x, y, categorical_feature=list(categories), free_raw_data=False)
    checks, calls = [], []
    if valid is not None and len(valid[1]):
        checks = [lightgbm.Dataset(valid[0], valid[1], reference=data, categorical_feature=list(categories))]
        calls = [lightgbm.early_stopping(settings.patience, verbose=False)]
    made = lightgbm.train(parameters, data, settings.rounds, valid_sets=checks, callbacks=calls)
    return made.model_to_string(num_iteration=made.best_iteration or None)


class Trees:
    """A fitted model from its text."""

    def __init__(self, text: str) -> None:
        import lightgbm

        self.text, self.booster = text, lightgbm.Booster(model_str=text)

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Give probabilities: [n] for two classes, else [n, classes]."""
        if not len(x):
            n = self.booster.num_model_per_iteration()
            return np.zeros(0) if n == 1 else np.zeros((0, n))
        parts = [self.booster.predict(x[start : start + _MANY]) for start in range(0, len(x), _MANY)]
        return np.concatenate([np.asarray(part, np.float64) for part in parts])
