"""Evaluate: the model beside its gate on the test cut-offs, with paired intervals over users."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from habitus.core.progress import track
from habitus.data.calendar import to_date
from habitus.data.cutoffs import Samples, groups_of, samples_of
from habitus.data.targets import Measured, measure, measure_days
from habitus.metrics import calibration, classification, regression
from habitus.metrics.bootstrap import Resamples, distribution, of_draws, resamples
from habitus.models.artifact import Artifact, update_artifact
from habitus.tasks import ranking_scores
from habitus.tasks.asked import Asked, asked, columns_of, open_others
from habitus.tasks.evaluate_events import evaluate_events
from habitus.tasks.event_recipe import EventRecipe
from habitus.tasks.forecast import Forecast, Heads, day_interval, day_totals, total_interval
from habitus.tasks.gate import GateRow, gate_rows
from habitus.tasks.recipe import Recipe
from habitus.tasks.run import Run, of_days, open_run, update_metrics
from habitus.tasks.scores import day_values, row_scores, scored_beside
from habitus.tokens.spec import InputSpec

MODEL = "LUMOS"
BINARY: dict[str, Callable[..., Any]] = {
    "auc": classification.auc,
    "average_precision": classification.average_precision,
    "log_loss": classification.log_loss,
    "brier": classification.brier,
    "ece": calibration.ece,
}
# each metric with the forecast that it rewards: the median for absolute errors, the mean for squared ones and for ranks
AMOUNT: dict[str, tuple[Callable[..., Any], str]] = {
    "wape": (regression.wape, "median"),
    "mae": (regression.mae, "median"),
    "rmse": (regression.rmse, "mean"),
    "spearman": (regression.spearman, "mean"),
    "mape_nonzero": (regression.mape_nonzero, "median"),
}
HIGHER_IS_BETTER = {"auc", "average_precision", "spearman"}
SHOWN = {
    "binary": ("auc", "average_precision", "log_loss", "ece"),
    "amount": ("wape", "mae", "rmse", "spearman"),
}


@dataclass(frozen=True)
class Row:
    """What one model says of the test samples: mean and median [n, K]; for binary targets both are probabilities."""

    name: str
    role: str  # "model", "gate", "blend" or "run" (another run's model)
    mean: np.ndarray
    median: np.ndarray


def evaluate(
    run: str | Path | Run, *, store: str | Path | None = None, against: Sequence[str | Path | Run] = ()
) -> dict[str, Any]:
    """Score the model and every gate row once on the test cut-offs; leave the figures in RUN/metrics.json.

    A run of events is ranked instead, see `evaluate_events`: its figures are the section `ranking`.

    Intervals are percentiles of a paired bootstrap over users: all rows see the same draws, and differences are taken
    within a draw. They do not hold the noise of seeds, which is shown beside as `seed_sd`. Nothing is tuned here.

    Parameters
    ----------
    against
        Other runs on the same store, with the same test samples and at least the same targets: further rows, and the
        model's differences to each of them. For ablations, where two models differ in one thing.

    Errors: `ArtifactError` before training; `CutoffError` when a test window ends after the log; for another run that
    does not match, `FingerprintError`, `CutoffError`, `TargetError` or `ConfigError` (see `asked.open_others`).
    """
    run = open_run(run, store)
    if isinstance(run.recipe, EventRecipe):
        return evaluate_events(run, [open_run(other, run.store.path) for other in against])
    run = of_days(run)
    recipe = run.recipe
    samples = samples_of(run.store, recipe.cutoffs, "test")
    others = open_others(run, against, samples)
    answer = asked(run, samples)
    answers = {label: asked(other, samples) for label, other in others.items()}
    whole, spec = answer.whole, answer.spec
    measured = measure(spec.targets, run.store, samples)
    rows = [_gate_row(row) for row in gate_rows(run, samples)]
    rows.append(_model_row(MODEL, "model", whole))
    rows += _blends(rows, recipe)
    rows += [_other_row(label, recipe, other, answers[label]) for label, other in others.items()]
    groups = groups_of(run.store, samples.user, recipe.gate.group)
    drawn = resamples(groups, recipe.gate.n_resamples, seed=recipe.gate.seed)
    scored = _scored(rows, recipe, measured, drawn)
    beside = {MODEL: answer} | answers
    fine, fine_differences = scored_beside(MODEL, {k: _fine(run, a) for k, a in beside.items()}, drawn)
    sections = {
        "cutoffs": _with_count(run, len(samples)),
        "models": [{"name": row.name, "role": row.role} for row in rows],
        "table": _table(scored, rows, recipe, _seed_spread(answer.members, recipe, measured)),
        "differences": _differences(scored, rows, recipe),
        "distributions": {"table": fine, "differences": fine_differences},
        "against": {label: str(other.path.resolve()) for label, other in others.items()},
        "reliability": _reliability(rows, recipe, measured),
        "totals": _totals(recipe, answer.artifact, whole, measured),
        "daily": _daily(run, answer.artifact, answer.heads, whole, spec),
        "test_rates": {t.name: float((measured.value[:, k] > 0).mean()) for k, t in enumerate(recipe.targets)},
    }
    metrics = update_metrics(run.path, sections)
    update_artifact(run.artifact_path, metrics={k: metrics[k] for k in ("table", "differences", "cutoffs")})
    return metrics


def summary(metrics: dict[str, Any]) -> str:
    """Give the gate table and its verdicts as plain text."""
    if "ranking" in metrics:
        parts = [ranking_scores.summary(metrics["ranking"])]
        if "ranking_unseen" in metrics:
            parts.append("users never seen in training, " + ranking_scores.summary(metrics["ranking_unseen"]))
        return "\n\n".join(parts)
    lines = []
    for target in metrics["targets"]:
        names = SHOWN["binary" if target["head"] == "binary" else "amount"]
        rate = metrics["test_rates"][target["name"]]
        lines += ["", f"{target['name']}: {target['define']} ({rate:.1%} of test samples above 0)"]
        lines.append(f"  {'':<26}" + "".join(f"{name:>30}" for name in names))
        for row in metrics["table"]:
            if row["target"] == target["name"]:
                cells = "".join(f"{_cell(row['metrics'][name]):>30}" for name in names)
                lines.append(f"  {row['model']:<26}{cells}")
        for found in metrics["differences"]:
            if found["target"] == target["name"] and found["metric"] == names[0] and found["model"] == MODEL:
                lines.append(f"  {_verdict(found)}")
        lines += [f"  {line}" for line in _fine_lines(metrics["distributions"], target["name"])]
    return "\n".join(lines).lstrip("\n")


def _fine_lines(fine: dict[str, Any], target: str) -> list[str]:
    """Give the scores of distributions and days of one target, and what they say about other runs."""
    lines = [
        f"{row['model']}: {row['metric']} {_cell(row)}"
        for row in fine["table"]
        if row["target"] == target and row["value"] is not None
    ]
    return lines + [_verdict(found) for found in fine["differences"] if found["target"] == target]


def _cell(figure: dict[str, Any]) -> str:
    if figure["value"] is None:
        return "n/a"
    return f"{figure['value']:.4g} [{_short(figure['low'])}, {_short(figure['high'])}]"


def _short(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.4g}"


def _verdict(found: dict[str, Any]) -> str:
    word = {True: "better than", False: "WORSE than", None: "level with"}[found["is_better"]]
    span = f"{found['metric']} {found['value']:+.4f} [{found['low']:+.4f}, {found['high']:+.4f}]"
    return f"{found['model']} is {word} {found['against']}: {span}"


def _gate_row(row: GateRow) -> Row:
    return Row(row.name, "gate", row.mean, row.median)


def _model_row(name: str, role: str, answer: Forecast) -> Row:
    return Row(name, role, answer.mean, np.where(np.isnan(answer.median), answer.mean, answer.median))


def _other_row(label: str, recipe: Recipe, other: Run, answer: Asked) -> Row:
    """Give another run's forecasts, its columns in the order of this recipe's targets."""
    row = _model_row(label, "run", answer.whole)
    columns = columns_of(recipe, other.recipe, label)
    return Row(label, "run", row.mean[:, columns], row.median[:, columns])


def _fine(run: Run, answer: Asked) -> dict[tuple[str, str], np.ndarray]:
    samples, targets = answer.whole.samples, answer.spec.targets
    return row_scores(answer, measure(targets, run.store, samples), day_values(answer, run.store))


def _blends(rows: list[Row], recipe: Recipe) -> list[Row]:
    """Average the model with the strongest gate row: log-odds of probabilities, values of amounts."""
    trees = [row for row in rows if row.role == "gate" and row.name.startswith("LightGBM")]
    if not trees:
        return []
    model, other = rows[-1], trees[-1]
    columns = {"mean": [], "median": []}
    for k, target in enumerate(recipe.targets):
        for part, found in columns.items():
            a, b = getattr(model, part)[:, k], getattr(other, part)[:, k]
            found.append(_mean_log_odds(a, b) if target.kind == "binary" else (a + b) / 2)
    return [Row(f"{MODEL} + trees", "blend", np.stack(columns["mean"], 1), np.stack(columns["median"], 1))]


def _mean_log_odds(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = (np.clip(p, 1e-9, 1 - 1e-9) for p in (a, b))
    odds = np.sqrt(a / (1 - a) * b / (1 - b))
    return odds / (1 + odds)


@dataclass(frozen=True)
class _Score:
    value: float
    draws: np.ndarray


def _scored(rows: list[Row], recipe: Recipe, measured: Measured, drawn: Resamples) -> dict[tuple, _Score]:
    """Score every (target, model, metric) once as it is and once per resample."""
    jobs = [(k, row, name) for k, t in enumerate(recipe.targets) for row in rows for name in _metrics_of(t.kind)]
    scored = {}
    for k, row, name in track(jobs, "score"):
        metric, p = _metric(name, row, k)
        y = measured.value[:, k]
        draws = distribution(metric, y, p, drawn)
        scored[recipe.targets[k].name, row.name, name] = _Score(float(metric(y, p)), draws)
    return scored


def _metrics_of(kind: str) -> list[str]:
    return list(BINARY if kind == "binary" else AMOUNT)


def _metric(name: str, row: Row, k: int) -> tuple[Callable[..., Any], np.ndarray]:
    if name in BINARY:
        return BINARY[name], row.mean[:, k]
    metric, part = AMOUNT[name]
    return metric, getattr(row, part)[:, k]


def _seed_spread(members: list[Forecast], recipe: Recipe, measured: Measured) -> dict[tuple[str, str], float]:
    """Give, per (target, metric), the standard deviation over the members scored one by one."""
    if len(members) < 2:
        return {}
    rows = [_model_row(f"member {m}", "model", answer) for m, answer in enumerate(members)]
    spread = {}
    for k, target in enumerate(recipe.targets):
        for name in _metrics_of(target.kind):
            found = []
            for row in rows:
                metric, p = _metric(name, row, k)
                found.append(float(metric(measured.value[:, k], p)))
            spread[target.name, name] = float(np.std(found, ddof=1))
    return spread


def _table(
    scored: dict[tuple, _Score], rows: list[Row], recipe: Recipe, spread: dict[tuple[str, str], float]
) -> list[dict[str, Any]]:
    table = []
    for target in recipe.targets:
        for row in rows:
            names = _metrics_of(target.kind)
            figures = {n: _figure(scored[target.name, row.name, n]) for n in names}
            entry: dict[str, Any] = {"target": target.name, "model": row.name, "metrics": figures}
            if row.name == MODEL and spread:
                entry["seed_sd"] = {n: spread[target.name, n] for n in names}
            table.append(entry)
    return table


def _figure(score: _Score) -> dict[str, float | None]:
    return of_draws(score.value, score.draws).to_json()


def _differences(scored: dict[tuple, _Score], rows: list[Row], recipe: Recipe) -> list[dict[str, Any]]:
    """Set the model, the blend and other runs against every gate row, and the model against other runs."""
    pairs = [(row, other) for row in rows if row.role != "gate" for other in rows if other.role == "gate"]
    pairs += [(row, other) for row in rows if row.role == "model" for other in rows if other.role == "run"]
    found = []
    for target in recipe.targets:
        for row, against in pairs:
            for name in _metrics_of(target.kind):
                a, b = scored[target.name, row.name, name], scored[target.name, against.name, name]
                gap = of_draws(a.value - b.value, a.draws - b.draws)
                facts = {"target": target.name, "metric": name, "model": row.name, "against": against.name}
                better = _is_better(name, gap.low, gap.high)
                found.append(facts | gap.to_json() | {"is_better": better})
    return found


def _is_better(metric: str, low: float, high: float) -> bool | None:
    """Tell which side of 0 the interval lies on; None when it holds 0 or is unknown."""
    if np.isnan(low) or low <= 0 <= high:
        return None
    return bool((low > 0) == (metric in HIGHER_IS_BETTER))


def _reliability(rows: list[Row], recipe: Recipe, measured: Measured) -> list[dict[str, Any]]:
    found = []
    for k, target in enumerate(recipe.targets):
        if target.kind != "binary":
            continue
        for row in rows:
            bins = calibration.reliability(measured.value[:, k], row.mean[:, k])
            lists = {name: np.asarray(getattr(bins, name)).tolist() for name in ("predicted", "observed", "n")}
            found.append({"target": target.name, "model": row.name, **lists})
    return found


def _totals(recipe: Recipe, artifact: Artifact, answer: Forecast, measured: Measured) -> list[dict[str, Any]]:
    """Set the forecast total of each target after the last test cut-off beside what happened."""
    last = int(answer.samples.cutoff.max())
    chosen = answer.samples.cutoff == last
    found = []
    for k, target in enumerate(recipe.targets):
        value = float(answer.mean[chosen, k].sum())
        error = artifact.calibration["totals"][target.name]
        low, high = total_interval(value, error)
        found.append(
            {
                "target": target.name,
                "unit": target.unit or ("users" if target.kind == "binary" else ""),
                "cutoff": str(to_date(last)),
                "value": value,
                "low": None if np.isnan(low) else low,
                "high": None if np.isnan(high) else high,
                "level": error["coverage"],
                "actual": float(measured.value[chosen, k].sum()),
                "n_users": int(chosen.sum()),
            }
        )
    return found


def _daily(run: Run, artifact: Artifact, heads: Heads, answer: Forecast, spec: InputSpec) -> list[dict[str, Any]]:
    """Set forecast daily totals after the last test cut-off beside what happened, and beside the weeks before."""
    last = int(answer.samples.cutoff.max())
    chosen = answer.samples.cutoff == last
    sections = []
    for k, head in enumerate(heads.day):
        target = next(t for t in run.recipe.targets if t.name == head.name)
        forecast = day_totals(answer, k)[last]
        low, high = day_interval(forecast, artifact.calibration["daily"][head.name])
        truth = measure_days((spec.day_targets[k],), run.store, answer.samples.take(chosen), spec.horizon)
        past = _past_totals(run, spec, k, last)
        days = [str(to_date(last + 1 + f)) for f in range(spec.horizon)]
        is_known = truth.is_observed[0, :, 0]
        totals = truth.value[:, :, 0].sum(axis=0)
        sections.append(
            {
                "target": head.name,
                "define": target.define,
                "unit": target.unit or "users",
                "cutoff": str(to_date(last)),
                "n_users": int(chosen.sum()),
                "coverage": artifact.calibration["daily"][head.name]["coverage"],
                "past": past,
                "forecast": {
                    "day": days,
                    "value": forecast.tolist(),
                    "low": _or_none(low),
                    "high": _or_none(high),
                    "actual": [float(v) if known else None for v, known in zip(totals, is_known)],
                },
                "events": _events_between(run, last - 56, last + spec.horizon),
            }
        )
    return sections


def _past_totals(run: Run, spec: InputSpec, k: int, last: int, n_days: int = 56) -> dict[str, list]:
    """Sum a day target over all users on the days before a cut-off."""
    n_days = min(n_days, last - run.store.first_day)
    users = np.arange(run.store.n_users)
    samples = Samples(users, np.full(len(users), last - n_days, np.int32))
    totals = measure_days((spec.day_targets[k],), run.store, samples, n_days).value[:, :, 0].sum(axis=0)
    return {"day": [str(to_date(last - n_days + 1 + d)) for d in range(n_days)], "value": totals.tolist()}


def _events_between(run: Run, first: int, last: int) -> list[dict[str, str]]:
    events = run.store.calendar.events
    inside = events.filter((events["end"] >= to_date(first)) & (events["start"] <= to_date(last)))
    shared = inside.filter(inside["audience"].is_null())
    return [{k: str(v) for k, v in row.items()} for row in shared.select("event", "start", "end").to_dicts()]


def _or_none(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(v) else float(v) for v in values]


def _with_count(run: Run, n_test: int) -> dict[str, Any]:
    cutoffs = json.loads((run.path / "metrics.json").read_text("utf-8"))["cutoffs"]
    return {**cutoffs, "n_samples": {**cutoffs["n_samples"], "test": n_test}}
