"""Gap bins as distributions: survival, silence so far, draws."""

from __future__ import annotations

import torch

from habitus.tokens.gaps import GapBins

BINS = GapBins.of([1.0, 10.0, 100.0, 1000.0])
P = torch.tensor([[0.0, 0.1, 0.1, 0.2, 0.3, 0.3]], dtype=torch.float64)  # 0.1: never


def test_survival_takes_the_fraction_of_the_bin():
    for seconds, expected in ((0.0, 0.9), (1.0, 0.9), (10.0, 0.7), (31.6227766, 0.55), (100.0, 0.4), (1e9, 0.1)):
        found = BINS.log_survival(P.log(), torch.tensor([seconds])).exp()
        torch.testing.assert_close(found, torch.tensor([expected], dtype=torch.float64), atol=1e-6, rtol=1e-6)


def test_given_silence_only_longer_gaps_are_left():
    elapsed = torch.tensor([31.6227766, 5000.0, 0.0], dtype=torch.float64)
    p = BINS.after(P.expand(3, -1), elapsed)
    torch.testing.assert_close(p[0], torch.tensor([0, 0.1, 0, 0, 0.15, 0.3]).double() / 0.55)
    torch.testing.assert_close(p.sum(dim=1), torch.ones(3).double())
    assert p[1].tolist() == [0, 1, 0, 0, 0, 0]  # nobody came back after so long
    assert p[2, 2] == 0  # a tie with an event before the cut-off would lie before the cut-off
    u = torch.rand(2000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ids = torch.multinomial(p[0], 2000, replacement=True, generator=torch.Generator().manual_seed(1))
    drawn = BINS.draw(ids, u, elapsed[0].expand(2000))
    assert bool((drawn >= elapsed[0] - 1e-6).all())
    assert abs(float((drawn > 100).double().mean()) - 0.4 / 0.55) < 0.05
    assert bool((drawn[ids == 1] > 1e9).all())


def test_a_draw_lies_in_its_bin_and_a_tie_is_zero():
    ids = torch.tensor([2, 3, 4, 5]).repeat(50)
    u = torch.rand(200, generator=torch.Generator().manual_seed(0))
    drawn = BINS.draw(ids, u)
    assert torch.equal(BINS.encode(drawn), ids)
    assert bool((drawn[::4] == 0).all())
