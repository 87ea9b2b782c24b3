"""habitus ingest: a raw log becomes a store."""

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


def ingest(
    source: Sources,
    out: Annotated[Path | None, typer.Option(metavar="STORE", help="The store to make.")] = None,
    schema: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Which column plays which part (TOML); known sources bring one.")
    ] = None,
    infer: Annotated[
        bool, typer.Option("--infer", help="Propose a schema, write it to --schema for you to read, and stop.")
    ] = False,
    calendar: CalendarFile = None,
    audiences: Audiences = None,
    event_items: EventItems = None,
    profiles: Profiles = None,
    items: Items = None,
    folder: Folder = None,
    query: Query = None,
    table: Table = None,
    max_rejected: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="Stop when more of the rows are unusable [default: the schema's]."),
    ] = None,
    memory_limit: MemoryLimit = "4GB",
    replace: Annotated[bool, typer.Option("--replace", help="Take the place of an existing store when done.")] = False,
    engine: Engine = "local",
    address: Address = None,
    workers: Workers = None,
    worker_cpus: WorkerCpus = None,
    worker_gpus: WorkerGpus = None,
    worker_memory: WorkerMemory = None,
) -> None:
    """Turn a raw log into a store.

    Rows that cannot be used are counted by reason and kept in the store's `rejected` table.
    """
    import habitus.tasks.ingest as task
    from habitus.core.errors import ConfigError

    if infer:
        path = task.infer(source, schema or Path(source[0]).with_suffix(".toml").name, query=query, table=table)
        typer.echo(
            f"wrote {path}: read it, mend it, then run\n  habitus ingest {' '.join(source)} --schema {path} --out STORE"
        )
        return
    if out is None:
        raise ConfigError("--out STORE, the folder to make", "none", where="habitus ingest", fix="add --out shop.store")
    store = task.ingest(
        source,
        out,
        schema=schema,
        calendar=calendar,
        audiences=audiences,
        event_items=event_items,
        profiles=profiles,
        items=items,
        folder=folder,
        query=query,
        table=table,
        max_rejected=max_rejected,
        memory_limit=memory_limit,
        replace=replace,
        engine=engine_of(engine, address, workers, worker_cpus, worker_gpus, worker_memory),
    )
    typer.echo(task.summary(store))
