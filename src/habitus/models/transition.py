"""The transition graph: what followed the last events of a user, counted over everybody. No training loop.

P(b given a) = (n_ab + m p_b) / (n_a + m): counts of b right after a, drawn to the shares p of all by m invented events.
With `last_k` > 1 the last K events vote, weights decay^k. A model that does not beat this has learnt no order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from typing import Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from habitus.core.config import Config
from habitus.models.layers.catalogue import FIRST, check_field
from habitus.models.layers.counted import Tables, added_up, last_positions, spread
from habitus.tokens.batch import EventBatch
from habitus.tokens.events import EventShape

PAIRS = 8_000_000  # counts looked up at once


class TransitionConfig(Config):
    """What the user chooses; `tuned` chooses `smoothing`, `last_k` and `decay` on validation.

    `reach`: pairs up to so many steps apart are counted, a pair s steps apart as s^-fade. Errors: an unknown key is a
    `ConfigError` from `parse`.

    >>> TransitionConfig().last_k
    1
    """

    field: str = "item"
    smoothing: float = Field(10.0, gt=0)
    last_k: int = Field(1, ge=1, le=20)
    decay: float = Field(0.7, gt=0, le=1)
    reach: int = Field(1, ge=1, le=100)
    fade: float = Field(0.5, ge=0)


class Transition(Tables):
    """Counts of pairs as buffers. `counted` makes one from a loader; one made directly knows nothing, all are alike.

    Shape letters: n_rows ids of the field (0 padding, 1 unknown); E distinct pairs; n asked positions.

    >>> shape = EventShape((("item", 5),), n_amounts=0, length=8)
    >>> Transition(TransitionConfig(), shape).scores(EventBatch.empty(n_fields=1), "item").shape
    torch.Size([0, 5])
    """

    Config = TransitionConfig
    Shape = EventShape

    def __init__(self, config: TransitionConfig, shape: EventShape, seed: int = 0) -> None:
        super().__init__()
        self.config, self.shape = config, shape
        self.column, self.n_rows = shape.column(config.field), shape.n_rows(config.field)
        self.first: Tensor  # n_rows + 1, where the pairs of each id begin
        self.follower: Tensor  # E, the second id of a pair
        self.count: Tensor  # E f32
        self.total: Tensor  # n_rows f32, counts of all pairs that begin with each id
        self.prior: Tensor  # n_rows f32, overall shares, above 0 for every value
        self.register_buffer("first", torch.zeros(self.n_rows + 1, dtype=torch.int64))
        self.register_buffer("follower", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("count", torch.zeros(0))
        self.register_buffer("total", torch.zeros(self.n_rows))
        self.register_buffer("prior", _shares(torch.zeros(self.n_rows, dtype=torch.float64)))

    @classmethod
    def counted(
        cls, config: TransitionConfig, shape: EventShape, loader: Iterable[EventBatch], field: str | None = None
    ) -> Self:
        """Count the pairs of a loader in one pass; every target of it is the second id of a pair."""
        made = cls(config if field is None else config.model_copy(update={"field": field}), shape)
        n, reach = made.n_rows, made.config.reach
        code, count = added_up(made._pairs(batch, step) for batch in loader for step in range(reach))
        a, b = code // n, code % n
        made.first = torch.cat([torch.zeros(1, dtype=torch.int64), torch.bincount(a, minlength=n).cumsum(0)])
        made.follower, made.count = b, count.float()
        made.total = torch.zeros(n, dtype=torch.float64).index_add_(0, a, count).float()
        made.prior = _shares(torch.zeros(n, dtype=torch.float64).index_add_(0, b, count))
        return made

    def _pairs(self, batch: EventBatch, step: int) -> tuple[Tensor, Tensor]:
        """Code a * n_rows + b of each pair `step` further apart than neighbours, and its weight."""
        given, told = batch.ids[..., self.column], batch.next_ids[..., self.column]
        width = max(given.shape[1] - step, 0)
        given, told, asked = given[:, :width], told[:, step:], batch.is_target[:, step:]
        is_counted = asked & (told >= FIRST) & (given >= FIRST)
        code = given[is_counted] * self.n_rows + told[is_counted]
        return code, torch.full(code.shape, (step + 1) ** -self.config.fade, dtype=torch.float64)

    def tuned(
        self,
        loader: Iterable[EventBatch],
        smoothing: Sequence[float] = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0),
        last_k: Sequence[int] = (1, 3, 5),
        decay: Sequence[float] = (0.4, 0.6, 0.8),
    ) -> Self:
        """Give the same counts under the smoothing, K and decay of the highest likelihood on a loader's targets."""
        grid = [(m, k, d) for m, k, d in product(smoothing, last_k, decay) if k > 1 or d == decay[0]]
        candidates = [self._with({"smoothing": m, "last_k": k, "decay": d}) for m, k, d in grid]
        return candidates[int(np.argmax(likelihoods(candidates, loader)))]

    def _with(self, change: dict[str, float]) -> Self:
        other = type(self)(self.config.model_copy(update=change), self.shape)
        for name, table in self.named_buffers():
            setattr(other, name, table)  # shared: counts may be large, and nobody changes them
        return other

    def forward(self, batch: EventBatch) -> Tensor:
        """Give `scores` of the config's field."""
        return self.scores(batch, self.config.field)

    def scores(self, batch: EventBatch, field: str) -> Tensor:
        """Give B n_rows log shares of what follows the last event of each row, -inf for padding and unknown."""
        return self.scores_at(batch, *last_positions(batch), field)

    def scores_at(self, batch: EventBatch, row: Tensor, place: Tensor, field: str) -> Tensor:
        """Give the log shares after chosen events, n n_rows. They sum to 1 over the values."""
        check_field(field, self.config.field)
        asked, given, weight = self._voters(batch, row, place)
        n_pairs = self.first[given + 1] - self.first[given]
        if int(n_pairs.sum()) > PAIRS and len(row) > 1:
            halves = zip(row.tensor_split(2), place.tensor_split(2))
            return torch.cat([self.scores_at(batch, *half, field) for half in halves])
        total, m = self.total[given], self.config.smoothing
        share = torch.zeros(len(row), dtype=torch.float32, device=row.device)
        share.index_add_(0, asked, weight * m / (total + m))
        share += (torch.zeros_like(share).index_add_(0, asked, weight) == 0).float()  # no known past: overall shares
        found = share[:, None] * self.prior
        pair, voter = spread(self.first[given], n_pairs)
        gain = (weight / (total + m))[voter] * self.count[pair]
        found.view(-1).index_add_(0, asked[voter] * self.n_rows + self.follower[pair], gain)
        return found.log_()

    def log_share(self, batch: EventBatch, row: Tensor, place: Tensor, told: Tensor) -> Tensor:
        """Give the log share of one told id per asked position, n, without a table of all ids."""
        asked, given, weight = self._voters(batch, row, place)
        total, m = self.total[given], self.config.smoothing
        wanted = told[asked]
        spot, is_there = self._found(given, wanted)
        hit = torch.zeros(len(given), device=row.device)
        hit[is_there] = self.count[spot[is_there]]
        gain = weight * (hit + m * self.prior[wanted]) / (total + m)
        share = torch.zeros(len(row), device=row.device).index_add_(0, asked, gain)
        voted = torch.zeros_like(share).index_add_(0, asked, weight)
        return torch.where(voted > 0, share, self.prior[told]).log()

    def _found(self, given: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """Give the place of each pair among the pairs, and whether it is there: bisection inside each id's own."""
        low, high = self.first[given], self.first[given + 1]
        end, last = high, max(len(self.follower) - 1, 0)
        if not len(self.follower):
            return low, torch.zeros_like(low, dtype=torch.bool)
        while bool((low < high).any()):
            middle = (low + high) // 2
            is_below = (low < high) & (self.follower[middle.clamp(max=last)] < wanted)
            low, high = torch.where(is_below, middle + 1, low), torch.where(is_below, high, middle)
        return low, (low < end) & (self.follower[low.clamp(max=last)] == wanted)

    def _voters(self, batch: EventBatch, row: Tensor, place: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """List the known ids among the last K events: number of the asked position, id, weight (1 in all)."""
        back = torch.arange(self.config.last_k, device=row.device)
        at = place[:, None] - back
        given = batch.ids[row[:, None], at.clamp(min=0), self.column]
        is_known = (at >= 0) & (given >= FIRST)
        weight = (self.config.decay**back).expand_as(at) * is_known
        weight = weight / weight.sum(dim=1, keepdim=True).clamp(min=1e-30)
        asked, which = is_known.nonzero(as_tuple=True)
        return asked, given[asked, which], weight[asked, which]


def _shares(count: Tensor) -> Tensor:
    """Overall shares with one invented event per value; 0 for padding and unknown."""
    share = count + 1
    share[:FIRST] = 0
    return (share / share.sum().clamp(min=1)).float()


def likelihoods(models: Sequence[Transition], loader: Iterable[EventBatch]) -> list[float]:
    """Give the summed log share of a loader's known targets under each model."""
    gains = np.zeros(len(models))
    for batch in loader:
        column = models[0].column
        is_known = batch.is_target & (batch.next_ids[..., column] >= FIRST)
        row, place = is_known.nonzero(as_tuple=True)
        told = batch.next_ids[row, place, column]
        gains += [float(model.log_share(batch, row, place, told).double().sum()) for model in models]
    return gains.tolist()
