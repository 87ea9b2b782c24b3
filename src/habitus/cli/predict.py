"""habitus predict: one row per user and target."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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


def predict(
    run: RunFolder,
    out: Annotated[
        Path,
        typer.Option(metavar="FILE", help="Where the predictions go (Parquet or CSV; without an ending, a folder)."),
    ],
    cutoff: Cutoff = None,
    store: StorePath = None,
    histories: Histories = None,
    top: Annotated[int, typer.Option(metavar="K", help="Of events: how many values per user.")] = 10,
    new: Annotated[bool, typer.Option("--new", help="Of events: leave out what the user had before.")] = False,
    engine: Engine = "local",
    address: Address = None,
    workers: Workers = None,
    worker_cpus: WorkerCpus = None,
    worker_gpus: WorkerGpus = None,
    worker_memory: WorkerMemory = None,
) -> None:
    """Predict every target for every user, or what comes next.

    One row per user and target, from the log up to a cut-off: a calibrated probability, or a mean with quantiles.
    From a model of events, one row per user and rank: the most probable next values.
    """
    from habitus.tasks.predict import predict as task

    by = engine_of(engine, address, workers, worker_cpus, worker_gpus, worker_memory)
    table = task(run, cutoff=cutoff, store=store, out=out, histories=histories, top=top, is_new=new, engine=by)
    typer.echo(written(out, table, "rows"))
