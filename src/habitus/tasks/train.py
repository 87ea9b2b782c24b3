"""Train: a recipe and a store become an artifact; killed at any moment, the same command goes on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from habitus.core.atomic import write_json
from habitus.core.engine import EngineConfig, as_engine
from habitus.core.errors import ConfigError
from habitus.core.remote import address_of, exists, fetch_folder, joined, mirror, push
from habitus.data.calendar import to_date
from habitus.data.cutoffs import Part, Samples, days_of, samples_of
from habitus.data.part import check_same
from habitus.data.store import Store
from habitus.models.artifact import Card, save_artifact
from habitus.models.heads import fit_head, n_outputs
from habitus.models.lumos import Lumos, LumosConfig, LumosShape
from habitus.tasks.event_recipe import EventRecipe
from habitus.tasks.forecast import Heads, fit_calibration, forecast
from habitus.tasks.lurm_recipe import LurmRecipe
from habitus.tasks.recipe import Recipe
from habitus.tasks.run import Run, start_run, update_metrics
from habitus.tokens.days import day_table
from habitus.tokens.loader import DayLoader, Inputs, prepare
from habitus.tokens.spec import InputSpec, fit_spec
from habitus.training.distributed import barrier, first_then_others, is_first, join, world_size
from habitus.training.fit import Fitted, fit
from habitus.training.linear_start import LinearStart, fit_linear
from habitus.training.objectives.multi_task import MultiTask, balanced


def train(
    recipe: str | Path,
    *,
    out: str | Path | None = None,
    store: str | Path | None = None,
    seeds: Sequence[int] | None = None,
    engine: EngineConfig | str | None = None,
) -> Run:
    """Train every seed of a recipe and leave RUN/artifact.

    First on the train cut-offs with early stopping on the validation cut-offs; calibrators are fitted on the forecasts
    of these models for validation. Then, with `refit`, again from the start on train + gap + validation, for as many
    epochs as the first pass chose. The test cut-offs are never read. A recipe for a model of events takes
    `train_events` instead, one of whole lives `train_lurm`.

    Parameters
    ----------
    recipe
        Path of a recipe (TOML).
    out
        The run folder; default `runs/NAME`. A run of the same recipe found there goes on. At an address ("s3://...")
        it is uploaded when it is done.
    store
        Overrides the recipe's store.
    seeds
        Overrides the recipe's seeds.
    engine
        Who trains: this process (one of several, where `torchrun` started it), or workers by Ray Train. Both call this
        function; `training.batches_per_step` makes the steps the same for any number of them.

    Errors: `ConfigError`, `CutoffError`, `TargetError`, `StoreError`; `TargetError` when a target has no positive;
    `EngineError`.
    """
    workers = as_engine(engine)
    if (address := address_of(out)) is not None:
        here = mirror(address)
        if is_first() and exists(joined(address, "run.json")):
            fetch_folder(address, here)  # with its checkpoints, to go on
        run = train(recipe, out=here, store=store, seeds=seeds, engine=engine)
        if is_first():
            push(here, address)
        return run
    if not workers.is_local:
        from habitus.tasks.train_on_ray import train_on_ray

        return train_on_ray(recipe, out=out, store=store, seeds=seeds, engine=workers)
    join()
    with first_then_others():
        run = start_run(recipe, out, store)
    chosen = run.recipe if seeds is None else run.recipe.model_copy(update={"seeds": tuple(seeds)})
    run = Run(run.path, chosen, run.store)
    if isinstance(chosen, LurmRecipe):
        if world_size() > 1:
            fix = "train it with one worker: counts are small"
            raise ConfigError("one process for a recipe of whole lives", str(world_size()), where=str(recipe), fix=fix)
        from habitus.tasks.train_lurm import train_lurm

        return train_lurm(run)
    if isinstance(chosen, EventRecipe):
        from habitus.tasks.train_events import train_events

        return train_events(run)
    with first_then_others():  # the table that is made once is found by the others
        day_table(run.store)
    plan = _plan(run)
    searched = [_search(run, plan, seed) for seed in chosen.seeds]
    calibration = _calibrated(plan, [member for member, _ in searched]) if is_first() else {}
    members = [_refitted(run, plan, seed, m, fitted) for seed, (m, fitted) in zip(chosen.seeds, searched)]
    check_same(Store.open(run.store.address), run.store.fingerprint)
    if is_first():
        _save(run, plan, members, calibration, [fitted for _, fitted in searched])
    barrier()
    return run


def _calibrated(plan: Plan, members: list[Lumos]) -> dict[str, Any]:
    return fit_calibration(forecast(members, plan.heads, plan.valid), plan.heads, plan.valid)


@dataclass(frozen=True)
class Plan:
    """What the data imply for a run: spec, heads, and prepared samples."""

    spec: InputSpec
    heads: Heads
    start: list[float]  # first log-variances of the targets
    train: Inputs
    valid: Inputs
    everything: Inputs | None  # train + gap + validation, for the refit
    shape: LumosShape
    config: LumosConfig
    linear: dict[str, LinearStart]  # by the name of the pass; empty without `profile_gain`


def fit_heads(recipe: Recipe, inputs: Inputs) -> Heads:
    """Fit the head of every target on observed training values. Errors: `TargetError` without a positive."""
    window, day = _observed(inputs)
    by_day = [target for target in recipe.targets if target.per_day]
    return Heads(
        tuple(fit_head(t.kind, t.name, recipe.cutoffs.horizon, y) for t, y in zip(recipe.targets, window)),
        tuple(fit_head(t.day_kind, t.name, 1, y) for t, y in zip(by_day, day)),
    )


def shape_of(spec: InputSpec, heads: Heads, is_straight: tuple[bool, ...] = ()) -> LumosShape:
    """Give the widths and lengths that a spec and its heads imply for the model."""
    return LumosShape(
        n_activity=len(spec.features),
        n_known=spec.n_known,
        n_profile=spec.profile.width,
        history=spec.tokens.history,
        horizon=spec.horizon,
        outputs=tuple(n_outputs(head) for head in heads.window),
        day_outputs=tuple(n_outputs(head) for head in heads.day),
        is_straight=is_straight,
    )


def _observed(inputs: Inputs) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """List the observed values of every window target and of every day target, each 1-D."""
    found = []
    for measured in (inputs.measured, inputs.day_measured):
        n = 0 if measured is None else measured.value.shape[-1]
        found.append([measured.value[..., k][measured.is_observed[..., k]] for k in range(n)] if measured else [])
    return found[0], found[1]


def _plan(run: Run) -> Plan:
    recipe, store = run.recipe, run.store
    parts: dict[Part, Samples] = {p: samples_of(store, recipe.cutoffs, p) for p in ("train", "gap", "valid")}
    spec = fit_spec(store, recipe.tokens, parts["train"], recipe.window_targets, day_targets=recipe.day_targets)
    inputs = prepare(store, spec, parts["train"])
    heads = fit_heads(recipe, inputs)
    window, day = _observed(inputs)
    config: LumosConfig = recipe.model_config_of_choice()  # type: ignore[assignment]
    samples = parts["train"].joined(parts["gap"], parts["valid"])
    everything = prepare(store, spec, samples) if recipe.refit else None
    passes = {"search": inputs, "refit": everything} if config.profile_gain else {}
    return Plan(
        spec=spec,
        heads=heads,
        start=balanced([*heads.window, *heads.day], [*window, *day]),
        train=inputs,
        valid=prepare(store, spec, parts["valid"]),
        everything=everything,
        shape=shape_of(spec, heads, tuple(t.is_straight for t in recipe.targets)),
        config=config,
        linear={name: linear_start(heads, found) for name, found in passes.items() if found is not None},
    )


def linear_start(heads: Heads, inputs: Inputs) -> LinearStart:
    """Fit the straight way from the profile on prepared samples, the same for every seed."""
    assert inputs.measured is not None, "a start needs targets"
    value, is_observed = inputs.measured.value, inputs.measured.is_observed
    columns = (torch.from_numpy(inputs.profile), torch.from_numpy(value), torch.from_numpy(is_observed))
    return fit_linear(heads.window, *columns)


def _search(run: Run, plan: Plan, seed: int) -> tuple[Lumos, Fitted]:
    """Train on train, stop on validation."""
    valid = DayLoader(plan.valid, batch_size=1024)
    return _fit(run, plan, plan.train, valid, seed, "search", None)


def _refitted(run: Run, plan: Plan, seed: int, searched: Lumos, fitted: Fitted) -> Lumos:
    """Train again on everything before the test, as long as the search found best."""
    if plan.everything is None:
        return searched
    return _fit(run, plan, plan.everything, None, seed, "refit", fitted.best_epoch)[0]


def _fit(
    run: Run, plan: Plan, inputs: Inputs, valid: DayLoader | None, seed: int, name: str, stop_after: int | None
) -> tuple[Lumos, Fitted]:
    recipe = run.recipe
    model = Lumos(plan.config, plan.shape, seed=seed)
    if name in plan.linear:
        plan.linear[name].put_into(model)
    start = plan.start if recipe.weighting == "uncertainty" else None
    objective = MultiTask(plan.heads.window, recipe.weighting, plan.heads.day, start)
    loader = DayLoader(
        inputs,
        batch_size=recipe.loader.batch_size,
        per_user=recipe.loader.per_user or None,
        is_training=True,
        bag_days=recipe.loader.bag_days,
        seed=seed,
    )
    config = recipe.training.model_copy(update={"seed": seed})
    folder = run.path / f"seed-{seed}" / name
    fitted = fit(model, objective, loader, valid, config, folder, stop_after=stop_after)
    if fitted.throughput and is_first():
        shares = {"padding": 1 - loader.n_tokens / max(loader.n_places, 1)}
        write_json(folder / "throughput.json", fitted.throughput | shares)
    return model.eval(), fitted


def _save(run: Run, plan: Plan, members: list[Lumos], calibration: dict[str, Any], fitted: list[Fitted]) -> None:
    recipe = run.recipe
    history = [
        {"seed": seed, "epoch": row["epoch"], "train": row["train"], "valid": row["valid"], "targets": row["targets"]}
        for seed, found in zip(recipe.seeds, fitted)
        for row in found.history
    ]
    sections = _described(run, plan) | {"history": history, "best_epochs": [f.best_epoch for f in fitted]}
    metrics = update_metrics(run.path, sections)
    save_artifact(
        run.artifact_path,
        members,
        name="lumos",
        spec=plan.spec.to_json(),
        fingerprint=plan.spec.fingerprint,
        heads=plan.heads.window,
        day_heads=plan.heads.day,
        config={"model": plan.config.model_dump(mode="json"), "recipe": recipe.model_dump(mode="json")},
        calibration=calibration,
        metrics={},
        card=_card(run, metrics),
    )


def _described(run: Run, plan: Plan) -> dict[str, Any]:
    """Describe the run for metrics.json: origin, data, cut-offs, targets."""
    recipe = run.recipe
    facts = json.loads((run.path / "run.json").read_text("utf-8"))
    names: tuple[Part, ...] = ("train", "gap", "valid", "test")
    parts = {part: days_of(run.store, recipe.cutoffs, part) for part in names}
    n_samples = {"train": len(plan.train), "valid": len(plan.valid)}
    assert plan.train.measured is not None
    targets = [
        {"name": t.name, "define": t.define, "head": t.kind, "unit": t.unit, "rate": float(rate)}
        for t, rate in zip(recipe.targets, (plan.train.measured.value > 0).mean(axis=0))
    ]
    return {
        "name": recipe.name,
        **{key: facts[key] for key in ("created", "commit", "hardware", "versions")},
        "seeds": list(recipe.seeds),
        "model": {"name": "LUMOS", "n_parameters": _n_parameters(plan), **plan.config.model_dump(mode="json")},
        "data": data_profile(run),
        "cutoffs": {
            "horizon": recipe.cutoffs.horizon,
            "history": recipe.tokens.history,
            **{part: [str(to_date(day)) for day in days] for part, days in parts.items()},
            "n_samples": n_samples,
        },
        "targets": targets,
    }


def data_profile(run: Run) -> dict[str, Any]:
    """Count what the store holds: users, events, types, and events and active users per day."""
    store = run.store
    n_days = store.last_day - store.first_day + 1
    events, active = np.zeros(n_days, np.int64), np.zeros(n_days, np.int64)
    types = np.zeros(len(store.types), np.int64)
    for i in range(store.n_shards):
        shard = store.shard(i)
        inside = shard.day <= store.last_day
        day = shard.day[inside] - store.first_day
        events += np.bincount(day, minlength=n_days)
        types += np.bincount(shard.type, minlength=len(types))
        user = np.repeat(np.arange(len(shard.offsets) - 1), np.diff(shard.offsets))[inside]
        active += np.bincount(np.unique(user.astype(np.int64) * n_days + day) % n_days, minlength=n_days)
    days = [str(to_date(store.first_day + d)) for d in range(n_days)]
    rejected = store.manifest.get("counts", {}).get("rejected", 0)
    return {
        "name": store.schema.name,
        "n_users": store.n_users,
        "n_events": store.n_events,
        "n_rejected": rejected if isinstance(rejected, int) else sum(rejected.values()),
        "first_day": str(to_date(store.first_day)),
        "last_day": str(to_date(store.last_day)),
        "types": {name: int(n) for name, n in zip(store.types, types)},
        "daily": {"day": days, "events": events.tolist(), "active_users": active.tolist()},
    }


def _n_parameters(plan: Plan) -> int:
    return sum(p.numel() for p in Lumos(plan.config, plan.shape).parameters())


def _card(run: Run, metrics: dict[str, Any]) -> Card:
    data, cutoffs = metrics["data"], metrics["cutoffs"]
    return Card(
        title=run.recipe.name,
        summary=f"LUMOS, {metrics['model']['n_parameters']:,} parameters, {len(run.recipe.seeds)} members.",
        data=[{k: data[k] for k in ("name", "n_users", "n_events", "first_day", "last_day")}],
        targets=[{k: t[k] for k in ("name", "define", "head", "rate")} for t in metrics["targets"]],
        limits=[
            f"Trained on cut-offs {cutoffs['train'][0]} .. {cutoffs['valid'][-1]}; behaviour changes, so refit.",
            "The effect of a known event is learnt from past events of its type; few past events, little certainty.",
            "Forecasts of single users are for ranking and totals, not for decisions that need a reason.",
        ],
        use="`habitus predict RUN --cutoff DAY --out FILE`, or `habitus.predict`.",
    )
