"""Train on a Ray cluster: Ray Train starts the workers and joins them, each calls `train`; one that dies costs the time
since the last checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from habitus.core.engine import EngineConfig
from habitus.core.errors import EngineError, HabitusError
from habitus.core.ray_engine import check_versions, connect, explained, is_of_the_machine, resources, room, versions
from habitus.core.remote import address_of
from habitus.tasks.event_recipe import read_recipe
from habitus.tasks.run import Run, open_run

FAILURES = 3  # times that the workers are started again


def train_on_ray(
    recipe: str | Path,
    *,
    out: str | Path | None,
    store: str | Path | None,
    seeds: Sequence[int] | None,
    engine: EngineConfig,
) -> Run[Any]:
    """See `habitus.tasks.train.train`. Recipe, store and run must be seen by every node under the same paths.

    Errors: those of `train`; `EngineError` when there is no cluster, or workers died `FAILURES` times and once more.
    """
    connect(engine)
    from ray import train as ray_train
    from ray.train import torch as ray_torch

    path = Path(out) if out is not None else Path("runs") / read_recipe(recipe).name
    asked = {
        "recipe": str(Path(recipe).absolute()),
        "out": str(path.absolute()),
        "store": None if store is None else address_of(store) or str(Path(store).absolute()),
        "seeds": None if seeds is None else tuple(seeds),
        "versions": versions(),
    }
    wanted = {name.removeprefix("num_").upper().rstrip("S"): size for name, size in resources(engine).items() if size}
    wanted = {("memory" if name == "MEMORY" else name): size for name, size in wanted.items()}
    trainer = ray_torch.TorchTrainer(
        _work,
        train_loop_config=asked,
        torch_config=ray_torch.TorchConfig(backend="nccl" if engine.gpus else "gloo"),
        scaling_config=ray_train.ScalingConfig(
            num_workers=room(engine), use_gpu=bool(engine.gpus), resources_per_worker=wanted
        ),
        run_config=ray_train.RunConfig(
            name=path.name,
            storage_path=str((path / "ray").absolute()),
            failure_config=ray_train.FailureConfig(max_failures=FAILURES),
        ),
    )
    try:
        trainer.fit()
    except Exception as cause:
        raise _explained(cause, engine) from cause
    return open_run(path, store)


def _work(asked: dict[str, Any]) -> None:
    """What every worker does."""
    check_versions(asked["versions"])
    from habitus.tasks.train import train

    train(asked["recipe"], out=asked["out"], store=asked["store"], seeds=asked["seeds"])


def _explained(cause: Exception, engine: EngineConfig) -> HabitusError:
    """Find an error of ours among those of the workers; else say what Ray said."""
    for error in getattr(cause, "worker_failures", {}).values():
        inner = getattr(error, "_base_exc", None) or getattr(error, "cause", None) or error
        if isinstance(inner, HabitusError):
            return inner
        if isinstance(inner, MemoryError) or is_of_the_machine(error):
            return explained(error, engine, FAILURES + 1)
    found = (str(cause).strip().splitlines() or [type(cause).__name__])[0][:400]
    return EngineError("workers that train to the end", found, where="Ray Train", fix="see the cause above")
