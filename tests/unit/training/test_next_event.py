"""The next-event objective: the full loss in pieces, sampled ones that meet it, and only targets count."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from habitus.core.errors import ConfigError
from habitus.models.gru4rec import GRU4Rec, GRU4RecConfig
from habitus.testing.events import EventObjectiveContract, event_batch
from habitus.tokens.events import EventShape
from habitus.training.objectives import next_event
from habitus.training.objectives.next_event import NextEvent, NextEventConfig, full, missed_ndcg

SHAPE = EventShape((("type", 5), ("item", 40)), n_amounts=0, length=12)
COUNTS = torch.arange(40.0)


def objective(**config) -> NextEvent:
    return NextEvent(NextEventConfig.parse({"field": "item", **config}), SHAPE.column("item"), COUNTS)


class Ones(nn.Module):
    """A model whose queries and table are drawn once, whatever the batch is."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(1)
        self.table = nn.Parameter(scale * torch.randn(40, 6, generator=draw))
        self.bias = nn.Parameter(torch.randn(40, generator=draw))

    def forward(self, batch):
        return F.embedding(batch.ids[..., 1], self.table)

    def query(self, hidden, field):
        return hidden

    def output(self, field):
        return self.table, self.bias


class TestNextEvent(EventObjectiveContract):
    shape = SHAPE
    config: ClassVar[dict] = {}

    def make(self) -> NextEvent:
        return objective(**self.config)

    def model(self) -> nn.Module:
        return GRU4Rec(GRU4RecConfig(d_model=8), SHAPE)


class TestSampled(TestNextEvent):
    config: ClassVar[dict] = {"loss": "sampled", "n_negatives": 7, "in_batch": True, "is_corrected": True}

    def run(self, objective, batch, model=None):
        torch.manual_seed(0)
        return super().run(objective, batch, model)


class TestWorstCase(TestNextEvent):
    config: ClassVar[dict] = {"robust": {"name": "box_dro"}}


def test_the_loss_in_pieces_equals_cross_entropy_with_its_gradients(monkeypatch):
    monkeypatch.setattr(next_event, "CHUNK", 100)
    draw = torch.Generator().manual_seed(0)
    parts = [torch.randn(*size, generator=draw, requires_grad=True) for size in ((11, 6), (40, 6), (40,))]
    target = torch.randint(2, 40, (11,), generator=draw)
    logits = F.linear(*parts)
    logits[:, :2] = -torch.inf
    expected = F.cross_entropy(logits, target, reduction="sum")
    wanted = torch.autograd.grad(3 * expected, parts)
    found = full(*parts, target)
    torch.testing.assert_close(found, expected)
    for one, two in zip(torch.autograd.grad(3 * found, parts), wanted):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("is_corrected", [False, True])
def test_sampling_every_value_is_the_full_loss(is_corrected):
    model, batch = Ones(), event_batch(6, SHAPE)
    expected = objective()(model, batch)
    found = objective(loss="sampled", n_negatives=99, is_corrected=is_corrected)(model, batch)
    torch.testing.assert_close(found.value, expected.value)
    torch.testing.assert_close(
        torch.autograd.grad(found.value, model.table)[0], torch.autograd.grad(expected.value, model.table)[0]
    )


def mean_loss(**config) -> float:
    """The mean over many draws, on one batch."""
    model, batch = Ones(scale=0.3), event_batch(2, SHAPE)
    counts = torch.bincount(batch.next_ids[..., 1][batch.is_target], minlength=40)
    made = NextEvent(NextEventConfig.parse({"field": "item", **config}), 1, counts)
    torch.manual_seed(0)
    with torch.no_grad():
        return sum(float(made(model, batch).value) for _ in range(200)) / 200


def test_a_corrected_sample_estimates_the_full_loss():
    sampled = {"loss": "sampled", "n_negatives": 20}
    expected = mean_loss()
    assert abs(mean_loss(**sampled, is_corrected=True) - expected) < 0.15
    assert abs(mean_loss(**sampled, is_corrected=True, in_batch=True) - expected) < 0.15
    assert abs(mean_loss(**sampled) - expected) > 0.3


def test_unknown_values_are_left_out_and_the_base_rate_is_that_of_train():
    batch = event_batch(6, SHAPE)
    batch.next_ids[..., 1][batch.is_target] = 1
    found = objective().eval()(Ones(), batch)
    assert found.counts.tolist() == [0]
    batch.next_ids[..., 1] = 39
    found = objective().eval()(Ones(), batch)
    share = 39 / COUNTS.clamp(min=0.5)[2:].sum()
    assert found.base is not None
    torch.testing.assert_close(found.base / found.counts, -torch.log(share)[None])


def test_validation_looks_at_what_was_asked_for():
    model, batch = Ones(), event_batch(6, SHAPE)
    told = batch.next_ids[..., 1][batch.is_target]
    logits = F.linear(model(batch)[batch.is_target], *model.output("item"))
    logits[:, :2] = -torch.inf
    rank = (logits > logits.gather(1, told[:, None])).sum(dim=1)
    expected = 1 - torch.where(rank < 10, 1 / torch.log2(rank + 2.0), 0.0)
    found = objective(watch="ndcg").eval()(model, batch)
    torch.testing.assert_close(found.means, expected.mean()[None])
    assert 0 < float(expected.mean()) < 1
    plain = objective(loss="sampled", n_negatives=3).eval()(model, batch)
    torch.testing.assert_close(plain.sums, F.cross_entropy(logits, told, reduction="sum")[None])


def test_values_scored_alike_are_half_ahead():
    ties = missed_ndcg(torch.zeros(1, 2), torch.ones(13, 2), None, torch.tensor([5]))
    torch.testing.assert_close(ties, 1 - 1 / torch.log2(torch.tensor([7.0])))


def test_binary_loss_is_finite_and_learns():
    model, batch, made = Ones(), event_batch(8, SHAPE), objective(loss="bce", n_negatives=4)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.05)
    torch.manual_seed(0)
    losses = []
    for _ in range(60):
        loss = made(model, batch).value
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_a_worst_case_loss_takes_no_sample():
    with pytest.raises(ConfigError, match="loss = 'full'"):
        objective(loss="sampled", robust={"name": "box_dro"})
