"""Ranking metrics against scikit-learn and by hand."""

from __future__ import annotations

import numpy as np
import pytest

from habitus.core.errors import ConfigError
from habitus.core.seeds import generator
from habitus.metrics.ranking import hit_rate, mrr, ndcg, ranks, recall, row_scores


def test_by_hand():
    rank = np.array([1, 2, 11])
    assert hit_rate(rank, 10) == pytest.approx(2 / 3)
    assert recall(rank, 10) == hit_rate(rank, 10)
    assert mrr(rank, 10) == pytest.approx((1 + 0.5) / 3)
    assert ndcg(rank, 10) == pytest.approx((1 + 1 / np.log2(3)) / 3)


def test_several_wanted_items_equal_scikit_learn():
    from sklearn.metrics import ndcg_score

    rng = generator(2, "ranking")
    score, is_wanted = rng.normal(size=(30, 20)), rng.uniform(size=(30, 20)) < 0.2
    is_wanted[:, 0] = True
    place = np.argsort(np.argsort(-score, axis=1), axis=1) + 1
    owner = np.nonzero(is_wanted)[0]
    assert ndcg(place[is_wanted], 5, owner=owner) == pytest.approx(ndcg_score(is_wanted, score, k=5))
    within = (is_wanted & (place <= 5)).sum(axis=1)
    assert recall(place[is_wanted], 5, owner=owner) == pytest.approx((within / is_wanted.sum(axis=1)).mean())
    assert hit_rate(place[is_wanted], 5, owner=owner) == pytest.approx((within > 0).mean())
    best = np.where(is_wanted, place, 99).min(axis=1)
    assert mrr(place[is_wanted], 5, owner=owner) == pytest.approx(np.where(best <= 5, 1 / best, 0).mean())


def test_a_constant_scorer_ranks_last():
    assert ranks(np.zeros((2, 7)), np.array([0, 6])).tolist() == [7, 7]


def test_rows_without_ranks():
    assert np.isnan(hit_rate(np.zeros(0, int), 5))
    assert row_scores(np.array([3, 1]), 2, "hit_rate").tolist() == [0, 1]
    with pytest.raises(ConfigError, match="lowest rank 0"):
        ndcg(np.array([0, 1]), 5)
    with pytest.raises(ConfigError, match="k=0"):
        ndcg(np.array([1]), 0)
