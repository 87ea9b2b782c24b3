"""A recipe for a model of events: one complete run as values in a TOML file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field

from habitus.core.config import Config, read_toml
from habitus.core.errors import ConfigError
from habitus.core.registry import MODELS, resolve
from habitus.tasks.recipe import Recipe
from habitus.tokens.event_split import EventSplit
from habitus.tokens.events import EventShape, EventTokenConfig
from habitus.training.fit import TrainingConfig
from habitus.training.objectives.next_event import NextEventConfig
from habitus.training.objectives.robust import RobustConfig


class EventLoaderConfig(Config):
    """How events become batches: places per batch, the newest stretches of a user (0 keeps all), and their overlap.

    `context` is how many events a target has before it at least; None is a quarter of the length.
    """

    tokens_per_batch: int = Field(16_384, ge=1)
    per_user: int = Field(0, ge=0)
    context: int | None = Field(None, ge=0)


class EventGateConfig(Config):
    """Which counts the model is set beside, and how intervals are drawn."""

    rows: tuple[Literal["popularity", "popularity_7d", "transition"], ...] = (
        "popularity",
        "popularity_7d",
        "transition",
    )
    seed: int = 0
    n_resamples: int = Field(500, ge=100)


class ScaleConfig(Config):
    """The ladder of `habitus scale`: every size of model x every budget of distinct training events x every seed.

    A size is keys of `model` to change, and its `lr` where it differs from the recipe's. The cells of most compute are
    left out of the fit, `n_held_out` of them, and foretold by it.
    """

    sizes: tuple[dict[str, Any], ...] = Field(min_length=1)
    budgets: tuple[int, ...] = Field(min_length=1)
    seeds: tuple[int, ...] = Field((0, 1), min_length=1)
    n_held_out: int = Field(1, ge=0)
    n_resamples: int = Field(500, ge=20)


class JointConfig(Config):
    """The whole next event as a chain of fields; `is_censored` counts the silence at the end of a log.

    `field` is the one that is ranked and predicted without knowing when the next event is.
    """

    field: str = "type"
    is_censored: bool = True
    robust: RobustConfig = Field(default_factory=lambda: RobustConfig.parse({}))


OBJECTIVES: dict[str, type[NextEventConfig] | type[JointConfig]] = {"next_event": NextEventConfig, "joint": JointConfig}


class EventRecipe(Config):
    """A run of a model of events, complete.

    `store` is a path, relative to the folder the command runs in. `seeds` are the members of the ensemble; counted
    models have one, whatever is asked. With `refit`, the model is trained again on train and validation for the number
    of epochs that validation chose. `objective.name` is `next_event` or `joint`; its `field` is what the run predicts,
    and models of one field take it from there. `scale` is for `habitus scale` alone.
    """

    name: str
    store: str
    split: EventSplit
    model: dict[str, Any]
    objective: dict[str, Any] = Field(default_factory=dict)
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    refit: bool = False
    tokens: EventTokenConfig = EventTokenConfig.parse({})
    loader: EventLoaderConfig = EventLoaderConfig.parse({})
    training: TrainingConfig = Field(default_factory=lambda: TrainingConfig.parse({}))
    gate: EventGateConfig = EventGateConfig.parse({})
    scale: ScaleConfig | None = None

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read and check a recipe, model and objective included. Errors: `ConfigError`, `CutoffError`."""
        recipe = cls.parse(read_toml(path), where=str(path))
        recipe.model_config_of_choice(str(path))
        return recipe

    @property
    def field(self) -> str:
        """What the run predicts."""
        return self.objective_config().field

    def objective_config(self, where: str = "recipe") -> NextEventConfig | JointConfig:
        """Give the strict config of the chosen objective."""
        values = dict(self.objective)
        name = values.pop("name", "next_event")
        if name not in OBJECTIVES:
            raise ConfigError(f"an objective out of: {', '.join(OBJECTIVES)}", repr(name), where=f"{where}: objective")
        return OBJECTIVES[name].parse(values, where=f"{where}: objective")

    def model_config_of_choice(self, where: str = "recipe") -> Config:
        """Give the strict config of the chosen model, with the objective's field in it."""
        values, field = dict(self.model), self.objective_config(where).field
        model = resolve(MODELS, values.pop("name"), kind="model")
        if "field" in model.Config.model_fields and values.setdefault("field", field) != field:
            fix = "leave it out of model"
            raise ConfigError(f"objective.field, {field!r}", repr(values["field"]), where=f"{where}: model", fix=fix)
        if "plain" in model.Config.model_fields:
            values.setdefault("plain", (field,))
        return model.Config.parse(values, where=f"{where}: model")


def read_recipe(path: str | Path) -> Any:
    """Read a recipe of any kind: a `Recipe`, an `EventRecipe` or a `LurmRecipe`; the model's name decides.

    Errors: `ConfigError`, `CutoffError`, `TargetError`.

    >>> read_recipe("recipes/beauty_sasrec.toml").field  # doctest: +SKIP
    'item'
    """
    model = read_toml(path).get("model", {})
    name = model.get("name", "lumos") if isinstance(model, dict) else "lumos"
    if name in ("lurm", "coles"):
        from habitus.tasks.lurm_recipe import LurmRecipe

        return LurmRecipe.read(path)
    is_of_events = resolve(MODELS, name, kind="model").Shape is EventShape
    return EventRecipe.read(path) if is_of_events else Recipe.read(path)
