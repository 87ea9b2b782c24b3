"""The network of rare actions: shapes, seeds, rows apart, and what the gate mixes."""

from __future__ import annotations

import torch

from habitus.models.rare_action import RareAction, RareActionConfig
from habitus.testing.threads import one_thread

__all__ = ["one_thread"]

CONFIG = RareActionConfig(d_in=6, n_numbers=4, n_personas=3, n_actions=5, d_text=8, d_numbers=8, d_persona=4, width=8)


def batch(n: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return torch.randn(n, 6, generator=draw), torch.randn(n, 4, generator=draw), torch.arange(n) % 4


def test_shapes_for_none_one_and_many_rows():
    model = RareAction(CONFIG).eval()
    for n in (0, 1, 7):
        assert model(*batch(n)).shape == (n, 5)


def test_rows_do_not_see_each_other_and_a_seed_is_a_model():
    model, same, other = (
        RareAction(CONFIG, seed=1).eval(),
        RareAction(CONFIG, seed=1).eval(),
        RareAction(CONFIG, seed=2),
    )
    whole, order = model(*batch(6)), torch.tensor([3, 0, 5, 1, 4, 2])
    assert torch.allclose(model(*(each[order] for each in batch(6))), whole[order], atol=1e-6)
    assert torch.equal(same(*batch(6)), whole)
    assert not torch.allclose(other.eval()(*batch(6)), whole)


def test_every_input_moves_the_answer():
    model = RareAction(CONFIG).eval()
    text, numbers, persona = batch(4)
    before = model(text, numbers, persona)
    for changed in ((text + 1, numbers, persona), (text, numbers + 1, persona), (text, numbers, (persona + 1) % 4)):
        assert (model(*changed) - before).abs().max() > 1e-4
