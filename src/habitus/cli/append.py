"""habitus append: later days join a store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from habitus.cli.options import (
    Address,
    Audiences,
    CalendarFile,
    Engine,
    EventItems,
    Folder,
    Items,
    MemoryLimit,
    Profiles,
    Query,
    Sources,
    Table,
    WorkerCpus,
    WorkerGpus,
    WorkerMemory,
    Workers,
    engine_of,
)


def append(
    store: Annotated[Path, typer.Argument(metavar="STORE", help="The store to add to.")],
    source: Sources,
    schema: Annotated[
        Path | None, typer.Option(metavar="FILE", help="With other bounds of time or rejects [default: the store's].")
    ] = None,
    calendar: CalendarFile = None,
    audiences: Audiences = None,
    event_items: EventItems = None,
    profiles: Profiles = None,
    items: Items = None,
    folder: Folder = None,
    query: Query = None,
    table: Table = None,
    memory_limit: MemoryLimit = "4GB",
    engine: Engine = "local",
    address: Address = None,
    workers: Workers = None,
    worker_cpus: WorkerCpus = None,
    worker_gpus: WorkerGpus = None,
    worker_memory: WorkerMemory = None,
) -> None:
    """Add later days to a store.

    The result is as if all had been ingested at once; a killed append leaves the old store.
    """
    import habitus.tasks.ingest as task

    opened = task.append(
        store,
        source,
        schema=schema,
        calendar=calendar,
        audiences=audiences,
        event_items=event_items,
        profiles=profiles,
        items=items,
        folder=folder,
        query=query,
        table=table,
        memory_limit=memory_limit,
        engine=engine_of(engine, address, workers, worker_cpus, worker_gpus, worker_memory),
    )
    typer.echo(task.summary(opened))
