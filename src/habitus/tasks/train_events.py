"""Train a model of events: neural ones by an objective with early stopping, counted ones in one pass."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from habitus.core.atomic import write_json
from habitus.core.config import Config
from habitus.core.registry import MODELS, resolve
from habitus.data.part import check_same
from habitus.data.store import Store
from habitus.models.artifact import Card, save_artifact
from habitus.models.spectral import spectral_table
from habitus.models.transition import Transition, TransitionConfig
from habitus.tasks.event_calibration import fit_temperature
from habitus.tasks.event_recipe import EventRecipe, JointConfig
from habitus.tasks.run import Run, update_metrics
from habitus.tasks.train import data_profile
from habitus.tokens.event_loader import EventInputs, EventLoader, prepare_events
from habitus.tokens.event_split import EventPart
from habitus.tokens.event_table import event_table
from habitus.tokens.events import EventSpec, fit_event_spec
from habitus.tokens.gaps import GapBins
from habitus.training.distributed import barrier, first_then_others, is_first
from habitus.training.fit import Fitted, fit
from habitus.training.objectives import Objective
from habitus.training.objectives.joint import JointEvents
from habitus.training.objectives.next_event import NextEvent

START_REACH = 10  # steps between the events of a pair, of the counts that a table starts from


def train_events(run: Run[EventRecipe]) -> Run[EventRecipe]:
    """Train every seed of a recipe of events and leave RUN/artifact. The test part is never read.

    Counted models (those with `counted`) take one pass over train; those with `tuned` choose their knobs on validation;
    with `refit` they count again on train and validation.
    The others train with early stopping on validation, then with `refit` again on train and validation. One temperature
    for their probabilities is fitted on validation.

    Errors: `ConfigError`, `CutoffError`, `StoreError`.
    """
    plan = plan_events(run)
    if hasattr(plan.model, "counted"):
        if is_first():  # one pass, of one process
            _save(run, plan, [_counted(plan)], [])
        barrier()
        return run
    searched = [_fit(run, plan, seed, "search") for seed in run.recipe.seeds]
    members = [model for model, _ in searched]
    if run.recipe.refit:
        members = [_fit(run, plan, s, "refit", f.best_epoch)[0] for s, (_, f) in zip(run.recipe.seeds, searched)]
    check_same(Store.open(run.store.address), run.store.fingerprint)
    if is_first():
        _save(run, plan, members, [fitted for _, fitted in searched])
    barrier()
    return run


@dataclass(frozen=True)
class EventPlan:
    """What the data imply for a run: the spec, prepared parts, and how often each id is a target in train."""

    recipe: EventRecipe
    spec: EventSpec
    model: Any  # a class of the registry
    config: Config
    parts: dict[EventPart, EventInputs]
    counts: dict[str, Tensor]  # per field [n_rows]

    def objective(self) -> Objective:
        """Make the objective of the recipe."""
        config = self.recipe.objective_config()
        if not isinstance(config, JointConfig):
            return NextEvent(config, self.spec.column(config.field), self.counts[config.field])
        model = self.model(self.config, self.spec.shape)
        gaps = GapBins.of(self.spec.gap_edges)
        return JointEvents(
            model.links, model.config.plain, self.counts, gaps, robust=config.robust, is_censored=config.is_censored
        )


def plan_events(run: Run[EventRecipe]) -> EventPlan:
    """Fit the spec on train and prepare the parts. Errors: `ConfigError` for fields that the log lacks."""
    recipe, store = run.recipe, run.store
    spec = fit_event_spec(store, recipe.tokens, recipe.split)
    model, config = resolve(MODELS, recipe.model["name"], kind="model"), recipe.model_config_of_choice()
    model(config, spec.shape)  # refuses fields that the log lacks before anything is prepared
    with first_then_others():  # the table that is made once is found by the others
        event_table(store, spec)
    has_end = isinstance(recipe.objective_config(), JointConfig) or hasattr(model, "counted")
    options = {"context": recipe.loader.context, "has_end": has_end}
    names: tuple[EventPart, ...] = ("train", "valid", "train+valid") if recipe.refit else ("train", "valid")
    parts: dict[EventPart, EventInputs] = {
        part: prepare_events(
            store, spec, recipe.split, part, per_user=0 if part == "valid" else recipe.loader.per_user, **options
        )
        for part in names
    }
    return EventPlan(recipe, spec, model, config, parts, target_counts(EventLoader(parts["train"])))


def target_counts(loader: EventLoader) -> dict[str, Tensor]:
    """Count how often each id of each field is a target, int64 [n_rows], in one pass."""
    shape = loader.inputs.table.spec.shape
    counts = {name: torch.zeros(n_rows, dtype=torch.int64) for name, n_rows in shape.fields}
    for batch in loader:
        told = batch.next_ids[batch.is_target]
        for j, (name, n_rows) in enumerate(shape.fields):
            counts[name] += torch.bincount(told[:, j], minlength=n_rows)
    return counts


def _counted(plan: EventPlan) -> nn.Module:
    field, shape = plan.recipe.field, plan.spec.shape
    model = plan.model.counted(plan.config, shape, EventLoader(plan.parts["train"]), field)
    if hasattr(model, "tuned"):
        model = model.tuned(EventLoader(plan.parts["valid"]))
    if plan.recipe.refit:
        return plan.model.counted(model.config, shape, EventLoader(plan.parts["train+valid"]), field)
    return model


def _fit(
    run: Run[EventRecipe], plan: EventPlan, seed: int, name: str, stop_after: int | None = None
) -> tuple[nn.Module, Fitted]:
    recipe, n_tokens = run.recipe, run.recipe.loader.tokens_per_batch
    is_search = name == "search"
    inputs = plan.parts["train" if is_search else "train+valid"]
    loader = EventLoader(inputs, tokens_per_batch=n_tokens, is_training=True, seed=seed)
    valid = EventLoader(plan.parts["valid"], tokens_per_batch=max(n_tokens, 4096)) if is_search else None
    model = plan.model(plan.config, plan.spec.shape, seed=seed)
    if getattr(plan.config, "start", "random") == "counts":
        model.start_from(_counted_table(plan, inputs, seed))
    config = recipe.training.model_copy(update={"seed": seed})
    folder = run.path / f"seed-{seed}" / name
    fitted = fit(model, plan.objective(), loader, valid, config, folder, stop_after=stop_after)
    if fitted.throughput and is_first():
        shares = {"padding": 1 - loader.n_tokens / max(loader.n_places, 1)}
        write_json(folder / "throughput.json", fitted.throughput | shares)
    return model.eval(), fitted


def _counted_table(plan: EventPlan, inputs: EventInputs, seed: int) -> Tensor:
    """Give the vectors of the predicted field that the counts of a part's pairs imply."""
    field = plan.recipe.field
    graph = TransitionConfig.parse({"field": field, "reach": START_REACH})
    graph = Transition.counted(graph, plan.spec.shape, EventLoader(inputs))
    return spectral_table(graph, plan.config.d_model, seed=seed)  # pyright: ignore


def _save(run: Run[EventRecipe], plan: EventPlan, members: list[nn.Module], fitted: list[Fitted]) -> None:
    recipe = run.recipe
    history = [{"seed": seed, **row} for seed, found in zip(recipe.seeds, fitted) for row in found.history]
    temperature = fit_temperature(members, recipe.field, plan.parts["valid"]) if fitted else 1.0
    n_parameters = sum(p.numel() for p in members[0].parameters())
    chosen = members[0].config.model_dump(mode="json")  # pyright: ignore
    facts = json.loads((run.path / "run.json").read_text("utf-8"))
    sections = {
        "name": recipe.name,
        **{key: facts[key] for key in ("created", "commit", "hardware", "versions")},
        "kind": "events",
        "seeds": list(recipe.seeds[: len(members)]),
        "model": {"name": recipe.model["name"], "n_parameters": n_parameters, **chosen},
        "data": data_profile(run),
        "tokens": {"length": plan.spec.length, "fields": dict(plan.spec.shape.fields)},
        "split": recipe.split.model_dump(mode="json", exclude_none=True),
        "field": recipe.field,
        "n_targets": {part: _n_targets(inputs) for part, inputs in plan.parts.items()},
        "history": history,
        "best_epochs": [found.best_epoch for found in fitted],
        "temperature": temperature,
    }
    metrics = update_metrics(run.path, sections)
    save_artifact(
        run.artifact_path,
        members,
        name=recipe.model["name"],
        spec=plan.spec.to_json(),
        fingerprint=plan.spec.fingerprint,
        heads=(),
        calibration={"temperature": temperature},
        config={"recipe": recipe.model_dump(mode="json")},
        card=_card(metrics),
    )


def _n_targets(inputs: EventInputs) -> int:
    stretches = inputs.stretches
    return int(np.maximum(np.minimum(stretches.high, stretches.told - 1) - stretches.first, 0).sum())


def _card(metrics: dict[str, Any]) -> Card:
    data, model = metrics["data"], metrics["model"]
    return Card(
        title=metrics["name"],
        summary=f"{model['name']}, {model['n_parameters']:,} parameters, {len(metrics['seeds'])} members.",
        data=[{k: data[k] for k in ("name", "n_users", "n_events", "first_day", "last_day")}],
        targets=[{"field": metrics["field"], **{f"{part} targets": n for part, n in metrics["n_targets"].items()}}],
        limits=[
            "Values first seen after the train part are unknown to it and are never predicted.",
            "Probabilities are those of the next event, whenever it comes; a user may be gone.",
        ],
        use="`habitus predict RUN --out FILE`, `habitus embed RUN --out FILE`.",
    )
