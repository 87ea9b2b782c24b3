"""Worlds of events: what is drawn follows the rules that the world states."""

from __future__ import annotations

import numpy as np
import pytest

from habitus.data.ingest import ingest
from habitus.data.sources.event_worlds import RULE_SECONDS, RulesWorld, TailWorld, draw_world, event_world


def test_types_of_the_tail_follow_the_oracle():
    world = TailWorld(n_users=600, n_events=60, n_head=5, n_rare=3)
    drawn = draw_world(world)
    assert np.allclose(world.probabilities.sum(axis=1), 1)
    counts = np.zeros_like(world.probabilities)
    np.add.at(counts, (drawn.state, drawn.type), 1)
    n = counts.sum(axis=1, keepdims=True)
    is_large = n[:, 0] > 300
    assert is_large.sum() >= 10
    error = np.abs(counts - n * world.probabilities) / np.sqrt(np.maximum(n * world.probabilities, 1))
    assert error[is_large].max() < 5
    is_rare = drawn.type >= 1 + 5 + 3
    assert is_rare.any()
    assert (drawn.state[is_rare] % 4 > 0).all()  # a rare type never comes without its trigger


def test_c_follows_b_within_two_hours_of_a():
    drawn = draw_world(RulesWorld(n_users=400))
    same = drawn.user[2:] == drawn.user[:-2]
    pairs = same & (drawn.type[:-2] == 0) & (drawn.type[1:-1] == 1)
    near = drawn.time[1:-1] - drawn.time[:-2] <= RULE_SECONDS
    is_c = drawn.type[2:] == 2
    assert (pairs & ~near).sum() > 100
    assert is_c[pairs & near].mean() == pytest.approx(0.9, abs=0.03)
    assert is_c[pairs & ~near].mean() < 0.1
    assert (np.diff(drawn.time)[drawn.user[1:] == drawn.user[:-1]] >= 0).all()


@pytest.mark.parametrize("kind", [TailWorld, RulesWorld])
def test_a_larger_world_holds_the_smaller_and_domains_differ_in_names_and_users(kind, tmp_path):
    small, large = draw_world(kind(n_users=5)), draw_world(kind(n_users=9))
    for name in ("user", "time", "type", "state"):
        assert np.array_equal(getattr(large, name)[large.user < 5], getattr(small, name))
    one, two = (ingest(event_world(kind(n_users=20, domain=d)), tmp_path / d) for d in ("a", "b"))
    assert one.n_users == two.n_users == 20
    assert not set(one.types) & set(two.types)
    assert not set(one.users["user"]) & set(two.users["user"])
