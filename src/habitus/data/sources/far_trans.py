"""FAR-Trans: customers, assets, daily closes and transactions of a bank, as arrays on one grid of days.

Sanz-Cruzado, Droukas and McCreadie, "FAR-Trans: An Investment Dataset for Financial Asset Recommendation", arXiv
2407.08692 (CC BY 4.0). None of its rows is shipped. Three things in it were written after the fact, and are dealt with
here: `limit_prices.csv` sums up the whole period and is never read; customer profiles hold only from their
questionnaire on; and some buys were made from later sales (`opening`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from habitus.core.errors import SourceError

FILES: Mapping[str, tuple[str, ...]] = {
    "customer_information": ("customerID", "customerType", "riskLevel", "investmentCapacity", "lastQuestionnaireDate",
                             "timestamp"),
    "asset_information": ("ISIN", "assetName", "assetShortName", "assetCategory", "assetSubCategory", "marketID",
                          "sector", "industry", "timestamp"),
    "transactions": ("customerID", "ISIN", "transactionID", "transactionType", "timestamp", "totalValue", "units",
                     "channel", "marketID"),
    "close_prices": ("ISIN", "timestamp", "closePrice"),
}  # fmt: skip
ISIN_FORM, CUSTOMER_FORM = "^[A-Z0-9]{12,13}$", "^[A-Z0-9]+$"
TRANSACTION_FORM = "^[A-Za-z0-9_-]+$"
Opening = Literal["detect", "keep"]


@dataclass(frozen=True)
class FarTrans:
    """A market and what its customers traded.

    Attributes
    ----------
    customers
        One row per profile row, by customer and date: customer (code), type, risk, capacity, asked (day of the
        questionnaire), since (day of the row). Days are int32 days since 1970-01-01.
    customer_ids, isins
        The ids behind the codes.
    assets
        One row per ISIN, in the order of `isins`: name, category, sub_category, sector, industry, market; empty text
        where unknown.
    days
        int32 [D]: the days with a price.
    close
        float32 [D, A]: closes in EUR, NaN where there is none.
    customer, asset, day, is_buy, value, units, channel, ids
        One entry per transaction, by customer and day, ties in file order.
    left_out
        What was not usable, counted by reason.
    """

    customers: pl.DataFrame
    customer_ids: np.ndarray
    isins: np.ndarray
    assets: pl.DataFrame
    days: np.ndarray
    close: np.ndarray
    customer: np.ndarray
    asset: np.ndarray
    day: np.ndarray
    is_buy: np.ndarray
    value: np.ndarray
    units: np.ndarray
    channel: np.ndarray
    ids: np.ndarray
    left_out: dict[str, int] = field(default_factory=dict)

    @cached_property
    def offsets(self) -> np.ndarray:
        """First transaction of each customer, int64 [customers + 1]."""
        return np.searchsorted(self.customer, np.arange(len(self.customer_ids) + 1))

    def until(self, day: int) -> FarTrans:
        """Give the same market as somebody saw it on `day`: no later price or transaction."""
        keep, seen = self.day <= day, self.days <= day
        columns = {name: getattr(self, name)[keep] for name in COLUMNS}
        rest = {name: getattr(self, name) for name in ("customer_ids", "isins", "assets", "left_out")}
        known = self.customers.filter(pl.col("since") <= day)
        return FarTrans(customers=known, days=self.days[seen], close=self.close[seen], **rest, **columns)

    def profile_at(self, day: int) -> pl.DataFrame:
        """Give type, risk and capacity of every customer, by code: the latest row by `day`, and null where the
        questionnaire behind it is of a later day."""
        known = self.customers.filter((pl.col("since") <= day) & (pl.col("asked") <= day))
        latest = known.group_by("customer", maintain_order=True).last()
        every = pl.DataFrame({"customer": np.arange(len(self.customer_ids), dtype=np.int64)})
        return every.join(latest, on="customer", how="left", maintain_order="left")


COLUMNS = ("customer", "asset", "day", "is_buy", "value", "units", "channel", "ids")


def read_far_trans(folder: str | Path, *, opening: Opening | None = None) -> FarTrans:
    """Read the CSV files of FAR-Trans, or of a generated market.

    Parameters
    ----------
    folder
        Holds customer_information.csv, asset_information.csv, transactions.csv and close_prices.csv.
    opening
        `detect` leaves out buys on an asset's first price day whose units are what the customer sold later beyond all
        other buys: the source made them from those sales. `keep` keeps them. Default: what `world.json` in the folder
        says, and `detect` without one.

    Rows that cannot be used are left out and counted in `left_out`. Does not read limit_prices.csv: its
    columns look ahead.
    Errors: `SourceError` for a missing file or column, or when nothing is left.
    """
    folder = Path(folder)
    tables = {name: _read(folder, name) for name in FILES}
    left_out: dict[str, int] = {}
    assets = _assets(tables["asset_information"], left_out)
    isins = assets["isin"].to_numpy()
    days, close = _closes(tables["close_prices"], isins, left_out)
    has_price = np.isfinite(close).any(axis=0)
    left_out["asset without a price"] = int((~has_price).sum())
    profiles = tables["customer_information"].filter(pl.col("customerID").str.contains(CUSTOMER_FORM))
    left_out["customer id"] = len(tables["customer_information"]) - len(profiles)
    rows = _transactions(tables["transactions"], isins[has_price], left_out)
    customer_ids = np.unique(np.concatenate([profiles["customerID"].to_numpy(), rows["customerID"].to_numpy()]))
    code = pl.DataFrame({"customerID": customer_ids, "customer": np.arange(len(customer_ids), dtype=np.int64)})
    place = pl.DataFrame({"ISIN": isins, "asset": np.arange(len(isins), dtype=np.int32)})
    rows = rows.join(code, on="customerID", maintain_order="left").join(place, on="ISIN", maintain_order="left")
    rows = rows.sort("customer", "on", maintain_order=True)
    found = FarTrans(
        _profiles(profiles, code), customer_ids, isins, assets.drop("isin"), days, close,
        rows["customer"].to_numpy(), rows["asset"].to_numpy(), rows["on"].to_numpy(),
        (rows["transactionType"] == "Buy").to_numpy(), rows["totalValue"].to_numpy().astype(np.float32),
        rows["units"].to_numpy(), rows["channel"].to_numpy(), rows["transactionID"].to_numpy(), left_out,
    )  # fmt: skip
    left_out["customer without a transaction"] = int((np.diff(found.offsets) == 0).sum())
    if (opening or _declared(folder)) == "detect":
        found = _without(found, made_from_sales(found))
    return found


def made_from_sales(source: FarTrans) -> np.ndarray:
    """Flag buys [n] on an asset's first price day whose units equal later sales beyond all other buys."""
    first = source.days[np.isfinite(source.close).argmax(axis=0)]
    pair = source.customer * len(source.isins) + source.asset
    _, of = np.unique(pair, return_inverse=True)
    is_first = source.is_buy & (source.day == first[source.asset])
    n_first = np.bincount(of, weights=is_first)[of] if len(of) else np.zeros(0)
    bought = np.bincount(of, weights=source.units * source.is_buy) if len(of) else np.zeros(0)
    sold = np.bincount(of, weights=source.units * ~source.is_buy) if len(of) else np.zeros(0)
    oversold = (sold - bought)[of] + source.units
    same = np.abs(oversold - source.units) <= 1e-6 * np.maximum(source.units, 1)
    return is_first & (n_first == 1) & same & (sold[of] > 0)


def _without(source: FarTrans, is_out: np.ndarray) -> FarTrans:
    columns = {name: getattr(source, name)[~is_out] for name in COLUMNS}
    left_out = source.left_out | {"opening buy made from later sales": int(is_out.sum())}
    rest = {name: getattr(source, name) for name in ("customers", "customer_ids", "isins", "assets", "days", "close")}
    return FarTrans(**rest, **columns, left_out=left_out)


def _declared(folder: Path) -> Opening:
    path = folder / "world.json"
    if not path.is_file():
        return "detect"
    world: dict[str, Any] = json.loads(path.read_text("utf-8"))["world"]
    return "keep" if world.get("opening") == "past" else "detect"


def _read(folder: Path, name: str) -> pl.DataFrame:
    path = folder / f"{name}.csv"
    if not path.is_file():
        raise SourceError(f"{name}.csv", "no such file", where=str(folder), fix="habitus advisor world --out DIR")
    try:
        table = pl.read_csv(path, infer_schema=False)
    except (pl.exceptions.PolarsError, OSError) as cause:
        raise SourceError("a CSV file with a header", str(cause).splitlines()[0], where=str(path)) from None
    missing = [column for column in FILES[name] if column not in table.columns]
    if missing:
        raise SourceError(f"the columns {', '.join(FILES[name])}", f"no {', '.join(missing)}", where=str(path))
    if not len(table):
        raise SourceError("rows", "none", where=str(path))
    return table.select(FILES[name])


def _day(column: str) -> pl.Expr:
    return pl.col(column).str.slice(0, 10).str.to_date("%Y-%m-%d", strict=False).to_physical()


def _assets(table: pl.DataFrame, left_out: dict[str, int]) -> pl.DataFrame:
    good = table.filter(pl.col("ISIN").str.contains(ISIN_FORM)).unique("ISIN", keep="first", maintain_order=True)
    left_out["asset id, or named twice"] = len(table) - len(good)
    names = {"assetCategory": "category", "assetSubCategory": "sub_category", "marketID": "market"}
    named = good.select(
        pl.col("ISIN").alias("isin"),
        pl.coalesce("assetName", "assetShortName", "ISIN").alias("name"),
        *(pl.col(old).fill_null("").alias(new) for old, new in names.items()),
        *(pl.col(name).fill_null("") for name in ("sector", "industry")),
    )
    return named.sort("isin")


def _closes(table: pl.DataFrame, isins: np.ndarray, left_out: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    place = pl.DataFrame({"ISIN": isins, "asset": np.arange(len(isins))})
    price = pl.col("closePrice").cast(pl.Float64, strict=False)
    read = table.select("ISIN", _day("timestamp").alias("on"), price.alias("price"))
    good = read.filter((pl.col("price") > 0) & pl.col("price").is_finite() & pl.col("on").is_not_null())
    left_out["price unreadable or not above 0"] = len(read) - len(good)
    known = good.join(place, on="ISIN", how="inner")
    left_out["price of an unknown asset"] = len(good) - len(known)
    if not len(known):
        raise SourceError("prices of known assets", "none", where="close_prices.csv")
    on = known["on"].to_numpy()
    days = np.unique(on)
    close = np.full((len(days), len(isins)), np.nan, np.float32)
    close[np.searchsorted(days, on), known["asset"].to_numpy()] = known["price"].to_numpy()
    return days.astype(np.int32), close


def _transactions(table: pl.DataFrame, priced: np.ndarray, left_out: dict[str, int]) -> pl.DataFrame:
    rows = table.with_columns(
        _day("timestamp").alias("on"),
        pl.col("totalValue").cast(pl.Float64, strict=False),
        pl.col("units").cast(pl.Float64, strict=False),
        pl.col("channel").fill_null(""),
    )
    checks = {
        "transaction: ids, type or date unreadable": pl.col("customerID").str.contains(CUSTOMER_FORM)
        & pl.col("transactionID").str.contains(TRANSACTION_FORM)
        & pl.col("transactionType").is_in(["Buy", "Sell"])
        & pl.col("on").is_not_null(),
        "transaction: amount missing or below 0": (pl.col("totalValue") >= 0) & (pl.col("units") >= 0),
        "transaction of an asset without a price": pl.col("ISIN").is_in(pl.Series(priced)),
    }
    for reason, check in checks.items():
        good = rows.filter(check.fill_null(False))
        left_out[reason] = len(rows) - len(good)
        rows = good
    unique = rows.unique("transactionID", keep="first", maintain_order=True)
    left_out["transaction named twice"] = len(rows) - len(unique)
    if not len(unique):
        raise SourceError("usable transactions", f"none ({left_out})", where="transactions.csv")
    return unique


def _profiles(table: pl.DataFrame, code: pl.DataFrame) -> pl.DataFrame:
    return (
        table.join(code, on="customerID", maintain_order="left")
        .select(
            "customer",
            pl.col("customerType").fill_null("").alias("type"),
            pl.col("riskLevel").fill_null("").str.strip_prefix("Predicted_").alias("risk"),
            pl.col("investmentCapacity").fill_null("").str.strip_prefix("Predicted_").alias("capacity"),
            _day("lastQuestionnaireDate").fill_null(2**30).alias("asked"),
            _day("timestamp").fill_null(2**30).alias("since"),
        )
        .sort("customer", "since", maintain_order=True)
    )
