"""Train LURM: interests, then counts, then the encoder on two views of each user."""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np

from habitus.core.errors import StoreError
from habitus.data.calendar import to_date, to_day
from habitus.data.remote_store import RemoteStore
from habitus.data.store import Store
from habitus.models.artifact import Card, save_artifact
from habitus.tasks.describe import describe_anchors
from habitus.tasks.interests import learn_interests
from habitus.tasks.lurm_fit import FittedLurm, anchor_alarms, encode, encode_with_mass, fit_lurm, fit_on_counts
from habitus.tasks.lurm_recipe import LurmRecipe
from habitus.tasks.run import Run, update_metrics
from habitus.tasks.train import data_profile
from habitus.tokens.blocks import block_until
from habitus.tokens.counts import Counts, count_interests
from habitus.tokens.interests import Interests
from habitus.tokens.stored_counts import keep_counts
from habitus.tokens.views import baskets_of_store

__all__ = ["encode", "fit_lurm", "fit_on_counts", "interests_of", "train_lurm"]

SAMPLE = 5_000  # users whose mass per anchor is looked at


def train_lurm(run: Run[LurmRecipe]) -> Run[LurmRecipe]:
    """Train every seed of a recipe of LURM and leave RUN/interests and RUN/artifact; killed, the same command goes on.

    The counts are kept in the store, where `append` and `erase` keep them right and `embed` reads them, unless the
    store lies elsewhere, may not be written or is being changed: then they are counted for this fit alone. Nothing
    after `until` is read by the fit. Users with fewer than two baskets are not trained on; metrics.json counts them.

    Errors: `ConfigError`, `CutoffError` for an `until` inside a block, `TrainingError` with too few users.
    """
    recipe = run.recipe
    interests = interests_of(run)
    counts = _counted(run.store, interests)
    last = block_until(interests.until, interests.block, interests.week_starts)
    chunk, pause = recipe.views.chunk, recipe.views.gap_minutes
    baskets = baskets_of_store(run.store, interests, gap_minutes=pause, chunk=chunk)
    train = np.flatnonzero(run.store.users["first_day"].to_numpy() <= interests.until)
    found = [
        fit_on_counts(
            counts,
            interests,
            recipe.model_config_of_choice(),
            recipe.training_config(),
            seed,
            objective=recipe.objective,
            views=recipe.views,
            baskets=baskets,
            users=train,
            until=last,
            folder=run.path / f"seed-{seed}" / "search",
        )
        for seed in recipe.seeds
    ]
    _save(run, interests, counts, found, train, last)
    return run


def interests_of(run: Run[LurmRecipe]) -> Interests:
    """Give the run's interests: those in RUN/interests, or newly fitted on the days up to `until` and kept there."""
    folder = run.path / "interests"
    if folder.is_dir():
        return Interests.load(folder)
    recipe = run.recipe
    until = run.store.last_day if recipe.until is None else to_day(recipe.until)
    made = learn_interests(run.store, recipe.interests, until=until, seed=recipe.seeds[0])
    made.save(folder)
    return made


def _counted(store: Store, interests: Interests) -> Counts:
    """Keep counts in the store where that is possible; else count."""
    is_there = interests.version in store.manifest.get("interests", {})
    if not is_there and (isinstance(store, RemoteStore) or not os.access(store.path, os.W_OK)):
        return count_interests(store, interests)
    try:
        return keep_counts(store, interests)
    except StoreError:  # another process is changing it
        return count_interests(store, interests)


def _save(
    run: Run[LurmRecipe], interests: Interests, counts: Counts, found: list[FittedLurm], train: np.ndarray, last: int
) -> None:
    recipe, model = run.recipe, found[0].model
    facts = json.loads((run.path / "run.json").read_text("utf-8"))
    _, mass = encode_with_mass(model, counts, interests, train[:SAMPLE], last)
    past = [fit.fitted.history if fit.fitted else [] for fit in found]
    history = [{"seed": seed, **row} for seed, rows in zip(recipe.seeds, past) for row in rows]
    sections = {
        "name": recipe.name,
        **{key: facts[key] for key in ("created", "commit", "hardware", "versions")},
        "kind": "whole lives",
        "seeds": list(recipe.seeds),
        "model": {
            "name": {"lurm": "LURM", "coles": "CoLES"}[recipe.model_name],
            "n_parameters": sum(p.numel() for p in model.parameters()),
            **model.config.model_dump(mode="json"),
        },
        "data": data_profile(run),
        "interests": {"version": interests.version, "n": interests.n, "way": interests.way, **interests.figures},
        "until": str(to_date(interests.until)),
        "n_trained": found[0].n_trained,
        "n_too_short": found[0].n_too_short,
        "mass": mass.mean(axis=0).tolist() if len(mass) else [],
        "alarms": anchor_alarms(mass),
        "history": history,
        "best_epochs": [fit.fitted.best_epoch for fit in found if fit.fitted],
    }
    sections["lives"] = {
        "until": str(to_date(interests.until)),
        "block": interests.block,
        "scales": model.config.scales,
        "way": interests.way,
        "n_interests": interests.n,
        "share_of_0": interests.figures.get("share_of_0"),
        "width": model.config.d_flat,
        "n_trained": found[0].n_trained,
        "n_too_short": found[0].n_too_short,
        "alarms": sections["alarms"],
        "anchors": describe_anchors(model, interests, counts, train[:SAMPLE], last, mass),
    }
    metrics = update_metrics(run.path, sections)
    save_artifact(
        run.artifact_path,
        [fit.model for fit in found],
        name=recipe.model_name,
        spec={"interests": interests.version, "until": interests.until, "block": interests.block},
        fingerprint=interests.version,
        heads=(),
        config={"recipe": recipe.model_dump(mode="json")},
        card=_card(metrics),
    )


def _card(metrics: dict[str, Any]) -> Card:
    data, model = metrics["data"], metrics["model"]
    return Card(
        title=metrics["name"],
        summary=f"{model['name']}, {model['n_parameters']:,} parameters, {metrics['interests']['n']:,} interests.",
        data=[{k: data[k] for k in ("name", "n_users", "n_events", "first_day", "last_day")}],
        limits=[
            "Vectors of a person are personal data: they reveal gender at 0.77-0.79 AUC on MovieLens-100K.",
            f"Interests, idf and weights were fitted on days up to {metrics['until']}; an erasure does not undo it.",
            f"{metrics['n_too_short']} users were too short to train on; they have vectors all the same.",
            *metrics["alarms"],
        ],
        use="`habitus embed RUN --out FILE`, `habitus similar RUN`, `habitus probe RUN`, `habitus report RUN`.",
    )
