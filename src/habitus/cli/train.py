"""habitus train: a recipe becomes a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from habitus.cli.options import (
    Address,
    Engine,
    StorePath,
    WorkerCpus,
    WorkerGpus,
    WorkerMemory,
    Workers,
    engine_of,
)


def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe: one complete run as TOML.")],
    out: Annotated[Path | None, typer.Option(metavar="RUN", help="The run folder [default: runs/NAME].")] = None,
    store: StorePath = None,
    seeds: Annotated[
        str | None, typer.Option(metavar="N,N,...", help="Train these seeds instead of the recipe's.")
    ] = None,
    engine: Engine = "local",
    address: Address = None,
    workers: Workers = None,
    worker_cpus: WorkerCpus = None,
    worker_gpus: WorkerGpus = None,
    worker_memory: WorkerMemory = None,
) -> None:
    """Train a recipe, or resume.

    The same command again goes on from the last checkpoint.
    """
    from habitus.core.errors import ConfigError
    from habitus.tasks.train import train as run

    try:
        chosen = None if seeds is None else tuple(int(part) for part in seeds.split(","))
    except ValueError:
        raise ConfigError("whole numbers with commas between, such as 0,1,2", repr(seeds), where="--seeds") from None
    chosen_engine = engine_of(engine, address, workers, worker_cpus, worker_gpus, worker_memory)
    trained = run(recipe, out=out, store=store, seeds=chosen, engine=chosen_engine)
    is_of_lives = trained.recipe.__class__.__name__ == "LurmRecipe"  # judged by probes of its vectors
    verb = f"embed {trained.path} --out z.parquet" if is_of_lives else f"evaluate {trained.path}"
    typer.echo(f"trained {trained.path}; next\n  habitus {verb}")
