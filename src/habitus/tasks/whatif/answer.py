"""The verb: calendars in, answers out."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from habitus.core.atomic import write_json
from habitus.data.calendar import Calendar, to_date
from habitus.models.artifact import Artifact, load_artifact
from habitus.tasks.forecast import Heads
from habitus.tasks.predict import eligible_at, manifest, write_table
from habitus.tasks.run import Run, of_days, open_run, update_metrics
from habitus.tasks.whatif import placebo as placebos_of
from habitus.tasks.whatif.days import DayPlan, from_risks
from habitus.tasks.whatif.evidence import Change, changes_of, described, late_events
from habitus.tasks.whatif.futures import Answer, Future, answers
from habitus.tasks.whatif.importance import coming_events, importance
from habitus.tasks.whatif.placebo import Crowd, Draw
from habitus.tasks.whatif.question import Given, Question, read_question
from habitus.tasks.whatif.totals import LEVEL, by_day, by_segment, per_user, read_segments, totals, units_of
from habitus.tokens.loader import Inputs, prepare
from habitus.tokens.spec import InputSpec


def whatif(
    run: str | Path | Run,
    calendars: Sequence[Given] = (),
    *,
    edits: Sequence[Any] = (),
    cutoff: str | dt.date | None = None,
    store: str | Path | None = None,
    out: str | Path | None = None,
    audiences: str | Path | pl.DataFrame | None = None,
    segment: str | Path | pl.DataFrame | None = None,
    placebos: int = 5,
    past_placebos: int = 0,
    with_importance: bool = True,
    importance_out: str | Path | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Forecast the same users under several calendars and take the differences to the first.

    All calendars must agree on what began by the cut-off: the past is encoded once, and each further calendar costs a
    decode of the users for whom it changes anything.

    Parameters
    ----------
    calendars
        Whole calendars, or tables of edits (a column `edit`, see `data.calendar_edits`); read with the audiences and
        items of the store. Edits apply to the first whole calendar, else to the store's own, called "as planned".
    edits
        More edits, files or `Edits`.
    audiences
        Users of further audiences, `audience, user`, that calendars and edits may name.
    segment
        A profile column, or a table `user, segment`: totals and differences of each segment too.
    placebos, past_placebos
        How many placebos of each kind stand beside each answer; those on a past day cost an encoding each.
    with_importance
        Ask what each coming event of the first calendar adds: two decodes per event.
    out, importance_out
        Tables, Parquet or CSV: one row per user, target and calendar; one per event and target.

    Returns the `whatif` section of metrics.json: `rows` (totals and differences per target and calendar), `daily`,
    `segments`, `changes` (and what evidence stands behind each), `null` and `placebo`, `importance`. Each difference is
    read twice where the target has a day head: by the window head, and from the days (`day_difference`, see `days.py`).
    The interval of a total (`total_low`) says how far earlier totals fell from their forecasts; that of a difference
    (`low`, 90 %) how far the members disagree, and it needs three of them. Neither turns an association into a cause.

    Errors: `CalendarError` for fewer than two calendars, a bad edit, a type the model was never fitted with, or a
    changed past; `ConfigError` for an unknown segment.
    """
    run = of_days(open_run(run, store))
    artifact = load_artifact(run.artifact_path)
    spec = InputSpec.from_json(artifact.spec)
    heads = Heads(artifact.heads, artifact.day_heads)
    samples = eligible_at(run, cutoff)
    day = int(samples.cutoff[0])
    question = read_question(
        calendars, edits, run.store.calendar, day, event_types=spec.event_types, audiences=audiences
    )
    segments = None if segment is None else read_segments(segment, run.store, samples)
    base = prepare(run.store, spec, samples, calendar=question.base, has_targets=False)
    job = _Job(run, artifact, heads, question, base, seed)
    found, section = _asked(job, placebos, past_placebos, with_importance)
    section |= _segments(job, segment, segments, found)
    if out is not None:
        ids = run.store.users["user"].gather(pl.Series(samples.user))
        write_table(per_user(heads, question.names, found, ids, segments), out)
        write_json(Path(out).with_suffix(".manifest.json"), manifest(run, artifact, as_of=str(to_date(day))))
    if importance_out is not None:
        write_table(pl.DataFrame(section["importance"], infer_schema_length=None), importance_out)
    update_metrics(run.path, {"whatif": section})
    return section


@dataclass(frozen=True)
class _Job:
    """What is asked of whom: the same for every part of the section."""

    run: Run
    artifact: Artifact
    heads: Heads
    question: Question
    base: Inputs
    seed: int

    @property
    def targets(self) -> list[str]:
        return [head.name for head in self.heads.window]

    @property
    def units(self) -> list[str]:
        return units_of(self.heads, self.run.recipe)

    @property
    def plan(self) -> DayPlan:
        return DayPlan.of(self.heads, self.run.recipe)

    @property
    def others(self) -> list[tuple[str, Calendar]]:
        return list(zip(self.question.names[1:], self.question.calendars[1:]))

    def answers(self, futures: Sequence[Future]) -> list[Answer]:
        return answers(self.artifact.members, self.heads, futures, self.plan, self.artifact.calibration)


def _asked(job: _Job, n_placebos: int, n_past: int, with_importance: bool) -> tuple[list[Answer], dict[str, Any]]:
    """Ask everything in one pass over the users; give the answers to the calendars asked about, and the section."""
    question, base = job.question, job.base
    changes = {name: changes_of(question.base, c, question.cutoff) for name, c in job.others}
    nulls = placebos_of.nothing(question.base, question.cutoff, [c for some in changes.values() for c in some])
    drawn, past = _drawn(job, changes, n_placebos), _past_drawn(job, changes, n_past)
    coming = coming_events(base, question.base, question.cutoff, seed=job.seed) if with_importance else None
    futures, place = _gathered(base, question, nulls, [*drawn, *past])
    rest = [Future(inputs) for inputs in coming.inputs] if coming else []
    found = job.answers([*futures, *rest])
    named = found[: len(question.names)]

    def total(calendar: Calendar) -> np.ndarray:
        return found[place[id(calendar)]].total

    effects = [total(draw.plus) - total(draw.minus) for draw in drawn]
    effects += [_encoded_anew(job, draw.plus, named[0]).total - total(draw.minus) for draw in past]
    beside = placebos_of.summed([*drawn, *past], effects, job.targets, job.units)
    rows = totals(job.heads, job.units, question.names, named, job.artifact.calibration)
    section = _facts(job) | {
        "rows": [row | _verdicts(row, beside) for row in rows],
        "changes": [c for name, some in changes.items() for c in _described(job, some, name)],
        "daily": by_day(job.heads, question.names, named, question.cutoff, job.run.recipe, job.artifact.calibration),
        "null": _null(named[0], [found[place[id(calendar)]] for calendar in nulls]),
        "placebo": beside,
        "importance": [],
        "n_events_left_out": coming.n_left_out if coming else 0,
    }
    if coming:
        of_events = found[len(futures) :]
        section["importance"] = importance(coming, named[0], of_events, base.samples.user, job.targets, job.units)
    return named, section


def _verdicts(row: dict[str, Any], beside: list[dict[str, Any]]) -> dict[str, str]:
    return {f"{prefix}verdict": placebos_of.verdict(row, beside, prefix) for prefix in ("", "day_")}


def _facts(job: _Job) -> dict[str, Any]:
    """Say who was asked after which day, and what the intervals rest on."""
    errors = job.artifact.calibration.get("totals", {})
    first = next(iter(errors.values()), {})
    return {
        "cutoff": str(to_date(job.question.cutoff)),
        "horizon": job.base.spec.horizon,
        "calendars": list(job.question.names),
        "n_users": len(job.base),
        "level": LEVEL,
        "n_members": len(job.artifact.members),
        "total_level": first.get("coverage"),
        "n_cutoffs": first.get("n_cutoffs"),
        "late": _late(job.question),
        "arrivals": _arrivals(job.run, job.question.cutoff, job.base.spec.horizon),
    }


def _encoded_anew(job: _Job, calendar: Calendar, first: Answer) -> Answer:
    """Answer under a calendar with another past; its days are read against the first calendar's, as all others."""
    inputs = prepare(job.run.store, job.base.spec, job.base.samples, calendar=calendar, has_targets=False)
    (found,) = job.answers([Future(inputs)])
    return replace(found, by_days=from_risks(job.plan, first.mean, first.risk, found.risk))


def _gathered(
    base: Inputs, question: Question, nulls: Sequence[Calendar], drawn: list[Draw]
) -> tuple[list[Future], dict[int, int]]:
    """List every calendar to decode, each once, and the place of each by its identity; those asked about come first."""
    users = base.store.users["user"].to_numpy()
    futures: list[Future] = []
    place: dict[int, int] = {}
    for calendar in question.calendars:
        place.setdefault(id(calendar), len(futures))
        futures.append(Future(base.with_calendar(calendar, users) if futures else base, has_detail=True))
    others = [(calendar, True) for calendar in nulls]
    others += [(calendar, False) for draw in drawn for calendar in (draw.plus, draw.minus)]
    for calendar, is_null in others:
        is_past = any(draw.kind == "past day" and calendar is draw.plus for draw in drawn)
        if id(calendar) not in place and not is_past:
            place[id(calendar)] = len(futures)
            futures.append(Future(base.with_calendar(calendar, users), has_detail=is_null, is_forced=is_null))
    return futures, place


def _drawn(job: _Job, changes: dict[str, list[Change]], n: int) -> list[Draw]:
    base, question = job.base, job.question
    crowd = Crowd.of(base.store.users["user"].gather(pl.Series(base.samples.user)), base.high - base.low)
    found: list[Draw] = []
    for name, calendar in job.others:
        if changes[name]:
            found += placebos_of.draws(
                question.base, calendar, changes[name], name,
                cutoff=question.cutoff, horizon=base.spec.horizon, crowd=crowd, n=n, seed=job.seed,
            )  # fmt: skip
    return found


def _past_drawn(job: _Job, changes: dict[str, list[Change]], n: int) -> list[Draw]:
    base, cutoff, history = job.question.base, job.question.cutoff, job.base.spec.tokens.history
    return [
        draw
        for name, some in changes.items()
        if some
        for draw in placebos_of.past_draws(base, some, name, cutoff=cutoff, history=history, n=n, seed=job.seed)
    ]


def _described(job: _Job, changes: list[Change], name: str) -> list[dict[str, Any]]:
    return described(changes, name, job.question.base, job.question.cutoff, job.run.store.first_day)


def _late(question: Question) -> list[dict[str, str]]:
    return [
        {"calendar": name, "event": event}
        for name, calendar in zip(question.names[1:], question.calendars[1:])
        for event in late_events(question.base, calendar, question.cutoff)
    ]


def _null(base: Answer, found: list[Answer]) -> list[dict[str, Any]]:
    """Give the largest change of any answer, of users and of days, under calendars that change nothing."""
    tests = zip(placebos_of.NOTHING, found)
    moved = [(test, [np.abs(a.mean - base.mean), np.abs(a.members - base.members), np.abs(a.day - base.day)])
             for test, a in tests]  # fmt: skip
    return [{"test": test, "largest": max(float(gap.max(initial=0)) for gap in gaps)} for test, gaps in moved]


def _arrivals(run: Run, day: int, n_days: int) -> dict[str, int]:
    """Count the users first seen in the last `n_days`: as many may come, and no total holds them."""
    first = run.store.users["first_day"].cast(pl.Int32).to_numpy()
    return {"n_users": int(((first > day - n_days) & (first <= day)).sum()), "n_days": n_days}


def _segments(
    job: _Job, given: str | Path | pl.DataFrame | None, segments: np.ndarray | None, found: list[Answer]
) -> dict[str, Any]:
    if segments is None or given is None:
        return {"segments": [], "segment_by": None}
    name = "segment" if isinstance(given, pl.DataFrame) else Path(given).stem
    rows = by_segment(job.heads, job.units, job.question.names, found, segments)
    return {"segments": rows, "segment_by": name}
