"""Heads: what the raw outputs of a model mean for one target, as pure functions.

Raw outputs have the head's `n_outputs` on their last axis; `y` is in original units and has the leading axes of `raw`.
Raw outputs of zero are the base-rate prediction once a head is fitted (`fit_head`), so a model starts from it.

    kind        target                     outputs                                loss
    binary      0 or 1                     logit                                  cross-entropy
    days        0..horizon                 one logit per number of days           cross-entropy
    count       0, 1, 2, ...               log mean, log dispersion               negative binomial
    ziln        amount >= 0                logit of y > 0, mu and sigma of ln y   zero-inflated log-normal
    hurdle      amount >= 0                logit of y > 0, log mean, shape        zero or gamma
    quantile    amount >= 0                logit of y > 0, 7 quantiles of log1p   cross-entropy, pinball on positives
    masked_mse  amount, zero = no value    the amount, signed log1p               squared error where y != 0

Sources: ZILN, Wang, Liu and Miao, arXiv 1912.07753; the masked loss, arXiv 2512.08957. The formulas of each kind are in
`models/head_kinds.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from habitus.core.errors import ConfigError, TargetError, nearest
from habitus.models.head_kinds import DOMAINS, KINDS, safe_log


@dataclass(frozen=True)
class Head:
    """What one target's raw outputs mean.

    Parameters
    ----------
    kind, name, horizon
        See the table above; the target's name; its days.
    location, scale
        Amounts are modelled in the space (ln y - location) / scale; a count uses `location` alone.
    base
        Added to the raw outputs: the raw outputs of the base-rate predictor. Empty = zeros.
    ratio
        `expected` is multiplied by it; see `fit_ratio`.

    Errors: an unknown kind is a `ConfigError` with the nearest one.

    >>> n_outputs(Head("ziln", "spend", 28))
    3
    """

    kind: str
    name: str
    horizon: int
    location: float = 0.0
    scale: float = 1.0
    base: tuple[float, ...] = ()
    ratio: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            meant = nearest(self.kind, KINDS)
            fix = f"did you mean {meant!r}?" if meant else ""
            raise ConfigError(
                f"a head out of: {', '.join(KINDS)}", repr(self.kind), where=f"target {self.name}", fix=fix
            )
        if not (math.isfinite(self.location) and math.isfinite(self.scale) and self.scale > 0):
            raise ConfigError(
                "a finite location and a positive scale", f"{self.location}, {self.scale}", where=f"target {self.name}"
            )


def n_outputs(head: Head) -> int:
    """Count the raw outputs.

    >>> n_outputs(Head("days", "visits", 7)), n_outputs(Head("binary", "buy", 28))
    (8, 1)
    """
    return KINDS[head.kind].n_outputs(head)


def loss(head: Head, raw: Tensor, y: Tensor) -> Tensor:
    """What training minimises, per row: free of the unit of `y`, so that targets can be weighed against each other.

    For ziln and hurdle the negative log density of (ln y - location) / scale, which differs from
    `negative_log_likelihood` by what does not depend on the model. For the others the two are the same.

    >>> loss(Head("binary", "buy", 28), torch.zeros(2, 1), torch.tensor([0.0, 1.0]))
    tensor([0.6931, 0.6931])
    """
    return KINDS[head.kind].loss(head, _outputs(head, raw), y)


def negative_log_likelihood(head: Head, raw: Tensor, y: Tensor) -> Tensor:
    """Minus the log density (amounts) or probability of `y` in original units, per row.

    `quantile` and `masked_mse` have no density: they give their loss, in scaled space.
    """
    nll = loss(head, raw, y)
    if head.kind not in ("ziln", "hurdle"):
        return nll
    return nll + torch.where(y > 0, safe_log(y) + math.log(head.scale), 0.0)


def expected(head: Head, raw: Tensor) -> Tensor:
    """Expected value in original units, times the head's `ratio`.

    `binary`: the probability. `masked_mse`: the amount *given there is one*, transformed back from log space, so nearer
    to a median than to a mean. `quantile`: trapezoid over its levels, flat outside them; fit a ratio for totals.

    >>> expected(Head("ziln", "spend", 28), torch.tensor([[0.0, 1.0, 0.0]]))
    tensor([1.7294])
    """
    return KINDS[head.kind].expected(head, _outputs(head, raw)) * head.ratio


def probability(head: Head, raw: Tensor) -> Tensor:
    """P(y > 0). Errors: `masked_mse` does not say (`TargetError`).

    >>> probability(Head("binary", "buy", 28), torch.zeros(1, 1))
    tensor([0.5000])
    """
    return KINDS[head.kind].probability(head, _outputs(head, raw))


def quantile(head: Head, raw: Tensor, q: float | Sequence[float]) -> Tensor:
    """Quantile in original units: leading axes of `raw`, then one axis for the levels if `q` is a sequence.

    Discrete targets give the smallest value whose cumulative probability reaches q. Zero-or-amount heads give
    0 if q <= 1 - p, else the q' quantile of the amount with q' = (q - 1 + p) / p. `quantile` heads are flat outside
    0.05..0.95 of the amount. `masked_mse` takes unit spread in scaled space (what squared error stands for), which is
    wider than the truth when the model explains anything. No gradient.

    >>> quantile(Head("binary", "buy", 28), torch.tensor([[2.0]]), [0.05, 0.5])
    tensor([[0., 1.]])
    """
    levels = torch.as_tensor(q, dtype=torch.float64, device=raw.device)
    if bool(((levels <= 0) | (levels >= 1)).any()):
        raise ConfigError("quantile levels inside (0, 1)", str(q), where=f"target {head.name}")
    with torch.no_grad():
        values = KINDS[head.kind].quantile(head, _outputs(head, raw), levels.reshape(-1).to(raw.dtype))
    return values if levels.ndim else values[..., 0]


def has_amount(head: Head) -> bool:
    """Tell whether a head says apart how likely there is an amount and how large it is: ziln, hurdle, quantile."""
    return KINDS[head.kind].amount is not None


def amount_quantile(head: Head, raw: Tensor, levels: Tensor) -> Tensor:
    """Quantiles of the amount given that there is one, original units: [..., L] at levels [..., L] of each row's own.

    No gradient. Errors: `TargetError` for a head that does not say (see `has_amount`).

    >>> head = Head("ziln", "spend", 28)
    >>> amount_quantile(head, torch.zeros(1, 3), torch.tensor([0.5]))
    tensor([[1.]])
    """
    amount = KINDS[head.kind].amount
    if amount is None:
        raise TargetError("a ziln, hurdle or quantile head", repr(head.kind), where=f"target {head.name}")
    with torch.no_grad():
        return amount(head, _outputs(head, raw), levels.to(raw.dtype))


def is_usable(head: Head, y: Tensor, is_observed: Tensor) -> Tensor:
    """Rows that carry a loss: observed, and for `masked_mse` with an amount."""
    return is_observed & (y != 0) if head.kind == "masked_mse" else is_observed


def weight_order(head: Head) -> int:
    """The r of uncertainty weights: 1 for squared error, 0 for likelihoods (pinball stands in for one)."""
    return 1 if head.kind == "masked_mse" else 0


def check_values(head: Head, values: np.ndarray, rows: np.ndarray | None = None) -> None:
    """Refuse values that this head cannot model. Errors: `TargetError` naming the target and the first bad row."""
    bad = ~np.isfinite(values)
    expected_text = "finite values"
    if not bad.any():
        expected_text, test = DOMAINS[head.kind]
        bad = ~test(values, head.horizon)
    if bad.any():
        first = int(np.flatnonzero(bad)[0])
        row = first if rows is None else int(rows[first])
        fix = "make refunds a target of their own" if values[first] < 0 else "choose another head for this target"
        where = f"target {head.name}, row {row}"
        raise TargetError(f"{expected_text} for a {head.kind} head", f"{values[first]:g}", where=where, fix=fix)


def fit_head(kind: str, name: str, horizon: int, values: Any) -> Head:
    """Fit location, scale and base rate on the observed target values of the training samples (1-D).

    Errors: `TargetError` without any value, without a single positive one, or with a value the head cannot model.

    >>> head = fit_head("binary", "buy", 28, [0, 0, 0, 1])
    >>> expected(head, torch.zeros(1, 1))  # zeros give the base rate, (1 + 0.5) / (4 + 1)
    tensor([0.3000])
    """
    y = np.asarray(values, dtype=np.float64).reshape(-1)
    head = Head(kind, name, horizon)
    if not y.size:
        raise TargetError("observed values to fit a head on", "none", where=f"target {name}", fix="check the cut-offs")
    check_values(head, y)
    if not (y != 0).any():
        fix = "choose a longer horizon, or drop the target"
        raise TargetError("at least one value above 0", f"{y.size:,} zeros", where=f"target {name}", fix=fix)
    return KINDS[kind].fit(head, y)


def fit_ratio(head: Head, raw: Tensor, y: Tensor) -> Head:
    """Give the head with the ratio of the observed total to the expected total (fit it on validation, never on test).

    >>> head = fit_ratio(Head("ziln", "spend", 28), torch.zeros(2, 3), torch.tensor([0.0, 4.0]))
    >>> float(expected(head, torch.zeros(2, 3)).sum())
    4.0
    """
    total = float(expected(replace(head, ratio=1.0), raw).double().sum())
    return replace(head, ratio=float(y.double().sum()) / total) if total > 0 else replace(head, ratio=1.0)


def _outputs(head: Head, raw: Tensor) -> Tensor:
    """Raw outputs plus base, in at least 32 bits."""
    raw = raw.float() if raw.dtype in (torch.bfloat16, torch.float16) else raw
    return raw + torch.tensor(head.base, dtype=raw.dtype, device=raw.device) if head.base else raw
