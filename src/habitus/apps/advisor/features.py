"""What the ranker reads about a retrieved asset: the customer's trades of it and around it, and the market's facts."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from habitus.apps.advisor.market import Trades, View
from habitus.apps.advisor.select import Retrieved
from habitus.data.sources.far_trans_world import CAPACITIES, RISKS

PERSONAL = ("own_score", "is_first", "units_held", "since_buy", "since_sale", "n_buys", "n_sales", "share_category",
            "share_sector", "share_industry", "share_sub_category", "n_trades", "tenure", "risk", "capacity",
            "category")  # fmt: skip
CROWD = ("together_sum", "together_max", "stage_score", "stage_place", "taste", "taste_place", "held_group",
         "mover_place", "mover")  # fmt: skip
FACTS = ("return21", "return63", "return126", "volatility21", "volatility63", "volatility126", "ratio126", "drawdown",
         "rsi14", "macd", "alpha_t", "price_age", "buys30", "buys90", "buys180", "trend", "buy_rank")  # fmt: skip
NAMES = (*PERSONAL, *CROWD, *FACTS)
FAR = 9999.0


def features(view: View, trades: Trades, found: Retrieved, *, market: bool = True) -> np.ndarray:
    """Give one row per retrieved asset: float32 [B, R, F], NaN where no asset is; columns as in `NAMES`.

    Without `market`, the columns that come from prices or from other customers are NaN.
    """
    n, assets = view.n_assets, np.maximum(found.assets, 0)
    made = np.full((*assets.shape, len(NAMES)), np.nan, np.float32)

    def put(name: str, values: np.ndarray) -> None:
        made[:, :, NAMES.index(name)] = values

    def picked(values: np.ndarray) -> np.ndarray:
        return np.take_along_axis(values, assets, 1)

    put("own_score", picked(found.own))
    put("is_first", (found.first[:, None, :] == assets[:, :, None]).any(2))
    put("units_held", picked(np.maximum(trades.matrix(np.where(trades.is_buy, trades.units, -trades.units), n), 0)))
    for name, side in (("buy", trades.is_buy), ("sale", ~trades.is_buy)):
        last = np.full((len(trades.customers), n), FAR, np.float32)
        np.minimum.at(last, (trades.row[side], trades.asset[side]), trades.age[side].astype(np.float32))
        put(f"since_{name}", picked(last))
        put(f"n_{name}s", picked(trades.matrix(side.astype(np.float64), n)))
    total = np.maximum(found.own.sum(1, keepdims=True), 1e-9)
    groups = {"category": view.market.category, **dict(zip(("sector", "industry", "sub_category"), view.market.groups,
                                                          strict=True))}  # fmt: skip
    for name, group in groups.items():
        put(f"share_{name}", _share(found.own / total, group, assets))
    _of_customer(view, trades, put)
    put("category", view.market.category[assets])
    if market:
        _of_crowd(view, trades, found, put, picked)
        for name in FACTS:
            put(name, view.facts[name][assets])
    made[found.assets < 0] = np.nan
    return made


def _share(share: np.ndarray, group: np.ndarray, assets: np.ndarray) -> np.ndarray:
    """The customer's share of s1 in the group of each asset; 0 where an asset has no group."""
    code = np.unique(group, return_inverse=True)[1]
    onto = sp.csr_matrix((np.ones(len(code), np.float32), (np.arange(len(code)), code)))
    summed = np.asarray(share @ onto)
    return np.where(group[assets] >= 0, np.take_along_axis(summed, code[assets], 1), 0)


def _of_customer(view: View, trades: Trades, put) -> None:
    count = np.bincount(trades.row, minlength=len(trades.customers))
    tenure = np.zeros(len(trades.customers))
    np.maximum.at(tenure, trades.row, trades.age)
    put("n_trades", count[:, None])
    put("tenure", tenure[:, None])
    put("risk", view.profile_codes("risk", RISKS)[trades.customers][:, None])
    put("capacity", view.profile_codes("capacity", CAPACITIES)[trades.customers][:, None])


def _mover(view: View, near: np.ndarray) -> np.ndarray:
    """Share of each asset among those of the groups one holds, by its 63-day return and how much it is bought."""
    moved = np.clip(np.nan_to_num(view.facts["return63"]), -0.8, 2)
    weight = (1 + moved) ** 5 * np.sqrt(view.buys[10**6] + 0.5) * view.is_open * near
    return weight / np.maximum(weight.sum(axis=1, keepdims=True), 1e-30)


def _places(values: np.ndarray) -> np.ndarray:
    """Give 0 for the largest of a row, 1 for the next: float32 [B, A]."""
    order = np.argsort(-values, axis=1, kind="stable")
    found = np.empty(values.shape, np.float32)
    np.put_along_axis(found, order, np.broadcast_to(np.arange(values.shape[1], dtype=np.float32), values.shape), axis=1)
    return found


def _of_crowd(view: View, trades: Trades, found: Retrieved, put, picked) -> None:
    has = trades.matrix(trades.is_buy.astype(np.float64), view.n_assets) > 0
    put("together_sum", picked(has.astype(np.float32) @ view.together))
    strongest = np.zeros(found.own.shape, np.float32)
    row, asset = np.nonzero(has)
    for start in range(0, len(row), 200_000):
        some = slice(start, start + 200_000)
        neighbours = sp.csr_matrix(view.together[asset[some]])
        at = np.repeat(row[some], np.diff(neighbours.indptr))
        np.maximum.at(strongest, (at, neighbours.indices), neighbours.data)
    put("together_max", picked(strongest))
    put("stage_score", np.where(np.isfinite(found.score), found.score, np.nan))
    taste = view.taste(trades)
    put("taste", picked(np.log(taste + 1e-9)))
    put("taste_place", picked(_places(taste)))
    units = trades.matrix(np.where(trades.is_buy, trades.units, -trades.units), view.n_assets)
    near = (units > 1e-4).astype(np.float32) @ view.market.grouped > 0
    put("held_group", picked(near))
    put("mover", picked(np.log(_mover(view, near) + 1e-9)))
    moved = np.nan_to_num(view.facts["return63"], nan=-1)
    put("mover_place", picked(np.where(near, _places(np.where(near & view.is_open, moved, -2)), FAR)))
    put("stage_place", np.broadcast_to(np.arange(found.assets.shape[1]), found.assets.shape))
