"""Views share no event, hold all of them, keep baskets whole, and depend on seed, epoch and user alone."""

import numpy as np
import pytest
import torch

from habitus.tokens.views import Baskets, ViewLoader, split_views, trainable

V = 30


def baskets(n_users: int = 20, seed: int = 0) -> Baskets:
    """The first user has one basket, the second two of one block, the third none."""
    draw = np.random.default_rng(seed)
    user = np.repeat(np.arange(n_users), 40)
    block = np.sort(draw.integers(0, 9, (n_users, 40)), axis=1)
    basket = np.cumsum(draw.random((n_users, 40)) < 0.5, axis=1)
    basket = basket + np.cumsum(np.diff(block, axis=1, prepend=0), axis=1)
    block[:2], basket[0], basket[1] = 4, 0, np.arange(40) // 20
    kept = user != 2
    offsets = np.concatenate([[0], np.cumsum(np.bincount(user[kept], minlength=n_users))])
    columns = (block.ravel()[kept].astype(np.int32), basket.ravel()[kept], draw.integers(0, V, kept.sum()))
    return Baskets(offsets, *columns, draw.integers(1, 3, kept.sum()))


@pytest.mark.parametrize("kinds", [(1.0, 1.0), (0.0, 1.0), (0.0, 0.0), (0.4, 0.7)], ids=str)
def test_views_share_no_event_and_no_basket(kinds: tuple[float, float]):
    table = baskets()
    users = trainable(table)
    assert 0 not in users
    assert 2 not in users
    assert 1 in users
    rows, side, cutoff = split_views(table, users, 5, kinds)
    assert len(rows.row) == (np.diff(table.user_offsets)[users]).sum()
    at = np.flatnonzero(np.isin(np.repeat(np.arange(20), np.diff(table.user_offsets)), users))
    unit = rows.row * 1000 + table.basket[at]
    assert not set(unit[side == 0]) & set(unit[side == 1])
    for k in range(len(users)):
        mine = rows.row == k
        assert set(side[mine]) == {0, 1}
        assert rows.block[mine & (side == 0)].max() <= cutoff[k, 0]
        assert rows.block[mine].max() <= cutoff[k, 1]
        many = np.unique(rows.block[mine]).size > 1
        if kinds == (0.0, 0.0) and many:
            assert rows.block[mine & (side == 0)].max() < rows.block[mine & (side == 1)].min()
        if kinds == (1.0, 1.0) and many:
            assert not set(rows.block[mine & (side == 0)]) & set(rows.block[mine & (side == 1)])


def test_views_are_those_of_the_user_alone_and_change_with_the_epoch():
    table = baskets()
    loader = ViewLoader(table, np.ones(V), trainable(table), "2x3, life", batch_size=5, is_training=True, seed=1)
    whole, alone = loader.views(np.array([5, 3, 9])), loader.views(np.array([3]))
    taken = whole.bags.take(torch.tensor([1, 4]))
    for one, two in zip(taken.scales, alone.bags.scales, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(vars(one).values(), vars(two).values(), strict=True))
    loader.set_epoch(1)
    again = loader.views(np.array([3]))
    assert not torch.equal(again.bags.scales[0].log1p_n, alone.bags.scales[0].log1p_n)


def test_a_loader_goes_on_where_it_stopped():
    table = baskets()
    loader, other = (
        ViewLoader(table, np.ones(V), trainable(table), "life", batch_size=5, is_training=True, seed=1) for _ in "ab"
    )
    batches = iter(loader)
    next(batches)
    other.load_state_dict(loader.state_dict())
    one, two = next(batches), next(iter(other))
    assert torch.equal(one.content.interest, two.content.interest)
    assert len(loader) == 4
    loader.set_epoch(0)
    for _ in range(2):  # a second pass begins anew
        assert sum(len(batch) for batch in loader) == len(trainable(table)) == 18


def test_what_lies_after_a_block_is_left_out():
    table = baskets().until(4)
    assert table.block.max() == 4
    assert len(table.block) == table.user_offsets[-1] == (baskets().block <= 4).sum()
