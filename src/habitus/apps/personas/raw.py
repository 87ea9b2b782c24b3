"""From a raw dump to threads with personas: users by their texts before the training end, clusters, JSON lines."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import numpy as np

from habitus.apps.personas.clusters import assign, fit_clusters, squared
from habitus.apps.personas.encode import fit_encoder
from habitus.apps.personas.settings import TextSettings
from habitus.core.atomic import new_folder, write_json
from habitus.core.errors import SourceError
from habitus.data.sources.persona_commits import read_commits, write_threads


def prepare_dump(
    dump: str | Path,
    out: str | Path,
    *,
    n_personas: int = 25,
    least: int = 10,
    languages: tuple[str, ...] = ("en",),
    train_share: float = 0.8,
    text: TextSettings | None = None,
    seed: int = 0,
    secret: str | None = None,
) -> dict[str, Any]:
    """Write OUT/threads.jsonl, OUT/personas.parquet (did, cluster) and OUT/counts.json from a raw stream of commits.

    Users have a persona with two texts or more in one of `languages`. Encoder and clusters see only texts of the first
    `train_share` of all commits; who came later joins the nearest centre. The secret that hashes ids is drawn anew and
    kept nowhere unless it is given. personas.parquet names users: keep it to yourself.
    Errors: `SourceError` for a dump without enough users; `DiskError` when OUT exists.
    """
    import polars as pl

    read = read_commits(dump)
    texts = read.texts(languages)
    kept = texts.group_by("did").len().filter(pl.col("len") >= 2).select("did").sort("did")
    early = texts.filter(pl.col("rank") <= train_share * read.last_rank()).join(kept, on="did")
    if early["did"].n_unique() < n_personas * least:
        found = f"{early['did'].n_unique():,} before the training end"
        raise SourceError(f"{n_personas * least:,} users with texts", found, where=str(dump), fix="fewer personas")
    encoder = fit_encoder(text or TextSettings(width=128), early["text"], seed=seed)
    who, vectors = _means(early, encoder)
    centres = fit_clusters(vectors, n_personas, least=least, seed=seed)
    clusters = assign(squared(vectors, centres), least)
    later = texts.join(kept, on="did").join(who, on="did", how="anti")
    table = who.with_columns(cluster=pl.Series(clusters.astype(np.int32)))
    if len(later):
        names, more = _means(later, encoder)
        near = squared(more, centres).argmin(axis=1)
        table = pl.concat([table, names.with_columns(cluster=pl.Series(near.astype(np.int32)))])
    with new_folder(out) as folder:
        counts = write_threads(read, table, folder / "threads.jsonl", secret=secret or secrets.token_hex(16))
        table.write_parquet(folder / "personas.parquet")
        facts = {"n_read": read.n_read, "rejected": read.reasons, "actions": counts, "n_users": len(table)}
        write_json(folder / "counts.json", facts)
    read.close()
    return facts


def _means(texts: Any, encoder: Any) -> tuple[Any, np.ndarray]:
    """Mean vector of each user's texts, users in order of name."""
    import polars as pl

    table = texts.sort("did", "rank")
    vectors = encoder.encode(table["text"])
    names = table["did"].unique(maintain_order=True)
    code = table["did"].rle_id().to_numpy()
    sums = np.stack([np.bincount(code, weights=column) for column in vectors.T], axis=1)
    return pl.DataFrame({"did": names}), (sums / np.bincount(code)[:, None]).astype(np.float32)
