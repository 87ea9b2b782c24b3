"""The drawings of the what-if section; shape says whatever colour says."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

from habitus.tasks.report.canvas import LIGHT, Canvas
from habitus.tasks.report.part import filled
from habitus.tasks.report.plots import SERIES
from habitus.tasks.report.record import Estimate
from habitus.tasks.report.record_whatif import WhatIfDaily
from habitus.tasks.report.strokes import Figure, finish_forest, from_zero, interval, iso, name_row
from habitus.tasks.report.words import gap_place, number, short, span

# what a row of a forest is: its mark and colour, and its words in the legend
MARKS = {
    "clear": ("circle", "model", "answer, clear of noise"),
    "noise": ("circle-open", "model", "answer, may be noise"),
    "unknown": ("x-thin", "model", "answer, no interval known"),
    "window": ("triangle-up-open", "muted", "the answer, window as a whole"),
    "placebo": ("diamond-open", "muted", "placebo: should be near 0"),
    "alike": ("square-open", "third", "the same change, elsewhere"),
    "event": ("circle", "model", "coming event"),
}


@dataclass(frozen=True)
class Line:
    """One row of a forest: a name, what it is (a key of `MARKS`), and the figures."""

    label: str
    kind: str
    value: float
    low: float | None
    high: float | None

    @property
    def text(self) -> str:
        """The figures as they are written beside the name, without a unit."""
        at = gap_place(Estimate(value=self.value, low=self.low, high=self.high), -2)
        return f"{number(self.value, at, sign=True)}{{}} {span(self.low, self.high, at, sign=True)}".strip()


def forest(lines: Sequence[Line], suffix: str = "") -> Figure:
    """Draw rows with their intervals around 0, in percent or in units."""
    canvas = Canvas()
    ends = [abs(v) for line in lines for v in (line.value, line.low, line.high) if v is not None]
    reach = 1.1 * max(ends, default=0.0) or 1.0
    for y, line in enumerate(reversed(lines)):
        symbol, colour, _ = MARKS[line.kind]
        interval(canvas, y, (line.value, line.low, line.high), reach, symbol, colour)
        name_row(canvas, y, html.escape(short(line.label, 30)), line.text.format(suffix), html.escape(line.label))
    figure = finish_forest(canvas, len(lines), reach, suffix)
    if reach >= 1000:
        figure["layout"]["xaxis"]["tickformat"] = "~s"
    return figure


def futures(entry: WhatIfDaily) -> Figure:
    """Draw the days under every calendar: the first with its band, the others with theirs as thin lines."""
    canvas, n = Canvas(), len(entry.day)
    for i, (calendar, values) in enumerate(entry.values.items()):
        colour, symbol, dash = ("ink", "circle", "solid") if i == 0 else SERIES[(i - 1) % len(SERIES)]
        low, high = (filled(side.get(calendar, []), n) for side in (entry.low, entry.high))
        if any(v is not None for v in (*low, *high)):
            if i == 0:
                canvas.line(iso(entry.day), high, "band", 0)
                canvas.line(iso(entry.day), low, "band", 0, fill="tonexty", fillcolor=LIGHT["band"])
            elif len(entry.values) == 2:
                for side in (low, high):
                    canvas.line(iso(entry.day), side, colour, 0.8, "dot")
        canvas.line(iso(entry.day), values, colour, 1.8 if i else 2.2, dash if i else "solid")
        name = html.escape(short(calendar, 30))
        said = f"{name}, %{{x|%a %-d %b}}: %{{y:,.3~g}}<extra></extra>"
        canvas.points(iso(entry.day), values, colour, symbol, 5, hovertemplate=said)
    drawn = [v for values in (*entry.values.values(), *entry.high.values()) for v in values]
    canvas.axes = {"xaxis": {"tickformat": "%-d %b", "nticks": 6}, "yaxis": from_zero(drawn)}
    return canvas.finish(270, top=10)


def change(entry: WhatIfDaily) -> Figure:
    """Draw, for each further calendar, its change of each day against the first."""
    canvas, (first, *others) = Canvas(), entry.values
    base = entry.values[first]
    for i, calendar in enumerate(others):
        colour, symbol, dash = SERIES[i % len(SERIES)]
        moved = [None if v is None or b is None else v - b for v, b in zip(entry.values[calendar], base)]
        said = f"{html.escape(short(calendar, 30))}, %{{x|%a %-d %b}}: %{{y:+,.3~g}}<extra></extra>"
        canvas.line(iso(entry.day), moved, colour, 1.6, dash)
        canvas.points(iso(entry.day), moved, colour, symbol, 6, hovertemplate=said)
    canvas.rule(y=0)
    drawn = [v for trace in canvas.data for v in trace["y"]]
    canvas.axes = {"xaxis": {"tickformat": "%-d %b", "nticks": 6}, "yaxis": from_zero(drawn)}
    return canvas.finish(270, top=10)
