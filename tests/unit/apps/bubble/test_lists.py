"""Lists out of scores, chance in slots, and variety for rank."""

import numpy as np

from habitus.apps.bubble.lists import first_free, ranking, varied, with_chance

KEY = np.arange(40)


def test_a_ranking_is_the_sorted_scores_outside_the_mask():
    rng = np.random.default_rng(0)
    scores, blocked = rng.random((7, 30)).astype(np.float32), rng.random((7, 30)) < 0.5
    found = ranking(scores, blocked, 12)
    for u in range(7):
        free = [i for i in np.argsort(-scores[u], kind="stable") if not blocked[u, i]][:12]
        assert [i for i in found[u].tolist() if i >= 0] == free
    assert ranking(np.zeros((1, 5)), None, 3).tolist() == [[0, 1, 2]]
    assert ranking(np.zeros((1, 2)), None, 4).tolist() == [[0, 1, -1, -1]]


def test_first_free_keeps_the_order_and_says_when_nothing_is_left():
    ranked = np.array([[3, 1, 0, 2], [2, 0, -1, -1]])
    blocked = np.array([[True, False, False, False], [False, False, True, False]])
    assert first_free(ranked, blocked, 3).tolist() == [[3, 1, 2], [0, -1, -1]]
    assert first_free(ranked, None, 2).tolist() == [[3, 1], [2, 0]]


def test_chance_replaces_its_share_with_items_that_are_free_and_new():
    lists = np.tile(np.arange(20), (40, 1))
    blocked = np.zeros((40, 200), bool)
    blocked[:, 20:100] = True
    found = with_chance(lists, blocked, 200, 0.5, 1, KEY, 2)
    is_new = found != lists
    assert 0.4 < is_new.mean() < 0.6
    assert (np.sort(found, axis=1)[:, 1:] != np.sort(found, axis=1)[:, :-1]).all()
    assert not blocked[np.arange(40)[:, None], found].any()
    assert np.array_equal(found[~is_new], lists[~is_new])


def test_a_list_of_chance_alone_forgets_what_was_on_it():
    blocked = np.zeros((40, 200), bool)
    one = with_chance(np.tile(np.arange(20), (40, 1)), blocked, 200, 1.0, 1, KEY, 2)
    two = with_chance(np.tile(np.arange(50, 70), (40, 1)), blocked, 200, 1.0, 1, KEY, 2)
    assert np.array_equal(one, two)
    assert not np.array_equal(one, with_chance(one, blocked, 200, 1.0, 1, KEY, 3))


def test_variety_chooses_like_a_loop_over_candidates():
    rng = np.random.default_rng(3)
    share, ranked = rng.dirichlet(np.ones(4), 30), np.stack([rng.permutation(30)[:12] for _ in range(5)])
    found = varied(ranked, share, 6, 0.4)
    unit = share / np.linalg.norm(share, axis=1, keepdims=True)
    for u in range(5):
        chosen: list[int] = []
        for _ in range(6):
            worth = {
                i: 0.6 * (1 - k / 12) - 0.4 * max([unit[i] @ unit[j] for j in chosen], default=0.0)
                for k, i in enumerate(ranked[u].tolist())
                if i not in chosen
            }
            chosen.append(max(worth, key=worth.__getitem__))
        assert found[u].tolist() == chosen
    assert varied(ranked, share, 6, 0.0).tolist() == ranked[:, :6].tolist()
