"""What models are fed: one frozen batch of tensors, of user-days (DayBatch) or of events (EventBatch)."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from enum import IntEnum
from typing import Self

import torch
from torch import Tensor


class Kind(IntEnum):
    """What a history position holds."""

    PADDING = 0
    START = 1
    INACTIVE = 2
    ACTIVE = 3


@dataclass(frozen=True)
class DayBatch:
    """A batch of samples (user, cut-off) as user-days. B samples, S kept days, F future days.

    Every row has at least one day that is not padding; padding stands at the end of a row.

    >>> DayBatch.empty(n_activity=3, n_known=2, n_profile=1, horizon=7, n_targets=1).activity.shape
    torch.Size([0, 1, 3])
    """

    activity: Tensor  # B S A f32, transformed and standardised
    day: Tensor  # B S i64, true position 0..H-1, H-1 = the cut-off day
    kind: Tensor  # B S i64, see Kind
    known_past: Tensor  # B S E f32
    known_future: Tensor  # B F E f32
    profile: Tensor  # B P f32
    target: Tensor  # B K f32, original units
    is_observed: Tensor  # B K bool; false where the data end before the window does
    day_target: Tensor  # B F K_day f32, original units
    day_is_observed: Tensor  # B F K_day bool
    sample: Tensor  # B i64, row number in the samples the loader was given

    def __len__(self) -> int:
        return self.sample.shape[0]

    @property
    def is_padding(self) -> Tensor:
        """B S bool."""
        return self.kind == Kind.PADDING

    def to(self, device: torch.device | str) -> Self:
        """Copy to a device."""
        return type(self)(*(getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)))

    def with_future(self, known_future: Tensor) -> Self:
        """Give the same past with other future known events (B F E)."""
        return replace(self, known_future=known_future)

    @classmethod
    def empty(
        cls, *, n_activity: int, n_known: int, n_profile: int, horizon: int, n_targets: int, n_day_targets: int = 0
    ) -> Self:
        """Give a batch of no samples, with the right trailing shapes."""
        past = (0, 1)
        return cls(
            activity=torch.zeros(*past, n_activity),
            day=torch.zeros(past, dtype=torch.int64),
            kind=torch.zeros(past, dtype=torch.int64),
            known_past=torch.zeros(*past, n_known),
            known_future=torch.zeros(0, horizon, n_known),
            profile=torch.zeros(0, n_profile),
            target=torch.zeros(0, n_targets),
            is_observed=torch.zeros(0, n_targets, dtype=torch.bool),
            day_target=torch.zeros(0, horizon, n_day_targets),
            day_is_observed=torch.zeros(0, horizon, n_day_targets, dtype=torch.bool),
            sample=torch.zeros(0, dtype=torch.int64),
        )


@dataclass(frozen=True)
class EventBatch:
    """A batch of stretches of events. B rows, T positions (one event each); padding stands at the end of a row.

    Position t is asked for event t + 1 of its user: `next_ids` and `next_time` belong to that event, and `is_target`
    says whether the answer counts (never on padding, nor for what is unknown, held out or of another part). As padding
    comes last, a causal model needs no mask for it. Ids of a field: 0 padding, 1 unknown, 2.. its values.

    >>> EventBatch.empty(n_fields=4, n_amounts=1).ids.shape
    torch.Size([0, 1, 4])
    """

    ids: Tensor  # B T n_fields i64, fields in the order of the spec
    amount: Tensor  # B T n_amounts f32, transformed and standardised; 0 where there is none
    time: Tensor  # B T i64, seconds since 1970-01-01 UTC
    length: Tensor  # B i64, events of the row, at least 1
    next_ids: Tensor  # B T n_fields i64
    next_amount: Tensor  # B T n_amounts f32
    next_time: Tensor  # B T i64
    is_target: Tensor  # B T bool
    remaining: Tensor  # B f32, seconds from the row's last event to the end of observation; nan when more events follow
    sample: Tensor  # B i64, row number in the stretches the loader was given

    def __len__(self) -> int:
        return self.sample.shape[0]

    @property
    def is_padding(self) -> Tensor:
        """B T bool."""
        return torch.arange(self.ids.shape[1], device=self.ids.device) >= self.length[:, None]

    def to(self, device: torch.device | str) -> Self:
        """Copy to a device."""
        return type(self)(*(getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)))

    @classmethod
    def empty(cls, *, n_fields: int, n_amounts: int = 0) -> Self:
        """Give a batch of no rows, with the right trailing shapes."""
        ids, amount, time = (
            torch.zeros(0, 1, n_fields, dtype=torch.int64),
            torch.zeros(0, 1, n_amounts),
            torch.zeros(0, 1, dtype=torch.int64),
        )
        return cls(
            ids=ids,
            amount=amount,
            time=time,
            length=torch.zeros(0, dtype=torch.int64),
            next_ids=ids.clone(),
            next_amount=amount.clone(),
            next_time=time.clone(),
            is_target=torch.zeros(0, 1, dtype=torch.bool),
            remaining=torch.zeros(0),
            sample=torch.zeros(0, dtype=torch.int64),
        )
