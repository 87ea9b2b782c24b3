"""What a probe reads of a user: blocks of numbers, made ready for a head from the training rows alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from scipy import sparse

from habitus.core.errors import ConfigError

Matrix = Any  # float [n, d] or scipy CSR [n, d]


@dataclass(frozen=True)
class Block:
    """Numbers of n users, one row each.

    Attributes
    ----------
    value
        float [n, d], or CSR.
    kind
        `vector`: numbers of like scale, none missing (an embedding, a bag). `numbers`: hand-made columns of any scale,
        NaN where there is nothing to measure; linear heads see sign(x) log(1 + |x|), filled with the median, with a
        column that marks what was missing.
    n_components
        Keep as many principal components, fitted on the training rows; None keeps all columns.
    """

    value: Matrix
    kind: Literal["vector", "numbers"] = "vector"
    n_components: int | None = None

    def take(self, rows: np.ndarray) -> Block:
        """Give the block of these rows."""
        return replace(self, value=self.value[rows])


Features = tuple[Block, ...]


def as_features(given: Any) -> Features:
    """Take an array, a sparse matrix, a block or several blocks.

    Errors: `ConfigError` for something without rows and columns, a vector with a value that is not finite, or blocks of
    unequal length.

    >>> as_features(np.zeros((3, 2)))[0].kind
    'vector'
    """
    parts = tuple(given) if isinstance(given, tuple | list) else (given,)
    blocks = tuple(_block(part) for part in parts)
    if len({block.value.shape[0] for block in blocks}) > 1:
        found = ", ".join(str(block.value.shape[0]) for block in blocks)
        raise ConfigError("as many rows in every block", found, where="features")
    return blocks


def prepared(features: Features, train: np.ndarray, test: np.ndarray, *, is_linear: bool) -> tuple[Matrix, Matrix]:
    """Give the matrices of training and test rows for one head; whatever is fitted sees the training rows alone.

    Trees (`is_linear` false) get the columns as they are.
    """
    pairs = [_ready(block.take(train), block.take(test), is_linear) for block in features]
    if len(pairs) == 1:
        return pairs[0]
    is_sparse = any(sparse.issparse(part) for part, _ in pairs)
    stack = (lambda parts: sparse.hstack(parts, format="csr")) if is_sparse else np.hstack
    return stack([one for one, _ in pairs]), stack([two for _, two in pairs])


def scaled(train: Matrix, test: Matrix) -> tuple[Matrix, Matrix]:
    """Bring columns to mean 0 and deviation 1 over the training rows; a constant column becomes 0."""
    mean, deviation = train.mean(axis=0), train.std(axis=0)
    deviation = np.where(deviation > 1e-12, deviation, np.inf)
    return (train - mean) / deviation, (test - mean) / deviation


def _block(part: Any) -> Block:
    block = part if isinstance(part, Block) else Block(part)
    value: Any = block.value
    if not sparse.issparse(value):
        value = np.asarray(value)
        value = value[:, None] if value.ndim == 1 else value
    else:
        value = sparse.csr_matrix(value)
    if value.ndim != 2:
        raise ConfigError("rows and columns", f"shape {value.shape}", where="features")
    held: Any = value.data if sparse.issparse(value) else value
    if block.kind == "vector" and not np.isfinite(held).all():
        raise ConfigError("finite numbers in a vector", "NaN or infinite", where="features", fix="use kind='numbers'")
    return replace(block, value=value)


def _ready(train: Block, test: Block, is_linear: bool) -> tuple[Matrix, Matrix]:
    one, two = train.value, test.value
    if train.kind == "numbers" and is_linear:
        one, two = _filled(np.asarray(one, np.float64), np.asarray(two, np.float64))
    if train.n_components is not None and train.n_components < one.shape[1]:
        one, two = _components(one, two, train.n_components)
    return one, two


def _filled(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Squash, fill with the median of the training rows, mark what was missing, scale."""
    parts = [np.sign(part) * np.log1p(np.abs(part)) for part in (train, test)]
    holes = np.isnan(parts[0])
    known = ~holes.all(axis=0)
    middle = np.zeros(train.shape[1])
    middle[known] = np.nanmedian(parts[0][:, known], axis=0)
    marked = holes.any(axis=0) & known
    whole = [np.hstack([np.where(np.isnan(p), middle, p), np.isnan(p)[:, marked]]) for p in parts]
    return scaled(*whole)


def _components(train: Matrix, test: Matrix, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Principal components by the eigenvectors of the d x d covariance (d is an embedding's width)."""
    dense = [np.asarray(part.todense()) if sparse.issparse(part) else np.asarray(part) for part in (train, test)]
    mean = dense[0].mean(axis=0)
    centred = dense[0] - mean
    axes = np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, :k]
    return centred @ axes, (dense[1] - mean) @ axes
