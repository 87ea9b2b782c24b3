"""habitus probe: what can be read from frozen vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from habitus.cli.options import Cutoff, StorePath


def probe(
    vectors: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run folder, or what `habitus embed` wrote (Parquet).")
    ],
    labels: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Columns user and labels of 0, 1 or nothing (Parquet or CSV).")
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="A target after the vectors' day, e.g. 'any(purchase) in 28d'; repeatable."),
    ] = None,
    fuse: Annotated[
        bool, typer.Option("--fuse", help="Also probe windowed aggregates, alone and together with the vectors.")
    ] = False,
    head: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="logistic, mlp or trees; repeatable [default: all].")
    ] = None,
    seeds: Annotated[int, typer.Option(metavar="N", help="How often users are dealt into folds anew.")] = 5,
    cutoff: Cutoff = None,
    store: StorePath = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Where the figures go (Parquet).")] = None,
) -> None:
    """Fit light heads on frozen vectors.

    How well can labels be read, and do vectors add to hand-made aggregates?
    """
    from habitus.tasks.probe import ProbeConfig
    from habitus.tasks.probe import probe as task

    given = {"n_seeds": seeds} | ({"heads": tuple(head)} if head else {})
    config = ProbeConfig.parse(given, where="probe")
    known = {"labels": labels, "targets": target or (), "store": store, "cutoff": cutoff}
    _, text = task(vectors, fuse=fuse, config=config, out=out, **known)
    typer.echo(text)
