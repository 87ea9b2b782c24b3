"""The contrastive GRU: users apart, unit length, trained by the losses of views without those of anchors."""

import numpy as np
import pytest
import torch

from habitus.core.errors import ConfigError
from habitus.models.coles import Coles, ColesConfig
from habitus.models.lurm import LurmShape
from habitus.testing.threads import one_thread
from habitus.tokens.views import Baskets, ViewLoader
from habitus.training.objectives.contrastive import Contrastive, ContrastiveConfig

__all__ = ["one_thread"]

V, N = 20, 24
CONFIG = ColesConfig.parse({"scales": "1x8", "d_model": 16, "d_out": 16})


def loader() -> ViewLoader:
    draw = np.random.default_rng(0)
    block = np.sort(draw.integers(0, 8, (N, 30)), axis=1).ravel().astype(np.int32)
    interest = np.repeat(draw.integers(0, 4, N), 30) * 5 + draw.integers(0, 5, 30 * N)
    table = Baskets(np.arange(N + 1) * 30, block, np.tile(np.arange(30), N), interest, np.ones(30 * N, np.int64))
    return ViewLoader(table, np.ones(V), np.arange(N), CONFIG.scales)


def test_users_are_apart_and_vectors_have_length_one():
    model, bags = Coles(CONFIG, LurmShape(V, (8,))).eval(), loader().views(np.arange(N)).bags
    with torch.no_grad():
        whole = model(bags)
        alone = model(bags.take(torch.tensor([5])))
        none = model(bags.take(torch.zeros(0, dtype=torch.int64)))
    torch.testing.assert_close(alone.flat[0], whole.flat[5])
    torch.testing.assert_close(whole.flat.norm(dim=1), torch.ones(2 * N))
    assert none.flat.shape == (0, 16)
    assert not torch.allclose(whole.flat[0], whole.flat[1], atol=1e-3)


def test_it_learns_who_is_who():
    model = Coles(CONFIG, LurmShape(V, (8,)))
    loss = Contrastive(ContrastiveConfig.parse({"paper_form": True, "anchors": 0.0}), CONFIG)
    optimiser, batch = torch.optim.Adam([*model.parameters(), *loss.parameters()], 5e-3), loader().views(np.arange(N))
    before = float(loss(model, batch).value.detach())
    for _ in range(25):
        optimiser.zero_grad()
        loss(model, batch).value.backward()
        optimiser.step()
    assert float(loss(model, batch).value.detach()) < 0.7 * before


def test_more_than_one_scale_is_refused():
    with pytest.raises(ConfigError, match="one scale"):
        Coles(ColesConfig.parse({"scales": "1x8, life"}), LurmShape(V, (8, 1)))
