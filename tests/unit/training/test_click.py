from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from habitus.core.errors import ConfigError
from habitus.models.layers.click import ClickBatch
from habitus.training.objectives.click import Click


class Constant(nn.Module):
    """One logit for all rows, and a table of which the batch reads rows 0 and 2."""

    def __init__(self, logit: float = 0.0) -> None:
        super().__init__()
        self.logit = nn.Parameter(torch.tensor(logit))
        self.table = nn.Parameter(torch.arange(6.0).view(3, 2))

    def forward(self, batch: ClickBatch) -> Tensor:
        return self.logit.expand(len(batch))

    def touched(self, batch: ClickBatch) -> list[tuple[Tensor, Tensor]]:
        return [(self.table, torch.tensor([0, 2, 2]))]


def batch_of(label: np.ndarray) -> ClickBatch:
    n = len(label)
    empty = torch.zeros(n, 0, dtype=torch.int64)
    return ClickBatch(
        torch.zeros(n, 1, 7, dtype=torch.int64), torch.ones(n, 1, dtype=torch.bool), empty, torch.zeros(n, 0),
        torch.zeros(n, 2, dtype=torch.int64), torch.as_tensor(label, dtype=torch.float32),
    )  # fmt: skip


def test_base_rate_scores_one_and_rows_are_penalised_once():
    batch = batch_of(np.array([1, 0, 0, 0]))
    objective = Click(0.25, l2=0.1)
    loss = objective(Constant(float(np.log(1 / 3))), batch)
    assert loss.base is not None
    assert loss.sums.item() == pytest.approx(loss.base.item(), rel=1e-6)
    assert loss.value.item() == pytest.approx(loss.means.item() + 0.1 * (0 + 1 + 16 + 25) / 4, rel=1e-6)
    assert objective.eval()(Constant(), batch).value.item() == pytest.approx(np.log(2), rel=1e-6)


def test_dropped_negatives_leave_the_mean_probability_where_it_was():
    rng = np.random.default_rng(0)
    y = (rng.random(40_000) < 0.05).astype(np.int64)
    kept = (y == 1) | (rng.random(y.size) < 0.2)
    objective, model = Click(float(y.mean()), l2=0.0, keep_rate=0.2), Constant()
    optimiser = torch.optim.Adam([model.logit], lr=0.1)
    for _ in range(200):
        optimiser.zero_grad()
        objective(model, batch_of(y[kept])).value.backward()
        optimiser.step()
    p = torch.sigmoid(model.logit + objective.shift).item()
    assert p == pytest.approx(y.mean(), rel=0.02)
    assert torch.sigmoid(model.logit).item() > 3 * y.mean()
    found = objective.eval()(model, batch_of(y))
    assert found.base is not None
    assert found.means.item() == pytest.approx((found.base / found.counts).item(), rel=1e-3)


def test_a_batch_of_no_rows_has_a_finite_loss():
    assert Click(0.1)(Constant(), batch_of(np.array([], dtype=np.int64))).value.item() == pytest.approx(42 * 5e-6)


@pytest.mark.parametrize(("rate", "keep"), [(0.0, 1.0), (1.0, 1.0), (0.1, 0.0), (0.1, 1.5)])
def test_impossible_rates_are_refused(rate: float, keep: float):
    with pytest.raises(ConfigError, match="a rate in"):
        Click(rate, keep_rate=keep)
