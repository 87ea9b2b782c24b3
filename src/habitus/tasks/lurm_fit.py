"""Fit LURM's encoder on counts, and encode with it; needs no run folder."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field

from habitus.core.config import Config
from habitus.core.errors import TrainingError
from habitus.core.progress import track
from habitus.core.seeds import derive, uniforms
from habitus.models.coles import Coles, ColesConfig
from habitus.models.lurm import Lurm, LurmConfig, shape_of
from habitus.models.lurm_start import N_BAGS, start_from_bags, start_rhythm
from habitus.tokens.bag_tables import bag_table
from habitus.tokens.bags import (
    NOW,
    bags_of_rows,
    layers_of,
    make_bags,
    newest_block,
    raw_bag,
    reach_of,
    read_rows,
)
from habitus.tokens.rhythm import rhythm_of, rhythm_width
from habitus.tokens.views import Baskets, ViewLoader, baskets_of_counts, trainable
from habitus.tokens.window_sums import grid_of
from habitus.training.fit import Fitted, TrainingConfig, fit
from habitus.training.objectives.contrastive import Contrastive, ContrastiveConfig

TRAINING = {"lr": 1e-3, "betas": (0.9, 0.98), "warm_up": 0.05, "epochs": 50, "patience": 5, "loggers": ("csv",)}
ROWS = 1 << 21  # rows of counts that a batch reads, which bounds its memory whatever the histories are
CROWDED, IDLE = 0.6, 0.02  # shares of mass at which an anchor is worth an alarm


class ViewConfig(Config):
    """How users become batches of views: users per batch, the share held out, and the kinds of views.

    `blocks`, `baskets`, `cut` are chances of the kinds. A basket is a session or ends at a pause of `gap_minutes`;
    `chunk` cuts it after so many events.
    """

    batch_size: int = Field(512, ge=2)
    held_out: float = Field(0.05, gt=0, lt=1)
    blocks: float = Field(0.4, ge=0, le=1)
    baskets: float = Field(0.3, ge=0, le=1)
    gap_minutes: float = Field(30.0, gt=0)
    chunk: int = Field(0, ge=0)


@dataclass(frozen=True)
class FittedLurm:
    """A trained encoder (LURM, or CoLES beside it), how training went, and how many users could not be trained on."""

    model: Any
    fitted: Fitted | None
    n_trained: int
    n_too_short: int


def training_config(**changed: Any) -> TrainingConfig:
    """Give the training of the specification, with changes."""
    return TrainingConfig.parse(TRAINING | changed)


def fit_on_counts(
    counts: Any,
    interests: Any,
    config: LurmConfig | ColesConfig,
    training: TrainingConfig | None,
    seed: int = 0,
    *,
    objective: ContrastiveConfig | None = None,
    views: ViewConfig | None = None,
    baskets: Baskets | None = None,
    users: np.ndarray | None = None,
    until: int = NOW,
    folder: str | Path | None = None,
) -> FittedLurm:
    """Fit on the counts up to block `until`; `training` of None gives the untrained start.

    The config says which encoder: CoLES learns from the likeness of its one vector alone.

    Parameters
    ----------
    baskets
        From `baskets_of_store`; without it every block of a user is one basket.
    users
        int64, the train users; all by default. A share of them is held out for early stopping.
    folder
        Where checkpoints go; a run found there goes on. None keeps none.

    Errors: `TrainingError` when fewer than two users have two baskets.
    """
    views = views or ViewConfig.parse({})
    if isinstance(config, ColesConfig):
        model: Any = Coles(config, shape_of(config, interests.n), seed=seed)
        one = {"paper_form": True, "anchors": 0.0}  # one vector: no anchors to tell apart, no gates to speak through
        objective = (objective or ContrastiveConfig.parse({})).model_copy(update=one)
    else:
        model = Lurm(config, shape_of(config, interests.n, getattr(interests, "n_groups", 1)), seed=seed)
    train = np.arange(len(counts.user_offsets) - 1) if users is None else np.asarray(users, np.int64)
    if isinstance(config, LurmConfig) and config.form[1] == "spectral":
        start_from_bags(model, raw_bag(counts, interests, train, until).astype(np.float32), seed)
        if model.rhythm is not None:
            start_rhythm(model, _rhythms(model, counts, train, until, seed))
    table = (baskets if baskets is not None else baskets_of_counts(counts)).until(until)
    long = np.intersect1d(train, trainable(table))
    n_short = len(train) - len(long)
    if training is None:
        return FittedLurm(model.eval(), None, 0, n_short)
    held = uniforms(seed, long.astype(np.uint64), stream="held out") < views.held_out
    if len(long) >= 2 and not held.any():
        held[0] = True
    if (~held).sum() < 2:
        fix = "count smaller blocks, or give baskets"
        raise TrainingError("users with two baskets", f"{len(long)} of {len(train)}", where="LURM", fix=fix)
    kinds = (views.blocks, views.blocks + views.baskets)
    shared = {"scales": config.scales, "batch_size": views.batch_size, "top": config.top, "kinds": kinds, "seed": seed}
    loaders = (
        ViewLoader(table, interests.idf, long[~held], is_training=True, **shared),
        ViewLoader(table, interests.idf, long[held], **shared),
    )
    loss = Contrastive(objective or ContrastiveConfig.parse({}), config, seed=seed)
    chosen = training.model_copy(update={"seed": seed})
    with tempfile.TemporaryDirectory() as beside:
        fitted = fit(model, loss, *loaders, chosen, folder if folder is not None else beside)
    return FittedLurm(model.eval(), fitted, int((~held).sum()), n_short)


def fit_lurm(
    counts: Any,
    interests: Any,
    config: LurmConfig | ColesConfig,
    training: TrainingConfig | None,
    seed: int = 0,
    **options: Any,
) -> Any:
    """Give the model of `fit_on_counts` alone."""
    return fit_on_counts(counts, interests, config, training, seed, **options).model


def encode(
    model: Any,
    counts: Any,
    interests: Any,
    users: np.ndarray,
    cutoff_block: int | np.ndarray = NOW,
    batch_size: int = 1024,
) -> tuple[np.ndarray, np.ndarray]:
    """Give `flat` float32 [n, M P] and `vectors` float32 [n, M, P]; order, batch size and company change nothing."""
    out, _ = encode_with_mass(model, counts, interests, users, cutoff_block, batch_size)
    return out


def encode_with_mass(
    model: Any, counts: Any, interests: Any, users: np.ndarray, cutoff_block: int | np.ndarray = NOW, batch: int = 1024
) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """Give `(flat, vectors)` and the mass of each anchor, float32 [n, M]."""
    users = np.asarray(users, np.int64)
    _, m, _, p = model.config.widths
    flat, mass = np.zeros((len(users), m * p), np.float32), np.zeros((len(users), m), np.float32)
    vectors = np.zeros((len(users), m, p), np.float32)
    cutoff = np.broadcast_to(np.asarray(cutoff_block, np.int64), users.shape)
    if (cutoff == NOW).any():
        cutoff = np.where(cutoff == NOW, newest_block(counts), cutoff)
    with torch.no_grad():
        for part in track(_batches(counts, users, batch), "embed"):
            found = model.eval()(*_read(model, counts, interests, users[part], cutoff[part], model.config.top))
            flat[part], vectors[part], mass[part] = (t.numpy() for t in (found.flat, found.vectors, found.mass))
    return (flat, vectors), mass


def _read(model: Any, counts: Any, interests: Any, users: np.ndarray, cutoff: np.ndarray, top: int) -> tuple[Any, ...]:
    """Give what a model reads of users up to their cut-offs: bags, and the rhythm where it has one."""
    if not isinstance(model, Lurm):
        return (make_bags(counts, interests, users, cutoff, model.scales, top),)
    reach, n_groups, n, idf = reach_of(model.scales), model.shape.n_groups, len(users), interests.idf
    rows, life = read_rows(counts, users, cutoff, reach, has_group=n_groups > 1)
    grid = grid_of(rows, cutoff, n, reach, len(idf), life) if reach else None
    if grid is not None and life is not None and grid.interest.shape[1] <= top and model.mass != "share":
        bags: Any = bag_table(grid, life, cutoff, idf, model.scales)
    else:
        bags = bags_of_rows(rows, n, cutoff, idf, model.scales, top, life, grid)
    if model.rhythm is None:
        return (bags,)
    events = None if grid is None else grid.events
    return bags, rhythm_of(rows, life, n, cutoff, reach, n_groups, events)


def _rhythms(model: Lurm, counts: Any, users: np.ndarray, until: int, seed: int) -> np.ndarray:
    """Give the rhythms of users, float64 [n, K]; of `N_BAGS` of them where there are more."""
    if len(users) > N_BAGS:
        users = np.sort(np.random.default_rng(derive(seed, "rhythm")).choice(users, N_BAGS, replace=False))
    block = newest_block(counts) if until == NOW else until
    reach, n_groups = reach_of(model.scales), model.shape.n_groups
    found = np.zeros((len(users), rhythm_width(reach, n_groups)))
    for part in _batches(counts, users, 1024):
        cutoff = np.full(len(part), block, np.int64)
        rows, life = read_rows(counts, users[part], cutoff, reach, has_group=n_groups > 1)
        found[part] = rhythm_of(rows, life, len(part), cutoff, reach, n_groups).numpy()
    return found


def _batches(counts: Any, users: np.ndarray, most: int) -> list[np.ndarray]:
    """Split places of `users` in batches of at most `most` users and about `ROWS` rows, users of like size together."""
    if not len(users):
        return []
    rows = np.sum([np.diff(layer.user_offsets)[users] for layer in layers_of(counts)], axis=0)
    order = np.argsort(rows, kind="stable")
    batch = np.maximum(np.arange(len(users)) // most, np.cumsum(rows[order]) // ROWS)
    return np.split(order, np.flatnonzero(np.diff(batch)) + 1)


def anchor_alarms(mass: np.ndarray) -> list[str]:
    """Say which anchors hold over 60 % or under 2 % of the mass, in the mean over users [n, M].

    >>> anchor_alarms(np.array([[0.7, 0.29, 0.01]]))
    ['anchor 0 holds 70 % of the mass', 'anchor 2 holds 1 % of the mass']
    """
    mean = mass.mean(axis=0) if len(mass) else np.zeros(0)
    alarmed = np.flatnonzero((mean > CROWDED) | (mean < IDLE)) if len(mean) > 1 else []
    return [f"anchor {m} holds {mean[m]:.0%} of the mass".replace("%", " %") for m in alarmed]
