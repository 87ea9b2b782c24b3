"""What the service costs beside the bare model: load on loopback from a second process, and memory over many requests.

Needs the run that `make demo` leaves, or another: --run RUN --cutoff DATE.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from benchmarks.record import record
from habitus.serve.models import DayRun, load
from habitus.tasks.forecast import forecast
from habitus.tasks.whatif.futures import Future, answers

EDIT = {"edit": "add", "event": "Extra bank holiday", "type": "holiday", "start": "2011-11-28"}
WINDOW_MS = 20
MOST_SECONDS = 1500  # of asking for the figure of memory: on a busy machine fewer requests have to do
FRIENDLY = 128  # users per request of the batch-friendly load


def main() -> None:
    """Measure the bare model, then the service, in one run; only the ratios travel to other machines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=("small", "full"), default="small")
    parser.add_argument("--run", type=Path, default=Path("demo/run"))
    parser.add_argument("--part", choices=("load", "memory", "both"), default="both")
    parser.add_argument("--cutoff", default="2011-11-10")
    options = parser.parse_args()
    if not (options.run / "run.json").is_file():
        print(f"  skipped: no run at {options.run}; `make demo` makes one")
        return
    seconds, n_requests = (3, 5_000) if options.size == "small" else (10, 100_000)
    run = load(options.run, cutoff=options.cutoff)
    assert isinstance(run, DayRun)
    users = list(run.rows)
    if options.part != "memory":
        bare = of_model(run, seconds)
        with served(options.run, options.cutoff) as (port, process):
            found = {
                (verb, n): load_of(port, run.name, verb, users, n or 8, 1 if n else FRIENDLY, seconds, process)
                for verb in ("predict", "whatif")
                for n in (1, 8, 64, None)
            }
        report_load(bare, found)
    if options.part != "load":
        with served(options.run, options.cutoff) as (port, _):
            memory = memory_over(port, run.name, users, n_requests)
        n_done = len(memory) * (n_requests // 10)
        words = f"resident memory after {n_done:,} requests : after {n_requests // 10:,}"
        record("serve", words, memory[-1] / memory[0], "", f"{memory[-1] / 2**20:.0f} MiB")


def report_load(bare: dict[str, tuple[float, float]], found: dict[Any, dict[str, float]]) -> None:
    """Print and record the figures of every load; `bare` are users per second, and per second of processor."""
    busy = f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    for (verb, n), seen in found.items():
        if n is None:
            words = f"{verb}, 8 clients of {FRIENDLY} users : bare batched model, users/s"
            of = f"{seen['users']:.0f} of {bare[verb][0]:.0f} users/s"
            record("serve", words, seen["users"] / bare[verb][0], "share", f"{of}; {busy}")
            words = words.replace("users/s", "users per second of processor")
            of = f"{seen['per_cpu']:.0f} of {bare[verb][1]:.0f}"
            record("serve", words, seen["per_cpu"] / bare[verb][1], "share", of)
            continue
        words = f"{verb}, {n} client{'s' if n != 1 else ''} of 1 user"
        record("serve", f"{words}: requests", seen["rate"], "1/s", busy)
        for name in ("p50", "p95", "p99"):
            record("serve", f"{words}: {name}", seen[name] * 1000, "ms", f"window {WINDOW_MS} ms")
        record("serve", f"{words}: processor", seen["cpu_ms"], "ms", "of the service, per request")


def of_model(run: DayRun, seconds: float, n: int = 512) -> dict[str, tuple[float, float]]:
    """Time the batch functions themselves on batches of random users: users/s."""
    torch.set_num_threads(1)
    draw = np.random.default_rng(0)
    calendar = run.run.store.calendar
    from habitus.data.calendar import Calendar

    other = {k: EDIT[k] for k in ("event", "type", "start")}
    known = run.known("bare", [("more", calendar.joined(Calendar.build([other])))])[0][2]

    def predict(rows: np.ndarray) -> None:
        forecast(run.artifact.members, run.heads, run.inputs(rows), run.artifact.calibration)

    def whatif(rows: np.ndarray) -> None:
        inputs = run.inputs(rows)
        futures = [Future(inputs, has_detail=True), Future(inputs.with_known(known), has_detail=True)]
        answers(run.artifact.members, run.heads, futures, run.plan, run.artifact.calibration)

    found = {}
    for name, work in (("predict", predict), ("whatif", whatif)):
        work(draw.choice(len(run.base), n, replace=False))
        began, cpu, n_users = time.perf_counter(), time.process_time(), 0
        while time.perf_counter() - began < seconds:
            work(draw.choice(len(run.base), n, replace=False))
            n_users += n
        found[name] = n_users / (time.perf_counter() - began), n_users / (time.process_time() - cpu)
    return found


@contextmanager
def served(run: Path, cutoff: str) -> Iterator[tuple[int, psutil.Process]]:
    """Start the service in a process of its own, wait until it is ready, and stop it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["serve", str(run), "--cutoff", cutoff, "--port", str(port)]
    code = "import sys; from habitus.cli.main import app; app(sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words, "--window", str(WINDOW_MS)], stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(300):
            time.sleep(0.2)
            try:
                status, _ = ask(http.client.HTTPConnection("127.0.0.1", port, timeout=5), "GET", "/ready")
            except OSError:
                continue
            if status == 200:
                break
        yield port, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(timeout=60)


def ask(connection: http.client.HTTPConnection, method: str, path: str, body: str | None = None) -> tuple[int, bytes]:
    """Send one request on an open connection and read the whole answer."""
    connection.request(method, path, body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    return response.status, response.read()


def load_of(
    port: int,
    run: str,
    verb: str,
    users: list[str],
    n_clients: int,
    n_users: int,
    seconds: float,
    process: psutil.Process,
) -> dict[str, float]:
    """Ask from `n_clients` threads, each with one question at a time, for some seconds after a warm-up."""
    taken: list[list[tuple[float, float]]] = [[] for _ in range(n_clients)]
    wrong: list[int] = []
    end = time.perf_counter() + seconds + 1

    def client(number: int) -> None:
        draw = np.random.default_rng(number)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        while time.perf_counter() < end:
            asked: dict[str, Any] = {"users": [users[i] for i in draw.choice(len(users), n_users, replace=False)]}
            if verb == "whatif":
                asked["alternatives"] = [{"name": "more", "edits": [EDIT]}]
            began = time.perf_counter()
            status, _ = ask(connection, "POST", f"/v1/runs/{run}/{verb}", json.dumps(asked))
            wrong.extend([status] * (status != 200))
            taken[number].append((began, time.perf_counter() - began))

    before = process.cpu_times()
    threads = [threading.Thread(target=client, args=(i,)) for i in range(n_clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    after, n_all = process.cpu_times(), sum(len(part) for part in taken)
    cpu = after.user + after.system - before.user - before.system
    assert not wrong, f"{len(wrong)} answers of status {wrong[0]}"
    counted = np.array([t for part in taken for at, t in part if end - seconds <= at and at + t <= end])
    p50, p95, p99 = np.quantile(counted, [0.5, 0.95, 0.99])
    rate = len(counted) / seconds
    return {"rate": rate, "users": rate * n_users, "p50": p50, "p95": p95, "p99": p99,
            "cpu_ms": 1000 * cpu / n_all, "per_cpu": n_all * n_users / cpu}  # fmt: skip


def memory_over(port: int, run: str, users: list[str], n_requests: int) -> list[float]:
    """Give resident bytes after each tenth of many requests from 64 clients, what-if among them."""
    found: list[float] = []
    end = time.monotonic() + MOST_SECONDS
    for tenth in range(10):
        if time.monotonic() > end:
            break
        many = n_requests // 10
        left = iter(range(many))
        lock = threading.Lock()

        def client(number: int, left: Iterator[int] = left, lock: Any = lock, tenth: int = tenth) -> None:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            draw = np.random.default_rng((tenth, number))
            while True:
                with lock:
                    i = next(left, None)
                if i is None:
                    return
                asked: dict[str, Any] = {"users": [users[draw.integers(len(users))]]}
                verb = "whatif" if i % 10 == 0 else "predict"
                if verb == "whatif":
                    asked["alternatives"] = [{"name": f"more {i % 100}", "edits": [EDIT]}]
                status, _ = ask(connection, "POST", f"/v1/runs/{run}/{verb}", json.dumps(asked))
                assert status == 200

        threads = [threading.Thread(target=client, args=(i,)) for i in range(64)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        _, text = ask(http.client.HTTPConnection("127.0.0.1", port, timeout=60), "GET", "/metrics")
        seen = re.search(r"^habitus_resident_bytes (\S+)", text.decode(), re.MULTILINE)
        assert seen is not None
        found.append(float(seen[1]))
        print(f"  {(tenth + 1) * many:,} requests: {found[-1] / 2**20:.0f} MiB", flush=True)
    return found


if __name__ == "__main__":
    main()
