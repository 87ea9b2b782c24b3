"""OTD and T-mAP against exhaustive search and against hand-made values."""

from itertools import combinations, permutations

import numpy as np
import pytest

from habitus.core.errors import ConfigError
from habitus.metrics.alignment import Timeline, matched, otd, t_map


def random_timeline(draw: np.random.Generator, n: int, n_rows: int, n_labels: int) -> Timeline:
    return Timeline(
        draw.integers(0, n_rows, n), draw.random(n) * 4, draw.integers(0, n_labels, n), draw.permutation(n) / n
    )


def cheapest(told: list[float], real: list[float], insert: float, delete: float) -> float:
    """Try every pairing of every subset."""
    best = delete * len(told) + insert * len(real)
    for k in range(1, min(len(told), len(real)) + 1):
        for some in combinations(told, k):
            for others in permutations(real, k):
                moved = sum(abs(a - b) for a, b in zip(some, others))
                best = min(best, moved + delete * (len(told) - k) + insert * (len(real) - k))
    return best


def test_otd_is_the_cheapest_of_all_pairings() -> None:
    draw = np.random.default_rng(0)
    for _ in range(20):
        n_rows, n_labels = 3, 2
        real, told = (random_timeline(draw, 11, n_rows, n_labels) for _ in range(2))
        found = otd(real, told, n_rows, insert=0.7, delete=0.4)
        for row in range(n_rows):
            expected = 0.0
            for label in range(n_labels):
                a, b = ([*t.time[(t.row == row) & (t.label == label)]] for t in (told, real))
                expected += cheapest(a, b, 0.7, 0.4)
            assert found[row] == pytest.approx(expected)


def test_otd_of_equal_rows_is_0_and_of_empty_ones_counts_events() -> None:
    real = random_timeline(np.random.default_rng(1), 20, 4, 3)
    assert otd(real, real, 4).sum() == pytest.approx(0)
    empty = Timeline(*(np.zeros(0, int) for _ in range(3)))
    assert otd(real, empty, 4, insert=2.0).tolist() == (2.0 * np.bincount(real.row, minlength=4)).tolist()
    assert otd(empty, real, 5).tolist() == np.bincount(real.row, minlength=5).tolist()


def test_matching_is_the_best_at_every_score() -> None:
    """Above any score, as many told events are matched as any matching could serve."""
    draw = np.random.default_rng(2)
    for _ in range(30):
        real, told = random_timeline(draw, 6, 1, 1), random_timeline(draw, 7, 1, 1)
        found = matched(real, told, 1, 0.5)
        near = np.abs(told.time[:, None] - real.time) <= 0.5
        order = np.argsort(-told.score)
        for k in range(1, 8):
            some = order[:k]
            assert found[some].sum() == most(near[some])


def most(near: np.ndarray) -> int:
    """Largest matching of a small table, by trying subsets of its rows."""
    for k in range(min(near.shape), 0, -1):
        for rows in combinations(range(near.shape[0]), k):
            if any(all(near[r, c] for r, c in zip(rows, cols)) for cols in permutations(range(near.shape[1]), k)):
                return k
    return 0


def test_t_map_by_hand() -> None:
    # label 0: three told, the surest wrong; 2 real events, both found -> AP = 1/2 * 1/2 + 1/2 * 2/3
    # label 1: real, never told -> 0; label 2: told, not real -> not counted
    real = Timeline(np.array([0, 1, 0]), np.array([1.0, 1.0, 5.0]), np.array([0, 0, 1]))
    told = Timeline(
        np.array([0, 0, 1, 1]), np.array([9.0, 1.2, 0.8, 3.0]), np.array([0, 0, 0, 2]), np.array([3, 2, 1, 9])
    )
    assert t_map(real, told, 2, 0.5) == pytest.approx((1 / 2 * 1 / 2 + 1 / 2 * 2 / 3) / 2)


def test_told_events_of_one_score_enter_together() -> None:
    real = Timeline(np.array([0]), np.array([1.0]), np.array([0]))
    for times in ([1.0, 9.0], [9.0, 1.0]):
        told = Timeline(np.array([0, 0]), np.array(times), np.array([0, 0]))
        assert t_map(real, told, 1, 0.1) == 0.5


def test_t_map_is_1_for_the_truth_and_nan_without_real_events() -> None:
    real = random_timeline(np.random.default_rng(3), 40, 5, 3)
    assert t_map(real, real, 5, 0.01) == pytest.approx(1.0)
    empty = Timeline(*(np.zeros(0, int) for _ in range(3)))
    assert np.isnan(t_map(empty, real, 5, 0.1))
    assert t_map(real, empty, 5, 0.1) == 0.0


def test_small_blocks_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(4)
    real, told = random_timeline(draw, 200, 20, 3), random_timeline(draw, 150, 20, 3)
    whole = otd(real, told, 20), t_map(real, told, 20, 0.3)
    monkeypatch.setattr("habitus.metrics.alignment._CELLS", 10)
    assert otd(real, told, 20).tolist() == pytest.approx(whole[0].tolist())
    assert t_map(real, told, 20, 0.3) == pytest.approx(whole[1])


def test_bad_timelines_are_refused() -> None:
    with pytest.raises(ConfigError, match="one length"):
        Timeline(np.array([0]), np.array([1.0, 2.0]), np.array([0]))
    with pytest.raises(ConfigError, match="finite"):
        Timeline(np.array([0]), np.array([np.nan]), np.array([0]))
    one = Timeline(np.array([3]), np.array([1.0]), np.array([0]))
    with pytest.raises(ConfigError, match="rows 0"):
        otd(one, one, 2)
