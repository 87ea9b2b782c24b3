"""A generated market with the published totals of FAR-Trans, whose buying rule is known.

Prices: one market factor with the moves of 2020 to 2022, sector factors, own noise. Customers trade row by row: sell a
holding with probability .47; else buy a held asset (.08), follow the **planted rule** (.25: an asset of a group they
hold, by its 63-day return), or follow their taste. The probability and the reason of each buy are
kept, and so is everything that decides it: the oracle ranks by it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from pydantic import Field

from habitus.core.atomic import new_folder, write_json
from habitus.core.config import Config
from habitus.core.seeds import generator
from habitus.data.sources.far_trans_prices import Assets, Prices, draw_assets, draw_prices

FULL = 29_090
MEAN_ROWS = 388_000 / FULL
RISKS = ("Conservative", "Income", "Balanced", "Aggressive", "Not_Available")
CAPACITIES = ("CAP_LT30K", "CAP_30K_80K", "CAP_80K_300K", "CAP_GT300K", "Not_Available")
TYPES = {"Mass": 18_610, "Premium": 8906, "Professional": 1327, "Inactive": 208, "Legal Entity": 39}
RISK_OF = np.array([[4967, 7970, 4419, 976, 278], [602, 3514, 3477, 1296, 17], [27, 274, 647, 376, 3],
                    [76, 78, 27, 5, 22], [0, 2, 12, 25, 0]])  # fmt: skip
CAPACITY_OF = np.array([[14_171, 2662, 1353, 143, 281], [2596, 2519, 3168, 606, 17], [797, 269, 221, 37, 3],
                        [145, 22, 15, 4, 22], [7, 11, 9, 12, 0]])  # fmt: skip
PREDICTED = np.array([0.321, 0.095, 0.194, 0.322, 0.179])
ASKED = {2018: 5489, 2019: 3452, 2020: 4414, 2021: 5204, 2022: 3190}
OPENING_SHARE = 15_501 / FULL
RISK_TASTE = np.array([[-1, 0.5, 1], [-0.5, 0.5, 0.5], [0, 0, 0], [1, 0, -1], [0, 0, 0]])  # risk x category
MEDIAN_VALUE = np.array([1500.0, 4000.0, 10_000.0, 30_000.0, 1500.0])
P_SELL, P_HELD, P_RULE, N_TASTES = 0.47, 0.08, 0.25, 12
REASONS = ("sale", "opening", "held", "rule", "taste")


class FarTransWorld(Config):
    """How large a generated market is. `rule` is the share of buys that follow the planted rule.

    `opening`: `past` dates first buys on the first day; `fartrans` makes buys from later sales, as the source does.

    >>> FarTransWorld().n_customers
    29090
    """

    n_customers: int = Field(FULL, ge=1)
    seed: int = 0
    rule: float = Field(P_RULE, ge=0, le=0.9)
    opening: Literal["past", "fartrans"] = "past"


@dataclass(frozen=True)
class Law:
    """What decides a buy: `base` float [tastes x risks, A] is the exponent of the taste; the rest is the market's.

    Attributes
    ----------
    tradable
        bool [A]. group: int [A], sector of a stock, sub-category of a bond or fund.
    combo
        int [customers]: row of `base`.
    """

    base: np.ndarray
    tradable: np.ndarray
    group: np.ndarray
    combo: np.ndarray
    rule: float

    def buy_probability(
        self, customer: np.ndarray, held: np.ndarray, is_priced: np.ndarray, momentum: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Give the parts of the law of the next buy: p by held asset, by rule, by taste, each float [B, A].

        `held` bool [B, A]; `is_priced`, `momentum` [B, A] or [1, A]. A way that is not open gives its share to taste.
        """
        base = self.base[self.combo[customer]]
        open_to = self.tradable & is_priced
        taste = _normalised(np.exp(base) * open_to)
        owned = held & is_priced
        member = np.zeros((len(customer), int(self.group.max()) + 1), np.float32)
        row, asset = np.nonzero(held)
        member[row, self.group[asset]] = 1
        score = np.exp(np.clip(8 * momentum, -20, 20) + 0.3 * base)
        by_rule = _normalised(score * open_to * member[:, self.group])
        by_held = _normalised(owned.astype(np.float64))
        p_held, p_rule = P_HELD * (by_held.sum(1) > 0), self.rule * (by_rule.sum(1) > 0)
        return p_held[:, None] * by_held, p_rule[:, None] * by_rule, (1 - p_held - p_rule)[:, None] * taste


def _normalised(weight: np.ndarray) -> np.ndarray:
    total = weight.sum(axis=1, keepdims=True)
    return weight / np.where(total > 0, total, 1)


def write_far_trans_world(out: str | Path, n_customers: int = FULL, seed: int = 0, **more: Any) -> Path:
    """Write the CSV files of a market to a new folder, with truth.npz (what decides buys) and world.json.

    `more` are further fields of `FarTransWorld`. Errors: `ConfigError` for an unknown field, `DiskError`.
    """
    world = FarTransWorld.parse({"n_customers": n_customers, "seed": seed, **more})
    assets = draw_assets(world.seed)
    prices = draw_prices(world.seed, assets)
    people = _customers(world)
    law = _law(world, assets, people)
    rows = _trade(world, law, prices, people)
    order = np.lexsort((rows["step"], rows["t"], rows["customer"]))
    rows = {name: values[order] for name, values in rows.items()}
    if world.opening == "fartrans":
        rows = _as_the_source_opens(rows, prices)
    with new_folder(out) as folder:
        _write_customers(folder, prices, people, rows)
        assets.table(prices.first_day).write_csv(folder / "asset_information.csv")
        prices.table(assets.isin).write_csv(folder / "close_prices.csv")
        prices.limits(assets.isin).write_csv(folder / "limit_prices.csv")
        assets.markets().write_csv(folder / "markets.csv")
        _write_transactions(folder, assets, prices, people, rows)
        np.savez(
            folder / "truth.npz", base=law.base, tradable=law.tradable, group=law.group, combo=law.combo,
            isin=assets.isin, customer_id=people["id"], reason=rows["reason"], probability=rows["probability"],
        )  # fmt: skip
        counts = {"transactions": len(rows["t"]), "prices": int(np.isfinite(prices.close).sum())}
        write_json(folder / "world.json", {"world": world.model_dump(mode="json"), "rows": counts})
    return Path(out)


def read_truth(folder: str | Path) -> tuple[Law, np.ndarray, np.ndarray] | None:
    """Give the law of a generated market, its ISINs and customer ids in the order of the law; None for a real one."""
    import json

    folder = Path(folder)
    if not (folder / "truth.npz").is_file():
        return None
    rule = json.loads((folder / "world.json").read_text("utf-8"))["world"]["rule"]
    with np.load(folder / "truth.npz", allow_pickle=False) as kept:
        law = Law(kept["base"], kept["tradable"], kept["group"], kept["combo"], rule)
        return law, kept["isin"], kept["customer_id"]


def _customers(world: FarTransWorld) -> dict[str, np.ndarray]:
    draw, n = generator(world.seed, "customers"), world.n_customers
    share = np.array(list(TYPES.values()), float)
    kind = draw.choice(len(share), n, p=share / share.sum())
    u, v = draw.random(n), draw.random(n)
    risk = (u[:, None] > (RISK_OF / RISK_OF.sum(1, keepdims=True)).cumsum(1)[kind]).sum(1).clip(0, 4)
    capacity = (v[:, None] > (CAPACITY_OF / CAPACITY_OF.sum(1, keepdims=True)).cumsum(1)[kind]).sum(1).clip(0, 4)
    year_share = np.array(list(ASKED.values()), float)
    year = draw.choice(list(ASKED), n, p=year_share / year_share.sum())
    asked = np.array([np.datetime64(f"{y}-01-01") for y in ASKED])[year - 2018] + draw.integers(0, 333, n)
    is_predicted = draw.random(n) < PREDICTED[kind]
    asked[is_predicted] = np.datetime64("2000-01-01")
    size = _sizes(np.exp(np.log(3) + 1.74 * draw.normal(size=n)))
    opens = np.where(draw.random(n) < OPENING_SHARE, 1 + draw.poisson(0.9, n), 0)
    ids = np.array([f"C{code:07d}" for code in range(n)])
    return {"id": ids, "type": kind, "risk": risk, "capacity": capacity, "asked": asked, "is_predicted": is_predicted,
            "n_rows": size, "n_opening": np.minimum(opens, size), "taste": draw.integers(0, N_TASTES, n)}  # fmt: skip


def _sizes(wish: np.ndarray) -> np.ndarray:
    """Round the wished numbers of rows to 1..3000, scaled so that the mean is the published one for many."""
    scale = 1.0
    for _ in range(20 if len(wish) >= 1000 else 0):
        scale *= MEAN_ROWS / np.clip(np.rint(scale * wish), 1, 3000).mean()
    return np.clip(np.rint(scale * wish), 1, 3000).astype(np.int64)


def _law(world: FarTransWorld, assets: Assets, people: dict[str, np.ndarray]) -> Law:
    draw, n = generator(world.seed, "tastes"), len(assets.isin)
    likes = 2.6 * draw.normal(size=n) + 0.9 * draw.normal(size=(N_TASTES, n))
    base = (likes[:, None, :] + RISK_TASTE[:, assets.category][None]).reshape(-1, n)
    return Law(base, assets.is_tradable, assets.group, people["taste"] * len(RISKS) + people["risk"], world.rule)


def _days_of_rows(world: FarTransWorld, prices: Prices, people: dict[str, np.ndarray]) -> np.ndarray:
    """Draw the day of every row (place in the grid), in order inside a customer; openings on the first day."""
    draw = generator(world.seed, "days")
    months = prices.days.astype("datetime64[M]")
    weight = np.where(months < np.datetime64("2020-01"), 1500.0, 9000.0)
    weight[months == np.datetime64("2020-03")] = 22_000
    weight[months == np.datetime64("2018-01")] = 0
    weight /= np.unique(months, return_counts=True)[1][np.unique(months, return_inverse=True)[1]]
    owner = np.repeat(np.arange(world.n_customers), people["n_rows"])
    step = np.arange(len(owner)) - np.repeat(people["n_rows"].cumsum() - people["n_rows"], people["n_rows"])
    t = np.searchsorted((weight / weight.sum()).cumsum(), draw.random(len(owner))).clip(0, len(months) - 1)
    t[step < people["n_opening"][owner]] = 0
    return t[np.lexsort((t, owner))]


def _trade(world: FarTransWorld, law: Law, prices: Prices, people: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Let every customer make its rows, the n-th row of all customers at once."""
    draw = generator(world.seed, "trades")
    n_rows = people["n_rows"]
    first = n_rows.cumsum() - n_rows
    t_of, order = _days_of_rows(world, prices, people), np.argsort(-n_rows, kind="stable")
    units = np.zeros((world.n_customers, len(law.tradable)), np.float32)
    total = int(n_rows.sum())
    out = {"asset": np.zeros(total, np.int32), "units": np.zeros(total), "is_buy": np.zeros(total, bool),
           "reason": np.zeros(total, np.int8), "probability": np.zeros(total, np.float32)}  # fmt: skip
    n_active = np.searchsorted(-n_rows[order], -np.arange(1, int(n_rows.max()) + 1), side="right")
    for step, count in enumerate(n_active):
        for start in range(0, int(count), 4000):
            who = order[start : min(start + 4000, int(count))]
            row = first[who] + step
            made = _one_row(draw, law, prices, people, units, who, t_of[row], step < people["n_opening"][who])
            for name, values in made.items():
                out[name][row] = values
    owner = np.repeat(np.arange(world.n_customers), n_rows)
    return out | {"customer": owner, "t": t_of, "step": np.arange(total)}


def _one_row(
    draw: np.random.Generator, law: Law, prices: Prices, people: dict[str, np.ndarray], units: np.ndarray,
    who: np.ndarray, t: np.ndarray, is_opening: np.ndarray,
) -> dict[str, np.ndarray]:  # fmt: skip
    priced = np.isfinite(prices.close[t])
    held = (units[who] > 0) & priced
    u = draw.random((6, len(who)))
    sells = (u[0] < P_SELL) & held.any(1) & ~is_opening
    parts = law.buy_probability(who, units[who] > 0, priced, prices.momentum[t])
    parts = (parts[0] * ~is_opening[:, None], parts[1] * ~is_opening[:, None], parts[2])
    p = parts[0] + parts[1] + parts[2]
    p /= np.maximum(p.sum(1, keepdims=True), 1e-30)
    cdf = np.where(sells[:, None], held / np.maximum(held.sum(1, keepdims=True), 1), p).cumsum(1)
    asset = (u[1][:, None] * cdf[:, -1:] >= cdf).sum(1).clip(0, p.shape[1] - 1)
    at = np.arange(len(who))
    share = np.stack([part[at, asset] for part in parts])
    way = (u[2] * share.sum(0) >= share.cumsum(0)).sum(0).clip(0, 2)
    euro = MEDIAN_VALUE[people["capacity"][who]] * np.exp(1.1 * draw.normal(size=len(who)))
    close = prices.close[t, asset]
    owned = units[who, asset]
    amount = np.where(sells, np.where(u[3] < 0.5, owned, owned * u[4]), np.round(euro / close, 3) + 0.001)
    units[who, asset] = np.where(sells, np.maximum(owned - amount, 0), owned + amount)
    reason = np.where(sells, 0, np.where(is_opening, 1, way + 2))
    return {"asset": asset, "units": amount, "is_buy": ~sells, "reason": reason,
            "probability": np.where(sells, 0, p[at, asset])}  # fmt: skip


def _as_the_source_opens(rows: dict[str, np.ndarray], prices: Prices) -> dict[str, np.ndarray]:
    """Forget the honest openings; for units sold beyond all buys, add a buy on the asset's first price day."""
    keep = rows["reason"] != REASONS.index("opening")
    rows = {name: values[keep] for name, values in rows.items()}
    n_assets = prices.close.shape[1]
    pair, of = np.unique(rows["customer"] * n_assets + rows["asset"], return_inverse=True)
    over = np.bincount(of, weights=np.where(rows["is_buy"], -rows["units"], rows["units"]))
    made = over > 1e-9
    first = np.isfinite(prices.close).argmax(axis=0)
    n, asset = int(made.sum()), (pair[made] % n_assets).astype(np.int32)
    more = {"asset": asset, "units": over[made], "is_buy": np.ones(n, bool), "reason": np.ones(n, np.int8),
            "probability": np.zeros(n, np.float32), "customer": pair[made] // n_assets, "t": first[asset],
            "step": np.full(n, -1)}  # fmt: skip
    both = {name: np.concatenate([rows[name], more[name]]) for name in rows}
    order = np.lexsort((both["step"], both["t"], both["customer"]))
    return {name: values[order] for name, values in both.items()}


def _write_customers(folder: Path, prices: Prices, people: dict[str, np.ndarray], rows: dict[str, np.ndarray]) -> None:
    n = len(people["id"])
    since = np.zeros(n, np.int64)
    customer, at = np.unique(rows["customer"], return_index=True)
    since[customer] = rows["t"][at]
    mark = np.where(people["is_predicted"], "Predicted_", "")
    risk, capacity = np.array(RISKS)[people["risk"]], np.array(CAPACITIES)[people["capacity"]]
    pl.DataFrame({
        "customerID": people["id"],
        "customerType": np.array(list(TYPES))[people["type"]],
        "riskLevel": np.where(people["risk"] == 4, risk, np.char.add(mark, risk)),
        "investmentCapacity": np.where(people["capacity"] == 4, capacity, np.char.add(mark, capacity)),
        "lastQuestionnaireDate": people["asked"].astype(str),
        "timestamp": prices.days[since].astype(str),
    }).write_csv(folder / "customer_information.csv")  # fmt: skip


def _write_transactions(
    folder: Path, assets: Assets, prices: Prices, people: dict[str, np.ndarray], rows: dict[str, np.ndarray]
) -> None:
    draw, n = generator(0, "channels"), len(rows["t"])
    channel = np.array(["Internet Banking", "Phone Banking", "Branch"])[draw.choice(3, n, p=[0.6, 0.1, 0.3])]
    pl.DataFrame({
        "customerID": people["id"][rows["customer"]],
        "ISIN": assets.isin[rows["asset"]],
        "transactionID": np.arange(1, n + 1),
        "transactionType": np.where(rows["is_buy"], "Buy", "Sell"),
        "timestamp": prices.days[rows["t"]].astype(str),
        "totalValue": np.round(rows["units"] * prices.close[rows["t"], rows["asset"]], 4),
        "units": rows["units"],
        "channel": channel,
        "marketID": assets.market[rows["asset"]],
    }).write_csv(folder / "transactions.csv")  # fmt: skip
