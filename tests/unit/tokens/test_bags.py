"""Bags are what a plain group-by gives; what lies after a cut-off, other users and their order change nothing."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from habitus.core.errors import ConfigError
from habitus.tokens.bags import NOW, Bags, make_bags, parse_scales, raw_bag, rows_of


@dataclass(frozen=True)
class Tables:
    user_offsets: np.ndarray
    block: np.ndarray
    group: np.ndarray
    interest: np.ndarray
    n: np.ndarray


@dataclass(frozen=True)
class WithLife(Tables):
    life: Tables


@dataclass(frozen=True)
class Ideas:
    n: int
    idf: np.ndarray


IDEAS = Ideas(40, np.linspace(0.5, 3, 40, dtype=np.float32))


def tables(n_users: int = 6, n_rows: int = 300, n_blocks: int = 60, seed: int = 0) -> Tables:
    """Rows as `Counts` has them; the last user has none."""
    draw = np.random.default_rng(seed)
    columns = [draw.integers(0, top, n_rows) for top in (n_users - 1, n_blocks, 2, IDEAS.n)]
    key = np.unique(np.stack(columns, axis=1), axis=0)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(key[:, 0], minlength=n_users))])
    n = draw.integers(1, 5, len(key))
    return Tables(offsets, key[:, 1].astype(np.int32), key[:, 2].astype(np.int16), key[:, 3].astype(np.int32), n)


def same(one: Bags, two: Bags) -> None:
    for a, b in zip(one.scales, two.scales, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(vars(a).values(), vars(b).values(), strict=True))


def test_a_window_holds_what_a_plain_count_holds():
    counts = tables()
    (scale,) = make_bags(counts, IDEAS, np.arange(6), 50, "4x3").scales
    for user in range(6):
        rows = slice(counts.user_offsets[user], counts.user_offsets[user + 1])
        for window in range(3):
            last = 50 - 4 * (2 - window)
            inside = (counts.block[rows] > last - 4) & (counts.block[rows] <= last)
            n = np.bincount(counts.interest[rows][inside], weights=counts.n[rows][inside], minlength=IDEAS.n)
            expected = np.log1p(n) * IDEAS.idf
            expected /= max(float(np.linalg.norm(expected)), 1e-12)
            bag = slice(int(scale.offset[user * 3 + window]), int(scale.offset[user * 3 + window + 1]))
            found = np.zeros(IDEAS.n)
            found[scale.interest[bag].numpy()] = scale.weight[bag].numpy()
            np.testing.assert_allclose(found, expected, atol=1e-6)
            assert float(scale.log1p_n[user, window]) == pytest.approx(np.log1p(n.sum()))
            assert bool(scale.is_empty[user, window]) == (not inside.any())
            if inside.any():
                age = 50 - counts.block[rows][inside].max()
                assert float(scale.log_age[user, window]) == pytest.approx(np.log1p(age))


def test_later_events_other_users_and_their_order_change_nothing():
    counts = tables()
    late = counts.block > 30
    moved = Tables(
        counts.user_offsets,
        counts.block,
        counts.group,
        np.where(late, 7, counts.interest).astype(np.int32),
        np.where(late, 99, counts.n),
    )
    assert late.any()
    before, after = (make_bags(c, IDEAS, np.arange(6), 30) for c in (counts, moved))
    same(before, after)
    order = np.array([4, 0, 5, 2])
    same(make_bags(counts, IDEAS, order, 30), before.take(torch.from_numpy(order)))
    same(make_bags(counts, IDEAS, np.array([3]), 30), before.take(torch.tensor([3])))


def test_life_is_the_raw_bag_and_the_largest_are_kept():
    counts = tables()
    raw = raw_bag(counts, IDEAS, np.arange(6))
    (life,) = make_bags(counts, IDEAS, np.arange(6), scales="life").scales
    np.testing.assert_allclose(life.weight.numpy(), raw.data, atol=1e-6)
    np.testing.assert_array_equal(life.interest.numpy(), raw.indices)
    few = make_bags(counts, IDEAS, np.arange(6), scales="life", top=5)
    assert 0 < few.dropped < 1
    (small,) = few.scales
    assert small.offset.diff().tolist() == [5, 5, 5, 5, 5, 0]
    for user in range(5):
        kept = small.weight[int(small.offset[user]) : int(small.offset[user + 1])]
        assert float(kept.norm()) == pytest.approx(1, abs=1e-6)
        largest = np.sort(raw.getrow(user).toarray().ravel())[-5:]
        np.testing.assert_allclose(np.sort(kept.numpy()), largest / np.linalg.norm(largest), atol=1e-6)


def test_cutoffs_of_each_user_are_those_of_each_alone():
    counts = tables()
    together = make_bags(counts, IDEAS, np.array([0, 1]), np.array([20, 40]))
    for row, cutoff in enumerate((20, 40)):
        same(make_bags(counts, IDEAS, np.array([row]), cutoff), together.take(torch.tensor([row])))


@pytest.mark.parametrize("text", ["4", "0x3", "x", "4x3, 4x3", ""])
def test_scales_that_do_not_read(text: str):
    with pytest.raises(ConfigError, match="scales"):
        parse_scales(text)


def test_the_table_of_life_and_the_newest_blocks_give_what_all_blocks_give():
    counts = tables()
    rows = rows_of(counts, np.arange(6))
    key, where = np.unique(rows.row * IDEAS.n + rows.interest, return_inverse=True)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(key // IDEAS.n, minlength=6))])
    n = np.bincount(where, weights=rows.n).astype(np.int64)
    known = WithLife(**vars(counts), life=Tables(offsets, key * 0, key * 0, (key % IDEAS.n).astype(np.int32), n))
    users = np.array([3, 5, 0])
    for cutoff in (NOW, 30):
        same(make_bags(known, IDEAS, users, cutoff), make_bags(counts, IDEAS, users, cutoff))
        same(make_bags(known, IDEAS, users, cutoff, "2x3, life"), make_bags(counts, IDEAS, users, cutoff, "2x3, life"))
