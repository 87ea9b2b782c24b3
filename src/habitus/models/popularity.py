"""Popularity: how often each value occurred, all time or lately, mixed with what the user does again and again.

Two things that go by this name are not the same, so `at` says which: `cutoff` counts up to the end of what was counted,
one table for everybody; `request` counts the days before the day of the event to tell, so that it rolls.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, Self

import torch
from pydantic import Field
from torch import Tensor

from habitus.core.config import Config
from habitus.core.errors import ConfigError
from habitus.models.layers.catalogue import FIRST, check_field
from habitus.models.layers.counted import Tables, added_up, last_positions, spread
from habitus.tokens.batch import EventBatch
from habitus.tokens.events import EventShape

DAY = 86_400
EPSILON = 1e-6  # share of one invented event per value, so that no log is infinite


class PopularityConfig(Config):
    """What the user chooses. `days` None counts all time; `repeat` is the weight of the user's own shares.

    `at = "request"` needs the instant of the event to tell (`next_time`): say so beside its figures. Errors: an unknown
    key is a `ConfigError` from `parse`.

    >>> PopularityConfig(days=7).at
    'cutoff'
    """

    field: str = "item"
    days: int | None = Field(None, ge=1)
    at: Literal["cutoff", "request"] = "cutoff"
    repeat: float = Field(0.0, ge=0, le=1)


class Popularity(Tables):
    """Counts per day and value as buffers. `counted` makes one from a loader; one made directly knows nothing.

    Days are whole days of UTC. Shape letters: n_rows ids of the field; E pairs of day and value; n asked positions.

    >>> shape = EventShape((("item", 5),), n_amounts=0, length=8)
    >>> Popularity(PopularityConfig(), shape).scores(EventBatch.empty(n_fields=1), "item").shape
    torch.Size([0, 5])
    """

    Config = PopularityConfig
    Shape = EventShape

    def __init__(self, config: PopularityConfig, shape: EventShape, seed: int = 0) -> None:
        super().__init__()
        self.config, self.shape = config, shape
        self.column, self.n_rows = shape.column(config.field), shape.n_rows(config.field)
        self.day: Tensor  # E i64, sorted
        self.value: Tensor  # E i64
        self.count: Tensor  # E f32
        for name in ("day", "value"):
            self.register_buffer(name, torch.zeros(0, dtype=torch.int64))
        self.register_buffer("count", torch.zeros(0))

    @classmethod
    def counted(
        cls, config: PopularityConfig, shape: EventShape, loader: Iterable[EventBatch], field: str | None = None
    ) -> Self:
        """Count the targets of a loader by day, in one pass."""
        made = cls(config if field is None else config.model_copy(update={"field": field}), shape)
        return made.also(loader)

    def also(self, loader: Iterable[EventBatch]) -> Self:
        """Give a model that has counted these targets too: with `at = "request"`, days after the train part."""
        pieces = [(self.day * self.n_rows + self.value, self.count)]
        code, count = added_up(piece for part in (pieces, map(self._seen, loader)) for piece in part)
        other = type(self)(self.config, self.shape)
        other.day, other.value, other.count = code // self.n_rows, code % self.n_rows, count.float()
        return other

    def _seen(self, batch: EventBatch) -> tuple[Tensor, Tensor]:
        told = batch.next_ids[..., self.column]
        is_counted = batch.is_target & (told >= FIRST)
        code = batch.next_time[is_counted] // DAY * self.n_rows + told[is_counted]
        return code, torch.ones(len(code))

    def forward(self, batch: EventBatch) -> Tensor:
        """Give `scores` of the config's field."""
        return self.scores(batch, self.config.field)

    def scores(self, batch: EventBatch, field: str) -> Tensor:
        """Give B n_rows log shares of what follows the last event of each row, -inf for padding and unknown."""
        return self.scores_at(batch, *last_positions(batch), field)

    def scores_at(self, batch: EventBatch, row: Tensor, place: Tensor, field: str) -> Tensor:
        """Give the log shares after chosen events, n n_rows. They sum to 1 over the values."""
        check_field(field, self.config.field)
        if self.config.at == "cutoff":
            last = int(self.day[-1]) if len(self.day) else 0
            share = self._shares(torch.tensor([last + 1], device=row.device)).expand(len(row), -1)
        else:
            asked = batch.next_time[row, place]
            if bool((asked < batch.time[row, place]).any()):
                raise ConfigError("the instant of the event to tell, in next_time", "none", where="popularity")
            days, which = (asked // DAY).unique(return_inverse=True)
            share = self._shares(days)[which]
        if self.config.repeat and len(row):
            share = self._mixed(share, batch, row, place)
        return share.log()

    def _shares(self, day: Tensor) -> Tensor:
        """Give the shares in the days before each day, D n_rows."""
        since = day - self.config.days if self.config.days else torch.full_like(day, torch.iinfo(torch.int64).min)
        first, end = (torch.searchsorted(self.day, edge) for edge in (since, day))
        pair, owner = spread(first, end - first)
        found = torch.full((len(day), self.n_rows), EPSILON, device=day.device)
        found.view(-1).index_add_(0, owner * self.n_rows + self.value[pair], self.count[pair])
        found[:, :FIRST] = 0
        return found / found.sum(dim=1, keepdim=True)

    def _mixed(self, share: Tensor, batch: EventBatch, row: Tensor, place: Tensor) -> Tensor:
        """Mix in the shares of the user's own events up to the asking one."""
        given = batch.ids[row, :, self.column]
        is_past = (torch.arange(given.shape[1], device=row.device) <= place[:, None]) & (given >= FIRST)
        n_past = is_past.sum(dim=1, keepdim=True)
        weight = torch.where(n_past > 0, self.config.repeat, 0.0)
        own = torch.zeros_like(share).scatter_add_(1, given, is_past.float()) / n_past.clamp(min=1)
        return (1 - weight) * share + weight * own
