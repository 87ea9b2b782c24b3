"""Which assets are retrieved: stage 1 from the customer's own trades, stage 2 from the market, many customers at once.

RAG-FLARKO (arXiv 2511.11583) describes two ways: *multi-stage*, where what stage 1 found decides what stage 2 may find,
and *parallel*, where both graphs are asked for themselves. The scores are ours. The same functions serve the graph (one
customer) and evaluation (thousands); a test holds both to the same answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import Field

from habitus.apps.advisor.market import Trades, View
from habitus.core.config import Config
from habitus.core.seeds import uniforms

Path = Literal["multi", "parallel", "off"]
RANK_OFFSET = 60


class RetrievalConfig(Config):
    """How much is retrieved, and how stage 2 weighs it.

    `path`: `multi`, `parallel`, or `off`: assets at random up to the cap. `market`: without it stage 2 and every price
    fact are left out, so only the customer's own graph speaks.

    >>> RetrievalConfig().n_assets
    25
    """

    path: Path = "multi"
    market: bool = True
    half_life: float = Field(180, gt=0)
    n_first: int = Field(10, gt=0)
    n_assets: int = Field(25, gt=0)
    n_candidates: int = Field(200, gt=0)
    n_transactions: int = Field(50, gt=0)
    n_summaries: int = Field(50, gt=0)
    per_asset: int = Field(4, gt=0)
    max_triples: int = Field(5000, gt=0)
    max_tokens: int = Field(8000, gt=0)
    affinity: float = 1.0
    taste: float = 1.5
    momentum: float = 0.25
    crowd: float = 0.5
    seed: int = 0


@dataclass(frozen=True)
class Retrieved:
    """first: int [B, n_first], -1 where fewer; assets, score: [B, n_assets], best first, -1 where fewer; own: float
    [B, A], the score of stage 1; n_candidates: int [B]."""

    first: np.ndarray
    own: np.ndarray
    assets: np.ndarray
    score: np.ndarray
    n_candidates: np.ndarray


def own_score(trades: Trades, n_assets: int, half_life: float) -> np.ndarray:
    """Give s1 = sum over trades of 2^(-age / half life) log(1 + EUR) (1 for a buy, 1/2 for a sale): float32 [B, A]."""
    weight = np.exp2(-trades.age / half_life) * np.log1p(trades.value) * np.where(trades.is_buy, 1.0, 0.5)
    return trades.matrix(weight, n_assets)


def best(score: np.ndarray, n: int) -> np.ndarray:
    """Give the places of the n largest per row, ties by place; -1 where the score is -inf: int [B, n]."""
    found = np.argsort(-score, axis=1, kind="stable")[:, :n]
    return np.where(np.isfinite(np.take_along_axis(score, found, 1)), found, -1)


def retrieve_many(
    view: View,
    trades: Trades,
    config: RetrievalConfig,
    *,
    first: np.ndarray | None = None,
    reach: np.ndarray | None = None,
) -> Retrieved:
    """Run both stages. `first` overrides what stage 1 found, `reach` bool [B, A] what stage 2 may find.

    Shapes: B customers of `trades`, A assets of the market.
    """
    own = own_score(trades, view.n_assets, config.half_life)
    if first is None:
        first = best(np.where(own > 0, own, -np.inf), config.n_first)
    if config.path == "off":
        return _random(view, trades, own, first, config)
    if not config.market:
        kept = best(_only(own, first), config.n_assets)
        return Retrieved(first, own, kept, _taken(own, kept), (first >= 0).sum(1))
    score = second_score(view, trades, own, first, config)
    if config.path == "multi":
        score = np.where(candidates(view, first) if reach is None else reach, score, -np.inf)
    else:
        score = _merged(_only(own, first), score)
    score = np.where(view.is_open, score, -np.inf)
    n_candidates = np.minimum(np.isfinite(score).sum(1), config.n_candidates)
    kept = best(score, min(config.n_assets, config.n_candidates))
    return Retrieved(first, own, kept, _taken(score, kept), n_candidates)


def candidates(view: View, first: np.ndarray) -> np.ndarray:
    """Give what stage 2 may find after stage 1: its assets, their groups, what is bought with them, the popular."""
    seed = _members(first, view.n_assets).astype(np.float32)
    reach = view.market.same_group | (view.together > 0)
    found = (seed @ reach.astype(np.float32) > 0) | (seed > 0)
    found[:, view.popular] = True
    return found


def second_score(view: View, trades: Trades, own: np.ndarray, first: np.ndarray, config: RetrievalConfig) -> np.ndarray:
    """Give s2 [B, A], from z of the 63-day return and, when parallel, z of the log of buys in 180 days.

    Multi-stage asks what stage 1 found in place of the crowd: affinity to its assets, and z of the log of the share
    that the customer's group of buyers gives an asset.
    """
    moved = config.momentum * _z(np.nan_to_num(view.facts["return63"]), view.is_open)
    if config.path == "parallel":
        score = moved + config.crowd * _z(np.log1p(view.buys[180]), view.is_open)
        return np.broadcast_to(score, own.shape).astype(np.float64)
    of_first = np.where(_members(first, view.n_assets), own, 0).astype(np.float64)
    share = of_first / np.maximum(of_first.sum(1, keepdims=True), 1e-9)
    near = share @ view.market.grouped + share @ view.together
    return (
        moved
        + config.affinity * (2 * share + near)
        + config.taste * _z(np.log(view.taste(trades) + 1e-9), view.is_open)
    )


def _z(values: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Centre and scale over some of the assets, the last axis; clipped at 3."""
    inside = values[..., among]
    if not inside.size:
        return np.zeros_like(values)
    mean, sd = inside.mean(-1, keepdims=True), inside.std(-1, keepdims=True)
    return np.clip((values - mean) / (sd + 1e-9), -3, 3)


def _members(places: np.ndarray, n: int) -> np.ndarray:
    found = np.zeros((len(places), n + 1), bool)
    np.put_along_axis(found, np.where(places < 0, n, places), True, axis=1)
    return found[:, :n]


def _only(own: np.ndarray, first: np.ndarray) -> np.ndarray:
    return np.where(_members(first, own.shape[1]), own, -np.inf)


def _taken(score: np.ndarray, places: np.ndarray) -> np.ndarray:
    return np.where(places >= 0, np.take_along_axis(score, np.maximum(places, 0), 1), -np.inf)


def _merged(*scores: np.ndarray) -> np.ndarray:
    """Merge lists by the sum of 1 / (60 + rank); what no list holds is -inf."""
    total = np.zeros(scores[0].shape)
    for score in scores:
        order = np.argsort(-score, axis=1, kind="stable")
        rank = np.empty_like(order)
        np.put_along_axis(rank, order, np.broadcast_to(np.arange(1, score.shape[1] + 1), score.shape), axis=1)
        total += np.where(np.isfinite(score), 1 / (RANK_OFFSET + rank), 0)
    return np.where(total > 0, total, -np.inf)


def _random(view: View, trades: Trades, own: np.ndarray, first: np.ndarray, config: RetrievalConfig) -> Retrieved:
    keys = (trades.customers[:, None] * 10_007 + np.arange(view.n_assets)).astype(np.uint64)
    score = np.where(view.is_open, uniforms(config.seed, keys, stream=view.day), -np.inf)
    kept = best(score, config.n_assets)
    return Retrieved(first, own, kept, _taken(score, kept), np.minimum(np.isfinite(score).sum(1), config.n_candidates))
