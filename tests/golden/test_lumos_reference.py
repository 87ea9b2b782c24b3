"""The reference form against one written out in plain matrix products, and first losses that must not move."""

import math

import pytest
import torch
from torch import Tensor

from habitus.models.heads import Head, n_outputs
from habitus.models.lumos import Lumos, LumosConfig, LumosShape
from habitus.testing.contracts import day_batch
from habitus.testing.threads import one_thread
from habitus.tokens.batch import DayBatch
from habitus.training.objectives.multi_task import MultiTask

__all__ = ["one_thread"]

SHAPE = LumosShape(n_activity=13, n_known=32, n_profile=9, history=60, horizon=7, outputs=(1,) * 5)
CONFIG = LumosConfig(size="reference", d_model=32, n_heads=4, d_ff=48)


class WrittenOut:
    """The published form, sample by sample, head by head, from a dictionary of weights."""

    def __init__(self, model: Lumos) -> None:
        self.w = {name: tensor.double() for name, tensor in model.state_dict().items()}
        self.config, self.shape = model.config, model.shape

    def __call__(self, batch: DayBatch) -> Tensor:
        return torch.stack([self.sample(batch, row) for row in range(len(batch))])

    def sample(self, batch: DayBatch, row: int) -> Tensor:
        kept = batch.kind[row] > 0
        day = batch.day[row][kept]
        activity = self.linear("activity", batch.activity[row][kept].double())
        known = self.linear("known", batch.known_past[row][kept].double())
        profile = self.linear("profile", batch.profile[row].double()).repeat(len(day), 1)
        h = torch.relu(self.linear("fuse", torch.cat([activity, profile, known], dim=1)))
        h = h + torch.stack([self.wave(int(d)) for d in day])
        for n in range(self.config.n_encoder):
            h = self.block(f"encoder.{n}", h, h)
        z = torch.relu(self.linear("ask", self.linear("known", batch.known_future[row].double())))
        z = z + torch.stack([self.wave(self.shape.history + f) for f in range(self.shape.horizon)])
        for n in range(self.config.n_decoder):
            z = self.block(f"decoder.{n}", z, h)
        return self.linear("readout.head", torch.relu(self.linear("readout.mix", z.reshape(-1))))

    def block(self, name: str, x: Tensor, memory: Tensor) -> Tensor:
        x = self.norm(f"{name}.around_attention.norm", x + self.attention(f"{name}.attention", x, memory))
        fed = self.linear(f"{name}.feed.fall", torch.relu(self.linear(f"{name}.feed.rise", x)))
        return self.norm(f"{name}.around_feed.norm", x + fed)

    def attention(self, name: str, x: Tensor, memory: Tensor) -> Tensor:
        d, width = self.config.d_model, self.config.d_model // self.config.n_heads
        query, both = self.linear(f"{name}.query", x), self.linear(f"{name}.key_value", memory)
        mixed = []
        for head in range(self.config.n_heads):
            part = slice(head * width, (head + 1) * width)
            key, value = both[:, part], both[:, d + head * width : d + (head + 1) * width]
            weight = torch.exp(query[:, part] @ key.T / math.sqrt(width))
            mixed.append(weight @ value / weight.sum(dim=1, keepdim=True))
        return self.linear(f"{name}.out", torch.cat(mixed, dim=1))

    def norm(self, name: str, x: Tensor) -> Tensor:
        centred = x - x.mean(dim=1, keepdim=True)
        scaled = centred / torch.sqrt(centred.square().mean(dim=1, keepdim=True) + 1e-5)
        return scaled * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def linear(self, name: str, x: Tensor) -> Tensor:
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def wave(self, position: int) -> Tensor:
        d = self.config.d_model
        angle = [position / 10_000 ** (2 * (i // 2) / d) for i in range(d)]
        pairs = [math.sin(a) if i % 2 == 0 else math.cos(a) for i, a in enumerate(angle)]
        return torch.tensor(pairs, dtype=torch.float64)


def test_the_reference_equals_the_written_out_form() -> None:
    model, batch = Lumos(CONFIG, SHAPE, seed=1).eval(), day_batch(5, SHAPE, n_days=15)
    with torch.no_grad():
        for weight in model.parameters():  # biases and norms start at 0 and 1: move them, or they prove nothing
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(2)) * 0.05)
        found = model(batch).window
    torch.testing.assert_close(found.double(), WrittenOut(model)(batch), rtol=1e-4, atol=1e-5)


def test_the_reference_in_double_equals_it_to_the_last_digits() -> None:
    model, batch = Lumos(CONFIG, SHAPE, seed=1).eval().double(), day_batch(5, SHAPE, n_days=15)
    names = ("activity", "known_past", "known_future", "profile")
    wide = DayBatch(**{**vars(batch), **{n: getattr(batch, n).double() for n in names}})
    model.waves = torch.stack([WrittenOut(model).wave(p) for p in range(67)])
    with torch.no_grad():
        torch.testing.assert_close(model(wide).window, WrittenOut(model)(batch), rtol=1e-12, atol=1e-13)


HEADS = (
    Head("binary", "buy", 28, base=(-0.7,)),
    Head("days", "visits", 28),
    Head("ziln", "spend", 28, location=3.0, scale=1.2),
    Head("hurdle", "basket", 28, location=2.0),
    Head("quantile", "fees", 28, location=1.0),
    Head("count", "items", 28, location=0.5),
    Head("masked_mse", "net", 28),
)
FIRST_LOSSES = {
    "tiny": [13.032137, 13.271667, 11.093515, 10.409344, 10.723272],
    "reference": [12.509020, 11.612982, 9.707320, 9.063385, 8.847556],
}


@pytest.mark.parametrize("size", FIRST_LOSSES)
def test_first_losses(size: str) -> None:
    """Five steps of AdamW without dropout. A change here is a change of numbers: say so in the changelog."""
    shape = LumosShape(13, 32, 9, 60, 28, tuple(n_outputs(h) for h in HEADS))
    small = {"d_model": 32, "n_heads": 4, "d_ff": 48} if size == "reference" else {}
    model = Lumos(LumosConfig(size=size, dropout=0.0, **small), shape, seed=0)
    objective = MultiTask(HEADS)
    optimiser = torch.optim.AdamW([*model.parameters(), *objective.parameters()], lr=1e-3)
    losses = []
    for step in range(5):
        loss = objective(model, day_batch(32, shape, n_targets=len(HEADS), seed=step))
        losses.append(loss.value.item())
        optimiser.zero_grad()
        loss.value.backward()
        optimiser.step()
        objective.after_step(step / 5)
    assert losses == pytest.approx(FIRST_LOSSES[size], rel=1e-4), losses
