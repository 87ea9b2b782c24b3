"""Ingest of simulated events out of time order, against a bare DuckDB sort of the same file under the same limit."""

from __future__ import annotations

import multiprocessing
import resource
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.record import record, size_option

ROUNDS = 3
SIZES = {"small": ((20_000_000, "1GB"),), "full": ((20_000_000, "1GB"), (100_000_000, "4GB"))}
SCHEMA = {
    "name": "simulated",
    "time_zone": "UTC",
    "events": {
        "user": "user",
        "time": "time",
        "type": "type",
        "item": "item",
        "session": "session",
        "amounts": {"spend": {"value": "spend", "unit": "EUR"}},
    },
}


def write_events(n: int, file: str) -> None:
    """Write `n` events of n / 120 users over a year to Parquet, in no order; a million at a time."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    draw = np.random.Generator(np.random.Philox(0))
    types = np.array(["visit", "search", "cart", "purchase"])
    items = np.array([f"sku{i:06d}" for i in range(20_000)])
    columns = [("user", pa.int64()), ("time", pa.timestamp("us")), ("type", pa.string()), ("item", pa.string())]
    schema = pa.schema([*columns, ("session", pa.int64()), ("spend", pa.float64())])
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for start in range(0, n, 1_000_000):
            m = min(1_000_000, n - start)
            kind = np.searchsorted([0.6, 0.8, 0.92], draw.random(m)).astype(np.int32)
            item = (len(items) * draw.random(m) ** 3).astype(np.int32)
            user = draw.integers(0, n // 120, m)
            day = draw.integers(0, 365, m)
            batch = [
                pa.array(user * 7919 + 13),
                pa.array(1_640_995_200_000_000 + day * 86_400_000_000 + draw.integers(0, 86_400_000_000, m)).cast(
                    pa.timestamp("us")
                ),
                pa.DictionaryArray.from_arrays(kind, types).cast(pa.string()),
                pa.DictionaryArray.from_arrays(item, items).cast(pa.string()),
                pa.array(user * 365 + day),
                pa.array(np.where(kind == 3, np.round(draw.exponential(20, m), 2), 0.0)),
            ]
            writer.write_batch(pa.RecordBatch.from_arrays(batch, schema=schema))


def bare(file: str, limit: str, folder: str) -> dict[str, Any]:
    """Sort the file by user and time into zstd Parquet, by DuckDB alone."""
    import duckdb

    connection = duckdb.connect(config={"memory_limit": limit, "temp_directory": f"{folder}/spill"})
    connection.execute("SET enable_progress_bar = false")
    start = time.perf_counter()
    query = f"""COPY (SELECT * FROM read_parquet('{file}') ORDER BY "user", time)"""
    connection.execute(f"{query} TO '{folder}/sorted.parquet' (FORMAT parquet, COMPRESSION zstd)").fetchall()
    return _measured(start)


def ours(file: str, limit: str, folder: str) -> dict[str, Any]:
    """Ingest the file."""
    from habitus.data.ingest import ingest
    from habitus.data.log import EventLog
    from habitus.data.schema import Schema

    start = time.perf_counter()
    store = ingest(EventLog(Schema.parse(SCHEMA), file), f"{folder}/s.store", memory_limit=limit)
    return _measured(start) | {"counts": store.manifest["counts"], "n_events": store.n_events}


def _measured(start: float) -> dict[str, Any]:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "cpu": usage.ru_utime + usage.ru_stime, "peak": usage.ru_maxrss * 1024}


def alone(work: Any, *given: Any) -> Any:
    """Run in a fresh process, so that peak memory is that of this work."""
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        return pool.apply(work, given)


def side_by_side(n: int, limit: str, root: Path) -> None:
    """Measure both in turn, check that counts add up, record the ratio and the peaks."""
    from habitus.data.pipeline.engine import parse_bytes

    file = str(root / "events.parquet")
    alone(write_events, n, file)
    runs: dict[str, list[dict[str, Any]]] = {"bare": [], "ours": []}
    for _ in range(ROUNDS):
        for name, work in (("bare", bare), ("ours", ours)):
            folder = root / name
            folder.mkdir()
            runs[name].append(alone(work, file, limit, str(folder)))
            shutil.rmtree(folder)
    for run in runs["ours"]:
        counts = run["counts"]
        assert counts["read"] == n == counts["kept"] + sum(counts["rejected"].values()), counts
    _report(n, limit, parse_bytes(limit), runs["ours"], runs["bare"])


def _report(n: int, limit: str, n_bytes: int, ours: list[dict[str, Any]], bare: list[dict[str, Any]]) -> None:
    size, note = f"{n // 1_000_000} M events", f"limit {limit}, {len(ours)} rounds in turn"
    ratios = [mine["seconds"] / other["seconds"] for mine, other in zip(ours, bare, strict=True)]
    spread = f"{note}, {min(ratios):.2f} to {max(ratios):.2f}"
    record("ingest", f"{size}: ingest / bare DuckDB sort, wall", statistics.median(ratios), "", spread)
    for name, runs in (("ingest", ours), ("bare DuckDB sort", bare)):
        cpu, peak = statistics.median(run["cpu"] for run in runs), max(run["peak"] for run in runs)
        seconds = statistics.median(run["seconds"] for run in runs)
        record("ingest", f"{size}: {name}", seconds, "s", f"{note}, {cpu:.1f} CPU s")
        record("ingest", f"{size}: {name}, peak memory / limit", peak / n_bytes, "", f"{peak / 1e9:.2f} GB of {limit}")


def main() -> None:
    """20 M events under 1 GB; `--size full` adds 100 M under 4 GB."""
    for n, limit in SIZES[size_option(__doc__)]:
        root = Path(tempfile.mkdtemp(prefix="habitus-ingest-"))
        try:
            side_by_side(n, limit, root)
        finally:
            shutil.rmtree(root)


if __name__ == "__main__":
    main()
