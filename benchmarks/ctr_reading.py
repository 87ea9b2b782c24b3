"""The four Taobao files at full number of impressions, against bare DuckDB that sorts the two large ones.

A world is drawn and then repeated under other users until it has the wanted rows, since what is measured is reading.
`--size full`: 26 M impressions and 201 M behaviours; the published log has 723 M. Needs about 30 GB of disk.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.ingest import _measured, alone
from benchmarks.record import record, size_option

LIMIT = "4GB"
SIZES = {"small": (6_000, 2), "full": (94_500, 12)}  # users drawn, copies
EVENTS = 177.0
TYPES = {
    "raw_sample": ("user", "time_stamp, adgroup_id, pid, nonclk, clk"),
    "behavior_log": ("user", "time_stamp, btag, cate, brand"),
    "user_profile": ("userid", "* EXCLUDE (userid)"),
}


def write_files(n_users: int, n_copies: int, folder: str) -> None:
    """Draw a world and repeat it under other users."""
    import duckdb

    from habitus.data.sources.taobao_ad_world import write_taobao_ad_world

    once = write_taobao_ad_world(f"{folder}/once", n_users=n_users, n_events=EVENTS)
    raw = Path(folder, "raw")
    raw.mkdir()
    connection = duckdb.connect(config={"memory_limit": "2GB", "preserve_insertion_order": False})
    connection.execute("SET enable_progress_bar = false")
    for name, (key, rest) in TYPES.items():
        sql = f"""SELECT "{key}" + {n_users} * copy AS "{key}", {rest} FROM read_csv('{once / name}.csv',
            header=true, normalize_names=false), range({n_copies}) AS t(copy)"""
        connection.execute(f"COPY ({sql}) TO '{raw / name}.csv' (HEADER, DELIMITER ',')").fetchall()
    shutil.copy(once / "ad_feature.csv", raw / "ad_feature.csv")
    shutil.rmtree(once)


def bare(folder: str) -> dict[str, Any]:
    """Sort both files by user and time into Parquet, by DuckDB alone, columns typed, nothing checked or indexed."""
    import duckdb

    connection = duckdb.connect(config={"memory_limit": LIMIT, "temp_directory": f"{folder}/spill"})
    connection.execute("SET enable_progress_bar = false")
    start = time.perf_counter()
    for name in ("raw_sample", "behavior_log"):
        query = f"""COPY (SELECT * FROM read_csv('{folder}/raw/{name}.csv', header=true) ORDER BY "user", time_stamp)"""
        connection.execute(f"{query} TO '{folder}/{name}.parquet' (FORMAT parquet, COMPRESSION zstd)").fetchall()
        Path(folder, f"{name}.parquet").unlink()
    return _measured(start)


def ours(folder: str) -> dict[str, Any]:
    """Read all four files, open the result, and count."""
    from habitus.data.sources.taobao_ad import read_taobao_ad

    start = time.perf_counter()
    shown = read_taobao_ad(f"{folder}/raw", f"{folder}/out", memory_limit=LIMIT)
    return _measured(start) | {"n_impressions": len(shown), "n_events": shown.log.n_events}


def look_up(folder: str) -> dict[str, Any]:
    """Find the history of every impression, then make tokens of 50 runs for two million of them."""
    import numpy as np

    from habitus.apps.ctr.examples import tokens
    from habitus.apps.ctr.features import make_examples
    from habitus.data.history import History
    from habitus.data.sources.taobao_ad import open_taobao_ad

    shown = open_taobao_ad(f"{folder}/out")
    start = time.perf_counter()
    history = History.before(shown.log, shown.user, shown.time)
    found = _measured(start) | {"n": len(history.hist_end)}
    part = shown.rows(np.arange(min(len(shown), 500_000)))
    del shown, history
    start = time.perf_counter()
    train = make_examples(part, features="static")["train"]
    found["static"] = len(part) / (time.perf_counter() - start)
    rows = np.random.default_rng(0).integers(0, len(train), 40 * 8192).reshape(40, 8192)
    start = time.perf_counter()
    for batch in rows:
        tokens(train, batch, n_tokens=50)
    return found | {"tokens": rows.size / (time.perf_counter() - start)}


def main() -> None:
    """A small world; `--size full` for 26 M impressions and 201 M behaviours."""
    from habitus.data.pipeline.engine import parse_bytes

    n_users, n_copies = SIZES[size_option(__doc__)]
    root = Path(tempfile.mkdtemp(prefix="habitus-ctr-"))
    try:
        alone(write_files, n_users, n_copies, str(root))
        n_bytes = sum(path.stat().st_size for path in (root / "raw").iterdir())
        other, mine = alone(bare, str(root)), alone(ours, str(root))
        stored = sum(path.stat().st_size for path in (root / "out").iterdir())
        asked = alone(look_up, str(root))
    finally:
        shutil.rmtree(root)
    n = mine["n_impressions"] + mine["n_events"]
    size = f"{mine['n_impressions'] / 1e6:.1f} M impressions, {mine['n_events'] / 1e6:.1f} M behaviours"
    note = f"one run, limit {LIMIT}, {n_bytes / 1e9:.1f} GB of CSV, {stored / 1e9:.1f} GB written"
    record("ctr_reading", f"{size}: read / bare DuckDB sort, wall", mine["seconds"] / other["seconds"], "", note)
    for name, run in (("read", mine), ("bare DuckDB sort", other)):
        record("ctr_reading", f"{size}: {name}", n / run["seconds"] / 1e6, "M rows/s", f"{run['seconds']:.0f} s")
        peak = f"{run['peak'] / 1e9:.2f} GB of {LIMIT}"
        record("ctr_reading", f"{size}: {name}, peak memory / limit", run["peak"] / parse_bytes(LIMIT), "", peak)
    found = asked["n"] / asked["seconds"] / 1e6
    record("ctr_reading", f"{size}: histories found", found, "M/s", f"peak {asked['peak'] / 1e9:.2f} GB")
    record(
        "ctr_reading", f"{size}: tokens of 50 runs", asked["tokens"], "impressions/s", "batches of 8,192, random rows"
    )


if __name__ == "__main__":
    main()
