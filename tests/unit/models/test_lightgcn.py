"""LightGCN against dense products; without layers it is plain factors."""

import numpy as np
import pytest
import torch

from habitus.models.lightgcn import LightGCN, LightGCNConfig, bpr
from habitus.testing.threads import one_thread

__all__ = ["one_thread"]

USER, ITEM = np.array([0, 0, 1, 2, 2, 2]), np.array([0, 1, 1, 2, 3, 3])


def dense() -> torch.Tensor:
    """The normalised graph written out, 3 users and 4 items; the repeated pair counts once."""
    table = torch.zeros(7, 7)
    table[USER, ITEM + 3] = 1
    table = table + table.T
    degree = table.sum(dim=1).clamp(min=1)
    return table / (degree[:, None] * degree).sqrt()


def test_layers_are_means_of_smoothed_tables():
    model = LightGCN(LightGCNConfig(d_model=6, n_layers=2), 3, 4)
    model.connect(USER, ITEM)
    one = dense() @ model.table
    expected = (model.table + one + dense() @ one) / 3
    torch.testing.assert_close(torch.cat(model()), expected)


def test_gradients_are_those_of_the_dense_product():
    model = LightGCN(LightGCNConfig(d_model=6, n_layers=2), 3, 4)
    model.connect(USER, ITEM)
    torch.cat(model()).square().sum().backward()
    twin = model.table.detach().clone().requires_grad_()
    one = dense() @ twin
    ((twin + one + dense() @ one) / 3).square().sum().backward()
    torch.testing.assert_close(model.table.grad, twin.grad)


def test_without_layers_the_table_is_left_alone():
    model = LightGCN(LightGCNConfig(d_model=6, n_layers=0), 3, 4)
    torch.testing.assert_close(torch.cat(model()), model.table)


def test_weights_come_from_the_seed_alone():
    before = torch.get_rng_state()
    one, two, other = (LightGCN(LightGCNConfig(), 3, 4, seed=s) for s in (1, 1, 2))
    assert torch.equal(one.table, two.table)
    assert not torch.equal(one.table, other.table)
    assert torch.equal(before, torch.get_rng_state())


def test_bpr_falls_as_the_liked_item_rises():
    user = torch.ones(1, 2)
    close, far = (bpr(user, torch.full((1, 2), s), torch.zeros(1, 2)) for s in (2.0, 0.5))
    assert float(close) == pytest.approx(np.log1p(np.exp(-4)), rel=1e-5)
    assert close < far
