"""The scaling law: a planted one is found, and where there is none, none is claimed."""

from __future__ import annotations

import numpy as np
import pytest

from habitus.metrics.scaling import Law, fit_law

TRUE = Law(E=1.5, A=40.0, B=300.0, a=0.4, b=0.5)
SIZES, BUDGETS = np.array([1e3, 4e3, 2e4, 1e5]), np.array([1e4, 4e4, 2e5, 1e6])


def runs(law: Law = TRUE, noise: float = 0.003, n_seeds: int = 2, seed: int = 0):
    n, d = (values.ravel() for values in np.meshgrid(SIZES, BUDGETS))
    n, d = np.tile(n, n_seeds), np.tile(d, n_seeds)
    return n, d, law.loss(n, d) * np.exp(np.random.default_rng(seed).normal(0, noise, len(n)))


def test_a_planted_law_is_found_with_intervals_that_hold_it():
    found = fit_law(*runs(), n_resamples=60)
    assert found.is_identified
    for name in ("a", "b", "E"):
        low, high = found.intervals[name]
        assert low <= getattr(TRUE, name) <= high, name
        assert high - low < 0.5 * getattr(TRUE, name), name
    low, high = found.band(SIZES, BUDGETS)
    assert ((low <= TRUE.loss(SIZES, BUDGETS) * 1.01) & (high >= TRUE.loss(SIZES, BUDGETS) * 0.99)).all()


def test_without_noise_it_is_found_exactly():
    found = fit_law(*runs(noise=0.0), n_resamples=1).law
    assert (found.a, found.b, found.E) == pytest.approx((0.4, 0.5, 1.5), rel=0.02)


def test_a_size_that_does_not_matter_gives_no_law():
    found = fit_law(*runs(Law(1.5, 0.0, 300.0, 0.4, 0.5)), n_resamples=40)
    assert not found.is_identified
    assert "of a touches 0" in found.verdict


def test_a_floor_that_could_be_anywhere_gives_no_law():
    """Over a short ladder the loss falls along a line: any floor below it fits, each with exponents of its own."""
    n, d = (values.ravel() for values in np.meshgrid([1e3, 2e3, 4e3, 8e3], [1e4, 2e4, 4e4, 8e4]))
    law = Law(E=1.0, A=8.0, B=9.0, a=0.1, b=0.1)
    loss = law.loss(n, d) * np.exp(np.random.default_rng(1).normal(0, 0.005, len(n)))
    found = fit_law(n, d, loss, n_resamples=20)
    assert not found.is_identified
    assert "of E" in found.verdict
    assert found.intervals["E"][1] - found.intervals["E"][0] > loss.min() / 3


def test_too_few_points_give_no_law():
    n, d, loss = runs()
    few = n < 1e4
    assert "8 distinct" not in fit_law(n[few], d[few], loss[few], n_resamples=2).verdict
    few &= d < 1e5
    assert fit_law(n[few], d[few], loss[few]).verdict == "4 distinct points of 2 sizes and 2 budgets"
    one = n == n[0]
    assert not fit_law(n[one], d[one], loss[one]).is_identified


def test_the_best_size_is_the_least_loss_for_its_compute():
    n, d = TRUE.best_size(np.array([1e10]))
    others = n * np.linspace(0.3, 3, 61)
    losses = TRUE.loss(others, 1e10 / 6 / others)
    assert TRUE.loss(n, d)[0] <= losses.min() + 1e-12
