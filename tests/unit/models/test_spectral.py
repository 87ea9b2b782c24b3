"""Vectors from counts: what stands near what is near; a model may begin with them."""

from dataclasses import replace

import pytest
import torch

from habitus.models.hstu import HSTU, HSTUConfig
from habitus.models.sasrec import SASRec, SASRecConfig
from habitus.models.spectral import spectral_table
from habitus.models.transition import Transition, TransitionConfig
from habitus.testing.events import event_batch
from habitus.testing.threads import one_thread
from habitus.tokens.batch import EventBatch
from habitus.tokens.events import EventShape

__all__ = ["one_thread"]

SHAPE = EventShape((("item", 22),), n_amounts=0, length=8)


def two_crowds() -> EventBatch:
    """Even rows walk among items 2..10, odd rows among 12..20; 11 and 21 never occur."""
    batch = event_batch(400, SHAPE, 5)
    crowd = 2 + 10 * (torch.arange(400) % 2)[:, None, None]
    ids, told = (torch.where(part > 0, crowd + part % 9, 0) for part in (batch.ids, batch.next_ids))
    told[:, :-1] = torch.where(told[:, :-1] > 0, ids[:, 1:], 0)
    return replace(batch, ids=ids, next_ids=told, is_target=batch.is_target & (told[..., 0] > 1))


GRAPH = Transition.counted(TransitionConfig(reach=3), SHAPE, [two_crowds()])


def test_items_of_one_crowd_are_near_and_others_are_not() -> None:
    table = spectral_table(GRAPH, 8)
    one, other = table[2:11], table[12:21]
    assert float((one @ one.T).mean()) > 10 * abs(float((one @ other.T).mean()))
    assert float(table[table.abs().sum(dim=1) > 0].square().mean().sqrt()) - 0.05 < 1e-6
    assert not table[[0, 1, 11, 21]].any()


def test_products_restore_the_information_when_all_columns_are_kept() -> None:
    """With every positive direction the products are the nearest positive table, whatever the draw."""
    one, two = spectral_table(GRAPH, 22, seed=0), spectral_table(GRAPH, 22, seed=1)
    torch.testing.assert_close(one @ one.T, two @ two.T, rtol=1e-3, atol=1e-5)


def test_more_columns_than_values_are_zeros() -> None:
    table = spectral_table(GRAPH, 40)
    assert table.shape == (22, 40)
    assert not table[:, 22:].any()


@pytest.mark.parametrize("made", [(SASRec, SASRecConfig), (HSTU, HSTUConfig)])
def test_a_model_begins_with_them_and_with_blocks_that_do_nothing(made) -> None:
    kind, config = made
    model, batch = kind(config(d_model=8, n_heads=2, start="counts"), SHAPE).eval(), event_batch(4, SHAPE)
    drawn = model.table.detach().clone()
    model.start_from(spectral_table(GRAPH, 8))
    assert torch.equal(model.table[11], drawn[11])
    assert not torch.equal(model.table[5], drawn[5])
    width = batch.ids.shape[1]
    expected = model.norm(model.table[batch.ids[..., 0]] + model.places[:width])
    torch.testing.assert_close(model(batch), expected)
    model.train()
    model(batch).square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())
