"""A recipe for LURM: interests, counts, encoder, losses and views of one run as values in a TOML file."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any, Self

from pydantic import Field

from habitus.core.config import Config, read_toml
from habitus.core.errors import ConfigError
from habitus.core.registry import MODELS, resolve
from habitus.models.coles import ColesConfig
from habitus.models.lurm import LurmConfig
from habitus.tasks.lurm_fit import TRAINING, ViewConfig
from habitus.tokens.interests import InterestConfig
from habitus.training.fit import TrainingConfig
from habitus.training.objectives.contrastive import ContrastiveConfig

ENCODERS = ("lurm", "coles")


class LurmRecipe(Config):
    """A run of LURM, or of its comparator CoLES, complete.

    `store` is a path, relative to the folder the command runs in. Everything (interests, idf, weights) is fitted on the
    days up to `until`; None is the last complete day. `seeds` are fits of their own: `embed` takes the first. What
    `training` leaves out is as the specification has it: see `tasks.lurm_fit.TRAINING`.
    """

    name: str
    store: str
    model: dict[str, Any]
    until: dt.date | None = None
    interests: InterestConfig = Field(default_factory=lambda: InterestConfig.parse({}))
    objective: ContrastiveConfig = Field(default_factory=lambda: ContrastiveConfig.parse({}))
    views: ViewConfig = Field(default_factory=lambda: ViewConfig.parse({}))
    training: dict[str, Any] = Field(default_factory=dict)
    seeds: tuple[int, ...] = Field((0,), min_length=1)

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read and check a recipe, model and training included. Errors: `ConfigError`."""
        recipe = cls.parse(read_toml(path), where=str(path))
        recipe.model_config_of_choice(str(path))
        recipe.training_config(str(path))
        return recipe

    @property
    def model_name(self) -> str:
        """`lurm`, or its comparator `coles`."""
        return str(self.model.get("name", "lurm"))

    def model_config_of_choice(self, where: str = "recipe") -> LurmConfig | ColesConfig:
        """Give the strict config of the encoder."""
        values = {key: value for key, value in self.model.items() if key != "name"}
        if self.model_name not in ENCODERS:
            raise ConfigError("one of " + ", ".join(ENCODERS), repr(self.model_name), where=f"{where}: model")
        return resolve(MODELS, self.model_name, kind="model").Config.parse(values, where=f"{where}: model")

    def training_config(self, where: str = "recipe") -> TrainingConfig:
        """Give the strict config of the training."""
        return TrainingConfig.parse(TRAINING | self.training, where=f"{where}: training")
