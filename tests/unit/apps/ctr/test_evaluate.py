from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from habitus.apps.ctr.evaluate import calibrated, differences, fit_map, ladder, probability, score_card
from habitus.apps.ctr.examples import Examples
from habitus.apps.ctr.segments import segment_table, segments, trend, user_traits
from habitus.data.history import BehaviourLog, History


def rows(seed: int = 0, n: int = 4000) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    logit = rng.normal(-2, 1, n)
    truth = probability(logit)
    return (rng.random(n) < truth).astype(np.int8), truth, rng.integers(0, 500, n), rng.normal(-2, 1, n)


def test_a_score_card_of_the_truth_is_calibrated_and_better_than_noise():
    label, truth, user, noise = rows()
    card, other = score_card(label, truth, user, truth=truth), score_card(label, probability(noise), user, truth=truth)
    assert card["auc_low"] < card["auc"] < card["auc_high"]
    assert card["auc"] > other["auc"] + 0.1
    assert card["normalised_entropy"] < 1 < other["normalised_entropy"]
    assert card["ece"] < 0.02
    assert card["p_over_y"] == pytest.approx(1, abs=0.1)
    assert card["expected_auc"] == pytest.approx(card["auc"], abs=4 * card["auc_error"])
    assert card["top_10"] > 0.2


def test_differences_say_who_wins():
    label, truth, user, noise = rows()
    p = {"noise": probability(noise), "truth": truth, "same": probability(noise)}
    found = {row["model"]: row for row in differences(label, p, user, against="noise", n_resamples=50)}
    assert found["truth"]["verdict"] == "better"
    assert found["truth"]["log_loss"]["high"] < 0
    assert found["same"]["verdict"] == "level"


@pytest.mark.parametrize("kind", ["platt", "isotonic"])
def test_a_map_reads_the_validation_rows_alone_and_mends_the_mean(kind: Any):
    label, truth, user, _ = rows(1)
    skewed = np.log(truth / (1 - truth)) * 2 + 1
    p = calibrated(kind, label, skewed, skewed)
    assert p.mean() == pytest.approx(label.mean(), abs=0.005)
    assert score_card(label, p, user)["ece"] < 0.5 * score_card(label, probability(skewed), user)["ece"]
    assert fit_map("none", label, skewed) is None


def test_the_ladder_calls_a_model_above_its_ceiling_a_leak():
    card = {"auc": 0.60, "auc_error": 0.003}
    cards = {"LR": card, "leaky": card | {"auc": 0.72}, "sly": card | {"expected_auc": 0.61}}
    found = {row["model"]: row for row in ladder(cards, {"s1": 0.6}, dict.fromkeys(cards, ("s1", 0.01)))}
    assert [found[name]["is_leak"] for name in cards] == [False, True, True]
    assert found["LR"]["is_met"]


def traits_of(cate: list[int], day: list[float]) -> tuple[float, float]:
    """Entropy and drift of one user with these events, asked on day 20."""
    n = len(cate)
    time = (np.array(day) * 86_400).astype(np.int64)
    log = BehaviourLog.build(np.zeros(n), time, np.zeros(n), np.array(cate), np.ones(n), n_users=1, kinds=("pv",))
    now = np.array([20 * 86_400])
    history = History.before(log, np.array([0]), now)
    fake: Any = type("Rows", (), {"user": np.array([0]), "time": now, "history": history})
    _, entropy, drift = user_traits(fake)
    return float(entropy[0]), float(drift[0])


def test_diversity_and_drift_are_what_was_planted():
    day = [*np.linspace(1, 16, 60), *np.linspace(17.5, 19.5, 30)]
    narrow, steady = traits_of([1] * 90, day)
    wide, mixed = traits_of([i % 6 for i in range(90)], day)
    _, shifting = traits_of([1] * 60 + [2] * 30, day)
    assert narrow == 0
    assert wide == pytest.approx(np.log(6) + 5 / 180, abs=1e-9)  # Miller-Madow
    assert steady == 0
    assert abs(mixed) < 0.05
    assert shifting > 0.4


def test_segments_read_nothing_after_the_first_impression(parts: dict[str, Examples]):
    test = parts["test"]
    before = user_traits(test)
    log = test.history.log
    kept = np.zeros(log.n_events, dtype=bool)
    first = np.unique(test.user, return_index=True)[1]
    for low, high in zip(test.history.user_start[first], test.history.hist_end[first]):
        kept[low:high] = True
    assert not kept.all()
    changed = replace(log, cate=np.where(kept, log.cate, 99).astype(np.int32))
    after = user_traits(replace(test, history=replace(test.history, log=changed)))
    for one, other in zip(before, after):
        np.testing.assert_array_equal(one, other)


def test_segment_table_covers_the_rows_and_a_trend_is_found(parts: dict[str, Examples]):
    test = parts["test"]
    found = segments(test, parts["train"])
    assert set(found) == {"history", "diversity", "drift", "ad"}
    for names, place in found.values():
        assert place.shape == (len(test),)
        assert place.max() < len(names)
    assert test.truth is not None
    p = {"base": np.full(len(test), 0.2), "truth": test.truth}
    rows_of = segment_table(test.label, p, test.user, found, against="base")
    assert any(row["kind"] == "diversity" and row["model"] == "truth" and row["gain"]["value"] > 0 for row in rows_of)
    assert np.isfinite(trend(rows_of, "diversity", "truth")["z"])
