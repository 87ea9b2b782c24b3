"""Scale: a ladder of model sizes and data budgets, and the law of loss that it gives, or that it gives none."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from habitus.core.atomic import new_file, write_json
from habitus.core.errors import ConfigError
from habitus.core.progress import track
from habitus.core.seeds import uniforms
from habitus.metrics.classes import macro_recall
from habitus.metrics.scaling import NAMES, Fit, fit_law
from habitus.tasks.event_recipe import EventRecipe, ScaleConfig
from habitus.tasks.ranked import ranked, teller
from habitus.tasks.run import Run, provenance, start_run
from habitus.tasks.scale_page import scale_page
from habitus.tasks.train_events import EventPlan, plan_events
from habitus.tokens.event_loader import EventInputs, EventLoader
from habitus.training.fit import fit

LAWS = ("loss", "missed_recall")  # cross-entropy in nats; 1 - macro recall


def scale(recipe: str | Path, *, out: str | Path | None = None, store: str | Path | None = None) -> dict[str, Any]:
    """Train the ladder of a recipe's `scale`, fit L(N, D) to validation, and leave RUN/scale.json and RUN/scale.html.

    Each rung is one pass over the events of users drawn until the budget is reached; the users of a small budget are
    among those of a larger one. Rungs that are done are kept, so a killed ladder goes on. The test part is never read.

    Gives scale.json: `rungs`; per law of `loss` and `missed_recall` (1 - macro recall) its values and 95 % intervals,
    or a verdict that there is none; and `held_out`, how far off the largest runs were foretold.

    Errors: `ConfigError` without `scale` in the recipe, or for a budget above the training events there are.
    """
    run = start_run(recipe, out, store)
    config = run.recipe.scale if isinstance(run.recipe, EventRecipe) else None
    if config is None:
        raise ConfigError("a recipe of events with a table [scale]", "none", where=str(recipe))
    plan = plan_events(run)
    jobs = [(size, budget, seed) for size in config.sizes for budget in config.budgets for seed in config.seeds]
    rungs = [_rung(run, plan, *job) for job in track(sorted(jobs, key=lambda job: job[1]), "ladder")]
    found = {"rungs": rungs, **_laws(rungs, config), **provenance()}
    write_json(run.path / "scale.json", found)
    with new_file(run.path / "scale.html") as beside:
        beside.write_text(scale_page(run.recipe.name, found), "utf-8")
    return found


def n_weights(model: nn.Module) -> int:
    """Count N: all weights but tables of vectors (embeddings, and tables named so by a model).

    >>> n_weights(nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 2)))
    10
    """
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    tables |= {id(p) for name, p in model.named_parameters() if name.rpartition(".")[2] in ("table", "places")}
    return sum(p.numel() for p in model.parameters() if id(p) not in tables)


def _rung(run: Run[EventRecipe], plan: EventPlan, size: dict[str, Any], budget: int, seed: int) -> dict[str, Any]:
    """Train one rung, or read what it gave."""
    name = "-".join(f"{key}={value}" for key, value in size.items())
    folder = run.path / "rungs" / f"{name}-{budget}-{seed}"
    if (folder / "rung.json").is_file():
        return json.loads((folder / "rung.json").read_text("utf-8"))
    dials = {key: value for key, value in size.items() if key != "lr"}
    recipe = run.recipe.model_copy(update={"model": run.recipe.model | dials})
    model = plan.model(recipe.model_config_of_choice(), plan.spec.shape, seed=seed)
    inputs, n_events = _subset(plan.parts["train"], budget, seed)
    loader = EventLoader(inputs, tokens_per_batch=recipe.loader.tokens_per_batch, is_training=True, seed=seed)
    valid = EventLoader(plan.parts["valid"], tokens_per_batch=max(recipe.loader.tokens_per_batch, 4096))
    once = {"seed": seed, "epochs": 1, "lr": size.get("lr", recipe.training.lr)}
    fitted = fit(model, plan.objective(), loader, valid, recipe.training.model_copy(update=once), folder)
    answers = ranked(teller([model.eval()], recipe.field), valid, plan.spec.column(recipe.field))
    losses: dict[str, float] = fitted.history[-1]["losses"]
    rung = {
        "size": size,
        "budget": budget,
        "seed": seed,
        "n_weights": n_weights(model),
        "n_parameters": sum(p.numel() for p in model.parameters()),
        "n_events": n_events,
        "n_steps": fitted.n_steps,
        "loss": sum(losses.values()),
        "missed_recall": 1 - float(macro_recall(answers.told, answers.top == answers.told)),
        "recall": float((answers.top == answers.told).mean()),
        "seconds": fitted.throughput.get("seconds"),
    }
    write_json(folder / "rung.json", rung)
    return rung


def _subset(inputs: EventInputs, budget: int, seed: int) -> tuple[EventInputs, int]:
    """Keep the stretches of users drawn until they hold `budget` targets; give how many they hold."""
    stretches = inputs.stretches
    n = np.maximum(np.minimum(stretches.high, stretches.told - 1) - stretches.first, 0)
    per_user = np.bincount(stretches.user, weights=n)
    order = np.argsort(uniforms(seed, np.arange(len(per_user)), stream="ladder"), kind="stable")
    total = np.cumsum(per_user[order])
    if budget > total[-1]:
        raise ConfigError(f"budgets up to the {int(total[-1]):,} training events", f"{budget:,}", where="scale.budgets")
    last = int(np.searchsorted(total, budget))
    is_chosen = np.isin(stretches.user, order[: last + 1])
    return EventInputs(inputs.table, stretches.take(is_chosen)), int(total[last])


@dataclass(frozen=True)
class _Runs:
    """The columns of some rungs."""

    n: np.ndarray
    d: np.ndarray
    loss: np.ndarray


def _runs(rungs: Sequence[dict[str, Any]], law: str) -> _Runs:
    return _Runs(*(np.array([rung[name] for rung in rungs], np.float64) for name in ("n_weights", "n_events", law)))


def _laws(rungs: list[dict[str, Any]], config: ScaleConfig) -> dict[str, Any]:
    """Fit both laws to all rungs, and once more without the cells of most compute, which are then foretold."""
    cells = sorted({(rung["n_weights"] * rung["budget"], _cell(rung)) for rung in rungs})
    late = {cell for _, cell in cells[len(cells) - config.n_held_out :]}
    kept = [rung for rung in rungs if _cell(rung) not in late]
    rest = [rung for rung in rungs if _cell(rung) in late]
    found: dict[str, Any] = {"laws": {}, "held_out": {}}
    for law in LAWS:
        whole = _runs(rungs, law)
        fitted = fit_law(whole.n, whole.d, whole.loss, n_resamples=config.n_resamples)
        found["laws"][law] = _told(fitted)
        early, late_runs = _runs(kept, law), _runs(rest, law)
        if rest and fitted.is_identified:
            before = fit_law(early.n, early.d, early.loss, n_resamples=1).law
            miss = before.loss(late_runs.n, late_runs.d) / late_runs.loss - 1
            found["held_out"][law] = {"n_runs": len(rest), "mean_error": float(miss.mean()), "errors": miss.tolist()}
    return found


def _cell(rung: dict[str, Any]) -> str:
    return json.dumps([rung["size"], rung["budget"]], sort_keys=True)


def _told(fitted: Fit) -> dict[str, Any]:
    """A fit as plain values; the values of a law that is none are left out."""
    intervals = {name: list(ends) for name, ends in fitted.intervals.items()}
    if not fitted.is_identified:
        return {"verdict": f"not identified: {fitted.verdict}", "intervals": intervals}
    draws = [[getattr(draw, name) for name in NAMES] for draw in fitted.draws]
    exponent = fitted.law.b / (fitted.law.a + fitted.law.b)
    best = {"size_exponent": exponent} if math.isfinite(exponent) else {}
    return {"verdict": "", "values": asdict(fitted.law), "intervals": intervals, "draws": draws} | best
