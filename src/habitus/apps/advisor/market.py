"""The market as it was known on a day: prices, trades of everybody, and what follows in the window after it.

Everything a view holds comes from rows up to its day, except `outcome`, which only training and judging may read.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import scipy.sparse as sp

from habitus.apps.advisor.taste import Tastes, fit_tastes, leaning
from habitus.core.errors import CutoffError
from habitus.data.sources.far_trans import FarTrans
from habitus.data.sources.far_trans_world import RISKS

HORIZON = 180
STALE = 10  # days after which a close is no price
SPANS = (21, 63, 126)  # price days
N_TOGETHER = 20
KINDS = ("sector", "industry", "sub_category")


@dataclass(frozen=True)
class Trades:
    """Transactions of a batch of customers up to a day, by customer and day.

    `customers` [B] are codes; `row` [n] is the place of the customer in the batch; asset int, age (days before the
    day), is_buy, value, units.
    """

    customers: np.ndarray
    row: np.ndarray
    asset: np.ndarray
    age: np.ndarray
    is_buy: np.ndarray
    value: np.ndarray
    units: np.ndarray

    def matrix(self, weight: np.ndarray, n_assets: int) -> np.ndarray:
        """Sum a weight per customer and asset: float32 [B, A]."""
        place = self.row * n_assets + self.asset
        summed = np.bincount(place, weights=weight, minlength=len(self.customers) * n_assets)
        return summed.reshape(len(self.customers), n_assets).astype(np.float32)


class Market:
    """Views of one source, day by day.

    >>> Market.__name__
    'Market'
    """

    def __init__(self, source: FarTrans) -> None:
        self.source = source
        self.view = lru_cache(maxsize=40)(self._view)
        groups = [np.unique(source.assets[name].to_numpy(), return_inverse=True) for name in KINDS]
        category = source.assets["category"].to_numpy()
        self.category = np.unique(category, return_inverse=True)[1]
        # a sub-category counts inside its category; an empty name is no group
        self.groups = [np.where(names[of] == "", -1, of + 1000 * (kind == 2) * self.category)
                       for kind, (names, of) in enumerate(groups)]  # fmt: skip

    def _view(self, day: int) -> View:
        days = self.source.days
        if day < days[0] or day > days[-1]:
            raise CutoffError(
                f"a day from {_date(days[0])} to {_date(days[-1])}", _date(day), where="the date of advice"
            )
        return View(self, day)

    @cached_property
    def last_close(self) -> np.ndarray:
        """Place of the last close at or before each day, -1 before the first: int16 [D, A]."""
        at = np.where(np.isfinite(self.source.close), np.arange(len(self.source.days))[:, None], -1)
        return np.maximum.accumulate(at, axis=0).astype(np.int16)

    @cached_property
    def by_day(self) -> np.ndarray:
        """Order of the transactions by day."""
        return np.argsort(self.source.day, kind="stable")

    @cached_property
    def names(self) -> list[str]:
        """Names of the assets."""
        return self.source.assets["name"].to_list()

    @cached_property
    def grouped(self) -> np.ndarray:
        """`same_group` as float32."""
        return self.same_group.astype(np.float32)

    @cached_property
    def same_group(self) -> np.ndarray:
        """Whether two assets share sector, industry or sub-category: bool [A, A]."""
        found = np.zeros((len(self.category),) * 2, bool)
        for group in self.groups:
            found |= (group[:, None] == group) & (group >= 0)[:, None]
        return found


def _date(day: int) -> str:
    return str(np.datetime64(int(day), "D"))


class View:
    """One day of a market. All arrays are [A]; see the properties."""

    def __init__(self, market: Market, day: int) -> None:
        self.market, self.day = market, int(day)
        source = market.source
        self.t = int(np.searchsorted(source.days, day, side="right")) - 1
        at = market.last_close[self.t]
        self.n_assets = len(at)
        self.price_age = np.where(at >= 0, day - source.days[np.maximum(at, 0)], 10**6)
        self.is_open = self.price_age <= STALE  # bool: has a price now

    @cached_property
    def price(self) -> np.ndarray:
        """Last close, NaN where there was none yet."""
        return self._close(self.t)

    def _close(self, t: int) -> np.ndarray:
        at = self.market.last_close[t]
        return np.where(at >= 0, self.market.source.close[np.maximum(at, 0), np.arange(len(at))], np.nan)

    @cached_property
    def window(self) -> np.ndarray:
        """The last 127 closes, carried forward: float64 [127, A]; NaN before the first."""
        rows = np.arange(self.t - 126, self.t + 1)
        at = self.market.last_close[np.maximum(rows, 0)]
        close = self.market.source.close[np.maximum(at, 0), np.arange(at.shape[1])].astype(np.float64)
        close[(at < 0) | (rows < 0)[:, None]] = np.nan
        return close

    def back(self, span: int) -> np.ndarray:
        """Return over `span` price days, NaN where the asset is younger."""
        return self.window[-1] / self.window[-1 - span] - 1

    @cached_property
    def facts(self) -> dict[str, np.ndarray]:
        """Price and crowd facts per asset: the features of an asset, and of its node in the graph of the day."""
        logs = np.diff(np.log(self.window), axis=0)
        facts: dict[str, np.ndarray] = {}
        for span in SPANS:
            facts[f"return{span}"] = self.back(span)
            facts[f"volatility{span}"] = logs[-span:].std(axis=0) * np.sqrt(252)
        facts["ratio126"] = facts["return126"] / (facts["volatility126"] + 1e-3)
        peak = np.fmax.reduce(self.window, axis=0)
        facts["drawdown"] = self.window[-1] / peak - 1
        up, down = np.clip(logs[-14:], 0, None).mean(0), np.clip(-logs[-14:], 0, None).mean(0)
        facts["rsi14"] = 100 * up / (up + down + 1e-12)
        means = [self.window[-span:].mean(axis=0) for span in (12, 26)]
        facts["macd"] = means[0] / means[1] - 1
        facts["alpha_t"] = self._alpha()
        facts["price_age"] = self.price_age.astype(np.float64)
        for days, count in self.buys.items():
            facts[f"buys{days}"] = count
        facts["trend"] = np.log1p(self.buys[30]) * 1.0 - np.log1p(self.buys[180] / 6)
        order = np.argsort(np.argsort(-self.buys[180], kind="stable"))
        facts["buy_rank"] = order.astype(np.float64)
        return facts

    def _alpha(self) -> np.ndarray:
        """How sure it is, over all closes so far, that an asset climbs more than its share of the market's moves: the t
        value of the intercept of its daily log returns on their mean over all assets."""
        steps = np.diff(np.log(self.market.source.close[: self.t + 1].astype(np.float64)), axis=0)
        known = np.isfinite(steps)
        steps = np.where(known, steps, 0)
        n = np.maximum(known.sum(0), 1)
        mean = steps.sum(0) / n
        spread = np.maximum((steps**2).sum(0) / n - mean**2, 1e-12)
        crowd = (steps.sum(1) / np.maximum(known.sum(1), 1))[:, None] * known
        level = crowd.sum(0) / n
        width = np.maximum((crowd**2).sum(0) / n - level**2, 1e-12)
        slope = ((steps * crowd).sum(0) / n - mean * level) / width
        rest = np.maximum(spread - slope**2 * width, 1e-12)
        return (mean - slope * level) / np.sqrt(rest / n)

    @cached_property
    def buys(self) -> dict[int, np.ndarray]:
        """Buys of everybody in the last 30, 90, 180 and all days."""
        rows = self.seen[self.market.source.is_buy[self.seen]]
        age = self.day - self.market.source.day[rows]
        asset = self.market.source.asset[rows]
        spans = (30, 90, 180, 10**6)
        return {s: np.bincount(asset[age < s], minlength=self.n_assets).astype(np.float64) for s in spans}

    @cached_property
    def seen(self) -> np.ndarray:
        """Places of all transactions up to the day."""
        order = self.market.by_day
        return order[: np.searchsorted(self.market.source.day[order], self.day, side="right")]

    @cached_property
    def bought(self) -> sp.csr_matrix:
        """1 where a customer has bought an asset: [customers, A]."""
        made = self._buy_counts()
        made.data[:] = 1
        return made

    def _buy_counts(self) -> sp.csr_matrix:
        source = self.market.source
        rows = self.seen[source.is_buy[self.seen]]
        shape = (len(source.customer_ids), self.n_assets)
        return sp.csr_matrix((np.ones(len(rows), np.float32), (source.customer[rows], source.asset[rows])), shape=shape)

    def profile_codes(self, column: str, names: tuple[str, ...]) -> np.ndarray:
        """Give a profile's place in `names` per customer, -1 where nothing was known on the day."""
        if column not in self._codes:
            values = self.market.source.profile_at(self.day)[column].fill_null("").to_numpy()
            codes = np.full(len(values), -1.0)
            for place, name in enumerate(names):
                codes[values == name] = place
            self._codes[column] = codes
        return self._codes[column]

    @cached_property
    def _codes(self) -> dict[str, np.ndarray]:
        return {}

    @cached_property
    def tastes(self) -> Tastes:
        """The groups of buyers up to the day."""
        return fit_tastes(self._buy_counts())

    @cached_property
    def leaning(self) -> np.ndarray:
        """How much more than others a declared class of risk buys a category: [classes, categories]; 0 is unknown."""
        source, declared = self.market.source, self.profile_codes("risk", RISKS).astype(np.int64) + 1
        rows = self.seen[source.is_buy[self.seen]]
        return leaning(declared, self.market.category, source.customer[rows], source.asset[rows])

    def taste(self, trades: Trades) -> np.ndarray:
        """Give the share of each asset in the next buys that a customer's group of buyers and class of risk lead to
        expect; 0 where an asset has no price now: float32 [B, A]."""
        counts = trades.matrix(trades.is_buy.astype(np.float64), self.n_assets)
        declared = self.profile_codes("risk", RISKS).astype(np.int64)[trades.customers] + 1
        share = self.tastes.expected(counts) * self.leaning[declared][:, self.market.category] * self.is_open
        return (share / np.maximum(share.sum(axis=1, keepdims=True), 1e-30)).astype(np.float32)

    @cached_property
    def together(self) -> np.ndarray:
        """Item cosine of buys, each asset's 20 nearest kept, else 0: float32 [A, A], row = the asset one has."""
        counts = np.asarray((self.bought.T @ self.bought).todense(), np.float32)
        size = np.sqrt(np.maximum(np.diag(counts), 1))
        cosine = counts / size[:, None] / size
        np.fill_diagonal(cosine, 0)
        weakest = np.argsort(-cosine, axis=1, kind="stable")[:, N_TOGETHER:]
        np.put_along_axis(cosine, weakest, 0, axis=1)
        return cosine

    @cached_property
    def popular(self) -> np.ndarray:
        """The 20 most bought in 180 days."""
        return np.argsort(-self.buys[180], kind="stable")[:20]

    def trades(self, customers: np.ndarray) -> Trades:
        """Give the transactions of some customers up to the day."""
        source = self.market.source
        begin, end = source.offsets[customers], source.offsets[customers + 1]
        row = np.repeat(np.arange(len(customers)), end - begin)
        at = np.arange(len(row)) + np.repeat(begin - np.concatenate([[0], (end - begin).cumsum()[:-1]]), end - begin)
        keep = source.day[at] <= self.day
        row, at = row[keep], at[keep]
        return Trades(customers, row, source.asset[at], self.day - source.day[at], source.is_buy[at],
                      source.value[at], source.units[at])  # fmt: skip

    def outcome(self, customers: np.ndarray, horizon: int = HORIZON) -> Outcome:
        """Give what happened in (day, day + horizon]. For training and judging only."""
        source, end = self.market.source, self.day + horizon
        begin, stop = source.offsets[customers], source.offsets[customers + 1]
        row = np.repeat(np.arange(len(customers)), stop - begin)
        at = np.arange(len(row)) + np.repeat(begin - np.concatenate([[0], (stop - begin).cumsum()[:-1]]), stop - begin)
        keep = (source.day[at] > self.day) & (source.day[at] <= end) & source.is_buy[at]
        bought = np.zeros((len(customers), self.n_assets), bool)
        bought[row[keep], source.asset[at[keep]]] = True
        later = int(np.searchsorted(source.days, end, side="right")) - 1
        last = self.market.last_close[later]
        has_new = last > self.t
        gain = np.where(has_new & self.is_open, self._close(later) / self.price - 1, np.nan)
        days = np.where(has_new, source.days[np.maximum(last, 0)] - self.day, 1)
        monthly = (1 + gain) ** (30 / days) - 1
        return Outcome(bought, np.nan_to_num(gain, nan=-1) > 0, monthly)


@dataclass(frozen=True)
class Outcome:
    """bought: bool [B, A]; rises: bool [A], last close of the window above that of the day; monthly: float [A], NaN
    where no later close exists."""

    bought: np.ndarray
    rises: np.ndarray
    monthly: np.ndarray

    @property
    def good(self) -> np.ndarray:
        return self.bought & self.rises
