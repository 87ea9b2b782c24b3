"""Contracts that every model and objective keeps. Subclass one, say how to make yours, and pytest does the rest.

class TestMine(ModelContract, DayModelContract):
    def make(self, seed=0):
        return Mine(MineConfig(size="tiny"), SHAPE, seed=seed)

    def batch(self, n, seed=0):
        return day_batch(n, SHAPE, seed=seed)
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from habitus.tokens.batch import DayBatch, Kind
from habitus.training.objectives import Loss, Objective


class DayShape(Protocol):
    """The widths and lengths that a batch of user-days has."""

    n_activity: int
    n_known: int
    n_profile: int
    history: int
    horizon: int


def day_batch(
    n: int, shape: DayShape, *, n_targets: int = 2, n_day_targets: int = 0, n_days: int = 12, seed: int = 0
) -> DayBatch:
    """Make n random samples of at most `n_days` kept days; the cut-off day is always kept. Targets are 0 or 1.

    >>> from habitus.models.lumos import LumosShape
    >>> day_batch(3, LumosShape(2, 4, 1, history=30, horizon=7)).known_future.shape
    torch.Size([3, 7, 4])
    """
    draw = torch.Generator().manual_seed(seed)
    n_days = min(n_days, shape.history)
    length = torch.randint(1, n_days + 1, (n,), generator=draw)
    order = torch.rand(n, shape.history - 1, generator=draw).argsort(dim=1)[:, : n_days - 1]
    day = torch.cat([order, torch.full((n, 1), shape.history - 1)], dim=1)
    column = torch.arange(n_days)
    is_kept = column < length[:, None]
    day = torch.where(is_kept, day.flip(1), shape.history).sort(dim=1).values.where(is_kept, 0)
    kind = torch.randint(int(Kind.INACTIVE), int(Kind.ACTIVE) + 1, day.shape, generator=draw)
    is_start = (torch.rand(n, generator=draw) < 0.5) & (length > 1)
    kind[:, 0] = torch.where(is_start, int(Kind.START), kind[:, 0])
    kind = kind.where(is_kept, int(Kind.PADDING))
    activity = torch.randn(n, n_days, shape.n_activity, generator=draw) * (kind == Kind.ACTIVE)[..., None]
    past = torch.randn(n, n_days, shape.n_known, generator=draw) * is_kept[..., None]
    return DayBatch(
        activity=activity,
        day=day,
        kind=kind,
        known_past=past,
        known_future=torch.randn(n, shape.horizon, shape.n_known, generator=draw),
        profile=torch.randn(n, shape.n_profile, generator=draw),
        target=torch.randint(0, 2, (n, n_targets), generator=draw).float(),
        is_observed=torch.rand(n, n_targets, generator=draw) < 0.8,
        day_target=torch.randint(0, 2, (n, shape.horizon, n_day_targets), generator=draw).float(),
        day_is_observed=torch.rand(n, shape.horizon, n_day_targets, generator=draw) < 0.8,
        sample=torch.arange(n),
    )


def take(batch: Any, rows: Tensor) -> Any:
    """Give the chosen rows of a batch that is a dataclass of tensors with samples on the first axis."""
    return type(batch)(*(getattr(batch, f.name)[rows] for f in fields(batch)))


def tensors_of(output: Any) -> list[Tensor]:
    """List the tensors of an output: a tensor, or a dataclass, tuple or list of them."""
    if isinstance(output, Tensor):
        return [output]
    if is_dataclass(output):
        return [t for f in fields(output) for t in tensors_of(getattr(output, f.name))]
    return [t for part in output or () for t in tensors_of(part)]


def assert_close(found: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    """Compare lists of tensors; an empty list is an error, since it would prove nothing."""
    assert found
    assert len(found) == len(expected)
    for one, other in zip(found, expected):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


class ModelContract:
    """What holds for every model: tensors in, tensors out, samples independent of each other."""

    tolerance = 1e-5

    def make(self, seed: int = 0) -> nn.Module:
        """Give a new small model with weights drawn from `seed`."""
        raise NotImplementedError

    def batch(self, n: int, seed: int = 0) -> Any:
        """Give a batch of n samples that are not alike."""
        raise NotImplementedError

    def run(self, model: nn.Module, batch: Any) -> list[Tensor]:
        """Outputs in evaluation mode, samples on the first axis of each."""
        with torch.no_grad():
            return tensors_of(model.eval()(batch))

    def test_batches_of_0_1_and_many_are_finite(self) -> None:
        model = self.make()
        for n in (0, 1, 5):
            outputs = self.run(model, self.batch(n))
            assert outputs
            assert all(t.shape[0] == n for t in outputs)
            assert all(bool(torch.isfinite(t).all()) for t in outputs)

    def test_shuffled_samples_give_shuffled_outputs(self) -> None:
        model, batch = self.make(), self.batch(6)
        order = torch.tensor([4, 2, 0, 5, 1, 3])
        expected = [t[order] for t in self.run(model, batch)]
        assert_close(self.run(model, take(batch, order)), expected, self.tolerance)

    def test_a_sample_alone_gives_what_it_gives_in_company(self) -> None:
        model, batch = self.make(), self.batch(4)
        together = self.run(model, batch)
        for row in range(4):
            alone = self.run(model, take(batch, torch.tensor([row])))
            assert_close(alone, [t[row : row + 1] for t in together], self.tolerance)

    def test_outputs_depend_on_the_inputs(self) -> None:
        model = self.make()
        assert not all(
            torch.equal(a, b) for a, b in zip(self.run(model, self.batch(3)), self.run(model, self.batch(3, 1)))
        )

    def test_saved_and_loaded_weights_give_equal_outputs(self) -> None:
        from safetensors.torch import load, save

        model, other, batch = self.make(0), self.make(1), self.batch(3)
        assert not all(torch.equal(a, b) for a, b in zip(self.run(model, batch), self.run(other, batch)))
        other.load_state_dict(load(save({n: t.contiguous() for n, t in model.state_dict().items()})))
        assert all(torch.equal(a, b) for a, b in zip(self.run(model, batch), self.run(other, batch)))

    def test_weights_come_from_the_seed_alone(self) -> None:
        before = torch.get_rng_state()
        one, two = self.make(3), self.make(3)
        assert torch.equal(before, torch.get_rng_state())
        assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values()))

    def test_every_weight_has_a_finite_gradient(self) -> None:
        model, batch = self.make().train(), self.batch(8)
        sum(t.square().sum() for t in tensors_of(model(batch))).backward()  # pyright: ignore
        for name, weight in model.named_parameters():
            assert weight.grad is not None, name
            assert bool(torch.isfinite(weight.grad).all()), name
            assert bool((weight.grad != 0).any()), name


class DayModelContract:
    """What holds for every model of user-days, beside `ModelContract`."""

    tolerance = 1e-5

    def make(self, seed: int = 0) -> nn.Module:
        raise NotImplementedError

    def batch(self, n: int, seed: int = 0) -> DayBatch:
        raise NotImplementedError

    def test_padding_changes_neither_values_nor_gradients(self) -> None:
        batch, grown = self.batch(4), pad_days(self.batch(4), 5)
        outputs, gradients = self._run(batch)
        grown_outputs, grown_gradients = self._run(grown)
        assert_close(grown_outputs, outputs, self.tolerance)
        assert_close(grown_gradients, gradients, 10 * self.tolerance)

    def test_dropped_days_equal_masked_days(self) -> None:
        batch = self.batch(6, seed=1)
        is_masked = (torch.arange(batch.kind.shape[1]) % 3 == 1) & ~batch.is_padding  # any set will do
        is_masked &= ((~batch.is_padding) & ~is_masked).any(dim=1, keepdim=True)
        assert bool(is_masked.any())
        masked = replace(batch, kind=batch.kind.where(~is_masked, int(Kind.PADDING)))
        order = is_masked.to(torch.uint8).argsort(dim=1, stable=True)  # masked days go last, then are cut off
        width = int((~masked.is_padding).sum(dim=1).max())
        dropped = gather_days(masked, order)
        dropped = gather_days(dropped, dropped.is_padding.to(torch.uint8).argsort(dim=1, stable=True)[:, :width])
        for one, other in zip(self._run(masked), self._run(dropped)):
            assert_close(other, one, 10 * self.tolerance)

    def test_days_in_another_order_are_the_same_days(self) -> None:
        batch = self.batch(3)
        turned = gather_days(batch, torch.arange(batch.kind.shape[1]).flip(0).expand(3, -1))
        assert_close(self._run(turned)[0], self._run(batch)[0], self.tolerance)

    def test_silent_histories_are_finite_and_differ_from_padding(self) -> None:
        batch = self.batch(4)
        kinds = [batch.kind.where(batch.is_padding, int(kind)) for kind in (Kind.INACTIVE, Kind.START)]
        outputs = [self._run(replace(batch, kind=k, activity=batch.activity * 0))[0] for k in kinds]
        assert all(bool(torch.isfinite(t).all()) for output in outputs for t in output)
        assert not any(torch.equal(a, b) for a, b in zip(*outputs))

    def _run(self, batch: DayBatch) -> tuple[list[Tensor], list[Tensor]]:
        """Outputs and gradients of every weight, without dropout."""
        model = self.make().eval()
        outputs = tensors_of(model(batch))
        sum((t * torch.linspace(-1, 1, t.numel()).view_as(t)).sum() for t in outputs).backward()  # pyright: ignore
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        return [t.detach() for t in outputs], gradients


def pad_days(batch: DayBatch, n: int) -> DayBatch:
    """Add n padding days to every row, with numbers in them that must not matter."""
    grown = {name: F.pad(getattr(batch, name), (0, 0, 0, n), value=7.0) for name in ("activity", "known_past")}
    return replace(batch, day=F.pad(batch.day, (0, n)), kind=F.pad(batch.kind, (0, n)), **grown)


def gather_days(batch: DayBatch, order: Tensor) -> DayBatch:
    """Take history positions `order` (B S') of every row."""
    wide = {name: getattr(batch, name) for name in ("activity", "known_past")}
    taken = {n: t.gather(1, order[..., None].expand(*order.shape, t.shape[-1])) for n, t in wide.items()}
    return replace(batch, day=batch.day.gather(1, order), kind=batch.kind.gather(1, order), **taken)


class ObjectiveContract:
    """What holds for every objective: a scalar to minimise, and terms that add up over rows."""

    tolerance = 1e-4

    def make(self) -> Objective:
        """Give a new objective."""
        raise NotImplementedError

    def model(self) -> nn.Module:
        """Give a model it fits."""
        raise NotImplementedError

    def batch(self, n: int, seed: int = 0) -> Any:
        """Give a batch of n samples."""
        raise NotImplementedError

    def run(self, objective: Objective, batch: Any, model: nn.Module | None = None) -> Loss:
        """The loss without dropout."""
        return objective((model or self.model()).eval(), batch)

    def test_the_loss_is_a_finite_scalar_with_gradients(self) -> None:
        model = self.model()
        loss = self.run(self.make(), self.batch(6), model)
        assert loss.value.ndim == 0
        assert bool(torch.isfinite(loss.value))
        loss.value.backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        assert gradients
        assert all(bool(torch.isfinite(g).all()) for g in gradients)

    def test_terms_have_names_and_no_gradient(self) -> None:
        objective = self.make()
        loss = self.run(objective, self.batch(6))
        assert len(objective.names) == len(loss.sums) == len(loss.counts) > 0
        assert not loss.sums.requires_grad

    def test_a_batch_of_no_rows_is_finite(self) -> None:
        model, objective = self.model(), self.make()
        loss = self.run(objective, self.batch(0), model)
        assert bool(torch.isfinite(loss.value))
        assert not loss.counts.any()
        if loss.value.requires_grad:
            loss.value.backward()
        weights = [*model.parameters(), *objective.parameters()]
        assert all(bool(torch.isfinite(p.grad).all()) for p in weights if p.grad is not None)

    def test_the_order_of_rows_does_not_matter(self) -> None:
        objective, batch = self.make(), self.batch(6)
        one = self.run(objective, batch)
        two = self.run(objective, take(batch, torch.tensor([5, 3, 1, 0, 2, 4])))
        assert_close([two.value, two.sums], [one.value, one.sums], self.tolerance)

    def test_sums_add_up_over_batches(self) -> None:
        objective, batch = self.make().eval(), self.batch(6)
        whole = self.run(objective, batch)
        parts = [self.run(objective, take(batch, torch.tensor(rows))) for rows in ([0, 1], [2, 3, 4, 5])]
        assert_close([parts[0].sums + parts[1].sums], [whole.sums], self.tolerance)
        assert torch.equal(parts[0].counts + parts[1].counts, whole.counts)

    def test_its_state_survives_saving(self) -> None:
        one, two, batch = self.make(), self.make(), self.batch(6)
        optimiser = torch.optim.SGD([p for p in one.parameters() if p.requires_grad] or [torch.zeros(1)], lr=0.1)
        self.run(one.train(), batch).value.backward()
        optimiser.step()
        one.after_step(0.5)
        two.load_state_dict(one.state_dict())
        assert torch.equal(self.run(two, batch).value, self.run(one, batch).value)
