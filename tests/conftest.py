"""Fixtures that several parts of the suite read: the shipped real log, and small random logs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from habitus.data.calendar import Calendar
from habitus.data.ingest import ingest
from habitus.data.log import EventLog
from habitus.data.schema import Schema
from habitus.data.sources.online_retail import online_retail
from habitus.data.store import Store

FIRST = np.datetime64("2020-01-01T00:00:00", "us")


@pytest.fixture(scope="session")
def retail_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Online Retail, ingested once."""
    return ingest(online_retail(), tmp_path_factory.mktemp("retail") / "online_retail.store")


def shop_table(n_users: int = 30, n_days: int = 120, seed: int = 0) -> pl.DataFrame:
    """A random log: visits, purchases and refunds with amounts, items and baskets."""
    draw = np.random.default_rng(seed)
    n = n_users * 40
    minutes = draw.integers(0, n_days * 24 * 60, n)
    kind = draw.choice(["visit", "purchase", "refund"], n, p=[0.6, 0.35, 0.05])
    return pl.DataFrame(
        {
            "user": [f"u{u:03d}" for u in draw.integers(0, n_users, n)],
            "time": FIRST + minutes.astype("timedelta64[m]").astype("timedelta64[us]"),
            "kind": kind,
            "item": [f"i{i}" for i in draw.integers(0, 20, n)],
            "basket": draw.integers(0, n // 3, n),
            "spend": np.where(kind == "purchase", draw.lognormal(2, 1, n).round(2), 0.0),
        }
    )


SHOP_SCHEMA = {
    "name": "shop",
    "time_zone": "UTC",
    "events": {
        "user": "user",
        "time": "time",
        "type": "kind",
        "item": "item",
        "session": "basket",
        "amounts": {"spend": {"value": "spend", "unit": "EUR"}},
    },
}


@pytest.fixture
def make_store(tmp_path: Path) -> Callable[..., Store]:
    """Ingest a table with the columns of `shop_table`."""

    def make(table: pl.DataFrame, *, calendar: Calendar | None = None, n_shards: int = 3, name: str = "shop") -> Store:
        log = EventLog(Schema.parse(SHOP_SCHEMA), table, calendar=calendar)
        return ingest(log, tmp_path / f"{name}.store", n_shards=n_shards)

    return make


@pytest.fixture
def shop() -> pl.DataFrame:
    """A random log of 30 users over 120 days."""
    return shop_table()
