"""Describe: what a user's vectors are made of, interest by interest and anchor by anchor, in names."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import torch

from habitus.core.errors import FingerprintError
from habitus.tokens.bags import NOW, raw_bag, rows_of

RHYTHM = "when and how often, whatever the interest"


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


def describe_anchors(
    model: Any, interests: Any, counts: Any, users: np.ndarray, cutoff_block: int, mass: np.ndarray, k: int = 8
) -> list[dict[str, Any]]:
    """Give each anchor's share of the mass [n, M] over `users`, its k weightiest interests by name, and its twin.

    The weight of an interest is that of all their bags, times its gate. `twin` is the anchor whose gates lie most
    alike over the interests, `likeness` the cosine of the two. The anchor of the rhythm has no interests. An encoder
    without gates has no anchors to describe.
    """
    if not hasattr(model, "gates") or not len(users):
        return []
    weight = np.asarray(raw_bag(counts, interests, users, cutoff_block).sum(axis=0)).ravel()
    with torch.no_grad():
        gate = model.gates(model.table).numpy() * weight[:, None]
    size = np.linalg.norm(gate, axis=0)
    alike = gate.T @ gate / np.maximum(size[:, None] * size, 1e-12)
    np.fill_diagonal(alike, -1.0)
    top = np.argsort(-gate, axis=0, kind="stable")[:k]
    found = [
        {
            "share": float(mass[:, m].mean()),
            "interests": [interests.names[v] for v in top[:, m] if gate[v, m] > 1e-3 * gate[top[0, m], m] > 0],
            "twin": int(alike[m].argmax()) if gate.shape[1] > 1 else None,
            "likeness": float(alike[m].max()) if gate.shape[1] > 1 else None,
        }
        for m in range(gate.shape[1])
    ]
    if mass.shape[1] > len(found):
        found.append({"share": float(mass[:, -1].mean()), "interests": [RHYTHM], "twin": None, "likeness": None})
    return found
