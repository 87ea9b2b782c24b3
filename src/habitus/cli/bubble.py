"""habitus bubble: can users leave the filter bubble? Worlds in pairs, a measure with a zero, one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from habitus.cli.apps import group
from habitus.cli.options import StorePath

BubbleRun = Annotated[Path, typer.Argument(metavar="RUN", help="A folder, as `habitus bubble run` made it.")]


def run(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe of this app (TOML).")],
    out: Annotated[Path | None, typer.Option(metavar="RUN", help="The folder of the run [default: runs/NAME].")] = None,
    store: StorePath = None,
    pairs: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Stop after N pairs of worlds [default: the recipe's].")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, metavar="N", help="Worlds played at once, a core each.")] = 2,
) -> None:
    """Play all worlds of a recipe and measure them. The same call again goes on with what is missing."""
    from habitus.apps.bubble.report import lines
    from habitus.apps.bubble.run import read_run, run_bubble

    path = run_bubble(recipe, out, store=store, workers=workers, pairs=pairs, say=typer.echo)
    typer.echo(lines(read_run(path)))
    typer.echo(f"wrote {path / 'metrics.json'}; next\n  habitus bubble report {path}")


def probe(
    run: BubbleRun,
    users: Annotated[int, typer.Option(min=1, metavar="N", help="Agents asked.")] = 1000,
    k: Annotated[int, typer.Option(min=1, metavar="N", help="Items appended to each history.")] = 10,
    store: StorePath = None,
) -> None:
    """Ask at once: lists after k novel likes against lists after k familiar ones. No simulation."""
    from habitus.apps.bubble.probe import probe_lines, probe_run

    found = probe_run(run, n_users=users, k=k, store=store)
    typer.echo(probe_lines(found))
    typer.echo(f"wrote {run / 'probe.json'}")


def report(
    run: BubbleRun,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="The page [default: RUN/report.html].")] = None,
) -> None:
    """Write one self-contained page from what `run` measured."""
    from habitus.apps.bubble.report import write_report

    typer.echo(f"wrote {write_report(run, out)}")


bubble = group("bubble", "Can users leave the filter bubble?", run, probe, report)
