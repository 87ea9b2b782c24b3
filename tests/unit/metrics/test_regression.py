"""Amount metrics against scikit-learn and scipy, by hand, and under weights."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from habitus.core.errors import ConfigError
from habitus.core.seeds import generator
from habitus.metrics.regression import (
    coverage,
    gini,
    mae,
    mape_all,
    mape_nonzero,
    pinball,
    rmse,
    smape,
    spearman,
    wape,
)

METRICS = (
    mae,
    rmse,
    wape,
    smape,
    mape_nonzero,
    spearman,
    gini,
    partial(mape_all, floor=1.0),
    partial(pinball, level=0.8),
)


def drawn(n: int = 300) -> tuple[np.ndarray, np.ndarray]:
    rng = generator(5, "regression", n)
    scale = rng.gamma(2.0, 2.0, n)
    return rng.poisson(scale) * 1.5, np.round(scale, 1)


def test_equals_scikit_learn_and_scipy():
    from scipy import stats
    from sklearn import metrics as sk

    y, p = drawn()
    assert mae(y, p) == pytest.approx(sk.mean_absolute_error(y, p), rel=1e-12)
    assert rmse(y, p) == pytest.approx(sk.root_mean_squared_error(y, p), rel=1e-12)
    assert pinball(y, p, level=0.8) == pytest.approx(sk.mean_pinball_loss(y, p, alpha=0.8), rel=1e-12)
    assert spearman(y, p) == pytest.approx(stats.spearmanr(y, p).statistic, rel=1e-12)
    some = y > 0
    assert mape_nonzero(y, p) == pytest.approx(sk.mean_absolute_percentage_error(y[some], p[some]), rel=1e-12)


def test_by_hand():
    y, p = np.array([0.0, 2.0, 8.0]), np.array([1.0, 2.0, 4.0])
    assert wape(y, p) == pytest.approx(5 / 10)
    assert smape(y, p) == pytest.approx((2 + 0 + 2 * 4 / 12) / 3)
    assert mape_nonzero(y, p) == pytest.approx((0 + 0.5) / 2)
    assert mape_all(y, p, floor=2.0) == pytest.approx((0.5 + 0 + 0.5) / 3)
    assert coverage(y, np.array([0, 3, 8]), np.array([0, 9, 9])) == pytest.approx(2 / 3)
    assert wape(y, np.zeros(3)) == 1


def test_gini_is_the_ratio_of_lorenz_areas():
    y, p = drawn()
    p = p + np.arange(p.size) * 1e-6  # no ties, so that the curve below is the only one

    def area(order: np.ndarray) -> float:
        curve = np.concatenate([[0], np.cumsum(y[order]) / y.sum()])
        return np.trapezoid(curve, dx=1 / y.size) - 0.5

    by_area = area(np.argsort(-p)) / area(np.argsort(-y, kind="stable"))
    assert gini(y, p) == pytest.approx(by_area, rel=1e-9)
    assert gini(y, y) == pytest.approx(1)
    assert gini(y, -p) == pytest.approx(-gini(y, p))


@pytest.mark.parametrize("metric", METRICS)
def test_whole_number_weights_repeat_rows(metric):
    y, p = drawn()
    weight = generator(0, "weights").integers(0, 4, (5, y.size))
    for row, value in zip(weight, metric(y, p, weight)):
        assert value == pytest.approx(metric(np.repeat(y, row), np.repeat(p, row)), rel=1e-5)


def test_what_cannot_be_had_is_nan():
    zeros = np.zeros(3)
    assert np.isnan(wape(zeros, np.ones(3)))
    assert np.isnan(mape_nonzero(zeros, np.ones(3)))
    assert np.isnan(spearman(np.arange(3.0), zeros))
    assert np.isnan(gini(zeros, np.arange(3.0)))
    assert smape(zeros, zeros) == 0
    for metric in METRICS:
        assert np.isnan(metric(np.zeros(0), np.zeros(0)))


def test_bad_input_is_named():
    y = np.array([1.0, -2.0])
    with pytest.raises(ConfigError, match="-2"):
        gini(y, y)
    with pytest.raises(ConfigError, match="level"):
        pinball(y, y, level=1.0)
    with pytest.raises(ConfigError, match="floor"):
        mape_all(y, y, floor=0.0)
