"""habitus embed: one vector per user."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from habitus.cli.options import Cutoff, Histories, RunFolder, StorePath


def embed(
    run: RunFolder,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the vectors go (Parquet).")],
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
) -> None:
    """Write one vector per user."""
    from habitus.tasks.embed import embed as task

    table = task(run, cutoff=cutoff, store=store, out=out, pooling=pooling, histories=histories, per_event=events)
    typer.echo(f"wrote {out}: {table.height:,} vectors")
