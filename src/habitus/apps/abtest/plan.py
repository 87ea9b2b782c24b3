"""The plan: how many users, how long, which steps, what will be read how. Saved before, compared after."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from habitus.apps.abtest.declare import Experiment, Metric
from habitus.apps.abtest.estimate import correlation, sums
from habitus.apps.abtest.sequential import half_width, mixture_factor
from habitus.apps.abtest.sizes import design_effect, detectable, n_binary, n_mean, ratio_variance
from habitus.apps.abtest.tables import read_table, with_indicator
from habitus.core.atomic import write_json
from habitus.core.config import Config
from habitus.core.errors import ConfigError

FORMAT = 1


class Sized(Config):
    """A metric in numbers: variance per user (clusters and CUPED inside), the change planned for, users per arm."""

    baseline: float
    variance: float
    rho: float
    deff: float
    change: float  # relative: the lift, or a guardrail's margin
    n_per_arm: int
    source: str


class Step(Config):
    """A step of the ramp: share per arm, days, users per arm by its end, the relative harm it would find."""

    share: float
    days: int
    n_per_arm: int | None
    detectable: float | None


class Plan(Config):
    """A plan as saved. `tau2` is the width of the sequential mixture, fixed here so that no look can choose it.

    `n_per_arm` is for the primary metric. Entry lasts `days`, whole weeks; the last window closes `window` days later.
    """

    format: int = FORMAT
    experiment: Experiment
    metrics: dict[str, Sized]
    n_per_arm: int
    n_plain: int
    days: int | None
    window: int
    tau2: float
    steps: tuple[Step, ...]
    created: str
    fingerprint: str = ""

    @property
    def end(self) -> dt.date | None:
        """The first day on which a fixed analysis may be read."""
        return None if self.days is None else self.experiment.start + dt.timedelta(days=self.days + self.window)


def make_plan(experiment: Experiment, past: Any = None) -> Plan:
    """Size an experiment. Baselines come from the declaration, else from `past` (a table), the store, or tables.past.

    With `method = "sequential"` the number is raised so that the interval of the last look has the planned power.
    Errors: `ConfigError` when a baseline is neither declared nor measurable.
    """
    sized = {metric.name: _size(experiment, metric, past) for metric in experiment.metrics}
    primary = sized[experiment.primary.name]
    factor = _sequential_factor(experiment) if experiment.method == "sequential" else 1.0
    n = math.ceil(primary.n_per_arm * factor)
    n_plain = math.ceil(n / (1 - primary.rho**2)) if experiment.adjust else n
    days = experiment.days if experiment.days is not None else _days(experiment, n)
    tau2 = mixture_factor(experiment.alpha) * 2 * primary.variance / n
    steps = _steps(experiment, primary, days)
    window = experiment.window
    created = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    plan = Plan(
        experiment=experiment,
        metrics=sized,
        n_per_arm=n,
        n_plain=n_plain,
        days=days,
        window=window,
        tau2=tau2,
        steps=steps,
        created=created,
    )
    return plan.model_copy(update={"fingerprint": _fingerprint(plan)})


def save_plan(plan: Plan, path: str | Path) -> None:
    """Write a plan as JSON, atomically."""
    write_json(path, plan.model_dump(mode="json"))


def read_plan(path: str | Path) -> Plan:
    """Read a plan. Errors: `ConfigError` when it is none, or was changed after it was made."""
    try:
        values = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError) as cause:
        raise ConfigError("a plan, as `habitus abtest plan` writes it", str(cause), where=str(path)) from None
    plan = Plan.parse(values, where=str(path))
    if plan.format != FORMAT:
        raise ConfigError(f"format {FORMAT}", str(plan.format), where=str(path), fix="plan again with this version")
    if plan.fingerprint != _fingerprint(plan):
        raise ConfigError(
            "a plan as it was made",
            "one that was changed since: its fingerprint differs",
            where=str(path),
            fix="change the declaration and plan again, before the start",
        )
    return plan


def summary(plan: Plan) -> str:
    """Say a plan in lines for a terminal."""
    experiment, name = plan.experiment, plan.experiment.primary.name
    primary = plan.metrics[name]
    lines = [
        f"{experiment.name}: {plan.n_per_arm:,} users per arm find {primary.change:+.3g} relative on {name} "
        f"with power {experiment.power:.0%} at alpha {experiment.alpha:g} ({experiment.method})",
        f"  baseline {primary.baseline:.5g}, design effect {primary.deff:.3g}, rho {primary.rho:.2f} "
        f"({primary.source}); "
        f"without CUPED {plan.n_plain:,}",
    ]
    for other, sized in plan.metrics.items():
        if other != name:
            found = detectable(sized.variance, plan.n_per_arm, alpha=experiment.alpha, power=experiment.power)
            lines.append(f"  {other}: baseline {sized.baseline:.5g}, finds {found / abs(sized.baseline):.3g} relative")
    if plan.days is not None:
        lines.append(f"  {plan.days} days of entry from {experiment.start}, windows close {plan.window} days later")
    for step in plan.steps:
        n = "" if step.n_per_arm is None else f"{step.n_per_arm:>9,} users per arm by its end, "
        harm = "" if step.detectable is None else f"finds a harm of {step.detectable:.3g} relative"
        lines.append(f"  ramp {step.share:>5.0%}: {step.days} days, {n}{harm}")
    return "\n".join(lines)


def _size(experiment: Experiment, metric: Metric, past: Any) -> Sized:
    declared = metric.baseline is not None and (metric.variance is not None or metric.kind == "binary")
    if declared:
        assert metric.baseline is not None
        spread = metric.variance or metric.baseline * (1 - metric.baseline)
        baseline, rho, source = metric.baseline, metric.rho or 0.0, "declared"
    else:
        baseline, spread, rho, source = _measured(experiment, metric, past)
        rho = metric.rho if metric.rho is not None else rho
    if not baseline:
        raise ConfigError("a baseline other than 0", "0", where=metric.name, fix="declare it, or give more of the past")
    deff = design_effect(metric.cluster_size, metric.icc, metric.cluster_cv)
    saved = 1 - rho**2 if experiment.adjust else 1.0
    change = metric.lift or metric.margin or experiment.primary.lift or 0.0
    values = {"alpha": experiment.alpha, "power": experiment.power}
    if metric.kind == "binary" and metric.role != "guardrail":
        n = n_binary(baseline, metric.sign * change, **values)
    else:
        # a lift scales amounts, so their variance by its square; counts vary as their mean does
        grown = (1 + metric.sign * change) ** (2 if metric.kind == "mean" else 1)
        n = n_mean(spread, change * baseline, treated=spread * grown if metric.lift else None, **values)
    rows = n * deff * saved
    return Sized(
        baseline=baseline,
        variance=spread * deff * saved,
        rho=rho,
        deff=deff,
        change=metric.sign * change,
        n_per_arm=math.ceil(rows),
        source=source,
    )


def _measured(experiment: Experiment, metric: Metric, past: Any) -> tuple[float, float, float, str]:
    """Baseline, variance per user and rho, from the time before the start."""
    columns, source = past_columns(experiment, metric, past)
    y, is_ratio = columns[:, 0], metric.kind == "ratio"
    level = y.mean() / columns[:, 1].mean() if is_ratio else y.mean()
    spread = ratio_variance(y, columns[:, 1]) if is_ratio else float(y.var(ddof=1))
    rho = 0.0
    if columns.shape[1] > 1 + is_ratio and spread > 0:
        whole = sums(columns)
        rho = min(float(correlation(whole, whole, is_ratio=is_ratio)), 0.999)
    return float(level), spread, rho, source


def past_columns(experiment: Experiment, metric: Metric, past: Any = None) -> tuple[np.ndarray, str]:
    """Give the columns of a metric on past users [n, P], and where from: `past`, the store, or tables.past."""
    import polars as pl

    from habitus.apps.abtest.tables import _from_store, _open_store

    if metric.target is not None:
        store = _open_store(experiment)
        if store is not None:
            day = experiment.start - dt.timedelta(days=metric.window or 0)
            if (day - dt.date(1970, 1, 1)).days - 1 <= store.first_day:
                raise ConfigError("a log that begins two windows before the start", str(day), where=metric.name)
            people = store.users.with_columns(day=pl.lit((day - dt.date(1970, 1, 1)).days, pl.Int32))
            people = people.filter(pl.col("first_day") < pl.col("day")).with_columns(pl.col("user").cast(pl.String))
            found = _from_store(metric, people, store, None)
            return found.values[found.is_known], f"measured on the store from {day}"
    table = past if past is not None else experiment.tables.past
    if table is None:
        raise ConfigError(
            "a baseline (and a variance, unless binary)",
            "neither declared nor measurable",
            where=metric.name,
            fix="declare baseline and variance, or name [tables] past or store",
        )
    table = read_table(table) if isinstance(table, str | Path) else pl.DataFrame(table)
    names = [name for name in (metric.value, metric.per, metric.before, metric.per_before) if name is not None]
    absent = [name for name in names if name not in table.columns]
    if absent and absent[0] not in (metric.before, metric.per_before):
        raise ConfigError(f"a column {absent[0]!r}", ", ".join(table.columns), where="tables.past")
    table = table.select([pl.col(n).cast(pl.Float64) for n in names if n in table.columns]).fill_null(float("nan"))
    n_parts = 1 + (metric.per is not None)
    values = table.to_numpy()
    values = values[np.isfinite(values[:, :n_parts]).all(axis=1)]
    if not absent and metric.before is not None:
        parts = [values[:, k] for k in range(n_parts, values.shape[1])]
        has = np.logical_and.reduce([np.isfinite(part) for part in parts])
        values = np.concatenate([values[:, :n_parts], with_indicator(parts, has)], axis=1)
    return values[:, : values.shape[1]], "measured on the table of the past"


def _sequential_factor(experiment: Experiment) -> float:
    """How many times the users of a fixed test the last look of a sequential one needs for the same power."""
    from scipy.special import ndtri

    z, more = float(ndtri(1 - experiment.alpha / 2)), float(ndtri(experiment.power))
    wide = float(half_width(np.array(1.0), mixture_factor(experiment.alpha), experiment.alpha))
    return ((wide + more) / (z + more)) ** 2


def _days(experiment: Experiment, n: int) -> int | None:
    if experiment.users_per_day is None:
        return None
    early = sum(experiment.ramp[:-1]) * experiment.ramp_days * experiment.users_per_day
    rest = max(n - early, 0) / (experiment.ramp[-1] * experiment.users_per_day)
    whole = (len(experiment.ramp) - 1) * experiment.ramp_days + rest
    return max(7, math.ceil(whole / 7) * 7)


def _steps(experiment: Experiment, primary: Sized, days: int | None) -> tuple[Step, ...]:
    found, n = [], 0.0
    for place, share in enumerate(experiment.ramp):
        is_last = place == len(experiment.ramp) - 1
        length = experiment.ramp_days
        if is_last and days is not None:
            length = max(days - place * experiment.ramp_days, experiment.ramp_days)
        if experiment.users_per_day is None:
            found.append(Step(share=share, days=length, n_per_arm=None, detectable=None))
            continue
        n += share * experiment.users_per_day * length
        harm = detectable(primary.variance, n, alpha=experiment.alpha, power=experiment.power) / abs(primary.baseline)
        found.append(Step(share=share, days=length, n_per_arm=int(n), detectable=harm))
    return tuple(found)


def _fingerprint(plan: Plan) -> str:
    values = plan.model_dump(mode="json", exclude={"fingerprint"})
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
