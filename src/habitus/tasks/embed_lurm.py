"""Embed a run of LURM: each user's whole life as one flat vector and one per anchor."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from habitus.core.atomic import write_json
from habitus.core.errors import CutoffError
from habitus.data.calendar import to_date, to_day
from habitus.data.store import Store
from habitus.models.artifact import Artifact, load_artifact
from habitus.tasks.lurm_fit import encode
from habitus.tasks.lurm_recipe import LurmRecipe
from habitus.tasks.predict import manifest, write_table
from habitus.tasks.run import Run
from habitus.tasks.train_lurm import interests_of
from habitus.tokens.bags import layers_of, life_of, newest_block
from habitus.tokens.blocks import block_until
from habitus.tokens.counts import count_interests
from habitus.tokens.interests import Interests
from habitus.tokens.stored_counts import stored_layers


def embed_lurm(
    run: Run[LurmRecipe], *, cutoff: str | dt.date | None = None, out: str | Path | None = None
) -> pl.DataFrame:
    """Give the vectors of every user of the store, of the first member.

    Columns `user, as_of, n_events, n_interests, last_event, flat` (float32, M P), `vectors` (M x P),
    `codebook_version, model`. A user without events by the cut-off gets the model's empty vector, `n_events` 0 and no
    `last_event`. `cutoff` is the last day of a block; None is everything ingested.

    Errors: `CutoffError` for a day inside a block, with the two nearest; `FingerprintError` for other interests.
    """
    artifact = load_artifact(run.artifact_path, fingerprint=interests_of(run).version)
    try:
        day = None if cutoff is None else to_day(cutoff)
    except ValueError:
        raise CutoffError("a date YYYY-MM-DD", repr(cutoff), where="cutoff") from None
    table = life_vectors(run, artifact, day)
    if out is not None:
        write_table(table, out)
        as_of = str(table["as_of"][0]) if table.height else None
        version = artifact.fingerprint
        facts = manifest(run, artifact, as_of=as_of, n_rows=table.height, codebook_version=version)
        write_json(Path(out).with_suffix(".manifest.json"), facts)
    return table


def life_vectors(run: Run[LurmRecipe], artifact: Artifact, day: int | None) -> pl.DataFrame:
    """Give the table of `embed_lurm` for the users of the run's store; what a worker does for a shard."""
    interests = interests_of(run)
    counts = _counted(run.store, interests)
    if day is None:
        block = max(newest_block(part) for part in counts)
    else:
        block = block_until(day, interests.block, interests.week_starts)
    read = [_read(artifact.members[0], part, interests, block) for part in counts]
    flat, vectors, n_events, n_interests = (np.concatenate(column) for column in zip(*read))
    users = np.arange(run.store.n_users)
    model = artifact.manifest["files"]["weights-0.safetensors"][:16]
    return pl.DataFrame(
        {
            "user": run.store.users["user"],
            "as_of": pl.Series([to_date(run.store.last_day if day is None else day)]).new_from_index(0, len(users)),
            "n_events": n_events,
            "n_interests": n_interests,
            "last_event": last_events(run.store, day),
            "flat": pl.Series(flat, dtype=pl.Array(pl.Float32, flat.shape[1])),
            "vectors": pl.Series(vectors, dtype=pl.Array(pl.Float32, vectors.shape[1:])),
            "codebook_version": pl.Series([interests.version]).new_from_index(0, len(users)),
            "model": pl.Series([model]).new_from_index(0, len(users)),
        }
    )


def _counted(store: Store, interests: Interests) -> list[Any]:
    """Give the counts that the store keeps, shard by shard; counted now where it keeps none of these interests."""
    if interests.version in store.manifest.get("interests", {}):
        return list(stored_layers(store, interests.version))
    return [count_interests(store, interests)]


def _read(model: Any, counts: Any, interests: Interests, block: int) -> tuple[np.ndarray, ...]:
    """Give flat, vectors, events and distinct interests of all users of some counts."""
    users = np.arange(len(layers_of(counts)[0].user_offsets) - 1)
    flat, vectors = encode(model, counts, interests, users, block)
    rows = life_of(counts, users, block)
    pairs = np.unique(rows.row * interests.n + rows.interest)
    n_events = np.bincount(rows.row, weights=rows.n, minlength=len(users)).astype(np.int64)
    return flat, vectors, n_events, np.bincount(pairs // interests.n, minlength=len(users))


def last_events(store: Store, day: int | None) -> pl.Series:
    """Give the day of each user's last event by `day` (None: of all), null without one."""
    found = []
    for i in range(store.n_shards):
        shard = store.shard(i)
        late = np.concatenate([[0], np.cumsum(shard.day <= day)]) if day is not None else np.arange(shard.n_events + 1)
        n = late[shard.offsets[1:]] - late[shard.offsets[:-1]]  # rows are in order of time within a user
        at = np.maximum(shard.offsets[:-1] + n - 1, 0)
        days = pl.Series(shard.day[at] if shard.n_events else np.zeros(0, np.int32), dtype=pl.Int32)
        found.append(pl.select(pl.when(pl.Series(n > 0)).then(days)).to_series().cast(pl.Date))
    return pl.concat(found) if found else pl.Series([], dtype=pl.Date)
