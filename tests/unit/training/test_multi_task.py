"""The sum over targets: masks, uncertainty weights, base rates."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from habitus.core.errors import ConfigError, TargetError
from habitus.models.heads import Head, fit_head, loss, n_outputs
from habitus.models.lumos import LumosOutput, LumosShape
from habitus.testing.contracts import day_batch
from habitus.tokens.batch import DayBatch
from habitus.training.objectives import ratios, score
from habitus.training.objectives.multi_task import MultiTask, balanced

SHAPE = LumosShape(3, 4, 2, 40, 5)
HEADS = (Head("binary", "buy", 5), Head("ziln", "spend", 5, location=1.0), Head("masked_mse", "net", 5))
DAY_HEADS = (Head("binary", "active", 1),)


class Fixed(nn.Module):
    """A model that answers with its own free numbers."""

    def __init__(self, n: int, n_window: int, n_day: int) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        self.window = nn.Parameter(torch.randn(n, n_window, generator=draw))
        self.day = nn.Parameter(torch.randn(n, 5, n_day, generator=draw))

    def forward(self, batch: DayBatch) -> LumosOutput:
        return LumosOutput(self.window, self.day if self.day.shape[-1] else None)


@pytest.fixture
def batch() -> DayBatch:
    made = day_batch(6, SHAPE, n_targets=3, n_day_targets=1)
    spend = torch.tensor([0.0, 2.0, 0.0, 7.5, 1.0, 0.0])
    net = torch.tensor([-3.0, 0.0, 4.0, 0.0, 9.0, 0.0])
    target = torch.stack([made.target[:, 0], spend, net], dim=1)
    is_observed = torch.tensor([[True, True, True], [True, False, True], [False, True, True]]).repeat(2, 1)
    return replace(made, target=target, is_observed=is_observed)


@pytest.fixture
def model() -> Fixed:
    return Fixed(6, sum(n_outputs(h) for h in HEADS), 1)


def by_hand(batch: DayBatch, model: Fixed) -> list[float]:
    """Mean loss per target, row by row."""
    means, start = [], 0
    for k, head in enumerate(HEADS):
        rows = [
            i for i in range(6) if batch.is_observed[i, k] and (head.kind != "masked_mse" or batch.target[i, k] != 0)
        ]
        part = slice(start, start + n_outputs(head))
        means.append(
            sum(float(loss(head, model.window[i, part], batch.target[i, k]).detach()) for i in rows) / len(rows)
        )
        start += n_outputs(head)
    days = [(i, f) for i in range(6) for f in range(5) if batch.day_is_observed[i, f, 0]]
    losses = [float(loss(DAY_HEADS[0], model.day[i, f], batch.day_target[i, f, 0]).detach()) for i, f in days]
    return [*means, sum(losses) / len(losses)]


@pytest.mark.parametrize("weighting", ["uncertainty", "sum"])
def test_at_the_start_it_is_the_sum_of_the_masked_means(weighting: str, batch: DayBatch, model: Fixed) -> None:
    objective = MultiTask(HEADS, weighting, DAY_HEADS)  # pyright: ignore
    found, wanted = objective(model, batch), by_hand(batch, model)
    assert objective.names == ("buy", "spend", "net", "active by day")
    torch.testing.assert_close(found.means, torch.tensor(wanted))
    assert float(found.value.detach()) == pytest.approx(wanted[0] + wanted[1] + wanted[2] / 2 + wanted[3], rel=1e-5)


def test_uncertainty_weights_follow_the_formula(batch: DayBatch, model: Fixed) -> None:
    objective = MultiTask(HEADS, day_heads=DAY_HEADS)
    s = [0.7, -1.2, 0.3, 2.0]
    with torch.no_grad():
        objective.log_variance.copy_(torch.tensor(s))
    r = [0, 0, 1, 0]
    wanted = sum(m / ((1 + r) * math.exp(s)) + s / 2 for m, r, s in zip(by_hand(batch, model), r, s))
    assert float(objective(model, batch).value.detach()) == pytest.approx(wanted, rel=1e-5)


def test_sum_learns_no_weights(batch: DayBatch, model: Fixed) -> None:
    objective = MultiTask(HEADS, "sum", DAY_HEADS)
    objective(model, batch).value.backward()
    assert objective.log_variance.grad is None


def test_a_target_without_usable_rows_contributes_neither_term(batch: DayBatch, model: Fixed) -> None:
    objective = MultiTask(HEADS, day_heads=DAY_HEADS)
    with torch.no_grad():
        objective.log_variance.fill_(0.5)
    hidden = batch.is_observed.clone()
    hidden[:, 1] = False
    found = objective(model, replace(batch, is_observed=hidden))
    found.value.backward()
    assert objective.log_variance.grad is not None
    assert float(objective.log_variance.grad[1]) == 0.0
    assert bool((objective.log_variance.grad[[0, 2, 3]] != 0).all())
    assert not model.window.grad[:, 1:4].any()  # pyright: ignore
    means = by_hand(batch, model)
    wanted = sum(means[k] / ((2 if k == 2 else 1) * math.exp(0.5)) + 0.25 for k in (0, 2, 3))
    assert float(found.value.detach()) == pytest.approx(wanted, rel=1e-5)
    assert math.isnan(found.means[1])


def test_unobserved_values_leave_no_trace_even_when_they_are_nan(batch: DayBatch, model: Fixed) -> None:
    objective = MultiTask(HEADS, day_heads=DAY_HEADS).eval()
    target = batch.target.where(batch.is_observed, torch.nan)
    one, two = objective(model, batch), objective(model, replace(batch, target=target))
    assert torch.equal(one.value, two.value)
    two.value.backward()
    assert bool(torch.isfinite(model.window.grad).all())  # pyright: ignore


def test_weights_run_no_further_than_five(batch: DayBatch, model: Fixed) -> None:
    objective = MultiTask(HEADS, day_heads=DAY_HEADS)
    with torch.no_grad():
        objective.log_variance.copy_(torch.tensor([-9.0, 9.0, 0.0, 1.0]))
    objective.after_step(0.1)
    assert objective.log_variance.tolist() == [-5.0, 5.0, 0.0, 1.0]


def test_weights_of_a_steady_loss_settle_at_their_optimum(model: Fixed, batch: DayBatch) -> None:
    """d/ds (L e^-s + s/2) = 0 at s = ln 2L."""
    objective = MultiTask(HEADS, day_heads=DAY_HEADS)
    optimiser = torch.optim.SGD([objective.log_variance], lr=1.0)
    for _ in range(40):
        optimiser.zero_grad()
        objective(model, batch).value.backward()
        optimiser.step()
    wanted = [math.log(2 * m / (2 if k == 2 else 1)) for k, m in enumerate(by_hand(batch, model))]
    torch.testing.assert_close(objective.log_variance.detach(), torch.tensor(wanted), rtol=1e-3, atol=1e-3)


def test_the_base_is_the_loss_of_outputs_of_zero() -> None:
    values = torch.tensor([0.0, 0.0, 3.0, 5.0, 0.0, 1.0])
    heads = (fit_head("ziln", "spend", 5, values),)
    made = day_batch(6, SHAPE, n_targets=1)
    made = replace(made, target=values[:, None], is_observed=torch.ones(6, 1, dtype=torch.bool))
    model = Fixed(6, 3, 0)
    with torch.no_grad():
        model.window.zero_()
    found = MultiTask(heads).eval()(model, made)
    torch.testing.assert_close(found.base, found.sums)
    assert score(found.sums, found.counts, found.base) == pytest.approx(1.0)


def test_ratios_skip_terms_without_rows() -> None:
    sums, counts, base = torch.tensor([1.0, 0.0]), torch.tensor([4, 0]), torch.tensor([2.0, 0.0])
    assert ratios(sums, counts, base)[0] == 0.5
    assert score(sums, counts, base) == 0.5
    assert score(sums, counts, None) == 0.25


def test_validation_values_are_checked(batch: DayBatch, model: Fixed) -> None:
    target = batch.target.clone()
    target[3, 1] = -2.0
    wrong = replace(batch, target=target, sample=torch.arange(100, 106))
    with pytest.raises(TargetError, match="target spend, row 103"):
        MultiTask(HEADS, day_heads=DAY_HEADS).eval()(model, wrong)


def test_names_must_differ_and_exist() -> None:
    for heads in ([], [HEADS[0], HEADS[0]]):
        with pytest.raises(ConfigError, match="names that differ"):
            MultiTask(heads)


def test_balanced_starts_give_every_base_rate_predictor_the_same_say():
    draw = np.random.default_rng(0)
    values = [(draw.random(4000) < 0.01).astype(float), draw.integers(0, 2, 4000).astype(float)]
    heads = [fit_head("binary", name, 28, y) for name, y in zip("ab", values)]
    start = balanced(heads, values)
    assert start[0] < start[1]
    for head, y, s in zip(heads, values, start):
        base = loss(head, torch.zeros(len(y), 1), torch.as_tensor(y, dtype=torch.float32)).mean()
        assert float(base) / np.exp(s) == pytest.approx(0.5, rel=1e-4)
    assert MultiTask(heads, start=start).log_variance.tolist() == pytest.approx(start)
    with pytest.raises(ConfigError, match="2 starts"):
        MultiTask(heads, start=[0.0])
