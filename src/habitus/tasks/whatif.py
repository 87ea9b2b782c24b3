"""What if: the same users under two or more calendars, per user, in total and day by day."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from habitus.core.atomic import write_json
from habitus.core.errors import CalendarError, nearest
from habitus.data.calendar import Calendar, read_calendar, to_date
from habitus.models.artifact import load_artifact
from habitus.tasks.forecast import Forecast, Heads, ask, read_answers
from habitus.tasks.predict import eligible_at, manifest, write_table
from habitus.tasks.run import Run, open_run, update_metrics
from habitus.tokens.loader import Inputs, prepare
from habitus.tokens.spec import InputSpec

FEW = 3  # past occurrences below which an effect shared by all is hardly known
T_90 = {3: 2.92, 4: 2.353, 5: 2.132, 6: 2.015, 7: 1.943, 8: 1.895}  # Student's t, 95th percentile, n - 1 degrees
_ROW = ["event", "type", "start", "end", "strength", "audience"]


def whatif(
    run: str | Path | Run,
    calendars: Sequence[str | Path | Calendar],
    *,
    cutoff: str | dt.date | None = None,
    store: str | Path | None = None,
    out: str | Path | None = None,
) -> dict[str, Any]:
    """Forecast the same users under several calendars and take the differences to the first.

    A calendar given as a path is read with the audiences and items of the store. All calendars must agree on what
    began by the cut-off: the past is encoded once, and each further calendar costs a decode.

    Returns the `whatif` section of metrics.json: totals and differences per target, daily totals, and what kind of
    evidence stands behind each changed event. Intervals (90 %) come from the members and need three of them: they say
    how far refits differ, not whether an association is causal. `out` gets one row per user, target and calendar.

    Errors: `CalendarError` for fewer than two calendars, a type the model was never fitted with, or a changed past.
    """
    run = open_run(run, store)
    if len(calendars) < 2:
        raise CalendarError("two or more calendars", f"{len(calendars)}", where="whatif", fix="give --calendar twice")
    artifact = load_artifact(run.artifact_path)
    spec = InputSpec.from_json(artifact.spec)
    heads = Heads(artifact.heads, artifact.day_heads)
    samples = eligible_at(run, cutoff)
    day = int(samples.cutoff[0])
    names, tables = _read(calendars, run.store.calendar)
    for name, table in zip(names, tables):
        _check_types(table, spec, name)
        _check_past(table, tables[0], day, name)
    base = prepare(run.store, spec, samples, calendar=tables[0], has_targets=False)
    users = run.store.users["user"].to_numpy()
    futures = [base, *(base.with_calendar(table, users) for table in tables[1:])]
    answers = ask(artifact.members, futures)
    forecasts = [read_answers(members, heads, base, artifact.calibration) for members in answers]
    by_member = [[read_answers([one], heads, base, artifact.calibration) for one in members] for members in answers]
    changes = [c for name, table in zip(names[1:], tables[1:]) for c in _changes(tables[0], table, name, day, run)]
    section = {
        "cutoff": str(to_date(day)),
        "calendars": names,
        "n_users": len(samples),
        "level": 0.9,
        "n_members": len(artifact.members),
        "rows": _totals(heads, names, forecasts, by_member, run),
        "changes": changes,
        "daily": _daily(heads, names, forecasts, base, day),
    }
    if out is not None:
        write_table(_per_user(heads, names, forecasts, run), out)
        write_json(Path(out).with_suffix(".manifest.json"), manifest(run, artifact, as_of=str(to_date(day))))
    update_metrics(run.path, {"whatif": section})
    return section


def summary(section: dict[str, Any]) -> str:
    """Say the answer in plain text."""
    lines = [f"{section['n_users']:,} users after {section['cutoff']}, compared with {section['calendars'][0]!r}:"]
    for row in section["rows"]:
        if row["calendar"] == section["calendars"][0]:
            continue
        unit = f" {row['unit']}" if row["unit"] else ""
        known = row["low"] is not None
        spread = f" [{row['low']:+,.1f}, {row['high']:+,.1f}]" if known else " (interval needs 3 members)"
        lines.append(
            f"  {row['calendar']:<20} {row['target']:<12} total {row['total']:>12,.1f}{unit}"
            f"  difference {row['difference']:+,.1f}{spread}"
        )
    lines += [line for daily in section["daily"] for line in _by_day(daily, section["calendars"])]
    for change in section["changes"]:
        warning = f"; {change['warning']}" if change["warning"] else ""
        lines.append(
            f"  {change['calendar']}: {change['event']} ({change['start']}) {change['what']}, {change['kind']}, "
            f"{change['n_past']} past events of type {change['type']!r}{warning}"
        )
    return "\n".join(lines)


def _by_day(daily: dict[str, Any], names: list[str]) -> list[str]:
    """Say on which day a target changes most, and what the days add up to.

    Days and window are read by different heads: their sums differ, and both are shown.
    """
    lines = []
    base = np.array(daily["values"][names[0]])
    for name in names[1:]:
        change = np.array(daily["values"][name]) - base
        most = int(np.abs(change).argmax())
        lines.append(
            f"  {name:<20} {daily['target']:<12} by day: most on {daily['day'][most]}, {change[most]:+,.1f}; "
            f"all days {change.sum():+,.1f}"
        )
    return lines


def _read(calendars: Sequence[str | Path | Calendar], known: Calendar) -> tuple[list[str], list[Calendar]]:
    """Read calendars and name them by file; a calendar object is named by its place."""
    names, tables = [], []
    for i, given in enumerate(calendars):
        if isinstance(given, Calendar):
            names.append(f"calendar {i}")
            tables.append(given)
            continue
        names.append(Path(given).stem)
        tables.append(read_calendar(given, known.audiences, known.items))
    if len(set(names)) < len(names):
        names = [f"{name} ({i})" for i, name in enumerate(names)]
    return names, tables


def _check_types(calendar: Calendar, spec: InputSpec, name: str) -> None:
    for kind in calendar.types:
        if kind not in spec.event_types:
            meant = nearest(kind, spec.event_types)
            hint = f"did you mean {meant!r}?" if meant else "train on a calendar with past events of this type"
            known = ", ".join(spec.event_types) or "none"
            raise CalendarError(f"event types the model has learnt: {known}", repr(kind), where=name, fix=hint)


def _check_past(calendar: Calendar, base: Calendar, day: int, name: str) -> None:
    """Refuse a calendar that rewrites what began by the cut-off: that would be another history, not another future."""
    begun = pl.col("start") <= to_date(day)
    mine, theirs = (c.known_at(day).events.filter(begun).select(_ROW) for c in (calendar, base))
    changed = pl.concat(
        [
            mine.join(theirs, on=_ROW, how="anti", nulls_equal=True),
            theirs.join(mine, on=_ROW, how="anti", nulls_equal=True),
        ]
    )
    if changed.height:
        row = changed.row(0, named=True)
        raise CalendarError(
            f"calendars that agree on what began by {to_date(day)}",
            f"{row['event']} ({row['start']}) in one and not in the other",
            where=name,
            fix="change coming events only, or choose an earlier cut-off",
        )


def _totals(
    heads: Heads, names: list[str], forecasts: list[Forecast], by_member: list[list[Forecast]], run: Run
) -> list[dict[str, Any]]:
    """Sum over users per target and calendar, with the spread of the members around the difference."""
    units = {target.name: target.unit for target in run.recipe.targets}
    rows = []
    for k, head in enumerate(heads.window):
        totals = [float(answer.mean[:, k].sum()) for answer in forecasts]
        member_totals = np.array([[m.mean[:, k].sum() for m in members] for members in by_member])
        for c, name in enumerate(names):
            difference = totals[c] - totals[0]
            half = _half_width(member_totals[c] - member_totals[0])
            rows.append(
                {
                    "target": head.name,
                    "unit": units.get(head.name) or ("users" if head.kind == "binary" else ""),
                    "calendar": name,
                    "total": totals[c],
                    "difference": difference,
                    "low": None if half is None else difference - half,
                    "high": None if half is None else difference + half,
                    "n_users": len(forecasts[c].samples),
                }
            )
    return rows


def _half_width(differences: np.ndarray) -> float | None:
    """Half a 90 % interval of one more refit, from the standard deviation of the members; None below three."""
    n = len(differences)
    if n < 3:
        return None
    return T_90.get(n, 1.86) * float(differences.std(ddof=1)) * float(np.sqrt(1 + 1 / n))


def _daily(heads: Heads, names: list[str], forecasts: list[Forecast], inputs: Inputs, day: int) -> list[dict[str, Any]]:
    days = [str(to_date(day + 1 + f)) for f in range(inputs.spec.horizon)]
    return [
        {
            "target": head.name,
            "day": days,
            "values": {n: a.day_mean[:, :, k].sum(axis=0).tolist() for n, a in zip(names, forecasts)},
        }
        for k, head in enumerate(heads.day)
    ]


def _changes(base: Calendar, other: Calendar, name: str, day: int, run: Run) -> list[dict[str, Any]]:
    """List the coming events that differ, each with the kind of evidence behind its effect."""
    mine, theirs = (c.known_at(day).events for c in (other, base))
    added = mine.join(theirs, on=_ROW, how="anti", nulls_equal=True)
    dropped = theirs.join(mine, on=_ROW, how="anti", nulls_equal=True)
    past = theirs.filter((pl.col("start") <= to_date(day)) & (pl.col("start") >= to_date(run.store.first_day)))
    found = []
    for what, table in (("added", added), ("dropped", dropped)):
        for row in table.iter_rows(named=True):
            n_past = past.filter(pl.col("type") == row["type"]).height
            kind = "randomised" if row["is_randomised"] else "targeted" if row["audience"] else "shared by all"
            found.append(
                {
                    "calendar": name,
                    "event": row["event"],
                    "type": row["type"],
                    "start": str(row["start"]),
                    "what": what,
                    "kind": kind,
                    "n_past": n_past,
                    "warning": _warning(kind, n_past),
                }
            )
    return found


def _warning(kind: str, n_past: int) -> str:
    if kind == "targeted":
        return "association only: the audience was chosen, not drawn"
    if kind == "shared by all" and n_past < FEW:
        return f"the sample is {n_past} past events, whatever the number of users"
    return ""


def _per_user(heads: Heads, names: list[str], forecasts: list[Forecast], run: Run) -> pl.DataFrame:
    samples = forecasts[0].samples
    ids = run.store.users["user"].gather(pl.Series(samples.user))
    frames = [
        pl.DataFrame(
            {
                "user": ids,
                "target": [head.name] * len(ids),
                "calendar": [name] * len(ids),
                "value": answer.mean[:, k],
                "difference": answer.mean[:, k] - forecasts[0].mean[:, k],
            }
        )
        for k, head in enumerate(heads.window)
        for name, answer in zip(names, forecasts)
    ]
    return pl.concat(frames).sort("user", maintain_order=True)
