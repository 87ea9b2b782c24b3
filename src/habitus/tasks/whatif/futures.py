"""The past encoded once, and every calendar decoded from it, for the users to whom it makes a difference."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from habitus.core.progress import track
from habitus.models.lumos import Cache, Lumos, LumosOutput
from habitus.tasks.forecast import BATCH, Heads, read_means
from habitus.tasks.whatif.days import DayPlan, from_risks, implied, risks
from habitus.tokens.loader import DayLoader, Inputs, future_events


@dataclass(frozen=True)
class Future:
    """The same samples under one calendar.

    With `has_detail` the answer holds days and members too. With `is_forced` every user is decoded, also those for whom
    the calendar says what the first one says: the way to test that nothing changes where nothing should.
    """

    inputs: Inputs
    has_detail: bool = False
    is_forced: bool = False


@dataclass(frozen=True)
class Answer:
    """What the model says under one calendar, in original units, probabilities calibrated.

    Attributes
    ----------
    mean
        float64 [n, K], members averaged.
    members
        float64 [M, n, K], each member alone; M = 0 without detail.
    day
        float64 [F, K_day], sums over users of each future day; empty without detail.
    by_days, by_days_members
        The same two, as the days say of the window (see `days.implied`); NaN for targets without a day head.
    risk
        float64 [n, K], what the days add up to (see `days.risks`).
    is_changed
        bool [n]: the calendar tells this user's coming days otherwise than the first calendar does.
    """

    mean: np.ndarray
    members: np.ndarray
    day: np.ndarray
    by_days: np.ndarray
    by_days_members: np.ndarray
    risk: np.ndarray
    is_changed: np.ndarray

    @property
    def lead(self) -> np.ndarray:
        """float64 [n, K]: the days' reading of each target that has a day head, else the window's."""
        return np.where(np.isnan(self.by_days), self.mean, self.by_days)

    @property
    def total(self) -> np.ndarray:
        """float64 [2, K]: sums over users, as the window head says and as the days say."""
        return np.stack([self.mean.sum(axis=0), self.by_days.sum(axis=0)])


@dataclass(frozen=True)
class Encoded:
    """A batch of samples whose past is encoded and whose first answer is given: what further calendars decode from."""

    rows: np.ndarray
    known: Tensor
    caches: list[Cache]
    first: _Said

    @property
    def n_bytes(self) -> int:
        """What the encoded past takes."""
        return sum(_n_bytes(getattr(cache, field.name)) for cache in self.caches for field in fields(cache))


@torch.no_grad()
def encoded(
    members: Sequence[Lumos], heads: Heads, base: Inputs, calibration: Mapping[str, Any] | None = None
) -> Iterator[Encoded]:
    """Encode the past of every sample, batch by batch, and answer under the calendar of `base`."""
    loader = DayLoader(base, batch_size=BATCH)
    for batch in track(loader, "what if", len(loader)):
        caches = [member.encode(batch) for member in members]
        first = _Said.of(_decoded(members, caches, batch.known_future), heads, calibration)
        yield Encoded(batch.sample.numpy(), batch.known_future, caches, first)


@torch.no_grad()
def answers(
    members: Sequence[Lumos],
    heads: Heads,
    futures: Sequence[Future],
    plan: DayPlan,
    calibration: Mapping[str, Any] | None = None,
    *,
    past: Iterable[Encoded] | None = None,
) -> list[Answer]:
    """Answer under every calendar; all hold the same samples and agree up to the cut-off.

    Each batch is encoded once per member, with the first calendar. A further calendar decodes only the users whose
    coming days it changes; all others keep the first answer, bit for bit. `past` is what `encoded` gave for the first
    future, where it was kept.
    """
    base = futures[0].inputs
    found = [_blank(len(base), heads, base.spec.horizon, len(members), future) for future in futures]
    for batch in encoded(members, heads, base, calibration) if past is None else past:
        rows, first = batch.rows, batch.first
        _keep(found[0], rows, first, first, plan, np.zeros(len(rows), bool))
        for future, answer in zip(futures[1:], found[1:]):
            known = future_events(future.inputs, rows)
            is_changed = (known != batch.known).flatten(1).any(dim=1)
            chosen = torch.ones_like(is_changed) if future.is_forced else is_changed
            said = first
            if chosen.any():
                outputs = _decoded_some(members, batch.caches, known, chosen)
                said = first.changed(_Said.of(outputs, heads, calibration), chosen.numpy())
            _keep(answer, rows, said, first, plan, is_changed.numpy())
    return found


def _n_bytes(value: Any) -> int:
    if isinstance(value, tuple):
        return sum(_n_bytes(part) for part in value)
    return value.numel() * value.element_size() if isinstance(value, Tensor) else 0


@dataclass(frozen=True)
class _Said:
    """Answers for one batch: mean b K, day b F K_day, and the same of each member, M in front."""

    mean: np.ndarray
    day: np.ndarray
    members: np.ndarray
    member_days: np.ndarray

    @classmethod
    def of(cls, outputs: list[LumosOutput], heads: Heads, calibration: Mapping[str, Any] | None) -> _Said:
        each = [read_means([one], heads, calibration) for one in outputs]
        mean, day = each[0] if len(each) == 1 else read_means(outputs, heads, calibration)
        return cls(mean, day, np.stack([m for m, _ in each]), np.stack([d for _, d in each]))

    def changed(self, other: _Said, chosen: np.ndarray) -> _Said:
        """Take the chosen users from `other`, which holds them alone."""
        mean, day, members, member_days = (getattr(self, field.name).copy() for field in fields(self))
        mean[chosen], day[chosen] = other.mean, other.day
        members[:, chosen], member_days[:, chosen] = other.members, other.member_days
        return _Said(mean, day, members, member_days)


def _decoded(members: Sequence[Lumos], caches: list[Cache], known: Tensor) -> list[LumosOutput]:
    return [member.decode(cache, known) for member, cache in zip(members, caches)]


def _decoded_some(members: Sequence[Lumos], caches: list[Cache], known: Tensor, chosen: Tensor) -> list[LumosOutput]:
    """Decode the chosen users of a batch alone."""
    if chosen.all():
        return _decoded(members, caches, known)
    return _decoded(members, [_taken(cache, chosen) for cache in caches], known[chosen])


def _taken(cache: Cache, chosen: Tensor) -> Cache:
    """Give the encoded past of some users; every tensor of a cache has the users first."""

    def take(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(take(part) for part in value)
        return value[chosen] if isinstance(value, Tensor) else value

    return replace(cache, **{field.name: take(getattr(cache, field.name)) for field in fields(cache)})


def _blank(n: int, heads: Heads, horizon: int, n_members: int, future: Future) -> Answer:
    n_kept, n_day = (n_members, len(heads.day)) if future.has_detail else (0, 0)
    n_window = len(heads.window)
    return Answer(
        mean=np.zeros((n, n_window)),
        members=np.zeros((n_kept, n, n_window)),
        day=np.zeros((horizon, n_day)),
        by_days=np.zeros((n, n_window)),
        by_days_members=np.zeros((n_kept, n, n_window)),
        risk=np.zeros((n, n_window)),
        is_changed=np.zeros(n, bool),
    )


def _keep(answer: Answer, rows: np.ndarray, said: _Said, first: _Said, plan: DayPlan, is_changed: np.ndarray) -> None:
    """Write a batch into its place, and add up its days."""
    answer.mean[rows], answer.is_changed[rows] = said.mean, is_changed
    answer.risk[rows] = risks(plan, said.day)
    answer.by_days[rows] = from_risks(plan, first.mean, risks(plan, first.day), answer.risk[rows])
    if len(answer.members):
        answer.members[:, rows] = said.members
        answer.by_days_members[:, rows] = implied(plan, first.members, first.member_days, said.member_days)
    if answer.day.size:
        answer.day[:] += said.day.sum(axis=0)
