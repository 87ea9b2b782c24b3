"""The declaration of an experiment: a small strict TOML, written before anybody is assigned."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from habitus.core.config import Config, read_toml
from habitus.core.errors import TargetError
from habitus.data.targets import Target

Kind = Literal["binary", "mean", "ratio"]
Role = Literal["primary", "secondary", "guardrail"]
N_BUCKETS = 10_000
LAST = N_BUCKETS  # a layer's buckets are 0 .. 9,999


class Metric(Config):
    """One measured outcome per user.

    Either a `target` of the house, measured on a store from the day of exposure on, or `value`, a column of the metrics
    table (`"*"` counts its rows). A ratio also has `per`, its denominator, of the same two kinds. `before` (and
    `per_before`) are columns of the table of the time before; a target is its own covariate, measured before exposure.

    The planned change is `lift`, relative to the baseline, in the direction `better`; a guardrail instead has `margin`,
    the relative harm that would still be accepted. `baseline`, `variance` (per user; of a ratio after linearisation),
    `rho` (correlation with the time before), `cluster_size`, `cluster_cv` and `icc` may be declared, or are measured by
    `plan`.

    >>> Metric(name="buyers", role="primary", kind="binary", target="any(purchase) in 14d", lift=0.03).window
    14
    """

    name: str
    role: Role = "secondary"
    kind: Kind
    target: str | None = None
    value: str | None = None
    per: str | None = None
    before: str | None = None
    per_before: str | None = None
    better: Literal["up", "down"] = "up"
    lift: float | None = None
    margin: float | None = None
    baseline: float | None = None
    variance: float | None = Field(None, gt=0)
    rho: float | None = Field(None, gt=-1, lt=1)
    cluster_size: float = Field(1.0, ge=1)
    cluster_cv: float = Field(0.0, ge=0)
    icc: float = Field(0.0, ge=0, le=1)
    window_days: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.target is None) == (self.value is None):
            raise ValueError(f"{self.name}: either target (with a store) or value (a column)")
        if (self.kind == "ratio") != (self.per is not None):
            raise ValueError(f"{self.name}: a ratio has per, its denominator, and nothing else has one")
        if (self.per_before is not None) != (self.kind == "ratio" and self.before is not None):
            raise ValueError(f"{self.name}: before and per_before of a ratio go together")
        if self.target is not None and self.before is not None:
            raise ValueError(f"{self.name}: a target is its own covariate; before is for columns")
        if self.role == "primary" and not self.lift:
            raise ValueError(f"{self.name}: a primary metric needs lift, the change worth finding, such as 0.03")
        if (self.role == "guardrail") != (self.margin is not None):
            raise ValueError(f"{self.name}: a guardrail has margin, such as 0.02, and nothing else has one")
        if any(found is not None and found <= 0 for found in (self.lift, self.margin)):
            raise ValueError(f"{self.name}: lift and margin are positive; better = 'down' turns them round")
        if self.kind == "binary" and self.baseline is not None and not 0 < self.baseline < 1:
            raise ValueError(f"{self.name}: the baseline of a binary metric lies between 0 and 1")
        for text in (self.target, self.per if self.target else None):
            _checked_target(text)
        return self

    @property
    def sign(self) -> int:
        """+1 when more is better, -1 when less is."""
        return 1 if self.better == "up" else -1

    @property
    def window(self) -> int | None:
        """Days from exposure until the metric is known; None for tables with one row per user."""
        return self.window_days if self.target is None else Target.parse(self.target).horizon


class Tables(Config):
    """Where rows lie, relative to the declaration: Parquet or CSV files; a store for targets.

    Without `assignment`, everybody in the store is assigned by the salt and exposed on `start`. `metrics` with a column
    `time` holds events: those from exposure until the metric's window closes are summed per user. `before` has one row
    per user. `past` is a metrics table of an earlier time with one row per user, from which `plan` takes baselines.
    """

    assignment: str | None = None
    metrics: str | None = None
    before: str | None = None
    past: str | None = None
    store: str | None = None
    user: str = "user"
    arm: str = "arm"
    time: str = "time"
    control: str = "control"
    treatment: str = "treatment"
    missing: Literal["zero", "exclude"] | None = None


class Experiment(Config):
    """A whole experiment, as planned.

    `salt` names the layer: experiments of one layer have disjoint `buckets`. Treatment fills the range from its lower
    end, control from its upper end, so both arms are equally large at every step of the `ramp`, and nobody ever moves.
    `sequential` reads the primary metric with intervals valid at every look; `fixed` reads it once, at the end.

    >>> text = {"name": "t", "salt": "s", "start": "2024-01-01", "metrics": [
    ...     {"name": "m", "role": "primary", "kind": "binary", "value": "bought", "lift": 0.05}]}
    >>> Experiment.parse(text).primary.name
    'm'
    """

    name: str = Field(min_length=1)
    salt: str = Field(min_length=1)
    start: dt.date
    alpha: float = Field(0.05, gt=0, lt=0.5)
    power: float = Field(0.8, gt=0.5, lt=1)
    method: Literal["fixed", "sequential"] = "fixed"
    adjust: bool = (
        True  # CUPED decides for the primary metric when a time before is known; the plain one is shown beside
    )
    users_per_day: float | None = Field(None, gt=0)  # that could be exposed at full size
    days: int | None = Field(None, ge=7)
    buckets: tuple[int, int] = (0, N_BUCKETS)
    ramp: tuple[float, ...] = (0.01, 0.05, 0.2, 0.5)
    ramp_days: int = Field(1, ge=1)
    first_look: int = Field(1000, ge=2)  # users an arm before the first sequential interval
    segments: tuple[str, ...] = ()
    metrics: tuple[Metric, ...] = Field(min_length=1)
    tables: Tables = Tables()

    @field_validator("buckets")
    @classmethod
    def _range(cls, value: tuple[int, int]) -> tuple[int, int]:
        if not 0 <= value[0] < value[1] <= LAST:
            raise ValueError(f"buckets = [first, end] with 0 <= first < end <= {LAST}")
        return value

    @field_validator("ramp")
    @classmethod
    def _rising(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value or list(value) != sorted(set(value)) or value[0] <= 0 or value[-1] > 0.5:
            raise ValueError("ramp = rising shares of users per arm, the last at most 0.5")
        return value

    @model_validator(mode="after")
    def _roles(self) -> Self:
        names = [metric.name for metric in self.metrics]
        if len(set(names)) < len(names):
            raise ValueError("metrics with different names")
        if sum(metric.role == "primary" for metric in self.metrics) != 1:
            raise ValueError("exactly one metric with role = 'primary'")
        if self.days is not None and self.days % 7:
            raise ValueError("days = a multiple of 7: whole weeks only, for weekdays differ")
        return self

    @property
    def primary(self) -> Metric:
        """The metric that decides."""
        return next(metric for metric in self.metrics if metric.role == "primary")

    @property
    def window(self) -> int:
        """Days until the slowest metric of a user is known; 0 where all come ready-made."""
        return max((metric.window or 0 for metric in self.metrics), default=0)


def read_experiment(path: str | Path) -> Experiment:
    """Read a declaration; tables are found beside it. Errors: `ConfigError` naming the key that is wrong."""
    path = Path(path)
    found = Experiment.parse(read_toml(path), where=str(path))
    tables = found.tables.model_dump()
    for key in ("assignment", "metrics", "before", "past", "store"):
        if tables[key] is not None:
            tables[key] = str((path.parent / tables[key]).resolve())
    return found.model_copy(update={"tables": Tables(**tables)})


def _checked_target(text: str | None) -> None:
    if text is None:
        return
    try:
        target = Target.parse(text)
    except TargetError as cause:
        raise ValueError(f"{cause.expected}; found {cause.found}") from None
    if target.horizon is None:
        raise ValueError(f"a target with a window, such as '{text} in 14d'")
