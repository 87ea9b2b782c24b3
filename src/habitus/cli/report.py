"""habitus report: one self-contained page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from habitus.cli.options import RunFolder


def report(
    run: RunFolder,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="The page [default: RUN/report.html].")] = None,
) -> None:
    """Write one page with every answer.

    What was asked, what the answer is and how sure it is, as one self-contained HTML file.
    """
    from habitus.tasks.report import report as task

    typer.echo(f"wrote {task(run, out=out)}")
