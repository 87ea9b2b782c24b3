"""The rows of the FAR-Trans benchmark: what is reached without any graph. Each gives a score per customer and asset."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import scipy.sparse as sp

from habitus.apps.advisor.market import Market, Trades, View
from habitus.core.errors import require
from habitus.core.seeds import derive, generator, uniforms
from habitus.data.sources.far_trans_world import RISKS, Law

PRICE_MODELS = ("linear", "forest", "LightGBM")
LEARNT = ("MF-BPR", "LightGCN")


class Baselines:
    """All baselines of a market. `truth` adds the oracle of a generated one: law, its ISINs, its customers.

    What is fitted on a day is kept for that day. `hybrid` is set by `fit_hybrid`.
    """

    def __init__(
        self,
        market: Market,
        truth: tuple[Law, np.ndarray, np.ndarray] | None = None,
        *,
        seed: int = 0,
        has_learnt: bool = True,
    ) -> None:
        self.market, self.truth, self.seed, self.has_learnt = market, truth, seed, has_learnt
        self.hybrid: Callable[[dict[str, np.ndarray]], np.ndarray] | None = None
        self.fitted = lru_cache(maxsize=2)(self._fit)

    def _fit(self, day: int) -> dict[str, Any]:
        view = self.market.view(day)
        counts = np.asarray((view.bought.T @ view.bought).todense(), np.float32)
        size = np.maximum(np.diag(counts), 1)
        np.fill_diagonal(counts, 0)
        made: dict[str, Any] = {"prices": price_models(view, self.seed)}
        made["item kNN"] = counts / np.sqrt(size)[:, None] / np.sqrt(size)  # cosine
        made["association rules"] = counts / size[:, None]  # P(also bought | bought)
        if self.has_learnt:
            made["MF-BPR"] = mf_bpr(view.bought, self.seed)
            made["LightGCN"] = light_gcn(view.bought, self.seed)
        return made

    def scores(self, view: View, trades: Trades) -> dict[str, np.ndarray]:
        """Give float [B, A] per baseline; higher is better, for every asset, open or not."""
        shape = (len(trades.customers), view.n_assets)
        has, fitted = view.bought[trades.customers], self.fitted(view.day)

        def same(values: np.ndarray) -> np.ndarray:
            return np.broadcast_to(np.nan_to_num(values, nan=-1e9), shape)

        keys = (trades.customers[:, None] * 10_007 + np.arange(shape[1])).astype(np.uint64)
        made: dict[str, np.ndarray] = {
            "random": uniforms(self.seed, keys, stream=f"random {view.day}"),
            "popularity": same(view.buys[10**6]),
            "popularity 180": same(view.buys[180]),
            "holdings, popularity": latest_holdings(view, trades),
            "momentum 126": same(view.facts["return126"]),
        }
        made |= {f"prices, {name}": same(values) for name, values in fitted["prices"].items()}
        made |= {name: np.asarray(has @ fitted[name]) for name in ("item kNN", "association rules")}
        made["user kNN"] = user_knn(view.bought, has)
        for name in LEARNT if self.has_learnt else ():
            user, item = fitted[name]
            made[name] = user[trades.customers] @ item.T
        if self.hybrid is not None:
            made["hybrid LambdaMART"] = self.hybrid(made)
        if self.truth is not None:
            made["oracle P(buy)"] = self.oracle(view, trades)
            made["oracle, taste inferred"] = self.observer(view, trades)
        return made

    def oracle(self, view: View, trades: Trades) -> np.ndarray:
        """Give the true probability of each asset at a next buy on the day."""
        assert self.truth is not None
        law, isin, ids = self.truth
        place = np.searchsorted(view.market.source.isins, isin)
        who = np.searchsorted(ids, view.market.source.customer_ids[trades.customers])
        units = trades.matrix(np.where(trades.is_buy, trades.units, -trades.units), view.n_assets)
        momentum = np.nan_to_num(np.log1p(view.back(63)))[None, place]
        parts = law.buy_probability(who, units[:, place] > 1e-4, view.is_open[None, place], momentum)
        p = np.zeros(units.shape)
        p[:, place] = sum(parts)
        return p

    def observer(self, view: View, trades: Trades) -> np.ndarray:
        """Give the probability of each asset at a next buy to somebody who knows the law, but of a customer only what
        stands in the graph: trades and the declared class. Taste, and an unknown class, follow from buys by Bayes.

        It bounds what can be learnt, nearly: buys of the other ways count as a quarter drawn from what all buy.
        """
        assert self.truth is not None
        law, isin, _ = self.truth
        place = np.searchsorted(view.market.source.isins, isin)
        crowd = (view.buys[10**6][place] + 0.5) / (view.buys[10**6][place] + 0.5).sum()
        share = np.exp(law.base) * law.tradable
        likely = 0.75 * share / share.sum(axis=1, keepdims=True) + 0.25 * crowd
        counts = trades.matrix(trades.is_buy.astype(np.float64), view.n_assets)[:, place]
        prior = np.log(np.bincount(law.combo, minlength=len(law.base)) + 1e-9)
        odds = counts @ np.log(likely).T + prior
        declared = view.profile_codes("risk", RISKS)[trades.customers]
        is_out = (declared >= 0)[:, None] & (np.arange(len(law.base)) % len(RISKS) != declared[:, None])
        odds = np.where(is_out, -np.inf, odds)
        belief = np.exp(odds - odds.max(axis=1, keepdims=True))
        belief /= belief.sum(axis=1, keepdims=True)
        units = trades.matrix(np.where(trades.is_buy, trades.units, -trades.units), view.n_assets)
        momentum = np.nan_to_num(np.log1p(view.back(63)))[None, place]
        guess = replace(law, base=belief @ law.base, combo=np.arange(len(belief)))
        held, rule, _ = guess.buy_probability(guess.combo, units[:, place] > 1e-4, view.is_open[None, place], momentum)
        taste = belief @ (share * view.is_open[place])
        taste /= np.maximum(taste.sum(axis=1, keepdims=True), 1e-30)
        p = np.zeros(units.shape)
        p[:, place] = held + rule + (1 - held.sum(1) - rule.sum(1))[:, None] * taste
        return p


def latest_holdings(view: View, trades: Trades) -> np.ndarray:
    """Holdings, the latest bought first, then what is popular."""
    units = trades.matrix(np.where(trades.is_buy, trades.units, -trades.units), view.n_assets)
    last = np.full(units.shape, 10**6, np.float64)
    np.minimum.at(last, (trades.row[trades.is_buy], trades.asset[trades.is_buy]), trades.age[trades.is_buy])
    crowd = view.buys[180] / (view.buys[180].max() + 1)
    return np.where((units > 1e-4) & (last < 10**6), 1e4 - last, crowd)


def user_knn(bought: Any, has: Any, k: int = 16, block: int = 500) -> np.ndarray:
    """What the 16 nearest customers by cosine bought, weighted; a customer is not its own neighbour."""
    size = np.sqrt(np.maximum(np.asarray(bought.sum(axis=1)).ravel(), 1))
    unit: Any = sp.csr_matrix(sp.diags(1 / size) @ bought)
    made = np.zeros(has.shape, np.float32)
    for start in range(0, has.shape[0], block):
        some = has[start : start + block]
        near = np.asarray((some @ unit.T).todense())
        own = np.sqrt(np.maximum(np.asarray(some.sum(axis=1)).ravel(), 1))
        near /= own[:, None]
        near[near > 1 - 1e-6] = 0  # themselves, and those who hold exactly the same: nothing new from them
        n_near = min(k, near.shape[1] - 1)
        top = np.argpartition(-near, n_near, axis=1)[:, :n_near]
        weight = np.take_along_axis(near, top, 1)
        pick = sp.csr_matrix((weight.ravel(), top.ravel(), np.arange(0, top.size + 1, top.shape[1])),
                             shape=(len(near), bought.shape[0]))  # fmt: skip
        made[start : start + len(near)] = np.asarray((pick @ bought).todense())
    return made


def price_models(view: View, seed: int, ahead: int = 126, every: int = 21) -> dict[str, np.ndarray]:
    """Predict the return over the next 126 price days from indicators; rows end 180 days before the day.

    Gives [A] per model: linear regression, a random forest, LightGBM.
    """
    import lightgbm as lgb
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.linear_model import Ridge

    market = view.market
    ends = [t for t in range(view.t - ahead, 126, -every) if market.source.days[t] <= view.day - 180][:20]
    past = [(market.view(int(market.source.days[t])), t) for t in ends]
    x = [indicators(each) for each, _ in past]
    y = [view.market.view(int(market.source.days[t + ahead])).price / each.price - 1 for each, t in past]
    keep = [each.is_open & np.isfinite(later) for (each, _), later in zip(past, y, strict=True)]
    now = np.nan_to_num(indicators(view))
    if not keep or sum(int(k.sum()) for k in keep) < 50:
        return {name: np.zeros(len(now)) for name in PRICE_MODELS}
    rows = np.nan_to_num(np.concatenate([a[k] for a, k in zip(x, keep, strict=True)]))
    goal = np.clip(np.concatenate([b[k] for b, k in zip(y, keep, strict=True)]), -0.9, 3)
    mean, sd = rows.mean(0), rows.std(0) + 1e-9
    linear = Ridge(1.0).fit((rows - mean) / sd, goal)
    forest = RandomForestRegressor(60, min_samples_leaf=20, max_features=0.5, random_state=seed, n_jobs=1)
    options = {"objective": "regression", "num_leaves": 15, "learning_rate": 0.05, "verbosity": -1, "num_threads": 1,
               "seed": seed, "deterministic": True, "force_row_wise": True}  # fmt: skip
    trees = lgb.train(options, lgb.Dataset(rows, goal), 100)
    found = (linear.predict((now - mean) / sd), forest.fit(rows, goal).predict(now), trees.predict(now, num_threads=1))
    return dict(zip(PRICE_MODELS, (np.asarray(each, float) for each in found), strict=True))


def indicators(view: View) -> np.ndarray:
    """Give the technical indicators of the benchmark: float [A, F]."""
    window = view.window
    columns: list[np.ndarray] = []
    for span in (21, 63, 126):
        part = window[-span:]
        columns += [view.facts[f"return{span}"], view.facts[f"volatility{span}"]]
        columns += [window[-1] / edge for edge in (part.mean(0), part.min(0), part.max(0))]
        columns.append((window[-1] - window[-span]) / part.std(0).clip(1e-9))
    columns += [view.facts["macd"], view.facts["rsi14"] / 100, window[-1] / window[-22:].mean(0) - 1]
    return np.stack(columns, axis=1)


def mf_bpr(bought: Any, seed: int, factors: int = 128) -> tuple[np.ndarray, np.ndarray]:
    """Fit matrix factorisation by BPR, of the library implicit (extra [recsys]): factors of customers and of assets."""
    bpr: Any = require("implicit.bpr", "recsys")
    model = bpr.BayesianPersonalizedRanking(
        factors=factors,
        iterations=60,
        regularization=0.02,
        learning_rate=0.03,
        random_state=derive(seed, "bpr") % 2**31,
        num_threads=1,
        use_gpu=False,
    )
    model.fit(bought, show_progress=False)
    return np.asarray(model.user_factors), np.asarray(model.item_factors)


def light_gcn(bought: Any, seed: int, *, steps: int = 80, batch: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """Fit LightGCN by BPR, the whole graph in every step: vectors of customers and of assets."""
    import torch

    from habitus.models.lightgcn import LightGCN, LightGCNConfig

    pairs = bought.tocoo()
    user, item = pairs.row.astype(np.int64), pairs.col.astype(np.int64)
    model = LightGCN(LightGCNConfig.parse({}), *bought.shape, seed=derive(seed, "lightgcn") % 2**31)
    model.connect(user, item)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    draw = generator(seed, "lightgcn pairs")
    for _ in range(steps):
        some = draw.integers(0, len(user), min(len(user), batch))
        other = torch.from_numpy(draw.integers(0, bought.shape[1], len(some)))
        users, items = model()
        u = users[torch.from_numpy(user[some])]
        gap = (u * (items[torch.from_numpy(item[some])] - items[other])).sum(1)
        loss = -torch.nn.functional.logsigmoid(gap).mean()
        loss = loss + 1e-5 * sum((part**2).sum() for part in model.parameters()) / len(some)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        users, items = model()
        return users.numpy(), items.numpy()


HYBRID_INPUTS = ("popularity", "popularity 180", "item kNN", "user kNN", "association rules", "momentum 126",
                 "prices, LightGBM", "MF-BPR", "LightGCN")  # fmt: skip


def fit_hybrid(
    rows: list[tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]], seed: int
) -> Callable[[dict[str, np.ndarray]], np.ndarray]:
    """Fit LambdaMART over the scores of other baselines; `rows` are scores, labels [B, A] and open [A] of earlier days.

    Learns on 200 customers with a label per day, and on all open assets of that day.
    """
    import lightgbm as lgb

    x, y, sizes = [], [], []
    for scores, label, is_open in rows:
        some = np.flatnonzero((label & is_open).any(1))[:200]
        x.append(_hybrid_rows(scores, some)[:, is_open].reshape(len(some) * int(is_open.sum()), -1))
        y.append(label[some][:, is_open].ravel().astype(np.int8))
        sizes.append(np.full(len(some), int(is_open.sum())))
    options = {"objective": "lambdarank", "learning_rate": 0.05, "num_leaves": 15, "verbosity": -1, "num_threads": 1,
               "seed": seed, "deterministic": True, "force_row_wise": True}  # fmt: skip
    data = lgb.Dataset(np.concatenate(x), np.concatenate(y), group=np.concatenate(sizes))
    model = lgb.train(options, data, 100)

    def score(scores: dict[str, np.ndarray]) -> np.ndarray:
        rows = _hybrid_rows(scores, np.arange(len(scores["popularity"])))
        found = [np.asarray(model.predict(block.reshape(-1, block.shape[-1]), num_threads=1)) for block in
                 np.array_split(rows, max(len(rows) // 1000, 1))]  # fmt: skip
        return np.concatenate(found).reshape(rows.shape[:2])

    return score


def _hybrid_rows(scores: dict[str, np.ndarray], some: np.ndarray) -> np.ndarray:
    return np.stack([scores[name][some].astype(np.float32) for name in HYBRID_INPUTS if name in scores], axis=-1)
