"""Contracts of models and objectives of events, and random batches for them. See `testing.contracts` for how to use.

class TestMine(EventModelContract):
    shape, field = EventShape((("type", 5),), 0, 16), "type"

    def make(self, seed=0):
        return Mine(MineConfig(), self.shape, seed=seed)
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from habitus.testing.contracts import ModelContract, ObjectiveContract, assert_close
from habitus.tokens.batch import EventBatch
from habitus.tokens.events import EventShape

DAY = 86_400


def event_batch(n: int, shape: EventShape, seed: int = 0, *, n_events: int | None = None) -> EventBatch:
    """Make n random rows of 1 to `n_events` events (default: the shape's length), with ties and unknown ids.

    Half of the rows end their user: there `remaining` is known and the last event has no target.

    >>> event_batch(3, EventShape((("type", 5), ("item", 9)), 0, 16)).ids.shape
    torch.Size([3, 16, 2])
    """
    draw = torch.Generator().manual_seed(seed)
    width = n_events or shape.length
    length = torch.randint(1, width + 1, (n,), generator=draw)
    if n:
        length[-1] = width
    columns = [torch.randint(2, max(rows, 3), (n, width + 1), generator=draw) for _, rows in shape.fields]
    ids = torch.stack(columns, dim=-1) if columns else torch.zeros(n, width + 1, 0, dtype=torch.int64)
    ids[torch.rand(ids.shape, generator=draw) < 0.05] = 1
    amount = torch.randn(n, width + 1, shape.n_amounts, generator=draw)
    gap = torch.randint(0, 3 * DAY, (n, width + 1), generator=draw)
    time = 1_600_000_000 + (gap * (torch.rand(gap.shape, generator=draw) < 0.8)).cumsum(dim=1)
    is_end = torch.rand(n, generator=draw) < 0.5
    place = torch.arange(width)
    is_kept = place < length[:, None]
    has_next = is_kept & ((place < length[:, None] - 1) | ~is_end[:, None])
    is_known = (ids[:, 1:] > 1).all(dim=-1)
    silence = torch.rand(n, generator=draw) * 30 * DAY
    return EventBatch(
        ids=ids[:, :-1] * is_kept[..., None],
        amount=amount[:, :-1] * is_kept[..., None],
        time=time[:, :-1] * is_kept,
        length=length,
        next_ids=ids[:, 1:] * has_next[..., None],
        next_amount=amount[:, 1:] * has_next[..., None],
        next_time=time[:, 1:] * has_next,
        is_target=has_next & is_known,
        remaining=silence.where(is_end, torch.nan),
        sample=torch.arange(n),
    )


def pad_events(batch: EventBatch, n: int) -> EventBatch:
    """Add n places of padding to every row, with amounts in them that must not matter."""
    wide = {k: F.pad(getattr(batch, k), (0, 0, 0, n)) for k in ("ids", "next_ids", "next_amount")}
    flat = {k: F.pad(getattr(batch, k), (0, n)) for k in ("time", "next_time", "is_target")}
    return replace(batch, **wide, **flat, amount=F.pad(batch.amount, (0, 0, 0, n), value=7.0))


class EventModelContract(ModelContract):
    """What holds for every neural model of events, beside `ModelContract`: it is causal, and padding is nothing."""

    shape: EventShape
    field: str  # a field the model predicts

    def batch(self, n: int, seed: int = 0) -> EventBatch:
        """Give n random rows, shorter than the shape's length."""
        return event_batch(n, self.shape, seed, n_events=max(self.shape.length - 3, 2))

    def test_a_later_event_changes_nothing_before_it(self) -> None:
        model, batch, other = self.make().eval(), self.batch(5), self.batch(5, seed=1)
        place = torch.arange(batch.ids.shape[1])
        for t in (0, 1, batch.ids.shape[1] // 2):
            is_later = place > t
            changed = replace(
                batch,
                ids=torch.where(is_later[:, None], other.ids, batch.ids),
                amount=torch.where(is_later[:, None], other.amount, batch.amount),
                time=torch.where(is_later, batch.time + DAY, batch.time),
            )
            with torch.no_grad():
                one, two = model(batch), model(changed)
            assert torch.equal(one[:, : t + 1], two[:, : t + 1])
            assert not torch.equal(one, two)

    def test_padding_changes_no_score(self) -> None:
        model, batch = self.make().eval(), self.batch(5)
        with torch.no_grad():
            expected = [model.scores(batch, self.field), model.embed(batch)]  # pyright: ignore
            padded = pad_events(batch, 3)
            found = [model.scores(padded, self.field), model.embed(padded)]  # pyright: ignore
        assert_close(found, expected, self.tolerance)

    def test_scores_are_the_products_of_query_and_output(self) -> None:
        model, batch = self.make().eval(), self.batch(4)
        with torch.no_grad():
            last = model(batch)[torch.arange(4), batch.length - 1]
            weight, bias = model.output(self.field)  # pyright: ignore
            logits = model.query(last, self.field) @ weight.T + (0 if bias is None else bias)  # pyright: ignore
            scores = model.scores(batch, self.field)  # pyright: ignore
        assert scores.shape == (4, self.shape.n_rows(self.field))
        assert bool(torch.isneginf(scores[:, :2]).all())
        assert_close([scores[:, 2:]], [logits[:, 2:]], self.tolerance)

    def test_every_weight_has_a_finite_gradient(self) -> None:
        model, batch = self.make().train(), self.batch(16)
        hidden = model(batch)
        total = hidden.square().sum() + self.extra(model, hidden, batch)
        weight, bias = model.output(self.field)  # pyright: ignore
        asked = model.query(hidden, self.field) @ weight.T + (0 if bias is None else bias)  # pyright: ignore
        (total + asked.square().sum()).backward()
        for name, weight in model.named_parameters():
            assert weight.grad is not None, name
            assert bool(torch.isfinite(weight.grad).all()), name
            assert bool((weight.grad != 0).any()), name

    def extra(self, model: nn.Module, hidden: Tensor, batch: EventBatch) -> Tensor:
        """What else reaches weights: heads that neither the state nor `field` needs."""
        return hidden.new_zeros(())


class EventObjectiveContract(ObjectiveContract):
    """What holds for every objective of events, beside `ObjectiveContract`: only targets count."""

    shape: EventShape

    def batch(self, n: int, seed: int = 0) -> EventBatch:
        """Give n random rows."""
        return event_batch(n, self.shape, seed)

    def test_rows_without_a_target_are_finite_and_count_nothing(self) -> None:
        batch = self.batch(4)
        nan = torch.full_like(batch.remaining, torch.nan)
        silent = replace(batch, is_target=torch.zeros_like(batch.is_target), remaining=nan)
        loss = self.run(self.make(), silent)
        assert bool(torch.isfinite(loss.value))
        assert not loss.counts.any()

    def test_padding_changes_no_loss(self) -> None:
        objective, batch = self.make().eval(), self.batch(4)
        one, two = self.run(objective, batch), self.run(objective, pad_events(batch, 3))
        assert_close([two.value, two.sums, two.counts], [one.value, one.sums, one.counts], self.tolerance)
