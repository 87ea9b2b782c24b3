"""Ablations of LUMOS: one change at a time, several seeds, scored on validation; a run that was stopped goes on.

    python -m benchmarks.ablations --size full            # every change that has no figures yet
    python -m benchmarks.ablations --size full --minutes 9   # stop after the run that passes nine minutes
    python -m benchmarks.ablations --table                # what there is, as Markdown

Each change is an override of a recipe, so `habitus train` can repeat it. The test cut-offs are not read: an ablation is
there to choose by. Figures gather in benchmarks/ablations.csv, one row per run and metric.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import record
from habitus.core.config import read_toml
from habitus.data.cutoffs import samples_of
from habitus.data.ingest import ingest
from habitus.data.log import EventLog
from habitus.data.sources.online_retail import online_retail
from habitus.data.sources.simulator import ready_made, simulated_log
from habitus.data.store import Store
from habitus.metrics import classification, regression
from habitus.models.lumos import Lumos
from habitus.tasks.forecast import Forecast, Heads, forecast
from habitus.tasks.recipe import Recipe
from habitus.tasks.run import provenance
from habitus.tasks.train import fit_heads, linear_start, shape_of
from habitus.tokens.loader import DayLoader, Inputs, prepare
from habitus.tokens.spec import fit_spec
from habitus.training.fit import fit
from habitus.training.linear_start import LinearStart
from habitus.training.objectives.multi_task import MultiTask

FIGURES = Path(__file__).with_name("ablations.csv")
COLUMNS = ("world", "size", "change", "seed", "metric", "value", "commit", "date")
RETAIL = Path(__file__).parents[1] / "recipes" / "online_retail_lumos.toml"
SHORT = {"refit": False, "training.epochs": 3, "training.patience": 3, "training.loggers": []}
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Change:
    """One row of the table: a name, and what is overridden in the recipe (dotted keys)."""

    name: str
    values: Mapping[str, Any]


def spend_as(head: str) -> Change:
    """Model the amount with another head."""
    return Change(f"spend as {head}", {"targets.spend.head": head})


def alone(target: str) -> Change:
    """Train one target only."""
    return Change(f"{target} alone", {"targets": target})


BASE = Change("as it is", {})
EVENTS = (
    Change("no future events", {"tokens.known": "past"}),
    Change("no past events", {"tokens.known": "future"}),
    Change("no known events", {"tokens.known": "none"}),
)
SHAPES = (
    Change("positions: none", {"model.positions": "none"}),
    Change("positions: sinusoidal", {"model.positions": "sinusoidal"}),
    Change("positions: tape", {"model.positions": "tape"}),
    Change("readout: flatten", {"model.readout": "flatten"}),
    Change("no linear way for the profile", {"model.profile_gain": 0}),
    Change("profile through the history alone", {"model.profile_gain": 0, "model.d_profile": 0}),
)
LOSSES = (
    *map(spend_as, ("ziln", "hurdle", "masked_mse")),
    Change("days as a choice among days", {"targets.days.head": "days"}),
    Change("losses summed", {"weighting": "sum"}),
    *map(alone, ("buy", "spend")),
)
TOKENS = (
    Change("history of 60 days", {"tokens.history": 60}),
    Change("history of 360 days", {"tokens.history": 360}),
    Change("recent days kept: 1", {"tokens.keep_recent": 1}),
    Change("recent days kept: 28", {"tokens.keep_recent": 28}),
    Change("no aggregates in the profile", {"tokens.summary": "profile"}),
    Change("every day kept (dense)", {"tokens.keep": "all"}),
)
CHANGES = (BASE, *EVENTS, *SHAPES, *LOSSES, *TOKENS)


def main() -> None:
    """Run what is missing, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("small", "full"), default="small")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no run after this long")
    parser.add_argument("--world", choices=("online_retail", "effects"), help="only this one")
    parser.add_argument("--model", choices=("tiny", "small"), default="tiny", help="size of the model")
    parser.add_argument("--table", action="store_true", help="print the figures there are as Markdown")
    options = parser.parse_args()
    if options.table:
        print("\n".join(table(read_figures(FIGURES), options.world or "online_retail", options.model)))
        return
    until = time.monotonic() + 60 * options.minutes
    with tempfile.TemporaryDirectory() as folder:
        if options.size == "small":
            _small(Path(folder))
        for world in (options.world,) if options.world else ("online_retail", "effects"):
            if options.size == "full":
                run_missing(world, options.model, CHANGES, SEEDS, FIGURES, Path(folder), until)


def _small(folder: Path) -> None:
    """Show on a tiny world, in seconds, that the future of the calendar matters and that the machinery works."""
    values = overridden(recipe_of("effects"), {"training.epochs": 2})
    store = ingest(simulated_log(ready_made("effects", n_users=400, n_days=300)), folder / "effects.store")
    scores = {}
    for change in (BASE, EVENTS[0]):
        recipe = Recipe.parse(overridden(values, change.values), where=change.name)
        began = time.perf_counter()
        scores[change.name] = run_once(recipe, Prepared.of(store, recipe), 0, folder / change.name)
        record("ablations", f"{change.name}: log loss of a day", scores[change.name]["buy by day: log loss"])
        record("ablations", f"{change.name}: one run", time.perf_counter() - began, "s")


def run_missing(
    world: str,
    size: str,
    changes: tuple[Change, ...],
    seeds: tuple[int, ...],
    figures: Path,
    folder: Path,
    until: float,
) -> None:
    """Run every (change, seed) without figures, seed by seed, and append theirs; inputs are prepared once per kind."""
    done = {(row["change"], int(row["seed"])) for row in read_figures(figures) if _is(row, world, size)}
    missing = [(seed, change) for seed in seeds for change in changes if (change.name, seed) not in done]
    if not missing:
        return
    store = ingest(log_of(world), folder / f"{world}.store")
    kept: dict[str, Prepared] = {}
    base = repr_of_base(world)
    for seed, change in missing:
        if time.monotonic() > until:
            print("  time is up; run again to go on", flush=True)
            return
        values = overridden(recipe_of(world), {"model.size": size})
        recipe = Recipe.parse(overridden(values, change.values), where=change.name)
        key = repr((recipe.tokens, recipe.targets))
        if key not in kept:
            kept = {k: v for k, v in kept.items() if k == base} | {key: Prepared.of(store, recipe)}
        began = time.perf_counter()
        scores = run_once(recipe, kept[key], seed, folder / f"{change.name} {seed}")
        scores["seconds"] = time.perf_counter() - began
        append_figures(figures, (world, size, change.name, seed), scores)
        print(f"  {world}, {size}, {change.name}, seed {seed}: {scores['seconds']:.0f} s", flush=True)


def repr_of_base(world: str) -> str:
    """Give the key of the inputs of most runs, which stay in memory."""
    recipe = Recipe.parse(recipe_of(world), where=world)
    return repr((recipe.tokens, recipe.targets))


def log_of(world: str) -> EventLog:
    """Give the log of a world."""
    return online_retail() if world == "online_retail" else simulated_log(ready_made(world, n_users=2_000, n_days=300))


def recipe_of(world: str) -> dict[str, Any]:
    """Give the values of the recipe that changes override: training only, no refit."""
    if world == "online_retail":
        return overridden(read_toml(RETAIL), SHORT)
    values = {
        "name": world,
        "store": f"{world}.store",
        "cutoffs": {
            "horizon": 14,
            "train": {"first": "2023-03-01", "last": "2023-08-09", "every": 7},
            "valid": {"first": "2023-08-23", "last": "2023-09-20", "every": 7},
            "test": {"days": ["2023-10-04"]},
        },
        "targets": [
            {"name": "buy", "define": "any(purchase) in 14d", "per_day": True},
            {"name": "spend", "define": "sum(spend of purchase) in 14d", "head": "quantile"},
            {"name": "days", "define": "days(visit) in 14d", "head": "count"},
        ],
        "tokens": {"history": 90},
        "model": {"name": "lumos", "size": "tiny", "d_profile": 128, "profile_gain": 1.0, "dropout": 0.1},
        "training": {"lr": 1e-3},
    }
    return overridden(values, SHORT)


def overridden(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Give recipe values with dotted keys replaced; `targets.NAME.key` reaches a target, `targets` keeps one alone."""
    found = json.loads(json.dumps(values, default=str))
    for key, value in changes.items():
        *path, last = key.split(".")
        if key == "targets":
            found["targets"] = [target for target in found["targets"] if target["name"] == value]
            continue
        place = found
        for part in path:
            place = _named(place, part) if isinstance(place, list) else place.setdefault(part, {})
        place[last] = value
    return found


def _named(targets: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(target for target in targets if target["name"] == name)


@dataclass(frozen=True)
class Prepared:
    """The inputs of a recipe: what runs that differ in the model alone share."""

    train: Inputs
    valid: Inputs
    heads: Heads
    start: LinearStart

    @classmethod
    def of(cls, store: Store, recipe: Recipe) -> Prepared:
        """Fit the spec on train, and prepare train and validation."""
        samples = samples_of(store, recipe.cutoffs, "train")
        spec = fit_spec(store, recipe.tokens, samples, recipe.window_targets, day_targets=recipe.day_targets)
        train, valid = (prepare(store, spec, s) for s in (samples, samples_of(store, recipe.cutoffs, "valid")))
        heads = fit_heads(recipe, train)
        return cls(train, valid, heads, linear_start(heads, train))


def run_once(recipe: Recipe, inputs: Prepared, seed: int, folder: Path) -> dict[str, float]:
    """Train one model on train, stop by validation, and score it there."""
    heads = inputs.heads
    model = Lumos(recipe.model_config_of_choice(), shape_of(inputs.train.spec, heads), seed=seed)  # type: ignore[arg-type]
    inputs.start.put_into(model)
    loader = DayLoader(
        inputs.train,
        batch_size=recipe.loader.batch_size,
        per_user=recipe.loader.per_user or None,
        is_training=True,
        seed=seed,
    )
    config = recipe.training.model_copy(update={"seed": seed})
    objective = MultiTask(heads.window, recipe.weighting, heads.day)
    fit(model, objective, loader, DayLoader(inputs.valid, batch_size=1024), config, folder)
    return dict(scores_of(recipe, forecast([model.eval()], heads, inputs.valid), inputs.valid))


def scores_of(recipe: Recipe, answer: Forecast, inputs: Inputs) -> Iterator[tuple[str, float]]:
    """Score each target on validation, uncalibrated: AUC and log loss, or WAPE and RMSE; log loss of single days."""
    assert inputs.measured is not None
    for k, target in enumerate(recipe.targets):
        y, mean = inputs.measured.value[:, k], answer.mean[:, k]
        if target.kind == "binary":
            yield f"{target.name}: AUC", float(classification.auc(y, mean))
            yield f"{target.name}: log loss", float(classification.log_loss(y, mean))
        else:
            middle = answer.median[:, k]
            yield f"{target.name}: WAPE", float(regression.wape(y, middle))
            yield f"{target.name}: RMSE", float(regression.rmse(y, mean))
    by_day = [target for target in recipe.targets if target.per_day]
    for k, target in enumerate(by_day):
        if target.day_kind == "binary" and inputs.day_measured is not None:
            y = inputs.day_measured.value[..., k].reshape(-1)
            yield (
                f"{target.name} by day: log loss",
                float(classification.log_loss(y, answer.day_mean[..., k].reshape(-1))),
            )


def read_figures(file: Path) -> list[dict[str, str]]:
    """Read what earlier runs left."""
    if not file.is_file():
        return []
    with file.open(newline="", encoding="utf-8") as rows:
        return list(csv.DictReader(rows))


def append_figures(file: Path, run: tuple[str, str, str, int], scores: Mapping[str, float]) -> None:
    """Append the metrics of one run."""
    facts = provenance()
    is_new = not file.is_file()
    with file.open("a", newline="", encoding="utf-8") as rows:
        writer = csv.writer(rows)
        if is_new:
            writer.writerow(COLUMNS)
        for metric, value in scores.items():
            writer.writerow((*run, metric, f"{value:.6g}", facts["commit"], facts["created"][:10]))


def _is(row: Mapping[str, str], world: str, size: str) -> bool:
    return (row["world"], row["size"]) == (world, size)


def table(rows: list[dict[str, str]], world: str, size: str) -> list[str]:
    """One line per change: differences from the base, averaged over seeds; what is within the noise stands in brackets.

    The noise: the standard deviation over seeds, pooled over all changes. A difference of two means of n seeds counts
    when it is larger than twice that deviation times sqrt(2 / n).
    """
    found: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        if _is(row, world, size):
            found.setdefault(row["change"], {}).setdefault(row["metric"], []).append(float(row["value"]))
    if BASE.name not in found:
        return ["no figures yet"]
    base = found[BASE.name]
    metrics = list(base)
    noise = {metric: pooled([f[metric] for f in found.values() if metric in f]) for metric in metrics}
    lines = [f"| {world}, {size} | seeds | {' | '.join(metrics)} |", "|---|" + "---|" * (len(metrics) + 1)]
    means = (f"{np.mean(base[m]):.4g} ± {noise[m]:.2g}" for m in metrics)
    lines.append(f"| {BASE.name} (± one seed) | {len(base[metrics[0]])} | {' | '.join(means)} |")
    for name, figures in found.items():
        if name != BASE.name:
            cells = [_difference(figures.get(m), base[m], noise[m]) for m in metrics]
            lines.append(f"| {name} | {max(map(len, figures.values()))} | {' | '.join(cells)} |")
    return lines


def pooled(groups: list[list[float]]) -> float:
    """Standard deviation within groups of seeds, pooled; NaN while every group has one.

    >>> pooled([[1.0, 3.0], [5.0, 5.0]])
    1.0
    """
    squares = sum(float(np.var(group)) * len(group) for group in groups)
    freedom = sum(len(group) - 1 for group in groups)
    return float(np.sqrt(squares / freedom)) if freedom else float("nan")


def _difference(values: list[float] | None, base: list[float], noise: float) -> str:
    if values is None:
        return ""
    gap = float(np.mean(values) - np.mean(base))
    text = f"{gap:+.3g}"
    limit = 2 * noise * np.sqrt(1 / len(values) + 1 / len(base))
    return text if abs(gap) > limit else f"({text})"


if __name__ == "__main__":
    main()
