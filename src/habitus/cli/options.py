"""Arguments and options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    import polars as pl

    from habitus.core.engine import EngineConfig

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
Engine = Annotated[
    Literal["local", "ray"], typer.Option(metavar="NAME", help="Who does the work: local, or workers on ray.")
]
Address = Annotated[
    str | None,
    typer.Option(metavar="HOST:PORT", help="Of the Ray cluster; auto: this machine's [default: one is started here]."),
]
Workers = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Jobs done at a time [default: as many as there is room for].")
]
WorkerCpus = Annotated[float | None, typer.Option(metavar="N", help="Cores of each worker [default: 1].")]
WorkerGpus = Annotated[float | None, typer.Option(metavar="N", help="GPUs of each worker [default: 0].")]
WorkerMemory = Annotated[str | None, typer.Option(metavar="SIZE", help="Memory that a node must have per worker.")]


def engine_of(
    engine: str,
    address: str | None,
    workers: int | None,
    worker_cpus: float | None,
    worker_gpus: float | None,
    worker_memory: str | None,
) -> EngineConfig:
    """Put the options of an engine together. Errors: `ConfigError` for those of Ray beside local."""
    from habitus.core.engine import EngineConfig

    given = {"address": address, "workers": workers, "cpus": worker_cpus, "gpus": worker_gpus, "memory": worker_memory}
    chosen = {name: value for name, value in given.items() if value is not None}
    return EngineConfig.parse({"engine": engine} | chosen, where="--engine")


def written(out: Path, table: pl.DataFrame, what: str) -> str:
    """Say what lies at `out`: rows of a file, or those of all files of a folder."""
    if out.suffix:
        return f"wrote {out}: {table.height:,} {what} of {', '.join(table.columns)}"
    return f"wrote {out}: {table['n_rows'].sum():,} {what} of {table['n_users'].sum():,} users in {table.height} shards"
