"""Arguments and options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, as `habitus train` made it.")]
StorePath = Annotated[
    Path | None, typer.Option("--store", metavar="STORE", help="Read the log from here instead of where it was.")
]
Cutoff = Annotated[
    str | None,
    typer.Option(
        metavar="DATE", help="The last day that may be used, e.g. 2011-11-11 [default: the last in the store]."
    ),
]
Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE",
        help="Files (Parquet, CSV, JSON lines) or a glob, a DuckDB file, a postgresql:// address, or a known source: "
        "online_retail, complete_journey, oulad, stats_se, simulator.",
    ),
]
Folder = Annotated[Path | None, typer.Option(metavar="DIR", help="Where the files of a known source lie.")]
Query = Annotated[str | None, typer.Option(metavar="SQL", help="What to read from PostgreSQL.")]
Table = Annotated[str | None, typer.Option(metavar="NAME", help="The table of a DuckDB file to read.")]
CalendarFile = Annotated[Path | None, typer.Option("--calendar", metavar="FILE", help="Known events (CSV or Parquet).")]
Audiences = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Users of each audience in the calendar (CSV or Parquet).")
]
EventItems = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Items that events of the calendar are about (CSV or Parquet).")
]
Profiles = Annotated[Path | None, typer.Option(metavar="FILE", help="Static attributes of users.")]
Items = Annotated[Path | None, typer.Option(metavar="FILE", help="Static attributes of items.")]
MemoryLimit = Annotated[str, typer.Option(metavar="SIZE", help="What the process may use; the rest spills to disk.")]
Histories = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Events of users that no store knows (Parquet or CSV: user, time, type, item, ...)."
    ),
]
