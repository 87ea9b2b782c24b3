from __future__ import annotations

import numpy as np
import pytest

from habitus.core.errors import ConfigError
from habitus.metrics.bootstrap import distribution, resamples
from habitus.metrics.classification import auc, normalised_entropy
from habitus.metrics.clustered import (
    auc_difference,
    auc_error,
    auc_interval,
    expected_auc,
    placements,
    user_auc,
)


def clustered_rows(n_users: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Users with a temper of their own, unequal numbers of rows, two scores that share noise, ties."""
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(n_users), rng.geometric(0.1, n_users))
    temper = rng.normal(size=n_users)[user]
    signal = rng.normal(size=user.size)
    y = (rng.random(user.size) < 1 / (1 + np.exp(2.5 - temper - 0.7 * signal))).astype(np.int64)
    one = np.round(temper + 0.7 * signal + 0.3 * rng.normal(size=user.size), 1)
    other = np.round(0.5 * temper + 0.5 * signal + rng.normal(size=user.size), 1)
    return y, one, other, user


def naive_user_auc(y: np.ndarray, p: np.ndarray, user: np.ndarray) -> tuple[float, float]:
    values, weights = [], []
    for one in np.unique(user):
        label, score = y[user == one], p[user == one]
        if 0 < label.sum() < label.size:
            pairs = (score[label == 1][:, None] > score[label == 0]) + 0.5 * (
                score[label == 1][:, None] == score[label == 0]
            )
            values.append(pairs.mean())
            weights.append(label.size)
    return float(np.average(values, weights=weights)), sum(weights) / y.size


def test_user_auc_equals_a_loop_with_ties_and_one_class_users():
    y, p, _, user = clustered_rows(60, 1)
    order = np.random.default_rng(0).permutation(y.size)
    found = user_auc(y[order], p[order], user[order])
    value, share = naive_user_auc(y, p, user)
    assert found.value == pytest.approx(value, abs=1e-12)
    assert found.share == pytest.approx(share)
    assert 0 < found.n_users < 60


def test_user_auc_without_a_user_of_both_labels_is_nan():
    found = user_auc(np.array([0, 1]), np.array([0.1, 0.2]), np.array([1, 2]))
    assert np.isnan(found.value)
    assert found.share == 0


def test_mean_of_placements_is_the_auc_in_either_class():
    y, p, _, _ = clustered_rows(40, 2)
    placed = placements(y, p)
    assert placed[y == 1].mean() == pytest.approx(auc(y, p))
    assert placed[y == 0].mean() == pytest.approx(auc(y, p))


@pytest.mark.parametrize("is_paired", [False, True])
def test_error_is_that_of_a_bootstrap_over_users(is_paired: bool):
    y, p, q, user = clustered_rows(2000, 3)
    assert y.size > 15_000
    drawn = resamples(user, 400)
    draws = distribution(auc, y, p, drawn)
    if is_paired:
        draws = draws - distribution(auc, y, q, drawn)
    found = auc_error(y, p, user, against=q if is_paired else None)
    assert found == pytest.approx(draws.std(), rel=0.12)  # 400 draws know their spread to 3.5 %
    by_row = auc_error(y, p, np.arange(y.size), against=q if is_paired else None)
    assert is_paired or found > 1.1 * by_row  # rows taken as independent promise too much


def test_difference_to_itself_is_nothing_and_intervals_hold_the_value():
    y, p, q, user = clustered_rows(300, 4)
    same = auc_difference(y, p, p, user)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    found = auc_difference(y, p, q, user)
    assert found.low < found.value < found.high
    assert found.value == pytest.approx(auc(y, p) - auc(y, q))
    assert auc_interval(y, p, user).value == pytest.approx(auc(y, p))


def test_expected_auc_is_the_mean_over_drawn_labels():
    rng = np.random.default_rng(5)
    truth = rng.beta(1, 9, 400)
    score = np.round(truth + rng.normal(size=400) * 0.05, 2)  # ties
    pairs = truth[:, None] * (1 - truth)
    wins = (score[:, None] > score) + 0.5 * (score[:, None] == score)
    np.fill_diagonal(pairs, 0)
    assert expected_auc(truth, score) == pytest.approx(np.sum(pairs * wins) / pairs.sum(), abs=1e-12)
    assert expected_auc(truth, truth) > expected_auc(truth, score)


def test_normalised_entropy_is_one_for_the_base_rate_and_takes_resamples():
    y = np.array([1, 0, 0, 0, 1, 0])
    assert normalised_entropy(y, np.full(6, 1 / 3)) == pytest.approx(1)
    assert np.isnan(normalised_entropy(np.zeros(3), np.full(3, 0.1)))
    weight = np.array([[1, 1, 1, 1, 1, 1], [2, 1, 0, 1, 1, 1]])
    found = normalised_entropy(y, np.linspace(0.2, 0.5, 6), weight)
    twice = np.array([0, 0, 1, 3, 4, 5])
    assert np.shape(found) == (2,)
    assert np.atleast_1d(found)[1] == pytest.approx(
        normalised_entropy(y[twice], np.linspace(0.2, 0.5, 6)[twice]), rel=1e-6
    )


def test_bad_outcomes_and_scores_are_refused():
    with pytest.raises(ConfigError, match="outcomes 0 and 1"):
        user_auc(np.array([0, 2]), np.array([0.1, 0.2]), np.array([1, 1]))
    with pytest.raises(ConfigError, match="a score for every row"):
        placements(np.array([0, 1]), np.array([0.1, np.nan]))
    with pytest.raises(ConfigError, match=r"probabilities in \[0, 1\]"):
        expected_auc(np.array([0.5, 1.5]), np.array([1, 2]))
