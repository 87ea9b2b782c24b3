"""Codebook: planted clusters are found, no cluster is dead or huge, two levels assign as they were fitted."""

from __future__ import annotations

import numpy as np
import pytest

from habitus.tokens.codebook import capped, fit_codebook, spherical_kmeans


def planted(n_clusters: int, n_each: int, d: int = 16, noise: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    centre = draw.normal(size=(n_clusters, d))
    centre /= np.linalg.norm(centre, axis=1, keepdims=True)
    truth = np.repeat(np.arange(n_clusters), n_each)
    vectors = centre[truth] + noise * draw.normal(size=(len(truth), d))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), truth


@pytest.mark.parametrize("one_level", [4096, 8])
def test_planted_clusters_are_found(one_level: int):
    vectors, truth = planted(40, 50)
    book, assigned = fit_codebook(vectors, 80, seed=1, one_level=one_level)
    pairs = np.unique(np.stack([assigned, truth], 1), axis=0)
    size = np.bincount(pairs[:, 0], minlength=len(book.centres))
    assert (size == 1).mean() > 0.95  # a cluster holds items of one planted kind
    assert (book.coarse is None) == (one_level == 4096)
    np.testing.assert_array_equal(book.assign(vectors[::-1]), assigned[::-1])
    np.testing.assert_allclose(np.linalg.norm(book.centres, axis=1), 1, atol=1e-5)


def test_no_cluster_is_dead_or_huge():
    draw = np.random.default_rng(0)
    vectors = draw.normal(size=(4000, 8)) * np.array([5, 1, 1, 1, 1, 1, 1, 1])  # most of it in two heaps
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    _, assigned = spherical_kmeans(vectors, 100, seed=0)
    size = np.bincount(assigned, minlength=100)
    assert size.min() > 0
    assert size.max() <= 5 * size.mean()


def test_few_or_equal_vectors_are_no_special_case():
    same = np.tile(np.eye(4, dtype=np.float32)[0], (20, 1))
    centres, assigned = spherical_kmeans(same, 5)
    assert centres.shape == (5, 4)
    assert set(assigned.tolist()) == {0}
    centres, assigned = spherical_kmeans(np.eye(4, dtype=np.float32), 9)
    assert sorted(assigned.tolist()) == [0, 1, 2, 3]
    a, b = (fit_codebook(planted(10, 30)[0], 30, seed=s)[1] for s in (3, 3))
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("one_level", [4096, 16])
def test_no_cluster_is_above_the_cap_and_who_stayed_is_nearest(one_level: int):
    draw = np.random.default_rng(0)
    vectors = draw.standard_normal((3000, 8), np.float32)
    vectors[:1200] = vectors[0]  # items of equal content
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    book, nearest = fit_codebook(vectors, 60, one_level=one_level)
    assert np.bincount(nearest).max() >= 1200
    found = capped(book, vectors, nearest)
    size = np.bincount(found, minlength=60)
    assert size.max() <= 5 * 3000 / 60
    assert size.sum() == 3000
    is_small = np.bincount(nearest, minlength=60)[nearest] <= 5 * 3000 / 60
    np.testing.assert_array_equal(found[is_small], nearest[is_small])
    np.testing.assert_array_equal(found, capped(book, vectors, nearest))
    np.testing.assert_array_equal(capped(book, vectors, nearest, 3000.0), nearest)
