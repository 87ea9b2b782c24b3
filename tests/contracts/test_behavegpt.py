"""BehaveGPT keeps the contract of event models; the joint objective that of event objectives."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from habitus.models.behavegpt import BehaveGPT, BehaveGPTConfig
from habitus.testing.events import EventModelContract, EventObjectiveContract
from habitus.testing.threads import one_thread
from habitus.tokens.batch import EventBatch
from habitus.tokens.events import EventShape
from habitus.tokens.gaps import GapBins
from habitus.training.objectives.joint import JointEvents
from habitus.training.objectives.robust import RobustConfig

__all__ = ["one_thread"]

FIELDS = (("gap", 7), ("weekday", 9), ("slot", 50), ("type", 6), ("item", 9), ("spend", 6))


class TestJointForm(EventModelContract):
    shape, field = EventShape(FIELDS, 1, 12), "type"

    def make(self, seed: int = 0) -> BehaveGPT:
        config = BehaveGPTConfig(size="tiny", n_blocks=2, dropout=0.0, window=5, plain=("type", "item"))
        return BehaveGPT(config, self.shape, seed=seed)

    def extra(self, model: nn.Module, hidden: Tensor, batch: EventBatch) -> Tensor:
        assert isinstance(model, BehaveGPT)
        u, asked = hidden, model.query(hidden, "item").square().sum()
        for name in model.links:
            asked = asked + model.chain_logits(u, name)[..., 2:].square().sum()
            u = model.chain_tell(u, name, batch.next_ids) if name != model.links[-1] else u
        return asked


class TestPaperForm(EventModelContract):
    shape, field = EventShape((("weekday", 9), ("slot", 50), ("place", 19), ("type", 6)), 0, 12), "type"

    def make(self, seed: int = 0) -> BehaveGPT:
        return BehaveGPT(BehaveGPTConfig(size="tiny", form="paper", n_blocks=2, dropout=0.0), self.shape, seed=seed)


class TestJointEvents(EventObjectiveContract):
    shape = EventShape(FIELDS, 1, 12)

    def model(self) -> BehaveGPT:
        return BehaveGPT(BehaveGPTConfig(size="tiny", n_blocks=2), self.shape)

    def make(self) -> JointEvents:
        counts = {name: torch.arange(n).float() for name, n in FIELDS}
        gaps = GapBins.of([1, 60, 3600, 86_400, 864_000])
        robust = RobustConfig(name="box_dro", warm_up=0.0)
        return JointEvents(("gap", "type", "item", "spend"), ("type",), counts, gaps, robust)
