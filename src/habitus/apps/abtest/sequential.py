"""Intervals that hold at every look: the mixture sequential interval with a normal mixture.

d -+ sqrt(V (V + tau2) / tau2 * log((V + tau2) / (V alpha^2))), V the variance of d now; tau2 = k V at the planned n,
where k = log(1 + k) - 2 log(alpha) makes the interval narrowest there. Sources: Robbins (1970); Johari, Koomen,
Pekelis, Walsh, *Always valid inference* (2022). Valid for users who enter once and are not measured again.
"""

from __future__ import annotations

import numpy as np

from habitus.core.errors import ConfigError


def mixture_factor(alpha: float) -> float:
    """Give k, the variance of the mixture in units of the planned variance.

    >>> round(mixture_factor(0.05), 1)
    8.2
    """
    if not 0 < alpha < 1:
        raise ConfigError("alpha in (0, 1)", f"{alpha}", where="sequential")
    k = 8.0
    for _ in range(200):  # a contraction for every k > 0
        k = np.log1p(k) - 2 * np.log(alpha)
    return float(k)


def half_width(variance: np.ndarray, tau2: float, alpha: float) -> np.ndarray:
    """Give the half width of the interval for a difference with this variance now.

    >>> from scipy.special import ndtri
    >>> float(round(half_width(np.array(1.0), mixture_factor(0.05), 0.05) / ndtri(0.975), 2))
    1.55
    """
    if not tau2 > 0:
        raise ConfigError("tau2 > 0, from the variance at the planned n", f"{tau2}", where="sequential")
    variance = np.asarray(variance, float)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.sqrt(variance * (variance + tau2) / tau2 * np.log((variance + tau2) / (variance * alpha**2)))
    return np.where(variance > 0, found, np.inf)


def running_interval(
    diff: np.ndarray, variance: np.ndarray, n: np.ndarray, *, tau2: float, alpha: float, first_look: int = 1000
) -> tuple[np.ndarray, np.ndarray]:
    """Give the interval at each look; endless before `first_look` users in the smaller arm (`n`).

    >>> low, high = running_interval(np.zeros(2), np.ones(2), np.array([999, 1000]), tau2=8.2, alpha=0.05)
    >>> bool(np.isinf(high[0])), bool(np.isinf(high[1]))
    (True, False)
    """
    half = np.where(np.asarray(n) >= first_look, half_width(variance, tau2, alpha), np.inf)
    return diff - half, diff + half


def log_bayes_split(
    n_treatment: np.ndarray, n_control: np.ndarray, share: float = 0.5, weight: float = 100.0
) -> np.ndarray:
    """Give the log evidence against the planned split: above log(1 / level) at any look, the split is off.

    A beta mixture around the planned share against that share alone; valid at every look (Lindon and Malek, 2022).
    `weight` is the number of users that the mixture counts for.
    """
    from scipy.special import betaln

    a, b = weight * share, weight * (1 - share)
    fixed = n_treatment * np.log(share) + n_control * np.log1p(-share)
    return betaln(a + n_treatment, b + n_control) - betaln(a, b) - fixed
