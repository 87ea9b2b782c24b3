"""habitus evaluate: the model beside its gate, on the test cut-offs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from habitus.cli.options import RunFolder, StorePath


def evaluate(
    run: RunFolder,
    store: StorePath = None,
    against: Annotated[
        list[Path] | None,
        typer.Option(metavar="RUN", help="Another run with the same test, as a further row; may be given again."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Set the model beside its baselines.

    On the test cut-offs, with paired intervals over users; it says plainly when the model does not win.
    """
    import habitus.tasks.evaluate as task

    metrics = task.evaluate(run, store=store, against=against or ())
    typer.echo(json.dumps(metrics, indent=1) if as_json else task.summary(metrics))
