"""Groups of buyers: planted ones are found, an unknown customer gets the crowd; P(rise) and suitability by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

from habitus.apps.advisor.features import NAMES
from habitus.apps.advisor.rise import Rise, fit_rise
from habitus.apps.advisor.suitability import asset_class, declared_class, fitting, fitting_first, suitability_of
from habitus.apps.advisor.taste import fit_tastes, leaning
from habitus.core.errors import ConfigError, TrainingError


def planted(n: int = 400, seed: int = 0) -> tuple[sp.csr_matrix, np.ndarray]:
    """Customers of two groups: one buys assets 0 to 9, the other 10 to 19, one buy in ten from anywhere."""
    rng = np.random.default_rng(seed)
    group = np.arange(n) % 2
    asset = np.where(
        rng.random((n, 8)) < 0.9, rng.integers(0, 10, (n, 8)) + 10 * group[:, None], rng.integers(0, 20, (n, 8))
    )
    counts = sp.csr_matrix((np.ones(asset.size), (np.repeat(np.arange(n), 8), asset.ravel())), shape=(n, 20))
    return counts, group


def test_planted_groups_are_found_and_one_buy_tells_them_apart() -> None:
    counts, _ = planted()
    tastes = fit_tastes(counts, n_groups=2)
    one = np.zeros((3, 20))
    one[0, 3] = one[1, 13] = 1
    expected = tastes.expected(one)
    np.testing.assert_allclose(expected.sum(1), 1)
    assert expected[0, :10].sum() > 0.6
    assert expected[1, 10:].sum() > 0.6
    assert abs(expected[2, :10].sum() - 0.5) < 0.05  # nothing bought: the mean of both
    np.testing.assert_array_equal(tastes.expected(one), fit_tastes(counts, n_groups=2).expected(one))


def test_few_customers_make_one_group_the_crowd() -> None:
    counts, _ = planted(10)
    tastes = fit_tastes(counts)
    assert all(share.shape[0] == 1 for share, _ in tastes.fits)
    crowd = np.asarray(counts.sum(0)).ravel() + 0.5
    np.testing.assert_allclose(tastes.expected(np.zeros((1, 20)))[0], crowd / crowd.sum(), atol=0.02)


def test_leaning_is_one_where_classes_buy_alike() -> None:
    rng = np.random.default_rng(0)
    declared, category = np.repeat([0, 1], 50), np.arange(6) % 2
    who, what = rng.integers(0, 100, 20_000), rng.integers(0, 6, 20_000)
    np.testing.assert_allclose(leaning(declared, category, who, what), 1, atol=0.05)
    prefers = leaning(declared, category, who[(who < 50) | (what % 2 == 1)], what[(who < 50) | (what % 2 == 1)])
    assert prefers[1, 0] < 0.01 < 1 < prefers[1, 1]


def a_day(alpha: np.ndarray, rises: np.ndarray) -> Any:
    n = len(alpha)
    return SimpleNamespace(
        facts={"alpha_t": alpha}, is_open=np.ones(n, bool), outcome=lambda _: SimpleNamespace(rises=rises)
    )


def test_rise_learns_within_days_and_not_the_phase() -> None:
    """Alpha is high on days on which all fall: pooled it would count against an asset; within days it counts for it."""
    rng = np.random.default_rng(0)
    days = []
    for base, level in ((-2.0, 2.0), (2.0, -2.0), (-2.0, 2.0), (2.0, -2.0)):
        alpha = level + rng.normal(size=400)
        days.append(a_day(alpha, rng.random(400) < 1 / (1 + np.exp(-(base + 1.0 * (alpha - level))))))
    model = fit_rise(days)
    assert 0.6 < model.weight[0] < 1.3
    rows = np.full((3, len(NAMES)), np.nan, np.float32)
    rows[:, NAMES.index("alpha_t")] = [-1, 0, 1]
    p = model.predict(rows)
    assert 0 < p[0] < p[1] < p[2] < 1
    rows[:, NAMES.index("alpha_t")] = np.nan
    np.testing.assert_array_equal(model.predict(rows), p[1])  # an unknown fact counts as 0


def test_rise_is_kept(tmp_path) -> None:
    model = Rise(np.array([0.3]), np.array([-1.0, 1.0]))
    model.save(tmp_path / "rise.json")
    again = Rise.load(tmp_path / "rise.json")
    np.testing.assert_array_equal(model.base, again.base)
    with pytest.raises(TrainingError):
        fit_rise([])


def test_classes_by_volatility_and_category(small) -> None:
    found, volatility = asset_class(small.view), small.view.facts["volatility126"]
    is_stock = small.source.assets["category"].to_numpy() == "Stock"
    assert found[is_stock].min() == 2
    calm = (volatility < 0.05) & ~is_stock
    assert calm.any()
    assert (found[calm] == 0).all()
    assert (found[np.isnan(volatility)] == 3).all()
    people = np.arange(150)
    declared, fits = declared_class(small.view, people), fitting(small.view, people)
    assert np.isnan(fits[declared < 0]).all()
    assert fits[declared == 3].min() == 1  # Aggressive bears everything
    for row in np.flatnonzero(declared >= 0)[:20]:
        np.testing.assert_array_equal(fits[row] == 1, found <= declared[row])
    known = small.source.profile_at(small.view.day)["risk"].fill_null("").to_numpy()
    assert (declared[known == ""] == -1).all()  # a questionnaire of a later day says nothing yet


def test_what_does_not_fit_leaves_its_place_to_the_next() -> None:
    fits = np.array([[1, 0, 1, 0.0], [np.nan] * 4])
    lists = np.array([[1, 0, 3, 2], [1, 0, -1, -1]])
    assert fitting_first(lists, fits).tolist() == [[0, 2, -1, -1], [1, 0, -1, -1]]
    with pytest.raises(ConfigError, match="off, warn or filter"):
        suitability_of("no")
