"""What a whole-life vector costs: embed and one more day for histories of 10^2 to 10^5 events, and look-alike search.

Ratios of one run count; rates are of one thread. Histories lie over five years of weeks, of which 104 blocks and the
sums of the whole life are read.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import polars as pl
import torch

from benchmarks.record import record, size_option
from habitus.core.seeds import generator
from habitus.models.lurm import Lurm, LurmConfig, shape_of
from habitus.tasks.lurm_fit import encode
from habitus.tasks.similar_index import build_index
from habitus.tokens.counts import Counts, merge_counts, summed

N_INTERESTS = 20_000
HISTORIES = (100, 1_000, 10_000, 100_000)
WEEKS = 260


class Drawn:
    """What bags need of interests."""

    n = N_INTERESTS
    idf = np.ones(N_INTERESTS, np.float32)


def main() -> None:
    """Measure embed and append per user, then search."""
    size = size_option(__doc__)
    torch.set_num_threads(1)
    config = LurmConfig.parse({"size": "small", "start": "random"})
    model = Lurm(config, shape_of(config, N_INTERESTS)).eval()
    n_users = 64 if size == "full" else 16  # the same for all histories, as batches share their fixed cost
    found = {n: one_history(model, n, n_users) for n in HISTORIES}
    for n, (embed, append, state) in found.items():
        record("lurm_cost", f"embed, histories of {n:,} events", 1 / embed, "users/s", "1 thread, width 256")
        record("lurm_cost", f"a day of 3 events added and embedded, {n:,} events", 1 / append, "users/s", "1 thread")
        record("lurm_cost", f"counts kept per user, {n:,} events", state, "bytes")
    least, most = HISTORIES[0], HISTORIES[-1]
    for k, name in enumerate(("embed", "append")):
        record("lurm_cost", f"{name}: cost at {most:,} : cost at {least:,} events", found[most][k] / found[least][k])
        record("lurm_cost", f"{name}: cost at {most:,} : cost at 1,000 events", found[most][k] / found[1_000][k])
    search(1_000_000 if size == "full" else 50_000)


def one_history(model: Lurm, n_events: int, n_users: int) -> tuple[float, float, float]:
    """Give seconds per user of embed and of one more day, and bytes of counts per user."""
    rng = generator(0, "cost", n_events)
    user = np.repeat(np.arange(n_users), n_events)
    block = np.sort(rng.integers(0, WEEKS, (n_users, n_events)), axis=1).ravel()
    counts = counted(n_users, user, block, tastes(rng, n_users, n_events))
    users = np.arange(n_users)
    embed = best_of(lambda: encode(model, counts, Drawn, users)) / n_users
    day = np.repeat(users, 3)
    more = counted(n_users, day, np.full(len(day), WEEKS - 1), tastes(rng, n_users, 3))
    append = best_of(lambda: encode(model, merge_counts(counts, more), Drawn, users)) / n_users
    rows = [counts.block, counts.group, counts.interest, counts.n, counts.amount]
    rows += [counts.life.group, counts.life.interest, counts.life.n, counts.life.amount]
    return embed, append, sum(column.nbytes for column in rows) / n_users


def tastes(rng: np.random.Generator, n_users: int, n_events: int) -> np.ndarray:
    """Give interests of users who have 300 each, some far more often than others."""
    own = rng.integers(1, N_INTERESTS, (n_users, 300))
    slot = np.floor(rng.random((n_users, n_events)) ** 2 * 300).astype(np.int64)
    return np.take_along_axis(own, slot, axis=1).ravel()


def counted(n_users: int, user: np.ndarray, block: np.ndarray, interest: np.ndarray) -> Counts:
    """Sum events to counts."""
    zero = np.zeros(len(user), np.int64)
    return summed("cost", n_users, user, block.astype(np.int32), zero, interest, zero + 1, zero)


def best_of(work: Any, times: int = 3) -> float:
    """Give the seconds of the fastest of some runs."""
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
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
