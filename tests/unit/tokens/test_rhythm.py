"""Counts and ages per group and window are those of a plain count; cut-offs, layers and company change nothing."""

import numpy as np
import pytest
import torch

from habitus.tokens.bags import read_rows
from habitus.tokens.counts import Counts, summed
from habitus.tokens.layers import Layers
from habitus.tokens.rhythm import rhythm_of, rhythm_width

REACH, N, V = 6, 5, 9


def events(seed: int = 0, first: int = 0, last: int = 20) -> tuple[np.ndarray, ...]:
    """User, block, group, interest of 120 events; the last user has none."""
    draw = np.random.default_rng(seed)
    user, group, interest = (draw.integers(0, top, 120) for top in (N - 1, 2, V))
    return user, draw.integers(first, last, 120).astype(np.int32), group, interest


def counted(user: np.ndarray, block: np.ndarray, group: np.ndarray, interest: np.ndarray) -> Counts:
    one = np.ones(len(user), np.int64)
    return summed("v", N, user, block, group, interest, one, one * 0)


def rhythms(counts: object, users: np.ndarray, block: int, n_groups: int = 2) -> np.ndarray:
    cutoff = np.full(len(users), block, np.int64)
    rows, life = read_rows(counts, users, cutoff, REACH, has_group=n_groups > 1)
    found = rhythm_of(rows, life, len(users), cutoff, REACH, n_groups)
    assert found.shape == (len(users), rhythm_width(REACH, n_groups))
    assert found.dtype == torch.float32
    return found.numpy()


def test_each_group_has_its_counts_the_age_of_its_newest_event_and_its_blocks():
    user, block, group, interest = events()
    found = rhythms(counted(user, block, group, interest), np.arange(N), 19)
    for u in range(N - 1):
        ages = [19 - block[(user == u) & (group == g)] for g in range(2)]
        windows = [(age < end).sum() for age in ages for end in (1, 2, 4, 6)]
        life = [len(age) for age in ages]
        newest = [min(age.min(), REACH) for age in ages]
        blocks = [len(np.unique(age[age < REACH])) for age in ages]
        near = np.concatenate(ages)
        expected = np.log1p([*windows, *life, *newest, *blocks, near[near < REACH].max()])
        np.testing.assert_allclose(found[u], expected, atol=1e-6)
    assert found[N - 1].max() == 0


@pytest.mark.parametrize("n_groups", [1, 2])
def test_later_events_layers_and_other_users_change_nothing(n_groups: int):
    first, second = counted(*events(1, last=12)), counted(*events(2, 12, 20))
    before = rhythms(first, np.arange(N), 11, n_groups)
    layers = Layers((first, second))
    np.testing.assert_array_equal(rhythms(layers, np.arange(N), 11, n_groups), before)
    whole = rhythms(layers.whole(), np.arange(N), 19, n_groups)
    np.testing.assert_array_equal(rhythms(layers, np.arange(N), 19, n_groups), whole)
    order = np.array([3, 0, 4])
    np.testing.assert_array_equal(rhythms(layers, order, 19, n_groups), whole[order])
    assert not np.array_equal(before, whole)
