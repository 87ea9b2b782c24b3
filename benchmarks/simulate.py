"""Simulating a log: events a second, against bare drawing and writing of as many random rows, and memory."""

from __future__ import annotations

import multiprocessing
import resource
import shutil
import tempfile
import time
from pathlib import Path

from benchmarks.record import record, size_option

USERS = {"small": 20_000, "full": 1_000_000}


def simulate(n_users: int, folder: str) -> tuple[float, int, float]:
    """Seconds, events and peak memory (MB) of writing a world."""
    import pyarrow.dataset as ds

    from habitus.data.sources.simulator import ready_made, write

    start = time.perf_counter()
    write(ready_made("effects", n_users=n_users), folder, with_truth=False)
    seconds = time.perf_counter() - start
    n_events = ds.dataset(str(Path(folder) / "events")).count_rows()
    return seconds, n_events, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def bare(n_events: int, folder: str) -> float:
    """Seconds to draw and write as many rows of independent random columns, two million at a time."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from habitus.data.sources.simulator.draw import EVENT_SCHEMA

    draws = np.random.Generator(np.random.Philox(0))
    start = time.perf_counter()
    with pq.ParquetWriter(Path(folder) / "bare.parquet", EVENT_SCHEMA, compression="zstd") as writer:
        for first in range(0, n_events, 2_000_000):
            n = min(2_000_000, n_events - first)
            columns = [
                draws.integers(0, 1_000_000, n),
                pa.array(draws.integers(0, 10**13, n)).cast(pa.timestamp("us")),
                pa.DictionaryArray.from_arrays(draws.integers(0, 3, n, dtype=np.int32), ["visit", "purchase", "help"]),
                draws.integers(0, 1000, n, dtype=np.int32),
                np.round(np.exp(draws.standard_normal(n)), 2),
            ]
            writer.write_table(pa.Table.from_arrays([pa.array(c) for c in columns], schema=EVENT_SCHEMA))
    return time.perf_counter() - start


def main() -> None:
    """Measure both, each in a fresh process."""
    size = size_option(__doc__)
    folder = tempfile.mkdtemp(prefix="habitus-simulate-")
    try:
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            seconds, n_events, memory = pool.apply(simulate, (USERS[size], f"{folder}/world"))
            bare_seconds = pool.apply(bare, (n_events, folder))
    finally:
        shutil.rmtree(folder)
    note = f"{n_events:,} events of {USERS[size]:,} users, 420 days"
    record("simulate", "events per second", n_events / seconds, "events/s", note)
    record("simulate", "time / bare drawing and writing of as many rows", seconds / bare_seconds, "", note)
    record("simulate", "peak memory", memory, "MB", note)


if __name__ == "__main__":
    main()
