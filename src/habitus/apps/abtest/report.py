"""The report of an experiment: one self-contained HTML page, the verdict in words first."""

from __future__ import annotations

import datetime as dt
import html
import math
from pathlib import Path
from typing import Any

from habitus.apps.abtest.analyse import Analysis, Found, Row, Segment, analyse
from habitus.apps.abtest.checks import Split
from habitus.apps.abtest.monitor import Monitored, monitor
from habitus.apps.abtest.page import render
from habitus.apps.abtest.plan import Plan
from habitus.apps.abtest.tables import read_units
from habitus.core.atomic import new_file, write_json
from habitus.data.calendar import to_day
from habitus.tasks.report.blocks import Cell, Plot, Prose, Section, Table
from habitus.tasks.report.canvas import LIGHT, Canvas
from habitus.tasks.report.strokes import Figure, finish_forest, interval, name_row

UNKNOWN = "—"
MARKS = {"binary": "rate", "mean": "mean", "ratio": "ratio"}


def judge_and_write(
    plan: Plan, folder: str | Path, as_of: dt.date | None = None, tables: dict[str, Any] | None = None
) -> str:
    """Analyse, look back day by day, and write analysis.json and report.html to `folder`; give lines for a terminal."""
    units = read_units(plan.experiment, as_of=None if as_of is None else to_day(as_of), tables=tables)
    found, looks = analyse(plan, as_of=as_of, units=units), monitor(plan, as_of=as_of, units=units)
    write_json(Path(folder) / "analysis.json", {"format": 1} | found.to_json() | {"looks": looks.to_json()})
    page = write_report(plan, found, looks, Path(folder) / "report.html")
    return f"{summary(found)}\nwrote {page}"


def summary(found: Analysis) -> str:
    """Say an analysis in lines for a terminal."""
    lines = [found.verdict, *(f"  {reason}" for reason in found.reasons), ""]
    lines.append(f"{'metric':<24}{'control':>12}{'treatment':>12}{'lift':>9}  interval")
    for row in found.rows:
        for words, one in (("", row.plain), (" (adjusted)", row.adjusted)):
            if one is not None:
                name = (row.name + words)[:23]
                lines.append(f"{name:<24}{one.control:>12.5g}{one.treatment:>12.5g}{_pc(one.lift):>9}  {_ends(one)}")
    return "\n".join(lines)


def write_report(plan: Plan, found: Analysis, looks: Monitored, path: str | Path) -> Path:
    """Write the page to `path`, atomically."""
    sections = [
        Section("effects", "Effects", "What did treatment change, relative to control?", _effects(found)),
        Section("time", "Over time", "What would each morning's look have said?", _time(looks)),
        Section(
            "split", "The split", "Were users split as planned, overall, each day, in each segment?", _splits(found)
        ),
        Section(
            "guardrails", "Guardrails", "Is the harm to what must not suffer inside its margin?", _guards(found, looks)
        ),
        Section("segments", "Segments", "Is it the same for everybody?", _segments(found.segments)),
        Section("planned", "Planned and done", "Was it run as it was planned?", _planned(plan, found)),
    ]
    one = found.primary.decisive
    once = found.method == "fixed"
    off = [split for split in found.splits if split.is_off]
    cards = [
        (
            found.primary.name,
            _pc(one.lift),
            "against control",
            f"95 % interval {_ends(one)}" if plan.experiment.alpha == 0.05 else f"interval {_ends(one)}",
            [
                "read once, at the end" if once else "valid at every look",
                *(["adjusted for what the same users did before"] if found.primary.chosen == "adjusted" else []),
            ],
        ),
        (
            "Users",
            f"{one.n_control + one.n_treatment:,}",
            "whose window has closed",
            f"{one.n_control:,} control, {one.n_treatment:,} treatment",
            [f"planned {plan.n_per_arm:,} per arm", f"as of {found.as_of}"],
        ),
        (
            "The split",
            "off" if off else "as planned",
            "",
            f"{len(off)} of {len(found.splits)} checks failed",
            [f"overall p {_p(found.splits[0].p)}"],
        ),
    ]
    page = render(
        sections,
        title=f"{found.name}: {found.verdict}",
        eyebrow=f"{found.name} · as of {found.as_of}",
        outcome=found.outcome,
        verdict=found.verdict,
        reasons=found.reasons,
        cards=cards,
    )
    with new_file(path) as beside:
        beside.write_text(page, "utf-8")
    return Path(path)


def _effects(found: Analysis) -> list[Any]:
    rows = [
        (row, one, words)
        for row in found.rows
        for one, words in ((row.plain, "plain"), (row.adjusted, "adjusted"))
        if one is not None
    ]
    lines = [(f"{row.name}, {words}" if row.adjusted is not None else row.name, one, words) for row, one, words in rows]
    table = Table(
        "Lift is relative to control. p of secondary metrics is corrected for their number (Holm).",
        ("metric", "control", "treatment", "lift", "interval", "p", "users"),
        [
            (
                Cell(row.name, f"{row.role}, {MARKS[row.kind]}, {words}"),
                Cell(f"{one.control:.5g}"),
                Cell(f"{one.treatment:.5g}"),
                Cell(_pc(one.lift)),
                Cell(_ends(one)),
                Cell(_p_of(row, one)),
                Cell(f"{one.n_control + one.n_treatment:,}"),
            )
            for row, one, words in rows
        ],
        frozenset({1, 2, 3, 4, 5, 6}),
    )
    blocks: list[Any] = [
        Plot(
            "effects-plot",
            "Lift with its interval",
            "Lift of each metric with its interval; the table has the figures.",
            _forest(lines),
            table=table,
        )
    ]
    saved = [
        (row.name, row.rho, row.plain.se, row.adjusted.se)
        for row in found.rows
        if row.adjusted is not None and row.rho is not None
    ]
    if saved:
        said = "; ".join(
            f"{name}: correlation {rho:.2f} with the time before, "
            f"standard error {1 - after / before if before else 0:.0%} smaller"
            for name, rho, before, after in saved
        )
        blocks.append(Prose(f"Adjusting for the time before (CUPED). {said}.", "note"))
    left = [
        (why, f"{c:,} control, {t:,} treatment", row.name) for row in found.rows for why, (c, t) in row.excluded.items()
    ]
    left += [(why, f"{n:,}", "all metrics") for why, n in found.counted.items()]
    if left:
        blocks.append(
            Table("Users not counted", ("why", "how many", "for"), [(Cell(a), Cell(b), Cell(c)) for a, b, c in left])
        )
    return blocks


def _time(looks: Monitored) -> list[Any]:
    canvas = Canvas()
    shown = [look for look in looks.looks if math.isfinite(look.low)]
    days = [look.day for look in shown]
    if not shown:
        return [Prose(f"No look yet: {looks.words}.", "note")]
    band = [100 * look.lift_low for look in shown] + [100 * look.lift_high for look in reversed(shown)]
    canvas.line(days + days[::-1], band, "band", 0, fill="toself", fillcolor=LIGHT["band"])
    for ends in ([look.once_low for look in shown], [look.once_high for look in shown]):
        canvas.line(days, [100 * end for end in ends], "muted", 1.2, "dot")
    canvas.line(
        days,
        [100 * look.lift for look in shown],
        "model",
        2.4,
        hovertemplate="%{x|%-d %b %Y}: %{y:.2f} %<extra></extra>",
    )
    canvas.rule(y=0)
    canvas.axes = {"xaxis": {"nticks": 6}, "yaxis": {"ticksuffix": " %", "tickformat": "~g", "nticks": 6}}
    rows = [
        (
            Cell(look.day),
            Cell(f"{look.n_control:,}"),
            Cell(f"{look.n_treatment:,}"),
            Cell(_pc(look.lift)),
            Cell(_span(look.lift_low, look.lift_high)),
            Cell(look.rule),
        )
        for look in looks.looks
    ]
    table = Table(
        "Each look",
        ("day", "control", "treatment", "lift", "interval, any look", "rule"),
        rows,
        frozenset({1, 2, 3, 4}),
        folded="Every look as a table",
    )
    note = (
        "Band: the interval that holds at every look. Dotted: the interval of a single look, too narrow for who "
        f"looks again. {looks.words[0].upper()}{looks.words[1:]}."
    )
    return [
        Plot(
            "time-plot",
            f"Lift of {looks.metric} by day",
            "Lift by day with the interval valid at every look.",
            canvas.finish(320, left=52),
            note=note,
            table=table,
        )
    ]


def _splits(found: Analysis) -> list[Any]:
    rows = sorted(found.splits, key=lambda split: split.p)
    off = [split for split in rows if split.is_off]
    text = (
        "Every check passed: the arms are as large as planned, within chance."
        if not off
        else (f"{len(off)} checks failed. No effect can be read until it is known which users are missing, and why.")
    )
    families = len({split.family for split in rows})
    note = "Half of the users in each arm is planned. p below .001 fails; inside a family p is multiplied by its size."
    head = ("where", "control", "treatment", "share of treatment", "p")
    blocks: list[Any] = [Prose(text, "warning" if off else "note")]
    blocks.append(Table(note, head, [_split_cells(split) for split in rows[:8]], frozenset({1, 2, 3, 4})))
    if len(rows) > 8:
        folded = f"All {len(rows)} checks in {families} families"
        blocks.append(
            Table("All checks", head, [_split_cells(s) for s in rows], frozenset({1, 2, 3, 4}), folded=folded)
        )
    return blocks


def _split_cells(split: Split) -> tuple[Cell, ...]:
    n = split.n_control + split.n_treatment
    mark = "off" if split.is_off else ""
    return (
        Cell(split.place, split.family),
        Cell(f"{split.n_control:,}"),
        Cell(f"{split.n_treatment:,}"),
        Cell(f"{split.n_treatment / max(n, 1):.2%}"),
        Cell(_p(split.p), mark=mark),
    )


def _guards(found: Analysis, looks: Monitored) -> list[Any]:
    rows = [row for row in found.rows if row.role == "guardrail"]
    if not rows:
        return [Prose("None was declared. A metric that treatment could buy its gain with belongs here.", "note")]
    now = {guard.name: guard for guard in looks.guards}
    cells = [
        (
            Cell(row.name, f"more is {'better' if row.better == 'up' else 'worse'}"),
            Cell(f"{row.margin:.1%}"),
            Cell(_pc(row.decisive.lift)),
            Cell(_ends(row.decisive)),
            Cell(_span(now[row.name].lift_low, now[row.name].lift_high) if row.name in now else UNKNOWN),
            Cell(row.guard, mark="off" if row.guard == "broken" else ""),
        )
        for row in rows
    ]
    text = (
        "Held: the whole interval lies on the safe side of the margin. Broken: all of it lies beyond. Unproven: "
        "neither, more users are needed."
    )
    return [
        Table(
            text,
            ("guardrail", "margin", "lift", "interval", "interval, any look", "state"),
            cells,
            frozenset({1, 2, 3, 4}),
        )
    ]


def _segments(segments: list[Segment]) -> list[Any]:
    if not segments:
        return [Prose("No segments were declared.", "note")]
    told = [segment for segment in segments if segment.p_other < 0.05]
    text = (
        "No segment differs from the rest of its kind beyond chance."
        if not told
        else (
            "Differs from the rest, after correction: "
            + ", ".join(f"{s.family} {s.name}" for s in told)
            + ". A finding to test in an experiment of its own."
        )
    )
    largest = sorted(segments, key=lambda s: -(s.found.n_control + s.found.n_treatment))[:12]
    rows = [
        (
            Cell(s.name, s.family),
            Cell(f"{s.found.n_control + s.found.n_treatment:,}"),
            Cell(_pc(s.found.lift)),
            Cell(_ends(s.found)),
            Cell(_p(s.p_other)),
        )
        for s in segments
    ]
    table = Table(
        "Plain estimates; p: against all others, times the number of segments.",
        ("segment", "users", "lift", "interval", "p, differs"),
        rows,
        frozenset({1, 2, 3, 4}),
        folded=f"All {len(segments)} segments",
    )
    lines = [(f"{s.family}: {s.name}", s.found, "plain") for s in largest]
    return [
        Prose(text, "note"),
        Plot(
            "segments-plot",
            "Lift by segment",
            "Lift of the primary metric in each segment.",
            _forest(lines),
            note="The largest segments, at most twelve.",
            table=table,
        ),
    ]


def _planned(plan: Plan, found: Analysis) -> list[Any]:
    rows = [
        (Cell(what), Cell(goal), Cell(done), Cell("yes" if is_same else "no", mark="" if is_same else "off"))
        for what, goal, done, is_same in found.planned
    ]
    made = f"Plan {plan.fingerprint}, made {plan.created[:10]}"
    text = f"{made}; alpha {plan.experiment.alpha:g}, power {plan.experiment.power:.0%}."
    blocks: list[Any] = [Table(text, ("what", "planned", "done", "as planned"), rows, is_stacked=True)]
    steps = [
        (
            Cell(f"{step.share:.0%} per arm"),
            Cell(f"{step.days}"),
            Cell(UNKNOWN if step.n_per_arm is None else f"{step.n_per_arm:,}"),
            Cell(UNKNOWN if step.detectable is None else f"{step.detectable:.1%}"),
        )
        for step in plan.steps
    ]
    blocks.append(
        Table(
            "The ramp as planned",
            ("step", "days", "users per arm by its end", "harm it would find"),
            steps,
            frozenset({1, 2, 3}),
            is_stacked=True,
        )
    )
    return blocks


def _forest(lines: list[tuple[str, Found, str]]) -> Figure:
    """Rows of lifts in percent around 0; an endless interval is left out."""
    canvas, n = Canvas(), len(lines)
    ends = [abs(100 * end) for _, one, _ in lines for end in (one.lift_low, one.lift_high) if math.isfinite(end)]
    reach = 1.1 * max([*ends, *(abs(100 * one.lift) for _, one, _ in lines), 0.1])
    for place, (name, one, words) in enumerate(lines):
        y = n - 1 - place
        low, high = ((100 * end if math.isfinite(end) else None) for end in (one.lift_low, one.lift_high))
        colour = "muted" if words == "plain" and any(w == "adjusted" for _, _, w in lines) else "model"
        interval(canvas, y, (100 * one.lift, low, high), reach, "circle", colour)
        name_row(canvas, y, html.escape(name), f"{_pc(one.lift)} {_ends(one)}")
    return finish_forest(canvas, n, reach, " %")


def _pc(value: float) -> str:
    return f"{value:+.2%}".replace("-", "−") if math.isfinite(value) else UNKNOWN


def _ends(one: Found) -> str:
    return _span(one.lift_low, one.lift_high)


def _span(low: float, high: float) -> str:
    return f"[{_pc(low)}, {_pc(high)}]" if math.isfinite(low) and math.isfinite(high) else "too few users yet"


def _p(value: float) -> str:
    return UNKNOWN if not math.isfinite(value) else f"{value:.1g}" if value < 0.001 else f"{value:.3f}"


def _p_of(row: Row, one: Found) -> str:
    if row.p_holm is not None and one is row.decisive:
        return f"{_p(row.p_holm)} (Holm)"
    return _p(one.p)
