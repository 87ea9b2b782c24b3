"""The last state of a row, compared with every row of an output table."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from habitus.core.errors import ConfigError

FIRST = 2  # ids below are padding and unknown: never an answer
BY_ROW = "is_by_row"  # mark of a table whose gradient is kept for the rows read alone


def lookup(ids: Tensor, table: Tensor) -> Tensor:
    """Give the rows of a table, .. -> .. W; the gradient of a table marked `BY_ROW` is sparse.

    >>> lookup(torch.tensor([2, 0]), torch.eye(3)).tolist()
    [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    """
    return F.embedding(ids, table, sparse=getattr(table, BY_ROW, False))


def last(hidden: Tensor, length: Tensor) -> Tensor:
    """Give B T D -> B D, the state at the last event of each row.

    >>> last(torch.arange(6.0).view(1, 3, 2), torch.tensor([2])).tolist()
    [[2.0, 3.0]]
    """
    return hidden[torch.arange(len(length), device=hidden.device), length - 1]


def catalogue_scores(query: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Give B n_rows logits of every value, -inf for padding and unknown.

    >>> catalogue_scores(torch.ones(1, 2), torch.eye(3)[:, :2]).tolist()
    [[-inf, -inf, 0.0]]
    """
    scores = query @ weight.T
    if bias is not None:
        scores = scores + bias
    scores[..., :FIRST] = -torch.inf
    return scores


def check_field(asked: str, own: str) -> None:
    """Refuse a field that a model of one field does not predict. Errors: `ConfigError`."""
    if asked != own:
        raise ConfigError(f"the field this model predicts, {own!r}", repr(asked), where="field")
