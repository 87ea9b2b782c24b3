"""Vectors of users as the verbs after `embed` read them: a table, a file, or a run that is embedded first."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import polars as pl

from habitus.core.errors import ConfigError


def read_vectors(given: Any, *, cutoff: str | dt.date | None = None, store: Any = None) -> pl.DataFrame:
    """Give the table of vectors; the folder of a run is embedded at the cut-off first.

    Errors: `ConfigError` for a file that is not there; those of `embed` for a run.
    """
    if isinstance(given, str | Path) and Path(given).is_dir():
        from habitus.tasks.embed import embed

        return embed(given, cutoff=cutoff, store=store)
    return read_table(given)


def read_table(given: Any) -> pl.DataFrame:
    """Give a Parquet or CSV file as a table, or the table itself. Errors: `ConfigError`."""
    if isinstance(given, pl.DataFrame):
        return given
    path = Path(given)
    if not path.is_file():
        raise ConfigError("a Parquet or CSV file", "no such file", where=str(path))
    return pl.read_csv(path) if path.suffix == ".csv" else pl.read_parquet(path)
