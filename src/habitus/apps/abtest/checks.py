"""Is the experiment sound? The split as planned (sample ratio), and no effect where there can be none (A/A)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from habitus.apps.abtest.assign import CONTROL, TREATMENT, arms, buckets_of
from habitus.apps.abtest.estimate import effect, grouped_sums

SRM_LEVEL = 0.001
_SMALL = 1000  # users below which the exact binomial test stands in for chi-squared


@dataclass(frozen=True)
class Split:
    """One test of the split: where, users per arm, the p-value, raised for the number of tests in its family."""

    family: str  # overall, day, a segment's name, or excluded
    place: str
    n_control: int
    n_treatment: int
    p: float

    @property
    def is_off(self) -> bool:
        """The split is not what was planned."""
        return self.p < SRM_LEVEL


def srm(n_treatment: np.ndarray | int, n_control: np.ndarray | int, share: float | np.ndarray = 0.5) -> np.ndarray:
    """Give the p-value of each split against the planned share of treatment: chi-squared, 1 degree of freedom.

    Splits of fewer than 1,000 users are tested by the exact binomial, both tails doubled.

    >>> srm(np.array([5000, 5210]), np.array([5000, 4790])).round(6).tolist()
    [1.0, 2.7e-05]
    """
    from scipy.special import bdtr, chdtrc

    n_treatment, n_control = np.asarray(n_treatment, float), np.asarray(n_control, float)
    n = n_treatment + n_control
    expected = np.maximum(n * share * (1 - share), 1e-300)
    chi2 = (n_treatment - n * share) ** 2 / expected
    below = bdtr(n_treatment, n.astype(np.int64), share)
    above = 1 - np.where(n_treatment > 0, bdtr(np.maximum(n_treatment - 1, 0), n.astype(np.int64), share), 0.0)
    exact = np.minimum(1, 2 * np.minimum(below, above))
    return np.where(n == 0, 1.0, np.where(n < _SMALL, exact, chdtrc(1.0, chi2)))


def split_checks(arm: np.ndarray, families: Mapping[str, tuple[np.ndarray, Sequence[str]]]) -> list[Split]:
    """Test the split overall and inside each group of each family (codes [n], names); -1 in codes belongs to no group.

    Inside a family p-values are multiplied by the number of its groups (Bonferroni), so that a family cries wolf as
    rarely as one test.
    """
    found = [_splits("overall", arm, np.zeros(len(arm), np.int64), ("all users",))]
    found += [_splits(family, arm, codes, names) for family, (codes, names) in families.items()]
    return [split for part in found for split in part]


def _splits(family: str, arm: np.ndarray, codes: np.ndarray, names: Sequence[str]) -> list[Split]:
    counts = [np.bincount(codes[(arm == side) & (codes >= 0)], minlength=len(names)) for side in (CONTROL, TREATMENT)]
    is_used = np.flatnonzero(counts[0] + counts[1])
    p = np.minimum(srm(counts[1], counts[0]) * max(len(is_used), 1), 1)
    return [Split(family, str(names[i]), int(counts[0][i]), int(counts[1][i]), float(p[i])) for i in is_used.tolist()]


@dataclass(frozen=True)
class AA:
    """What many assignments of past data found: nothing was done, so p-values should be uniform."""

    p: np.ndarray  # [salts]
    ks: float  # p-value of Kolmogorov-Smirnov against uniform
    rejected: float  # share below .05

    @property
    def is_sound(self) -> bool:
        """Uniform by KS at the 1 % level, and rejections within the 99.7 % band around 5 %."""
        band = 3 * np.sqrt(0.05 * 0.95 / len(self.p))
        return self.ks > 0.01 and abs(self.rejected - 0.05) <= band


def a_a(
    units: object,
    columns: np.ndarray,
    n_salts: int = 1000,
    *,
    is_ratio: bool = False,
    adjust: bool = False,
    salt: str = "a/a",
) -> AA:
    """Assign past data by `n_salts` salts and test each for a difference that cannot be.

    `columns` [n, P]: y, then v for a ratio, then covariates. Says whether hash, unit and test fit these data.
    """
    from scipy.stats import kstest

    totals = []
    for bucket in buckets_of(units, (f"{salt} {number}" for number in range(n_salts))):
        totals.append(grouped_sums(columns, arms(bucket, 0.5).astype(np.int64), 2))
    both = np.stack(totals)
    p = effect(both[:, 0], both[:, 1], is_ratio=is_ratio, adjust=adjust).p_value
    return AA(p, float(kstest(p, "uniform").pvalue), float((p < 0.05).mean()))
