"""The losses of views: against what is written out, finite for nobody, and lower once something is learnt."""

import math

import numpy as np
import pytest
import torch

from habitus.models.lurm import Lurm, LurmConfig, shape_of
from habitus.testing.threads import one_thread
from habitus.tokens.views import Baskets, ViewBatch, ViewLoader
from habitus.training.objectives.contrastive import Contrastive, ContrastiveConfig, barlow, decorrelation

__all__ = ["one_thread"]

V = 40
MODEL = LurmConfig.parse({"size": "tiny", "scales": "2x3, life"})


def views(n: int, seed: int = 0) -> ViewBatch:
    draw = np.random.default_rng(seed)
    block = np.sort(draw.integers(0, 8, (max(n, 1), 20)), axis=1).ravel()
    taste = np.repeat(draw.integers(0, 4, max(n, 1)), 20)
    interest = taste * 10 + draw.integers(0, 10, len(block))
    offsets = np.arange(max(n, 1) + 1) * 20
    basket = np.tile(np.arange(20), max(n, 1))
    table = Baskets(offsets, block.astype(np.int32), basket, interest, np.ones(len(block), np.int64))
    return ViewLoader(table, np.ones(V), np.arange(n), MODEL.scales).views(np.arange(n))


def parts(config: ContrastiveConfig | None = None) -> tuple[Lurm, Contrastive]:
    return Lurm(MODEL, shape_of(MODEL, V)), Contrastive(config or ContrastiveConfig.parse({}), MODEL)


def test_alike_is_the_written_out_cross_entropy():
    _, loss = parts()
    a, b = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    scores = torch.nn.functional.cosine_similarity(a[:, None], b[None], dim=-1) / 0.1
    written = sum(
        -(scores[i, i] - scores[i].logsumexp(0)) / 2 - (scores[i, i] - scores[:, i].logsumexp(0)) / 2 for i in range(5)
    )
    torch.testing.assert_close(loss._alike(a, b), written / 5)  # pyright: ignore


@pytest.mark.parametrize("config", [{}, {"paper_form": True}, {"kind": "barlow"}, {"negatives": 10}], ids=str)
def test_finite_for_none_one_and_many_with_gradients(config: dict):
    for n in (0, 1, 6):
        model, loss = parts(ContrastiveConfig.parse(config))
        found = loss(model, views(n))
        assert bool(torch.isfinite(found.value))
        assert found.counts.tolist() == [n] * 4
        found.value.backward()
        assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters() if p.grad is not None)
    assert loss.config.weights[2:] == ((0.0, 0.0) if config.get("paper_form") else (0.05, 0.5))


def test_other_knows_nothing_at_first_sight():
    """With a table of noughts every interest is as likely: the loss is ln V."""
    model, loss = parts()
    with torch.no_grad():
        model.table.zero_()
    found = loss(model, views(6))
    assert float(found.means[3]) == pytest.approx(0.5 * math.log(V), abs=1e-4)


def test_decorrelation_sees_twins_and_not_strangers():
    draw = torch.Generator().manual_seed(0)
    one = torch.randn(500, 1, 4, generator=draw)
    assert float(decorrelation(one.expand(-1, 2, -1))) == pytest.approx(0.25, abs=0.02)
    assert float(decorrelation(torch.randn(500, 2, 4, generator=draw))) < 0.01


def test_barlow_is_nought_for_one_view_of_unlike_numbers():
    draw = torch.Generator().manual_seed(0)
    a = torch.linalg.qr(torch.randn(50, 5, generator=draw) - 0.0).Q
    a = torch.linalg.qr(a - a.mean(dim=0)).Q
    assert float(barlow(a, a, 0.005)) < 1e-3
    assert float(barlow(a, a.flip(0), 0.005)) > 0.5


def test_training_finds_who_is_who():
    model, loss = parts()
    optimiser = torch.optim.Adam([*model.parameters(), *loss.parameters()], 3e-3)
    batch = views(32)
    before = loss(model, batch).means
    for _ in range(30):
        optimiser.zero_grad()
        loss(model, batch).value.backward()
        optimiser.step()
    after = loss(model, batch).means
    assert float(after[0]) < 0.7 * float(before[0])
    assert float(after[3]) < float(before[3])
