"""The gate: the strong, simple rows that every model is set beside, under the same protocol."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from habitus.core.atomic import new_file
from habitus.core.progress import bar
from habitus.core.seeds import generator
from habitus.data.cutoffs import Part, Samples, days_of, samples_of
from habitus.data.targets import measure
from habitus.models import base_rate, boosted_trees, recency_frequency
from habitus.models.boosted_trees import Binned, Labels, TreeConfig
from habitus.models.recency_frequency import recency_and_frequency
from habitus.tasks.recipe import TargetConfig
from habitus.tasks.run import Run
from habitus.tokens.aggregates import Aggregates, aggregate_spec, aggregates, without_future

NAMES = {
    "base_rate": "base rate",
    "recency_frequency": "recency x frequency",
    "lightgbm": "LightGBM",
    "lightgbm_known_future": "LightGBM + known future",
}


@dataclass(frozen=True)
class GateRow:
    """Forecasts of one baseline for the test samples, original units.

    Attributes
    ----------
    mean
        float64 [n, K]: probabilities, or the expected value of an amount.
    median
        float64 [n, K]: the same probabilities; for an amount the forecast made for absolute errors.
    """

    name: str
    mean: np.ndarray
    median: np.ndarray


@dataclass(frozen=True)
class _Tables:
    """What the baselines see: aggregates and target values of the four parts, known-future columns included."""

    table: dict[Part, Aggregates]
    value: dict[Part, np.ndarray]  # [n, K]

    def labels(self, k: int) -> Labels:
        return Labels(self.value["train"][:, k], self.value["valid"][:, k], self.value["gap"][:, k])

    def before_test(self, k: int) -> np.ndarray:
        """Target k at train + gap + valid, in this order."""
        return np.concatenate([self.value[part][:, k] for part in ("train", "gap", "valid")])


def gate_rows(run: Run, samples: Samples) -> list[GateRow]:
    """Fit the rows of the recipe's gate and forecast `samples`, the test samples.

    Everything is fitted on train, tuned on validation and refitted on train + gap + validation, as the model is. Each
    finished row is kept in RUN/gate, so that a second call, or one after a kill, only reads.
    """
    wanted = {name: run.path / "gate" / f"{name}-{_key(run)}.npz" for name in run.recipe.gate.rows}
    missing = [name for name, file in wanted.items() if not file.is_file()]
    if missing:
        tables = _tables(run, samples)
        with bar("gate", total=len(missing) * len(run.recipe.targets)) as advance:
            for name in missing:
                row = _fit_row(name, run, tables, advance)
                _write(row, wanted[name])
    return [_read(name, file) for name, file in wanted.items()]


def _tables(run: Run, test: Samples) -> _Tables:
    store, cutoffs = run.store, run.recipe.cutoffs
    parts: dict[Part, Samples] = {part: samples_of(store, cutoffs, part) for part in ("train", "gap", "valid")}
    parts["train"] = _thinned(parts["train"], run.recipe.gate.max_rows, run.recipe.gate.seed)
    parts["test"] = test
    calendar = store.calendar
    spec = aggregate_spec(store, until=int(days_of(store, cutoffs, "train")[-1]), calendar=calendar)
    options = {"horizon": cutoffs.horizon, "calendar": calendar, "spec": spec}
    return _Tables(
        {part: aggregates(store, found, **options) for part, found in parts.items()},
        {p: measure(run.recipe.window_targets, store, s).value for p, s in parts.items() if p != "test"},
    )


def _thinned(samples: Samples, n: int | None, seed: int) -> Samples:
    """Draw n of the samples, in their order; None keeps all."""
    if n is None or len(samples) <= n:
        return samples
    return samples.take(np.sort(generator(seed, "gate rows").permutation(len(samples))[:n]))


def _fit_row(name: str, run: Run, tables: _Tables, advance: Callable[[float], None]) -> GateRow:
    if name.startswith("lightgbm"):
        return _boosted(name, run, tables, advance)
    columns = []
    for k in range(len(run.recipe.targets)):
        columns.append(_simple(name, tables, k, run.recipe.targets[k]))
        advance(1)
    value = np.stack(columns, axis=1)
    return GateRow(NAMES[name], value, value)


def _simple(name: str, tables: _Tables, k: int, target: TargetConfig) -> np.ndarray:
    """Base rate, or recency x frequency, of target k: fitted on all samples before the test."""
    y = tables.before_test(k)
    if name == "base_rate":
        return base_rate.predict(base_rate.fit(y), len(tables.table["test"]))
    types = target.target.types
    seen = [recency_and_frequency(tables.table[part], types) for part in ("train", "gap", "valid")]
    recency, frequency = (np.concatenate(column) for column in zip(*seen))
    table = recency_frequency.fit(recency, frequency, y)
    return recency_frequency.predict(table, *recency_and_frequency(tables.table["test"], types))


def _boosted(name: str, run: Run, tables: _Tables, advance: Callable[[float], None]) -> GateRow:
    """LightGBM on windowed aggregates; one fit per loss, so that each metric meets a forecast made for it."""
    view = (lambda table: table) if name == "lightgbm_known_future" else without_future
    seen = {part: view(table) for part, table in tables.table.items()}
    config = TreeConfig(seed=run.recipe.gate.seed)
    gap = seen["gap"] if len(seen["gap"]) else None
    binned = boosted_trees.bin_tables(seen["train"], seen["valid"], gap)
    mean, median = [], []
    for k, target in enumerate(run.recipe.targets):
        losses = _losses(target)
        found = [_forecast(binned, tables.labels(k), loss, config, seen["test"]) for loss in losses]
        mean.append(found[0])
        median.append(found[-1])
        advance(1)
    return GateRow(NAMES[name], np.stack(mean, axis=1), np.stack(median, axis=1))


def _losses(target: TargetConfig) -> tuple[boosted_trees.Loss, ...]:
    """The loss for means, then the one for absolute errors, which the median minimises."""
    if target.kind == "binary":
        return ("binary",)
    return ("tweedie" if target.target.aggregation == "sum" else "poisson", "median")


def _forecast(
    binned: Binned, labels: Labels, loss: boosted_trees.Loss, config: TreeConfig, test: Aggregates
) -> np.ndarray:
    return boosted_trees.predict(boosted_trees.fit(binned, labels, loss, config), test)


def _key(run: Run) -> str:
    """Name what a gate row depends on: the recipe's protocol, how hard the trees try, and the log."""
    recipe = run.recipe
    parts = (recipe.cutoffs, recipe.targets, TreeConfig(seed=recipe.gate.seed), run.store.fingerprint)
    if recipe.gate.max_rows is not None:
        parts = (*parts, recipe.gate.max_rows)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def _write(row: GateRow, file: Path) -> None:
    with new_file(file) as beside, beside.open("wb") as handle:
        np.savez(handle, mean=row.mean, median=row.median)


def _read(name: str, file: Path) -> GateRow:
    with np.load(file, allow_pickle=False) as arrays:
        return GateRow(NAMES[name], arrays["mean"], arrays["median"])
