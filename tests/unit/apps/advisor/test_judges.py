"""The judges: by hand on small lists, random at its analytic value, hindsight at 1, every case in the count."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from habitus.apps.advisor.market import Outcome
from habitus.apps.advisor.protocol import Intervals, judge_lists, judge_scores, tail_recall, top

N = 12


def drawn(n: int = 400, seed: int = 0) -> tuple[Any, np.ndarray, Outcome, np.ndarray]:
    """A market of 12 assets, two without a price; random scores, buys, rises and holdings."""
    rng = np.random.default_rng(seed)
    view = SimpleNamespace(is_open=np.arange(N) >= 2, n_assets=N)
    outcome = Outcome(rng.random((n, N)) < 0.15, rng.random(N) < 0.5, rng.normal(0, 0.01, N))
    return view, rng.random((n, N)), outcome, rng.random((n, N)) < 0.1


def test_top_gives_the_first_of_equals_and_no_closed_asset() -> None:
    scores = np.array([[1.0, 5, 5, 5, 0], [-np.inf, 3, -np.inf, 7, -np.inf]])
    assert top(scores, 3).tolist() == [[1, 2, 3], [3, 1, -1]]


SCORES = st.lists(st.sampled_from([0.0, 1.0, 2.0, -np.inf]), min_size=6, max_size=6)


@given(st.lists(SCORES, min_size=1), st.integers(1, 8))
def test_top_is_the_stable_sort(rows: list[list[float]], k: int) -> None:
    scores = np.array(rows)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    expected = np.where(np.isfinite(np.take_along_axis(scores, order, 1)), order, -1)
    np.testing.assert_array_equal(top(scores, k), expected)


def test_hits_by_hand_an_empty_place_is_a_miss() -> None:
    bought = np.array([[True, False, False, True], [False] * 4])
    outcome = Outcome(bought, np.array([False, True, True, True]), np.zeros(4))
    lists = np.array([[0, 1, -1], [2, -1, -1]])
    found = judge_lists(lists, lists, outcome, np.zeros((2, 4), bool)).figures
    assert found["pref"].tolist() == [1, 0]
    assert found["prof"].tolist() == [1, 1]
    assert found["comb"].tolist() == [0, 0]  # what was bought fell, what rose was not bought
    empty = lists[:, 2:]
    assert judge_lists(empty, empty, outcome, np.zeros((2, 4), bool)).figures["prof"].tolist() == [0, 0]


def test_only_the_first_three_count_for_hits() -> None:
    outcome = Outcome(np.array([[False, False, False, True]]), np.ones(4, bool), np.zeros(4))
    lists = np.array([[0, 1, 2, 3]])
    found = judge_lists(lists, lists, outcome, np.zeros((1, 4), bool)).figures
    assert (found["pref"][0], found["comb"][0]) == (0, 0)
    assert found["ndcg"][0] == pytest.approx(1 / np.log2(5))


def test_ndcg_asks_for_assets_never_bought_before() -> None:
    outcome = Outcome(np.array([[True, True, False], [True, False, False]]), np.ones(3, bool), np.zeros(3))
    had = np.array([[True, False, False], [True, False, False]])
    view: Any = SimpleNamespace(is_open=np.ones(3, bool), n_assets=3)
    found = judge_scores(view, np.array([[9.0, 1, 5], [9.0, 1, 5]]), outcome, had).figures["ndcg"]
    assert found[0] == pytest.approx(1 / np.log2(3))  # the list without what one had is 2, 1
    assert np.isnan(found[1])  # nothing new was bought: no figure, and no zero


def test_roi_is_the_mean_of_assets_with_a_later_price() -> None:
    outcome = Outcome(np.zeros((1, 3), bool), np.ones(3, bool), np.array([0.02, np.nan, 0.04]))
    lists = np.array([[0, 1, 2]])
    found = judge_lists(lists, lists, outcome, np.zeros((1, 3), bool)).figures["roi"]
    assert found[0] == pytest.approx(0.03)


def test_comb_is_never_above_pref_or_prof_and_closed_assets_are_never_named() -> None:
    view, scores, outcome, had = drawn()
    found = judge_scores(view, scores, outcome, had).figures
    assert (found["comb"] <= np.minimum(found["pref"], found["prof"])).all()
    assert 0 < found["comb"].mean() < found["pref"].mean()
    only_closed = Outcome(np.broadcast_to(np.arange(N) < 2, (400, N)), np.ones(N, bool), np.zeros(N))
    assert judge_scores(view, scores, only_closed, had).figures["pref"].sum() == 0


def test_random_is_at_its_analytic_value() -> None:
    view, scores, outcome, had = drawn(20_000)
    found = judge_scores(view, scores, outcome, had).figures["pref"].mean()
    n_open, n_good = 10, (outcome.bought & view.is_open).sum(1)
    miss = np.ones(len(n_good))
    for place in range(3):
        miss *= np.maximum(n_open - n_good - place, 0) / (n_open - place)
    assert found == pytest.approx(float(1 - miss.mean()), abs=0.012)  # 3.5 standard errors


def test_hindsight_is_1_where_a_good_buy_exists() -> None:
    view, _, outcome, had = drawn()
    found = judge_scores(view, 2.0 * outcome.good + outcome.bought, outcome, had).figures
    has = (outcome.good & view.is_open).any(1)
    assert 0 < has.sum() < len(has)
    for name in ("pref", "prof", "comb"):
        assert (found[name][has] == 1).all()
    assert found["comb"][~has].sum() == 0


def test_tail_recall_leaves_out_what_is_held_and_what_everybody_buys() -> None:
    n = 40
    view: Any = SimpleNamespace(n_assets=n, buys={180: np.arange(n)[::-1].astype(float)})  # 0 to 24 are the crowd's
    bought = np.zeros((3, n), bool)
    bought[0, [3, 30, 31, 32]] = True
    bought[1, 5] = True
    bought[2, 30] = True
    held = np.zeros((3, n), bool)
    held[0, 32] = True
    outcome = Outcome(bought, np.ones(n, bool), np.zeros(n))
    retrieved = np.array([[30, 3, -1], [5, -1, -1], [7, 8, -1]])
    found = tail_recall(view, retrieved, outcome, held)
    assert found[0] == 0.5  # of 30 and 31
    assert np.isnan(found[1])
    assert found[2] == 0


def test_intervals_resample_customers_not_cases() -> None:
    rng = np.random.default_rng(0)
    each = rng.random(60)
    once, often = Intervals(np.arange(60)), Intervals(np.repeat(np.arange(60), 14))
    one, many = once.mean(each), often.mean(np.repeat(each, 14))
    assert (one["low"], one["high"]) == pytest.approx((many["low"], many["high"]), abs=1e-6)
    assert many["n"] == 14 * one["n"]
    assert one["low"] < each.mean() < one["high"]


def test_a_figure_without_cases_is_none() -> None:
    found = Intervals(np.array([1, 2])).mean(np.array([np.nan, 1.0]), np.array([True, False]))
    assert found == {"value": None, "low": None, "high": None, "n": 0}
