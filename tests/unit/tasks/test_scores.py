"""Coverage and pinball of whole distributions, on answers whose truth is known."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from habitus.data.targets import Measured
from habitus.metrics.bootstrap import resamples
from habitus.models.heads import Head
from habitus.tasks.asked import Asked
from habitus.tasks.forecast import mix_amounts
from habitus.tasks.scores import row_scores, scored_beside

HEAD = Head("ziln", "spend", 28, location=2.0, scale=0.8)


def _answer(raw: torch.Tensor, day_mean: np.ndarray | None = None) -> Asked:
    """An answer with one amount head, and a day head where `day_mean` [n, F] is given."""
    days = np.zeros((len(raw), 7, 0)) if day_mean is None else day_mean[..., None]
    quantiles, zero, amount = mix_amounts(HEAD, [raw])
    whole = SimpleNamespace(quantile=quantiles[:, None], zero=zero[:, None], amount=amount[:, None], day_mean=days)
    heads = SimpleNamespace(window=(HEAD,), day=() if day_mean is None else (Head("binary", "buy", 1),))
    made: Any = SimpleNamespace(heads=heads, whole=whole)
    return cast(Asked, made)


def _drawn(raw: torch.Tensor, spread: float = 1.0) -> np.ndarray:
    """Amounts from the distribution that `raw` states, the log-amounts' spread multiplied."""
    random = np.random.default_rng(1)
    sigma = 0.8 * (np.log1p(np.exp(raw[:, 2].numpy())) + 1e-3)
    is_there = random.random(len(raw)) < torch.sigmoid(raw[:, 0]).numpy()
    logs = 2.0 + 0.8 * raw[:, 1].numpy() + spread * sigma * random.standard_normal(len(raw))
    return np.where(is_there, np.exp(logs), 0.0)


def _scores(raw: torch.Tensor, y: np.ndarray) -> dict[str, float]:
    found = row_scores(_answer(raw), Measured(y[:, None], np.ones((len(y), 1), bool)), {})
    return {score: float(np.nanmean(values)) for (_, score), values in found.items()}


@pytest.mark.parametrize("logit", [-3.0, 0.0, 3.0])
def test_the_true_distribution_covers_80_percent_whatever_the_share_of_zeros(logit):
    random = torch.Generator().manual_seed(0)
    raw = torch.randn(40_000, 3, generator=random) * torch.tensor([0.5, 1.0, 0.3]) + torch.tensor([logit, 0, 0])
    found = _scores(raw, _drawn(raw))
    assert found["coverage_80"] == pytest.approx(0.8, abs=0.01)
    assert found["coverage_80_positive"] == pytest.approx(0.8, abs=0.03 if logit < 0 else 0.01)


def test_too_narrow_a_distribution_covers_less_and_costs_more():
    raw = torch.zeros(20_000, 3) + torch.tensor([2.0, 0.0, 0.0])
    right, wide = _scores(raw, _drawn(raw)), _scores(raw, _drawn(raw, spread=2.0))
    assert wide["coverage_80"] < 0.7 < right["coverage_80"]
    assert wide["coverage_80_positive"] < 0.6 < right["coverage_80_positive"]
    narrow = raw.clone()
    narrow[:, 2] = -2.0
    assert _scores(narrow, _drawn(raw))["pinball"] > right["pinball"] * 1.02


def test_the_log_loss_of_days_is_that_of_the_true_rate():
    n = 4_000
    y = np.random.default_rng(0).random((n, 7, 1)) < 0.3
    day = {"buy": Measured(y.astype(float), np.ones(y.shape, bool))}
    window = Measured(np.ones((n, 1)), np.ones((n, 1), bool))
    losses = {p: row_scores(_answer(torch.zeros(n, 3), np.full((n, 7), p)), window, day) for p in (0.3, 0.5)}
    means = {p: float(found["buy", "day_log_loss"].mean()) for p, found in losses.items()}
    assert means[0.5] == pytest.approx(np.log(2))
    rate = y.mean()
    assert means[0.3] == pytest.approx(-(rate * np.log(0.3) + (1 - rate) * np.log(0.7)))


def test_differences_are_paired_and_coverage_is_not_a_contest():
    values = np.random.default_rng(0).normal(1.0, 5.0, 1000)
    rows = {
        "a": {("spend", "pinball"): values, ("spend", "coverage_80"): np.ones(1000)},
        "b": {("spend", "pinball"): values + 0.1, ("spend", "coverage_80"): np.ones(1000)},
    }
    table, differences = scored_beside("a", rows, resamples(np.arange(1000), 100))
    assert len(table) == 4
    [gap] = differences
    assert gap["value"] == pytest.approx(-0.1)
    assert gap["high"] == pytest.approx(-0.1), "what both share falls out"
    assert gap["is_better"] is True
