"""habitus whatif: the same users under two or more calendars."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from habitus.cli.options import Cutoff, RunFolder, StorePath


def whatif(
    run: RunFolder,
    calendar: Annotated[
        list[Path], typer.Option(metavar="FILE", help="A calendar; give two or more. The first is compared against.")
    ],
    cutoff: Cutoff = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Where the answer per user goes (Parquet).")] = None,
    store: StorePath = None,
) -> None:
    """Forecast under two or more calendars.

    Shows the differences to the first, and what kind of evidence stands behind each change.
    """
    import habitus.tasks.whatif as task

    answer = task.whatif(run, calendar, cutoff=cutoff, store=store, out=out)
    typer.echo(task.summary(answer))
