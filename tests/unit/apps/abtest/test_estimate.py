"""Estimates from sums equal the formulas written out; golden sizes; Holm; the split."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest, chisquare

from habitus.apps.abtest.checks import a_a, srm
from habitus.apps.abtest.estimate import correlation, effect, grouped_sums, holm, linearised, sums
from habitus.apps.abtest.sequential import half_width, log_bayes_split, mixture_factor, running_interval
from habitus.apps.abtest.sizes import design_effect, detectable, icc_anova, n_binary, n_mean, ratio_variance

RNG = np.random.default_rng(5)


def arms(n=400, n_treatment=300, p=4):
    return RNG.gamma(2.0, 1.0, (n, p)), RNG.gamma(2.0, 1.1, (n_treatment, p))


def test_a_mean_is_compared_as_by_hand():
    control, treatment = arms(p=1)
    found = effect(sums(control), sums(treatment))
    variance = control.var(ddof=1) / 400 + treatment.var(ddof=1) / 300
    assert found.diff == pytest.approx(treatment.mean() - control.mean())
    assert found.variance == pytest.approx(variance)
    assert found.lift == pytest.approx(treatment.mean() / control.mean() - 1)


def test_a_ratio_uses_the_delta_method():
    control, treatment = arms(p=2)
    found = effect(sums(control), sums(treatment), is_ratio=True)
    expected = sum(ratio_variance(a[:, 0], a[:, 1]) / len(a) for a in (control, treatment))
    assert found.variance == pytest.approx(expected)
    assert found.diff == pytest.approx(
        treatment[:, 0].sum() / treatment[:, 1].sum() - control[:, 0].sum() / control[:, 1].sum()
    )


def test_cuped_is_a_regression_inside_the_arms():
    control, treatment = arms(p=3)
    found = effect(sums(control), sums(treatment), adjust=True)
    centred = np.concatenate([a - a.mean(axis=0) for a in (control, treatment)])
    theta = np.linalg.lstsq(centred[:, 1:], centred[:, 0], rcond=None)[0]
    gap = treatment.mean(axis=0) - control.mean(axis=0)
    assert found.diff == pytest.approx(gap[0] - theta @ gap[1:])
    rest = sum((a[:, 0] - a[:, 1:] @ theta).var(ddof=1) / len(a) for a in (control, treatment))
    assert found.variance == pytest.approx(rest)
    weight = sum((len(a) * a.mean(axis=0)) for a in (control, treatment)) / 700
    assert found.control == pytest.approx(control[:, 0].mean() - theta @ (control.mean(axis=0) - weight)[1:])


def test_a_constant_covariate_changes_nothing():
    control, treatment = (np.concatenate([a, np.zeros((len(a), 1))], axis=1) for a in arms(p=2))
    two, one = (effect(sums(control[:, :k]), sums(treatment[:, :k]), adjust=True) for k in (3, 2))
    assert two.diff == pytest.approx(one.diff)
    assert two.variance == pytest.approx(one.variance)


def test_sums_of_parts_add_up_and_leave_out_minus_one():
    columns, group = RNG.random((50, 2)), RNG.integers(-1, 3, 50)
    parts = grouped_sums(columns, group, 3)
    np.testing.assert_allclose(parts.sum(axis=0), sums(columns[group >= 0]))
    np.testing.assert_allclose(parts[1], sums(columns[group == 1]))


def test_the_correlation_is_the_one_inside_arms():
    x = RNG.standard_normal(20_000)
    y = 0.6 * x + 0.8 * RNG.standard_normal(20_000)
    both = np.stack([y, x], axis=1)
    assert correlation(sums(both[:10_000]), sums(both[10_000:] + 5)) == pytest.approx(0.6, abs=0.02)


def test_linearised_values_have_the_ratios_variance():
    y, v = RNG.gamma(2.0, 1.0, 500), RNG.gamma(3.0, 1.0, 500)
    assert linearised(y, v).var(ddof=1) == pytest.approx(ratio_variance(y, v))


def test_golden_sizes_of_the_specification():
    assert [n_binary(0.0514, lift) for lift in (0.01, 0.02, 0.03, 0.05)] == pytest.approx(
        [2.91e6, 731e3, 326e3, 119e3], rel=0.004
    )
    assert design_effect(23.3, 0.02) == pytest.approx(1.45, abs=0.005)
    assert design_effect(23.3, 0.02, 1.5) == pytest.approx(2.49, abs=0.005)
    assert detectable(2.0, n_mean(2.0, 0.1)) == pytest.approx(0.1)


def test_the_intra_cluster_correlation_is_found():
    user = np.repeat(np.arange(2000), RNG.integers(1, 20, 2000))
    values = np.sqrt(0.1) * RNG.standard_normal(2000)[user] + np.sqrt(0.9) * RNG.standard_normal(len(user))
    assert icc_anova(values, user) == pytest.approx(0.1, abs=0.02)


def test_golden_values_of_the_sequential_interval():
    k = mixture_factor(0.05)
    assert k == pytest.approx(8.2, abs=0.05)
    assert half_width(np.array(2.0), 2 * k, 0.05) / (1.959964 * np.sqrt(2)) == pytest.approx(1.55, abs=0.005)
    low, _ = running_interval(np.zeros(2), np.ones(2), np.array([10, 1000]), tau2=k, alpha=0.05)
    assert np.isneginf(low[0])
    assert np.isfinite(low[1])


def test_holm_steps_down():
    assert holm(np.array([0.04, 0.01, 0.02])).tolist() == pytest.approx([0.04, 0.03, 0.04])
    assert holm(np.zeros(0)).tolist() == []


def test_the_split_is_tested_as_scipy_does():
    assert srm(5100, 4900) == pytest.approx(chisquare([5100, 4900]).pvalue)
    assert srm(60, 40) == pytest.approx(binomtest(60, 100).pvalue, rel=1e-6)
    assert srm(0, 0) == 1


def test_the_running_test_of_the_split_cries_wolf_rarely_and_finds_a_loss():
    rng, n = np.random.default_rng(3), np.arange(1, 29) * 1000
    fair = rng.binomial(1000, 0.5, (4000, 28)).cumsum(axis=1)
    wrong = (log_bayes_split(fair, n - fair) > np.log(1000)).any(axis=1).mean()
    assert wrong <= 0.001 + 3 * np.sqrt(0.001 / 4000)
    assert (log_bayes_split(0.45 * n, 0.55 * n) > np.log(1000)).any()


def test_a_a_is_sound_on_users_and_not_on_rows_of_users():
    spend = RNG.gamma(0.5, 1.0, (1500, 1))
    found = a_a(np.arange(1500), spend, 200)
    assert found.is_sound
    assert found.p.shape == (200,)
    assert not a_a(np.repeat(np.arange(1500), 4), np.repeat(spend, 4, axis=0), 200).is_sound
