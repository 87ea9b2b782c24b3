"""Classification metrics against scikit-learn, by hand, and under weights."""

from __future__ import annotations

import numpy as np
import pytest

from habitus.core.errors import ConfigError
from habitus.core.seeds import generator
from habitus.metrics.classification import auc, average_precision, brier, log_loss

METRICS = (auc, average_precision, log_loss, brier)


def drawn(n: int = 400, *, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    rng = generator(3, "classification", n)
    p = rng.uniform(0.01, 0.99, n)
    y = (rng.uniform(size=n) < p).astype(float)
    return y, np.round(p, 1) * 0.9 + 0.05 if ties else p


@pytest.mark.parametrize("ties", [False, True])
def test_equals_scikit_learn(ties):
    from sklearn import metrics as sk

    y, p = drawn(ties=ties)
    assert auc(y, p) == pytest.approx(sk.roc_auc_score(y, p), abs=1e-12)
    assert average_precision(y, p) == pytest.approx(sk.average_precision_score(y, p), abs=1e-12)
    assert log_loss(y, p) == pytest.approx(sk.log_loss(y, p), abs=1e-12)
    assert brier(y, p) == pytest.approx(sk.brier_score_loss(y, p), abs=1e-12)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("ties", [False, True])
def test_whole_number_weights_repeat_rows(metric, ties):
    y, p = drawn(ties=ties)
    weight = generator(0, "weights").integers(0, 4, (5, y.size))
    values = metric(y, p, weight)
    assert values.shape == (5,)
    for row, value in zip(weight, values):
        assert value == pytest.approx(metric(np.repeat(y, row), np.repeat(p, row)), rel=1e-6)
        assert metric(y, p, row) == pytest.approx(value, rel=1e-12)


def test_order_of_rows_does_not_matter():
    y, p = drawn(ties=True)
    order = generator(1, "order").permutation(y.size)
    for metric in METRICS:
        assert metric(y[order], p[order]) == pytest.approx(metric(y, p), rel=1e-12)


def test_missing_class_or_rows_is_nan():
    p = np.array([0.2, 0.8])
    for y in (np.zeros(2), np.ones(2)):
        assert np.isnan(auc(y, p))
    assert np.isnan(average_precision(np.zeros(2), p))
    assert average_precision(np.ones(2), p) == 1
    for metric in METRICS:
        assert np.isnan(metric(np.zeros(0), np.zeros(0)))
    # one resample without a positive does not spoil the other
    values = auc(np.array([1, 0, 0]), np.array([0.9, 0.1, 0.2]), np.array([[0, 1, 1], [1, 1, 0]]))
    assert np.isnan(values[0])
    assert values[1] == 1


def test_a_sure_mistake_costs_much_but_not_infinity():
    assert log_loss(np.array([1.0]), np.array([0.0])) == pytest.approx(-np.log(1e-15))
    assert log_loss(np.array([1.0, 0.0]), np.array([1.0, 0.0])) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("y", "p", "found"),
    [
        ([0.5, 1], [0.1, 0.2], "0.5"),
        ([0, 1], [0.1, np.nan], "1 NaN"),
        ([0, 1], [0.1], "2, 1"),
        ([0, 1], [0.1, 1.2], "1.2"),
    ],
)
def test_bad_input_is_named(y, p, found):
    with pytest.raises(ConfigError, match=found):
        log_loss(np.array(y), np.array(p))
    with pytest.raises(ConfigError, match="shape"):
        auc(np.array([0, 1]), np.array([0.1, 0.2]), np.ones(3))
