"""habitus embed: one vector per user."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from habitus.cli.options import (
    Address,
    Cutoff,
    Engine,
    Histories,
    RunFolder,
    StorePath,
    WorkerCpus,
    WorkerGpus,
    WorkerMemory,
    Workers,
    engine_of,
    written,
)


def embed(
    run: RunFolder,
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="Where the vectors go (Parquet; without an ending, a folder).")
    ],
    cutoff: Cutoff = None,
    pooling: Annotated[
        Literal["recent", "mean", "max", "last"],
        typer.Option(metavar="HOW", help="How the kept days become one: recent, mean, max or last."),
    ] = "recent",
    store: StorePath = None,
    histories: Histories = None,
    events: Annotated[
        bool, typer.Option("--events", help="Of a model of events: one vector per event, not per user.")
    ] = False,
    engine: Engine = "local",
    address: Address = None,
    workers: Workers = None,
    worker_cpus: WorkerCpus = None,
    worker_gpus: WorkerGpus = None,
    worker_memory: WorkerMemory = None,
) -> None:
    """Write one vector per user."""
    from habitus.tasks.embed import embed as task

    by = engine_of(engine, address, workers, worker_cpus, worker_gpus, worker_memory)
    table = task(
        run, cutoff=cutoff, store=store, out=out, pooling=pooling, histories=histories, per_event=events, engine=by
    )
    typer.echo(written(out, table, "vectors"))
