"""Prepared instants of Stats.StackExchange as rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from habitus.apps.personas.features import distinct
from habitus.apps.personas.rows import Rows
from habitus.data.sources.persona_stats_se import NUMBERS

if TYPE_CHECKING:
    import polars as pl


def rows_of_instants(table: pl.DataFrame) -> Rows:
    """Give prepared instants as rows: the exact key is the last three types, the near one the last type."""
    import polars as pl

    texts, text_of = distinct(table["post_text"])
    return Rows(
        content=table["content"].to_numpy(), cluster=table["cluster"].to_numpy(),
        label=table["label"].to_numpy().astype(np.int64), key=table["post_key"].to_numpy(),
        near=table["near_key"].to_numpy(), unit=table["unit"].to_numpy(),
        numbers=np.stack([table[name].to_numpy() for name in NUMBERS], axis=1).astype(np.float32), text_of=text_of,
        texts=texts, replies=pl.repeat("", len(table), eager=True), ids=table["thread_id"], names=NUMBERS,
    )  # fmt: skip
