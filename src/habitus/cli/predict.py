"""habitus predict: one row per user and target."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from habitus.cli.options import Cutoff, RunFolder, StorePath


def predict(
    run: RunFolder,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the predictions go (Parquet or CSV).")],
    cutoff: Cutoff = None,
    store: StorePath = None,
) -> None:
    """Predict every target for every user.

    One row per user and target, from the log up to a cut-off: a calibrated probability, or a mean with quantiles.
    """
    from habitus.tasks.predict import predict as task

    table = task(run, cutoff=cutoff, store=store, out=out)
    typer.echo(f"wrote {out}: {table.height:,} rows of {', '.join(table.columns)}")
