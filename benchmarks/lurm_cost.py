"""What a whole-life vector costs: embed and one more day for histories of 10^2 to 10^5 events, and look-alike search.

Ratios of one run count; rates are of one thread. Histories lie over five years of weeks, of which 104 blocks and the
sums of the whole life are read. An append lays a day's counts beside those there are (`tokens.layers`); its cost is the
mean over so many days that layers are summed on the way. Seconds are CPU seconds, as the machine may be shared.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from benchmarks.record import record
from habitus.core.seeds import generator
from habitus.models.lurm import Lurm, LurmConfig, shape_of
from habitus.tasks.lurm_fit import encode
from habitus.tasks.similar_index import build_index
from habitus.tokens.counts import BLOCK_COLUMNS, LIFE_COLUMNS, Counts, summed
from habitus.tokens.layers import Layers

N_INTERESTS = 20_000
HISTORIES = (100, 1_000, 10_000, 100_000)
WEEKS = 260
DAYS = 60
PTLS = (100, 1_000, 10_000)


class Drawn:
    """What bags need of interests."""

    n = N_INTERESTS
    idf = np.ones(N_INTERESTS, np.float32)


def main() -> None:
    """Measure embed and append per user, then search."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=("small", "full"), default="small")
    parser.add_argument("--only", choices=("lives", "search"), default=None)
    options = parser.parse_args()
    size = options.size
    if options.only != "search":
        lives(64 if size == "full" else 16)
    if options.only != "lives":
        search(1_000_000 if size == "full" else 50_000)


def lives(n_users: int) -> None:
    """Measure histories of every length, `n_users` at a time, as batches share their fixed cost."""
    torch.set_num_threads(1)
    config = LurmConfig.parse({"size": "small", "start": "random"})
    model = Lurm(config, shape_of(config, N_INTERESTS)).eval()
    found = {n: one_history(model, n, n_users) for n in HISTORIES}
    n = f"{n_users} users at a time, 1 thread, width 256"
    for events, (embed, append, both, state) in found.items():
        record("lurm_cost", f"embed, histories of {events:,} events", 1 / embed, "users/s", n)
        record("lurm_cost", f"a day of 3 events counted and added, {events:,} events", 1 / append, "users/s", n)
        record("lurm_cost", f"a day of 3 events added and embedded, {events:,} events", 1 / both, "users/s", n)
        record("lurm_cost", f"counts kept per user, {events:,} events", state, "bytes")
    least, most = HISTORIES[0], HISTORIES[-1]
    for k, name in enumerate(("embed", "append", "append and embed")):
        for below in (least, 1_000):
            ratio = found[most][k] / found[below][k]
            record("lurm_cost", f"{name}: cost at {most:,} : cost at {below:,} events", ratio, "", n)
    beside_ptls({n: cost[0] for n, cost in found.items()}, n_users)


def beside_ptls(ours: dict[int, float], n_users: int) -> None:
    """Set embed beside the inference of ptls' CoLES-GRU of the same width, run by HABITUS_PTLS, its own python."""
    python = os.environ.get("HABITUS_PTLS")
    if not python:
        print("  ptls skipped: no HABITUS_PTLS, the python of an environment with pytorch-lifestream")
        return
    asked = [str(value) for value in (n_users, 256, N_INTERESTS, *PTLS)]
    script = str(Path(__file__).with_name("_ptls_coles.py"))
    done = subprocess.run([python, "-W", "ignore", script, *asked], capture_output=True, text=True, check=True)
    theirs = {int(n): seconds for n, seconds in json.loads(done.stdout.splitlines()[-1]).items()}
    note = f"{n_users} users at a time, 1 thread, width 256, one field"
    for n, seconds in theirs.items():
        record("lurm_cost", f"ptls CoLES-GRU, histories of {n:,} events", 1 / seconds, "users/s", note)
        record("lurm_cost", f"ptls CoLES-GRU : LURM, CPU time of a user of {n:,} events", seconds / ours[n], "", note)


def one_history(model: Lurm, n_events: int, n_users: int) -> tuple[float, float, float, float]:
    """Give CPU seconds per user of embed, of one more day, of both, and bytes of counts per user."""
    rng = generator(0, "cost", n_events)
    user = np.repeat(np.arange(n_users), n_events)
    block = np.sort(rng.integers(0, WEEKS, (n_users, n_events)), axis=1).ravel()
    layers = Layers((counted(n_users, user, block, tastes(rng, n_users, n_events)),))
    users = np.arange(n_users)
    embed = best_of(lambda: encode(model, layers, Drawn, users)) / n_users
    days = [tastes(rng, n_users, 3) for _ in range(DAYS)]
    began = time.process_time()
    for day in days:
        layers = layers.append(counted(n_users, np.repeat(users, 3), np.full(3 * n_users, WEEKS - 1), day))
    append = (time.process_time() - began) / DAYS / n_users
    both = append + best_of(lambda: encode(model, layers, Drawn, users)) / n_users
    state = 0
    for part in layers.parts:
        state += sum(getattr(part, name).nbytes for name in BLOCK_COLUMNS)
        state += sum(getattr(part.life, name).nbytes for name in LIFE_COLUMNS)
    return embed, append, both, state / n_users


def tastes(rng: np.random.Generator, n_users: int, n_events: int) -> np.ndarray:
    """Give interests of users who have 300 each, some far more often than others."""
    own = rng.integers(1, N_INTERESTS, (n_users, 300))
    slot = np.floor(rng.random((n_users, n_events)) ** 2 * 300).astype(np.int64)
    return np.take_along_axis(own, slot, axis=1).ravel()


def counted(n_users: int, user: np.ndarray, block: np.ndarray, interest: np.ndarray) -> Counts:
    """Sum events to counts."""
    zero = np.zeros(len(user), np.int64)
    return summed("cost", n_users, user, block.astype(np.int32), zero, interest, zero + 1, zero)


def best_of(work: Any, times: int = 12) -> float:
    """Give the CPU seconds of the cheapest of some runs."""
    seconds = []
    for _ in range(times):
        began = time.process_time()
        work()
        seconds.append(time.process_time() - began)
    return min(seconds)


def search(n: int) -> None:
    """Look-alikes among n vectors of width 64 in 500 groups: recall and rate of an index against exact."""
    import tempfile

    rng = generator(0, "search")
    value = rng.normal(size=(500, 64))[rng.integers(0, 500, n)] + 0.7 * rng.normal(size=(n, 64))
    value = (value / np.linalg.norm(value, axis=1, keepdims=True)).astype(np.float32)
    ids = np.char.add("u", np.arange(n).astype(str))
    table = pl.DataFrame({"user": ids, "flat": pl.Series(value, dtype=pl.Array(pl.Float32, 64))})
    with tempfile.TemporaryDirectory() as folder:
        facts = build_index(table, folder + "/index", kind="ivf")
    note = f"{n:,} vectors of 64 numbers, nprobe {facts['effort']}, built in {facts['build_seconds']:.0f} s, 1 thread"
    record("lurm_cost", "look-alikes: recall@100 of ivf", facts["recall"], "", note)
    ratio = facts["queries_per_second"] / facts["exact_queries_per_second"]
    record("lurm_cost", "look-alikes: query rate, ivf : exact", ratio, "", note)


if __name__ == "__main__":
    main()
