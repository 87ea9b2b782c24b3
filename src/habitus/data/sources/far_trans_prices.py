"""The assets and daily prices of the generated market: published counts, one market factor, sectors, own noise."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl

from habitus.core.seeds import generator

CATEGORIES = ("Stock", "MTF", "Bond")
SUB = {"MTF": {"Equity": 106, "Bond": 105, "Other": 72, "Money Market": 19, "Balanced": 8, "Structured": 2},
       "Stock": {"Large Cap": 24, "": 261}, "Bond": {"Corporate": 154, "Government": 55}}  # fmt: skip
STOCK_SECTORS = {"Industrials": 44, "Consumer Cyclical": 41, "Technology": 26, "Financial Services": 24,
                 "Basic Materials": 19, "Consumer Defensive": 18, "Communication Services": 13, "Healthcare": 12,
                 "Real Estate": 11, "Energy": 9, "Utilities": 7, "": 61}  # fmt: skip
BOND_SECTORS = {"Corporate": 149, "Sovereign": 49, "": 11}
MARKETS = {"XATH": 211, "XLUX": 148, "XNYS": 87, "XETR": 81, "CCLX": 70, "XLON": 35}
N_MARKETS = 37
TRADABLE = {"Stock": 157, "MTF": 112, "Bond": 52}
FROM_FIRST = np.array([0.888, 0.683, 0.177])
TO_LAST = np.array([0.807, 0.622, 0.469])
FIRST_PRICE = np.array([[2.05, 2.6], [50.7, 1.46], [99.6, 0.12]])
DRIFT = np.array([[0.055, 0.09], [0.014, 0.05], [-0.006, 0.03]])
BETA, OWN = np.array([1.0, 0.35, 0.05]), np.array([0.27, 0.06, 0.045])
SECTOR_SD = np.array([0.10, 0.02, 0.02])
MOVES = (("2020-02-20", "2020-03-18", -0.42), ("2020-03-19", "2020-06-30", 0.26), ("2020-11-09", "2021-11-15", 0.25),
         ("2022-01-03", "2022-09-30", -0.35))  # fmt: skip
YEAR = 252


@dataclass(frozen=True)
class Assets:
    """806 assets. category: code in `CATEGORIES`; group: sector of a stock, sub-category of a bond or fund."""

    isin: np.ndarray
    category: np.ndarray
    sub: np.ndarray
    sector: np.ndarray
    industry: np.ndarray
    market: np.ndarray
    group: np.ndarray
    is_tradable: np.ndarray

    def table(self, first_day: str) -> pl.DataFrame:
        """Give the rows of asset_information.csv."""
        number = np.arange(len(self.isin)).astype(str)
        kind = np.array(CATEGORIES)[self.category]
        return pl.DataFrame({
            "ISIN": self.isin, "assetName": np.char.add(np.char.add(kind, " "), number),
            "assetShortName": np.char.add("A", number), "assetCategory": kind, "assetSubCategory": self.sub,
            "marketID": self.market, "sector": self.sector, "industry": self.industry,
            "timestamp": np.full(len(self.isin), first_day),
        })  # fmt: skip

    def markets(self) -> pl.DataFrame:
        """Give the rows of markets.csv."""
        names = np.unique(self.market)
        same = {column: [""] * len(names) for column in ("description", "country", "tradingDays", "tradingHours")}
        return pl.DataFrame({"exchangeID": names, "marketID": names, "name": names, **same,
                             "marketClass": [""] * len(names)})  # fmt: skip


@dataclass(frozen=True)
class Prices:
    """days: datetime64[D]; close: float32 [D, A], NaN where not priced."""

    days: np.ndarray
    close: np.ndarray

    @property
    def first_day(self) -> str:
        return str(self.days[0])

    @cached_property
    def momentum(self) -> np.ndarray:
        """Log return over 63 price days, 0 where unknown: float32 [D, A]."""
        found = np.zeros_like(self.close)
        found[63:] = np.nan_to_num(np.log(self.close[63:] / self.close[:-63]))
        return found

    def table(self, isin: np.ndarray) -> pl.DataFrame:
        """Give the rows of close_prices.csv."""
        asset, t = np.nonzero(np.isfinite(self.close.T))
        return pl.DataFrame({"ISIN": isin[asset], "timestamp": self.days.astype(str)[t],
                             "closePrice": self.close[t, asset]})  # fmt: skip

    def limits(self, isin: np.ndarray) -> pl.DataFrame:
        """Give the rows of limit_prices.csv: a summary of the whole period, which nobody may use as an input."""
        is_priced = np.isfinite(self.close)
        first, last = is_priced.argmax(0), len(self.days) - 1 - is_priced[::-1].argmax(0)
        at = np.arange(len(isin))
        low, high = self.close[first, at], self.close[last, at]
        days = self.days.astype(str)
        return pl.DataFrame({"ISIN": isin, "minDate": days[first], "maxDate": days[last], "priceMinDate": low,
                             "priceMaxDate": high, "profitability": high / low - 1})  # fmt: skip


def draw_assets(seed: int) -> Assets:
    """Draw the 806 assets of a market."""
    draw = generator(seed, "assets")
    category = np.repeat([0, 1, 2], [sum(SUB[name].values()) for name in CATEGORIES])
    sub = np.concatenate([draw.permutation(_spread(SUB[name])) for name in CATEGORIES])
    sector = np.concatenate([draw.permutation(_spread(STOCK_SECTORS)), np.full(312, ""),
                             draw.permutation(_spread(BOND_SECTORS))])  # fmt: skip
    n = len(category)
    small = np.array([f"X{chr(65 + i // 26)}{chr(65 + i % 26)}M" for i in range(N_MARKETS - len(MARKETS))])
    rest = n - sum(MARKETS.values())
    market = draw.permutation(np.concatenate([_spread(MARKETS), np.resize(small, rest)]))
    industry = np.where(sector != "", np.char.add(np.char.add(sector, " "), draw.integers(1, 4, n).astype(str)), "")
    industry[category != 0] = ""
    named = np.where(category == 0, np.char.add("sector ", sector), np.char.add(category.astype(str), sub))
    group = np.unique(named, return_inverse=True)[1]
    tradable = np.zeros(n, bool)
    for code, name in enumerate(CATEGORIES):
        tradable[draw.permutation(np.flatnonzero(category == code))[: TRADABLE[name]]] = True
    isin = np.array([f"{'GR' if i % 3 else 'LU'}{i:09d}{i % 10}" for i in range(n)])
    return Assets(isin, category, sub, sector, industry, market, group, tradable)


def _spread(counts: dict[str, int]) -> np.ndarray:
    return np.repeat(list(counts), list(counts.values()))


def draw_prices(seed: int, assets: Assets) -> Prices:
    """Draw daily closes of business days 2018-01-02 to 2022-11-29."""
    draw = generator(seed, "prices")
    days = np.arange("2018-01-02", "2022-11-30", dtype="datetime64[D]")
    days = days[np.is_busday(days)]
    n_days, n, kind = len(days), len(assets.isin), assets.category
    market = draw.normal(0, 0.14 / np.sqrt(YEAR), n_days)
    for begin, end, move in MOVES:
        inside = (days >= np.datetime64(begin)) & (days <= np.datetime64(end))
        market[inside] += move / inside.sum()
    market -= market.mean()
    beta = np.maximum(BETA[kind] * (1 + 0.3 * draw.normal(size=n)), 0)
    own = OWN[kind] * np.exp(0.3 * draw.normal(size=n))
    drift = DRIFT[kind, 0] + DRIFT[kind, 1] * draw.normal(size=n)
    sector = draw.normal(size=(n_days, int(assets.group.max()) + 1))[:, assets.group]
    step = (
        drift / YEAR
        + beta * market[:, None]
        + (SECTOR_SD[kind] * sector + own * draw.normal(size=(n_days, n))) / (np.sqrt(YEAR))
    )
    fall = (days >= np.datetime64("2022-01-03")) & (days <= np.datetime64("2022-10-31"))
    step[fall] += np.array([0, -0.05, -0.10])[kind] / fall.sum()
    step[0] = 0
    start_price = FIRST_PRICE[kind, 0] * np.exp(FIRST_PRICE[kind, 1] * draw.normal(size=n))
    close = (start_price * np.exp(step.cumsum(axis=0))).astype(np.float32)
    start = np.where(draw.random(n) < FROM_FIRST[kind], 0, draw.integers(1, n_days - 150, n))
    least = np.minimum(start + 100, n_days - 1)
    ends = least + (draw.random(n) * (n_days - least)).astype(np.int64)
    end = np.where(draw.random(n) < TO_LAST[kind], n_days - 1, ends)
    t = np.arange(n_days)[:, None]
    return Prices(days, np.where((t >= start) & (t <= end), close, np.nan))
