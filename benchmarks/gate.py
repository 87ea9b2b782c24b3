"""The gate against figures of an independent script: LightGBM on aggregates, without and with known events.

Protocol: every train label window ends by the first validation cut-off, every validation window by the first test one;
sizes and rounds chosen on validation, refit on train + gap + validation, test scored once per seed.
Online Retail ships with the package; Complete Journey (size full) is read from the folder in HABITUS_DATA, if there.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.record import record, size_option
from habitus.data.cutoffs import Cutoffs, samples_of
from habitus.data.ingest import ingest
from habitus.data.log import EventLog
from habitus.data.sources.complete_journey import complete_journey
from habitus.data.sources.online_retail import online_retail
from habitus.data.store import Store
from habitus.data.targets import Target, measure
from habitus.metrics.bootstrap import interval, resamples
from habitus.metrics.calibration import ece
from habitus.metrics.classification import auc, average_precision, log_loss
from habitus.metrics.regression import rmse, spearman, wape
from habitus.models import boosted_trees
from habitus.models.boosted_trees import Labels, Loss, TreeConfig
from habitus.tokens.aggregates import aggregate_spec, aggregates, without_future

DATA = Path(os.environ.get("HABITUS_DATA", Path(__file__).parents[2] / "shared" / "data"))
SEEDS = {"small": (0,), "full": (0, 1, 2)}
METRICS = {
    "binary": {"AUC": auc, "average precision": average_precision, "log loss": log_loss, "ECE": ece},
    "log": {"WAPE": wape, "Spearman": spearman},
    "tweedie": {"RMSE": rmse},
    "poisson": {"RMSE": rmse},
}
WITHIN = {"AUC": 0.004, "WAPE": 0.01}  # how near the reference a figure has to come


@dataclass(frozen=True)
class Question:
    """A target, the loss fitted, and the reference for the first metric: (without, with) known events."""

    name: str
    define: str
    loss: Loss
    reference: tuple[float, float] | None = None


@dataclass(frozen=True)
class Protocol:
    """A log at one horizon."""

    name: str
    cutoffs: dict
    questions: tuple[Question, ...]


def weeks(first: str, last: str) -> dict:
    return {"first": first, "last": last, "every": 7}


RETAIL_28 = Protocol(
    "online_retail",
    {
        "horizon": 28,
        "train": weeks("2011-01-06", "2011-07-28"),
        "gap": weeks("2011-08-04", "2011-08-18"),
        "valid": weeks("2011-08-25", "2011-09-22"),
        "test": weeks("2011-10-20", "2011-11-10"),
    },
    (
        Question("buy", "any(purchase) in 28d", "binary", (0.7465, 0.7470)),
        Question("cancel", "any(cancellation) in 28d", "binary", (0.789, 0.785)),
        Question("spend", "sum(spend of purchase) in 28d", "log", (0.897, 0.920)),
        Question("spend", "sum(spend of purchase) in 28d", "tweedie"),
        Question("days", "days(purchase) in 28d", "log", (0.957, 0.949)),
        Question("days", "days(purchase) in 28d", "poisson"),
    ),
)
RETAIL_7 = Protocol(
    "online_retail",
    {
        "horizon": 7,
        "train": weeks("2011-01-06", "2011-09-15"),
        "valid": weeks("2011-09-22", "2011-10-20"),
        "test": weeks("2011-10-27", "2011-12-01"),
    },
    (
        Question("buy", "any(purchase) in 7d", "binary", (0.743, 0.745)),
        Question("cancel", "any(cancellation) in 7d", "binary", (0.839, 0.838)),
    ),
)
JOURNEY_28 = Protocol(
    "complete_journey",
    {
        "horizon": 28,
        "train": weeks("2017-02-05", "2017-07-09"),
        "gap": weeks("2017-07-16", "2017-07-30"),
        "valid": weeks("2017-08-06", "2017-10-01"),
        "test": weeks("2017-10-29", "2017-12-03"),
    },
    (
        Question("redeem", "any(redeem) in 28d", "binary", (0.907, 0.917)),
        Question("active", "any(purchase) in 28d", "binary", (0.833, 0.833)),
        Question("spend", "sum(spend of purchase) in 28d", "log", (0.666, 0.664)),
        Question("days", "days(purchase) in 28d", "log", (0.549, 0.552)),
    ),
)
JOURNEY_7 = Protocol(
    "complete_journey",
    {
        "horizon": 7,
        "train": weeks("2017-02-05", "2017-07-30"),
        "valid": weeks("2017-08-06", "2017-10-22"),
        "test": weeks("2017-10-29", "2017-12-24"),
    },
    (
        Question("redeem", "any(redeem) in 7d", "binary", (0.891, 0.918)),
        Question("active", "any(purchase) in 7d", "binary", (0.777, 0.777)),
    ),
)


def main() -> None:
    """Fit every row, print it beside its reference, and say how many lie within the tolerance."""
    size = size_option(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        for log, protocols in _logs(size):
            store = ingest(log, Path(folder) / f"{protocols[0].name}.store")
            for protocol in protocols:
                _run(store, protocol, SEEDS[size])


def _logs(size: str) -> Iterator[tuple[EventLog, tuple[Protocol, ...]]]:
    yield online_retail(), (RETAIL_28, RETAIL_7)
    folder = DATA / "complete_journey"
    if size == "full" and folder.is_dir():
        yield complete_journey(folder), (JOURNEY_28, JOURNEY_7)
    elif size == "full":
        print(f"  complete_journey: left out, no folder {folder}; set HABITUS_DATA")


def _run(store: Store, protocol: Protocol, seeds: tuple[int, ...]) -> None:
    began = time.perf_counter()
    cutoffs = Cutoffs.parse({**protocol.cutoffs, "eligible": ["any(purchase)"]}, where=protocol.name)
    targets = tuple(Target.parse(question.define, name=question.name) for question in protocol.questions)
    samples = {part: samples_of(store, cutoffs, part) for part in ("train", "gap", "valid", "test")}
    spec = aggregate_spec(store, until=int(cutoffs.days("train")[-1]), calendar=store.calendar)
    tables = {
        part: aggregates(store, found, horizon=cutoffs.horizon, calendar=store.calendar, spec=spec)
        for part, found in samples.items()
    }
    value = {part: measure(targets, store, found).value for part, found in samples.items()}
    user, title = samples["test"].user, f"{protocol.name} {cutoffs.horizon}"
    configs = {(k, seed): TreeConfig(seed=seed) for k in range(len(targets)) for seed in seeds}
    for variant, row in enumerate(("LightGBM", "LightGBM + known future")):
        seen = {part: table if variant else without_future(table) for part, table in tables.items()}
        binned = boosted_trees.bin_tables(seen["train"], seen["valid"], seen["gap"])
        for k, question in enumerate(protocol.questions):
            labels = Labels(value["train"][:, k], value["valid"][:, k], value["gap"][:, k])
            forecasts = []
            for seed in seeds:
                model = boosted_trees.fit(binned, labels, question.loss, configs[k, seed])
                configs[k, seed] = boosted_trees.narrowed(configs[k, seed], model)  # known events: rounds alone are new
                forecasts.append(boosted_trees.predict(model, seen["test"]))
            reference = None if question.reference is None else question.reference[variant]
            _report(f"{title} {question.name}, {row}", question, value["test"][:, k], forecasts, user, reference)
    seconds = time.perf_counter() - began
    record("gate", f"{title}: aggregates, all fits and intervals", seconds, "s", f"{len(seeds)} seeds")


def _report(
    title: str,
    question: Question,
    y: np.ndarray,
    forecasts: list[np.ndarray],
    user: np.ndarray,
    reference: float | None,
) -> None:
    """Record each metric as the mean over seeds, with the interval of the first seed."""
    drawn = resamples(user)
    for i, (name, metric) in enumerate(METRICS[question.loss].items()):
        values = [float(metric(y, p)) for p in forecasts]
        span = interval(metric, y, forecasts[0], drawn)
        note = f"[{span.low:.4f}, {span.high:.4f}]"
        if len(values) > 1:
            note += f", sd over {len(values)} seeds {np.std(values, ddof=1):.4f}"
        if i == 0 and reference is not None:
            gap = float(np.mean(values)) - reference
            is_weak = gap < -WITHIN[name] if name == "AUC" else gap > WITHIN[name]
            note += f", reference {reference:.4f}, {'WEAKER' if is_weak else 'reached'}"
        record("gate", f"{title}: {name}", float(np.mean(values)), "", note)


if __name__ == "__main__":
    main()
