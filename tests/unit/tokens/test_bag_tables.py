"""Bags as one table hold the weights of sparse bags, and an encoder reads the same from both."""

import numpy as np
import pytest
import torch

from habitus.models.lurm import Lurm, LurmConfig, shape_of
from habitus.tasks import lurm_fit
from habitus.tokens.bag_tables import bag_table
from habitus.tokens.bags import make_bags, parse_scales, read_rows
from habitus.tokens.counts import Counts, summed
from habitus.tokens.layers import Layers
from habitus.tokens.window_sums import grid_of

V, N, LAST = 40, 6, 29
SCALES = "1x4, 4x3, life"


class Ideas:
    n = V
    idf = np.linspace(0.5, 3, V, dtype=np.float32)


def counted(seed: int, first: int, last: int) -> Counts:
    """600 events of five users; the sixth has none."""
    draw = np.random.default_rng(seed)
    user, interest, one = draw.integers(0, N - 1, 600), draw.integers(0, V, 600), np.ones(600, np.int64)
    return summed("v", N, user, draw.integers(first, last, 600).astype(np.int32), one * 0, interest, one, one * 0)


@pytest.mark.parametrize("n_layers", [1, 2])
def test_a_table_holds_the_weights_events_and_ages_of_sparse_bags(n_layers: int):
    layers = Layers((counted(0, 10, 30), counted(1, 0, 25))[:n_layers])
    scales, users, cutoff = parse_scales(SCALES), np.arange(N), np.full(N, LAST)
    rows, life = read_rows(layers, users, cutoff, 12)
    assert life is not None
    grid = grid_of(rows, cutoff, N, 12, V, life)
    assert grid is not None
    found = bag_table(grid, life, cutoff, Ideas.idf, scales)
    expected = make_bags(layers, Ideas, users, cutoff, scales)  # type: ignore[arg-type]
    first = 0
    for told, scale in zip(found.scales, expected.scales, strict=True):
        t = scale.n_windows
        for u in range(N):
            for k in range(t):
                held, bag = torch.zeros(V), slice(int(scale.offset[u * t + k]), int(scale.offset[u * t + k + 1]))
                held[scale.interest[bag]] = scale.weight[bag]
                own = torch.zeros(V).index_add_(0, found.interest[u], found.weight[u, first + k])
                torch.testing.assert_close(own, held)
        for name in ("log1p_n", "log_age", "is_empty"):
            assert torch.equal(getattr(told, name), getattr(scale, name)), name
        first += t


def test_an_encoder_reads_the_same_from_both(monkeypatch: pytest.MonkeyPatch):
    config = LurmConfig.parse({"size": "tiny", "scales": SCALES, "start": "random"})
    model, users = Lurm(config, shape_of(config, V)), np.arange(N)
    counts, made = counted(0, 0, 30), []
    monkeypatch.setattr(lurm_fit, "bag_table", lambda *asked: made.append(bag_table(*asked)) or made[-1])
    by_table, _ = lurm_fit.encode(model, counts, Ideas, users, LAST)
    assert len(made) == 1
    monkeypatch.setattr(lurm_fit, "grid_of", lambda *asked: None)
    by_bags, _ = lurm_fit.encode(model, counts, Ideas, users, LAST)
    assert len(made) == 1
    np.testing.assert_allclose(by_table, by_bags, atol=2e-6)
