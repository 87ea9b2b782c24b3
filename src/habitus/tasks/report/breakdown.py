"""Parts of the what-if section: the answer by segment, and what each coming event adds."""

from __future__ import annotations

from habitus.tasks.report import plots_whatif as plots
from habitus.tasks.report.blocks import Cell, Key, Plot, Prose, Row, Table
from habitus.tasks.report.plots_whatif import Line
from habitus.tasks.report.record import Estimate
from habitus.tasks.report.record_whatif import Adds, SegmentRow, WhatIf
from habitus.tasks.report.words import UNKNOWN, count, day, gap_place, number, plural, quantity, span

MOST_SEGMENTS = 10
MOST_EVENTS = 6


def segment_blocks(whatif: WhatIf) -> list[Prose | Table]:
    if not whatif.segments:
        return []
    targets = list(dict.fromkeys(row.target for row in whatif.segments))
    blocks: list[Prose | Table] = [
        Prose(f"The same by {whatif.segment_by or 'segment'}. Segments do not overlap; they add up to the total.")
    ]
    for calendar in whatif.others:
        of_one = [row for row in whatif.segments if row.calendar == calendar]
        names = sorted({row.segment for row in of_one}, key=lambda name: -_size(of_one, name))
        cells = {(row.segment, row.target): row for row in of_one}
        rows = [
            (Cell(name, f"{count(_size(of_one, name))} users"), *(_segment(cells.get((name, t))) for t in targets))
            for name in names
        ]
        title = f"“{calendar}” against “{whatif.base}”, by {whatif.segment_by or 'segment'}"
        head = ("Segment", *targets)
        numeric = frozenset(range(1, len(head)))
        blocks.append(Table(title, head, rows[:MOST_SEGMENTS], numeric, is_stacked=True))
        if len(rows) > MOST_SEGMENTS:
            more = f"{len(rows) - MOST_SEGMENTS} smaller segments"
            blocks.append(Table(title, head, rows[MOST_SEGMENTS:], numeric, folded=more, is_stacked=True))
    return blocks


def _size(rows: list[SegmentRow], name: str) -> int:
    return next((row.n_users or 0 for row in rows if row.segment == name), 0)


def _segment(row: SegmentRow | None) -> Cell:
    """Give the difference in percent of the segment's own total, and below it in units."""
    if row is None or row.lead.value is None or row.total is None or row.difference is None:
        return Cell(UNKNOWN)
    base, found = row.total - row.difference, row.lead
    of_total = f"of {quantity(base, row.unit, 0 if row.unit == 'users' else None)}"
    if not base:
        return Cell(UNKNOWN, of_total)
    value, low, high = (None if v is None else 100 * v / abs(base) for v in (found.value, found.low, found.high))
    at = gap_place(Estimate(value=value, low=low, high=high), -2)
    text = f"{number(value, at, sign=True)} % {span(low, high, at, sign=True)}".strip()
    near = gap_place(Estimate(value=found.value, low=found.low, high=found.high), -1)
    return Cell(text, f"{number(found.value, near, sign=True)} {of_total}")


def event_blocks(whatif: WhatIf) -> list[Prose | Row | Table]:
    """Rank the coming events by what each adds, a drawing per target and all figures folded away."""
    if not whatif.importance:
        return []
    real = list(dict.fromkeys((a.event, a.start) for a in whatif.importance if not a.is_placebo))
    left = f" {plural(whatif.n_events_left_out, 'later event')} left out." if whatif.n_events_left_out else ""
    blocks: list[Prose | Row | Table] = [
        Prose(f"What does each of the {plural(len(real), 'coming event')} of “{whatif.base}” add? Each was taken away "
              f"alone, and the forecast made again.{left} Intervals hold the luck of users, not of dates: an event "
              "that always falls into a high season takes the credit of the season.")
    ]  # fmt: skip
    drawn = []
    for i, target in enumerate(dict.fromkeys(a.target for a in whatif.importance)):
        of_target = [a for a in whatif.importance if a.target == target and a.value is not None]
        shown = [a for a in of_target if not a.is_placebo][:MOST_EVENTS] + [a for a in of_target if a.is_placebo]
        lines = [
            Line(_event_name(a), "placebo" if a.is_placebo else "event", a.value or 0.0, a.low, a.high) for a in shown
        ]
        unit = next((a.unit for a in of_target if a.unit), "")
        kinds = dict.fromkeys(line.kind for line in lines)
        keys = tuple(Key(*plots.MARKS[kind][:2], plots.MARKS[kind][2]) for kind in kinds)
        alt = "; ".join(f"{line.label} {line.text.format('')}" for line in lines)
        title = f"{target}: what each event adds{f', in {unit}' if unit else ''}"
        drawn.append(Plot(f"whatif-events-{i}", title, f"{alt}.", plots.forest(lines), keys))
    blocks += [Row(tuple(drawn[i : i + 2])) for i in range(0, len(drawn), 2)]
    return [*blocks, _events_table(whatif.importance)]


def _event_name(row: Adds) -> str:
    if row.is_placebo:
        return "placebo: just after the window"
    return f"{row.event}, {day(row.start, year=False)}" if row.start else row.event


def _events_table(rows: list[Adds]) -> Table:
    body = []
    for row in rows:
        at = gap_place(Estimate(value=row.value, low=row.low, high=row.high), -1)
        beside = f"{number(row.value, at, sign=True)} {span(row.low, row.high, at, sign=True)}".strip()
        alone = f"{number(row.alone_value, at, sign=True)} {span(row.alone_low, row.alone_high, at, sign=True)}".strip()
        body.append((Cell(row.target, row.unit or ""), Cell(_event_name(row)), Cell(row.type or UNKNOWN),
                     Cell(count(row.n_reached)), Cell(count(row.n_past)), Cell(beside), Cell(alone)))  # fmt: skip
    head = ("Target", "Event", "Type", "Users addressed", "Seen before", "Beside the others", "Alone")
    caption = (
        "What each event adds to the total: beside all others, and when it is the only one; 95 % intervals over users"
    )
    return Table(caption, head, body, frozenset({3, 4, 5, 6}), folded="All events as a table")
