"""What one chooses for a study of personas. Defaults live here and nowhere else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import Field

from habitus.core.config import Config, read_toml
from habitus.core.errors import ArtifactError
from habitus.data.sources.persona_threads import LABELS


class TextSettings(Config):
    """The encoder: TF-IDF of words (and characters), its singular vectors, groups of like posts."""

    width: int = Field(default=64, ge=2)
    read_by_trees: int = Field(default=24, ge=0)
    n_groups: int = Field(default=32, ge=1)
    has_characters: bool = False
    min_posts: int = Field(default=3, ge=1)  # posts a term must occur in
    max_terms: int = Field(default=30_000, ge=10)
    max_posts: int = Field(default=100_000, ge=10)  # posts the encoder is fitted on


class LookupSettings(Config):
    """The store of past answers: folds, shrinkage, near duplicates, and when it may answer by itself."""

    n_folds: int = Field(default=5, ge=2)
    has_near: bool = True
    jaccard: float = Field(default=0.7, gt=0, le=1)
    group_weight: float = Field(default=20.0, gt=0)  # prior rows of a persona's shares inside a group of texts
    own_weight: float = Field(default=10.0, gt=0)  # prior rows before a persona's own answers to a post count
    lift_weights: tuple[float, ...] = (0.3, 0.7, 1.5, 4.0)  # tried on validation
    min_support: int = Field(default=3, ge=1)
    thresholds: tuple[float, ...] = (0.6, 0.7, 0.8, 0.9)  # of the top share, for a direct answer; tried on validation
    weights: tuple[float, ...] = (10.0, 30.0, 100.0, 300.0)  # kappa of the last mix; tried on validation


class TreeSettings(Config):
    """LightGBM: the same dials for the persona models, the gate and the pooled model."""

    rounds: int = Field(default=100, ge=1)
    lr: float = Field(default=0.1, gt=0)
    leaves: int = Field(default=31, ge=2)
    min_leaf: int = Field(default=50, ge=1)
    share: float = Field(default=0.7, gt=0, le=1)  # of columns and of rows
    patience: int = Field(default=15, ge=1)
    max_bins: int = Field(default=63, ge=3)
    max_rows: int = Field(default=400_000, ge=100)  # rows a model is fitted on, chosen by content
    min_persona: int = Field(default=2000, ge=1)  # rows below which a persona is answered by the pooled model alone
    min_class: int = Field(default=50, ge=1)
    half: float = Field(default=5000.0, gt=0)  # rows at which a persona's own trees weigh one half


class RareSettings(Config):
    """The network of the rare actions. `gamma` 0 and `beta` 0 are plain cross-entropy."""

    d_text: int = 256
    d_numbers: int = 64
    d_persona: int = 16
    width: int = 128
    dropout: float = Field(default=0.3, ge=0, lt=1)
    gamma: float = Field(default=2.0, ge=0)
    beta: float = Field(default=0.999, ge=0, lt=1)
    lr: float = 1e-3
    decay: float = 0.01
    batch: int = 512
    epochs: int = Field(default=30, ge=1)
    patience: int = Field(default=5, ge=1)
    max_rows: int = Field(default=200_000, ge=10)


class PersonasRecipe(Config):
    """A study: actions, split, and the settings of its parts.

    `common` names the common actions; empty: the two most frequent of the training rows. `has_action_time` off leaves
    out everything that needs the rank of the action. `labels` are the actions in the order of all tables.

    >>> PersonasRecipe(name="x").split
    'random'
    """

    name: str
    app: Literal["personas"] = "personas"
    source: Literal["threads", "stats_se"] = "threads"
    split: Literal["random", "time"] = "random"
    labels: tuple[str, ...] = LABELS
    common: tuple[str, ...] = ()
    has_action_time: bool = True
    seed: int = 0
    text: TextSettings = TextSettings()
    lookup: LookupSettings = LookupSettings()
    trees: TreeSettings = TreeSettings()
    rare: RareSettings = RareSettings()
    max_valid: int = Field(default=100_000, ge=10)  # validation rows that tune


def read_personas_recipe(path: str | Path) -> PersonasRecipe:
    """Read a recipe. Errors: `ConfigError` naming file and key."""
    return PersonasRecipe.parse(read_toml(path), where=str(path))


def recipe_of(run: str | Path) -> PersonasRecipe:
    """Give the recipe of a run. Errors: `ArtifactError` when RUN is no run of this app."""
    path = Path(run) / "recipe.json"
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as cause:
        fix = "habitus personas fit RECIPE --threads FILE --out RUN"
        raise ArtifactError("a run of habitus personas fit", str(cause), where=str(run), fix=fix) from None
    return PersonasRecipe.parse(found, where=str(path))
