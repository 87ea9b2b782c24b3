"""Amounts of several members mixed into one distribution, and recalibrated on validation."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from habitus.data.cutoffs import Samples
from habitus.models.heads import Head, n_outputs, quantile
from habitus.models.lumos import LumosOutput
from habitus.tasks.forecast import LEVELS, MIN_AMOUNTS, Heads, fit_calibration, mix_amounts, read_answers

HEAD = Head("ziln", "spend", 28, location=2.0, scale=0.8)
BUY = Head("binary", "buy", 28)
N = 20_000


def _raw(n: int = N, logit: float = 1.0, seed: int = 0) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(n, 3, generator=random, dtype=torch.float64) * 0.3 + torch.tensor([logit, 0.0, 0.5])


def _inputs(y: np.ndarray | None = None, n: int = N) -> Any:
    samples = Samples(np.arange(n), np.repeat(np.arange(5, dtype=np.int32), n // 5))
    measured = None if y is None else SimpleNamespace(value=y, is_observed=np.ones(y.shape, bool))
    return cast(Any, SimpleNamespace(samples=samples, measured=measured, day_measured=None, spec=_Spec()))


class _Spec:
    horizon = 28


def _amounts(raw: torch.Tensor, shift: float, stretch: float) -> np.ndarray:
    """Amounts whose logs lie off what `raw` states: shifted by sigmas and stretched."""
    random = np.random.default_rng(2)
    sigma = 0.8 * (np.log1p(np.exp(raw[:, 2].numpy())) + 1e-3)
    is_there = random.random(len(raw)) < torch.sigmoid(raw[:, 0]).numpy()
    deviate = shift + stretch * random.standard_normal(len(raw))
    return np.where(is_there, np.exp(2.0 + 0.8 * raw[:, 1].numpy() + sigma * deviate), 0.0)


def test_one_member_is_read_as_its_head_says():
    raw = _raw(200)
    quantiles, zero, amount = mix_amounts(HEAD, [raw])
    np.testing.assert_allclose(quantiles, quantile(HEAD, raw, LEVELS).numpy(), rtol=1e-6)
    np.testing.assert_allclose(zero, 1 - torch.sigmoid(raw[:, 0]).numpy())
    certain = torch.cat([torch.full_like(raw[:, :1], 40.0), raw[:, 1:]], dim=1)
    np.testing.assert_allclose(amount, quantile(HEAD, certain, LEVELS).numpy(), rtol=1e-6)


def test_members_that_disagree_on_whether_make_one_mixture():
    sure, unsure = _raw(1, logit=4.0), _raw(1, logit=-3.0)
    sure[:, 1:], unsure[:, 1:] = 0.0, 0.0
    quantiles, zero, _ = mix_amounts(HEAD, [sure, unsure])
    log_odds = (float(sure[0, 0]) + float(unsure[0, 0])) / 2
    assert zero[0] == pytest.approx(1 / (1 + np.exp(log_odds)))
    assert quantiles[0, 3] > 0  # a mean of medians would be half of one member's
    one = sure.clone()
    one[:, 0] = log_odds
    np.testing.assert_allclose(quantiles, quantile(HEAD, one, LEVELS).numpy(), rtol=1e-6)


@pytest.mark.parametrize(("shift", "stretch"), [(0.0, 1.0), (0.5, 1.0), (0.0, 1.6), (-0.4, 0.7)])
def test_recalibrated_levels_cover_what_they_say(shift: float, stretch: float):
    heads = Heads((HEAD,), ())
    raw = _raw()
    y = _amounts(raw, shift, stretch)
    output = [LumosOutput(raw, None)]
    calibration = fit_calibration(read_answers(output, heads, _inputs()), heads, _inputs(y[:, None]))
    fresh = _raw(seed=1)
    truth = _amounts(fresh, shift, stretch)
    answer = read_answers([LumosOutput(fresh, None)], heads, _inputs(), calibration)
    is_there = truth > 0
    below = (truth[is_there, None] <= answer.amount[is_there, 0]).mean(axis=0)
    np.testing.assert_allclose(below, LEVELS, atol=0.015)
    assert bool((np.diff(answer.quantile, axis=-1) >= 0).all())


def test_without_need_nothing_moves():
    heads = Heads((HEAD,), ())
    y = _amounts(_raw(), 0.0, 1.0)
    calibration = fit_calibration(
        read_answers([LumosOutput(_raw(), None)], heads, _inputs()), heads, _inputs(y[:, None])
    )
    np.testing.assert_allclose(calibration["amounts"]["spend"], LEVELS, atol=0.015)


def test_a_few_amounts_recalibrate_nothing():
    heads = Heads((BUY, HEAD), ())
    raw = torch.cat([torch.zeros(N, 1, dtype=torch.float64), _raw()], dim=1)
    y = np.zeros((N, 2))
    y[: MIN_AMOUNTS - 1, 1], y[::3, 0] = 5.0, 1.0
    calibration = fit_calibration(read_answers([LumosOutput(raw, None)], heads, _inputs()), heads, _inputs(y))
    assert calibration["amounts"] == {}
    assert set(calibration["targets"]) == {"buy"}


def test_heads_without_amounts_say_nothing_of_zero():
    heads = Heads((BUY, Head("days", "days", 3)), ())
    raw = torch.zeros(10, sum(n_outputs(head) for head in heads.window))
    answer = read_answers([LumosOutput(raw, None)], heads, _inputs(n=10))
    assert bool(np.isnan(answer.zero).all() and np.isnan(answer.amount).all())
    assert bool(np.isnan(answer.quantile[:, 0]).all())
    assert answer.quantile[0, 1].tolist() == [0.0, 0.0, 0.0, 1.0, 2.0, 3.0, 3.0]
