"""Large tables by row: the same steps as AdamW where all rows are read, and nothing else moves where they are not."""

from __future__ import annotations

import torch
from torch import nn

from habitus.models.layers.catalogue import BY_ROW, lookup
from habitus.models.sasrec import SASRec, SASRecConfig
from habitus.testing.events import event_batch
from habitus.testing.loaders import BatchList
from habitus.tokens.events import EventShape
from habitus.training.fit import TrainingConfig, fit
from habitus.training.objectives.next_event import NextEvent, NextEventConfig
from habitus.training.rows import RowAdamW, clip_norm, mark_tables

SHAPE = EventShape((("item", 300),), n_amounts=0, length=8)


def steps(by_row: bool, ids: torch.Tensor, n: int = 4) -> tuple[nn.Parameter, nn.Linear]:
    """A table and a layer after n steps with clipping."""
    draw = torch.Generator().manual_seed(0)
    table, layer = nn.Parameter(torch.randn(6, 3, generator=draw)), nn.Linear(3, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(2, 3, generator=draw))
        layer.bias.zero_()
    setattr(table, BY_ROW, by_row)
    optimiser = RowAdamW([{"params": [table, *layer.parameters()], "weight_decay": 0.0}], lr=0.1, fused=True)
    for _ in range(n):
        optimiser.zero_grad()
        layer(lookup(ids, table)).square().sum().backward()
        assert table.grad is not None
        assert table.grad.is_sparse is by_row
        clip_norm([table, *layer.parameters()], 0.5)
        optimiser.step()
    return table, layer


def test_where_every_row_is_read_it_is_adamw():
    ids = torch.tensor([0, 1, 2, 3, 4, 5, 5, 0])
    (one, a), (two, b) = steps(True, ids), steps(False, ids)
    torch.testing.assert_close(one, two)
    torch.testing.assert_close(a.weight, b.weight)


def test_rows_that_were_not_read_stay():
    before, _ = steps(True, torch.tensor([1]), n=0)
    after, _ = steps(True, torch.tensor([1, 4]))
    is_same = (before == after).all(dim=1)
    assert is_same.tolist() == [True, False, True, True, False, True]


def test_sparse_gradients_are_clipped_as_dense_ones():
    norms = []
    for by_row in (True, False):
        table = nn.Parameter(torch.ones(5, 2))
        setattr(table, BY_ROW, by_row)
        lookup(torch.tensor([1, 1, 3]), table).sum().backward()
        norms.append(float(clip_norm([table], 1.0)))
        assert table.grad is not None
        dense = table.grad.to_dense() if by_row else table.grad
        torch.testing.assert_close(dense.norm(), torch.tensor(1.0), rtol=1e-4, atol=1e-4)
    assert norms[0] == norms[1] > 1


def test_training_by_row_learns_and_repeats(tmp_path):
    batches = [event_batch(16, SHAPE, seed) for seed in range(3)]
    counts = torch.ones(300)
    config = TrainingConfig.parse({"epochs": 6, "lr": 0.02, "loggers": [], "by_row": 100, "patience": None})

    def train(folder: str):
        model = SASRec(SASRecConfig.parse({"d_model": 16, "dropout": 0.0}), SHAPE)
        objective = NextEvent(NextEventConfig.parse({"field": "item", "loss": "sampled", "n_negatives": 20}), 0, counts)
        return model, fit(model, objective, BatchList(batches), None, config, tmp_path / folder)

    model, fitted = train("run")
    assert fitted.history[-1]["train"] < fitted.history[0]["train"] - 0.2
    again, _ = train("again")
    assert torch.equal(again.table, model.table)


def test_only_large_matrices_are_marked():
    model = SASRec(SASRecConfig.parse({"d_model": 16}), SHAPE)
    mark_tables(model, 300)
    assert [name for name, weight in model.named_parameters() if getattr(weight, BY_ROW)] == ["table"]
    mark_tables(model, 0)
    assert not any(getattr(weight, BY_ROW) for weight in model.parameters())
