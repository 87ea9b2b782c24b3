"""What the page draws: a run in figures, and the totals and days of a scope under several calendars."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import numpy as np

from habitus.data.calendar import to_date
from habitus.data.cutoffs import Samples
from habitus.data.targets import measure_days
from habitus.serve.answers import calendar_key, evidence, question_of
from habitus.serve.models import DayRun, EventRun, LifeRun, Loaded
from habitus.serve.schemas import ScopeWhatIf
from habitus.tasks.whatif.futures import Answer, Future, answers
from habitus.tasks.whatif.totals import LEVEL, by_day, by_segment, totals

FILES = {
    "/": ("studio.html", "text/html"),
    "/studio.css": ("studio.css", "text/css"),
    "/studio.js": ("studio.js", "text/javascript"),
}
CALENDAR_DAYS = 120  # of the past that the page lists


def page(path: str) -> tuple[bytes, str]:
    """Give a file of the page and its kind."""
    name, kind = FILES[path]
    return files("habitus.serve").joinpath("studio", name).read_bytes(), f"{kind}; charset=utf-8"


def about(run: Loaded) -> dict[str, Any]:
    """Tell what a run can answer and how well it did."""
    facts: dict[str, Any] = {"run": run.name, "as_of": run.as_of, "n_users": len(run.rows), "model": run.artifact.name}
    facts["artifact"] = {k: run.artifact.manifest.get(k) for k in ("created", "habitus", "n_members", "fingerprint")}
    if isinstance(run, EventRun):
        return facts | {"kind": "events", "field": run.run.recipe.field, "can_generate": run.can_generate}
    if isinstance(run, LifeRun):
        width = run.artifact.members[0].config.d_flat
        return facts | {"kind": "lives", "n_interests": run.interests.n - 1, "d_vector": width, "figures": run.metrics}
    assert isinstance(run, DayRun)
    days = {head.name for head in run.heads.day}
    targets = [
        {"name": head.name, "define": target.define, "unit": unit, "is_chance": head.kind == "binary",
         "has_days": head.name in days}
        for head, target, unit in zip(run.heads.window, run.run.recipe.targets, run.units)
    ]  # fmt: skip
    segments = {name: _counts(text) for name, text in run.segments.items()}
    figures = {name: run.metrics.get(name, []) for name in ("table", "models", "reliability", "differences")}
    return facts | {
        "kind": "days",
        "horizon": run.spec.horizon,
        "targets": targets,
        "segments": segments,
        "event_types": list(run.spec.event_types),
        "audiences": sorted(set(run.run.store.calendar.audiences["audience"].to_list()))[:200],
        "calendar": _calendar(run),
        "figures": figures,
    }


def _counts(text: Any) -> list[dict[str, Any]]:
    return [{"value": v, "n_users": n} for v, n in text.value_counts(sort=True).iter_rows()]


def _calendar(run: DayRun) -> list[dict[str, Any]]:
    """List events around the cut-off as known then."""
    first, last = to_date(run.day - CALENDAR_DAYS), to_date(run.day + run.spec.horizon)
    rows = run.run.store.calendar.known_at(run.day).events.to_dicts()
    kept = [row for row in rows if first <= row["end"] and row["start"] <= last]
    names = ("event", "type", "start", "end", "audience")
    return [{n: None if row[n] is None else str(row[n]) for n in names} | {"is_past": row["start"] <= to_date(run.day)}
            for row in kept]  # fmt: skip


def scoped(run: DayRun, asked: ScopeWhatIf) -> dict[str, Any]:
    """Forecast a scope under the calendar as planned and every alternative: totals, days, and what is not known."""
    scope = asked.scope
    rows = run.rows_of([scope.user]) if scope.user is not None else run.scope(scope.segment, scope.value)
    inputs = run.base if len(rows) == len(run.base) else run.inputs(rows)
    futures = [Future(inputs, has_detail=True)]
    names: tuple[str, ...] = ("as planned",)
    changes: list[dict[str, Any]] = []
    if asked.alternatives:
        question = question_of(run, asked.alternatives)
        names, changes = question.names, evidence(run, question)
        key = calendar_key(asked.alternatives)
        known = run.known(key, list(zip(names[1:], question.calendars[1:])))
        futures += [Future(inputs.with_known(one), has_detail=True) for _, _, one in known]
    past = run.past(scope.model_dump_json(), inputs)
    calibration = run.artifact.calibration
    found = answers(run.artifact.members, run.heads, futures, run.plan, calibration, past=past)
    is_everybody = len(rows) == len(run.base)
    return {
        "run": run.name,
        "as_of": run.as_of,
        "n_users": len(rows),
        "calendars": list(names),
        "rows": _rows(run, names, found, is_everybody),
        "daily": by_day(run.heads, names, found, run.day, run.run.recipe, calibration if is_everybody else {}),
        "past": _past(run, rows, asked.past_days),
        "changes": changes,
        "notes": _notes(run, is_everybody, scope.user is not None),
    }


def _rows(run: DayRun, names: tuple[str, ...], found: list[Answer], is_everybody: bool) -> list[dict[str, Any]]:
    if is_everybody:
        return totals(run.heads, run.units, names, found, run.artifact.calibration)
    some = by_segment(run.heads, run.units, names, found, np.full(len(found[0].mean), "scope"))
    return [row | {"total_low": None, "total_high": None} for row in some]


def _past(run: DayRun, rows: np.ndarray, n_days: int) -> dict[str, Any]:
    """Add up what these users did on each of the last days: F targets that have days."""
    n_days = min(n_days, run.day - run.run.store.first_day)
    if n_days < 1 or not run.spec.day_targets:
        return {"day": [], "values": {}}
    start = np.full(len(rows), run.day - n_days, np.int32)
    samples = Samples(run.base.samples.user[rows], start)
    value = measure_days(run.spec.day_targets, run.run.store, samples, n_days).value.sum(axis=0)
    days = [str(to_date(run.day - n_days + 1 + d)) for d in range(n_days)]
    return {"day": days, "values": {t.name: value[:, k].tolist() for k, t in enumerate(run.spec.day_targets)}}


def _notes(run: DayRun, is_everybody: bool, is_one: bool) -> list[str]:
    """Say what the answer does not know."""
    members, notes = len(run.artifact.members), []
    if is_everybody:
        errors = run.artifact.calibration.get("daily", {}).values()
        n = min((error.get("n_cutoffs", 0) for error in errors), default=0)
        notes.append(
            f"Bands hold about 80 % of days at {n} earlier cut-offs: few cut-offs, so they are rough."
            if n >= 4 else "Too few earlier cut-offs to say how wide a band should be: none is drawn."
        )  # fmt: skip
    elif is_one:
        notes.append("One person: days are chances and expectations, not a plan. No band is known for one person.")
    else:
        notes.append("Errors were measured for all users together: no band is known for a segment.")
    notes.append(
        f"The bracket of a difference ({LEVEL:.0%}) says how far {members} trainings disagree, not whether the event"
        " is the cause." if members >= 3 else "One model alone: how sure a difference is, nobody can tell."
    )  # fmt: skip
    notes.append("Users who first come after the cut-off are in no total.")
    return notes
