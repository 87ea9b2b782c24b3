"""What a model of events answers: what comes next, and vectors, for users of a store or histories handed in."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from habitus.core.atomic import write_json
from habitus.core.errors import ConfigError, CutoffError
from habitus.core.progress import track
from habitus.data.calendar import to_date
from habitus.data.cutoffs import ranges
from habitus.models.artifact import Artifact, load_artifact
from habitus.tasks.by_shard import day_asked
from habitus.tasks.event_calibration import tempered
from habitus.tasks.event_recipe import EventRecipe
from habitus.tasks.predict import manifest, write_table
from habitus.tasks.run import Run
from habitus.tokens.batch import EventBatch
from habitus.tokens.event_loader import EventInputs, EventLoader, last_states
from habitus.tokens.event_requests import request_inputs
from habitus.tokens.events import FIRST, EventSpec

CELLS = 16_000_000  # scores held at a time
TOKENS = 16_384  # places of a batch


@dataclass(frozen=True)
class Asked:
    """Users and the events they are judged by, in one order."""

    artifact: Artifact
    spec: EventSpec
    inputs: EventInputs
    users: pl.Series
    as_of: dt.date | None


def predict_events(
    run: Run[EventRecipe],
    *,
    cutoff: str | dt.date | None = None,
    histories: Any = None,
    top: int = 10,
    is_new: bool = False,
    out: str | Path | None = None,
) -> pl.DataFrame:
    """Tell the `top` most probable values of the next event's field, per user: user, as_of, rank, FIELD, probability.

    Members are averaged, and calibrated by the temperature that validation chose. With `is_new`, what the user had
    before is left out and the rest is not scaled up: its probabilities no longer sum to 1. `histories` is a table (see
    `request_inputs`); then `as_of` is null.

    Errors: `CutoffError` outside the log; `SchemaError` for histories without a needed column.
    """
    asked = ask_events(run, cutoff, histories)
    table = next_values(asked, run.recipe.field, top=top, is_new=is_new)
    return _written(run, asked, table, out, top=top)


def next_values(asked: Asked, field: str, *, top: int = 10, is_new: bool = False) -> pl.DataFrame:
    """Give the table of `predict_events` for users that were looked up already."""
    column, n_rows = asked.spec.column(field), asked.spec.shape.n_rows(field)
    if top < 1:
        raise ConfigError("at least 1", str(top), where="top")
    top = min(top, n_rows - FIRST)
    temperature = asked.artifact.calibration.get("temperature", 1.0)
    ids, chance = np.zeros((len(asked.users), top), np.int64), np.zeros((len(asked.users), top), np.float32)
    loader = EventLoader(asked.inputs, tokens_per_batch=min(TOKENS, max(CELLS // n_rows, 1)))
    with torch.no_grad():
        for batch in track(loader, "predict", len(loader)):
            share = tempered(_shares(asked.artifact.members, batch, field), temperature)
            share[:, :FIRST] = -1.0
            if is_new:
                share[_had(asked.inputs, batch, column)] = -1.0
            best = share.topk(top, dim=1)
            ids[batch.sample.numpy()], chance[batch.sample.numpy()] = best.indices.numpy(), best.values.numpy()
    texts = _texts(asked.spec, field)
    return pl.DataFrame(
        {
            "user": asked.users.gather(np.repeat(np.arange(len(ids)), top)),
            "as_of": pl.Series([asked.as_of], dtype=pl.Date).new_from_index(0, ids.size),
            "rank": np.tile(np.arange(1, top + 1), len(ids)),
            field: texts.gather(ids.ravel().clip(min=FIRST) - FIRST),
            "probability": chance.ravel(),
        }
    ).filter(pl.col("probability") >= 0)


def embed_events(
    run: Run[EventRecipe],
    *,
    cutoff: str | dt.date | None = None,
    histories: Any = None,
    per_event: bool = False,
    out: str | Path | None = None,
) -> pl.DataFrame:
    """Give every user's vector after the last event: user, as_of, n_events, vector; of the first member.

    With `per_event`, one row for each of the last T events instead: user, time (UTC), vector. Errors: as
    `predict_events`; `ConfigError` for a counted model, which has no vectors.
    """
    asked = ask_events(run, cutoff, histories)
    table = event_vectors(asked, per_event=per_event)
    return _written(run, asked, table, out, per_event=per_event)


def event_vectors(asked: Asked, *, per_event: bool = False) -> pl.DataFrame:
    """Give the table of `embed_events` for users that were looked up already."""
    member = asked.artifact.members[0]
    if not hasattr(member, "embed"):
        fix = "train a neural one"
        raise ConfigError(
            "a model with vectors", f"{asked.artifact.name}, which counts", where=asked.artifact.name, fix=fix
        )
    loader, found = EventLoader(asked.inputs, tokens_per_batch=TOKENS), []
    with torch.no_grad():
        for batch in track(loader, "embed", len(loader)):
            row, place = (~batch.is_padding).nonzero(as_tuple=True)
            if per_event:
                found.append((batch.sample[row], batch.time[row, place], member(batch)[row, place]))
            else:
                found.append((batch.sample, batch.length, member.embed(batch)))
    sample, number, vectors = (torch.cat(part).numpy() for part in zip(*found))
    order = np.argsort(sample, kind="stable")
    vector = pl.Series(vectors[order], dtype=pl.Array(pl.Float32, vectors.shape[1]))
    users = asked.users.gather(sample[order])
    if per_event:
        time = pl.Series(number[order] * 1_000_000).cast(pl.Datetime("us", "UTC"))
        return pl.DataFrame({"user": users, "time": time, "vector": vector})
    as_of = pl.Series([asked.as_of], dtype=pl.Date).new_from_index(0, len(order))
    return pl.DataFrame({"user": users, "as_of": as_of, "n_events": number[order], "vector": vector})


def next_values_on(
    run: Run[EventRecipe], artifact: Artifact, day: int, *, top: int, is_new: bool
) -> pl.DataFrame | None:
    """Give the table of `predict_events` at a day; None without a user. What a worker does for a shard."""
    asked = _asked_on(run, artifact, day)
    return None if asked is None else next_values(asked, run.recipe.field, top=top, is_new=is_new)


def event_vectors_on(run: Run[EventRecipe], artifact: Artifact, day: int, *, per_event: bool) -> pl.DataFrame | None:
    """Give the table of `embed_events` at a day; None without a user. What a worker does for a shard."""
    asked = _asked_on(run, artifact, day)
    return None if asked is None else event_vectors(asked, per_event=per_event)


def _asked_on(run: Run[EventRecipe], artifact: Artifact, day: int) -> Asked | None:
    is_there = bool((run.store.users["first_day"].to_numpy() <= day).any())
    return ask_events(run, to_date(day), None, artifact=artifact) if is_there else None


def ask_events(
    run: Run[EventRecipe],
    cutoff: str | dt.date | None,
    histories: Any,
    *,
    users: np.ndarray | None = None,
    artifact: Artifact | None = None,
) -> Asked:
    """Look up who is asked about: all users with an event by the cut-off, those at `users`, or histories handed in."""
    artifact = artifact or load_artifact(run.artifact_path)
    spec = EventSpec.from_json(artifact.spec)
    if histories is not None:
        read = pl.read_csv if str(histories).endswith(".csv") else pl.read_parquet
        table = read(histories) if isinstance(histories, str | Path) else histories
        inputs, owners = request_inputs(spec, table)
        return Asked(artifact, spec, inputs, owners, None)
    day = day_asked(run.store, cutoff)
    chosen = np.flatnonzero(run.store.users["first_day"].to_numpy() <= day)
    chosen = chosen if users is None else users[np.isin(users, chosen)]
    if not len(chosen):
        raise CutoffError("a user with an event by then", "none", where=f"cut-off {to_date(day)}")
    inputs = last_states(run.store, spec, chosen, np.full(len(chosen), day, np.int32))
    return Asked(artifact, spec, inputs, run.store.users["user"].gather(chosen), to_date(day))


def _shares(members: tuple[Any, ...], batch: EventBatch, field: str) -> Tensor:
    """Probabilities of the next value, B n_rows, averaged over members."""
    share = members[0].scores(batch, field).softmax(dim=1)
    for member in members[1:]:
        share += member.scores(batch, field).softmax(dim=1)
    return share / len(members)


def _had(inputs: EventInputs, batch: EventBatch, column: int) -> tuple[Tensor, Tensor]:
    """Rows of the batch and values that their users had, in all of their past."""
    part = inputs.stretches.take(batch.sample.numpy())
    row, at = ranges(inputs.table.offsets[part.user], part.high)
    return torch.from_numpy(row), torch.from_numpy(inputs.table.ids[at, column].astype(np.int64))


def _texts(spec: EventSpec, field: str) -> pl.Series:
    """The values of a field, id - FIRST -> text; ids themselves where they have no text."""
    if field in spec.values:
        return pl.Series(spec.values[field], dtype=pl.String)
    return pl.Series(np.arange(FIRST, spec.shape.n_rows(field)))


def _written(
    run: Run[EventRecipe], asked: Asked, table: pl.DataFrame, out: str | Path | None, **facts: Any
) -> pl.DataFrame:
    if out is not None:
        write_table(table, out)
        as_of = None if asked.as_of is None else str(asked.as_of)
        told = manifest(run, asked.artifact, as_of=as_of, n_rows=table.height, **facts)
        write_json(Path(out).with_suffix(".manifest.json"), told)
    return table
