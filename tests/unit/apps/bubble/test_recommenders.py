"""Each recommender learns what is there to learn, keeps still when frozen, and gives the same bits for a seed."""

import copy

import numpy as np
import pytest

from habitus.apps.bubble.kinds import KINDS, check_recommender, make_recommender
from habitus.apps.bubble.loop import accuracy
from habitus.apps.bubble.recommenders import ItemKNN, ItemKNNConfig
from habitus.core.errors import ConfigError

SMALL = {
    "random": {},
    "popularity": {},
    "item_knn": {"k": 20},
    "mf_bpr": {"d_model": 16, "epochs": 40, "lr": 0.03, "batch": 512},
    "lightgcn": {"d_model": 16, "epochs": 40, "lr": 0.03, "batch": 512},
    "caser": {"epochs": 20, "model": {"d_model": 16}, "lr": 0.02, "length": 20},
    "sasrec": {"epochs": 8, "model": {"d_model": 16, "n_blocks": 1}, "lr": 0.01, "length": 20},
    "gru4rec": {"epochs": 20, "model": {"d_model": 16}, "lr": 0.02, "length": 20},
    "responder": {},
}


def fitted(kind, stage, seed=0):
    made = make_recommender({"kind": kind, **SMALL[kind]}, stage.catalogue)
    made.fit(stage.agents.likes, seed)
    return made


def more(stage):
    """The log with three more likes of every fifth agent."""
    row = np.repeat(np.arange(0, len(stage.agents), 5), 3)
    free = np.argsort(stage.agents.mask(), axis=1, kind="stable")[np.arange(0, len(stage.agents), 5), :3]
    return stage.agents.likes.plus(row, free.ravel())


@pytest.mark.parametrize("kind", list(SMALL))
def test_same_seed_same_bits_frozen_stays_and_new_likes_count(kind, stage):
    one, two = fitted(kind, stage), fitted(kind, stage)
    n = len(stage.agents)
    first = np.array(one.scores(n))
    assert first.shape == (n, stage.catalogue.n_items)
    assert first.dtype == np.float32
    assert np.array_equal(first, two.scores(n))
    log = more(stage)
    one.update(log, "none", 1)
    assert np.array_equal(first, one.scores(n))
    one.update(log, "retrain", 1)
    two.update(log, "retrain", 1)
    assert np.array_equal(one.scores(n), two.scores(n))
    assert not np.array_equal(first, one.scores(n))


@pytest.mark.parametrize("kind", list(SMALL))
def test_a_copy_goes_its_own_way_from_where_the_first_stood(kind, stage):
    one, n = fitted(kind, stage), len(stage.agents)
    two, three = copy.deepcopy(one), copy.deepcopy(one)
    before = np.array(one.scores(n))
    two.update(more(stage), "retrain", 1)
    assert np.array_equal(one.scores(n), before)
    one.update(more(stage), "retrain", 1)
    three.update(more(stage), "retrain", 1)
    assert np.array_equal(one.scores(n), two.scores(n))
    assert np.array_equal(one.scores(n), three.scores(n))


@pytest.mark.parametrize("kind", ["item_knn", "mf_bpr", "lightgcn", "caser", "sasrec", "gru4rec"])
def test_what_is_learnt_beats_chance(kind, stage):
    found = accuracy(fitted(kind, stage).scores(len(stage.agents)), stage.agents, False)
    luck = accuracy(fitted("random", stage).scores(len(stage.agents)), stage.agents, False)
    assert found["ndcg@20"] > 1.3 * luck["ndcg@20"]


@pytest.mark.parametrize("kind", ["item_knn", "mf_bpr", "sasrec"])
def test_folding_in_moves_those_who_liked_something(kind, stage):
    made, log, n = fitted(kind, stage), more(stage), len(stage.agents)
    before = made.scores(n)
    made.update(log, "fold_in", 1)
    moved = (before != made.scores(n)).any(axis=1)
    assert moved[::5].all()


def test_neighbours_are_those_of_implicit(stage):
    nearest = pytest.importorskip("implicit.nearest_neighbours", reason="the extra recsys is not installed")
    made = ItemKNN(ItemKNNConfig.parse({"k": 10}), stage.catalogue)
    made.fit(stage.agents.likes, 0)
    from scipy.sparse import coo_matrix

    weighted = nearest.bm25_weight(coo_matrix(stage.agents.likes.matrix()).T, 1.2, 0.75).T.tocsr()
    twin = nearest.ItemItemRecommender(K=10, num_threads=1)
    twin.fit(weighted, show_progress=False)
    a, b = made.near.toarray(), twin.similarity.toarray()
    # ties at the edge of the neighbourhood may fall either way: sums per item do not care
    assert a.sum(axis=1) == pytest.approx(b.sum(axis=1), rel=1e-6)
    assert (np.isclose(a, b)).mean() > 0.99


def test_als_of_implicit_joins_in(stage):
    pytest.importorskip("implicit", reason="the extra recsys is not installed")
    made = make_recommender({"kind": "als", "factors": 8, "iterations": 4}, stage.catalogue)
    made.fit(stage.agents.likes, 0)
    n = len(stage.agents)
    before = made.scores(n).copy()
    made.update(more(stage), "fold_in", 1)
    moved = np.abs(before - made.scores(n)).max(axis=1)
    assert moved[::5].min() > 1e-3


def test_unknown_kinds_and_keys_are_named():
    with pytest.raises(ConfigError, match="did you mean 'sasrec'"):
        check_recommender({"kind": "sasrek"})
    with pytest.raises(ConfigError, match="did you mean 'epochs'"):
        check_recommender({"kind": "mf_bpr", "epoch": 3}, where="recommenders.MF")
    assert set(SMALL) | {"als", "artifact"} == set(KINDS)
