"""Proposals of a schema: sensible on real logs, written out to be read, and usable as they are."""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from habitus.core.errors import SchemaError
from habitus.data.infer import Column, infer, propose
from habitus.data.ingest import ingest
from habitus.data.log import EventLog
from habitus.data.schema import Schema
from habitus.data.sources.online_retail import FOLDER


def test_online_retail_is_proposed_as_it_ships(tmp_path: Path):
    text = propose(FOLDER / "transactions.parquet", name="retail")
    schema = Schema.parse(tomllib.loads(text))
    shipped = Schema.read(FOLDER / "schema.toml")
    for part in ("user", "time", "item", "session"):
        assert getattr(schema.events, part) == getattr(shipped.events, part)
    assert (schema.max_rejected, schema.is_last_day_partial) == (0.26, True)
    assert schema.profile is not None
    assert schema.items is not None
    assert (list(schema.profile.columns), list(schema.items.columns)) == (["country"], ["description"])
    assert "24.93% of the rows have no user" in text
    store = ingest(EventLog(schema, FOLDER / "transactions.parquet"), tmp_path / "s")
    assert store.n_events == 406_829


def shop_rows(n: int = 2_000) -> pl.DataFrame:
    draw = np.random.default_rng(0)
    member = draw.integers(0, 100, n)
    return pl.DataFrame(
        {
            "member_no": member,
            "event_ts": draw.integers(1_600_000_000, 1_600_500_000, n) * 1000,
            "action": draw.choice(["view", "buy"], n),
            "sku": [f"s{v}" for v in draw.integers(0, 300, n)],
            "order_id": [f"o{v}" for v in draw.integers(0, 900, n)],
            "qty": draw.integers(1, 5, n),
            "unit_price": draw.random(n).round(2),
            "device": draw.choice(["phone", "desk"], n),
            "region": np.array(["north", "south"])[member % 2],
            "ViewCount": draw.integers(0, 9, n),
            "weight": draw.integers(0, 9, n),
        }
    )


@pytest.mark.parametrize("kind", ["table", "csv"])
def test_every_part_is_found_by_type_and_name(tmp_path: Path, kind: str):
    rows = shop_rows()
    rows.write_csv(tmp_path / "e.csv")
    source = rows if kind == "table" else tmp_path / "e.csv"
    schema = infer(source)
    events = schema.events
    columns = [
        part.column if part else None for part in (events.user, events.time, events.type, events.item, events.session)
    ]
    assert columns == ["member_no", "event_ts", "action", "sku", "order_id"]
    assert events.time_unit == "ms"
    assert set(events.amounts) == {"qty", "unit_price", "spend"}
    assert list(events.categories) == ["device"]
    assert events.as_of_end == ("ViewCount",)
    assert schema.profile is not None
    assert list(schema.profile.columns) == ["region"]
    assert "Columns not used: weight" in propose(source)
    assert ingest(EventLog(schema, source), tmp_path / "s").n_events == rows.height


def test_a_user_that_is_only_a_guess_is_marked():
    rows = pl.DataFrame({"x": ["a", "b", "c"] * 50, "when": ["2024-05-01"] * 150})
    assert 'user = "x"    # check' in propose(rows)


@pytest.mark.parametrize(
    "rows", [{"user": ["a", "a", "b"], "n": [1, 2, 3]}, {"when": ["2024-05-01"] * 3, "n": [0.1, 0.2, 0.3]}]
)
def test_without_a_user_or_a_time_there_is_no_proposal(rows: dict):
    with pytest.raises(SchemaError, match="a column of"):
        infer(pl.DataFrame(rows))


@pytest.mark.parametrize(
    ("name", "is_like"), [("CustomerID", True), ("client-no", True), ("useful", False), ("USER", True)]
)
def test_names_are_read_word_by_word(name: str, is_like: bool):
    column = Column(name, "BIGINT", 9, 0.0, False, None, 0.0, True)
    assert column.is_like("user|customer|client") == is_like
