"""SASRec, GRU4Rec and HSTU keep the contract of event models; HSTU says when it reads the time of what it tells."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from habitus.core.errors import ConfigError
from habitus.models.gru4rec import GRU4Rec, GRU4RecConfig
from habitus.models.hstu import HSTU, HSTUConfig
from habitus.models.sasrec import SASRec, SASRecConfig
from habitus.testing.events import EventModelContract
from habitus.testing.threads import one_thread
from habitus.tokens.events import EventShape

__all__ = ["one_thread"]

SHAPE = EventShape((("type", 5), ("item", 30)), n_amounts=0, length=12)


class TestSASRec(EventModelContract):
    shape, field = SHAPE, "item"

    def make(self, seed: int = 0) -> nn.Module:
        return SASRec(SASRecConfig(d_model=16), SHAPE, seed=seed)


class TestSASRecGated(TestSASRec):
    field = "type"

    def make(self, seed: int = 0) -> nn.Module:
        return SASRec(SASRecConfig(d_model=16, block="gated", field="type", n_blocks=1), SHAPE, seed=seed)


class TestGRU4Rec(EventModelContract):
    shape, field = SHAPE, "item"

    def make(self, seed: int = 0) -> nn.Module:
        return GRU4Rec(GRU4RecConfig(d_model=16, n_layers=2), SHAPE, seed=seed)


class TestHSTU(EventModelContract):
    shape, field = SHAPE, "item"

    def make(self, seed: int = 0) -> nn.Module:
        return HSTU(HSTUConfig(d_model=16, n_heads=2), SHAPE, seed=seed)

    def test_a_hidden_instant_of_the_told_event_is_not_read(self) -> None:
        model, batch = self.make().eval(), self.batch(4)
        assert torch.equal(model(batch), model(replace(batch, next_time=batch.next_time * 0)))

    def test_a_known_instant_is_read_and_must_be_given(self) -> None:
        model, batch = HSTU(HSTUConfig(d_model=16, target_time="known"), SHAPE).eval(), self.batch(4)
        given = replace(batch, next_time=torch.where(batch.is_padding, 0, batch.time + 60))
        later = replace(given, next_time=torch.where(batch.is_padding, 0, batch.time + 600_000))
        assert not torch.equal(model(given), model(later))
        with pytest.raises(ConfigError, match="instant"):
            model(replace(batch, next_time=batch.next_time * 0))

    def test_later_events_change_nothing_with_a_known_instant(self) -> None:
        model, batch = HSTU(HSTUConfig(d_model=16, target_time="known"), SHAPE).eval(), self.batch(4)
        batch = replace(batch, next_time=torch.where(batch.is_padding, 0, batch.time + 60))
        changed = replace(batch, ids=torch.where(torch.arange(batch.ids.shape[1])[:, None] > 5, 2, batch.ids))
        assert torch.equal(model(batch)[:, :6], model(changed)[:, :6])

    def test_time_matters(self) -> None:
        model, batch = self.make().eval(), self.batch(4)
        assert not torch.equal(model(batch), model(replace(batch, time=batch.time * 0)))


@pytest.mark.parametrize("model", [SASRec, GRU4Rec, HSTU])
def test_a_field_that_is_not_predicted_is_refused(model: type) -> None:
    made = model(model.Config(d_model=16), SHAPE)
    with pytest.raises(ConfigError, match="'item'"):
        made.output("type")
    with pytest.raises(ConfigError, match="itm"):
        model(model.Config(d_model=16, field="itm"), SHAPE)


@pytest.mark.parametrize("config", [SASRecConfig, HSTUConfig])
def test_heads_divide_the_width(config: type) -> None:
    with pytest.raises(ConfigError, match="multiple"):
        config.parse({"d_model": 10, "n_heads": 3})
