"""The loader and a training step on Online Retail: speed, padding, waiting, and sparse against dense."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.record import record, size_option
from habitus.data.cutoffs import samples_of
from habitus.data.ingest import ingest
from habitus.data.sources.online_retail import online_retail
from habitus.models.lumos import Lumos, LumosConfig
from habitus.tasks.recipe import Recipe
from habitus.tasks.train import fit_heads, shape_of
from habitus.tokens.loader import DayLoader, Inputs, prepare
from habitus.tokens.spec import fit_spec
from habitus.training.fit import TrainingConfig, fit
from habitus.training.objectives.multi_task import MultiTask

RECIPE = Path(__file__).parents[1] / "recipes" / "online_retail_lumos.toml"


def main() -> None:
    """Measure both token forms in one run; ratios are what to quote."""
    n_epochs = 1 if size_option(__doc__) == "small" else 3
    recipe = Recipe.read(RECIPE)
    with tempfile.TemporaryDirectory() as folder:
        store = ingest(online_retail(), Path(folder) / "online_retail.store")
        samples = samples_of(store, recipe.cutoffs, "train")
        speed = {}
        for keep in ("sparse", "all"):
            tokens = recipe.tokens.model_copy(update={"keep": keep})
            spec = fit_spec(store, tokens, samples, recipe.window_targets, day_targets=recipe.day_targets)
            inputs = prepare(store, spec, samples)
            served(inputs, store, keep)
            speed[keep] = trained(recipe, inputs, Path(folder) / keep, keep, n_epochs if keep == "sparse" else 1)
        record("loader", "training samples/s, sparse : dense at H = 180", speed["sparse"] / speed["all"])


def served(inputs: Inputs, store, keep: str) -> None:
    """Serve one epoch without a model."""
    loader = DayLoader(inputs, batch_size=256, per_user=4, is_training=True)
    n, events = 0, 0
    per_day = inputs.table.value[:, [inputs.spec.features.index(f"count({name})") for name in store.types]].sum(axis=1)
    total = np.r_[0, np.cumsum(per_day, dtype=np.float64)]
    began = time.perf_counter()
    for batch in loader:
        rows = batch.sample.numpy()
        n += len(rows)
        events += (total[inputs.high[rows]] - total[inputs.low[rows]]).sum()
    seconds = time.perf_counter() - began
    record("loader", f"user-days served, {keep}", loader.n_tokens / seconds, "days/s")
    record("loader", f"events behind them, {keep}", events / seconds, "events/s")
    record("loader", f"padding, {keep}", 1 - loader.n_tokens / loader.n_places, "share")


def trained(recipe: Recipe, inputs: Inputs, folder: Path, keep: str, n_epochs: int) -> float:
    """Train the tiny model; give samples per second."""
    heads = fit_heads(recipe, inputs)
    model = Lumos(LumosConfig.parse({"size": "tiny", "d_profile": 128}), shape_of(inputs.spec, heads))
    objective = MultiTask(heads.window, day_heads=heads.day)
    loader = DayLoader(inputs, batch_size=256, per_user=4, is_training=True)
    config = TrainingConfig.parse({"epochs": n_epochs, "loggers": []})
    found = fit(model, objective, loader, None, config, folder).throughput
    record("loader", f"share of a training step spent waiting for the loader, {keep}", found["wait_share"], "share")
    record("loader", f"user-days trained, {keep}", found["positions_per_second"], "days/s")
    record("loader", f"MFU against this machine's matmul peak, {keep}", found["mfu"], "share")
    return found["samples_per_second"]


if __name__ == "__main__":
    main()
