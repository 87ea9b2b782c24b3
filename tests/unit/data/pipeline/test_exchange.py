"""Reading and sorting by pieces gives the bytes of one reading: here by one process, in test_ray_road by workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from habitus.core.engine import LOCAL
from habitus.core.errors import IngestError, SourceError
from habitus.data import ingest as module
from habitus.data.ingest import ingest
from habitus.data.log import EventLog
from habitus.data.pipeline import exchange
from habitus.data.pipeline.exchange import Ready, SharedPasses, cut
from habitus.data.schema import Schema
from habitus.data.store import Store


@pytest.fixture
def in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have `ingest` read pieces of 300 rows, five groups of shards at least."""
    monkeypatch.setattr(exchange, "PIECE", 300)
    monkeypatch.setattr(exchange, "SMALLEST_PIECE", 1)
    monkeypatch.setattr(exchange, "PER_WORKER", 5)
    monkeypatch.setattr(module, "passes_of", lambda engine, limit, n: SharedPasses(LOCAL, limit, n))


def rich(n: int = 1000, seed: int = 0) -> pl.DataFrame:
    """Rows with everything a schema can name, some of them unusable."""
    draw = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "user": [None if u == 7 else f"u{u:02d}" for u in draw.integers(0, 40, n)],
            "time": np.datetime64("2020-03-20", "us") + draw.integers(0, 40 * 86400, n).astype("timedelta64[s]"),
            "kind": draw.choice(["visit", "buy", "return"], n),
            "item": [f"i{i}" if i else None for i in draw.integers(0, 30, n)],
            "basket": [f"b{b}" for b in draw.integers(0, 200, n)],
            "spend": draw.lognormal(2, 1, n).round(2),
            "shelf": draw.choice(["a", "b", "c"], n),
            "note": [f"note {k}" for k in draw.integers(0, 50, n)],
            "town": draw.choice(["Ulm", "Bonn"], n),
            "key": draw.integers(0, 950, n),
        }
    )


def schema(**more: Any) -> Schema:
    events = {
        "user": "user", "time": "time", "type": "kind", "item": "item", "session": "basket",
        "amounts": {"spend": {"value": "spend", "unit": "EUR", "max": 60.0}},
        "categories": {"shelf": "shelf"}, "text": {"note": "note"},
    }  # fmt: skip
    return Schema.parse(
        {
            "name": "rich",
            "time_zone": "Europe/Berlin",
            "max_rejected": 0.5,
            "events": events | more,
            "profile": {"from": "events", "columns": {"town": {"column": "town", "kind": "category"}}},
            "items": {"from": "events", "columns": {"where": {"column": "shelf", "kind": "category"}}},
        }
    )


def both(log: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> tuple[Store, Store]:
    with monkeypatch.context() as plain:
        plain.setattr(module, "passes_of", lambda engine, limit, n: module.LocalPasses())
        one = ingest(log(), tmp_path / "one.store", **options)
    return one, ingest(log(), tmp_path / "shared.store", **options)


def same_files(one: Store, other: Store) -> None:
    assert one.manifest == other.manifest
    files = sorted(p.relative_to(one.path) for p in one.path.rglob("*") if p.is_file())
    assert len(files) > 5
    assert files == sorted(p.relative_to(other.path) for p in other.path.rglob("*") if p.is_file())
    for file in files:
        assert (one.path / file).read_bytes() == (other.path / file).read_bytes(), file


@pytest.mark.usefixtures("in_pieces")
@pytest.mark.parametrize("n_shards", [1, 7])
def test_the_store_is_the_same_byte_for_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_shards: int):
    same_files(*both(lambda: EventLog(schema(), rich()), tmp_path, monkeypatch, n_shards=n_shards))


@pytest.mark.usefixtures("in_pieces")
def test_a_repeated_key_is_found_across_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    one, other = both(lambda: EventLog(schema(key=["key"]), rich()), tmp_path, monkeypatch, n_shards=3)
    same_files(one, other)
    assert one.manifest["counts"]["rejected"]["duplicate key"] > 100


@pytest.mark.usefixtures("in_pieces")
def test_several_files_with_broken_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for k in range(3):
        rich(400, seed=k).write_csv(tmp_path / f"day{k}.csv")
    with (tmp_path / "day1.csv").open("a") as file:
        file.write('u01,"2020-03-22 00:00:00,visit\n')
    one, other = both(lambda: EventLog(schema(), str(tmp_path / "day*.csv")), tmp_path, monkeypatch, n_shards=4)
    same_files(one, other)
    assert one.rejected["line"].is_not_null().any()


@pytest.mark.usefixtures("in_pieces")
def test_files_of_different_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    rich(500).write_parquet(tmp_path / "0.parquet")
    rich(500, 1).drop("town").with_columns(pl.lit(1).alias("more")).write_parquet(tmp_path / "1.parquet")
    paths = [tmp_path / "0.parquet", tmp_path / "1.parquet"]
    same_files(*both(lambda: EventLog(schema(), paths), tmp_path, monkeypatch, n_shards=2))


@pytest.mark.usefixtures("in_pieces")
def test_when_many_rows_are_rejected_the_shards_are_cut_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(exchange.stream, "ROWS_PER_SHARD", 150)
    table = rich().with_columns(user=pl.when(pl.int_range(pl.len()) % 3 == 0).then(None).otherwise("user"))
    one, other = both(lambda: EventLog(schema(), table), tmp_path, monkeypatch)
    same_files(one, other)
    assert 1 < one.n_shards < 7  # of the 1000 rows read there would have been 7


@pytest.mark.usefixtures("in_pieces")
def test_too_many_rejects_stop_it_and_leave_nothing(tmp_path: Path):
    table = rich().with_columns(user=pl.lit(None, dtype=pl.String))
    with pytest.raises(IngestError, match="1,000 of 1,000"):
        ingest(EventLog(schema(), table), tmp_path / "none.store")
    assert not list(tmp_path.iterdir())
    with pytest.raises(IngestError, match="0 rows"):
        ingest(EventLog(schema(), table.clear()), tmp_path / "none.store")


@pytest.mark.usefixtures("in_pieces")
def test_a_source_that_changes_meanwhile_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    rich().write_parquet(tmp_path / "log.parquet")
    second = SharedPasses.second

    def changed(*arguments: Any) -> Any:
        rich(1001).write_parquet(tmp_path / "log.parquet")
        return second(*arguments)

    monkeypatch.setattr(SharedPasses, "second", changed)
    with pytest.raises(SourceError, match="a file that changed"):
        ingest(EventLog(schema(), tmp_path / "log.parquet"), tmp_path / "log.store")
    assert [path.name for path in tmp_path.iterdir()] == ["log.parquet"]


def test_pieces_cover_every_row_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(exchange, "SMALLEST_PIECE", 1)
    from habitus.data.log import RawFile

    parts = []
    for k, n in enumerate((5, 0, 12)):
        pl.DataFrame({"a": range(n)}).with_columns(pl.col("a").cast(pl.Int64)).write_parquet(tmp_path / f"{k}.parquet")
        parts.append(RawFile(tmp_path / f"{k}.parquet", str(k), n))
    pieces = list(cut(Ready("log", {"a": "BIGINT"}, tuple(parts)), 4))
    rows = [(piece.first_file, piece.base + row) for piece in pieces for row in range(piece.low, piece.high)]
    assert rows == [(0, row) for row in range(5)] + [(2, 5 + row) for row in range(12)]
    assert [piece.number for piece in pieces] == list(range(len(pieces)))
