"""Embed: each user as one vector, the encoded days of the past pooled."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import polars as pl
import torch
from torch import Tensor

from habitus.core.atomic import write_json
from habitus.core.engine import EngineConfig, as_engine
from habitus.core.errors import ConfigError, nearest
from habitus.core.progress import track
from habitus.core.remote import address_of, staged
from habitus.data.calendar import to_date
from habitus.data.cutoffs import Samples, samples_on
from habitus.models.artifact import Artifact, load_artifact
from habitus.tasks.by_shard import answer_by_shard, day_asked, is_folder, needs_out
from habitus.tasks.event_recipe import EventRecipe
from habitus.tasks.lurm_recipe import LurmRecipe
from habitus.tasks.predict import eligible_at, manifest, write_table
from habitus.tasks.run import Run, open_run
from habitus.tokens.loader import DayLoader, Inputs, prepare
from habitus.tokens.spec import InputSpec

Pooling = Literal["mean", "max", "last", "recent"]
RECENCY = 10.0  # lambda of the weights softmax(lambda * day / (H - 1))


def embed(
    run: str | Path | Run,
    *,
    cutoff: str | dt.date | None = None,
    store: str | Path | None = None,
    out: str | Path | None = None,
    pooling: Pooling = "recent",
    histories: Any = None,
    per_event: bool = False,
    engine: EngineConfig | str | None = None,
) -> pl.DataFrame:
    """Give every eligible user's vector at a cut-off: `user, as_of, n_days, vector` (float32, length D).

    The first member's encoder output h is pooled over the kept days: `mean`, `max`, `last`, or `recent`, weights
    softmax(10 day / (H - 1)), which lean towards the cut-off. Vectors of two runs, or of two members, do not compare.
    For a run of events see `embed_events`, which takes `histories` and `per_event` and has no pooling;
    for a run of LURM `embed_lurm`, with neither. `engine`, and an `out` without an ending: as for `predict`.

    Errors: as `predict`; `ConfigError` for an unknown pooling.
    """
    if pooling not in get_args(Pooling):
        meant = nearest(pooling, get_args(Pooling))
        raise ConfigError("one of " + ", ".join(get_args(Pooling)), repr(pooling), fix=f"did you mean {meant!r}?")
    asked: dict[str, Any] = {"pooling": pooling, "histories": histories, "per_event": per_event, "engine": engine}
    if address_of(out) is not None:
        with staged(out) as here:
            return embed(run, cutoff=cutoff, store=store, out=here, **asked)
    run, workers = open_run(run, store), as_engine(engine)
    if not workers.is_local or is_folder(out):
        return _by_shard(run, cutoff, pooling, histories, per_event, out, workers)
    if isinstance(run.recipe, LurmRecipe):
        from habitus.tasks.embed_lurm import embed_lurm

        return embed_lurm(run, cutoff=cutoff, out=out)
    if isinstance(run.recipe, EventRecipe):
        from habitus.tasks.answer_events import embed_events

        return embed_events(run, cutoff=cutoff, histories=histories, per_event=per_event, out=out)
    if histories is not None or per_event:
        raise ConfigError(
            "a run of events", "a run of user-days", where=str(run.path), fix="leave histories, events out"
        )
    artifact = load_artifact(run.artifact_path)
    samples = eligible_at(run, cutoff)
    table = day_vectors(run, artifact, samples, pooling)
    if out is not None:
        write_table(table, out)
        facts = manifest(run, artifact, as_of=str(to_date(int(samples.cutoff[0]))), pooling=pooling)
        write_json(Path(out).with_suffix(".manifest.json"), facts)
    return table


def day_vectors(run: Run, artifact: Artifact, samples: Samples, pooling: Pooling) -> pl.DataFrame:
    """Give the table of `embed` for samples of the run's store."""
    inputs = prepare(run.store, InputSpec.from_json(artifact.spec), samples, has_targets=False)
    vectors = vectors_of(artifact.members[0], inputs, pooling)
    return pl.DataFrame(
        {
            "user": run.store.users["user"].gather(pl.Series(samples.user)),
            "as_of": pl.Series(samples.cutoff).cast(pl.Int32).cast(pl.Date),
            "n_days": inputs.high - inputs.low,
            "vector": pl.Series(vectors, dtype=pl.Array(pl.Float32, vectors.shape[1])),
        }
    )


def day_vectors_on(run: Run, artifact: Artifact, day: int, *, pooling: Pooling) -> pl.DataFrame | None:
    """Give the table of `embed` for whoever is eligible on a day; None for nobody. What a worker does for a shard."""
    samples = samples_on(run.store, run.recipe.cutoffs, day)
    return day_vectors(run, artifact, samples, pooling) if len(samples) else None


def _by_shard(
    run: Run[Any],
    cutoff: str | dt.date | None,
    pooling: Pooling,
    histories: Any,
    per_event: bool,
    out: str | Path | None,
    engine: EngineConfig,
) -> pl.DataFrame:
    goal, artifact = needs_out(out, histories), load_artifact(run.artifact_path)
    asked: dict[str, Any] = {}
    if isinstance(run.recipe, LurmRecipe):
        from habitus.tasks.embed_lurm import life_vectors as answer

        day = None if cutoff is None else day_asked(run.store, cutoff)
    else:
        day = day_asked(run.store, cutoff)
        if isinstance(run.recipe, EventRecipe):
            from habitus.tasks.answer_events import event_vectors_on as answer

            asked = {"per_event": per_event}
        else:
            answer, asked = day_vectors_on, {"pooling": pooling}
    as_of = str(to_date(run.store.last_day if day is None else day))
    facts = manifest(run, artifact, as_of=as_of, **asked)
    return answer_by_shard(answer, run, goal, engine, facts, day=day, arguments=asked)


def vectors_of(member: Any, inputs: Inputs, pooling: Pooling = "recent") -> np.ndarray:
    """Give the vector of every sample by one member, float32 [n, D]."""
    loader = DayLoader(inputs, batch_size=1024)
    vectors = np.zeros((len(inputs), member.config.d_model), np.float32)
    with torch.no_grad():
        for batch in track(loader, "embed", len(loader)):
            h = member.encode(batch).h
            vectors[batch.sample.numpy()] = _pooled(
                h, batch.day, ~batch.is_padding, inputs.spec.tokens.history, pooling
            )
    return vectors


def _pooled(h: Tensor, day: Tensor, is_kept: Tensor, history: int, pooling: Pooling) -> np.ndarray:
    """Pool B S D over the kept days."""
    if pooling == "max":
        return h.masked_fill(~is_kept[..., None], -torch.inf).amax(dim=1).numpy()
    if pooling == "last":
        last = torch.where(is_kept, day, -1).argmax(dim=1)
        return h[torch.arange(len(h)), last].numpy()
    score = RECENCY * day / max(history - 1, 1) if pooling == "recent" else torch.zeros_like(day, dtype=h.dtype)
    weight = score.masked_fill(~is_kept, -torch.inf).softmax(dim=1)
    return (weight[..., None].to(h.dtype) * h).sum(dim=1).numpy()
