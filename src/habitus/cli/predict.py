"""habitus predict: one row per user and target."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from habitus.cli.options import Cutoff, Histories, RunFolder, StorePath


def predict(
    run: RunFolder,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the predictions go (Parquet or CSV).")],
    cutoff: Cutoff = None,
    store: StorePath = None,
    histories: Histories = None,
    top: Annotated[int, typer.Option(metavar="K", help="Of events: how many values per user.")] = 10,
    new: Annotated[bool, typer.Option("--new", help="Of events: leave out what the user had before.")] = False,
) -> None:
    """Predict every target for every user, or what comes next.

    One row per user and target, from the log up to a cut-off: a calibrated probability, or a mean with quantiles.
    From a model of events, one row per user and rank: the most probable next values.
    """
    from habitus.tasks.predict import predict as task

    table = task(run, cutoff=cutoff, store=store, out=out, histories=histories, top=top, is_new=new)
    typer.echo(f"wrote {out}: {table.height:,} rows of {', '.join(table.columns)}")
