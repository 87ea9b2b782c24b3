"""What a run left in metrics.json, as frozen containers: every key optional, unknown keys ignored, NaN read as None."""

from __future__ import annotations

import json
from datetime import date, datetime
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, BaseModel, Field, ValidationError, model_validator

from habitus.core.errors import ArtifactError
from habitus.tasks.report.part import FROZEN, Days, Number, Numbers, same_length
from habitus.tasks.report.record_lives import Lives, Probe
from habitus.tasks.report.record_whatif import WhatIf

FORMAT = 1


class _Part(BaseModel):
    model_config = FROZEN


class Estimate(_Part):
    """A figure with its interval; each may be unknown."""

    value: Number = None
    low: Number = None
    high: Number = None


class Daily(_Part):
    """Events and active users of each day of the log."""

    day: Days = []
    events: Numbers = []
    active_users: Numbers = []

    @model_validator(mode="after")
    def _aligned(self) -> Daily:
        return same_length(self, "day", "events", "active_users")


class Data(_Part):
    name: str | None = None
    n_users: int | None = None
    n_events: int | None = None
    n_rejected: int | None = None
    first_day: date | None = None
    last_day: date | None = None
    types: dict[str, int] = {}
    daily: Daily = Daily()


class Cutoffs(_Part):
    horizon: int | None = None
    history: int | None = None
    train: Days = []
    gap: Days = []
    valid: Days = []
    test: Days = []
    n_samples: dict[str, int | None] = {}


class Target(_Part):
    """A declared outcome; `rate` is the share of training rows above zero."""

    name: str
    define: str | None = None
    head: str | None = None
    unit: str | None = None
    rate: Number = None


class Model(_Part):
    """A row of the comparison; role is "model" (it is judged), "gate" (a baseline) or "blend" (a mean of both)."""

    name: str
    role: str = "gate"


class Built(_Part):
    """How the model was set up."""

    name: str | None = None
    size: str | None = None
    n_parameters: int | None = None


class Row(_Part):
    """One model on one target."""

    target: str
    model: str
    metrics: dict[str, Estimate] = {}
    seed_sd: dict[str, Number] = {}


class Difference(Estimate):
    """`model` minus `against` in one metric; `is_better` is None when the interval holds 0."""

    target: str
    metric: str
    model: str
    against: str
    is_better: bool | None = None


class Reliability(_Part):
    target: str
    model: str
    predicted: Numbers = []
    observed: Numbers = []
    n: Numbers = []

    @model_validator(mode="after")
    def _aligned(self) -> Reliability:
        return same_length(self, "predicted", "observed", "n")


class Epoch(_Part):
    seed: int = 0
    epoch: int
    train: Number = None
    valid: Number = None
    targets: dict[str, Number] = {}


class Past(_Part):
    day: Days = []
    value: Numbers = []

    @model_validator(mode="after")
    def _aligned(self) -> Past:
        return same_length(self, "day", "value")


class Forecast(Past):
    low: Numbers = []
    high: Numbers = []
    actual: Numbers = []

    @model_validator(mode="after")
    def _aligned(self) -> Forecast:
        return same_length(self, "day", "value", "low", "high", "actual")


class Happening(_Part):
    """A known event, as far as a plot needs it."""

    event: str
    start: date
    end: date | None = None


class Total(Estimate):
    """The headline figure of one target over the whole window; `actual` when it is known by now."""

    target: str
    unit: str | None = None
    cutoff: date | None = None
    level: float | None = None
    actual: Number = None
    n_users: int | None = None


class DailyTotals(_Part):
    """Daily totals of one target after one cut-off; `level` is the share of days the band is meant to hold."""

    target: str
    unit: str | None = None
    cutoff: date | None = None
    n_users: int | None = None
    level: float | None = Field(None, validation_alias=AliasChoices("level", "coverage"))
    past: Past = Past()
    forecast: Forecast = Forecast()
    events: list[Happening] = []


class Ranking(_Part):
    """Where the truth stood in the whole catalogue; see `tasks.evaluate_events`."""

    field: str = "value"
    n_targets: int | None = None
    n_users: int | None = None
    n_values: int | None = None
    n_unknown: int | None = None
    repeat_share: Number = None
    groups: dict[str, int | None] = {}
    models: list[Model] = []
    table: list[Row] = []
    differences: list[Difference] = []


class Recipe(_Part):
    path: str | None = None
    text: str | None = None


class Record(_Part):
    """The whole of metrics.json (format 1), and a few optional keys the page can use when a task writes them.

    Optional, and seldom all there: `totals` (window totals with an interval), `level` of a band, `commands`, `recipe`.
    """

    format: int = FORMAT
    name: str | None = None
    created: datetime | date | None = None
    commit: str | None = None
    hardware: str | None = None
    versions: str | None = None
    model: Built = Built()
    seeds: list[int] = []
    wall: dict[str, Any] = {}
    data: Data | None = None
    cutoffs: Cutoffs = Cutoffs()
    targets: list[Target] = []
    models: list[Model] = []
    table: list[Row] = []
    differences: list[Difference] = []
    reliability: list[Reliability] = []
    history: list[Epoch] = []
    daily: list[DailyTotals] = []
    totals: list[Total] = []
    test_rates: dict[str, Number] = {}
    whatif: WhatIf | None = None
    ranking: Ranking | None = None
    lives: Lives | None = None
    probe: Probe | None = None
    commands: list[str] = []
    recipe: Recipe = Recipe()

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, values: Any) -> Any:
        return {k: v for k, v in values.items() if v is not None} if isinstance(values, dict) else values

    def names(self, role: str) -> list[str]:
        """List the models of a role (`"model"` or `"gate"`) in the order of the file."""
        return [m.name for m in self.models if m.role == role]

    def cell(self, target: str, model: str, metric: str) -> Estimate | None:
        """Give one figure of the table, or None when it was not computed."""
        found = [r.metrics.get(metric) for r in self.table if (r.target, r.model) == (target, model)]
        return found[0] if found and found[0] is not None and found[0].value is not None else None

    def seed_sd(self, target: str, model: str, metric: str) -> float | None:
        """Give the standard deviation over seeds of one figure, or None."""
        found = [r.seed_sd.get(metric) for r in self.table if (r.target, r.model) == (target, model)]
        return found[0] if found else None


def read_record(run: Path) -> Record:
    """Read RUN/metrics.json.

    Errors: `ArtifactError` when the file is absent, is not JSON, has another format version, or a key of another shape.
    """
    path = run / "metrics.json"
    if not path.is_file():
        raise ArtifactError(
            "a run folder with metrics.json",
            "no such file" if run.is_dir() else "no such folder",
            where=str(path),
            fix=f"run `habitus evaluate {run}`" if run.is_dir() else "check the path, or run `habitus train RECIPE`",
        )
    try:
        raw = json.loads(path.read_text("utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as cause:
        raise ArtifactError("valid JSON", str(cause), where=str(path), fix="run `habitus evaluate RUN` again") from None
    if not isinstance(raw, dict) or raw.get("format", FORMAT) != FORMAT:
        found = f"format {raw.get('format')!r}" if isinstance(raw, dict) else type(raw).__name__
        raise ArtifactError(f"metrics of format {FORMAT}", found, where=str(path), fix="run `habitus evaluate RUN`")
    try:
        record = Record.model_validate(_facts(run) | raw)
    except ValidationError as cause:
        first = cause.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        found = first["msg"].removeprefix("Value error, ")
        raise ArtifactError(
            "metrics as `habitus evaluate` writes them", found, where=f"{path}: {place}", fix="run it again"
        ) from None
    return _with_recipe(record, run)


def _facts(run: Path) -> dict[str, Any]:
    """What training wrote in run.json stands in where metrics.json is silent: name, commit, hardware, date."""
    file = run / "run.json"
    try:
        facts = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    except (json.JSONDecodeError, UnicodeDecodeError):
        return {}
    known = ("name", "created", "commit", "hardware", "versions")
    return {key: facts[key] for key in known if key in facts} if isinstance(facts, dict) else {}


def _with_recipe(record: Record, run: Path) -> Record:
    """A recipe saved in the run folder is shown when the file itself does not carry one."""
    saved = run / "recipe.toml"
    if record.recipe.text or not saved.is_file():
        return record
    text = saved.read_text("utf-8", errors="replace")
    return record.model_copy(update={"recipe": Recipe(path=record.recipe.path or "recipe.toml", text=text)})
