"""habitus embed: one vector per user."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from habitus.cli.options import Cutoff, RunFolder, StorePath


def embed(
    run: RunFolder,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the vectors go (Parquet).")],
    cutoff: Cutoff = None,
    store: StorePath = None,
) -> None:
    """Write one vector per user."""
    from habitus.tasks.embed import embed as task

    table = task(run, cutoff=cutoff, store=store, out=out)
    typer.echo(f"wrote {out}: {table.height:,} users")
