"""The drawings of the page, one function each; shape says whatever colour says.

Legends are part of the page, not of the drawing, so that they wrap on a phone.
"""

from __future__ import annotations

import html
import math
import statistics
from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any

from habitus.tasks.report.canvas import LIGHT, Canvas, titled
from habitus.tasks.report.part import filled
from habitus.tasks.report.record import (
    Cutoffs,
    DailyTotals,
    Data,
    Difference,
    Epoch,
    Reliability,
)
from habitus.tasks.report.strokes import Figure, edge, finish_forest, from_zero, interval, iso, name_row
from habitus.tasks.report.verdict import Outcome, outcome_of
from habitus.tasks.report.words import day, gap_place, metric, number, percent, short, span

SERIES = (
    ("model", "circle", "solid"),
    ("other", "square", "dash"),
    ("third", "diamond", "dot"),
    ("fourth", "triangle-up", "dashdot"),
    ("fifth", "x", "longdash"),
)
MARKS: dict[Outcome, tuple[str, str]] = {
    "better": ("triangle-up", "model"),
    "level": ("circle-open", "muted"),
    "worse": ("triangle-down", "other"),
    "untested": ("x-thin", "muted"),
}
PARTS = (
    ("train", "model", "circle", "training"),
    ("gap", "muted", "x-thin", "gap, refit only"),
    ("valid", "third", "square", "validation"),
    ("test", "other", "diamond", "test"),
)
TEXT = "%{hovertext}<extra></extra>"


def daily_log(data: Data) -> Figure:
    """Draw active users and events of each day of the log, one above the other, with the mean of 7 days."""
    canvas, x = Canvas(), iso(data.daily.day)
    shown = [("Active users a day", data.daily.active_users), ("Events a day", data.daily.events)]
    for i, (title, values) in enumerate(shown, start=1):
        axis = "y" if i == 1 else "y2"
        canvas.line(x, values, "faint", 1, yaxis=axis, hovertemplate="%{x|%a %-d %b %Y}: %{y:,}<extra></extra>")
        canvas.line(x, week_mean(values), "model", 2.2, yaxis=axis)
        canvas.words(title, x=0, y=1, xref="paper", yref=f"{axis} domain", xanchor="left", yanchor="bottom")
    upper, lower = (from_zero(values, nticks=4) for _, values in shown)
    canvas.axes = {
        "xaxis": {"anchor": "y2"},
        "yaxis": {"domain": [0.58, 1], **upper},
        "yaxis2": {"domain": [0, 0.42], **lower},
    }
    return canvas.finish(300, top=26)


def week_mean(values: Sequence[float | None]) -> list[float | None]:
    """Give the mean of each day and the 6 before it; None until there are 7 known days.

    >>> week_mean([7, 0, 0, 0, 0, 0, 0, 14])[-2:]
    [1.0, 2.0]
    """
    weeks = [values[max(0, i - 6) : i + 1] for i in range(len(values))]
    return [sum(w) / 7 if len(w) == 7 and None not in w else None for w in weeks]  # type: ignore[arg-type]


def split(cutoffs: Cutoffs) -> Figure:
    """Draw each cut-off and its target window, one line of marks per part."""
    canvas, horizon = Canvas(), cutoffs.horizon or 0
    shown = [part for part in PARTS if getattr(cutoffs, part[0])]
    for y, (name, colour, symbol, words) in enumerate(reversed(shown)):
        days: list[date] = getattr(cutoffs, name)
        for cutoff in days:
            canvas.line(iso([cutoff, cutoff + timedelta(days=horizon)]), [y, y], colour, 7, opacity=0.28)
        texts = [f"{day(c)}<br>inputs up to this day, targets {horizon} days on" for c in days]
        canvas.points(iso(days), [y] * len(days), colour, symbol, 7, hovertext=texts, hovertemplate=TEXT)
        name_row(canvas, y, f"{words} ({len(days)})")
    canvas.axes["yaxis"] = {"visible": False, "range": [-0.5, len(shown) - 0.2]}
    return canvas.finish(40 + 48 * len(shown), left=8)


def training(history: Sequence[Epoch], name: str) -> Figure:
    """Draw one curve per seed of "train" or "valid"; a hollow mark shows the best epoch of each (least validation)."""
    canvas = Canvas()
    for i, seed in enumerate(dict.fromkeys(e.seed for e in history)):
        colour, symbol, dash = SERIES[i % len(SERIES)]
        epochs = [e for e in history if e.seed == seed]
        x, y = [e.epoch for e in epochs], [getattr(e, name) for e in epochs]
        canvas.line(x, y, colour, 1.8, dash, hovertemplate=f"seed {seed}, epoch %{{x}}: %{{y:.4f}}<extra></extra>")
        best = best_epoch(epochs)
        value = None if best is None else getattr(best, name)
        if best is not None and value is not None:
            said = f"seed {seed}, best epoch %{{x}}: %{{y:.4f}}<extra></extra>"
            canvas.points([best.epoch], [value], colour, f"{symbol}-open", 11, hovertemplate=said)
    step = max(1, round(max(e.epoch for e in history) / 6))
    canvas.axes["xaxis"] = {"title": titled("epoch"), "rangemode": "tozero", "dtick": step}
    return canvas.finish(270, bottom=44)


def best_epoch(epochs: Sequence[Epoch]) -> Epoch | None:
    """Give the epoch of the least validation loss, or None when no epoch was validated."""
    validated = [e for e in epochs if e.valid is not None]
    return min(validated, key=lambda e: e.valid or 0.0) if validated else None


def forest(rows: Sequence[Difference], best: str | None) -> Figure:
    """Draw the differences of one target and metric with intervals; the side where the model is better is shaded.

    A row far off the scale of the others is an arrow at the edge; its figure stands beside its name in any case.
    """
    rows = [row for row in rows if row.value is not None]
    canvas, reach, side = Canvas(), _reach(rows, best), metric(rows[0].metric).better
    if side:
        canvas.shade(0, side * reach, "good")
        left, right = ("model worse", "model better") if side > 0 else ("model better", "model worse")
        for text, x, anchor in ((f"◀ {left}", 0, "left"), (f"{right} ▶", 1, "right")):
            canvas.words(text, colour="muted", size=11, x=x, xref="paper", xanchor=anchor, y=1, yref="paper",
                         yanchor="bottom", yshift=6)  # fmt: skip
    for y, row in enumerate(reversed(rows)):
        symbol, colour = MARKS[outcome_of(row)]
        interval(canvas, y, (row.value, row.low, row.high), reach, symbol, colour)
        at = gap_place(row)
        text = f"{number(row.value, at, sign=True)} {span(row.low, row.high, at, sign=True)}"
        name = html.escape(short(row.against, 27))
        name_row(canvas, y, f"<b>{name}</b>" if row.against == best else name, text, html.escape(row.against))
    return finish_forest(canvas, len(rows), reach)


def reliability(rows: Sequence[Reliability]) -> Figure:
    """Draw observed shares over stated chances; the first row with the range its number of rows allows (Wilson)."""
    canvas = Canvas()
    pairs = [(p, o) for r in rows for p, o in zip(r.predicted, r.observed) if p is not None and o is not None]
    top = min(1.0, 1.15 * max([v for pair in pairs for v in pair] + [0.01]))
    canvas.line([0, top], [0, top], "muted", 1, "dot")
    for i, row in reversed(list(enumerate(rows))):
        colour, symbol = (("model", "circle"), ("other", "square-open"))[min(i, 1)]
        name, n = html.escape(short(row.model, 30)), filled(row.n, len(row.predicted))
        texts = [f"{name}<br>said {percent(p)}, happened {percent(o)}" + (f"<br>{k:,.0f} rows" if k is not None else "")
                 for p, o, k in zip(row.predicted, row.observed, n)]  # fmt: skip
        canvas.line(row.predicted, row.observed, colour, 1, "solid" if i == 0 else "dash")
        bars = {"error_y": _wilson_bars(row, n, colour)} if i == 0 else {}
        canvas.points(row.predicted, row.observed, colour, symbol, 8, hovertext=texts, hovertemplate=TEXT, **bars)
    form = ".0%" if top > 0.1 else ".2~%"
    canvas.axes["xaxis"] = {
        "title": titled("chance stated"),
        "range": [-0.02 * top, top],
        "tickformat": form,
        "nticks": 6,
    }
    canvas.axes["yaxis"] = {"range": [-0.03 * top, 1.02 * top], "tickformat": form, "nticks": 6}
    return canvas.finish(330, top=10, bottom=44)


def wilson(share: float | None, n: float | None, z: float = 1.96) -> tuple[float, float]:
    """Give the Wilson score interval of a share of n independent rows (E. B. Wilson, JASA 1927).

    >>> low, high = wilson(0.5, 100)
    >>> round(low, 3), round(high, 3)
    (0.404, 0.596)
    """
    if share is None or not n:
        return (share or 0.0, share or 0.0)
    middle, scale = share + z * z / (2 * n), 1 + z * z / n
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def forecast(entry: DailyTotals) -> Figure:
    """Draw the days before the cut-off, the forecast with its band, what happened, and known events as shades."""
    return _forecast(entry).finish(320, top=30)


def glance(entry: DailyTotals, height: int = 165) -> Figure:
    """Draw the same small and without its events, for the first screen."""
    canvas = _forecast(entry.model_copy(update={"events": []}), size=4)
    canvas.axes["xaxis"]["nticks"] = 4
    canvas.axes["yaxis"]["nticks"] = 3
    return canvas.finish(height, top=22, bottom=24, left=36, right=4)


def inside(entry: DailyTotals) -> list[bool | None]:
    """Tell for each forecast day whether the band held it; None where that cannot be known."""
    ahead, n = entry.forecast, len(entry.forecast.day)
    low, high, actual = (filled(values, n) for values in (ahead.low, ahead.high, ahead.actual))
    return [None if None in (a, lo, hi) else lo <= a <= hi for a, lo, hi in zip(actual, low, high)]  # type: ignore[operator]


# strokes that several drawings share ---------------------------------------------------------------------------------


def _forecast(entry: DailyTotals, size: float = 6) -> Canvas:
    canvas, ahead = Canvas(), entry.forecast
    x, hover = iso(ahead.day), f"%{{x|%a %-d %b}}: %{{y:{_form(entry)}}}<extra></extra>"
    for happening in entry.events:
        canvas.shade(edge(happening.start, -1), edge(happening.end or happening.start, 0), "shade")
    if any(v is not None for v in ahead.low) and any(v is not None for v in ahead.high):
        canvas.line(x, ahead.high, "band", 0)
        canvas.line(x, ahead.low, "band", 0, fill="tonexty", fillcolor=LIGHT["band"])
    canvas.line(iso(entry.past.day), entry.past.value, "ink", 1.4, hovertemplate=hover)
    canvas.line(x, ahead.value, "model", 2.2, "dash", hovertemplate=f"forecast {hover}")
    if any(v is not None for v in ahead.actual):
        canvas.line(x, ahead.actual, "ink", 0.8)
        is_out = [ok is False for ok in inside(entry)]
        for out, symbol, colour in ((False, "circle", "ink"), (True, "x-thin", "other")):
            chosen = [i for i, flag in enumerate(is_out) if flag is out and ahead.actual[i] is not None]
            if chosen:
                canvas.points([x[i] for i in chosen], [ahead.actual[i] for i in chosen], colour, symbol,
                              size + 1 if out else size - 1.5,
                              hovertemplate=f"happened {hover}")  # fmt: skip
    if entry.cutoff:
        canvas.rule(x=edge(entry.cutoff, 0), colour="muted")
        for text, anchor, shift in (("past", "right", -3), ("forecast", "left", 3)):
            canvas.words(text, colour="muted", x=edge(entry.cutoff, 0), xanchor=anchor, xshift=shift,
                         y=1, yref="paper", yanchor="bottom")  # fmt: skip
    _number_events(canvas, entry)
    days = [*entry.past.day, *ahead.day]
    bounds = {"range": [edge(min(days), -1), edge(max(days), 0)]} if days else {}
    drawn = [*entry.past.value, *ahead.value, *ahead.high, *ahead.actual]
    canvas.axes = {"xaxis": {"tickformat": "%-d %b", **bounds}, "yaxis": from_zero(drawn)}
    return canvas


def _number_events(canvas: Canvas, entry: DailyTotals) -> None:
    """Number the shades; close neighbours share one label, so that labels never collide."""
    groups: list[tuple[date, list[int]]] = []
    for i, happening in enumerate(entry.events, start=1):
        if groups and (happening.start - groups[-1][0]).days < 3:
            groups[-1][1].append(i)
        else:
            groups.append((happening.start, [i]))
    for start, numbers in groups:
        text = str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]}–{numbers[-1]}"
        canvas.words(
            text, colour="muted", size=11, x=start.isoformat(), y=1, yref="paper", yanchor="top", xanchor="left"
        )


def _wilson_bars(row: Reliability, n: Sequence[float | None], colour: str) -> dict[str, Any]:
    known = [(o or 0.0, *wilson(o, k)) for o, k in zip(row.observed, n)]
    return {"type": "data", "symmetric": False, "thickness": 1.2, "width": 0, "color": LIGHT[colour],
            "array": [high - o for o, _, high in known], "arrayminus": [o - low for o, low, _ in known]}  # fmt: skip


def _reach(rows: Sequence[Difference], best: str | None) -> float:
    """Half of the axis: wide enough for the deciding row, not stretched by a row that is beaten by far."""
    halves = [(r.high - r.low) / 2 for r in rows if r.low is not None and r.high is not None]
    deciding = [r for r in rows if r.against == best] or list(rows)
    ends = [abs(v) for r in deciding for v in (r.value, r.low, r.high) if v is not None]
    return max(1.15 * max(ends, default=0.0), 4 * statistics.median(halves) if halves else 0.0) or 1.0


def _form(entry: DailyTotals) -> str:
    values = [abs(v) for v in (*entry.past.value, *entry.forecast.value) if v is not None]
    return ",.0f" if max(values, default=0.0) >= 20 else ",.1f"
