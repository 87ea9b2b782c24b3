"""The formulas behind each kind of head; `models/heads.py` is the way in."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from habitus.core.errors import TargetError

if TYPE_CHECKING:
    from habitus.models.heads import Head

LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
_MAX_SIGMA = 3.0  # of ln y: above it, exp(sigma^2 / 2) lets one row own the total
_MAX_SPREAD = 1.5  # sigma over the spread of all amounts: a row known to be less certain than that is a row not known
_FLOOR = 1e-3
_MAX_LOG = 80.0  # exp of more than 88 is no longer a float32
_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


@dataclass(frozen=True)
class HeadKind:
    """The functions of one kind; `z` is raw outputs plus base, `y` original units."""

    n_outputs: Callable[[Head], int]
    loss: Callable[[Head, Tensor, Tensor], Tensor]
    expected: Callable[[Head, Tensor], Tensor]
    probability: Callable[[Head, Tensor], Tensor]
    quantile: Callable[[Head, Tensor, Tensor], Tensor]  # levels: one axis; gives one more axis at the end
    fit: Callable[[Head, np.ndarray], Head]
    amount: Callable[[Head, Tensor, Tensor], Tensor] | None = None  # the same given y > 0; levels of each row: [..., L]


def safe_log(y: Tensor) -> Tensor:
    return torch.where(y > 0, y, 1.0).log()


def _logit(n_positive: float, n: int) -> float:
    """Log-odds of a rate, kept off 0 and 1 by half a row (Jeffreys)."""
    p = (n_positive + 0.5) / (n + 1)
    return math.log(p / (1 - p))


def _inverse_softplus(x: float) -> float:
    return x + math.log(-math.expm1(-x))


def mixture(p: Tensor, levels: Tensor, amount: Callable[[Tensor], Tensor]) -> Tensor:
    """Q(t) = 0 if t <= 1 - p else Q+((t - 1 + p) / p); `p` [..., 1], and `amount` maps levels [..., L] to values."""
    inner = (levels - 1 + p) / p.clamp_min(torch.finfo(p.dtype).tiny)
    return torch.where(inner > 0, amount(inner.clamp(1e-6, 1 - 1e-6)), 0.0)


def _mixed(amount: Callable[[Head, Tensor, Tensor], Tensor]) -> Callable[[Head, Tensor, Tensor], Tensor]:
    """Make the quantile of zero-or-amount from that of the amount; the first output is the logit of y > 0."""

    def quantile(head: Head, z: Tensor, levels: Tensor) -> Tensor:
        return mixture(torch.sigmoid(z[..., :1]), levels, lambda inner: amount(head, z, inner))

    return quantile


def _positive_logit(head: Head, z: Tensor) -> Tensor:
    return torch.sigmoid(z[..., 0])


def _bce(z: Tensor, is_positive: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(z, is_positive.to(z.dtype), reduction="none")


# binary -------------------------------------------------------------------------------------------------------------


def _binary_quantile(head: Head, z: Tensor, levels: Tensor) -> Tensor:
    return (levels > 1 - torch.sigmoid(z)).to(z.dtype)


def _binary_fit(head: Head, y: np.ndarray) -> Head:
    return replace(head, base=(_logit(y.sum(), y.size),))


# days: a categorical over 0..horizon --------------------------------------------------------------------------------


def _days_loss(head: Head, z: Tensor, y: Tensor) -> Tensor:
    return -z.log_softmax(-1).gather(-1, y.long()[..., None])[..., 0]


def _days_expected(head: Head, z: Tensor) -> Tensor:
    return z.softmax(-1) @ torch.arange(z.shape[-1], dtype=z.dtype, device=z.device)


def _days_quantile(head: Head, z: Tensor, levels: Tensor) -> Tensor:
    below = z.softmax(-1).cumsum(-1)[..., :-1, None] < levels  # ... F levels
    return below.sum(-2).to(z.dtype)


def _days_fit(head: Head, y: np.ndarray) -> Head:
    counts = np.bincount(y.astype(np.int64), minlength=head.horizon + 1) + 0.5
    return replace(head, base=tuple(np.log(counts / counts.sum()).tolist()))


# count: negative binomial with mean m and variance m + dispersion m^2 ------------------------------------------------


def _count_parts(head: Head, z: Tensor) -> tuple[Tensor, Tensor]:
    """Log mean, and the size r = 1 / dispersion, in 64 bits: lgamma differences lose 32."""
    z = z.double()
    return (head.location + z[..., 0]).clamp(max=_MAX_LOG), 1 / (F.softplus(z[..., 1]) + _FLOOR)


def _count_loss(head: Head, z: Tensor, y: Tensor) -> Tensor:
    log_mean, r = _count_parts(head, z)
    y = y.double()
    log_total = torch.logaddexp(log_mean, r.log())
    ways = torch.lgamma(y + r) - torch.lgamma(r) - torch.lgamma(y + 1)
    return -(ways + r * (r.log() - log_total) + y * (log_mean - log_total)).to(z.dtype)


def _count_expected(head: Head, z: Tensor) -> Tensor:
    return _count_parts(head, z)[0].exp().to(z.dtype)


def _count_probability(head: Head, z: Tensor) -> Tensor:
    log_mean, r = _count_parts(head, z)
    return -torch.expm1(r * (r.log() - torch.logaddexp(log_mean, r.log()))).to(z.dtype)


def _count_quantile(head: Head, z: Tensor, levels: Tensor) -> Tensor:
    from scipy.stats import nbinom

    log_mean, r = (part[..., None].cpu().numpy() for part in _count_parts(head, z))
    found = nbinom.ppf(levels.double().cpu().numpy(), r, r / (r + np.exp(log_mean)))
    return torch.as_tensor(found, dtype=z.dtype, device=z.device)


def _count_fit(head: Head, y: np.ndarray) -> Head:
    dispersion = max((y.var() - y.mean()) / y.mean() ** 2, 2 * _FLOOR)
    head = replace(head, location=math.log(y.mean()), base=(0.0, _inverse_softplus(dispersion - _FLOOR)))
    return _polish(head, y)


# ziln: zero or log-normal -------------------------------------------------------------------------------------------


def _ziln_parts(head: Head, z: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of ln y."""
    sigma = head.scale * (F.softplus(z[..., 2]) + _FLOOR)
    return head.location + head.scale * z[..., 1], sigma.clamp(max=min(_MAX_SIGMA, _MAX_SPREAD * head.scale))


def _ziln_loss(head: Head, z: Tensor, y: Tensor) -> Tensor:
    mu, sigma = _ziln_parts(head, z)
    standard = (safe_log(y) - mu) / sigma
    amount = (sigma / head.scale).log() + _HALF_LOG_2PI + 0.5 * standard.square()
    return _bce(z[..., 0], y > 0) + torch.where(y > 0, amount, 0.0)


def _ziln_expected(head: Head, z: Tensor) -> Tensor:
    mu, sigma = _ziln_parts(head, z)
    return torch.sigmoid(z[..., 0]) * (mu + 0.5 * sigma.square()).clamp(max=_MAX_LOG).exp()


def _ziln_amount(head: Head, z: Tensor, levels: Tensor) -> Tensor:
    mu, sigma = (part[..., None] for part in _ziln_parts(head, z))
    return (mu + sigma * torch.special.ndtri(levels)).clamp(max=_MAX_LOG).exp()


def _ziln_fit(head: Head, y: np.ndarray) -> Head:
    head = _scaled(head, np.log(y[y > 0]))
    sigma = min(_MAX_SIGMA / head.scale, 1.0)
    return replace(head, base=(_logit((y > 0).sum(), y.size), 0.0, _inverse_softplus(sigma - _FLOOR)))


# hurdle: zero or gamma with mean m and shape k ----------------------------------------------------------------------


def _hurdle_parts(head: Head, z: Tensor) -> tuple[Tensor, Tensor]:
    log_mean = (head.location + head.scale * z[..., 1]).clamp(-_MAX_LOG, _MAX_LOG)
    return log_mean, F.softplus(z[..., 2]) + _FLOOR


def _hurdle_loss(head: Head, z: Tensor, y: Tensor) -> Tensor:
    log_mean, k = _hurdle_parts(head, z)
    over = safe_log(y) - log_mean  # ln(y / m)
    log_density = k * k.log() - torch.lgamma(k) + k * over - k * over.clamp(max=_MAX_LOG).exp()  # of ln y
    return _bce(z[..., 0], y > 0) + torch.where(y > 0, -log_density - math.log(head.scale), 0.0)


def _hurdle_expected(head: Head, z: Tensor) -> Tensor:
    return torch.sigmoid(z[..., 0]) * _hurdle_parts(head, z)[0].exp()


def _hurdle_amount(head: Head, z: Tensor, levels: Tensor) -> Tensor:
    from scipy.special import gammaincinv

    log_mean, k = (part[..., None] for part in _hurdle_parts(head, z))
    unit = gammaincinv(k.double().cpu().numpy(), levels.double().cpu().numpy())
    return torch.as_tensor(unit, dtype=z.dtype, device=z.device) / k * log_mean.exp()


def _hurdle_fit(head: Head, y: np.ndarray) -> Head:
    positive = y[y > 0]
    head = _scaled(head, np.log(positive))
    spread = max(math.log(positive.mean()) - np.log(positive).mean(), 1e-6)
    k = (3 - spread + math.sqrt((spread - 3) ** 2 + 24 * spread)) / (12 * spread)  # Minka (2002), near the optimum
    log_mean = (math.log(positive.mean()) - head.location) / head.scale
    return replace(head, base=(_logit(positive.size, y.size), log_mean, _inverse_softplus(min(k, 1e3))))


# quantile: zero or seven monotone quantiles of log1p y ---------------------------------------------------------------


def _quantile_values(head: Head, z: Tensor) -> Tensor:
    """The 7 quantiles in scaled space, rising by construction: first value, then cumulative softplus."""
    return torch.cat([z[..., 1:2], z[..., 1:2] + F.softplus(z[..., 2:]).cumsum(-1)], dim=-1)


def _quantile_loss(head: Head, z: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy plus, on positives, the mean pinball loss over the levels in scaled space."""
    levels = torch.tensor(LEVELS, dtype=z.dtype, device=z.device)
    scaled = (torch.log1p(torch.where(y > 0, y, 1.0)) - head.location) / head.scale
    error = scaled[..., None] - _quantile_values(head, z)
    pinball = torch.maximum(levels * error, (levels - 1) * error).mean(-1)
    return _bce(z[..., 0], y > 0) + torch.where(y > 0, pinball, 0.0)


def _quantile_amounts(head: Head, z: Tensor) -> Tensor:
    """The 7 quantiles of the amount in original units."""
    return (head.location + head.scale * _quantile_values(head, z)).clamp(0.0, _MAX_LOG).expm1()


def _quantile_expected(head: Head, z: Tensor) -> Tensor:
    amounts = _quantile_amounts(head, z)
    amounts = torch.cat([amounts[..., :1], amounts, amounts[..., -1:]], dim=-1)
    levels = torch.tensor((0.0, *LEVELS, 1.0), dtype=z.dtype, device=z.device)
    return torch.sigmoid(z[..., 0]) * torch.trapezoid(amounts, levels, dim=-1)


def _quantile_amount(head: Head, z: Tensor, levels: Tensor) -> Tensor:
    known = torch.tensor(LEVELS, dtype=z.dtype, device=z.device)
    scaled = _quantile_values(head, z)
    u = levels.clamp(LEVELS[0], LEVELS[-1]).expand(*scaled.shape[:-1], levels.shape[-1])
    right = torch.searchsorted(known, u.contiguous()).clamp(1, len(LEVELS) - 1)
    share = (u - known[right - 1]) / (known[right] - known[right - 1])
    low, high = scaled.gather(-1, right - 1), scaled.gather(-1, right)
    return (head.location + head.scale * torch.lerp(low, high, share)).clamp(0.0, _MAX_LOG).expm1()


def _quantile_fit(head: Head, y: np.ndarray) -> Head:
    logs = np.log1p(y[y > 0])
    head = _scaled(head, logs)
    values = np.quantile((logs - head.location) / head.scale, LEVELS)
    rises = [_inverse_softplus(max(float(rise), _FLOOR)) for rise in np.diff(values)]
    return replace(head, base=(_logit((y > 0).sum(), y.size), float(values[0]), *rises))


# masked_mse: squared error of the signed log1p where there is an amount ----------------------------------------------


def _signed_log1p(y: Tensor) -> Tensor:
    return y.sign() * y.abs().log1p()


def _masked_back(head: Head, scaled: Tensor) -> Tensor:
    logs = (head.location + head.scale * scaled).clamp(-_MAX_LOG, _MAX_LOG)
    return logs.sign() * logs.abs().expm1()


def _masked_loss(head: Head, z: Tensor, y: Tensor) -> Tensor:
    error = z[..., 0] - (_signed_log1p(y) - head.location) / head.scale
    return torch.where(y != 0, error.square(), 0.0)


def _masked_quantile(head: Head, z: Tensor, levels: Tensor) -> Tensor:
    return _masked_back(head, z + torch.special.ndtri(levels))


def _masked_probability(head: Head, z: Tensor) -> Tensor:
    fix = "add a binary target beside it, or use a ziln, hurdle or quantile head"
    raise TargetError("a head that says whether there is an amount", "masked_mse", where=f"target {head.name}", fix=fix)


def _masked_fit(head: Head, y: np.ndarray) -> Head:
    amounts = y[y != 0]
    return replace(_scaled(head, np.sign(amounts) * np.log1p(np.abs(amounts))), base=(0.0,))


# fitting ------------------------------------------------------------------------------------------------------------


def _scaled(head: Head, logs: np.ndarray) -> Head:
    """Location and scale of the logs of the amounts; scale 1 when they do not vary."""
    spread = float(logs.std())
    return replace(head, location=float(logs.mean()), scale=spread if spread > 1e-6 else 1.0)


def _polish(head: Head, y: np.ndarray) -> Head:
    """Move the base outputs to the minimum of the mean loss (L-BFGS from where they are)."""
    from scipy.optimize import minimize

    values = torch.as_tensor(y)

    def objective(x: np.ndarray) -> tuple[float, np.ndarray]:
        raw = torch.tensor(x, dtype=torch.float64, requires_grad=True)
        mean = KINDS[head.kind].loss(head, raw.expand(len(values), -1), values).mean()
        mean.backward()
        return mean.item(), raw.grad.numpy()  # pyright: ignore

    found = minimize(
        objective, np.array(head.base), jac=True, method="L-BFGS-B", bounds=[(-12.0, 12.0)] * len(head.base)
    )
    return replace(head, base=tuple(found.x.tolist()))


def _everywhere(values: np.ndarray, horizon: int) -> np.ndarray:
    return np.ones(values.shape, dtype=bool)


DOMAINS: dict[str, tuple[str, Callable[[np.ndarray, int], np.ndarray]]] = {
    "binary": ("0 or 1", lambda v, h: (v == 0) | (v == 1)),
    "days": ("whole numbers from 0 to the horizon", lambda v, h: (v >= 0) & (v <= h) & (v == np.round(v))),
    "count": ("whole numbers from 0", lambda v, h: (v >= 0) & (v == np.round(v))),
    "ziln": ("values from 0", lambda v, h: v >= 0),
    "hurdle": ("values from 0", lambda v, h: v >= 0),
    "quantile": ("values from 0", lambda v, h: v >= 0),
    "masked_mse": ("finite values", _everywhere),
}

KINDS: dict[str, HeadKind] = {
    "binary": HeadKind(
        n_outputs=lambda head: 1,
        loss=lambda head, z, y: _bce(z[..., 0], y),
        expected=_positive_logit,
        probability=_positive_logit,
        quantile=_binary_quantile,
        fit=_binary_fit,
    ),
    "days": HeadKind(
        n_outputs=lambda head: head.horizon + 1,
        loss=_days_loss,
        expected=_days_expected,
        probability=lambda head, z: 1 - z.softmax(-1)[..., 0],
        quantile=_days_quantile,
        fit=_days_fit,
    ),
    "count": HeadKind(lambda head: 2, _count_loss, _count_expected, _count_probability, _count_quantile, _count_fit),
    "ziln": HeadKind(
        n_outputs=lambda head: 3,
        loss=_ziln_loss,
        expected=_ziln_expected,
        probability=_positive_logit,
        quantile=_mixed(_ziln_amount),
        fit=_ziln_fit,
        amount=_ziln_amount,
    ),
    "hurdle": HeadKind(
        n_outputs=lambda head: 3,
        loss=_hurdle_loss,
        expected=_hurdle_expected,
        probability=_positive_logit,
        quantile=_mixed(_hurdle_amount),
        fit=_hurdle_fit,
        amount=_hurdle_amount,
    ),
    "quantile": HeadKind(
        n_outputs=lambda head: 1 + len(LEVELS),
        loss=_quantile_loss,
        expected=_quantile_expected,
        probability=_positive_logit,
        quantile=_mixed(_quantile_amount),
        fit=_quantile_fit,
        amount=_quantile_amount,
    ),
    "masked_mse": HeadKind(
        n_outputs=lambda head: 1,
        loss=_masked_loss,
        expected=lambda head, z: _masked_back(head, z[..., 0]),
        probability=_masked_probability,
        quantile=_masked_quantile,
        fit=_masked_fit,
    ),
}
