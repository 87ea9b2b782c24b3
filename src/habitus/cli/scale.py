"""habitus scale: how loss falls with size and data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from habitus.cli.options import StorePath


def scale(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe of events with a table [scale].")],
    out: Annotated[Path | None, typer.Option(metavar="RUN", help="The run folder [default: runs/NAME].")] = None,
    store: StorePath = None,
) -> None:
    """Train a ladder of sizes and data budgets, and fit the law of loss.

    The same command again goes on where it was. Writes RUN/scale.json and RUN/scale.html.
    """
    from habitus.tasks.scale import scale as task

    found = task(recipe, out=out, store=store)
    typer.echo(f"{len(found['rungs'])} runs")
    for name, law in found["laws"].items():
        if law["verdict"]:
            typer.echo(f"{name}: {law['verdict']}")
            continue
        typer.echo(f"{name}: L = E + A N^-a + B D^-b")
        for key, value in law["values"].items():
            low, high = law["intervals"][key]
            typer.echo(f"  {key:<3} {value:>10.4g}   {low:.4g} to {high:.4g}")
        if name in found["held_out"]:
            typer.echo(f"  the largest runs, left out, foretold {found['held_out'][name]['mean_error']:+.1%} off")
