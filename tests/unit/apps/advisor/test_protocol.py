"""How advice is judged: every case counts, hindsight is perfect, random is where arithmetic puts it."""

from __future__ import annotations

from math import comb

import numpy as np

from habitus.apps.advisor.baselines import Baselines, latest_holdings, user_knn
from habitus.apps.advisor.prompt import read_answer
from habitus.apps.advisor.protocol import Intervals, judge_lists, judge_scores, tail_recall, top
from habitus.data.sources.far_trans_world import read_truth


def judged(small, scores, people):
    trades, outcome = small.view.trades(people), small.view.outcome(people)
    had = trades.matrix(trades.is_buy.astype(float), small.view.n_assets) > 0
    return judge_scores(small.view, scores, outcome, had), outcome, had


def test_hindsight_is_perfect_where_a_good_buy_exists(small):
    people = np.arange(150)
    outcome = small.view.outcome(people)
    found, _, _ = judged(small, 2.0 * outcome.good + outcome.bought, people)
    cond = (outcome.good & small.view.is_open).any(1)
    assert 5 < cond.sum() < 150
    assert found.figures["comb"][cond].min() == 1.0
    assert found.figures["pref"][~outcome.bought.any(1)].max() == 0  # a case without a buy is a miss, and is there
    ndcg = found.figures["ndcg"]
    assert np.nanmax(ndcg) <= 1 + 1e-6


def test_comb_is_never_above_pref_or_prof(small):
    people = np.arange(150)
    draws = np.random.default_rng(0)
    found, _, _ = judged(small, draws.random((150, small.view.n_assets)), people)
    for suffix in ("", "_new"):
        both = np.minimum(found.figures[f"pref{suffix}"], found.figures[f"prof{suffix}"])
        assert (found.figures[f"comb{suffix}"] <= both).all()


def test_random_is_at_its_analytic_value(small):
    people = np.arange(150)
    n_open = int(small.view.is_open.sum())
    draws = np.random.default_rng(1)
    means = [
        judged(small, draws.random((150, small.view.n_assets)), people)[0].figures["prof"].mean() for _ in range(20)
    ]
    n_rise = int((small.view.outcome(people).rises & small.view.is_open).sum())
    expected = 1 - comb(n_open - n_rise, 3) / comb(n_open, 3)
    assert abs(np.mean(means) - expected) < 4 * 0.5 / np.sqrt(150 * 20)


def test_an_empty_place_is_a_miss(small):
    people = np.arange(10)
    outcome = small.view.outcome(people)
    nothing = np.full((10, 10), -1)
    found = judge_lists(nothing, nothing, outcome, np.zeros_like(outcome.bought))
    assert found.figures["pref"].tolist() == [0.0] * 10
    assert np.nan_to_num(found.figures["ndcg"]).max() == 0
    assert np.isnan(found.figures["roi"]).all()  # nothing was named, so nothing was earned or lost


def test_top_breaks_ties_by_place():
    scores = np.array([[1.0, 1.0, 1.0, 2.0, -np.inf], [-np.inf] * 5])
    assert top(scores, 3).tolist() == [[3, 0, 1], [-1, -1, -1]]
    wide = np.random.default_rng(2).integers(0, 5, (40, 60)).astype(float)
    assert (top(wide, 10) == np.argsort(-wide, axis=1, kind="stable")[:, :10]).all()


def test_tail_recall_counts_what_is_neither_held_nor_common(small):
    people = np.arange(150)
    outcome = small.view.outcome(people)
    everything = np.tile(np.arange(small.view.n_assets), (150, 1))
    held = np.zeros_like(outcome.bought)
    recall = tail_recall(small.view, everything, outcome, held)
    assert np.nanmin(recall) == 1.0
    assert np.isnan(recall).any()
    assert np.nanmax(tail_recall(small.view, everything[:, :0] - 1, outcome, held)) == 0


def test_intervals_draw_customers_and_not_cases():
    one = Intervals(np.repeat(np.arange(30), 50))
    figures = np.repeat((np.arange(30) % 2).astype(float), 50)
    found = one.mean(figures)
    assert found["value"] == 0.5
    assert found["n"] == 1500
    assert found["high"] - found["low"] > 0.25  # 30 customers, not 1,500 independent cases


def test_user_knn_does_not_count_the_customer_itself(small):
    has = small.view.bought[np.arange(20)]
    scores = user_knn(small.view.bought, has)
    assert scores.shape == (20, small.view.n_assets)
    assert (scores >= 0).all()
    assert scores.max() > 0


def test_holdings_come_before_popularity(small):
    people = np.arange(60)
    trades = small.view.trades(people)
    scores = latest_holdings(small.view, trades)
    units = trades.matrix(np.where(trades.is_buy, trades.units, -trades.units), small.view.n_assets)
    held = (units > 1e-4).any(1)
    assert held.any()
    best = scores.argmax(1)
    assert (units[np.arange(60), best][held] > 1e-4).all()


def test_the_oracle_is_a_law_of_probability(small):
    from habitus.apps.advisor.baselines import Baselines

    truth = read_truth(small.folder)
    assert truth is not None
    p = Baselines(small.market, truth, has_learnt=False).oracle(small.view, small.view.trades(np.arange(50)))
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-5)
    assert (p[:, ~small.view.is_open] == 0).all()


def test_answers_are_read_strictly():
    known = {"GR0000000011", "LU0000000022"}
    text = "<think>- GR0000000011</think>One.\n- LU0000000022 LU0000000022 GR0000000011\n- LU0000000022\n- nothing\n"
    found = read_answer(text, known)
    assert found.isins == ["LU0000000022", None]
    assert not found.is_unparsable
    assert read_answer("GR0000000011 is best", known).is_unparsable
    assert read_answer("", known).isins == []


def test_who_knows_the_law_but_not_the_taste_stands_between_the_crowd_and_the_oracle(small):
    """By the mean log of the probability given to assets bought later; the crowd's shares are given, too."""
    rows, people = Baselines(small.market, read_truth(small.folder), has_learnt=False), np.arange(150)
    trades, bought = small.view.trades(people), small.view.outcome(people).bought & small.view.is_open
    crowd = (small.view.buys[10**6] + 0.5) * small.view.is_open
    given = {"crowd": np.broadcast_to(crowd / crowd.sum(), bought.shape), "oracle": rows.oracle(small.view, trades),
             "observer": rows.observer(small.view, trades)}  # fmt: skip
    for p in (given["oracle"], given["observer"]):
        np.testing.assert_allclose(p.sum(1), 1, rtol=1e-6)
        assert p[:, ~small.view.is_open].max() == 0
    said = {name: float(np.log(p[bought] + 1e-9).mean()) for name, p in given.items()}
    assert said["crowd"] < said["observer"] < said["oracle"]
