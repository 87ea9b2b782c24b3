"""Caser keeps the contract of event models, and reads its window and nothing before it."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from habitus.core.errors import ConfigError
from habitus.models.caser import Caser, CaserConfig
from habitus.testing.events import EventModelContract
from habitus.testing.threads import one_thread
from habitus.tokens.events import EventShape

__all__ = ["one_thread"]

SHAPE = EventShape((("type", 5), ("item", 30)), n_amounts=0, length=12)


class TestCaser(EventModelContract):
    shape, field = SHAPE, "item"

    def make(self, seed: int = 0) -> nn.Module:
        return Caser(CaserConfig(d_model=16, window=3), SHAPE, seed=seed)

    def test_events_before_the_window_are_not_read(self) -> None:
        model, batch = self.make().eval(), self.batch(4)
        early = torch.arange(batch.ids.shape[1]) < 3
        changed = replace(batch, ids=torch.where(early[:, None], 2, batch.ids))
        one, two = model(batch), model(changed)
        torch.testing.assert_close(one[:, 5:], two[:, 5:])
        assert not torch.equal(one[:, 4], two[:, 4])

    def test_a_position_is_what_the_filters_say_of_its_window_alone(self) -> None:
        model, batch = self.make().eval(), self.batch(3)
        assert isinstance(model, Caser)
        x = F.embedding(batch.ids[..., 1], model.table)[:, 4:7].transpose(1, 2)
        wide = [F.relu(conv(x)).amax(dim=2) for conv in model.wide]
        tall = torch.einsum("bdl,fl->bfd", x, model.tall).flatten(1)
        expected = F.relu(model.mix(torch.cat([*wide, tall], dim=1)))
        torch.testing.assert_close(model(batch)[:, 6], expected)


def test_a_field_that_is_not_predicted_is_refused() -> None:
    with pytest.raises(ConfigError, match="'item'"):
        Caser(CaserConfig(), SHAPE).output("type")
