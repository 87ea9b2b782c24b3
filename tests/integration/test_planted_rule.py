"""A planted rule is learnt: users who were active answer to a known coming event, the others do not."""

from dataclasses import replace
from pathlib import Path

import torch

from habitus.models.heads import fit_head, n_outputs
from habitus.models.lumos import Lumos, LumosConfig, LumosShape
from habitus.testing.contracts import day_batch
from habitus.testing.loaders import BatchList
from habitus.testing.threads import one_thread
from habitus.tokens.batch import DayBatch, Kind
from habitus.training.fit import TrainingConfig, fit
from habitus.training.objectives.multi_task import MultiTask

__all__ = ["one_thread"]

SHAPE = LumosShape(n_activity=2, n_known=3, n_profile=1, history=30, horizon=7)


def is_active(batch: DayBatch) -> torch.Tensor:
    """Whether the cut-off day was active."""
    is_last = batch.day == SHAPE.history - 1
    return ((batch.kind == Kind.ACTIVE) & is_last).any(dim=1)


def world(n: int, seed: int) -> DayBatch:
    """Users who are active buy with 0.9 if a sale (known column 0) is coming; all others with 0.1."""
    draw = torch.Generator().manual_seed(seed)
    batch = day_batch(n, SHAPE, n_targets=2, n_days=6, seed=seed)
    has_sale = torch.rand(n, generator=draw) < 0.5
    sale_day = torch.randint(0, SHAPE.horizon, (n,), generator=draw)
    future = torch.zeros(n, SHAPE.horizon, 3)
    future[torch.arange(n), sale_day, 0] = has_sale.float()
    buys = torch.rand(n, generator=draw) < torch.where(has_sale & is_active(batch), 0.9, 0.1)
    spend = buys * torch.exp(2 + has_sale + 0.3 * torch.randn(n, generator=draw))
    target = torch.stack([buys.float(), spend], dim=1)
    return replace(batch, known_future=future, target=target, is_observed=torch.ones(n, 2, dtype=torch.bool))


def best_without_calendar(batches: list[DayBatch]) -> float:
    """The ratio for `buy` that nobody can go below who does not know of the sale: P = 0.5 if active, else 0.1."""
    buys = torch.cat([b.target[:, 0] for b in batches])
    p = torch.where(torch.cat([is_active(b) for b in batches]), 0.5, 0.1)
    entropy = torch.nn.functional.binary_cross_entropy
    return float(entropy(p, buys) / entropy(buys.mean().expand_as(buys), buys))


def ratios(folder: Path, batches: list[DayBatch]) -> dict[str, float]:
    """Validation loss over base-rate loss after a short training."""
    values = torch.cat([b.target for b in batches[:24]])
    heads = (fit_head("binary", "buy", 7, values[:, 0]), fit_head("ziln", "spend", 7, values[:, 1]))
    shape = replace(SHAPE, outputs=tuple(n_outputs(h) for h in heads))
    model = Lumos(LumosConfig(size="tiny", d_model=32, n_heads=2, d_ff=64, n_encoder=1, dropout=0.0), shape)
    config = TrainingConfig(epochs=8, lr=3e-3, schedule="constant", loggers=(), patience=None)
    train, valid = BatchList(batches[:24]), BatchList(batches[24:], seed=None)
    fitted = fit(model, MultiTask(heads), train, valid, config, folder)
    return fitted.history[fitted.best_epoch - 1]["targets"]


def test_the_future_branch_learns_what_no_past_can_tell(tmp_path: Path) -> None:
    batches = [world(128, seed) for seed in range(24)] + [world(1000, seed) for seed in range(100, 102)]
    blind = [b.with_future(torch.zeros_like(b.known_future)) for b in batches]
    seeing, unseeing = ratios(tmp_path / "seeing", batches), ratios(tmp_path / "blind", blind)
    limit = best_without_calendar(batches[24:])
    assert seeing["buy"] < limit - 0.1
    assert limit - 0.02 < unseeing["buy"] < 1.01
    assert seeing["spend"] < unseeing["spend"] - 0.15
