"""Sizes and values of the comparators that anybody can work out from their definitions."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from habitus.models.gru4rec import GRU4Rec, GRU4RecConfig
from habitus.models.hstu import HSTU, LOG_STEP, HSTUConfig
from habitus.models.sasrec import SASRec, SASRecConfig
from habitus.testing.events import event_batch
from habitus.testing.threads import one_thread
from habitus.tokens.events import EventShape

__all__ = ["one_thread"]


def n_parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_sasrec_of_beauty_has_828_288_parameters() -> None:
    """The published form: V + 1 rows for V = 12,101 items (padding, no unknown), T = 50, D = 64, two blocks."""
    shape = EventShape((("item", 12_102),), n_amounts=0, length=50)
    assert n_parameters(SASRec(SASRecConfig(), shape)) == 828_288


def test_sizes_of_the_others_by_their_formulas() -> None:
    v, t, d = 40, 20, 16
    shape = EventShape((("item", v),), n_amounts=0, length=t)
    assert n_parameters(GRU4Rec(GRU4RecConfig(d_model=d), shape)) == v * d + 6 * d * d + 6 * d
    block = 5 * (d * d + d) + 4 * d + t + 128
    assert n_parameters(HSTU(HSTUConfig(d_model=d), shape)) == v * d + t * d + 2 * block + 2 * d
    gated = SASRecConfig(d_model=d, n_blocks=1, block="gated")
    block = 4 * (d * d + d) + 2 * (d * 4 * d + 4 * d) + 4 * d * d + d + 2 * (d * d + d) + 4 * d
    assert n_parameters(SASRec(gated, shape)) == v * d + t * d + block + 2 * d


@torch.no_grad()
def test_hstu_written_out_position_by_position() -> None:
    shape = EventShape((("item", 9),), n_amounts=0, length=6)
    model = HSTU(HSTUConfig(d_model=8, n_heads=2, n_blocks=1), shape).eval()
    batch = event_batch(2, shape, seed=3)
    block = model.blocks[0]
    x = model.table[batch.ids[1, :, 0]] + model.places
    u, v, q, k = F.silu(block.ask(block.norm(x))).chunk(4, dim=-1)
    rows = []
    for t in range(6):
        heads = []
        for head in (slice(0, 4), slice(4, 8)):
            mixed = torch.zeros(4)
            for s in range(t + 1):
                gap = max(1, int(batch.time[1, t] - batch.time[1, s]))
                bias = block.by_place[t - s] + block.by_time[min(int(math.log(gap) / LOG_STEP), 127)]
                mixed += F.silu(q[t, head] @ k[s, head] + bias) / 6 * v[s, head]
            heads.append(mixed)
        rows.append(x[t] + block.out(block.mixed_norm(torch.cat(heads)) * u[t]))
    torch.testing.assert_close(model(batch)[1], model.norm(torch.stack(rows)), rtol=1e-5, atol=1e-5)
