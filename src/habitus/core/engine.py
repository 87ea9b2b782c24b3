"""Where work is done: one job after another in this process, or by workers on a Ray cluster.

A verb cuts its work into jobs that share nothing, such as the shards of a store, and hands the same function to either
engine. Jobs exchange files, not memory, so every node must see the same paths (a shared folder, or S3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

from pydantic import Field, model_validator

from habitus.core.config import Config
from habitus.core.errors import ConfigError


class EngineConfig(Config):
    """Which engine does the work, and what each of its workers gets.

    Parameters
    ----------
    engine
        `local`: this process. `ray`: workers on a Ray cluster (extra `[ray]`).
    address
        Of the cluster: "HOST:PORT", "ray://HOST:PORT", or "auto" for the one this machine belongs to; None starts one
        on this machine for as long as the process lives.
    workers
        How many jobs are done at a time; None takes as many as the cluster has room for.
    cpus, gpus, memory
        What each worker gets: cores, GPUs, and bytes ("4GB"), by which Ray places workers.

    Errors: `ConfigError` for an address or resources without Ray.

    >>> EngineConfig().engine, as_engine("ray").workers
    ('local', None)
    """

    engine: Literal["local", "ray"] = "local"
    address: str | None = None
    workers: int | None = Field(None, gt=0)
    cpus: float = Field(1.0, gt=0)
    gpus: float = Field(0.0, ge=0)
    memory: str | None = None

    @model_validator(mode="after")
    def _fits(self) -> EngineConfig:
        if self.engine == "local" and (self.address or self.workers or self.gpus or self.memory or self.cpus != 1.0):
            raise ValueError("address, workers and their resources are of the engine 'ray'")
        return self

    @property
    def is_local(self) -> bool:
        return self.engine == "local"

    @property
    def threads(self) -> int | None:
        """Threads of one worker; None is one per core, where there is but one worker."""
        return None if self.is_local else max(int(self.cpus), 1)


LOCAL = EngineConfig.parse({})


def as_engine(engine: EngineConfig | str | None) -> EngineConfig:
    """Give the config for a name, or the config itself. Errors: `ConfigError` for an unknown name."""
    if isinstance(engine, EngineConfig):
        return engine
    return LOCAL if engine is None else EngineConfig.parse({"engine": engine}, where="engine")


def do_jobs(
    engine: EngineConfig, task: Callable[..., Any], jobs: Sequence[tuple[Any, ...]]
) -> Iterator[tuple[int, Any]]:
    """Do `task(*job)` for every job; give (number of the job, answer), on Ray in the order in which they end.

    `task` is a function of a module, or a `partial` of one with what all jobs have in common. It may be done more than
    once: on Ray, a job whose worker or node dies is handed out again, up to `ray_engine.ATTEMPTS` times. What a task
    leaves on disk therefore appears by a rename.
    Errors: those of `task`; `EngineError` when there is no cluster, or workers keep dying.

    >>> sorted(do_jobs(LOCAL, max, [(1, 2), (5, 3)]))
    [(0, 2), (1, 5)]
    """
    if engine.is_local:
        return ((number, task(*job)) for number, job in enumerate(jobs))
    from habitus.core.ray_engine import do_ray_jobs

    return do_ray_jobs(engine, task, jobs)


def n_workers(engine: EngineConfig) -> int:
    """Tell how many jobs are done at a time. Errors: `EngineError` when there is no cluster."""
    if engine.is_local:
        return 1
    from habitus.core.ray_engine import room

    return room(engine)


def refuse_engine(engine: EngineConfig, why: str) -> None:
    """Refuse an engine other than `local`. Errors: `ConfigError`."""
    if not engine.is_local:
        raise ConfigError("engine 'local'", f"{engine.engine!r}, {why}", where="engine", fix="leave --engine out")
