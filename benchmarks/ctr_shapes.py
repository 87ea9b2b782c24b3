"""What can be learnt of a world of clicks at all: ridge regression that is told the shape of each part, rung by rung.

No model of ours: it knows which columns the world's formula reads. It says how much of a ceiling the training rows give
away, so that a model is held against what they allow. Fitted on the training days, scored on the validation day.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import record
from habitus.apps.ctr.examples import Examples, tokens
from habitus.apps.ctr.linear import LinearConfig, hashed
from habitus.apps.ctr.run import CtrRecipe, ceilings_of, examples_of, open_impressions
from habitus.data.sources.taobao_ad_world import KIND_WEIGHT, N_TOKENS
from habitus.metrics.clustered import expected_auc

CHUNK = 8192
C = 0.01


def history_columns(examples: Examples) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give shares of categories and kinds among the tokens, touches of the ad, and codes of its category's last run."""
    n, n_cates, n_kinds = len(examples), examples.spec.n_cates, len(examples.spec.kinds)
    shares = np.zeros((n, n_cates + n_kinds), np.float32)
    touched, last = np.zeros(n, np.float32), np.zeros((n, 2), np.int64)
    for low in range(0, n, CHUNK):
        rows = np.arange(low, min(low + CHUNK, n))
        codes, is_pad, _ = tokens(examples, rows, n_tokens=N_TOKENS)
        weight = ~is_pad / np.maximum((~is_pad).sum(1), 1)[:, None]
        at = np.arange(len(rows))
        for first, field, size in ((0, 0, n_cates), (n_cates, 2, n_kinds)):
            key = (at[:, None] * size + codes[..., field]).ravel()
            shares[rows, first : first + size] = np.bincount(key, weight.ravel(), len(rows) * size).reshape(-1, size)
        target = examples.target[rows]
        same = (codes[..., 0] == target[:, :1]) & ~is_pad & (target[:, :1] > 0)
        is_brand = same & (codes[..., 1] == target[:, 1:]) & (target[:, 1:] > 0)
        touched[rows] = np.log1p((KIND_WEIGHT[codes[..., 2]] * (same * 1.0 + is_brand)).sum(1))
        place = N_TOKENS - 1 - np.argmax(same[:, ::-1], axis=1)
        last[rows] = np.where(same.any(1)[:, None], 1 + codes[at, place][:, [3, 5]], 0)
    return shares, touched, last


def design(examples: Examples, rung: int, history: tuple[np.ndarray, np.ndarray, np.ndarray]) -> Any:
    """Give the sparse matrix of a rung."""
    from scipy.sparse import csr_matrix, hstack

    config = LinearConfig.parse({"bits": 20, "has_crosses": rung >= 2, "has_dense": False, "left_out": ["user"]})
    shares, touched, last = history
    parts: list[Any] = [hashed(examples, np.arange(len(examples)), config)]
    if rung >= 3:
        parts.append(csr_matrix(shares * 3))
    if rung >= 4:
        parts.append(csr_matrix(np.stack([touched, touched > 0], 1).astype(np.float32)))
    if rung >= 5:
        parts.append(csr_matrix(np.concatenate([np.eye(33)[last[:, 0]], np.eye(9)[last[:, 1]]], 1).astype(np.float32)))
    return hstack(parts, format="csr", dtype=np.float32)


def main() -> None:
    """Measure one world."""
    from sklearn.linear_model import LogisticRegression

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("world", type=Path, help="A folder of habitus ctr world.")
    world = parser.parse_args().world
    recipe = CtrRecipe.parse({"name": "shapes", "source": "taobao_ad", "models": {"LR": {"kind": "linear"}}})
    parts = examples_of(recipe, world, *open_impressions(recipe, world))["static"]
    train, valid = parts["train"], parts["valid"]
    known, asked = history_columns(train), history_columns(valid)
    assert valid.truth is not None
    size = f"{len(train):,} training rows, {train.spec.n_cates - 1} categories"
    for rung, (name, ceiling) in enumerate(ceilings_of(world, valid).items(), 1):
        columns, rows = design(train, rung, known), design(valid, rung, asked)
        used = np.unique(columns.indices)
        fitted: Any = LogisticRegression(C=C, max_iter=2000).fit(columns[:, used], train.label)
        value = expected_auc(valid.truth, rows[:, used] @ fitted.coef_[0])
        note = f"validation day, ceiling {ceiling:.4f}, {size}"
        record("ctr_shapes", f"regression told the shapes of s1 to {name}: expected AUC", value, note=note)


if __name__ == "__main__":
    main()
