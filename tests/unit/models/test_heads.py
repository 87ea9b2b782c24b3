"""Heads against independent densities, Monte Carlo and the formulas of the specification."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from habitus.core.errors import ConfigError, TargetError
from habitus.models.heads import (
    KINDS,
    Head,
    amount_quantile,
    expected,
    fit_head,
    fit_ratio,
    has_amount,
    is_usable,
    loss,
    n_outputs,
    negative_log_likelihood,
    probability,
    quantile,
    weight_order,
)

LEVELS = [0.01, 0.05, 0.3, 0.5, 0.61, 0.8, 0.95, 0.99]
SCALED = {"location": 1.3, "scale": 0.7}


def head_of(kind: str, **options: float) -> Head:
    return Head(kind, "y", 7, **options)


def raw_of(kind: str, n: int = 64, seed: int = 0, spread: float = 1.0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(n, n_outputs(head_of(kind)), generator=draw, dtype=torch.float64) * spread


def amounts() -> torch.Tensor:
    """A third zeros, the rest spread over 0.1..40."""
    return torch.where(torch.arange(64) % 3 == 0, 0.0, torch.linspace(0.1, 40, 64, dtype=torch.float64))


def softplus(x: np.ndarray) -> np.ndarray:
    return np.logaddexp(0, x)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def test_there_are_heads_to_test() -> None:
    assert set(KINDS) == {"binary", "days", "count", "ziln", "hurdle", "quantile", "masked_mse"}


def test_binary_is_bernoulli() -> None:
    raw, y = raw_of("binary"), torch.tensor([0.0, 1.0] * 32, dtype=torch.float64)
    p = sigmoid(raw[:, 0].numpy())
    found = negative_log_likelihood(head_of("binary"), raw, y)
    np.testing.assert_allclose(found, -stats.bernoulli.logpmf(y.numpy(), p), rtol=1e-9)
    np.testing.assert_allclose(expected(head_of("binary"), raw), p)
    np.testing.assert_allclose(quantile(head_of("binary"), raw, 0.3), stats.bernoulli.ppf(0.3, p))


def test_days_is_categorical() -> None:
    head, raw, y = head_of("days"), raw_of("days"), torch.arange(64, dtype=torch.float64) % 8
    p = torch.softmax(raw, -1).numpy()
    found = negative_log_likelihood(head, raw, y)
    np.testing.assert_allclose(found, -np.log(p[np.arange(64), y.long().numpy()]), rtol=1e-9)
    np.testing.assert_allclose(expected(head, raw), p @ np.arange(8), rtol=1e-9)
    np.testing.assert_allclose(probability(head, raw), 1 - p[:, 0], rtol=1e-9)
    cumulative = p.cumsum(1)
    np.testing.assert_array_equal(quantile(head, raw, 0.6), (cumulative >= 0.6).argmax(1))


def test_count_is_negative_binomial() -> None:
    head, raw = head_of("count", location=0.8), raw_of("count")
    y = torch.arange(64, dtype=torch.float64) % 9
    mean, dispersion = np.exp(0.8 + raw[:, 0].numpy()), softplus(raw[:, 1].numpy()) + 1e-3
    law = stats.nbinom(1 / dispersion, 1 / (1 + dispersion * mean))
    np.testing.assert_allclose(negative_log_likelihood(head, raw, y), -law.logpmf(y.numpy()), rtol=1e-6)
    np.testing.assert_allclose(expected(head, raw), law.mean(), rtol=1e-9)
    np.testing.assert_allclose(probability(head, raw), 1 - law.pmf(0), rtol=1e-6)
    np.testing.assert_allclose(quantile(head, raw, 0.8), law.ppf(0.8))


def test_count_stays_exact_in_32_bits_when_dispersion_vanishes() -> None:
    raw = torch.tensor([[0.0, -20.0]])
    found = negative_log_likelihood(head_of("count", location=1.0), raw, torch.tensor([3.0]))
    law = stats.nbinom(1000, 1 / (1 + 1e-3 * math.e))
    assert float(found) == pytest.approx(-law.logpmf(3), rel=1e-5)


@pytest.mark.parametrize("options", [{}, SCALED])
def test_ziln_is_a_mixture_of_zero_and_log_normal(options: dict[str, float]) -> None:
    head, raw = head_of("ziln", **options), raw_of("ziln")
    y = amounts()
    location, scale = options.get("location", 0.0), options.get("scale", 1.0)
    p, mu = sigmoid(raw[:, 0].numpy()), location + scale * raw[:, 1].numpy()
    sigma = np.minimum(scale * (softplus(raw[:, 2].numpy()) + 1e-3), min(3, 1.5 * scale))
    density = stats.lognorm(sigma, scale=np.exp(mu))
    wanted = -np.where(y.numpy() > 0, np.log(p) + density.logpdf(y.clamp(min=1e-9).numpy()), np.log1p(-p))
    np.testing.assert_allclose(negative_log_likelihood(head, raw, y), wanted, rtol=1e-7)
    np.testing.assert_allclose(expected(head, raw), p * density.mean(), rtol=1e-7)
    np.testing.assert_allclose(probability(head, raw), p, rtol=1e-9)


@pytest.mark.parametrize("options", [{}, SCALED])
def test_hurdle_is_a_mixture_of_zero_and_gamma(options: dict[str, float]) -> None:
    head, raw = head_of("hurdle", **options), raw_of("hurdle")
    y = amounts()
    location, scale = options.get("location", 0.0), options.get("scale", 1.0)
    p, mean = sigmoid(raw[:, 0].numpy()), np.exp(location + scale * raw[:, 1].numpy())
    shape = softplus(raw[:, 2].numpy()) + 1e-3
    density = stats.gamma(shape, scale=mean / shape)
    wanted = -np.where(y.numpy() > 0, np.log(p) + density.logpdf(y.clamp(min=1e-9).numpy()), np.log1p(-p))
    np.testing.assert_allclose(negative_log_likelihood(head, raw, y), wanted, rtol=1e-7)
    np.testing.assert_allclose(expected(head, raw), p * mean, rtol=1e-7)
    u = np.clip((0.9 - 1 + p) / p, 1e-6, 1 - 1e-6)
    wanted = np.where(p > 0.1, density.ppf(u), 0.0)
    np.testing.assert_allclose(quantile(head, raw, 0.9), wanted, rtol=1e-6)


@pytest.mark.parametrize("kind", ["ziln", "hurdle"])
def test_densities_integrate_to_one(kind: str) -> None:
    head = head_of(kind, **SCALED)
    for raw in raw_of(kind, 5, spread=0.5):
        logs = torch.linspace(-60, 25, 400_001, dtype=torch.float64)
        y = logs.exp()
        density = (-negative_log_likelihood(head, raw.expand(len(y), -1), y)).exp() * y  # dy = y dlog y
        zero = (-negative_log_likelihood(head, raw[None], torch.zeros(1, dtype=torch.float64))).exp()
        assert float(torch.trapezoid(density, logs) + zero) == pytest.approx(1.0, abs=1e-4)


def test_ziln_mean_and_quantiles_equal_monte_carlo() -> None:
    head, raw = head_of("ziln", **SCALED), torch.tensor([[0.4, 0.3, 0.2]], dtype=torch.float64)
    draw = np.random.default_rng(0)
    n = 2_000_000
    sigma = 0.7 * (softplus(np.array(0.2)) + 1e-3)
    y = (draw.random(n) < sigmoid(np.array(0.4))) * np.exp(1.3 + 0.7 * 0.3 + sigma * draw.standard_normal(n))
    assert float(expected(head, raw)) == pytest.approx(y.mean(), rel=5 * y.std() / y.mean() / math.sqrt(n))
    np.testing.assert_allclose(quantile(head, raw, LEVELS)[0], np.quantile(y, LEVELS), rtol=0.01)


def test_a_wild_sigma_is_capped() -> None:
    raw = torch.tensor([[20.0, 0.0, 50.0]])
    assert float(expected(head_of("ziln", scale=0.5), raw)) == pytest.approx(math.exp(0.75**2 / 2), rel=1e-4)
    assert float(expected(head_of("ziln", scale=10.0), raw)) == pytest.approx(math.exp(4.5), rel=1e-4)


def test_quantile_head_is_rising_and_its_loss_is_pinball() -> None:
    head, raw = head_of("quantile", **SCALED), raw_of("quantile", spread=2.0)
    y = amounts()
    levels = np.array([0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95])
    z = raw.numpy()
    values = z[:, 1:2] + np.concatenate([np.zeros((64, 1)), softplus(z[:, 2:]).cumsum(1)], axis=1)
    assert (np.diff(values) > 0).all()
    error = ((np.log1p(y.numpy()) - 1.3) / 0.7)[:, None] - values
    pinball = np.where(error > 0, levels * error, (levels - 1) * error).mean(1)
    p = sigmoid(z[:, 0])
    wanted = np.where(y.numpy() > 0, -np.log(p) + pinball, -np.log1p(-p))
    np.testing.assert_allclose(loss(head, raw, y), wanted, rtol=1e-7)


def test_quantile_head_mixes_zero_and_amount_by_the_formula() -> None:
    raw = torch.tensor([[0.0, 0.0, 0.1, 0.2, 0.3, 0.1, 0.2, 0.3]], dtype=torch.float64)
    head = head_of("quantile", location=2.0)
    knots = np.array([0.0, *softplus(raw[0, 2:].numpy()).cumsum()])
    at_levels = np.expm1(2.0 + knots)
    assert float(quantile(head, raw, 0.5)) == 0.0  # t <= 1 - p
    assert float(quantile(head, raw, 0.75)) == pytest.approx(at_levels[3])  # (0.75 - 1 + 0.5) / 0.5 = the median
    assert float(quantile(head, raw, 0.95)) == pytest.approx(at_levels[5])
    assert float(quantile(head, raw, 0.9999)) == pytest.approx(at_levels[6])  # flat above its last level
    levels = [0.0, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 1.0]
    mean = 0.5 * np.trapezoid([at_levels[0], *at_levels, at_levels[6]], levels)
    assert float(expected(head, raw)) == pytest.approx(mean)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{}, SCALED])
def test_quantiles_never_cross_and_are_finite(kind: str, options: dict[str, float]) -> None:
    found = quantile(head_of(kind, **options), raw_of(kind, 300, spread=5.0).float(), LEVELS)
    assert found.shape == (300, len(LEVELS))
    assert bool(torch.isfinite(found).all())
    assert bool((found.diff(dim=-1) >= 0).all())


@pytest.mark.parametrize("kind", [kind for kind in KINDS if has_amount(head_of(kind))])
def test_the_amount_alone_is_what_the_mixture_is_made_of(kind: str) -> None:
    head, raw = head_of(kind, **SCALED), raw_of(kind, 50)
    p = probability(head, raw)
    inner = (torch.tensor([0.9, 0.95], dtype=torch.float64) - 1 + p[:, None]) / p[:, None]
    found = amount_quantile(head, raw, inner.clamp(1e-6, 1 - 1e-6))
    assert bool((inner > 0).all(dim=1).any())
    np.testing.assert_allclose(quantile(head, raw, [0.9, 0.95]), np.where(inner > 0, found, 0.0), rtol=1e-6)
    alone = amount_quantile(head, raw, torch.tensor([0.2, 0.5, 0.8]))  # the same levels for every row
    assert alone.shape == (50, 3)
    assert bool((alone.diff(dim=-1) > 0).all())


def test_other_heads_have_no_amount_of_their_own() -> None:
    with pytest.raises(TargetError, match="ziln, hurdle or quantile"):
        amount_quantile(head_of("days"), raw_of("days"), torch.tensor([0.5]))


@pytest.mark.parametrize("kind", KINDS)
def test_leading_axes_are_kept(kind: str) -> None:
    head, raw = head_of(kind), raw_of(kind, 6).float()
    wide = raw.view(2, 3, -1)
    y = torch.ones(2, 3)
    torch.testing.assert_close(loss(head, wide, y), loss(head, raw, y.view(-1)).view(2, 3))
    torch.testing.assert_close(expected(head, wide), expected(head, raw).view(2, 3))
    torch.testing.assert_close(quantile(head, wide, 0.7), quantile(head, raw, 0.7).view(2, 3))
    assert quantile(head, wide, [0.2, 0.7]).shape == (2, 3, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_wild_outputs_give_finite_losses_and_gradients(kind: str) -> None:
    raw = torch.tensor([-60.0, 60.0, 0.0])[:, None].repeat(1, n_outputs(head_of(kind))).requires_grad_()
    for y in (0.0, 1.0):
        found = loss(head_of(kind), raw, torch.full((3,), y))
        found.sum().backward()
        assert bool(torch.isfinite(found).all())
        assert bool(torch.isfinite(raw.grad).all())
    assert bool(torch.isfinite(expected(head_of(kind), raw)).all())


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "quantile"])
def test_the_fitted_base_is_the_best_constant(kind: str) -> None:
    """Zeros must not lose to any other constant by more than what smoothing costs."""
    draw = np.random.default_rng(1)
    n = 4000
    spent = np.where(draw.random(n) < 0.4, draw.lognormal(2, 0.8, n), 0)
    y = {"binary": draw.random(n) < 0.3, "days": draw.binomial(7, 0.3, n), "count": draw.negative_binomial(2, 0.4, n)}
    values = torch.as_tensor(np.asarray(y.get(kind, spent), dtype=np.float64))
    head = fit_head(kind, "y", 7, values)
    usable = is_usable(head, values, torch.ones_like(values, dtype=torch.bool))
    zeros = torch.zeros(n_outputs(head), dtype=torch.float64)
    base = float(loss(head, zeros.expand(n, -1), values)[usable].mean())
    for k in range(n_outputs(head)):
        for step in (-0.05, 0.05):
            moved = zeros.clone()
            moved[k] = step
            assert float(loss(head, moved.expand(n, -1), values)[usable].mean()) > base - 1e-5
    if kind != "masked_mse":
        assert float(probability(head, zeros)) == pytest.approx(float((values > 0).double().mean()), abs=0.02)


def test_the_fitted_quantile_base_has_the_quantiles_of_the_data() -> None:
    draw = np.random.default_rng(2)
    y = np.where(draw.random(5000) < 0.5, draw.lognormal(3, 1, 5000), 0)
    head = fit_head("quantile", "y", 7, y)
    found = quantile(head, torch.zeros(8, dtype=torch.float64), [0.75, 0.9])
    np.testing.assert_allclose(found, np.quantile(y, [0.75, 0.9]), rtol=0.05)


def test_fitted_amounts_work_around_zero_whatever_the_unit() -> None:
    """In pence or in millions, raw outputs stay the same and the unit-free loss with them."""
    y = np.random.default_rng(3).lognormal(1, 1, 500) * (np.arange(500) % 3 > 0)
    for kind in ("ziln", "hurdle"):
        small, large = fit_head(kind, "y", 7, y), fit_head(kind, "y", 7, y * 1e6)
        raw = raw_of(kind, 500, spread=0.3)
        one, two = loss(small, raw, torch.as_tensor(y)), loss(large, raw, torch.as_tensor(y * 1e6))
        torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(expected(small, raw) * 1e6, expected(large, raw), rtol=1e-6, atol=0.0)


def test_masked_mse_keeps_signs_and_ignores_zeros() -> None:
    y = torch.tensor([-50.0, 0.0, 20.0, 3.0])
    head = fit_head("masked_mse", "net", 7, y)
    assert is_usable(head, y, torch.tensor([True, True, True, False])).tolist() == [True, False, True, False]
    raw = ((y.sign() * y.abs().log1p() - head.location) / head.scale)[:, None]
    torch.testing.assert_close(expected(head, raw)[[0, 2, 3]], y[[0, 2, 3]], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(loss(head, raw + 0.5, y), torch.tensor([0.25, 0.0, 0.25, 0.25]))
    with pytest.raises(TargetError, match="binary target"):
        probability(head, raw)
    assert weight_order(head) == 1
    assert weight_order(head_of("ziln")) == 0


def test_the_total_ratio_makes_totals_agree() -> None:
    head, raw = head_of("quantile", location=2.0), raw_of("quantile", 50)
    y = torch.linspace(0, 90, 50, dtype=torch.float64)
    fitted = fit_ratio(head, raw, y)
    assert float(expected(fitted, raw).sum()) == pytest.approx(float(y.sum()))
    assert fit_ratio(fitted, raw, y) == fitted  # an earlier ratio is not compounded


@pytest.mark.parametrize("kind", ["ziln", "hurdle", "quantile", "days", "count"])
def test_negative_values_are_refused_with_target_and_row(kind: str) -> None:
    with pytest.raises(TargetError) as caught:
        fit_head(kind, "spend", 28, [1.0, 0.0, -2.5])
    assert "target spend, row 2" in str(caught.value)
    assert "-2.5" in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "values", "words"),
    [
        ("binary", [0, 2], "0 or 1"),
        ("days", [1, 29], "from 0 to the horizon"),
        ("count", [1, 1.5], "whole numbers"),
        ("ziln", [1, math.nan], "finite"),
        ("binary", [0, 0, 0], "at least one value above 0"),
        ("ziln", [], "observed values"),
    ],
)
def test_values_that_cannot_be_learnt_are_refused(kind: str, values: list[float], words: str) -> None:
    with pytest.raises(TargetError, match=words):
        fit_head(kind, "y", 28, values)


def test_amounts_that_do_not_vary_are_fitted() -> None:
    for kind in ("ziln", "hurdle", "quantile", "masked_mse"):
        head = fit_head(kind, "y", 7, [0.0, 5.0, 5.0])
        assert head.scale == 1.0
        assert all(math.isfinite(b) for b in head.base)


def test_unknown_kinds_and_levels_are_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean 'ziln'"):
        Head("zlin", "y", 7)
    with pytest.raises(ConfigError, match="positive scale"):
        replace(head_of("ziln"), scale=0.0)
    with pytest.raises(ConfigError, match="inside"):
        quantile(head_of("binary"), raw_of("binary"), 1.0)
