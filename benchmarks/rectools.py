"""SASRec here and in RecTools, side by side in one run: training, top-10 for everybody, and quality after equal epochs.

The peer has a virtual environment of its own, made at the first run under runs/; without it, or without the data, the
benchmark says so and ends. Both sides have the same width, blocks, length, negatives and users per batch, and as many
threads as OMP_NUM_THREADS says.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from benchmarks._event_logs import DATA, RUNS
from benchmarks.record import record, size_option
from habitus.data.ingest import ingest
from habitus.data.sources.item_sequences import item_sequences
from habitus.metrics.bootstrap import of_draws, resamples
from habitus.metrics.ranking import row_scores
from habitus.models.sasrec import SASRec, SASRecConfig
from habitus.tasks.evaluate_events import Question
from habitus.tasks.train_events import target_counts
from habitus.tokens.event_loader import EventLoader, prepare_events
from habitus.tokens.event_split import EventSplit
from habitus.tokens.events import EventTokenConfig, fit_event_spec
from habitus.training.fit import TrainingConfig, fit
from habitus.training.objectives.next_event import NextEvent, NextEventConfig
from habitus.training.throughput import matmul_peak

ENVIRONMENT = RUNS / "rectools-environment"
PACKAGES = ("rectools[torch]==0.19.0", "pyarrow<21")
PEER = Path(__file__).with_name("_rectools_peer.py")
SPLIT = EventSplit.parse({"protocol": "leave_last_out"})
BATCH = 128  # users per step
WARM = 2  # steps that are not timed
D = 64


@dataclass(frozen=True)
class Setting:
    """What both sides train. `n_negatives` 0 is the full softmax."""

    name: str
    data: str
    length: int
    n_blocks: int
    n_negatives: int
    peer_steps: int
    our_epochs: int


BEAUTY = Setting("Beauty", "amazon_beauty", 50, 1, 256, 40, 6)
MOVIES = Setting("ML-1M order", "ml_1m_order", 200, 2, 0, 14, 1)


def main() -> None:
    """Measure speeds on both logs, then quality on a part of the second."""
    size = size_option(__doc__)
    missing = [s.data for s in (BEAUTY, MOVIES) if not (DATA / s.data / "sequences.parquet").is_file()]
    if missing:
        print(f"  skipped: no {missing[0]} under HABITUS_DATA ({DATA})")
        return
    python = environment()
    if python is None:
        return
    n_threads = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))
    torch.set_num_threads(n_threads)
    for setting in (BEAUTY, MOVIES):
        compare_speed(setting, python, n_threads)
    n_users, n_epochs = (1_000, 4) if size == "small" else (6_040, 4)
    compare_quality(MOVIES, python, n_threads, n_users, n_epochs)


def environment() -> Path | None:
    """Give the Python of the peer's environment, made if need be; None, with a reason printed, where that fails."""
    python = ENVIRONMENT / "bin" / "python"
    ready = ENVIRONMENT / "ready"
    if ready.is_file():
        return python
    print(f"  making an environment for {PACKAGES[0]}: some minutes", flush=True)
    for command in ([sys.executable, "-m", "venv", ENVIRONMENT], [python, "-m", "pip", "install", "-q", *PACKAGES]):
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"  skipped: {PACKAGES[0]} cannot be installed: {done.stderr.strip().splitlines()[-1:]}")
            return None
    ready.touch()
    return python


def compare_speed(setting: Setting, python: Path, n_threads: int) -> None:
    """Train and recommend on both sides: ours, the peer, ours again, so that a machine that slows down is seen."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        events = events_of(setting)
        one = ours(setting, events, folder / "one", setting.our_epochs)
        peer = theirs(setting, events, folder, python, n_threads, n_steps=setting.peer_steps)
        two = ours(setting, events, folder / "two", setting.our_epochs)
    note = f"{n_threads} threads; ours before and after the peer"
    figures: dict[str, tuple[str, Callable[[dict[str, Any]], float]]] = {
        "training": ("next-item targets/s", lambda side: side["targets_per_second"]),
        "top-10": ("users/s", lambda side: side["users_per_second"]),
    }
    for work, (unit, read) in figures.items():
        for who, side in (("habitus, before", one), ("RecTools", peer), ("habitus, after", two)):
            record("rectools", f"{setting.name}: {work}, {who}", read(side), unit, f"{n_threads} threads")
        ratio = (read(one) + read(two)) / 2 / read(peer)
        record("rectools", f"{setting.name}: {work}, habitus : RecTools", ratio, "", note)
    for who, side in (("habitus", two), ("RecTools", peer)):
        record("rectools", f"{setting.name}: padding, {who}", side["padding"], "share")
        flops = side["targets_per_second"] * useful_flops(setting, two["n_values"])
        record("rectools", f"{setting.name}: useful MFU, {who}", flops / two["peak"], "share", "of the matmul peak")


def useful_flops(setting: Setting, n_values: int) -> float:
    """Floating-point operations a target costs without padding: blocks and compared items, forward and backward."""
    compared = setting.n_negatives + 1 if setting.n_negatives else n_values
    return 6.0 * (setting.n_blocks * 6 * D * D + compared * D)


def compare_quality(setting: Setting, python: Path, n_threads: int, n_users: int, n_epochs: int) -> None:
    """Train both sides for as many epochs on the first users, and rank their last item."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        events = events_of(setting, n_users)
        peer = theirs(setting, events, folder, python, n_threads, n_epochs=n_epochs)
        our = ours(setting, events, folder / "our", n_epochs)
    truth = events.filter(pl.col("back") == 0).select("user_id", truth="item_id")
    gains = {}
    for who, side in (("habitus", our), ("RecTools", peer)):
        hits = truth.join(side["top"], left_on=["user_id", "truth"], right_on=["user_id", "item_id"], how="left")
        rank = hits.sort("user_id")["rank"].fill_null(10_000).to_numpy()
        gains[who] = row_scores(rank, 10, "ndcg")
        note = f"{n_users:,} users, {n_epochs} epochs each"
        record("rectools", f"{setting.name}: NDCG@10 after equal epochs, {who}", float(gains[who].mean()), "", note)
    gap = gains["habitus"] - gains["RecTools"]
    drawn = resamples(np.arange(len(gap)), 1000)
    draws = drawn.count.astype(np.float64) @ gap / len(gap)
    found = of_draws(float(gap.mean()), draws)
    note = f"interval over users {found.low:+.4f} .. {found.high:+.4f}, one seed"
    record("rectools", f"{setting.name}: NDCG@10 after equal epochs, difference", found.value, "", note)


def events_of(setting: Setting, n_users: int | None = None) -> pl.DataFrame:
    """Rows user_id, position, item_id, back: how many events of the user come after."""
    table = pl.read_parquet(DATA / setting.data / "sequences.parquet").sort("user_id", "position", maintain_order=True)
    if n_users:
        table = table.filter(pl.col("user_id").is_in(table["user_id"].unique().sort()[:n_users].implode()))
    return table.with_columns(back=pl.col("position").cum_count(reverse=True).over("user_id") - 1)


def theirs(
    setting: Setting,
    events: pl.DataFrame,
    folder: Path,
    python: Path,
    n_threads: int,
    n_steps: int = 0,
    n_epochs: int = 0,
) -> dict[str, Any]:
    """Run the peer in its environment."""
    events.write_parquet(folder / "events.parquet")
    loss = (
        {"loss": "sampled_softmax", "n_negatives": setting.n_negatives} if setting.n_negatives else {"loss": "softmax"}
    )
    model = {"n_factors": D, "n_blocks": setting.n_blocks, "n_heads": 1, "session_max_len": setting.length}
    model |= {"batch_size": BATCH, "dropout_rate": 0.2, "lr": 1e-3} | loss
    files = {"events": str(folder / "events.parquet"), "out": str(folder / "top.parquet")}
    limits = {"n_steps": n_steps, "n_epochs": n_epochs, "n_warm": WARM, "n_threads": n_threads}
    (folder / "request.json").write_text(json.dumps({"model": model} | files | limits), "utf-8")
    command = [str(python), "-P", str(PEER), str(folder / "request.json"), str(folder / "answer.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the peer failed: {done.stderr.strip()[-600:]}")
    answer = json.loads((folder / "answer.json").read_text("utf-8"))
    return answer | {"top": pl.read_parquet(folder / "top.parquet").select("user_id", "item_id", "rank")}


def ours(setting: Setting, events: pl.DataFrame, folder: Path, n_epochs: int) -> dict[str, Any]:
    """Train and recommend here, by the road's own parts."""
    folder.mkdir()
    events.drop("back").write_parquet(folder / "events.parquet")
    store = ingest(item_sequences(folder / "events.parquet"), folder / "log.store")
    tokens = EventTokenConfig.parse({"length": setting.length, "fields": ("item",)})
    spec = fit_event_spec(store, tokens, SPLIT)
    inputs = prepare_events(store, spec, SPLIT, "train", context=0, per_user=1)
    places = int(BATCH * inputs.stretches.length.mean())
    loader = EventLoader(inputs, tokens_per_batch=places, is_training=True)
    config = {"d_model": D, "n_heads": 1, "n_blocks": setting.n_blocks, "dropout": 0.2}
    model = SASRec(SASRecConfig.parse(config), spec.shape)
    loss = {"loss": "sampled", "n_negatives": setting.n_negatives} if setting.n_negatives else {"loss": "full"}
    counts = target_counts(EventLoader(inputs))["item"]
    objective = NextEvent(NextEventConfig.parse({"field": "item"} | loss), 0, counts)
    training = {"epochs": n_epochs, "lr": 1e-3, "betas": (0.9, 0.98), "schedule": "constant", "weight_decay": 0.0}
    training |= {"loggers": (), "checkpoint_every": 0, "warm_up": 0.0}
    found = fit(model, objective, loader, None, TrainingConfig.parse(training), folder / "fit")
    began = time.perf_counter()
    top = top_items(Question(store, spec, SPLIT, "item"), model.eval(), events.schema["item_id"])
    seconds = time.perf_counter() - began
    return {
        "targets_per_second": found.throughput["positions_per_second"],
        "padding": 1 - loader.n_tokens / max(loader.n_places, 1),
        "users_per_second": top["user_id"].n_unique() / seconds,
        "n_values": spec.shape.n_rows("item"),
        "peak": matmul_peak("cpu", torch.float32),
        "top": top,
    }


@torch.no_grad()
def top_items(question: Question, model: SASRec, kind: pl.DataType, k: int = 10) -> pl.DataFrame:
    """Give the k best items of every user after all events but the last, what the user had left out."""
    loader = question.loader("test")
    seen = question.seen(loader)
    assert seen is not None
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    for batch in loader:
        scores = model.scores(batch, "item")
        target, value = seen(batch, torch.arange(len(batch)), batch.length - 1)
        scores[target, value] = -torch.inf
        parts.append((loader.stretches.user[batch.sample.numpy()], scores.topk(k, dim=1).indices.numpy()))
    user, best = (np.concatenate(column) for column in zip(*parts))
    names = np.array(["", "", *question.spec.values["item"]])
    users = question.store.users["user"].gather(np.repeat(user, k))
    return pl.DataFrame(
        {"user_id": users, "item_id": names[best.ravel()], "rank": np.tile(np.arange(1, k + 1), len(user))}
    ).with_columns(pl.col("user_id", "item_id").cast(kind))


if __name__ == "__main__":
    main()
