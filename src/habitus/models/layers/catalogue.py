"""The last state of a row, compared with every row of an output table, and the models whose table is tied."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from habitus.core.errors import ConfigError
from habitus.tokens.batch import EventBatch
from habitus.tokens.events import EventShape

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


class Tied(nn.Module):
    """What models of one field share whose states are compared with their own table: `table` V D, and `config.field`.

    `forward` gives the state after each event, B T D; the rest of the interface of a model of events follows from it.
    A config with `start = "counts"` asks training to begin with vectors made from counts of what stands near what
    (`models.spectral`): a fraction of the epochs is then enough.
    """

    Shape = EventShape
    table: nn.Parameter

    def __init__(self, config: Any, shape: EventShape) -> None:
        super().__init__()
        self.config, self.shape = config, shape
        self.column = shape.column(config.field)

    @torch.no_grad()
    def start_from(self, table: Tensor) -> None:
        """Begin with these vectors (V D); rows of zeros keep what was drawn."""
        self.table.copy_(torch.where((table != 0).any(dim=1, keepdim=True), table, self.table))

    def query(self, hidden: Tensor, field: str) -> Tensor:
        """Give what is compared with the rows of `output`: the state itself."""
        check_field(field, self.config.field)
        return hidden

    def output(self, field: str) -> tuple[Tensor, Tensor | None]:
        """Give the table [V, D] and no bias."""
        check_field(field, self.config.field)
        return self.table, None

    def scores(self, batch: EventBatch, field: str) -> Tensor:
        """Give B V logits of what follows the last event of each row, -inf for padding and unknown."""
        return catalogue_scores(self.query(self.embed(batch), field), *self.output(field))

    def embed(self, batch: EventBatch) -> Tensor:
        """Give B D, the state after the last event of each row."""
        return last(self(batch), batch.length)
