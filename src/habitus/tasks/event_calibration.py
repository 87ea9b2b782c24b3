"""Probabilities of the next value made honest: one temperature, fitted on validation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from habitus.core.seeds import generator
from habitus.tasks.ranked import FIRST, teller
from habitus.tokens.event_loader import EventInputs, EventLoader

CELLS = 20_000_000  # ln probabilities held at once
MOST, FEWEST = 4096, 256  # validation stretches looked at
LIMITS = (-1.5, 2.5)  # of ln temperature


def fit_temperature(members: Sequence[Any], field: str, valid: EventInputs, seed: int = 0) -> float:
    """Give the temperature at which the members' mean probability has the least cross-entropy on validation.

    Looks at 256 to 4,096 stretches, as many as fit. Members trained on the full softmax end up near 1; a sampled
    softmax without correction and robust losses do not. Source: Guo et al., arXiv 1706.04599.
    """
    from scipy.optimize import minimize_scalar

    spec = valid.table.spec
    column, n_rows = spec.column(field), spec.shape.n_rows(field)
    n = int(np.clip(CELLS // n_rows, FEWEST, MOST))
    rows = generator(seed, "temperature").permutation(len(valid))[:n]
    loader = EventLoader(EventInputs(valid.table, valid.stretches.take(np.sort(rows))), tokens_per_batch=4096)
    found, told, tell = [], [], teller(members, field)
    with torch.no_grad():
        for batch in loader:
            row, place = (batch.is_target & (batch.next_ids[..., column] >= FIRST)).nonzero(as_tuple=True)
            keep = torch.arange(len(row)) < n - sum(map(len, told))
            row, place = row[keep], place[keep]
            if len(row):
                found.append(tell(batch)(row, place)[:, FIRST:])
                told.append(batch.next_ids[row, place, column] - FIRST)
        if not found:
            return 1.0
        log_share, target = torch.cat(found), torch.cat(told)
        own = log_share.gather(1, target[:, None])[:, 0]

        def cost(log_temperature: float) -> float:
            cold = float(np.exp(-log_temperature))
            return float((torch.logsumexp(log_share * cold, dim=1) - own * cold).mean())

        best = minimize_scalar(cost, bounds=LIMITS, method="bounded", options={"xatol": 1e-3})
        return float(np.exp(best.x))  # pyright: ignore


def tempered(share: Tensor, temperature: float) -> Tensor:
    """Give probabilities (.. V) raised to 1 / temperature and scaled to sum to 1 again.

    >>> tempered(torch.tensor([0.2, 0.8, 0.0]), 0.5)
    tensor([0.0588, 0.9412, 0.0000])
    """
    return share if temperature == 1.0 else (share.log() / temperature).softmax(dim=-1)
