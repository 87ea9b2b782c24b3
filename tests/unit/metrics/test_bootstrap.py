"""The bootstrap: users, not rows; the same draws for all; and it covers what it should."""

from __future__ import annotations

import json

import numpy as np
import pytest

from habitus.core.errors import ConfigError
from habitus.core.seeds import generator
from habitus.metrics import weights
from habitus.metrics.bootstrap import distribution, interval, of_draws, paired_difference, resamples
from habitus.metrics.classification import auc, log_loss
from habitus.metrics.regression import mae, pinball


def panel(n_users: int = 200, n_rows: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = generator(9, "panel")
    user = np.repeat(np.arange(n_users) * 7 + 3, n_rows)
    p = np.repeat(rng.uniform(0.05, 0.95, n_users), n_rows)
    y = np.repeat(rng.uniform(size=n_users) < p[::n_rows], n_rows).astype(float)
    order = rng.permutation(user.size)
    return user[order], y[order], p[order]


def test_draws_are_multinomial_counts_of_users():
    user, *_ = panel()
    drawn = resamples(user, 300)
    assert drawn.count.shape == (300, 200)
    assert (drawn.count.sum(axis=1) == 200).all()
    assert drawn.count.std() == pytest.approx(1, abs=0.02)  # Poisson(1), nearly
    rows = drawn.weights(slice(None))
    for one in (3, 10):  # all rows of a user weigh the same
        assert (np.diff(rows[:, user == one], axis=1) == 0).all()


def test_equals_resampling_by_hand():
    user, y, p = panel()
    drawn = resamples(user, 20)
    found = distribution(auc, y, p, drawn)
    people = np.unique(user)
    for count, value in zip(drawn.count, found):
        rows = np.concatenate([np.flatnonzero(user == u) for u, n in zip(people, count) for _ in range(n)])
        assert auc(y[rows], p[rows]) == pytest.approx(value, rel=1e-9)


def test_same_seed_same_interval_and_blocks_do_not_matter(monkeypatch):
    user, y, p = panel()
    first = interval(log_loss, y, p, resamples(user, 100, seed=4))
    monkeypatch.setattr("habitus.metrics.bootstrap._BLOCK", 1000)
    again = interval(log_loss, y, p, resamples(user, 100, seed=4))
    assert [again.low, again.high] == pytest.approx([first.low, first.high], rel=1e-12)
    assert interval(log_loss, y, p, resamples(user, 100, seed=5)) != first
    assert first.low < first.value < first.high


def test_users_give_wider_intervals_than_rows():
    user, y, p = panel()
    by_user = interval(auc, y, p, resamples(user))
    by_row = interval(auc, y, p, resamples(np.arange(user.size)))
    assert by_user.high - by_user.low > 1.4 * (by_row.high - by_row.low)  # sqrt(3) for three equal rows each


def test_interval_of_a_mean_is_the_normal_one():
    values = generator(1, "normal").normal(size=400)
    found = interval(lambda y, p, w: weights.mean(y, w), values, values, resamples(np.arange(400), 2000))
    half = 1.96 * values.std() / 20
    assert found.low == pytest.approx(values.mean() - half, abs=0.15 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.15 * half)


def test_pairing_sees_a_small_difference():
    rng = generator(2, "pairs")
    y = rng.gamma(1.0, 10.0, 500)
    good = y + rng.normal(0, 5, 500)
    worse = good + np.sign(good - y) * 0.2  # a little worse on every row
    drawn = resamples(np.arange(500))
    found = paired_difference(mae, y, good, worse, drawn)
    assert found.value == pytest.approx(-0.2)
    assert found.high < 0
    single = interval(mae, y, good, drawn)
    assert found.high - found.low < (single.high - single.low) / 10
    assert paired_difference(mae, y, good, good, drawn).high == 0
    by_draws = of_draws(found.value, distribution(mae, y, good, drawn) - distribution(mae, y, worse, drawn))
    assert by_draws == found


def test_resamples_without_the_metric_are_left_out():
    y, p = np.zeros(30), np.linspace(0, 1, 30)
    found = interval(auc, y, p, resamples(np.arange(30), 50))
    assert np.isnan([found.value, found.low, found.high]).all()
    assert json.dumps(found.to_json()) == '{"value": null, "low": null, "high": null}'
    y[0] = 1  # one positive: about a third of the resamples lack it
    assert interval(auc, y, p, resamples(np.arange(30), 50)).low == 0


def test_options_reach_the_metric():
    y = np.arange(10.0)
    assert interval(pinball, y, y - 1, resamples(y), level=0.9).value == pytest.approx(0.9)


def test_bad_input_is_named():
    with pytest.raises(ConfigError, match="1"):
        resamples(np.arange(3), 1)
    with pytest.raises(ConfigError, match="3 rows"):
        distribution(mae, np.zeros(2), np.zeros(2), resamples(np.arange(3)))
