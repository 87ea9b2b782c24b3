"""Differences between two arms, from sums that add up over users, days and segments.

All that is needed of an arm is the matrix of sums of products of its columns [1, y, v, covariates]: differences of
means and ratios, their variances by the delta method, and CUPED. Sources: Deng, Xu, Kohavi, Walker, *Improving the
sensitivity of online controlled experiments* (2013); Deng, Knoblich, Lu, *Applying the delta method in metric
analytics* (2018).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Effect:
    """Treatment minus control; every field has the leading shape [...] of the sums.

    Attributes
    ----------
    control, treatment
        Mean or ratio per arm, adjusted when CUPED is.
    diff, variance
        The difference and the variance of it.
    lift, lift_variance
        The difference relative to control, by the delta method.
    n_control, n_treatment
        Users.
    """

    control: np.ndarray
    treatment: np.ndarray
    diff: np.ndarray
    variance: np.ndarray
    lift: np.ndarray
    lift_variance: np.ndarray
    n_control: np.ndarray
    n_treatment: np.ndarray

    def interval(self, alpha: float) -> tuple[np.ndarray, np.ndarray]:
        """Give the two-sided interval of the difference, valid for one look."""
        return spread(self.diff, self.variance, alpha)

    def lift_interval(self, alpha: float) -> tuple[np.ndarray, np.ndarray]:
        """Give the two-sided interval of the lift, valid for one look."""
        return spread(self.lift, self.lift_variance, alpha)

    @property
    def p_value(self) -> np.ndarray:
        """Two-sided, from the normal distribution; 1 where nothing varies."""
        from scipy.special import ndtr

        return 2 * ndtr(-np.abs(safe(self.diff, np.sqrt(self.variance))))


def sums(columns: np.ndarray) -> np.ndarray:
    """Give the sums of products [..., P, P] of columns [..., n, P]; the first column is put before them as ones.

    >>> sums(np.array([[1.0], [3.0]])).tolist()
    [[2.0, 4.0], [4.0, 10.0]]
    """
    whole = np.concatenate([np.ones((*columns.shape[:-1], 1)), columns], axis=-1)
    return np.swapaxes(whole, -1, -2) @ whole


def grouped_sums(columns: np.ndarray, group: np.ndarray, n_groups: int) -> np.ndarray:
    """Give `sums` of each group: [n_groups, P, P] from columns [n, P] and group numbers [n]; -1 belongs to none."""
    keep = group >= 0
    whole = np.concatenate([np.ones((int(keep.sum()), 1)), columns[keep]], axis=1)
    found = np.zeros((n_groups, whole.shape[1], whole.shape[1]))
    for i in range(whole.shape[1]):
        for j in range(i + 1):
            found[:, i, j] = found[:, j, i] = np.bincount(group[keep], whole[:, i] * whole[:, j], minlength=n_groups)
    return found


def effect(control: np.ndarray, treatment: np.ndarray, *, is_ratio: bool = False, adjust: bool = False) -> Effect:
    """Give the effect from the sums of both arms [..., P, P], columns 1, y, then v for a ratio, then covariates.

    With `adjust`, CUPED: theta is pooled over the arms, and several covariates are one regression. A ratio is
    linearised in each arm, z = (y - R v) / mean v, so its difference is exactly that of the ratios. Constant covariates
    change nothing.
    """
    sides = [_Side.of(each, is_ratio) for each in (control, treatment)]
    levels, variances = [side.level for side in sides], [side.spread / side.n for side in sides]
    if adjust and control.shape[-1] > 2 + is_ratio:
        theta = _theta(sides)
        weights = [side.n[..., None] for side in sides]
        centre = (weights[0] * sides[0].means + weights[1] * sides[1].means) / (weights[0] + weights[1])
        levels = [side.level - _dot(theta, side.means - centre) for side in sides]
        variances = [side.residual(theta) / side.n for side in sides]
    base, level = levels
    lift = safe(level - base, base)
    ratio = safe(level, base)
    lift_variance = safe(variances[1] + ratio**2 * variances[0], base**2)
    return Effect(base, level, level - base, variances[0] + variances[1], lift, lift_variance, sides[0].n, sides[1].n)


def correlation(control: np.ndarray, treatment: np.ndarray, *, is_ratio: bool = False) -> np.ndarray:
    """Give rho, the multiple correlation of a metric with its covariates inside the arms: CUPED saves rho squared."""
    sides = [_Side.of(each, is_ratio) for each in (control, treatment)]
    theta = _theta(sides)
    whole, rest = (
        (sides[0].n - 1) * parts[0] + (sides[1].n - 1) * parts[1]
        for parts in ([side.spread for side in sides], [side.residual(theta) for side in sides])
    )
    return np.sqrt(np.clip(1 - safe(rest, whole), 0, 1))


def linearised(y: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Give (y - R v) / mean v with R the pooled ratio: per-user values whose mean difference is that of the ratio.

    >>> linearised(np.array([1.0, 3.0]), np.array([2.0, 2.0])).tolist()
    [-0.5, 0.5]
    """
    mean = v.mean()
    return (y - y.mean() / mean * v) / mean if mean > 0 else np.zeros(len(y))


def spread(value: np.ndarray, variance: np.ndarray, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """Give value -+ z sqrt(variance)."""
    from scipy.special import ndtri

    half = ndtri(1 - alpha / 2) * np.sqrt(variance)
    return value - half, value + half


def holm(p: np.ndarray) -> np.ndarray:
    """Give p-values adjusted for several metrics by Holm's step-down rule, in the order given.

    >>> holm(np.array([0.01, 0.04, 0.03])).round(3).tolist()
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p)
    raised = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    found = np.empty(len(p))
    found[order] = np.minimum(raised, 1)
    return found


def safe(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """Divide; 0 where the divisor is 0."""
    top, bottom = np.broadcast_arrays(np.asarray(top, float), np.asarray(bottom, float))
    return np.divide(top, bottom, out=np.zeros_like(top), where=bottom != 0)


@dataclass(frozen=True)
class _Side:
    """One arm: users, level, variance of z, covariates' means [..., C], their covariance with z and with each other."""

    n: np.ndarray
    level: np.ndarray
    spread: np.ndarray
    means: np.ndarray
    with_z: np.ndarray
    covariance: np.ndarray

    @classmethod
    def of(cls, total: np.ndarray, is_ratio: bool) -> _Side:
        n = total[..., 0, 0]
        mean = total[..., 0, 1:] / np.maximum(n, 1)[..., None]
        product = total[..., 1:, 1:] - n[..., None, None] * mean[..., :, None] * mean[..., None, :]
        product = product / np.maximum(n - 1, 1)[..., None, None]
        first = 1 + is_ratio
        weight = np.zeros(mean.shape)
        weight[..., 0], level = 1.0, mean[..., 0]
        if is_ratio:
            level = safe(mean[..., 0], mean[..., 1])
            weight[..., 0], weight[..., 1] = safe(np.ones_like(n), mean[..., 1]), safe(-level, mean[..., 1])
        with_all = (product @ weight[..., None])[..., 0]
        own = np.maximum(_dot(with_all, weight), 0)
        return cls(n, level, own, mean[..., first:], with_all[..., first:], product[..., first:, first:])

    def residual(self, theta: np.ndarray) -> np.ndarray:
        """Variance of z - theta C."""
        square = _dot(theta, (self.covariance @ theta[..., None])[..., 0])
        return np.maximum(self.spread - 2 * _dot(theta, self.with_z) + square, 0)


def _theta(sides: list[_Side]) -> np.ndarray:
    weights = [(side.n - 1)[..., None, None] for side in sides]
    inside = weights[0] * sides[0].covariance + weights[1] * sides[1].covariance
    target = weights[0][..., 0] * sides[0].with_z + weights[1][..., 0] * sides[1].with_z
    scale = np.sqrt(np.maximum(np.diagonal(inside, axis1=-2, axis2=-1), 0))
    unit = safe(inside, scale[..., :, None] * scale[..., None, :])
    theta = (np.linalg.pinv(unit, rcond=1e-9, hermitian=True) @ safe(target, scale)[..., None])[..., 0]
    return safe(theta, scale)


def _dot(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return (one * other).sum(axis=-1)
