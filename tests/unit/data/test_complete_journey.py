"""Complete Journey: on a small folder made here, and on the published sample where it is at hand."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import polars as pl
import pytest

from habitus.core.errors import SourceError
from habitus.data.calendar import to_day
from habitus.data.sources.complete_journey import complete_journey

REAL = Path(__file__).parents[4] / "shared" / "data" / "complete_journey"

TABLES = {
    "transactions": "household_id,"
    "basket_id,product_id,quantity,sales_value,retail_disc,coupon_disc,transaction_timestamp\n"
    "1,b1,p1,1,2.5,0.5,0.0,2017-03-01 10:00:00\n"
    "1,b1,p2,2,4.0,0.0,1.0,2017-03-01 10:00:00\n"
    "2,b2,p1,1,2.5,0.0,0.0,2017-03-09 09:30:00",
    "campaigns": "campaign_id,household_id\n7,1\n7,3",
    "campaign_descriptions": "campaign_id,campaign_type,start_date,end_date\n7,Type A,2017-03-10,2017-03-20",
    "coupons": "coupon_upc,product_id,campaign_id\nc1,p1,7\nc1,p2,7\nc2,p1,7",
    "coupon_redemptions": "household_id,coupon_upc,campaign_id,redemption_date\n1,c1,7,2017-03-12",
    "demographics": "household_id,age,income,home_ownership,marital_status,household_size,household_comp,kids_count\n"
    "1,65+,35-49K,Homeowner,Married,2,2 Adults No Kids,0",
    "products": "product_id,manufacturer_id,department,brand,product_category\n"
    "p1,2,GROCERY,National,ICE\np2,2,GROCERY,Private,",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in TABLES.items():
        (tmp_path / f"{name}.csv").write_text(text + "\n", "utf-8")
    return tmp_path


def test_lines_redemptions_and_sends_become_one_log(folder: Path):
    log = complete_journey(folder)
    rows = log.events.sort("time", "household_id", "product_id").select(
        "household_id", "time", "type", "kind", "sales_value"
    )
    assert rows.rows() == [
        ("1", dt.datetime(2017, 3, 1, 10), "purchase", None, 2.5),
        ("1", dt.datetime(2017, 3, 1, 10), "purchase", None, 4.0),
        ("2", dt.datetime(2017, 3, 9, 9, 30), "purchase", None, 2.5),
        ("1", dt.datetime(2017, 3, 10), "campaign", "campaign_a", None),
        ("3", dt.datetime(2017, 3, 10), "campaign", "campaign_a", None),
        ("1", dt.datetime(2017, 3, 12, 12), "redeem", "campaign_a", None),
    ]
    assert log.profiles["kids_count"].to_list() == ["0"]
    assert log.items["product_category"].to_list() == ["ICE", None]


@pytest.mark.parametrize(("announced", "known_from"), [(7, "2017-03-03"), (28, "2017-02-10"), (0, "2017-03-10")])
def test_a_campaign_is_known_to_its_households_from_the_stated_day(folder: Path, announced: int, known_from: str):
    calendar = complete_journey(folder, announced=announced).calendar
    row = calendar.events.filter(type="campaign_a").row(0, named=True)
    assert (row["start"], row["end"]) == (dt.date(2017, 3, 10), dt.date(2017, 3, 20))
    assert row["strength"] == 2 / 20
    assert not row["is_randomised"]
    assert calendar.audiences.filter(audience=row["audience"])["user"].to_list() == ["1", "3"]
    assert calendar.items.filter(event=row["event"])["item"].to_list() == ["p1", "p2"]
    day = to_day(known_from)
    assert "campaign_a" in calendar.known_at(day).types
    assert "campaign_a" not in calendar.known_at(day - 1).types


def test_the_store_holds_it(folder: Path, tmp_path: Path):
    ingest = pytest.importorskip("habitus.data.ingest").ingest
    store = ingest(complete_journey(folder), tmp_path / "cj.store")
    assert store.n_events == 6
    assert store.users["user"].sort().to_list() == ["1", "2", "3"]
    assert store.amounts == ("spend", "discount")
    assert store.calendar.types == ("campaign_a", "holiday")


def test_what_is_absent_is_named(folder: Path):
    with pytest.raises(SourceError, match="no such folder"):
        complete_journey(folder / "nowhere")
    (folder / "coupons.csv").write_text("coupon,campaign_id\nc1,7\n", "utf-8")
    with pytest.raises(SourceError, match="coupon_upc"):
        complete_journey(folder)
    (folder / "campaigns.csv").unlink()
    with pytest.raises(SourceError, match=r"campaigns\.parquet / \.csv"):
        complete_journey(folder)


@pytest.mark.skipif(not REAL.is_dir(), reason="the published sample is not at hand (../shared/data/complete_journey)")
def test_the_published_sample():
    log = complete_journey(REAL)
    assert dict(log.events["type"].value_counts().rows()) == {"purchase": 100_000, "redeem": 2_102, "campaign": 6_589}
    events = log.calendar.events
    assert dict(events["type"].value_counts().rows()) == {
        "campaign_a": 4,
        "campaign_b": 17,
        "campaign_c": 6,
        "holiday": 19,
    }
    assert log.calendar.audiences.filter(audience="campaign 18").height == 1_133
    assert events.filter(event="campaign 18")["announced_at"].item() == dt.date(2017, 10, 23)
    assert log.events.filter(pl.col("time").dt.date() > dt.date(2017, 12, 31)).height > 0  # hence is_last_day_partial
    assert log.schema.is_last_day_partial
