"""Vectors of users as features of impressions: for each one the latest that knew only days before its own.

The tables are those that `habitus embed` writes, one per cut-off: LURM vectors and BehaveGPT states alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from habitus.core.errors import SchemaError, SourceError
from habitus.data.impressions import Impressions


def read_vectors(folder: str | Path, patterns: Sequence[str]) -> pl.DataFrame:
    """Read all tables of vectors under `folder` that match: user (text), as_of (date), vector.

    Errors: `SourceError` when a pattern matches nothing, `SchemaError` for missing columns or unequal lengths.
    """
    tables = []
    for pattern in patterns:
        found = sorted(Path(folder).glob(pattern))
        if not found:
            raise SourceError(
                "a table of vectors", f"nothing matches {pattern!r}", where=str(folder), fix="habitus embed"
            )
        for path in found:
            table: Any = pl.read_parquet(path)
            if missing := {"user", "as_of", "vector"} - set(table.columns):
                raise SchemaError("columns user, as_of, vector", f"no {sorted(missing)}", where=str(path))
            vector = table["vector"].cast(pl.List(pl.Float32))
            table = table.select(pl.col("user").cast(pl.String), pl.col("as_of").cast(pl.Date)).with_columns(vector)
            tables.append(table)
    if not tables:
        raise SchemaError("patterns of vector tables", "none", where="vectors")
    whole = pl.concat(tables)
    lengths = whole["vector"].list.len().unique().to_list()
    if len(lengths) != 1:
        raise SchemaError("vectors of one length", f"lengths {sorted(lengths)}", where=str(folder))
    return whole.unique(["user", "as_of"], keep="last")


def vectors_before(shown: Impressions, vectors: pl.DataFrame) -> np.ndarray:
    """Give float32 [n, 1 + d]: is there a vector, and the latest of the user with `as_of` before the local day.

    A vector of day d holds day d, so an impression of day d takes one of day d - 1 or earlier. None: zeros.
    """
    asked = pl.DataFrame({"user": shown.ids["user"], "day": shown.day.astype(np.int64) - 1}).with_row_index("row")
    asked = asked.with_columns(pl.col("user").cast(pl.String)).sort("day")
    known = vectors.with_row_index("at").select("user", "at", day=pl.col("as_of").cast(pl.Int32).cast(pl.Int64))
    found = asked.join_asof(known.sort("day"), on="day", by="user", check_sortedness=False).sort("row")
    at = found["at"].fill_null(0).to_numpy().astype(np.int64)
    has = found["at"].is_not_null().to_numpy()
    values = np.asarray(vectors["vector"].explode().to_numpy(), np.float32).reshape(len(vectors), -1)
    out = np.zeros((len(shown), 1 + values.shape[1]), np.float32)
    out[:, 0] = has
    out[has, 1:] = values[at[has]]
    return out
