"""Sums on a grid are those of a sort, to the last bit; layers are read as their sum."""

import numpy as np
import pytest
import torch

from habitus.tokens import bags, window_sums
from habitus.tokens.bags import NOW, Bags, make_bags
from habitus.tokens.counts import Counts, summed
from habitus.tokens.layers import MOST, Layers

V = 30


class Ideas:
    n = V
    idf = np.linspace(0.5, 3, V, dtype=np.float32)


def drawn(n_users: int, n: int, seed: int, first: int = 0) -> Counts:
    """Counts of users, the last of whom has none, over blocks first .. first + 39."""
    draw = np.random.default_rng(seed)
    user, block, group, interest = (draw.integers(0, top, n) for top in (max(n_users - 1, 1), 40, 2, V))
    one = np.ones(n, np.int64)
    return summed("v", n_users, user, (block + first).astype(np.int32), group, interest, one, one * 0)


def same(one: Bags, two: Bags) -> None:
    for a, b in zip(one.scales, two.scales, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(vars(a).values(), vars(b).values(), strict=True))


@pytest.mark.parametrize("cutoff", [NOW, 25, 43])
@pytest.mark.parametrize("top", [5, 512])
def test_the_grid_gives_what_the_sort_gives(monkeypatch: pytest.MonkeyPatch, cutoff: int, top: int):
    counts, users = drawn(5, 4000, 0), np.array([3, 0, 4, 1])
    found = {}
    filled = []
    real = window_sums.grid_of
    for dense in (0, 1000):
        monkeypatch.setattr(window_sums, "DENSE", dense)
        monkeypatch.setattr(bags, "grid_of", lambda *args: filled.append(real(*args)) or filled[-1])
        found[dense] = make_bags(counts, Ideas, users, cutoff, "1x3, 4x2, life", top)  # type: ignore[arg-type]
    assert filled[0] is None
    assert filled[1] is not None
    same(found[0], found[1000])
    assert found[0].dropped == pytest.approx(found[1000].dropped)


def test_layers_read_as_their_sum_and_stay_few():
    layers = Layers((drawn(6, 2000, 1),))
    whole = layers.parts[0]
    for day in range(MOST + 3):
        new = drawn(6, 9, 2 + day, first=10 + day)
        layers = layers.append(new)
        whole = Layers((whole, new)).whole()
        assert len(layers.parts) <= 1 + MOST
        assert all(
            np.array_equal(getattr(layers.whole(), name), getattr(whole, name))
            for name in ("user_offsets", "block", "group", "interest", "n", "amount")
        )
        for cutoff in (NOW, 20):
            users = np.arange(6)
            same(make_bags(layers, Ideas, users, cutoff), make_bags(whole, Ideas, users, cutoff))  # type: ignore[arg-type]
    assert len(layers.parts) > 1


def test_layers_that_grew_large_are_summed_into_the_first():
    layers = Layers((drawn(6, 2000, 1),)).append(drawn(6, 1500, 2))
    assert len(layers.parts) == 1
