"""What kinds of buyers there are, and which kind a customer is likely to be: a mixture of multinomials over assets.

Every customer belongs to one of K groups, every group has its own shares of assets, and a customer's buys are drawn
from them (Nigam, McCallum, Thrun and Mitchell, Machine Learning 39, 2000, without labels). Fitted by expectation and
maximisation on buys up to a day. What leaves a customer's graph are sums over all customers; a customer's own group is
worked out from their own buys.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from habitus.core.seeds import derive, generator

N_GROUPS, N_FITS, ROUNDS, PRIOR = 16, 3, 40, 200.0


@dataclass(frozen=True)
class Tastes:
    """Groups of buyers, from several starts: per fit `share` float64 [K, A], the part of each asset in the buys of a
    group, and `weight` [K], which sums to 1."""

    fits: list[tuple[np.ndarray, np.ndarray]]

    def expected(self, counts: Any) -> np.ndarray:
        """Give the share of each asset in the next buys of customers with these buys [B, A]: float64 [B, A].

        The mean over the fits; rows sum to 1. A customer without a buy gets the mean of all groups.
        """
        return np.mean([_posterior(counts, share, weight) @ share for share, weight in self.fits], axis=0)


def fit_tastes(counts: Any, *, n_groups: int = N_GROUPS, n_fits: int = N_FITS, seed: int = 0) -> Tastes:
    """Fit groups to buys per customer and asset (sparse [customers, A]); rows without a buy say nothing.

    A group leans towards the shares of everybody with the weight of 200 buys, so groups of few customers say little.
    """
    counts = counts[np.diff(counts.indptr) > 0]
    n_groups = max(1, min(n_groups, counts.shape[0] // 20))
    crowd = np.asarray(counts.sum(axis=0), np.float64).ravel() + 0.5
    crowd /= crowd.sum()
    return Tastes([_fit(counts, crowd, n_groups, derive(seed, f"tastes {start}")) for start in range(n_fits)])


def _fit(counts: Any, crowd: np.ndarray, n_groups: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    belongs = generator(seed, "tastes of customers").dirichlet(np.full(n_groups, 0.3), counts.shape[0])
    share, weight = crowd[None], np.ones(1)
    for _ in range(ROUNDS):
        share = np.asarray(counts.T @ belongs).T + PRIOR * crowd
        share /= share.sum(axis=1, keepdims=True)
        weight = (belongs.sum(axis=0) + 1) / (len(belongs) + n_groups)
        belongs = _posterior(counts, share, weight)
    return share, weight


def _posterior(counts: Any, share: np.ndarray, weight: np.ndarray) -> np.ndarray:
    log_odds = np.asarray(counts @ np.log(share).T) + np.log(weight)
    odds = np.exp(log_odds - log_odds.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)


def leaning(declared: np.ndarray, category: np.ndarray, who: np.ndarray, what: np.ndarray) -> np.ndarray:
    """Give how much more than others customers of a class buy a category: float64 [classes, categories], 1 = as others.

    declared: class of every customer, 0 and up; category of every asset; who, what: customer and asset of each buy.
    """
    counts = np.full((int(declared.max(initial=0)) + 1, int(category.max(initial=0)) + 1), 5.0)
    np.add.at(counts, (declared[who], category[what]), 1)
    return counts / counts.sum(1, keepdims=True) / (counts.sum(0) / counts.sum())
