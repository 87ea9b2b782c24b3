"""Macro-F1 against an independent value; its interval; the decision that maximises it."""

from __future__ import annotations

import numpy as np
import pytest

from habitus.core.errors import ConfigError
from habitus.metrics.macro_f1 import Decision, class_f1, fit_decision, macro_f1, macro_f1_interval


def test_it_is_the_mean_over_the_labels_in_the_truth():
    from sklearn.metrics import f1_score

    rng = np.random.default_rng(0)
    y, told = rng.integers(0, 4, 500), rng.integers(0, 6, 500)
    present = np.unique(y)
    assert macro_f1(y, told, 6) == pytest.approx(f1_score(y, told, labels=present, average="macro", zero_division=0))
    assert np.isnan(class_f1(y, told, 6)[4:]).all()
    assert np.isnan(macro_f1(y[:0], told[:0], 6))


def test_wrong_codes_and_lengths_are_refused():
    with pytest.raises(ConfigError, match="codes 0"):
        macro_f1(np.array([0, 7]), np.array([0, 1]), 3)
    with pytest.raises(ConfigError, match="one length"):
        macro_f1(np.array([0]), np.array([0, 1]), 3)


def test_the_interval_resamples_units_and_pairs_answers():
    rng = np.random.default_rng(1)
    unit = np.repeat(np.arange(200), 10)
    y = rng.integers(0, 3, 2000)
    good = np.where(rng.random(2000) < 0.8, y, (y + 1) % 3)
    worse = np.where(rng.random(2000) < 0.3, (good + 1) % 3, good)
    alone = macro_f1_interval(y, good, 3, unit)
    assert alone.low < macro_f1(y, good, 3) == alone.value < alone.high
    gain = macro_f1_interval(y, good, 3, unit, against=worse)
    assert gain.value == pytest.approx(macro_f1(y, good, 3) - macro_f1(y, worse, 3))
    assert gain.low > 0
    assert macro_f1_interval(y, good, 3, unit, against=good).high == 0
    copies = macro_f1_interval(np.tile(y, 4), np.tile(good, 4), 3, np.tile(unit, 4))
    assert copies.high - copies.low == pytest.approx(alone.high - alone.low, rel=1e-6)


def test_the_decision_beats_argmax_where_a_class_is_rare():
    rng = np.random.default_rng(2)
    logit = np.stack([np.zeros(20_000), rng.normal(-2.5, 1, 20_000), rng.normal(-4, 1, 20_000)], axis=1)
    p = np.exp(logit) / np.exp(logit).sum(axis=1, keepdims=True)
    y = (p.cumsum(axis=1) < rng.random((20_000, 1))).sum(axis=1)
    half = 10_000
    decision = fit_decision(p[:half], y[:half])
    plain = macro_f1(y[half:], p[half:].argmax(axis=1), 3)
    assert macro_f1(y[half:], decision.tell(p[half:]), 3) > plain + 0.05
    again = Decision.from_json(decision.to_json())
    assert np.array_equal(again.tell(p), decision.tell(p))


def test_the_decision_is_never_below_argmax_where_it_was_fitted():
    rng = np.random.default_rng(3)
    for seed in range(5):
        p = rng.dirichlet(np.ones(4) * (0.2 + seed), 300)
        y = rng.integers(0, 4, 300)
        assert macro_f1(y, fit_decision(p, y).tell(p), 4) >= macro_f1(y, p.argmax(axis=1), 4)
