"""Append: the same bytes as one ingest of everything, late rows and new codes included."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from habitus.core.errors import IngestError, SchemaError, StoreError
from habitus.data.append import append
from habitus.data.calendar import Calendar
from habitus.data.ingest import ingest
from habitus.data.log import EventLog
from habitus.data.pipeline import merge
from habitus.data.schema import Schema
from habitus.data.shards import Columns, ShardFile, TextFile, map_shard, map_text
from habitus.data.store import Store

EVENTS = {
    "user": "u", "time": "t", "type": "k", "item": "i", "session": "s",
    "amounts": {"a": {"value": "a", "max": 90.0}}, "categories": {"c": "c"}, "text": {"x": "x"},
}  # fmt: skip
ATTRIBUTES = {
    "profile": {"columns": {"p": {"column": "p"}, "first_amount": {"column": "a", "kind": "number"}}},
    "items": {"columns": {"d": {"column": "x", "kind": "text"}}},
}


def random_rows(seed: int, n: int) -> pl.DataFrame:
    """Rows in no order, with ties, missing values and repeated keys."""
    draw = np.random.default_rng(seed)

    def some(prefix: str, n_values: int, missing: float = 0.1) -> pl.Series:
        values = [f"{prefix}{v}" for v in draw.integers(0, n_values, n)]
        return pl.Series(
            [None if gap else value for value, gap in zip(values, draw.random(n) < missing)], dtype=pl.String
        )

    seconds = draw.integers(0, 3 * 10**5 if seed % 2 else 40, n) + 1_500_000_000
    return pl.DataFrame(
        {
            "u": some("u", 15),
            "t": pl.Series(seconds * 1_000_000).cast(pl.Datetime("us")),
            "k": some("k", 5),
            "i": some("i", 9),
            "s": some("s", 30),
            "a": draw.integers(0, 100, n).astype(float),
            "c": some("c", 3),
            "x": some("text ", 30),
            "o": pl.Series(draw.integers(0, 4, n)),
            "p": some("p", 3),
        }
    )


def bytes_of(path: Path) -> dict[str, bytes]:
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


@pytest.mark.parametrize("seed", range(6))
def test_append_in_pieces_is_one_ingest_byte_for_byte(tmp_path: Path, seed: int):
    draw = np.random.default_rng(100 + seed)
    extra: dict[str, Any] = {"key": ["s", "i"]} if seed in (0, 3) else {}
    extra |= {"order": "o"} if seed in (1, 3, 5) else {}
    zone = ["UTC", "Europe/London", "America/Sao_Paulo"][seed % 3]
    schema = Schema.parse({"time_zone": zone, "max_rejected": 1.0, "events": EVENTS | extra, **ATTRIBUTES})
    rows = random_rows(seed, int(draw.integers(30, 400)))
    cuts = [0, *sorted(draw.integers(1, rows.height, 2).tolist()), rows.height]
    pieces = []
    for i, (start, stop) in enumerate(itertools.pairwise(cuts)):
        if stop > start:
            pieces.append(tmp_path / f"{i}.parquet")
            rows[start:stop].write_parquet(pieces[-1])
    n_shards = 1 + seed % 3
    try:
        ingest(EventLog(schema, pieces[0]), tmp_path / "grown", n_shards=n_shards, threads=1)
    except IngestError:
        pytest.skip("no usable row in the first piece")
    for piece in pieces[1:]:
        append(tmp_path / "grown", EventLog(schema, piece)).check()
    ingest(EventLog(schema, pieces), tmp_path / "at_once", n_shards=n_shards)
    assert bytes_of(tmp_path / "grown") == bytes_of(tmp_path / "at_once")


def simple(rows: dict[str, list], **schema: Any) -> EventLog:
    events = {"user": "u", "time": "t", "type": {"constant": "v"}} | schema.pop("events", {})
    return EventLog(Schema.parse({"max_rejected": 0.5, "events": events, **schema}), pl.DataFrame(rows))


def test_a_shard_without_new_rows_keeps_its_file(tmp_path: Path):
    users = [f"u{i}" for i in range(20)]
    store = ingest(simple({"u": users, "t": ["2024-05-01"] * 20}), tmp_path / "s", n_shards=4)
    before = [(entry["file"], (store.path / entry["file"]).stat().st_mtime_ns) for entry in store.manifest["shards"]]
    store = append(tmp_path / "s", simple({"u": ["u3"], "t": ["2024-05-02"]}))
    after = [(entry["file"], (store.path / entry["file"]).stat().st_mtime_ns) for entry in store.manifest["shards"]]
    assert sum(old != new for old, new in zip(before, after)) == 1
    assert len(list((store.path / "shards").iterdir())) == 4


def test_items_of_events_stay_until_another_calendar_comes(tmp_path: Path):
    schema = Schema.parse({"name": "s", "events": EVENTS, "max_rejected": 0.9})
    rows, path = random_rows(0, 60), tmp_path / "s"
    about = pl.DataFrame({"event": ["sale"], "item": ["i3"]})
    sale = Calendar.build([{"type": "sale", "start": "2017-07-20"}], items=about)
    ingest(EventLog(schema, rows[:40], calendar=sale), path)
    assert append(path, EventLog(schema, rows[40:])).calendar.items.equals(about)
    assert Store.open(path).calendar.item_types == ("sale",)
    plain = append(path, EventLog(schema, rows[40:], calendar=Calendar.build(sale.events)))
    assert plain.calendar.items.height == 0
    assert "event_items" not in plain.manifest["tables"], "a store without them is as it always was"


def test_tables_of_attributes_replace_by_key_and_the_calendar_as_a_whole(tmp_path: Path):
    profile = {"from": "table", "key": "id", "columns": {"age": {"column": "age", "kind": "number"}}}
    first = simple({"u": ["a", "b"], "t": ["2024-05-01"] * 2}, profile=profile)
    calendar = Calendar.empty()
    table = pl.DataFrame({"id": ["a", "b"], "age": [1, 2]})
    ingest(EventLog(first.schema, first.events, profiles=table, calendar=calendar), tmp_path / "s")
    later = pl.DataFrame({"id": ["b", "c"], "age": [20, 30]})
    rows = pl.DataFrame({"u": ["c"], "t": ["2024-05-02"]})
    store = append(tmp_path / "s", EventLog(first.schema, rows, profiles=later))
    assert store.profiles is not None
    assert sorted(store.profiles.rows()) == [("a", 1.0), ("b", 20.0), ("c", 30.0)]
    assert store.calendar.events.height == 0
    store = append(tmp_path / "s", EventLog(first.schema, rows))
    assert store.profiles is not None
    assert sorted(store.profiles.rows()) == [("a", 1.0), ("b", 20.0), ("c", 30.0)]


def test_the_limit_of_rejected_rows_is_that_of_the_new_rows(tmp_path: Path):
    ingest(simple({"u": ["a"] * 100, "t": ["2024-05-01"] * 100}), tmp_path / "s")
    before = bytes_of(tmp_path / "s")
    with pytest.raises(IngestError, match=r"2 of 3 \(66.67%\)"):
        append(tmp_path / "s", simple({"u": ["a", None, None], "t": ["2024-05-01"] * 3}))
    assert bytes_of(tmp_path / "s") == before


def test_another_schema_is_refused_but_for_its_bounds(tmp_path: Path):
    ingest(simple({"u": ["a"], "t": ["2024-05-01"]}), tmp_path / "s")
    before = bytes_of(tmp_path / "s")
    with pytest.raises(SchemaError, match=r"events\.type\.constant = 'v'"):
        append(tmp_path / "s", simple({"u": ["a"], "t": ["2024-05-02"]}, events={"type": {"constant": "w"}}))
    with pytest.raises(SchemaError, match="time_zone"):
        append(tmp_path / "s", simple({"u": ["a"], "t": ["2024-05-02"]}, time_zone="Asia/Tokyo"))
    assert bytes_of(tmp_path / "s") == before
    bounds = {"time_range": ["2024-05-02", "2024-05-31"]}
    store = append(tmp_path / "s", simple({"u": ["a"], "t": ["2024-05-02"]}, events=bounds, is_last_day_partial=True))
    assert store.n_events == 2
    assert store.last_day == store.first_day


def test_users_of_another_type_are_refused(tmp_path: Path):
    ingest(simple({"u": [1, 2], "t": ["2024-05-01"] * 2}), tmp_path / "s")
    before = bytes_of(tmp_path / "s")
    with pytest.raises(SchemaError, match="BIGINT"):
        append(tmp_path / "s", simple({"u": ["a"], "t": ["2024-05-01"]}))
    assert bytes_of(tmp_path / "s") == before


def test_only_one_change_at_a_time(tmp_path: Path):
    from habitus.data.pipeline.swap import changing

    log = simple({"u": ["a"], "t": ["2024-05-01"]})
    ingest(log, tmp_path / "s")
    with changing(tmp_path / "s"), pytest.raises(StoreError, match="another process"):
        append(tmp_path / "s", log)
    assert append(tmp_path / "s", log).n_events == 2


def test_leftovers_of_a_killed_change_are_swept(tmp_path: Path):
    log = simple({"u": ["a"], "t": ["2024-05-01"]})
    store = ingest(log, tmp_path / "s")
    (store.path / "shards" / "00000.arrow").write_bytes(b"half")
    (store.path / "tables" / "users-0123456789ab.parquet").write_bytes(b"other")
    (store.path / ".partial-0123").mkdir()
    (store.path / ".partial-0123-manifest.json").write_text("{")
    append(tmp_path / "s", log)
    ingest(EventLog(log.schema, pl.concat([log.events, log.events])), tmp_path / "at_once")
    names = [{file.name for file in path.rglob("*")} for path in (tmp_path / "s", tmp_path / "at_once")]
    assert {n for n in names[0] if not n.startswith("rejected")} == {
        n for n in names[1] if not n.startswith("rejected")
    }


def test_no_store_to_append_to(tmp_path: Path):
    with pytest.raises(StoreError, match="no such folder"):
        append(tmp_path / "s", simple({"u": ["a"], "t": ["2024-05-01"]}))


@pytest.mark.parametrize("has_order", [False, True])
def test_merging_in_slices_is_a_stable_sort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_order: bool):
    import pyarrow as pa

    monkeypatch.setattr(merge, "SLICE", 16)
    monkeypatch.setattr(merge, "TEXT_SLICE", 10)
    draw = np.random.default_rng(int(has_order))
    columns = Columns(False, False, has_order, False, ("a",), ("c",), ("x",))
    sides, everything = [], []
    for name, n in (("old", 200), ("new", 90)):
        user, time, order = np.sort(draw.integers(0, 7, n)), draw.integers(0, 9, n), draw.integers(0, 3, n)
        rank = np.lexsort((order, time, user)) if has_order else np.lexsort((time, user))
        rows = {"time": time[rank], "day": time[rank] // 3, "type": draw.integers(0, 3, n), "order": order[rank]}
        rows |= {"a": draw.random(n), "c": draw.integers(-1, 2, n)}
        file, text = ShardFile(tmp_path / name, n, columns.dtypes), TextFile(tmp_path / f"{name}-text", ("x",))
        for column in columns.dtypes:
            file.write(column, 0, rows[column])
        text.write(pa.record_batch({"x": [f"{name} {i}" for i in range(n)]}))
        file.close()
        text.close()
        sides.append(merge.Side(tmp_path / name, tmp_path / f"{name}-text", np.bincount(user[rank], minlength=7)))
        everything.append(rows | {"user": user[rank], "x": np.array([f"{name} {i}" for i in range(n)])})
    maps = {"type": np.array([2, 0, 1, -1], np.int32), "c": np.array([1, 0, -1], np.int32)}
    merge.merge_shard(*sides, maps, columns, tmp_path / "both.arrow")
    for name, codes in maps.items():
        everything[0][name] = codes[everything[0][name]]
    both = {name: np.concatenate([rows[name] for rows in everything]) for name in everything[0]}
    keys = (both["order"], both["time"], both["user"]) if has_order else (both["time"], both["user"])
    rank = np.lexsort(keys)
    merged = map_shard(tmp_path / "both.arrow")
    for column in columns.dtypes:
        np.testing.assert_array_equal(merged[column], both[column][rank])
    assert map_text(tmp_path / "both-text.arrow")["x"].to_pylist() == both["x"][rank].tolist()


def test_a_store_says_what_it_is(tmp_path: Path):
    log = simple({"u": ["a"], "t": ["2024-05-01"]})
    grown = append(ingest(log, tmp_path / "s").path, log)
    assert isinstance(grown, Store)
    assert grown.manifest["counts"] == {"read": 2, "kept": 2, "rejected": {}}
