"""What the days say of the window: exact where it is exact, the window's own answer where nothing changes."""

import numpy as np
import pytest

from habitus.tasks.whatif.days import DayPlan, implied

RNG = np.random.default_rng(0)
DAY = RNG.uniform(0.02, 0.3, (50, 14, 1))
MORE = np.where(np.arange(14)[:, None] == 5, 0.6, DAY)


def plan(kind: str) -> DayPlan:
    return DayPlan((0,), (kind,))


@pytest.mark.parametrize("kind", ["sum", "count", "days", "sessions"])
def test_amounts_are_the_days_added_up(kind):
    assert np.allclose(implied(plan(kind), np.zeros((50, 1)), DAY, MORE)[:, 0], MORE[:, :, 0].sum(axis=1))


@pytest.mark.parametrize("kind", ["any", "none"])
def test_the_same_days_give_the_windows_own_answer_bit_for_bit(kind):
    mean = RNG.uniform(0, 1, (50, 1))
    assert np.array_equal(implied(plan(kind), mean, DAY, DAY.copy()), mean)


def test_a_chance_of_independent_days_is_exact():
    whole, other = (1 - np.prod(1 - days, axis=1) for days in (DAY, MORE))
    assert np.allclose(implied(plan("any"), whole, DAY, MORE), other)
    silent, still = (np.prod(1 - days, axis=1) for days in (DAY, MORE))
    assert np.allclose(implied(plan("none"), silent, 1 - DAY, 1 - MORE), still)


@pytest.mark.parametrize("p", [0.0, 1e-12, 0.5, 1 - 1e-12, 1.0])
def test_a_chance_stays_a_chance(p):
    for days in (np.zeros_like(DAY), np.ones_like(DAY), MORE):
        for kind in ("any", "none"):
            found = implied(plan(kind), np.full((50, 1), p), DAY, days)
            assert ((found >= 0) & (found <= 1)).all()


def test_more_risk_is_a_larger_chance_and_members_are_read_alike():
    mean = RNG.uniform(0.05, 0.9, (50, 1))
    found = implied(plan("any"), mean, DAY, np.maximum(DAY, MORE))
    assert (found > mean).all()
    both = implied(plan("any"), np.stack([mean, mean]), np.stack([DAY, DAY]), np.stack([MORE, DAY]))
    assert np.array_equal(both[1], mean)
    assert np.array_equal(both[0], implied(plan("any"), mean, DAY, MORE))


def test_a_target_without_a_day_head_is_not_guessed():
    assert np.isnan(implied(DayPlan((-1,), ("sum",)), np.ones((50, 1)), DAY, MORE)).all()


def test_days_that_hang_together_move_the_window_less():
    k = 2.5  # variance of the gamma frailty
    hazard = -np.log1p(-DAY[:, :, 0]).sum(axis=1)
    after = -np.log1p(-MORE[:, :, 0]).sum(axis=1)
    before, truth = 1 - (1 + k * hazard) ** (-1 / k), 1 - (1 + k * after) ** (-1 / k)
    found = implied(plan("any"), before[:, None], DAY, MORE)[:, 0]
    assert np.allclose(found, truth)
    assert np.allclose(implied(plan("none"), 1 - before[:, None], 1 - DAY, 1 - MORE)[:, 0], 1 - truth)
    in_proportion = 1 - (1 - before) ** (after / hazard)
    assert (np.abs(found - before) < np.abs(in_proportion - before)).all()
