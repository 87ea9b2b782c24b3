"""Campaign sends and coupon offers as impressions: labels, parts, histories; and the counts of the published set."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from habitus.data.history import History
from habitus.data.sources.complete_journey import PROFILE
from habitus.data.sources.complete_journey_sends import DAYS, complete_journey_sends

REAL = Path(__file__).parents[4] / "shared" / "data" / "complete_journey"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cj")
    tables = {
        "campaign_descriptions": {
            "campaign_id": ["1", "2", "24"],
            "campaign_type": ["Type B", "Type A", "Type C"],
            "start_date": ["2017-03-03", "2017-03-08", "2016-12-01"],
        },
        "campaigns": {"campaign_id": ["1", "1", "2", "24"], "household_id": ["8", "9", "8", "8"]},
        "coupons": {"coupon_upc": ["70", "70", "71"], "product_id": ["a", "b", "c"], "campaign_id": ["1", "1", "1"]},
        "coupon_redemptions": {
            "household_id": ["8", "9", "8"],
            "coupon_upc": ["70", "71", "71"],
            "campaign_id": ["1", "1", "2"],
            "redemption_date": ["2017-03-23", "2017-03-24", "2017-03-07"],  # day 20, day 21, the day before the start
        },
        "products": {
            "product_id": ["a", "b", "c"],
            "product_category": ["BREAD", "BREAD", None],
            "manufacturer_id": ["2", "69", "69"],
        },
        "demographics": {"household_id": ["8"], **{name: [None if name == "age" else "x"] for name in PROFILE}},
        "transactions": {
            "household_id": ["8", "8", "8", "10"],
            "transaction_timestamp": [
                dt.datetime(2017, 3, 3, 0, 0), dt.datetime(2017, 3, 2, 23, 59, 59), dt.datetime(2017, 3, 1),
                dt.datetime(2017, 3, 1)],
            "product_id": ["a", "c", "b", "a"],
            "quantity": [1.0, 1.0, 0.0, 1.0],
            "coupon_disc": [0.0, 0.5, 0.0, 0.0],
        },
    }  # fmt: skip
    for name, columns in tables.items():
        pl.DataFrame(columns).write_parquet(folder / f"{name}.parquet")
    return folder


def test_a_response_is_a_coupon_of_the_campaign_within_21_days(folder: Path) -> None:
    shown = complete_journey_sends(folder)
    assert shown.ids["user"].tolist() == [8, 8, 9]
    assert shown.ids["adgroup"].tolist() == [1, 2, 1]
    assert shown.label.tolist() == [1, 0, 0]
    assert shown.has_profile.tolist() == [True, True, False]
    assert (shown.ids["age"].tolist(), shown.ids["income"].tolist()) == ([1, 1, 0], [2, 2, 0])
    assert (shown.cate.tolist(), shown.delay) == ([1, 0, 1], 21)


def test_the_history_is_the_basket_lines_of_earlier_days(folder: Path) -> None:
    shown = complete_journey_sends(folder)
    history = History.before(shown.log, shown.user, shown.time)
    assert (history.hist_end - history.user_start).tolist() == [1, 2, 0]  # no line without quantity
    assert shown.log.kind[history.hist_end[0] - 1] == 1
    assert shown.log.cate[history.hist_end[0] - 1] == 0


def test_offers_are_coupons_of_campaigns_whose_lists_are_known(folder: Path) -> None:
    shown = complete_journey_sends(folder, table="offers")
    assert set(shown.ids["adgroup"]) == {1}
    rows = zip(shown.ids["user"], shown.ids["coupon"], shown.label, strict=True)
    assert sorted(rows) == [(8, 70, 1), (8, 71, 0), (9, 70, 0), (9, 71, 0)]


@pytest.mark.skipif(not REAL.is_dir(), reason="the published set is not at hand (../shared/data/complete_journey)")
def test_the_published_set_has_the_rows_and_responses_that_were_counted_apart() -> None:
    sends, offers = complete_journey_sends(REAL), complete_journey_sends(REAL, table="offers")
    assert (len(sends), int(sends.label.sum())) == (6442, 545)
    assert (len(offers), int(offers.label.sum())) == (42_250, 225)
    counts = {}
    for name, (low, high) in DAYS.items():
        part = (sends.day >= low) & (sends.day < high)
        counts[name] = int(part.sum()), int(sends.label[part].sum())
    assert counts == {"train": (3780, 334), "valid": (631, 37), "test": (1848, 171)}
    lists = offers.ids["user"] * 1000 + offers.ids["adgroup"]
    _, place, size = np.unique(lists, return_inverse=True, return_counts=True)
    clicks = np.bincount(place, offers.label)
    both = (clicks > 0) & (clicks < size)
    assert (int(both.sum()), int(size[both].sum())) == (124, 2026)
