"""Strokes that several drawings share: rows of intervals, axes of amounts, dates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any

from habitus.tasks.report.canvas import Canvas

Figure = dict[str, Any]


def finish_forest(canvas: Canvas, n: int, reach: float, suffix: str = "") -> Figure:
    """Close a drawing of n rows of intervals around a rule at 0."""
    canvas.rule(x=0)
    for edge in range(1, n):
        canvas.rule(y=edge - 0.25, colour="grid")
    canvas.axes["yaxis"] = {"visible": False, "range": [-0.3, n - 0.2]}
    canvas.axes["xaxis"] = {"range": [-reach, reach], "nticks": 5, "ticksuffix": suffix, "tickformat": "~g"}
    return canvas.finish(60 + 46 * n, top=26, left=8)


def interval(
    canvas: Canvas,
    y: float,
    figures: tuple[float | None, float | None, float | None],
    reach: float,
    symbol: str,
    colour: str,
) -> None:
    """Draw a value with its interval on row y; off the axis it is an arrow at the edge."""
    value, low, high = figures
    if value is None:
        return
    is_off = abs(value) > reach
    if not is_off and low is not None and high is not None:
        canvas.line([max(low, -reach), min(high, reach)], [y, y], colour, 2.5)
    symbol = ("triangle-right" if value > 0 else "triangle-left") if is_off else symbol
    canvas.points([math.copysign(0.95 * reach, value) if is_off else value], [y], colour, symbol, 11)


def name_row(canvas: Canvas, y: float, text: str, value: str = "", full: str = "") -> None:
    """Write a row's name above its line at the left, its figure at the right: no margin that could clip."""
    where: dict[str, Any] = {"xref": "paper", "y": y, "yref": "y", "yshift": 17}
    hover: dict[str, Any] = {"hovertext": f"{full}<br>{value}"} if full else {}
    canvas.words(text, x=0, xanchor="left", **where, **hover)
    if value:
        canvas.words(value, x=1, xanchor="right", name="value", **where, **hover)


def from_zero(values: Sequence[float | None], nticks: int = 5) -> dict[str, Any]:
    """An axis of amounts that shows 0; k and M only where they shorten, as `~s` would write a fifth as 200m."""
    top = max((abs(v) for v in values if v is not None), default=0.0)
    return {"rangemode": "tozero", "nticks": nticks, "tickformat": "~s" if top >= 1000 else "~g"}


def edge(value: date, days: int) -> str:
    """A day's mark stands at its midnight; half a day before (-1) and after (0) are the edges of its column."""
    return f"{value + timedelta(days=days)}T12:00"


def iso(days: Sequence[date]) -> list[str]:
    """Write days as plotly reads them."""
    return [d.isoformat() for d in days]
