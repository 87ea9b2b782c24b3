"""A recipe: one complete run as values in a TOML file. It holds no programs, and no key has two homes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from habitus.core.config import Config, read_toml
from habitus.core.errors import TargetError
from habitus.core.registry import MODELS, resolve
from habitus.data.cutoffs import Cutoffs
from habitus.data.targets import Target
from habitus.tokens.spec import TokenConfig
from habitus.training.fit import TrainingConfig

HeadKind = Literal["binary", "days", "count", "masked_mse", "ziln", "hurdle", "quantile"]
DEFAULT_HEAD: dict[str, HeadKind] = {
    "any": "binary",
    "none": "binary",
    "days": "days",
    "count": "count",
    "sessions": "count",
    "sum": "ziln",
}


class TargetConfig(Config):
    """A declared target and how it is modelled.

    `head` defaults by what is measured: binary for any and none, days for days, count for count and sessions, ziln for
    sum. With `per_day` the model also forecasts each day of the horizon. `is_straight = false` closes the linear way of
    the model's `profile_gain` to this target: amounts need it, rare events do not.
    """

    name: str
    define: str
    head: HeadKind | None = None
    unit: str | None = None
    per_day: bool = False
    is_straight: bool = True

    @model_validator(mode="after")
    def _fits(self) -> Self:
        kind, target = self.kind, self.target
        if (kind == "binary") != target.is_binary or (kind == "days" and target.aggregation != "days"):
            raise TargetError(
                f"a head that fits {target.aggregation}(...), such as {DEFAULT_HEAD[target.aggregation]!r}",
                repr(kind),
                where=f"targets.{self.name}",
            )
        return self

    @property
    def target(self) -> Target:
        """The parsed declaration."""
        return Target.parse(self.define, name=self.name)

    @property
    def kind(self) -> HeadKind:
        """The head in force."""
        return self.head or DEFAULT_HEAD[self.target.aggregation]

    @property
    def day_kind(self) -> HeadKind:
        """The head of a single day: what happens on at most one day is binary."""
        return "binary" if self.kind == "days" else self.kind


class LoaderConfig(Config):
    """How samples become batches: samples per batch, and cut-offs drawn per user and epoch (0 takes all).

    With `bag_days`, each member of the ensemble trains on its own draw of blocks of so many days, so that the intervals
    of a what-if also hold the chance of which dates were seen.
    """

    batch_size: int = Field(default=256, ge=1)
    per_user: int = Field(default=4, ge=0)
    bag_days: int | None = Field(default=None, ge=1)


class GateConfig(Config):
    """Which rows the model is set beside, how hard they try, and how intervals are drawn.

    `group` names a label of the profile: users of one group are drawn together, such as the enrolments of one student.
    `max_rows` is how many training samples the rows are fitted on, drawn at random; None takes all.
    """

    rows: tuple[Literal["base_rate", "recency_frequency", "lightgbm", "lightgbm_known_future"], ...] = (
        "base_rate",
        "recency_frequency",
        "lightgbm",
        "lightgbm_known_future",
    )
    seed: int = 0
    n_resamples: int = Field(default=500, ge=100)
    group: str | None = None
    max_rows: int | None = Field(default=None, ge=1)


class Recipe(Config):
    """A run, complete.

    `store` is a path, relative to the folder the command runs in. `seeds` are the members of the ensemble. With
    `refit`, the model is trained again on train + gap + validation for the number of epochs that validation chose.

    >>> Recipe.read("recipes/online_retail_lumos.toml").name  # doctest: +SKIP
    'online_retail_lumos'
    """

    name: str
    store: str
    cutoffs: Cutoffs
    targets: tuple[TargetConfig, ...] = Field(min_length=1)
    model: dict[str, Any]
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    refit: bool = True
    weighting: Literal["uncertainty", "sum"] = "uncertainty"
    tokens: TokenConfig = TokenConfig()
    loader: LoaderConfig = LoaderConfig()
    training: TrainingConfig = Field(default_factory=lambda: TrainingConfig.parse({}))
    gate: GateConfig = GateConfig()

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read and check a recipe, model included. Errors: `ConfigError`, `CutoffError`, `TargetError`."""
        recipe = cls.parse(read_toml(path), where=str(path))
        recipe.model_config_of_choice(str(path))
        return recipe

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [target.name for target in self.targets]
        if len(set(names)) != len(names):
            raise TargetError("target names that differ", ", ".join(names), where="targets")
        wrong = [t for t in self.targets if t.target.horizon != self.cutoffs.horizon]
        if wrong:
            raise TargetError(
                f"windows of cutoffs.horizon = {self.cutoffs.horizon} days",
                wrong[0].define,
                where=f"targets.{wrong[0].name}",
                fix="write one horizon in both places",
            )
        return self

    def model_config_of_choice(self, where: str = "recipe") -> Config:
        """Give the strict config of the chosen model."""
        values = dict(self.model)
        model = resolve(MODELS, values.pop("name", "lumos"), kind="model")
        return model.Config.parse(values, where=f"{where}: model")

    @property
    def window_targets(self) -> tuple[Target, ...]:
        """Targets over the whole horizon, K."""
        return tuple(target.target for target in self.targets)

    @property
    def day_targets(self) -> tuple[Target, ...]:
        """Targets also forecast for each day, K_day."""
        return tuple(target.target for target in self.targets if target.per_day)
