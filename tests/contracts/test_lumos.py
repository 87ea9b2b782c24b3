"""LUMOS and its objective keep the public contracts, in every form a recipe can ask for."""

import pytest
import torch
from torch import nn

from habitus.models.heads import Head, n_outputs
from habitus.models.lumos import Lumos, LumosConfig, LumosShape
from habitus.testing.contracts import DayModelContract, ModelContract, ObjectiveContract, day_batch, take
from habitus.testing.threads import one_thread
from habitus.tokens.batch import DayBatch
from habitus.training.objectives.multi_task import MultiTask

__all__ = ["one_thread"]

SHAPE = LumosShape(n_activity=3, n_known=4, n_profile=2, history=40, horizon=5, outputs=(1, 3))
DAY_SHAPE = LumosShape(n_activity=3, n_known=4, n_profile=2, history=40, horizon=5, outputs=(1, 3), day_outputs=(1, 2))


class TestLumos(ModelContract, DayModelContract):
    def make(self, seed: int = 0) -> nn.Module:
        return Lumos(LumosConfig(size="tiny"), SHAPE, seed=seed)

    def batch(self, n: int, seed: int = 0) -> DayBatch:
        return day_batch(n, SHAPE, seed=seed)


class TestLumosByDay(TestLumos):
    def make(self, seed: int = 0) -> nn.Module:
        config = LumosConfig(size="tiny", future_self_attention=True, positions="tape")
        return Lumos(config, DAY_SHAPE, seed=seed)


class TestReference(TestLumos):
    def make(self, seed: int = 0) -> nn.Module:
        config = LumosConfig(size="reference", d_model=32, n_heads=4, d_ff=48, n_encoder=2, has_kind_vectors=True)
        return Lumos(config, SHAPE, seed=seed)


class TestLumosWithoutProfileAndCalendar(ModelContract):
    def make(self, seed: int = 0) -> nn.Module:
        return Lumos(LumosConfig(size="tiny"), LumosShape(3, 0, 0, 40, 5, (1,)), seed=seed)

    def batch(self, n: int, seed: int = 0) -> DayBatch:
        return day_batch(n, LumosShape(3, 0, 0, 40, 5), seed=seed)

    def test_every_weight_has_a_finite_gradient(self) -> None:
        pytest.skip("the weights of absent columns have none")


class TestMultiTask(ObjectiveContract):
    heads = (Head("binary", "buy", 5), Head("ziln", "spend", 5))
    day_heads = (Head("binary", "active", 1), Head("count", "visits", 1))

    def make(self) -> MultiTask:
        return MultiTask(self.heads, day_heads=self.day_heads)

    def model(self) -> nn.Module:
        outputs = tuple(n_outputs(h) for h in self.heads), tuple(n_outputs(h) for h in self.day_heads)
        return Lumos(LumosConfig(size="tiny"), LumosShape(3, 4, 2, 40, 5, *outputs))

    def batch(self, n: int, seed: int = 0) -> DayBatch:
        return day_batch(n, SHAPE, n_day_targets=2, seed=seed)


def test_another_future_leaves_the_encoded_past_bit_equal_and_changes_the_forecast() -> None:
    model, batch = Lumos(LumosConfig(size="tiny"), SHAPE).eval(), day_batch(6, SHAPE)
    other = batch.with_future(batch.known_future.flip(0) + 1)
    one, two = model.encode(batch), model.encode(other)
    for a, b in zip((one.h, *one.keys, *one.values), (two.h, *two.keys, *two.values)):
        assert torch.equal(a, b)
    assert not torch.allclose(model(batch).window, model(other).window)


def test_the_cache_gives_what_one_pass_gives() -> None:
    model, batch = Lumos(LumosConfig(size="tiny"), DAY_SHAPE).eval(), day_batch(6, SHAPE)
    other = batch.with_future(batch.known_future.flip(0))
    cache = model.encode(batch)
    for calendar in (batch, other, batch):
        cached, whole = model.decode(cache, calendar.known_future), model(calendar)
        torch.testing.assert_close(cached.window, whole.window, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(cached.day, whole.day, rtol=1e-5, atol=1e-5)


def test_the_same_calendar_twice_gives_the_same_bits() -> None:
    model, batch = Lumos(LumosConfig(size="tiny"), SHAPE).eval(), day_batch(6, SHAPE)
    cache = model.encode(batch)
    first, second = (model.decode(cache, batch.known_future.clone()).window for _ in range(2))
    assert torch.equal(first, second)


def test_future_days_see_each_other_only_when_asked() -> None:
    batch = day_batch(3, SHAPE)
    changed = batch.known_future.clone()
    changed[:, -1] += 1.0  # the last day differs; the first must not notice
    for is_on in (False, True):
        model = Lumos(LumosConfig(size="tiny", future_self_attention=is_on), DAY_SHAPE).eval()
        one, two = model(batch).day, model(batch.with_future(changed)).day
        assert torch.equal(one[:, 0], two[:, 0]) is not is_on
        assert not torch.equal(one[:, -1], two[:, -1])


def test_a_day_is_where_it_was_not_where_it_is_kept() -> None:
    """Renumbering kept days 0..S-1 would pass every shape test and destroy the gaps."""
    model, batch = Lumos(LumosConfig(size="tiny"), SHAPE).eval(), day_batch(4, SHAPE)
    renumbered = DayBatch(**{**vars(batch), "day": torch.arange(batch.day.shape[1]).expand_as(batch.day).contiguous()})
    assert not torch.allclose(model(batch).window, model(renumbered).window, atol=1e-5)


def test_rows_of_padding_alone_are_finite() -> None:
    model, batch = Lumos(LumosConfig(size="tiny"), SHAPE), day_batch(4, SHAPE)
    kind = batch.kind.clone()
    kind[1] = 0
    broken = DayBatch(**{**vars(batch), "kind": kind})
    output = model.eval()(broken).window
    assert bool(torch.isfinite(output).all())
    rest = torch.tensor([0, 2, 3])
    torch.testing.assert_close(output[rest], model(take(broken, rest)).window, rtol=1e-5, atol=1e-5)
    output.sum().backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters() if p.grad is not None)
