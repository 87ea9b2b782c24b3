"""The joint objective: silence at the end, absent fields, the base rate."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from habitus.core.errors import ConfigError
from habitus.models.behavegpt import BehaveGPT, BehaveGPTConfig
from habitus.testing.events import event_batch
from habitus.tokens.events import EventShape
from habitus.tokens.gaps import GapBins
from habitus.training.objectives.joint import JointEvents

SHAPE = EventShape((("gap", 7), ("weekday", 9), ("type", 6), ("item", 9)), 0, 8)
GAPS = GapBins.of([1, 60, 3600, 86_400, 864_000])
COUNTS = {name: torch.arange(n).float() + 1 for name, n in SHAPE.fields}


def objective(is_censored: bool = True) -> JointEvents:
    return JointEvents(("gap", "type", "item"), ("type",), COUNTS, GAPS, is_censored=is_censored).eval()


@pytest.fixture
def model() -> BehaveGPT:
    return BehaveGPT(BehaveGPTConfig(size="tiny", n_blocks=1), SHAPE).eval()


def test_an_absent_field_is_left_out_of_its_term_alone(model):
    batch = event_batch(6, SHAPE)
    absent = batch.next_ids.clone()
    absent[..., SHAPE.column("item")] = 1
    whole, part = objective()(model, batch), objective()(model, replace(batch, next_ids=absent))
    assert part.counts.tolist() == [*whole.counts[:2].tolist(), 0, int(whole.counts[3])]
    torch.testing.assert_close(part.sums[:2], whole.sums[:2])


def test_silence_counts_once_per_user_and_teaches_longer_gaps(model):
    batch = event_batch(8, SHAPE)
    silent = replace(batch, is_target=torch.zeros_like(batch.is_target))
    n_ends = int(torch.isfinite(batch.remaining).sum())
    assert 0 < n_ends < 8
    assert objective()(model, silent).counts.tolist() == [n_ends, 0, 0, 0]
    assert objective(is_censored=False)(model, silent).counts.tolist() == [0, 0, 0, 0]
    objective()(model, replace(silent, remaining=torch.full((8,), 86_400.0 * 3))).value.backward()
    slope = model.chain["of_gap"].head.out.bias.grad
    assert slope[-1] < 0  # the longest bin grows,
    assert (slope[:-1] > 0).all()  # those that end before the silence does shrink


def test_the_base_rate_is_the_entropy_of_the_shares(model):
    batch = event_batch(6, SHAPE)
    found = objective(is_censored=False)(model, batch)
    shares = COUNTS["type"].clone()
    shares[:2] = 0
    target = batch.next_ids[batch.is_target][:, SHAPE.column("type")]
    torch.testing.assert_close(found.base[1], -(shares / shares.sum()).log()[target].sum())


def test_too_many_values_are_refused():
    with pytest.raises(ConfigError, match="next_event"):
        JointEvents(("gap", "item"), (), {"gap": torch.ones(7), "item": torch.ones(60_000)}, GAPS)
