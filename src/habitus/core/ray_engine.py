"""The engine `ray`: jobs as Ray tasks, a bounded number at a time, handed out again when a worker or node dies.

Imported only when the engine is asked for; `ray` itself only inside functions.
"""

from __future__ import annotations

import atexit
import platform
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from typing import Any

import habitus
from habitus.core.engine import EngineConfig
from habitus.core.errors import EngineError, HabitusError, require
from habitus.core.sizes import parse_bytes

ATTEMPTS = 4  # per job, for workers that die; errors of a job itself are never tried again
PATIENCE = 5.0  # seconds until a cluster must have answered
OBJECTS = 128 * 2**20  # bytes of a local cluster's object store: jobs exchange files, and answers are small


def do_ray_jobs(
    engine: EngineConfig, task: Callable[..., Any], jobs: Sequence[tuple[Any, ...]]
) -> Iterator[tuple[int, Any]]:
    """See `habitus.core.engine.do_jobs`."""
    ray = connect(engine)
    worker = ray.remote(_checked).options(**resources(engine), max_retries=0, scheduling_strategy="SPREAD")
    waiting, running = deque((number, 1) for number in range(len(jobs))), {}
    most, facts, shared = room(engine), versions(), ray.put(task)  # sent to a node once, whatever it carries
    try:
        while waiting or running:
            while waiting and len(running) < most:
                number, attempt = waiting.popleft()
                running[worker.remote(facts, shared, jobs[number])] = number, attempt
            done, _ = ray.wait(list(running), num_returns=1)
            number, attempt = running.pop(done[0])
            try:
                answer = ray.get(done[0])
            except ray.exceptions.RayError as cause:
                if attempt >= ATTEMPTS or not is_of_the_machine(cause):
                    raise explained(cause, engine, attempt) from cause
                waiting.append((number, attempt + 1))
                most = max(min(most, room(engine)), 1)
                continue
            yield number, answer
    finally:
        for left in running:
            ray.cancel(left, force=True)


def connect(engine: EngineConfig) -> Any:
    """Give `ray`, connected: to the cluster of the address, or to one of this process. Connected once, kept.

    Errors: `ExtraError` without the package; `EngineError` for a cluster that does not answer, or of other versions.
    """
    ray = require("ray", "ray")
    if ray.is_initialized():
        return ray
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": False}
    if engine.address is None:
        cpus = {"num_cpus": engine.workers * max(int(engine.cpus), 1)} if engine.workers else {}
        options |= {"address": "local", "include_dashboard": False, "object_store_memory": OBJECTS, **cpus}
    else:
        _knock(engine.address)
        options["address"] = engine.address
    try:
        ray.init(**options)
    except (ConnectionError, TimeoutError, RuntimeError, ValueError) as cause:
        if "ersion mismatch" in str(cause):
            raise _other_versions(str(cause)) from cause
        raise _unreachable(engine.address or "this machine", str(cause)) from cause
    atexit.register(ray.shutdown)
    _needs(ray, engine)
    return ray


def room(engine: EngineConfig) -> int:
    """Tell how many workers the cluster has room for now, at most those asked for. Errors: `EngineError` for none."""
    ray = connect(engine)
    found = _needs(ray, engine)
    return min(found, engine.workers) if engine.workers else found


def resources(engine: EngineConfig) -> dict[str, Any]:
    """Give what one worker gets, in Ray's words."""
    given: dict[str, Any] = {"num_cpus": engine.cpus, "num_gpus": engine.gpus}
    return given | ({"memory": parse_bytes(engine.memory)} if engine.memory else {})


def versions() -> dict[str, str]:
    """Name what driver and workers must have in common."""
    found = {"habitus": habitus.__version__, "Python": ".".join(platform.python_version_tuple()[:2])}
    return found | {name: metadata.version(name) for name in ("ray", "torch", "duckdb", "polars")}


def check_versions(expected: dict[str, str]) -> None:
    """Refuse to work for a driver of other versions. Errors: `EngineError`, naming what differs."""
    own = versions()
    differ = [name for name in expected if own.get(name) != expected[name]]
    if differ:
        has = ", ".join(f"{name} {own.get(name, 'none')}" for name in differ)
        wants = ", ".join(f"{name} {expected[name]}" for name in differ)
        raise EngineError(
            f"the driver's versions on every worker ({wants})", has, where=f"worker {socket.gethostname()}",
            fix="install the same packages on every node",
        )  # fmt: skip


def _checked(expected: dict[str, str], task: Callable[..., Any], job: tuple[Any, ...]) -> Any:
    """What a worker runs."""
    check_versions(expected)
    return task(*job)


def is_of_the_machine(cause: BaseException) -> bool:
    """Tell whether a job failed because its worker or node went away, not because of what it did."""
    from ray import exceptions

    gone = (
        exceptions.WorkerCrashedError,
        exceptions.NodeDiedError,
        exceptions.RaySystemError,
        exceptions.ObjectLostError,
        exceptions.LocalRayletDiedError,
        exceptions.ActorDiedError,
    )
    return isinstance(cause, gone) and not isinstance(cause, exceptions.OutOfMemoryError)


def explained(cause: BaseException, engine: EngineConfig, attempts: int = 1) -> HabitusError:
    """Put what Ray raised into our words; an error of ours that a worker raised is given as it was."""
    from ray import exceptions

    inner = getattr(cause, "_base_exc", None) or getattr(cause, "cause", None)
    if isinstance(inner, HabitusError):
        return inner
    text = str(inner or cause).strip().splitlines() or [type(cause).__name__]
    has_no_room = isinstance(cause, exceptions.OutOfMemoryError) or isinstance(inner, MemoryError)
    if has_no_room:
        fix = "fewer --workers, more --worker-memory (fewer workers per node), or more shards in the store"
        return EngineError("a worker that fits its node's memory", text[0][:300], where="a worker", fix=fix)
    if is_of_the_machine(cause):
        found = f"{attempts} died on one job; the last: {text[0][:200]}"
        fix = "look whether the node ran out of memory (dmesg); fewer --workers, or a smaller job"
        return EngineError("a worker that lives through its job", found, where="a worker", fix=fix)
    if isinstance(inner, ModuleNotFoundError) or "No module named" in str(cause):
        return _other_versions(text[-1][:300])
    return EngineError("a job without errors", "\n".join(text[-3:])[:600], where="a worker", fix="see the cause above")


def _needs(ray: Any, engine: EngineConfig) -> int:
    """Count the workers for whom there is room on the nodes that live. Errors: `EngineError` for none."""
    wanted = {"CPU": engine.cpus, "GPU": engine.gpus}
    if engine.memory:
        wanted["memory"] = float(parse_bytes(engine.memory))
    wanted = {name: size for name, size in wanted.items() if size}
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    found = sum(min(int(node.get(name, 0) / size) for name, size in wanted.items()) for node in nodes)
    if not found:
        asked = ", ".join(f"{size:g} {name}" for name, size in wanted.items())
        there = "; ".join(", ".join(f"{node.get(name, 0):g} {name}" for name in wanted) for node in nodes[:4]) or "none"
        raise EngineError(
            f"a node with {asked}", f"nodes with {there}", where="the cluster", fix="ask for less per worker"
        )
    return found


def _knock(address: str) -> None:
    """Make sure that somebody answers at the address, which Ray itself finds out only after a minute."""
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise EngineError('an address like "HOST:PORT", "ray://HOST:PORT" or "auto"', repr(address), where="--address")
    try:
        socket.create_connection((host, int(port)), timeout=PATIENCE).close()
    except OSError as cause:
        raise _unreachable(address, str(cause)) from cause


def _unreachable(address: str, cause: str) -> EngineError:
    found = (cause.strip().splitlines() or ["no answer"])[0][:300]
    return EngineError(
        "a Ray cluster that answers", found, where=address, fix="check --address; `ray status` on the head node says"
    )


def _other_versions(found: str) -> EngineError:
    return EngineError(
        "the driver's packages on every worker", found, where="the cluster", fix="install the same packages everywhere"
    )
