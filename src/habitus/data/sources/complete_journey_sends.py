"""Complete Journey as impressions: a campaign (or one of its coupons) sent to a household, redeemed or not.

- `sends`: one row per campaign and household; the response is a coupon of the campaign redeemed within 21 days of its
  start. Campaigns 24 to 26 are left out: they start before redemptions are recorded.
- `offers`: one row per campaign, household and coupon of campaigns of type B and C. Type A is left out: which of its
  coupons a household got is not recorded. Campaign 23 is left out too: it starts three days before the end.

Ids and dates are text in the files. Dates of campaigns and redemptions have day precision, so an impression is put at
midnight of the start and its history is the basket lines of earlier days. Category = product_category, brand =
manufacturer, kind by coupon use. The set has no clock zone: the clock of the log is taken as it stands.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from habitus.data.history import BehaviourLog
from habitus.data.impressions import DAY, Impressions
from habitus.data.sources.complete_journey import PROFILE
from habitus.data.sources.published import read_published

if TYPE_CHECKING:
    import polars as pl

RESPONSE_DAYS = 21
KINDS = ("buy", "buy_with_coupon")
UNRECORDED, CENSORED = ("24", "25", "26"), ("23",)
DAYS = {
    "train": (17_197, 17_410),
    "valid": (17_410, 17_469),
    "test": (17_469, 17_528),
}  # by start; the last one is censored


def complete_journey_sends(folder: str | Path, *, table: Literal["sends", "offers"] = "sends") -> Impressions:
    """Give impressions and basket lines of the Complete Journey set in `folder` (the publisher's seven tables).

    `ids` are household, campaign, campaign_type, 7 demographic fields (1: blank; 0: household unknown), and coupon in
    `offers`. The target is the category and manufacturer with most products among the coupons of the campaign (or of
    the coupon). Labels are known `delay` = 21 days after the start; give `DAYS` to `make_examples`.

    Errors: `SourceError` when a table or a column is absent.

    >>> complete_journey_sends("no/such/folder")
    Traceback (most recent call last):
    ...
    habitus.core.errors.SourceError: expected  a folder with the publisher's files
    found     no such folder
    where     no/such/folder
    """
    import polars as pl

    folder = Path(folder)
    text = pl.String
    campaigns = read_published(
        folder,
        ("campaign_descriptions",),
        {"campaign_id": text, "campaign_type": text, "start_date": pl.Date},
    )
    sends = read_published(folder, ("campaigns",), {"campaign_id": text, "household_id": text})
    coupons = read_published(folder, ("coupons",), dict.fromkeys(("coupon_upc", "product_id", "campaign_id"), text))
    redeemed = read_published(
        folder, ("coupon_redemptions",),
        {"household_id": text, "coupon_upc": text, "campaign_id": text, "redemption_date": pl.Date},
    )  # fmt: skip
    products = _products(folder)
    keys = ["campaign_id", "household_id"] + (["coupon_upc"] if table == "offers" else [])
    rows = sends.unique(maintain_order=True).join(campaigns, on="campaign_id")
    if table == "offers":
        rows = rows.filter(pl.col("campaign_type") != "Type A", ~pl.col("campaign_id").is_in(CENSORED))
        rows = rows.join(coupons.select("campaign_id", "coupon_upc").unique(maintain_order=True), on="campaign_id")
    rows = rows.filter(~pl.col("campaign_id").is_in(UNRECORDED))
    soon = redeemed.join(campaigns, on="campaign_id").filter(
        (pl.col("redemption_date") - pl.col("start_date")).dt.total_days().is_between(0, RESPONSE_DAYS - 1)
    )
    rows = rows.join(soon.select(keys).unique().with_columns(label=1), on=keys, how="left")
    rows = rows.with_columns(pl.col("label").fill_null(0)).with_row_index("source")
    by = ["campaign_id", "coupon_upc"] if table == "offers" else ["campaign_id"]
    rows = rows.join(_targets(coupons, products, by), on=by, how="left").with_columns(
        pl.col("cate", "brand").fill_null(0)
    )
    return _impressions(folder, rows, products, is_offers=table == "offers")


def _products(folder: Path) -> pl.DataFrame:
    """Give product_id with category and manufacturer as numbers from 1 in the order of the alphabet (0: none)."""
    import polars as pl

    columns: dict[str, type[pl.DataType]] = dict.fromkeys(
        ("product_id", "product_category", "manufacturer_id"), pl.String
    )
    products = read_published(folder, ("products",), columns)
    return products.select(
        "product_id",
        cate=pl.col("product_category").rank("dense").fill_null(0).cast(pl.Int32),
        brand=pl.col("manufacturer_id").rank("dense").fill_null(0).cast(pl.Int32),
    )


def _targets(coupons: pl.DataFrame, products: pl.DataFrame, by: list[str]) -> pl.DataFrame:
    """Give the commonest category and manufacturer of each campaign or coupon; ties go to the smaller number."""
    import polars as pl

    found = coupons.join(products, on="product_id")
    parts = [
        found.group_by(*by, name).len().sort([*by, "len", name], descending=[False] * len(by) + [True, False])
        .group_by(by, maintain_order=True).agg(pl.col(name).first())
        for name in ("cate", "brand")
    ]  # fmt: skip
    return parts[0].join(parts[1], on=by)


def _impressions(folder: Path, rows: pl.DataFrame, products: pl.DataFrame, *, is_offers: bool) -> Impressions:
    import polars as pl

    people = read_published(folder, ("demographics",), dict.fromkeys(("household_id", *PROFILE), pl.String))
    people = people.with_columns(pl.col(name).rank("dense").fill_null(0) + 1 for name in PROFILE)
    lines = read_published(
        folder,
        ("transactions",),
        {
            "household_id": pl.String,
            "transaction_timestamp": pl.Datetime,
            "product_id": pl.String,
            "quantity": pl.Float64,
            "coupon_disc": pl.Float64,
        },
    )
    lines = lines.filter(pl.col("quantity") > 0).join(products, on="product_id", how="left", maintain_order="left")
    households = pl.concat([rows["household_id"], lines["household_id"]]).unique().cast(pl.Int64).sort().to_numpy()
    user = np.searchsorted(households, rows["household_id"].cast(pl.Int64).to_numpy())
    time = rows["start_date"].cast(pl.Int32).to_numpy().astype(np.int64) * DAY
    order = np.lexsort((rows["source"].to_numpy(), time, user))
    rows = rows.join(people, on="household_id", how="left", maintain_order="left")[order]
    log = BehaviourLog.build(
        np.searchsorted(households, lines["household_id"].cast(pl.Int64).to_numpy()),
        lines["transaction_timestamp"].dt.epoch("s").to_numpy(),
        (lines["coupon_disc"].fill_null(0).to_numpy() > 0).astype(np.uint8),
        lines["cate"].fill_null(0).to_numpy(),
        lines["brand"].fill_null(0).to_numpy(),
        n_users=len(households),
        kinds=KINDS,
    )
    ids = {
        "user": rows["household_id"].cast(pl.Int64).to_numpy(),
        "adgroup": rows["campaign_id"].cast(pl.Int64).to_numpy(),
    }
    ids["campaign_type"] = rows["campaign_type"].rank("dense").cast(pl.Int64).to_numpy()
    ids |= {name: rows[name].fill_null(0).cast(pl.Int64).to_numpy() for name in PROFILE}
    if is_offers:
        ids["coupon"] = rows["coupon_upc"].cast(pl.Int64).to_numpy()
    n = len(rows)
    return Impressions(
        user=user[order].astype(np.int32), time=time[order], label=rows["label"].cast(pl.Int8).to_numpy(),
        source=rows["source"].cast(pl.Int64).to_numpy(), ids=ids, cate=rows["cate"].to_numpy(),
        brand=rows["brand"].to_numpy(), price=np.full(n, np.nan), has_profile=rows[PROFILE[0]].is_not_null().to_numpy(),
        log=log, delay=RESPONSE_DAYS,
    )  # fmt: skip
