"""The road on Ray: the same answers from three nodes, one of which dies; two workers against one; 100 M events.

    python -m benchmarks.scale_out proof      three nodes: equal stores, forecasts and losses
    python -m benchmarks.scale_out kill       a node dies during ingest, predict and training
    python -m benchmarks.scale_out ratio      one worker of one core against two, in one run, wall and CPU
    python -m benchmarks.scale_out whole      100 M events through ingest, train (one epoch) and predict

CPU seconds are those of all workers: on cores that others use too, twice the CPU seconds of one worker over those of
two says what two workers would gain on cores of their own.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl

from benchmarks.ingest import SCHEMA, write_events
from benchmarks.record import record

DAYS = """
name = "days"
store = "unused.store"
seeds = [0]
refit = false
[cutoffs]
horizon = 28
train = {{ days = [2022-07-31, 2022-08-31] }}
valid = {{ days = [2022-10-15] }}
test = {{ days = [2022-11-30] }}
[tokens]
history = {history}
[[targets]]
name = "buy"
define = "any(purchase) in 28d"
[model]
name = "lumos"
size = "tiny"
[loader]
batch_size = 256
per_user = 1
[training]
epochs = 1
loggers = []
batches_per_step = 2
checkpoint_every = {every}
[gate]
rows = ["base_rate"]
"""
EVENTS = """
name = "events"
store = "unused.store"
seeds = [0]
model = {{ name = "behavegpt", size = "tiny" }}
objective = {{ name = "next_event", field = "type" }}
tokens = {{ length = 64 }}
loader = {{ tokens_per_batch = 8192 }}
training = {{ epochs = 1, loggers = [], batches_per_step = 2, checkpoint_every = {every} }}
[split]
protocol = "time"
train_until = 2022-09-30
valid = [2022-10-01, 2022-10-31]
test = [2022-11-01, 2022-11-30]
"""
NAME = "scale_out"


@contextmanager
def cluster(n_nodes: int, cpus: int = 1) -> Iterator[Any]:
    """Nodes of `cpus` cores each, on this machine."""
    import ray
    from ray.cluster_utils import Cluster

    node = {"num_cpus": cpus, "object_store_memory": 128 * 2**20}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made: Any = Cluster(initialize_head=True, head_node_args=node | {"include_dashboard": False})
        for _ in range(n_nodes - 1):
            made.add_node(**node)
        ray.init(address=made.address, log_to_driver=False, logging_level=40)
        try:
            yield made
        finally:
            ray.shutdown()
            made.shutdown()


class Watch:
    """CPU seconds and peak memory of Ray's workers (and memory of this process) while a block runs."""

    def __init__(self) -> None:
        self.cpu: dict[int, list[float]] = {}
        self.peak: dict[int, int] = {}
        self.whole = 0
        self._stop = threading.Event()

    def __enter__(self) -> Watch:
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        self.began = time.perf_counter()
        return self

    def __exit__(self, *_: Any) -> None:
        self.seconds = time.perf_counter() - self.began
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        import psutil

        own = psutil.Process()
        while True:
            began, total = time.perf_counter(), own.memory_full_info().uss
            for process in psutil.process_iter(["cmdline"]):
                line = (process.info["cmdline"] or [""])[0]
                if not line.startswith("ray::"):
                    continue
                try:
                    used, times = process.memory_full_info().uss, process.cpu_times()
                except psutil.Error:
                    continue
                total += used
                self.peak[process.pid] = max(self.peak.get(process.pid, 0), used)
                spent = times.user + times.system
                self.cpu.setdefault(process.pid, [spent, spent])[1] = spent
            self.whole = max(self.whole, total)
            took = time.perf_counter() - began  # walking through gigabytes holds up the process they belong to
            if self._stop.wait(max(0.25, 50 * took)):
                return

    @property
    def cpu_seconds(self) -> float:
        return sum(last - first for first, last in self.cpu.values())

    @property
    def worker_peak(self) -> int:
        return max(self.peak.values(), default=0)


def engine(workers: int) -> Any:
    from habitus.core.engine import EngineConfig

    return EngineConfig.parse({"engine": "ray", "workers": workers})


def made(folder: Path, n: int, name: str = "log") -> Any:
    """Write `n` events, and give the log."""
    from habitus.data.log import EventLog
    from habitus.data.schema import Schema

    file = folder / f"{name}.parquet"
    if not file.is_file():
        write_events(n, str(file))
    return EventLog(Schema.parse(SCHEMA), file)


def recipe(folder: Path, text: str, every: int = 0, history: int = 56) -> Path:
    path = folder / f"{text.split(chr(34))[1]}.toml"
    path.write_text(text.format(every=every, history=history), "utf-8")
    return path


# equal answers, and a node that dies ---------------------------------------------------------------------------------


def killing(nodes: Any, is_due: Callable[[], bool]) -> threading.Thread:
    """Kill a node that works, not the head, as soon as it is due."""

    def wait() -> None:
        while not is_due():
            time.sleep(0.1)
        while (node := at_work(nodes)) is None:
            time.sleep(0.1)
        nodes.remove_node(node, allow_graceful=False)
        print("  a node at work was killed", flush=True)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def at_work(nodes: Any) -> Any:
    """Give a node beside the head, one of whose workers does a job or trains; None while there is none."""
    import psutil

    busy = set()
    for process in psutil.process_iter(["cmdline", "ppid"]):
        line = (process.info["cmdline"] or [""])[0]
        if line.startswith("ray::_checked") or (line.startswith("ray::") and "Train" in line and "Control" not in line):
            busy.add(process.info["ppid"])
    for node in nodes.worker_nodes:
        if any(each.process.pid in busy for each in node.all_processes.get("raylet", [])):
            return node
    return None


def alone(folder: Path, n: int) -> tuple[Any, Any, dict[str, Any], dict[str, Path]]:
    """What one process makes of the log: the log, the store, its runs, their recipes. Found again in a kept folder."""
    from habitus.data.ingest import ingest
    from habitus.data.store import Store
    from habitus.tasks.train import train

    log, path = made(folder, n), folder / "one.store"
    store = Store.open(path) if path.is_dir() else ingest(log, path, n_shards=12, threads=1)
    texts = {"LUMOS": recipe(folder, DAYS, every=2), "BehaveGPT": recipe(folder, EVENTS, every=2)}
    runs = {name: train(text, out=folder / f"{name}-one", store=store.path) for name, text in texts.items()}
    return log, store, runs, texts


def proof(folder: Path, n: int) -> None:
    from habitus.data.ingest import ingest
    from habitus.tasks.predict import predict
    from habitus.tasks.train import train

    log, one, runs, texts = alone(folder, n)
    with cluster(3):
        shared = ingest(log, folder / "three.store", n_shards=12, engine=engine(3))
        shared.check()
        record(NAME, "ingest on 3 nodes: manifests equal (1 = yes)", float(shared.manifest == one.manifest))
        found = predict(runs["LUMOS"], store=shared.path, out=folder / "p.parquet", engine=engine(3))
        first = predict(runs["LUMOS"], store=one.path)
        record(NAME, "predict on 3 nodes: largest difference", apart(found, first))
        for name, path in texts.items():
            run = train(path, out=folder / f"{name}-two", store=shared.path, engine=engine(2))
            apart_by = losses_apart(runs[name], run)
            record(NAME, f"train {name} on 2 of 3 nodes: relative difference of losses", apart_by)


def kill(folder: Path, n: int, stages: list[str]) -> None:
    from habitus.data.ingest import ingest
    from habitus.tasks.by_shard import check_parts
    from habitus.tasks.predict import predict
    from habitus.tasks.train import train

    log, one, runs, texts = alone(folder, n)
    first = predict(runs["LUMOS"], store=one.path)
    with cluster(4) as nodes:  # three are left in the end
        if "ingest" in stages:
            due = killing(nodes, lambda: bool(list(folder.glob(".partial-*/work/exchange/part-*"))))
            again = ingest(log, folder / "killed.store", n_shards=12, engine=engine(4), replace=True)
            due.join()
            record(NAME, "ingest, a node dies: manifests equal (1 = yes)", float(again.manifest == one.manifest))
        if "predict" in stages:
            due = killing(nodes, lambda: bool(list((folder / "q.parts").glob("*.parquet"))))
            predict(runs["LUMOS"], store=one.path, out=folder / "q", engine=engine(3))
            due.join()
            check_parts(folder / "q", one)
            record(NAME, "predict, a node dies: largest difference", apart(pl.read_parquet(folder / "q"), first))
        if "train" in stages:
            last = folder / "LUMOS-killed" / "seed-0" / "search" / "last.ckpt"
            due = killing(nodes, last.exists)
            run = train(texts["LUMOS"], out=folder / "LUMOS-killed", store=one.path, engine=engine(2))
            due.join()
            record(NAME, "train, a node dies: relative difference of losses", losses_apart(runs["LUMOS"], run))


def apart(found: pl.DataFrame, wanted: pl.DataFrame) -> float:
    both = found.sort("user", "target").select("user", "value"), wanted.sort("user", "target").select("user", "value")
    assert both[0]["user"].equals(both[1]["user"])
    return float((both[0]["value"] - both[1]["value"]).abs().max())  # pyright: ignore


def losses_apart(one: Any, other: Any) -> float:
    from habitus.tasks.run import read_metrics

    pairs = zip(read_metrics(one.path)["history"], read_metrics(other.path)["history"], strict=True)
    return max(abs(a[key] - b[key]) / abs(a[key]) for a, b in pairs for key in ("train", "valid"))


# two workers against one ---------------------------------------------------------------------------------------------


def ratio(folder: Path, n: int, n_trained: int, rounds: int, chosen: list[str]) -> None:
    from habitus.data.ingest import ingest
    from habitus.tasks.predict import predict
    from habitus.tasks.train import train

    log = made(folder, n)
    store = ingest(log, folder / "big.store", n_shards=16, replace=True)
    small = ingest(made(folder, n_trained, "small"), folder / "small.store", n_shards=8, replace=True)
    texts = {"days": recipe(folder, DAYS), "events": recipe(folder, EVENTS)}
    run = train(texts["days"], out=folder / "asked", store=small.path)

    def ingested(workers: int, goal: Path) -> None:
        ingest(log, goal, n_shards=16, memory_limit="1GB", engine=engine(workers))

    def predicted(workers: int, goal: Path) -> None:
        predict(run, store=store.path, out=goal, engine=engine(workers))

    def trained(name: str) -> Callable[[int, Path], None]:
        return lambda workers, goal: (train(texts[name], out=goal, store=small.path, engine=engine(workers)), None)[1]

    verbs = {
        "ingest": ingested,
        "predict": predicted,
        "train LUMOS": trained("days"),
        "train BehaveGPT": trained("events"),
    }
    with cluster(2):
        if "ingest" in chosen:  # so that workers have started
            ingested(2, folder / "warm")
            shutil.rmtree(folder / "warm")
        for verb, do in verbs.items():
            if verb.split()[0] in chosen:
                compare(folder, verb, do, rounds)


def compare(folder: Path, verb: str, do: Callable[[int, Path], None], rounds: int) -> None:
    """Alternate one worker and two; record wall and CPU ratios and memory."""
    seen: dict[int, list[Watch]] = {1: [], 2: []}
    rates: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(rounds):
        for workers in (1, 2):
            goal = folder / f"goal-{workers}"
            with Watch() as watch:
                do(workers, goal)
            seen[workers].append(watch)
            rates[workers].append(rate_of(goal, watch))
            shutil.rmtree(goal, ignore_errors=True)
            goal.with_suffix(".manifest.json").unlink(missing_ok=True)
    pairs = [b / a for a, b in zip(rates[1], rates[2])]
    spread = f"of {rounds} rounds: {min(pairs):.2f} to {max(pairs):.2f}"
    record(NAME, f"{verb}, throughput of two workers / of one (wall)", statistics.median(pairs), "", spread)
    cpu = {k: statistics.median(w.cpu_seconds for w in seen[k]) for k in (1, 2)}
    record(
        NAME, f"{verb}, 2 x CPU seconds of one worker / of two", 2 * cpu[1] / max(cpu[2], 1e-9), "", f"{cpu[1]:.1f} s"
    )
    for workers in (1, 2):
        peak = max(w.worker_peak for w in seen[workers])
        record(NAME, f"{verb}, memory of a worker, {workers} of them", peak / 1e6, "MB")


def rate_of(goal: Path, watch: Watch) -> float:
    """Positions per second where the verb counts them, else goals per second of wall time."""
    import json

    files = list(goal.glob("seed-*/search/throughput.json"))
    return json.loads(files[0].read_text("utf-8"))["positions_per_second"] if files else 1 / watch.seconds


# 100 M events --------------------------------------------------------------------------------------------------------


def whole(folder: Path, n: int, stages: list[str]) -> None:
    """Each stage may be a call of its own, with a kept folder."""
    from habitus.data.ingest import ingest
    from habitus.data.store import Store
    from habitus.tasks.predict import predict
    from habitus.tasks.run import open_run
    from habitus.tasks.train import train

    two, label, path = engine(2), f"{n / 1e6:.0f} M events", folder / "whole.store"
    log = made(folder, n)
    with cluster(2):
        if "ingest" in stages:
            with Watch() as watch:
                store = ingest(log, path, memory_limit="1.5GB", engine=two)
            told(f"{label}: ingest", watch, store.n_events, "events/s")
            size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
            record(NAME, f"{label}: bytes of the store per event", size / store.n_events, "B")
        store = Store.open(path)
        if "train" in stages:
            with Watch() as watch:
                train(recipe(folder, DAYS, history=14), out=folder / "whole", store=path, engine=two)
            told(f"{label}: train, one epoch", watch, store.n_users, "users/s")
        if "predict" in stages:
            with Watch() as watch:
                parts = predict(open_run(folder / "whole"), out=folder / "forecast", engine=two)
            told(f"{label}: predict", watch, int(parts["n_users"].sum()), "users/s")


def told(figure: str, watch: Watch, n: int, unit: str) -> None:
    record(NAME, f"{figure}, wall", watch.seconds, "s")
    record(NAME, f"{figure}, rate", n / watch.seconds, unit)
    record(NAME, f"{figure}, CPU seconds of workers", watch.cpu_seconds, "s")
    record(NAME, f"{figure}, memory of workers and driver together", watch.whole / 1e9, "GB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=("proof", "kill", "ratio", "whole"))
    parser.add_argument("--events", type=int, help="Events of the log.")
    parser.add_argument("--trained", type=int, default=500_000, help="Events of the log that is trained on (ratio).")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--stages", default="ingest,train,predict", help="Verbs to measure.")
    parser.add_argument("--folder", type=Path, help="Where to work; kept. Default: a temporary one.")
    asked = parser.parse_args()
    stages = asked.stages.split(",")
    with tempfile.TemporaryDirectory() as scratch:
        folder = asked.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        if asked.part == "proof":
            proof(folder, asked.events or 600_000)
        elif asked.part == "kill":
            kill(folder, asked.events or 600_000, stages)
        elif asked.part == "ratio":
            ratio(folder, asked.events or 6_000_000, asked.trained, asked.rounds, stages)
        else:
            whole(folder, asked.events or 100_000_000, stages)


if __name__ == "__main__":
    main()
