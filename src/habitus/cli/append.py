"""habitus append: later days join a store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from habitus.cli.options import (
    Audiences,
    CalendarFile,
    EventItems,
    Folder,
    Items,
    MemoryLimit,
    Profiles,
    Query,
    Sources,
    Table,
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
    )
    typer.echo(task.summary(opened))
