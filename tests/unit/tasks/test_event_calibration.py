"""One temperature brings probabilities back that were made too sharp or too flat."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from habitus.models.popularity import Popularity, PopularityConfig
from habitus.tasks.event_calibration import fit_temperature, tempered
from habitus.tokens.event_loader import EventLoader, prepare_events
from habitus.tokens.event_split import EventSplit
from habitus.tokens.events import EventTokenConfig, fit_event_spec


class Bent(nn.Module):
    """A model whose log shares are multiplied."""

    def __init__(self, model, factor: float) -> None:
        super().__init__()
        self.model, self.factor = model, factor

    def scores_at(self, batch, row, place, field):
        return (self.factor * self.model.scores_at(batch, row, place, field)).log_softmax(dim=1)


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_a_bend_is_found_and_undone(make_store, shop, factor):
    split = EventSplit.parse({})
    store = make_store(shop)
    spec = fit_event_spec(store, EventTokenConfig.parse({"length": 16, "fields": ["type"]}), split)
    train = prepare_events(store, spec, split, "train")
    model = Popularity.counted(PopularityConfig.parse({"field": "type"}), spec.shape, EventLoader(train))
    found = fit_temperature([Bent(model, factor)], "type", train)
    assert found == pytest.approx(factor, rel=0.02)


def test_tempering_keeps_order_and_sum():
    share = torch.rand(5, 9).softmax(dim=1)
    for temperature in (0.3, 1.0, 4.0):
        found = tempered(share, temperature)
        torch.testing.assert_close(found.sum(dim=1), torch.ones(5))
        assert torch.equal(found.argsort(dim=1), share.argsort(dim=1))
