"""What an extra calendar costs, as a share of a full forward pass: the model alone, and the verb on Online Retail."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import torch

from benchmarks.record import record, size_option
from habitus.data.calendar import Calendar, to_date
from habitus.data.cutoffs import samples_of
from habitus.data.ingest import ingest
from habitus.data.sources.online_retail import online_retail
from habitus.models.lumos import Lumos, LumosConfig, LumosShape
from habitus.tasks.recipe import Recipe
from habitus.tasks.train import fit_heads, shape_of
from habitus.tasks.whatif.days import DayPlan
from habitus.tasks.whatif.futures import Future, answers
from habitus.testing.contracts import day_batch
from habitus.tokens.loader import Inputs, prepare
from habitus.tokens.spec import fit_spec

RECIPE = Path(__file__).parents[1] / "recipes" / "online_retail_demo.toml"
HISTORY = 360


def main() -> None:
    """Measure both; only the ratios are worth quoting."""
    n = 3 if size_option(__doc__) == "small" else 9
    for horizon in (7, 28):
        shape = LumosShape(n_activity=13, n_known=32, n_profile=9, history=HISTORY, horizon=horizon, outputs=(1,) * 5)
        for n_kept in (HISTORY, 20):
            share = of_model(shape, n_kept, n)
            words = f"extra calendar : full forward, reference width, {n_kept} kept days, F = {horizon}"
            record("whatif", words, share, "share")
    for name, share in of_verb(n).items():
        record("whatif", f"extra calendar : full pass on Online Retail, tiny, {name}", share, "share")


def of_model(shape: LumosShape, n_kept: int, n: int, batch_size: int = 8) -> float:
    """Time a decode of an encoded batch against encode + decode; the model is as wide and deep as the reference."""
    model = Lumos(LumosConfig.parse({"size": "base"}), shape).eval()
    batch = day_batch(batch_size, shape, n_targets=len(shape.outputs), n_days=n_kept, seed=0)  # pyright: ignore
    with torch.no_grad():
        cache = model.encode(batch)
        return ratio(lambda: model.decode(cache, batch.known_future), lambda: model(batch), n)


def of_verb(n: int) -> dict[str, float]:
    """Time the pass over all users with one calendar more against the pass with one: batches and answers included."""
    recipe = Recipe.read(RECIPE)
    with tempfile.TemporaryDirectory() as folder:
        store = ingest(online_retail(), Path(folder) / "online_retail.store")
        samples = samples_of(store, recipe.cutoffs, "test")
        samples = samples.take(np.flatnonzero(samples.cutoff == samples.cutoff.max()))
        spec = fit_spec(store, recipe.tokens, samples, recipe.window_targets, day_targets=recipe.day_targets)
        base = prepare(store, spec, samples)
        heads = fit_heads(recipe, base)
        model = Lumos(LumosConfig.parse({"size": "tiny", "d_profile": 128}), shape_of(spec, heads)).eval()
        found, plan = {}, DayPlan.of(heads, recipe)
        for name, calendar in _edited(base).items():
            other = base.with_calendar(calendar, store.users["user"].to_numpy())
            both = [Future(base, has_detail=True), Future(other, has_detail=True)]
            more, one = (partial(answers, [model], heads, f, plan) for f in (both, both[:1]))
            found[name] = ratio(more, one, n) - 1
    return found


def _edited(base: Inputs) -> dict[str, Calendar]:
    """An event more: for everybody, and for one user in a hundred."""
    day = str(to_date(int(base.samples.cutoff[0]) + 10))
    users = base.store.users["user"].cast(pl.String)[::100]
    few = pl.DataFrame({"audience": ["few"] * len(users), "user": users})
    event = {"event": "extra", "type": base.spec.event_types[0], "start": day}
    plan: Calendar = base.store.calendar
    return {
        "an event for all": plan.joined(Calendar.build([event])),
        "an event for 1 % of the users": plan.joined(Calendar.build([event | {"audience": "few"}], few)),
    }


def ratio(one: Callable[[], object], whole: Callable[[], object], n: int) -> float:
    """Give the median over n rounds of time(one) / time(whole), measured in turn so that a busy machine hits both."""
    for run in (one, whole):
        run()
    return statistics.median(_seconds(one) / _seconds(whole) for _ in range(n))


def _seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
