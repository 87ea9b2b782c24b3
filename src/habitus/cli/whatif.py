"""habitus whatif: the same users under two or more calendars."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from habitus.cli.options import Cutoff, RunFolder, StorePath


def whatif(
    run: RunFolder,
    calendar: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="A calendar; may be given again. The first is compared against."),
    ] = None,
    edit: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Edits of the first calendar, or of the store's own; may be given again."),
    ] = None,
    cutoff: Cutoff = None,
    audiences: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Further audiences that calendars and edits may name.")
    ] = None,
    segment: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN", help="Answers by a profile column, or by a table user, segment (.csv, .parquet)."
        ),
    ] = None,
    placebos: Annotated[int, typer.Option(min=0, metavar="N", help="Placebos of each kind beside each answer.")] = 5,
    past_placebos: Annotated[
        int, typer.Option(min=0, metavar="N", help="Placebos on past days; each costs a forecast of its own.")
    ] = 0,
    importance: Annotated[bool, typer.Option(help="Ask what each coming event adds, one at a time.")] = True,
    importance_out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where that table goes (Parquet).")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Where the answer per user goes (Parquet).")] = None,
    store: StorePath = None,
) -> None:
    """Forecast under two or more calendars, whole or as edits.

    Shows totals with intervals, the differences to the first, the placebos beside them, and what kind of evidence
    stands behind each change.
    """
    import habitus.tasks.whatif as task

    answer = task.whatif(
        run,
        calendar or [],
        edits=edit or [],
        cutoff=cutoff,
        store=store,
        out=out,
        audiences=audiences,
        segment=segment,
        placebos=placebos,
        past_placebos=past_placebos,
        with_importance=importance,
        importance_out=importance_out,
    )
    typer.echo(task.summary(answer))
