"""How advice is judged: Pref@3, Prof@3, Comb@3, nDCG@10 and monthly ROI@10, every case counted.

FLARKO (arXiv 2510.15993) gives the first three, FAR-Trans (arXiv 2407.08692) the others. A case is a customer with a
transaction up to the day, and a day. One without any later buy is a miss, and so is an answer that cannot be read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from habitus.apps.advisor.market import Outcome, View
from habitus.metrics.bootstrap import of_draws, resamples

TOP, LONG = 3, 10
HITS = ("pref", "prof", "comb")
FIGURES = (*HITS, "pref_new", "prof_new", "comb_new", "ndcg", "roi")


@dataclass(frozen=True)
class Judged:
    """Figures per case of one method: float32 [B] each, NaN where a figure has no meaning for the case."""

    figures: dict[str, np.ndarray]


def top(scores: np.ndarray, k: int) -> np.ndarray:
    """Give the k best assets per row, ties by place, -1 where the score is -inf: int [B, k].

    >>> top(np.array([[0.0, 2.0, -np.inf]]), 3)
    array([[ 1,  0, -1]])
    """
    k = min(k, scores.shape[1])
    part = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    # equal scores at the border are decided by place, as a full stable sort would
    border = np.take_along_axis(scores, part, 1).min(1, keepdims=True)
    certain = scores > border
    room = k - certain.sum(1, keepdims=True)
    tied = scores == border
    chosen = certain | (tied & (tied.cumsum(1) <= room))
    found = np.nonzero(chosen)[1].reshape(len(scores), k)
    value = np.take_along_axis(scores, found, 1)
    order = np.argsort(-value, axis=1, kind="stable")
    return np.where(np.isfinite(np.take_along_axis(value, order, 1)), np.take_along_axis(found, order, 1), -1)


def judge_scores(
    view: View, scores: np.ndarray, outcome: Outcome, had: np.ndarray, fits: np.ndarray | None = None
) -> Judged:
    """Judge scores [B, A]; `had` bool [B, A]: bought before. Only assets with a price are ranked."""
    opened = np.where(view.is_open, scores, -np.inf)
    return judge_lists(top(opened, LONG), top(np.where(had, -np.inf, opened), LONG), outcome, had, fits)


def judge_lists(
    lists: np.ndarray, new: np.ndarray, outcome: Outcome, had: np.ndarray, fits: np.ndarray | None = None
) -> Judged:
    """Judge ranked assets, int [B, k], -1 an empty place: a miss; `new` are the same without what one had.

    `fits` [B, A], 1, 0 or NaN, adds `fit`: the share of the first three that fits the customer's class of risk.
    """
    found: dict[str, np.ndarray] = {}
    for suffix, ranked in (("", lists), ("_new", new)):
        for name, good in (("pref", outcome.bought), ("prof", outcome.rises), ("comb", outcome.good)):
            hits = _hit(ranked[:, :TOP], good)
            found[name + suffix] = np.asarray(hits.any(axis=1), np.float32)
    found["ndcg"] = _ndcg(new, outcome.bought & ~had)
    gain = np.where(new >= 0, outcome.monthly[np.maximum(new, 0)], np.nan)
    has = np.isfinite(gain).any(axis=1)
    found["roi"] = np.where(has, np.nansum(gain, 1) / np.maximum(np.isfinite(gain).sum(1), 1), np.nan).astype(
        np.float32
    )
    if fits is not None:
        first = lists[:, :TOP]
        fit = np.where(first >= 0, np.take_along_axis(fits, np.maximum(first, 0), 1), np.nan)
        n = np.isfinite(fit).sum(1)
        found["fit"] = np.where(n > 0, np.nansum(fit, 1) / np.maximum(n, 1), np.nan).astype(np.float32)
    return Judged(found)


def _hit(ranked: np.ndarray, good: np.ndarray) -> np.ndarray:
    at = np.maximum(ranked, 0)
    return (np.take_along_axis(good, at, 1) if good.ndim == 2 else good[at]) & (ranked >= 0)


def _ndcg(ranked: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """nDCG@10 of cases with a relevant asset; NaN for others."""
    discount = 1 / np.log2(np.arange(2, LONG + 2))
    gain = (_hit(ranked, relevant) * discount[: ranked.shape[1]]).sum(1)
    ideal = np.concatenate([[np.nan], discount.cumsum()])[np.minimum(relevant.sum(1), LONG)]
    return (gain / ideal).astype(np.float32)


def tail_recall(view: View, found: np.ndarray, outcome: Outcome, held: np.ndarray) -> np.ndarray:
    """Give the share of later buys, neither held nor among the 25 most bought in 180 days, that were retrieved: [B]."""
    common = np.zeros(view.n_assets, bool)
    common[np.argsort(-view.buys[180], kind="stable")[:25]] = True
    wanted = outcome.bought & ~held & ~common
    inside = np.zeros((len(found), view.n_assets + 1), bool)
    np.put_along_axis(inside, np.where(found < 0, view.n_assets, found), True, axis=1)
    n = wanted.sum(1)
    return np.where(n > 0, (wanted & inside[:, :-1]).sum(1) / np.maximum(n, 1), np.nan)


class Intervals:
    """Means with 95 % intervals over customers, who recur from day to day; the same draws for every figure.

    >>> two = Intervals(np.array([4, 4, 9]), n_resamples=50)
    >>> two.mean(np.array([1.0, 1.0, np.nan]))["value"]
    1.0
    """

    def __init__(self, customer: np.ndarray, *, seed: int = 0, n_resamples: int = 300) -> None:
        people, self.of = np.unique(customer, return_inverse=True)
        self.n = len(people)
        self.count = resamples(np.arange(self.n), n_resamples, seed=seed).count.astype(np.float32)

    def mean(self, values: np.ndarray, keep: np.ndarray | None = None) -> dict[str, Any]:
        """Give value, low, high and n of figures [cases]; a NaN is a case without such a figure."""
        keep = np.isfinite(values) if keep is None else keep & np.isfinite(values)
        if not keep.any():
            return {"value": None, "low": None, "high": None, "n": 0}
        total = np.bincount(self.of[keep], weights=values[keep], minlength=self.n).astype(np.float32)
        number = np.bincount(self.of[keep], minlength=self.n).astype(np.float32)
        draws = (self.count @ total) / np.maximum(self.count @ number, 1e-9)
        found = of_draws(float(values[keep].mean(dtype=np.float64)), draws.astype(np.float64))
        return found.to_json() | {"n": int(keep.sum())}
