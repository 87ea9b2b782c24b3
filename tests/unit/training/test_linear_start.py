"""The linear start: what it finds where the truth is linear, and how a model begins with it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from habitus.models.heads import fit_head, probability
from habitus.models.lumos import Lumos, LumosConfig, LumosShape
from habitus.testing.contracts import day_batch
from habitus.training.linear_start import fit_linear

N = 4_000
SLOPES = np.array([1.0, -0.5, 0.0])


def _world(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Profile [N, 3]; a binary target with log-odds x·slopes - 1, and amounts with log-mean 2 + x·slopes."""
    draw = np.random.default_rng(seed)
    x = draw.standard_normal((N, 3)).astype(np.float32)
    buys = draw.random(N) < 1 / (1 + np.exp(1.0 - x @ SLOPES))
    spend = buys * np.exp(2.0 + x @ SLOPES + 0.5 * draw.standard_normal(N))
    y = torch.from_numpy(np.stack([buys.astype(float), spend], axis=1))
    return torch.from_numpy(x), y, torch.ones(N, 2, dtype=torch.bool)


def _heads(y: torch.Tensor):
    return [fit_head("binary", "buy", 28, y[:, 0]), fit_head("ziln", "spend", 28, y[:, 1])]


def test_it_finds_what_is_linear():
    x, y, seen = _world()
    heads = _heads(y)
    found = fit_linear(heads, x, y, seen, penalty=1e-5)
    np.testing.assert_allclose(found.weight[0], SLOPES, atol=0.12)  # log-odds of buying
    np.testing.assert_allclose(found.weight[2] * heads[1].scale, SLOPES, atol=0.06)  # mean of ln amount
    p = probability(heads[0], (x @ found.weight.T + found.bias)[:, :1])
    assert float(p.mean()) == pytest.approx(float(y[:, 0].mean()), abs=0.01)


def test_what_is_not_observed_has_no_say():
    x, y, seen = _world()
    heads = _heads(y)
    seen[::4] = False
    spoilt = torch.where(seen, y, 1e6)
    assert torch.equal(fit_linear(heads, x, spoilt, seen).weight, fit_linear(heads, x, y, seen).weight)


def test_a_penalty_draws_towards_the_base_rate():
    x, y, seen = _world()
    sizes = [float(fit_linear(_heads(y), x, y, seen, penalty=p).weight.norm()) for p in (0.0, 0.1, 100.0)]
    assert sizes[0] > sizes[1] > sizes[2]
    assert sizes[2] < 0.05


@pytest.mark.parametrize("gain", [1.0, 10.0])
def test_a_model_begins_where_the_line_ends(gain: float):
    shape = LumosShape(n_activity=2, n_known=12, n_profile=3, history=20, horizon=28, outputs=(1, 3))
    x, y, seen = _world()
    start = fit_linear(_heads(y), x, y, seen)
    config = LumosConfig(size="tiny", profile_gain=gain)
    batch = day_batch(6, shape)
    before, model = Lumos(config, shape).eval()(batch).window, Lumos(config, shape).eval()
    start.put_into(model)
    added = model(batch).window - before
    torch.testing.assert_close(added, batch.profile @ start.weight.T + start.bias, atol=1e-4, rtol=1e-4)


def test_a_model_without_the_way_is_left_alone():
    shape = LumosShape(n_activity=2, n_known=12, n_profile=3, history=20, horizon=28, outputs=(1, 3))
    x, y, seen = _world()
    model = Lumos(LumosConfig(size="tiny"), shape)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fit_linear(_heads(y), x, y, seen).put_into(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
