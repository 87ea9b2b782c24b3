"""Describe: what a user's vectors are made of, interest by interest and anchor by anchor, in names."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import torch

from habitus.core.errors import FingerprintError
from habitus.tokens.bags import NOW, raw_bag, rows_of


def describe(
    model: Any, interests: Any, counts: Any, users: np.ndarray, *, cutoff_block: int = NOW, k: int = 5
) -> pl.DataFrame:
    """Give the k weightiest interests of each anchor of each user.

    Columns `row` (place in `users`), `anchor`, `share` (of the life bag that passes this anchor's gate; sums to 1 over
    anchors), `rank`, `interest` (its name), `n` (events), `weight` (of the interest in the bag, through the gate).
    Rows without weight are left out, so a user without events has none.
    Errors: `FingerprintError` for counts of other interests.

    What it does not do: explain a forecast. It says what was put in, not what a head made of it.
    """
    if counts.version != interests.version:
        raise FingerprintError(f"counts of interests {interests.version}", counts.version, where="describe")
    users = np.asarray(users, np.int64)
    bag = raw_bag(counts, interests, users, cutoff_block).tocoo()
    rows = rows_of(counts, users, cutoff_block)
    n = pl.DataFrame({"row": rows.row, "at": rows.interest, "n": rows.n}).group_by("row", "at").agg(pl.col("n").sum())
    with torch.no_grad():
        gate = model.gates(model.table[torch.from_numpy(bag.col.astype(np.int64))]).numpy()
    m = gate.shape[1]
    table = pl.DataFrame(
        {
            "row": np.repeat(bag.row.astype(np.int64), m),
            "at": np.repeat(bag.col.astype(np.int64), m),
            "anchor": np.tile(np.arange(m), len(bag.data)),
            "weight": (bag.data[:, None] * gate).ravel(),
        }
    ).filter(pl.col("weight") > 1e-6)
    names = pl.DataFrame({"at": np.arange(interests.n), "interest": list(interests.names)})
    share = pl.col("weight").sum().over("row", "anchor") / pl.col("weight").sum().over("row")
    ranked = (
        table.with_columns(share=share)
        .sort("row", "anchor", "weight", "at", descending=[False, False, True, False])
        .with_columns(rank=pl.int_range(pl.len()).over("row", "anchor") + 1)
        .filter(pl.col("rank") <= k)
    )
    named = ranked.join(n.cast({"at": pl.Int64, "row": pl.Int64}), on=["row", "at"], how="left", maintain_order="left")
    named = named.join(names, on="at", how="left", maintain_order="left")
    return named.select("row", "anchor", "share", "rank", "interest", "n", "weight")
