"""The loader of events: events a second, padding, and what a model can take; then a catalogue of a million items."""

from __future__ import annotations

import resource
import tempfile
import time as clock
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.record import record, size_option
from habitus.data.ingest import ingest
from habitus.data.log import EventLog
from habitus.data.schema import Schema
from habitus.data.store import Store
from habitus.models.sasrec import SASRec, SASRecConfig
from habitus.tasks.train_events import target_counts
from habitus.tokens.event_loader import EventInputs, EventLoader, prepare_events
from habitus.tokens.event_split import EventSplit
from habitus.tokens.events import EventSpec, EventTokenConfig, fit_event_spec
from habitus.training.fit import TrainingConfig, fit
from habitus.training.objectives.next_event import NextEvent, NextEventConfig

SPLIT = EventSplit()
BUDGET = 4096  # places of a batch


def main() -> None:
    """Measure on drawn logs; ratios are what to quote."""
    n_users, n_rich = (20_000, 100_000) if size_option(__doc__) == "small" else (200_000, 300_000)
    with tempfile.TemporaryDirectory() as folder:
        store = drawn_log(n_users, 12_000, Path(folder) / "shop.store")
        for name, tokens in {"item": {"fields": ("item",)}, "all fields": {}}.items():
            spec = fit_event_spec(store, EventTokenConfig.parse({"length": 50, **tokens}), SPLIT)
            inputs = prepare_events(store, spec, SPLIT, "train")
            speed = served(inputs, name)
            if name == "item":
                found = trained(inputs, spec, Path(folder) / "run", "full", "12,000 items, full softmax")
                record("events_loader", "events served : events trained, item", speed / found)
        rich = drawn_log(n_rich, 1_000_000, Path(folder) / "rich.store", even=True)
        million(rich, Path(folder) / "rich")


def drawn_log(n_users: int, n_items: int, folder: Path, *, even: bool = False) -> Store:
    """Draw users of 3 + geometric events (mean 9, at most 200) and items of a Zipf law, or all alike."""
    draw = np.random.default_rng(0)
    lengths = np.minimum(draw.geometric(1 / 7, n_users) + 2, 200)
    n = int(lengths.sum())
    item = draw.integers(0, n_items, n) if even else (n_items ** draw.random(n)).astype(np.int64)
    if even:
        item[: min(n_items, n)] = draw.permutation(n_items)[: min(n_items, n)]
    table = pl.DataFrame(
        {
            "user": np.repeat(np.arange(n_users), lengths),
            "time": 1_600_000_000 + draw.integers(0, 10**7, n),
            "item": item,
        }
    )
    events = {"user": "user", "time": "time", "time_unit": "s", "type": {"constant": "view"}, "item": "item"}
    return ingest(EventLog(Schema.parse({"name": "drawn", "events": events}), table), folder)


def served(inputs: EventInputs, name: str) -> float:
    """Serve two epochs without a model, the second counted; give events per second."""
    loader = EventLoader(inputs, tokens_per_batch=BUDGET, is_training=True)
    for epoch in range(2):
        loader.set_epoch(epoch)
        loader.n_tokens, loader.n_places = 0, 0
        began = clock.perf_counter()
        for _ in loader:
            pass
        seconds = clock.perf_counter() - began
    record("events_loader", f"events served, {name}", loader.n_tokens / seconds, "events/s")
    record("events_loader", f"padding, {name}", 1 - loader.n_tokens / loader.n_places, "share")
    return loader.n_tokens / seconds


def trained(inputs: EventInputs, spec: EventSpec, folder: Path, loss: str, note: str) -> float:
    """Train SASRec (2 blocks of 64) for an epoch; give events per second."""
    loader = EventLoader(inputs, tokens_per_batch=BUDGET, is_training=True)
    config = NextEventConfig.parse({"field": "item", "loss": loss, "n_negatives": 256})
    objective = NextEvent(config, spec.column("item"), target_counts(EventLoader(inputs))["item"])
    training = TrainingConfig.parse({"epochs": 1, "lr": 1e-3, "loggers": [], "checkpoint_every": 0})
    model = SASRec(SASRecConfig.parse({"field": "item"}), spec.shape)
    found = fit(model, objective, loader, None, training, folder).throughput
    record("events_loader", "events trained by SASRec", found["positions_per_second"], "events/s", note)
    record("events_loader", "share of a step spent waiting for the loader", found["wait_share"], "share", note)
    return found["positions_per_second"]


def million(store: Store, folder: Path) -> None:
    """Train with sampled softmax among a million items; tell the memory."""
    began = clock.perf_counter()
    spec = fit_event_spec(store, EventTokenConfig.parse({"length": 50, "fields": ["item"]}), SPLIT)
    inputs = prepare_events(store, spec, SPLIT, "train")
    n_items = spec.shape.n_rows("item") - 2
    record("events_loader", "time to make spec and table of the large catalogue", clock.perf_counter() - began, "s")
    note = f"{n_items:,} items, 256 sampled"
    trained(inputs, spec, folder, "sampled", note)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    table = (n_items + 2) * 64 * 4 / 2**30
    record("events_loader", "peak memory of the process", peak, "GiB", f"{note}; the table alone is {table:.2f} GiB")


if __name__ == "__main__":
    main()
