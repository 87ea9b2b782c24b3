"""TF-IDF of the post and the persona, read by a logistic regression: the baseline without lookup, time or trees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from habitus.apps.personas.encode import TextEncoder, weighted
from habitus.apps.personas.rare import softmax
from habitus.apps.personas.rows import Rows
from habitus.core.atomic import new_file

MAX_ROWS = 60_000
_BLOCK = 50_000


class WordsModel:
    """Weights over terms and personas; `known` are the personas that have a column, `present` the labels fitted."""

    def __init__(self, encoder: TextEncoder, weight: np.ndarray, bias: np.ndarray, known: np.ndarray) -> None:
        self.encoder, self.weight, self.bias, self.known = encoder, weight, bias, known

    def predict(self, rows: Rows) -> np.ndarray:
        """Give probabilities, float64 [n, A]."""
        found = []
        for start in range(0, len(rows), _BLOCK):
            some = rows.take(np.arange(start, min(start + _BLOCK, len(rows))))
            found.append(softmax(_matrix(self.encoder, some, self.known) @ self.weight.T + self.bias))
        return np.concatenate(found)


def words_model(path: Path, encoder: TextEncoder, rows: Rows, n_actions: int, *, seed: int) -> WordsModel:
    """Read the model at `path`, or fit it on at most 60,000 rows and keep it."""
    if not path.is_file():
        some = rows.take(np.arange(min(len(rows), MAX_ROWS)))
        with new_file(path) as beside, beside.open("wb") as file:
            made: Any = _fit(encoder, some, n_actions, seed)
            np.savez(file, **made)
    with np.load(path, allow_pickle=False) as arrays:
        return WordsModel(encoder, arrays["weight"], arrays["bias"], arrays["known"])


def _fit(encoder: TextEncoder, rows: Rows, n_actions: int, seed: int) -> dict[str, np.ndarray]:
    from sklearn.linear_model import LogisticRegression

    known = np.unique(rows.cluster)
    made: Any = LogisticRegression(C=1.0, max_iter=60, tol=1e-3, random_state=seed)
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sixty rounds are enough for a baseline, converged or not
        made.fit(_matrix(encoder, rows, known), rows.label)
    weight, bias = np.zeros((n_actions, made.coef_.shape[1])), np.full(n_actions, -20.0)
    if len(made.classes_) == 2:
        weight[made.classes_[1]], bias[made.classes_] = made.coef_[0], (0.0, made.intercept_[0])
    else:
        weight[made.classes_], bias[made.classes_] = made.coef_, made.intercept_
    return {"weight": weight, "bias": bias, "known": known}


def _matrix(encoder: TextEncoder, rows: Rows, known: np.ndarray) -> Any:
    from scipy.sparse import csr_matrix, hstack

    terms = weighted(encoder.settings, encoder.terms, encoder.idf, rows.texts.to_list())
    place = np.minimum(np.searchsorted(known, rows.cluster), len(known) - 1)
    is_known = (known[place] == rows.cluster).astype(np.float32)
    who = csr_matrix((is_known, (np.arange(len(rows)), place)), shape=(len(rows), len(known)))
    return hstack([terms[rows.text_of], who], format="csr")
