"""Measures of variety against values written out by hand or by plain loops."""

import numpy as np
import pytest

from habitus.metrics.diversity import (
    coverage,
    divergence,
    entropy,
    exposure,
    gini,
    intra_list,
    jensen_shannon,
    n_categories,
    shares,
    top_share,
)


def test_entropy_is_one_for_even_shares_and_zero_for_one_category():
    assert entropy(np.full((2, 5), 0.2)) == pytest.approx([1, 1])
    assert entropy(np.array([0.25, 0.25, 0.5, 0.0])) == pytest.approx(1.5 / 2)
    assert entropy(np.ones((3, 1))).tolist() == [0, 0, 0]


def test_jensen_shannon_is_symmetric_and_agrees_with_scipy():
    from scipy.spatial.distance import jensenshannon

    p, q = shares(np.random.default_rng(0).random((2, 6, 7)))
    expected = jensenshannon(p, q, base=2, axis=1) ** 2
    assert jensen_shannon(p, q) == pytest.approx(expected)
    assert jensen_shannon(q, p) == pytest.approx(expected)
    assert jensen_shannon(p, p) == pytest.approx(0, abs=1e-12)


def test_divergence_is_finite_where_a_share_is_missing():
    found = divergence(np.array([1.0, 0.0]), np.array([0.0, 1.0]))
    assert 10 < found < 20


def test_intra_list_is_the_mean_over_pairs():
    rng = np.random.default_rng(1)
    features, lists = rng.random((9, 4)), np.array([[0, 3, 5, 8], [1, 2, -1, -1], [4, -1, -1, -1]])
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    pairs = [(a, b) for a in (0, 3, 5, 8) for b in (0, 3, 5, 8) if a != b]
    found = intra_list(lists, features)
    assert found[0] == pytest.approx(np.mean([1 - unit[a] @ unit[b] for a, b in pairs]))
    assert found[1] == pytest.approx(1 - unit[1] @ unit[2])
    assert np.isnan(found[2])


def test_gini_and_coverage_count_what_was_never_shown():
    assert gini(np.array([[0, 0, 0, 0]]), 4) == pytest.approx(0.75)
    assert gini(np.array([[2, 1]]), 2 + 1) == pytest.approx(1 / 3)
    assert gini(np.full((1, 3), -1), 4) == 0
    assert coverage(np.array([[0, 0], [3, -1]]), 8) == 0.25


def test_exposure_sums_features_and_leaves_empty_places_out():
    features = np.eye(3)
    found = exposure(np.array([[0, 0, 2], [-1, -1, -1]]), features)
    assert found.tolist() == [[2, 0, 1], [0, 0, 0]]
    assert top_share(shares(found))[0] == pytest.approx(2 / 3)
    assert n_categories(found).tolist() == [2, 0]
