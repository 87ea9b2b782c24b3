"""Predict: one row per user and target, keyed by the user's own id."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from habitus.core.atomic import new_file, write_json
from habitus.core.engine import EngineConfig, as_engine
from habitus.core.errors import ConfigError, CutoffError
from habitus.core.remote import address_of, staged
from habitus.data.calendar import to_date, to_day
from habitus.data.cutoffs import Samples, samples_on
from habitus.data.store import Store
from habitus.models.artifact import Artifact, load_artifact
from habitus.tasks.by_shard import answer_by_shard, day_asked, is_folder, needs_out
from habitus.tasks.event_recipe import EventRecipe
from habitus.tasks.forecast import LEVELS, Forecast, Heads, forecast
from habitus.tasks.run import Run, of_days, open_run, provenance
from habitus.tokens.loader import prepare
from habitus.tokens.spec import InputSpec

CHUNK = 100_000  # users forecast at a time: bounds memory
QUANTILES = tuple(f"q{round(level * 100):02d}" for level in LEVELS)


def predict(
    run: str | Path | Run,
    *,
    cutoff: str | dt.date | None = None,
    store: str | Path | None = None,
    out: str | Path | None = None,
    histories: Any = None,
    top: int = 10,
    is_new: bool = False,
    engine: EngineConfig | str | None = None,
) -> pl.DataFrame:
    """Forecast every target of every eligible user from the log up to a cut-off; of a model of events, what comes next.

    Parameters
    ----------
    run
        A run folder that holds an artifact.
    cutoff
        The last day that may be used; default: the last complete day of the store.
    store
        Overrides where the run's store was; it must have the same schema.
    out
        Parquet or CSV, here or at an address ("s3://..."), written atomically, with a manifest beside it: hashes of
        model, tokens and data, as-of day.
        Without an ending it is a folder of one file per shard of the store, which a killed call goes on with.
    histories, top, is_new
        For runs of events: see `predict_events`.
    engine
        Who answers: this process, or workers on Ray, shard by shard (see `by_shard`).

    Returns
    -------
    Table `user, as_of, target, value, q05 .. q95`: `value` is a calibrated probability for any and none, else the
    expected value in the target's unit; quantiles are null for probabilities. Where `out` is
    a folder, the list of its parts instead (see `answer_by_shard`).

    Errors: `CutoffError` outside the log or with nobody eligible; `FingerprintError` for a store of another schema;
    `EngineError`.
    """
    asked: dict[str, Any] = {"histories": histories, "top": top, "is_new": is_new, "engine": engine}
    if address_of(out) is not None:
        with staged(out) as here:
            return predict(run, cutoff=cutoff, store=store, out=here, **asked)
    run, workers = open_run(run, store), as_engine(engine)
    if not workers.is_local or is_folder(out):
        return _by_shard(run, cutoff, histories, top, is_new, out, workers)
    if isinstance(run.recipe, EventRecipe):
        from habitus.tasks.answer_events import predict_events

        return predict_events(run, cutoff=cutoff, histories=histories, top=top, is_new=is_new, out=out)
    if histories is not None or is_new:
        raise ConfigError("a run of events", "a run of user-days", where=str(run.path), fix="ask one")
    run = of_days(run)
    artifact = load_artifact(run.artifact_path)
    samples = eligible_at(run, cutoff)
    table = forecasts(run, artifact, samples)
    if out is not None:
        write_table(table, out)
        facts = manifest(run, artifact, as_of=str(to_date(int(samples.cutoff[0]))), n_rows=table.height)
        write_json(Path(out).with_suffix(".manifest.json"), facts)
    return table


def forecasts(run: Run, artifact: Artifact, samples: Samples) -> pl.DataFrame:
    """Give the table of `predict` for samples of the run's store."""
    spec = InputSpec.from_json(artifact.spec)
    heads = Heads(artifact.heads, artifact.day_heads)
    frames = []
    for begin in range(0, len(samples), CHUNK):
        part = samples.take(np.arange(begin, min(begin + CHUNK, len(samples))))
        inputs = prepare(run.store, spec, part, has_targets=False)
        frames.append(as_table(forecast(artifact.members, heads, inputs, artifact.calibration), heads, run.store))
    return pl.concat(frames)


def forecasts_on(run: Run, artifact: Artifact, day: int) -> pl.DataFrame | None:
    """Give the table of `predict` for whoever is eligible on a day; None for nobody. What a worker does for a shard."""
    samples = samples_on(run.store, run.recipe.cutoffs, day)
    return forecasts(run, artifact, samples) if len(samples) else None


def _by_shard(
    run: Run[Any],
    cutoff: str | dt.date | None,
    histories: Any,
    top: int,
    is_new: bool,
    out: str | Path | None,
    engine: EngineConfig,
) -> pl.DataFrame:
    goal = needs_out(out, histories)
    day = day_asked(run.store, cutoff)
    artifact = load_artifact(run.artifact_path)
    if isinstance(run.recipe, EventRecipe):
        from habitus.tasks.answer_events import next_values_on

        asked: dict[str, Any] = {"top": top, "is_new": is_new}
        facts = manifest(run, artifact, as_of=str(to_date(day)), **asked)
        return answer_by_shard(next_values_on, run, goal, engine, facts, day=day, arguments=asked)
    if is_new:
        raise ConfigError("a run of events", "a run of user-days", where=str(run.path), fix="ask one")
    facts = manifest(of_days(run), artifact, as_of=str(to_date(day)))
    return answer_by_shard(forecasts_on, run, goal, engine, facts, day=day, arguments={}, sort="user")


def eligible_at(run: Run, cutoff: str | dt.date | None) -> Samples:
    """List the users eligible at a cut-off day. Errors: `CutoffError`."""
    try:
        day = run.store.last_day if cutoff is None else to_day(cutoff)
    except ValueError:
        raise CutoffError("a date YYYY-MM-DD", repr(cutoff), where="cutoff") from None
    samples = samples_on(run.store, run.recipe.cutoffs, day)
    if not len(samples):
        conditions = list(run.recipe.cutoffs.eligible)
        raise CutoffError("at least one eligible user", f"none with {conditions}", where=f"cut-off {to_date(day)}")
    return samples


def as_table(answer: Forecast, heads: Heads, store: Store) -> pl.DataFrame:
    """Give one row per sample and window target."""
    ids = store.users["user"].gather(pl.Series(answer.samples.user))
    as_of = pl.Series(answer.samples.cutoff).cast(pl.Int32).cast(pl.Date)
    frames = []
    for k, head in enumerate(heads.window):
        columns = {"user": ids, "as_of": as_of, "target": pl.Series([head.name] * len(ids)), "value": answer.mean[:, k]}
        columns |= {name: answer.quantile[:, k, level] for level, name in enumerate(QUANTILES)}
        frames.append(pl.DataFrame(columns).with_columns(pl.col(QUANTILES).fill_nan(None)))
    return pl.concat(frames).sort("user", maintain_order=True)


def write_table(table: pl.DataFrame, out: str | Path) -> None:
    """Write Parquet, or CSV by the ending of the path, atomically."""
    with new_file(out) as beside:
        write = table.write_csv if Path(out).suffix == ".csv" else table.write_parquet
        write(beside)


def manifest(run: Run, artifact: Artifact, **facts: Any) -> dict[str, Any]:
    """Say what a result came from."""
    files = {name: value for name, value in artifact.manifest["files"].items() if name.startswith("weights")}
    return {
        **facts,
        "run": run.recipe.name,
        "spec_fingerprint": artifact.fingerprint,
        "store_fingerprint": run.store.fingerprint,
        "weights": files,
        **provenance(),
    }
