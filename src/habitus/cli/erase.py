"""habitus erase: users leave a store for good."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from habitus.cli.options import MemoryLimit


def erase(
    store: Annotated[Path, typer.Argument(metavar="STORE", help="The store to remove them from.")],
    users: Annotated[Path, typer.Option(metavar="FILE", help="Their ids: a column `user` (CSV or Parquet).")],
    run: Annotated[
        list[Path] | None, typer.Option(metavar="RUN", help="A run whose stored vectors and indexes lose them too.")
    ] = None,
    memory_limit: MemoryLimit = "4GB",
) -> None:
    """Remove users from a store, its counts and the vectors of runs.

    An old file cannot bring them back; others keep every value. A killed erase leaves the old store.
    """
    from habitus.tasks.erase import erase as remove

    typer.echo(remove(store, users, runs=run or [], memory_limit=memory_limit).summary())
