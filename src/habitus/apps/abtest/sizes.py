"""How many users an effect needs: closed forms for rates, means and ratios, and what clusters cost."""

from __future__ import annotations

import numpy as np

from habitus.core.errors import ConfigError


def n_binary(rate: float, lift: float, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """Give users per arm to find a relative change of a rate.

    >>> [round(n_binary(0.0514, lift), -3) for lift in (0.01, 0.02, 0.03, 0.05)]
    [2911000.0, 731000.0, 326000.0, 119000.0]
    """
    changed = rate * (1 + lift)
    if not (0 < rate < 1 and 0 < changed < 1 and lift):
        raise ConfigError("rates between 0 and 1, and a change", f"{rate:g} to {changed:g}", where="plan")
    low, high = _quantiles(alpha, power)
    mean = (rate + changed) / 2
    spread = low * np.sqrt(2 * mean * (1 - mean)) + high * np.sqrt(rate * (1 - rate) + changed * (1 - changed))
    return float(spread**2 / (changed - rate) ** 2)


def n_mean(
    variance: float, delta: float, *, treated: float | None = None, alpha: float = 0.05, power: float = 0.8
) -> float:
    """Give users per arm to find a difference `delta` of means, or of ratios by their linearised variance.

    `treated` is the variance under treatment [default: the same]: amounts that grow by a tenth vary by a fifth more.

    >>> round(n_mean(1.0, 0.1))
    1570
    """
    if not (variance > 0 and delta):
        raise ConfigError("a variance above 0 and a change", f"{variance:g} and {delta:g}", where="plan")
    both = variance + (variance if treated is None else treated)
    return float(sum(_quantiles(alpha, power)) ** 2 * both / delta**2)


def detectable(variance: float, n: float, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """Give the difference that n users per arm find with this power.

    >>> round(detectable(1.0, 1570), 2)
    0.1
    """
    return float(sum(_quantiles(alpha, power)) * np.sqrt(2 * variance / max(n, 1)))


def ratio_variance(y: np.ndarray, v: np.ndarray) -> float:
    """Give the variance per user of a ratio of sums: (s_y^2 - 2 R s_yv + R^2 s_v^2) / mean_v^2, over n for its own.

    >>> ratio_variance(np.array([1.0, 2.0]), np.array([2.0, 4.0]))
    0.0
    """
    ratio, both = y.mean() / v.mean(), np.cov(y, v)
    return float(max(both[0, 0] - 2 * ratio * both[0, 1] + ratio**2 * both[1, 1], 0) / v.mean() ** 2)


def design_effect(size: float, icc: float, cv: float = 0.0) -> float:
    """Give what clusters cost: 1 + (m (1 + cv^2) - 1) ICC, for clusters of m rows on average.

    >>> round(design_effect(23.3, 0.02), 2), round(design_effect(23.3, 0.02, cv=1.5), 2)
    (1.45, 2.49)
    """
    return 1 + (size * (1 + cv**2) - 1) * icc


def icc_anova(values: np.ndarray, cluster: np.ndarray) -> float:
    """Give the intra-cluster correlation by one-way analysis of variance, at least 0; rows [n], clusters [n].

    >>> icc_anova(np.array([1.0, 1.0, 2.0, 2.0]), np.array([0, 0, 1, 1]))
    1.0
    """
    _, code, size = np.unique(cluster, return_inverse=True, return_counts=True)
    k, n = len(size), len(values)
    if k < 2 or n <= k:
        raise ConfigError("two clusters, one of several rows", f"{k} clusters of {n} rows", where="icc")
    mean = np.bincount(code, values) / size
    between = (size * (mean - values.mean()) ** 2).sum() / (k - 1)
    inside = ((values - mean[code]) ** 2).sum() / (n - k)
    usual = (n - (size**2).sum() / n) / (k - 1)
    whole = between + (usual - 1) * inside
    return float(np.clip((between - inside) / whole, 0, 1)) if whole > 0 else 0.0


def _quantiles(alpha: float, power: float) -> tuple[float, float]:
    from scipy.special import ndtri

    return float(ndtri(1 - alpha / 2)), float(ndtri(power))
