"""HistoryDensity: everybody goes on as before. A rate per user and type, spread evenly over the horizon.

rate = (n(W) + m * r) / (W + m): events of the type in the user's last W days, drawn to everybody's rate r by m invented
days. It is the line to beat for long horizons, where most generators lose to it.
Source: the baseline of HoTPP, arXiv 2406.14341, with the shrinkage added.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from habitus.core.config import Config
from habitus.models.layers.catalogue import FIRST, check_field
from habitus.models.layers.counted import last_positions
from habitus.tokens.batch import EventBatch
from habitus.tokens.events import EventShape

DAY = 86_400.0
_ROWS = 4096  # targets at a time while tuning


class HistoryDensityConfig(Config):
    """What the user chooses; `tuned` chooses on validation: `days` is W, `smoothing` is m, in days.

    Errors: an unknown key is a `ConfigError` from `parse`.

    >>> HistoryDensityConfig().days
    28.0
    """

    field: str = "type"
    days: float = Field(28.0, gt=0)
    smoothing: float = Field(7.0, gt=0)


@dataclass(frozen=True)
class Emitted:
    """Events told for a horizon, sorted by row and time.

    `row` n i64, number in the batch; `after` n f64, seconds after the cut-off, inside the horizon; `value` n i64, ids
    of the field; `chance` n f32, of at least so many events of this value (Poisson).
    """

    row: Tensor
    after: Tensor
    value: Tensor
    chance: Tensor


class HistoryDensity(nn.Module):
    """Rates of everybody as a buffer; a user's own come from the batch. `counted` makes one from a loader.

    A row holds at most its T last events: with more events than T in W days the window is the time they span.
    Shape letters: B rows, n_rows ids of the field.

    >>> shape = EventShape((("type", 5),), n_amounts=0, length=8)
    >>> HistoryDensity(HistoryDensityConfig(), shape).rates(EventBatch.empty(n_fields=1)).shape
    torch.Size([0, 5])
    """

    Config = HistoryDensityConfig
    Shape = EventShape

    def __init__(self, config: HistoryDensityConfig, shape: EventShape, seed: int = 0) -> None:
        super().__init__()
        self.config, self.shape = config, shape
        self.column, self.n_rows = shape.column(config.field), shape.n_rows(config.field)
        self.everybody: Tensor  # n_rows f32, events per user and day
        self.register_buffer("everybody", torch.zeros(self.n_rows))

    @classmethod
    def counted(
        cls, config: HistoryDensityConfig, shape: EventShape, loader: Iterable[EventBatch], field: str | None = None
    ) -> Self:
        """Count a loader's targets over the time in which they could have happened, in one pass."""
        made = cls(config if field is None else config.model_copy(update={"field": field}), shape)
        count, seconds = torch.zeros(made.n_rows, dtype=torch.float64), 0.0
        for batch in loader:
            told = batch.next_ids[..., made.column][batch.is_target]
            count += torch.bincount(told, minlength=made.n_rows)
            seconds += float((batch.next_time - batch.time)[batch.is_target].sum())
            seconds += float(batch.remaining.nan_to_num(0.0).clamp(min=0).double().sum())
        count[:FIRST] = 0
        made.everybody = (count / max(seconds / DAY, 1e-9)).float()
        return made

    def forward(self, batch: EventBatch) -> Tensor:
        """Give the `rates`."""
        return self.rates(batch)

    def rates(self, batch: EventBatch) -> Tensor:
        """Give events per day of each value after the cut-off of each row, B n_rows; 0 for padding and unknown.

        The cut-off is the end of observation (`remaining` after the last event), or the last event where unknown.
        """
        return self.rates_at(batch, *last_positions(batch), batch.remaining.nan_to_num(0.0))

    def rates_at(self, batch: EventBatch, row: Tensor, place: Tensor, silence: Tensor | None = None) -> Tensor:
        """Give the rates after chosen events and a silence in seconds (n, default none), n n_rows."""
        ids, time = batch.ids[row, :, self.column], batch.time[row]
        is_past = torch.arange(ids.shape[1], device=ids.device) <= place[:, None]
        wait = torch.zeros(len(row), device=ids.device) if silence is None else silence
        back = (time.gather(1, place[:, None]) - time).double() + wait[:, None]
        is_in = (back < self.config.days * DAY) & is_past
        is_cut = is_in[:, :1] & (batch.length[row, None] >= self.shape.length)
        days = torch.where(is_cut, back[:, :1] / DAY, self.config.days).clamp(min=1e-3).float()
        count = torch.zeros(len(row), self.n_rows, device=ids.device).scatter_add_(1, ids, is_in.float())
        m = self.config.smoothing
        rates = (count + m * self.everybody) / (days + m)
        rates[:, :FIRST] = 0
        return rates

    def tuned(
        self,
        loader: Iterable[EventBatch],
        days: Sequence[float] = (7.0, 14.0, 28.0, 56.0, 112.0, 365.0),
        smoothing: Sequence[float] = (1.0, 3.0, 7.0, 14.0, 28.0, 56.0),
    ) -> Self:
        """Give the same counts under the W and m of the highest likelihood of a loader's targets and gaps (Poisson)."""
        changes = [{"days": w, "smoothing": m} for w, m in product(days, smoothing)]
        candidates = [self._with(change) for change in changes]
        gains = np.zeros(len(candidates))
        for batch in loader:
            told = batch.next_ids[..., self.column]
            rows, places = (batch.is_target & (told >= FIRST)).nonzero(as_tuple=True)
            for row, place in zip(rows.split(_ROWS), places.split(_ROWS)):
                gap = (batch.next_time - batch.time)[row, place] / DAY
                for i, candidate in enumerate(candidates):
                    rates = candidate.rates_at(batch, row, place)
                    happened = rates.gather(1, told[row, place][:, None])[:, 0].clamp(min=1e-12).log()
                    gains[i] += float((happened - rates.sum(dim=1) * gap).double().sum())
        return candidates[int(gains.argmax())]

    def _with(self, change: dict[str, float]) -> Self:
        other = type(self)(self.config.model_copy(update=change), self.shape)
        other.everybody = self.everybody
        return other

    def scores(self, batch: EventBatch, field: str) -> Tensor:
        """Give B n_rows log shares of what comes next, -inf for padding and unknown."""
        check_field(field, self.config.field)
        return _log_shares(self.rates(batch))

    def scores_at(self, batch: EventBatch, row: Tensor, place: Tensor, field: str) -> Tensor:
        """Give the log shares right after chosen events, n n_rows."""
        check_field(field, self.config.field)
        return _log_shares(self.rates_at(batch, row, place))

    def emit(self, batch: EventBatch, horizon: float, max_events: int = 1_000) -> Emitted:
        """Tell the events of the next `horizon` seconds: per value the rounded expectation, evenly in time.

        Event i of an expected number e stands at (i + 1/2) / e of the horizon. More than `max_events` of one value are
        cut off.
        """
        expected = self.rates(batch).double() * (horizon / DAY)
        n = expected.round().long().clamp(max=max_events)
        row, value = n.nonzero(as_tuple=True)
        n, expected = n[row, value], expected[row, value]
        owner = torch.repeat_interleave(torch.arange(len(n)), n)
        number = torch.arange(len(owner)) - (n.cumsum(0) - n)[owner]
        after = (number + 0.5) / torch.maximum(expected, n.double())[owner] * horizon
        chance = torch.special.gammainc((number + 1).double(), expected[owner]).float()
        row, value = row[owner], value[owner]
        order = torch.argsort(after, stable=True)
        order = order[torch.argsort(row[order], stable=True)]
        return Emitted(row[order], after[order], value[order], chance[order])


def _log_shares(rates: Tensor) -> Tensor:
    logs = (rates + 1e-12).log()
    logs[:, :FIRST] = -torch.inf
    return logs.log_softmax(dim=1)
