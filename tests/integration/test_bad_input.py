"""Bad data: each kind ends in one clear error of one screen, or in counted rejects, with nothing half-written."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from habitus.core.errors import DiskError, HabitusError, IngestError, SchemaError, SourceError
from habitus.data.append import append
from habitus.data.ingest import ingest
from habitus.data.log import EventLog
from habitus.data.schema import Schema

LEAST = {"user": "user", "time": "time", "type": {"constant": "visit"}}


def good_rows(n: int = 200) -> pl.DataFrame:
    draw = np.random.default_rng(0)
    times = np.datetime64("2024-05-01", "us") + draw.integers(0, 10**12, n).astype("timedelta64[us]")
    return pl.DataFrame({"user": draw.integers(0, 20, n), "time": times, "spend": draw.random(n), "id": np.arange(n)})


def log(rows: Any, *, max_rejected: float = 0.01, zone: str = "UTC", **events: Any) -> EventLog:
    return EventLog(Schema.parse({"max_rejected": max_rejected, "time_zone": zone, "events": LEAST | events}), rows)


def with_nulls(column: str, n: int) -> pl.DataFrame:
    return good_rows().with_columns(
        pl.when(pl.int_range(pl.len()) < n).then(None).otherwise(pl.col(column)).alias(column)
    )


def file(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def truncated_parquet(path: Path) -> Path:
    good_rows().write_parquet(path)
    return file(path, path.read_bytes()[:-200])


def broken_parquet(path: Path) -> Path:
    """Data pages overwritten, footer intact: the damage shows only while reading."""
    good_rows(50_000).write_parquet(path)
    content = bytearray(path.read_bytes())
    content[1_000:200_000] = b"\0" * 199_000
    return file(path, bytes(content))


def empty_parquet(path: Path) -> Path:
    good_rows(0).write_parquet(path)
    return path


SAMPLE = good_rows()
BAD = {
    "missing column": (lambda p: log(SAMPLE, user="usr"), SchemaError, "did you mean 'user'"),
    "missing column in an expression": (
        lambda p: log(SAMPLE, type={"sql": "CASE WHEN spnd > 0 THEN 'a' ELSE 'b' END"}), SchemaError, "spnd"),
    "malformed expression": (lambda p: log(SAMPLE, type={"sql": "CASE WHEN"}), SchemaError, "events.type"),
    "expression that fails": (lambda p: log(SAMPLE, type={"sql": "CAST('x' AS INT)"}), SchemaError, "TRY_CAST"),
    "text in arithmetic": (
        lambda p: log(file(p / "e.csv", "user,time,n\na,2024-05-01,2\n"), amounts={"x": {"value": {"sql": "n * n"}}}),
        SchemaError, r"columns = \{ NAME"),
    "user of floats": (lambda p: log(SAMPLE, user="spend"), SchemaError, "whole numbers"),
    "user of lists": (
        lambda p: log(SAMPLE.with_columns(user=pl.concat_list("user"))), SchemaError, "events.user"),
    "time of floats": (lambda p: log(SAMPLE, time="spend"), SchemaError, "a timestamp"),
    "time of whole numbers without a unit": (lambda p: log(SAMPLE, time="id"), SchemaError, "time_unit"),
    "amount of times": (lambda p: log(SAMPLE, amounts={"x": {"value": "time"}}), SchemaError, "numbers"),
    "item of structs": (
        lambda p: log(SAMPLE.with_columns(i=pl.struct("id")), item="i"), SchemaError, "one plain value"),
    "unknown time zone": (lambda p: log(SAMPLE, zone="Europe/Berlni"), SchemaError, "did you mean 'Europe/Berlin'"),
    "column written after the fact": (
        lambda p: log(SAMPLE, amounts={"x": {"value": "spend"}}, as_of_end=["spend"]), SchemaError, "as_of_end"),
    "null users": (lambda p: log(with_nulls("user", 20)), IngestError, "no user: 20"),
    "all users null": (lambda p: log(with_nulls("user", 200), max_rejected=1.0), IngestError, "200 of 200"),
    "null times": (lambda p: log(with_nulls("time", 20)), IngestError, "no time: 20"),
    "unparsable times": (
        lambda p: log(SAMPLE.with_columns(time=pl.lit("soon"))), IngestError, "time cannot be read: 200"),
    "times after the stated range": (
        lambda p: log(SAMPLE, time_range=["2024-05-01", "2024-05-05"]), IngestError, "time outside the stated range"),
    "times beyond the calendar": (
        lambda p: log(SAMPLE.with_columns(time=pl.lit(2**62)), time_unit="us"), IngestError, "cannot be read: 200"),
    "duplicate keys": (
        lambda p: log(pl.concat([SAMPLE, SAMPLE[:50]]), key=["id"]), IngestError, "duplicate key: 50"),
    "amounts outside their bounds": (
        lambda p: log(SAMPLE, amounts={"x": {"value": "spend", "max": 0.5}}), IngestError, "x above its maximum"),
    "no file": (lambda p: log(p / "no" / "events.parquet"), SourceError, "no such file"),
    "empty file": (lambda p: log(file(p / "e.parquet", b"")), SourceError, "empty file"),
    "empty CSV with a header": (lambda p: log(file(p / "e.csv", "user,time\n")), IngestError, "0 rows"),
    "Parquet without rows": (lambda p: log(empty_parquet(p / "e.parquet")), IngestError, "0 rows"),
    "truncated Parquet": (lambda p: log(truncated_parquet(p / "e.parquet")), SourceError, r"e\.parquet"),
    "damaged Parquet": (lambda p: log(broken_parquet(p / "e.parquet")), SourceError, r"e\.parquet"),
    "text called Parquet": (lambda p: log(file(p / "e.parquet", "user,time\n" * 99)), SourceError, r"e\.parquet"),
    "CSV of broken lines": (
        lambda p: log(file(p / "e.csv", "user,time\n" + "a,2024-05-01,3\n" * 9)), IngestError, "line 2: broken line"),
    "CSV of another encoding": (
        lambda p: log(file(p / "e.csv", "user,time,Ort\na,2024-05-01,München\n".encode("latin-1"))), HabitusError, "."),
    "no shards": (lambda p: log(SAMPLE), HabitusError, "at least 1 shard"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_bad_data_is_one_clear_error_and_nothing_is_written(tmp_path: Path, kind: str):
    make, error, words = BAD[kind]
    (tmp_path / "out").mkdir()
    (tmp_path / "raw").mkdir()
    with pytest.raises(error, match=words) as caught:
        ingest(make(tmp_path / "raw"), tmp_path / "out" / "s.store", n_shards=0 if kind == "no shards" else None)
    text = str(caught.value)
    assert text.startswith("expected ")
    assert "\nfound " in text
    assert len(text.splitlines()) <= 24
    assert len(text) < 2_500
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    "kind", ["missing column", "time of floats", "null users", "no file", "damaged Parquet", "CSV of broken lines"]
)
def test_bad_data_leaves_a_store_it_would_be_appended_to_as_it_was(tmp_path: Path, kind: str):
    make, _, _ = BAD[kind]
    (tmp_path / "raw").mkdir()
    store = ingest(log(SAMPLE), tmp_path / "s.store")
    before = {path: path.read_bytes() for path in store.path.rglob("*") if path.is_file()}
    with pytest.raises(HabitusError):
        append(store.path, make(tmp_path / "raw"))
    assert {path: path.read_bytes() for path in store.path.rglob("*") if path.is_file()} == before


def test_a_few_bad_rows_are_counted_and_kept_apart(tmp_path: Path):
    lines = ["user,time,spend", *(f"u{i % 7},2024-05-{i % 28 + 1:02d},{i}" for i in range(500))]
    lines[10], lines[20], lines[30], lines[40] = "u1,2024-05-01", ",2024-05-01,1", "u1,someday,1", "u1,2024-05-01,much"
    events = file(tmp_path / "e.csv", "\n".join(lines) + "\n")
    store = ingest(log(events, amounts={"spend": {"value": "spend"}}), tmp_path / "s.store")
    assert store.manifest["counts"] == {
        "read": 500,
        "kept": 496,
        "rejected": {
            "broken line: missing columns": 1,
            "no user": 1,
            "spend cannot be read": 1,
            "time cannot be read": 1,
        },
    }
    assert store.rejected.height == 4
    assert set(store.rejected["file"]) == {str(events)}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB, where this user may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = os.getuid() == 0 and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], capture_output=True
    )
    if not mounted or mounted.returncode:
        pytest.skip("needs the right to mount a small tmpfs")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path, small_disk: Path):
    with pytest.raises(DiskError, match="room to write") as caught:
        ingest(log(good_rows(300_000)), small_disk / "s.store")
    assert len(str(caught.value).splitlines()) <= 12
    assert list(small_disk.iterdir()) == []
    store = ingest(log(good_rows(20_000)), small_disk / "s.store")
    before = {path: path.read_bytes() for path in store.path.rglob("*") if path.is_file()}
    with pytest.raises(DiskError, match="room to write"):
        append(store.path, log(good_rows(200_000)))
    assert {path: path.read_bytes() for path in store.path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
def test_a_write_that_fails_is_a_disk_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int):
    from habitus.data import shards

    def fail(*given: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(shards.os, "pwrite", fail)
    with pytest.raises(DiskError):
        ingest(log(SAMPLE), tmp_path / "s.store")
    assert list(tmp_path.iterdir()) == []


def test_too_little_memory_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from habitus.data.pipeline import engine

    monkeypatch.setattr(engine, "RESERVE", engine.SMALLEST - 3_000_000)
    with pytest.raises(IngestError, match="memory_limit"):
        ingest(
            log(good_rows(300_000), text={"x": {"sql": "repeat(CAST(id AS VARCHAR), 20)"}}),
            tmp_path / "s",
            memory_limit="500MB",
        )
    assert list(tmp_path.iterdir()) == []
