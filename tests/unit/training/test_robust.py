"""Robust losses: exact inner maximum, equality with plain cross-entropy at the neutral knob, state."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import linprog

from habitus.training.objectives.robust import (
    Robust,
    RobustConfig,
    box,
    box_maximum,
    class_weights,
    loss,
    post_hoc,
    start,
    update,
)

COUNTS = torch.tensor([600.0, 250.0, 90.0, 50.0, 9.0, 1.0])
NEUTRAL = [
    {"name": "erm"},
    {"name": "class_balanced", "beta": 0.0},
    {"name": "logit_adjusted", "tau": 0.0},
    {"name": "focal", "focus": 0.0},
    {"name": "group_dro", "eta": 0.0},
    {"name": "kl_dro", "temperature": 1e9},
    {"name": "kl_dro", "temperature": 1e9, "level": "sample"},
    {"name": "box_dro", "kappa": 0.0},
]
ACTIVE = [
    {"name": "class_balanced"},
    {"name": "logit_adjusted"},
    {"name": "focal"},
    {"name": "group_dro", "eta": 1.0},
    {"name": "kl_dro"},
    {"name": "kl_dro", "level": "sample"},
    {"name": "box_dro", "kappa": 1.0},
]


def rows(n: int = 64, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(n, 6, generator=draw), torch.randint(0, 6, (n,), generator=draw)


def moved(config: RobustConfig, steps: int = 3):
    """A state after some steps."""
    state = start(config, COUNTS)
    for step in range(steps):
        logits, target = rows(seed=step + 10)
        ce = F.cross_entropy(logits, target, reduction="none")
        sums, count = torch.zeros(6).index_add_(0, target, ce), torch.bincount(target, minlength=6).float()
        state = update(config, state, sums, count)
    return state


@pytest.mark.parametrize("knobs", NEUTRAL, ids=lambda k: "-".join(map(str, k.values())))
def test_at_its_neutral_knob_each_is_plain_cross_entropy(knobs):
    config = RobustConfig(**knobs)
    logits, target = rows()
    one, two = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    found = loss(config, one, target, moved(config))
    expected = F.cross_entropy(two, target)
    found.value.backward()
    expected.backward()
    torch.testing.assert_close(found.value, expected)
    torch.testing.assert_close(one.grad, two.grad)


@pytest.mark.parametrize("knobs", ACTIVE, ids=lambda k: "-".join(map(str, k.values())))
def test_at_another_knob_each_differs_and_shows_plain_cross_entropy_beside(knobs):
    config = RobustConfig(**knobs)
    logits, target = rows()
    found = loss(config, logits, target, moved(config))
    plain = F.cross_entropy(logits, target, reduction="none")
    torch.testing.assert_close(found.ce, plain)
    assert abs(float(found.value - plain.mean())) > 1e-3


def test_the_inner_maximum_agrees_with_a_linear_programme():
    draw = np.random.default_rng(0)
    for _ in range(100):
        n_classes = int(draw.integers(2, 40))
        counts = torch.from_numpy(np.ceil(1000 / np.arange(1, n_classes + 1) ** draw.uniform(0, 2)))
        config = RobustConfig(name="box_dro", kappa=draw.uniform(0, 2), gamma=draw.uniform(0, 1))
        mean = torch.from_numpy(draw.exponential(2, n_classes).round(int(draw.integers(0, 3))))  # with ties
        p, (low, high) = counts / counts.sum(), box(counts, config)
        q = box_maximum(mean, p, low, high)
        solved = linprog(
            -mean.numpy(), A_eq=np.ones((1, n_classes)), b_eq=[1.0], bounds=np.stack([low.numpy(), high.numpy()], 1)
        )
        assert abs(float(q.sum()) - 1) < 1e-12
        assert bool(((q >= low - 1e-15) & (q <= high + 1e-15)).all())
        assert abs(float((q * mean).sum()) + solved.fun) < 1e-9


def test_two_classes_by_hand():
    # p = (.9, .1), kappa .3, gamma .5: r = (.3, .3 * 3 = .9); class 1 is worse and takes .19 if class 0 can give .09
    config = RobustConfig(name="box_dro", kappa=0.3, gamma=0.5)
    counts = torch.tensor([90.0, 10.0])
    low, high = box(counts, config)
    torch.testing.assert_close(low, torch.tensor([0.63, 0.05], dtype=torch.float64))
    torch.testing.assert_close(high, torch.tensor([1.17, 0.19], dtype=torch.float64))
    q = box_maximum(torch.tensor([0.1, 2.0]).double(), counts.double() / 100, low, high)
    torch.testing.assert_close(q, torch.tensor([0.81, 0.19], dtype=torch.float64))


def test_the_order_of_classes_does_not_matter():
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    for knobs in ACTIVE:
        config = RobustConfig(**knobs)
        state = moved(config)
        turned = type(state)(*(v[order] if v.ndim else v for v in vars(state).values()))
        torch.testing.assert_close(class_weights(config, turned), class_weights(config, state)[order])
    tied = torch.tensor([1.0, 1.0, 1.0]).double()
    p = torch.tensor([0.2, 0.3, 0.5]).double()
    torch.testing.assert_close(box_maximum(tied, p, 0.5 * p, 2 * p), p)


@pytest.mark.parametrize("knobs", [k for k in ACTIVE if k.get("level") != "sample"], ids=lambda k: k["name"])
def test_class_weights_have_mean_one_and_leave_unseen_classes_alone(knobs):
    config = RobustConfig(**knobs)
    counts = torch.cat([COUNTS, torch.zeros(2)])
    state = start(config, counts)
    state = update(config, state, counts * torch.arange(8), counts)
    weight = class_weights(config, state)
    assert float((counts / counts.sum() * weight).sum()) == pytest.approx(1, abs=1e-5)
    assert weight[6:].tolist() == [1, 1]
    if config.name == "box_dro":
        assert float(weight.min()) >= 0.5 - 1e-6
        assert float(weight.max()) <= 6 + 1e-6


def test_a_running_loss_moves_per_row_and_begins_at_the_first_batch():
    config = RobustConfig(name="box_dro", decay=0.5)
    state = start(config, torch.tensor([4.0, 4.0, 4.0]))
    state = update(config, state, torch.tensor([6.0, 2.0, 0.0]), torch.tensor([2.0, 2.0, 0.0]))
    torch.testing.assert_close(state.mean, torch.tensor([3.0, 1.0, 2.0]))  # the third: mean of the batch
    state = update(config, state, torch.tensor([2.0, 0.0, 9.0]), torch.tensor([2.0, 0.0, 1.0]))
    torch.testing.assert_close(state.mean, torch.tensor([3.0 + 0.75 * (1 - 3), 1.0, 9.0]))  # the third: its own first
    same = update(config, state, torch.zeros(3), torch.zeros(3))
    assert torch.equal(same.mean, state.mean)


def test_post_hoc_undoes_what_logit_adjustment_adds():
    logits, target = rows()
    config = RobustConfig(name="logit_adjusted", tau=0.7)
    adjusted = loss(config, post_hoc(logits, COUNTS, 0.7), target, start(config, COUNTS))
    torch.testing.assert_close(adjusted.value, F.cross_entropy(logits, target))


def test_the_module_warms_up_saves_its_state_and_is_plain_when_validating():
    config = RobustConfig(name="box_dro", kappa=1.0, warm_up=0.1)
    robust, other = Robust(config, COUNTS), Robust(config, COUNTS)
    logits, target = rows()
    plain = F.cross_entropy(logits, target)
    torch.testing.assert_close(robust(logits, target).value, plain)
    robust.after_step(0.05)
    torch.testing.assert_close(robust(logits, target).value, plain)
    robust.after_step(0.1)
    assert abs(float(robust(logits, target).value - plain)) > 1e-3
    other.load_state_dict(robust.state_dict())
    assert torch.equal(other(logits, target).value, robust(logits, target).value)
    torch.testing.assert_close(robust.eval()(logits, target).value, plain)
    assert torch.isfinite(robust.train()(logits[:0], target[:0]).value)
