"""Complete Journey: grocery households of 2017 with the campaigns sent to each of them (dunnhumby, CC0).

Files, from a folder that the user names (Parquet or CSV, named as in the R package `completejourney`): transactions,
campaigns, campaign_descriptions, coupons, coupon_redemptions, demographics, products.

- Events: `purchase` (a line of a basket), `redeem` (a coupon redeemed, dated by day, put at noon), `campaign` (a send,
  dated at the start of the campaign). The published sample holds about 7 % of all lines, at random: spend and days are
  those of the sample. Redemptions and sends are complete.
- Known events: 27 campaigns, each with its send list as audience and the products of its coupons as items, and the US
  federal holidays. When a household learnt of a campaign is not in the set; `announced` days before the start is an
  assumption, so report a second value too.
- The clock of the log is taken as it stands. The last day, 2018-01-01, holds a few hours only.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING

from habitus.data.log import EventLog
from habitus.data.schema import Schema
from habitus.data.sources.published import read_published

if TYPE_CHECKING:
    import polars as pl

    from habitus.data.calendar import Calendar

SCHEMA = Path(__file__).with_name("complete_journey.toml")
PROFILE = ("age", "income", "home_ownership", "marital_status", "household_size", "household_comp", "kids_count")
ITEM = ("department", "brand", "product_category")


def complete_journey(folder: str | Path, *, announced: int = 7) -> EventLog:
    """Give the Complete Journey log: user = household, session = basket, item = product.

    Parameters
    ----------
    folder
        Where the seven tables lie.
    announced
        Days before its start from which a campaign is known to those it is sent to. Assumed: 7; others assume 28.

    Errors: `SourceError` when a table or a column is absent.

    >>> complete_journey("no/such/folder")
    Traceback (most recent call last):
    ...
    habitus.core.errors.SourceError: expected  a folder with the publisher's files
    found     no such folder
    where     no/such/folder
    """
    import polars as pl

    campaigns = _campaigns(folder)
    sends = read_published(folder, ("campaigns",), {"campaign_id": pl.String, "household_id": pl.String})
    return EventLog(
        Schema.read(SCHEMA),
        _events(folder, campaigns, sends),
        read_published(folder, ("demographics",), dict.fromkeys(("household_id", *PROFILE), pl.String)),
        read_published(folder, ("products",), dict.fromkeys(("product_id", *ITEM), pl.String)),
        _calendar(folder, campaigns, sends, announced),
    )


def _campaigns(folder: str | Path) -> pl.DataFrame:
    import polars as pl

    columns = {"campaign_id": pl.String, "campaign_type": pl.String, "start_date": pl.Date, "end_date": pl.Date}
    table = read_published(folder, ("campaign_descriptions",), columns)
    return table.with_columns(kind="campaign_" + pl.col("campaign_type").str.slice(-1).str.to_lowercase())


def _events(folder: str | Path, campaigns: pl.DataFrame, sends: pl.DataFrame) -> pl.DataFrame:
    """Rows household_id, time, type, and what each type has: product, basket, amounts, kind of campaign."""
    import polars as pl

    lines = read_published(
        folder,
        ("transactions",),
        {
            "household_id": pl.String,
            "transaction_timestamp": pl.Datetime,
            "product_id": pl.String,
            "basket_id": pl.String,
            "sales_value": pl.Float64,
            "retail_disc": pl.Float64,
            "coupon_disc": pl.Float64,
            "quantity": pl.Float64,
        },
    )
    redeemed = read_published(
        folder,
        ("coupon_redemptions",),
        {"household_id": pl.String, "campaign_id": pl.String, "redemption_date": pl.Date},
    )
    kinds = campaigns.select("campaign_id", "start_date", "kind")
    redeemed, received = (table.join(kinds, on="campaign_id", how="left") for table in (redeemed, sends))
    noon = pl.col("redemption_date").cast(pl.Datetime("us")).dt.offset_by("12h")
    return pl.concat(
        [
            received.select(
                "household_id", type=pl.lit("campaign"), time=pl.col("start_date").cast(pl.Datetime("us")), kind="kind"
            ),
            lines.rename({"transaction_timestamp": "time"}).with_columns(
                pl.col("time").cast(pl.Datetime("us")), type=pl.lit("purchase")
            ),
            redeemed.select("household_id", type=pl.lit("redeem"), time=noon, kind="kind"),
        ],
        how="diagonal",
    )


def _calendar(folder: str | Path, campaigns: pl.DataFrame, sends: pl.DataFrame, announced: int) -> Calendar:
    """Campaigns for their send lists, strong by their coupons (1 = 20) and about the products of these; holidays."""
    import polars as pl

    from habitus.data.calendar import Calendar, holiday_calendar

    columns: dict[str, type[pl.DataType]] = dict.fromkeys(("campaign_id", "coupon_upc", "product_id"), pl.String)
    coupons = read_published(folder, ("coupons",), columns)
    sizes = coupons.group_by("campaign_id").agg(strength=pl.col("coupon_upc").n_unique().cast(pl.Float64))
    name = "campaign " + pl.col("campaign_id")
    rows = campaigns.join(sizes, on="campaign_id", how="left").select(
        event=name,
        type="kind",
        start="start_date",
        end="end_date",
        strength=(pl.col("strength") / 20).fill_null(1.0),
        announced_at=pl.col("start_date").dt.offset_by(f"-{announced}d"),
        audience=name,
        is_notable=pl.lit(True),
        is_randomised=pl.lit(False),
    )
    audiences = sends.select(audience=name, user="household_id")
    items = coupons.select(event=name, item="product_id")
    holidays = holiday_calendar("US", dt.date(2016, 11, 1), dt.date(2018, 3, 31))
    return Calendar.build(rows, audiences, items, where="complete_journey: campaign_descriptions").joined(holidays)
