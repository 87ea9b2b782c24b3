"""Predict: one row per user and target, keyed by the user's own id."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from habitus.core.atomic import new_file, write_json
from habitus.core.errors import ConfigError, CutoffError
from habitus.data.calendar import to_date, to_day
from habitus.data.cutoffs import Samples, samples_on
from habitus.data.store import Store
from habitus.models.artifact import Artifact, load_artifact
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
        Parquet or CSV, written atomically, with a manifest beside it: hashes of model, tokens and data, as-of day.
    histories, top, is_new
        For runs of events: see `predict_events`.

    Returns
    -------
    Table `user, as_of, target, value, q05 .. q95`: `value` is a calibrated probability for any and none, else the
    expected value in the target's unit; quantiles are null for probabilities.

    Errors: `CutoffError` outside the log or with nobody eligible; `FingerprintError` for a store of another schema.
    """
    run = open_run(run, store)
    if isinstance(run.recipe, EventRecipe):
        from habitus.tasks.answer_events import predict_events

        return predict_events(run, cutoff=cutoff, histories=histories, top=top, is_new=is_new, out=out)
    if histories is not None or is_new:
        raise ConfigError("a run of events", "a run of user-days", where=str(run.path), fix="ask one")
    run = of_days(run)
    artifact = load_artifact(run.artifact_path)
    samples = eligible_at(run, cutoff)
    spec = InputSpec.from_json(artifact.spec)
    heads = Heads(artifact.heads, artifact.day_heads)
    frames = []
    for begin in range(0, len(samples), CHUNK):
        part = samples.take(np.arange(begin, min(begin + CHUNK, len(samples))))
        inputs = prepare(run.store, spec, part, has_targets=False)
        frames.append(as_table(forecast(artifact.members, heads, inputs, artifact.calibration), heads, run.store))
    table = pl.concat(frames)
    if out is not None:
        write_table(table, out)
        facts = manifest(run, artifact, as_of=str(to_date(int(samples.cutoff[0]))), n_rows=table.height)
        write_json(Path(out).with_suffix(".manifest.json"), facts)
    return table


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
