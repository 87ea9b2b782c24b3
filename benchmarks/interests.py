"""Interests at size: the codebook of 10^5 interests over 10^6 items, what an append costs, and three real logs.

The codebook is fitted on unit vectors around planted topics. Ratios: time at n over time at n / 4 (a quadratic step
would give 16), and the kept counts after an append over a count of everything. Seconds are CPU seconds, of appends the
least of three days. With --data DIR, the real logs below it.

    python -m benchmarks.interests --size full
    python -m benchmarks.interests --only real --data DIR
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.record import record
from habitus.core.errors import HabitusError
from habitus.data.append import append
from habitus.data.calendar import to_day
from habitus.data.ingest import ingest
from habitus.data.log import EventLog
from habitus.data.schema import Schema
from habitus.data.sources.complete_journey import complete_journey
from habitus.data.sources.movielens import movielens_100k
from habitus.data.sources.online_retail import online_retail
from habitus.data.store import Store
from habitus.tasks.interests import learn_vectors
from habitus.tokens.codebook import fit_codebook
from habitus.tokens.counts import count_interests
from habitus.tokens.interest_fit import items_until, train_counts
from habitus.tokens.interests import InterestConfig, Interests, TowerConfig, fit_interests
from habitus.tokens.item_content import ContentEncoder
from habitus.tokens.stored_counts import derive_counts, keep_counts

NAME = "interests"
D = 64


def unit_vectors(n: int, n_topics: int, seed: int = 0) -> np.ndarray:
    """Unit vectors around random topics, float32 [n, 64]."""
    draw = np.random.default_rng(seed)
    topics = draw.standard_normal((n_topics, D), np.float32)
    found = topics[draw.integers(0, n_topics, n)]
    found += 0.5 * draw.standard_normal((n, D), np.float32)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    return found


def codebook(n_items: int, n_interests: int) -> None:
    """Time and memory of the codebook, at a quarter of the size and at the whole."""
    seconds = []
    for part in (4, 1):
        vectors = unit_vectors(n_items // part, n_interests // part // 2)
        start = time.process_time()
        book, assigned = fit_codebook(vectors, n_interests // part, seed=0)
        seconds.append(time.process_time() - start)
        label = f"codebook, {len(vectors):,} items, {len(book.centres):,} interests"
        record(NAME, f"{label}: time", seconds[-1], "s")
        sizes = np.bincount(assigned, minlength=len(book.centres))
        record(NAME, f"{label}: largest over mean", sizes.max() / sizes.mean(), "")
        record(NAME, f"{label}: empty", float((sizes == 0).sum()), "interests")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    record(NAME, f"codebook, {n_items:,} items, {n_interests:,} interests: peak memory of the process", peak, "GiB")
    record(NAME, "codebook: time at four times the items and interests, over time", seconds[1] / seconds[0])
    start = time.process_time()
    book.assign(vectors[:100_000])
    record(NAME, "codebook: placing new items", 100_000 / (time.process_time() - start), "items/s")


def table(n_users: int, n_each: int, n_items: int, first_day: int, n_days: int, seed: int) -> pl.DataFrame:
    draw = np.random.default_rng(seed)
    n = n_users * n_each
    minutes = draw.integers(first_day * 1440, (first_day + n_days) * 1440, n)
    times = np.datetime64("2020-01-01", "us") + minutes * np.timedelta64(60_000_000, "us")
    item = (n_items * draw.random(n) ** 3).astype(np.int64)
    return pl.DataFrame({"u": np.repeat(np.arange(n_users), n_each), "t": times, "i": item}).with_columns(
        pl.col("i").cast(pl.String)
    )


def appends(n_events: int) -> None:
    """A day appended to stores of equal size whose users have 10^2 .. 10^5 events each."""
    schema = Schema.parse({"events": {"user": "u", "time": "t", "type": {"constant": "x"}, "item": "i"}})
    config = InterestConfig(way="item")
    baseline = None
    for history in (100, 1_000, 10_000, 100_000):
        n_users = max(n_events // history, 1)
        with tempfile.TemporaryDirectory() as folder:
            store = ingest(EventLog(schema, table(n_users, history, 5_000, 0, 730, 0)), Path(folder) / "s")
            interests = fit_interests(store, config, until=store.last_day)
            start = time.process_time()
            counts = keep_counts(store, interests)
            whole = time.process_time() - start
            spent: list[float] = []

            def timed(change, spent: list[float] = spent):
                start = time.process_time()
                found = derive_counts(change)
                spent.append(time.process_time() - start)
                return found

            n_each = max(20_000 // n_users, 1)
            for k in range(3):
                day = table(n_users, n_each, 5_000, 731 + k, 1, k)
                append(store.path, EventLog(schema, day), derive=timed)
            cost = min(spent) / (n_users * n_each)
            label = f"append, {history:,} events per user"
            record(NAME, f"{label}: counts of one day", 1e6 * cost, "us per new event")
            record(NAME, f"{label}: bytes of counts per user", _bytes(store.path / "interests") / n_users, "bytes",
                   f"{len(counts):,} rows")  # fmt: skip
            record(NAME, f"{label}: counting all over adding a day", whole / min(spent))
            baseline = baseline or cost
            record(NAME, f"{label}: cost per new event over that at 100", cost / baseline)


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def logs(data: Path) -> dict[str, tuple[Callable[[], EventLog], str | None, dict[str, InterestConfig]]]:
    """Real logs: how to read, the train cut-off (None: the last day), and the ways to try."""
    ways = {
        "clusters": InterestConfig(way="cluster"),
        "clusters of content": InterestConfig(way="cluster", n=256, tower=TowerConfig(has_id=False)),
    }
    fields = {"product categories": ("product_category",), "departments": ("department",)}
    journey = {label: InterestConfig(way="field", fields=names) for label, names in fields.items()}
    return {
        "complete_journey": (
            lambda: complete_journey(data / "complete_journey"), "2017-09-30",
            journey | {"products": InterestConfig(way="item")} | ways,
        ),
        "ml_100k": (lambda: movielens_100k(data / "ml_100k"), None,
                    {"films": InterestConfig(way="item")} | ways),
        "online_retail": (online_retail, "2011-09-30", {"items": InterestConfig(way="item")} | ways),
    }  # fmt: skip


def real(data: Path, chosen: str | None, ways: list[str] | None = None, steps: int | None = None) -> None:
    """Sizes of interests, shares and the cold-item check on real logs, where their files are."""
    for name, (make, until, configs) in logs(data).items():
        if chosen not in (None, name):
            continue
        with tempfile.TemporaryDirectory() as folder:
            try:
                log = make()
            except HabitusError as cause:
                print(f"  {name}: skipped, {cause}")
                continue
            store = ingest(log, Path(folder) / "s")
            day = store.last_day if until is None else to_day(until)
            for label, config in configs.items():
                if ways and label not in ways:
                    continue
                if steps is not None:
                    config = config.model_copy(update={"tower": config.tower.model_copy(update={"steps": steps})})
                start = time.process_time()
                vectors, encoder = None, None
                if config.way == "cluster":
                    vectors, encoder, _ = learn_vectors(store, config, until=day, seed=0)
                interests = fit_interests(store, config, until=day, seed=0, vectors=vectors, content=encoder)
                seconds = time.process_time() - start
                figures = interests.figures
                sizes = ", ".join(f"{key} {value}" for key, value in figures["items_per_interest"].items())
                label = f"{name}, {label}" + (f", {steps} steps" if steps and config.way == "cluster" else "")
                record(NAME, f"{label}: interests", interests.n, "", f"items per interest: {sizes}")
                record(NAME, f"{label}: fit", seconds, "s")
                record(NAME, f"{label}: largest over mean", figures["largest_over_mean"])
                record(NAME, f"{label}: share of train events in the top 10", figures["share_of_top_10"])
                record(NAME, f"{label}: share of train events in id 0", figures["share_of_0"])
                counts = count_interests(store, interests)
                share = counts.n[counts.interest == 0].sum() / counts.n.sum()
                record(NAME, f"{label}: share of all events in id 0", float(share))
                if vectors is not None and encoder is not None:
                    cold(label, store, config, day, interests, encoder)


def cold(
    name: str, store: Store, config: InterestConfig, until: int, interests: Interests, encoder: ContentEncoder
) -> None:
    """Hide a tenth of the items with history: how many get by content the interest that their history gives?

    Once inside one fit (content alone against content and id), and once strictly: a second tower and codebook that
    never saw them. The interests of two fits are matched through the items that both saw; items that were not hidden
    show how far two fits agree at all.
    """
    draw = np.random.default_rng(0)
    n_train = train_counts(store, until)
    enough = np.flatnonzero(n_train >= config.tower.min_events)
    hidden = np.sort(draw.permutation(enough)[: len(enough) // 10])
    table = items_until(store, until, n_train)
    vectors, there = encoder.encode(table[hidden])
    asked = hidden[there]
    with_history = interests.of_item[asked]
    assert interests.codebook is not None
    by_content = interests.codebook.assign(vectors[there]) + 1
    sizes = np.bincount(interests.of_item[n_train > 0]) / (n_train > 0).sum()
    chance = float((sizes**2).sum())
    note = f"{len(asked)} items, chance {chance:.4f}"
    record(NAME, f"{name}: cold items, same interest, one fit", float((by_content == with_history).mean()), "", note)
    other, frozen, _ = learn_vectors(store, config, until=until, seed=0, hidden=hidden)
    kept = np.setdiff1d(np.flatnonzero((n_train > 0) & (np.linalg.norm(other, axis=1) > 0)), hidden)
    book, cluster = fit_codebook(other[kept], interests.n - 1, seed=0)
    pairs, n = np.unique(np.stack([cluster, interests.of_item[kept]], 1), axis=0, return_counts=True)
    best = pairs[np.lexsort((-n, pairs[:, 0]))]
    match = dict(zip(*(best[np.unique(best[:, 0], return_index=True)[1]].T.tolist()), strict=True))
    found = np.array([match.get(c, 0) for c in book.assign(frozen.encode(table[asked])[0]).tolist()])
    record(NAME, f"{name}: cold items, same interest, two fits", float((found == with_history).mean()), "", note)
    seen = np.array([match[c] for c in cluster.tolist()])
    record(NAME, f"{name}: items not hidden, same interest, two fits", float((seen == interests.of_item[kept]).mean()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("small", "full"), default="small")
    parser.add_argument("--only", choices=("codebook", "append", "real"))
    parser.add_argument("--data", type=Path, help="folder of the real logs")
    parser.add_argument("--log", help="one of the real logs")
    parser.add_argument("--ways", nargs="*", help="some of the ways to try, by name")
    parser.add_argument("--steps", type=int, help="of the item tower")
    options = parser.parse_args()
    is_full = options.size == "full"
    parts: dict[str, Callable[[], None]] = {
        "codebook": lambda: codebook(1_000_000 if is_full else 100_000, 100_000 if is_full else 10_000),
        "append": lambda: appends(2_000_000 if is_full else 200_000),
    }
    if options.data is not None:
        parts["real"] = lambda: real(options.data, options.log, options.ways, options.steps)
    for name, run in parts.items():
        if options.only in (None, name):
            run()


if __name__ == "__main__":
    main()
