"""A plotly figure as plain values, in one sober look: Okabe-Ito colours, no template, no legend, no zoom, hover on.

Plotly's own figure classes check every value at every step, which takes seconds for a page; a test checks them instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

# name: (light, dark). The light values stand in the figures; the page swaps them when it is dark.
PALETTE = {
    "ink": ("#1b1f24", "#e8e6e1"),
    "muted": ("#5d6670", "#a3abb3"),
    "faint": ("#b4bac0", "#5a626a"),
    "grid": ("#e4e6e8", "#33383e"),
    "model": ("#0072b2", "#56b4e9"),
    "other": ("#d55e00", "#f08c3c"),
    "third": ("#009e73", "#2fc79a"),
    "fourth": ("#cc79a7", "#dd95bd"),
    "fifth": ("#e69f00", "#f0b733"),
    "band": ("#c6dff0", "#1e4258"),
    "shade": ("#f3ead2", "#2c281c"),
    "good": ("#e9f3fa", "#182a36"),
}
LIGHT = {name: pair[0] for name, pair in PALETTE.items()}


@dataclass
class Canvas:
    """What is drawn so far: traces, shapes behind them, words on them, and the axes."""

    data: list[dict[str, Any]] = field(default_factory=list)
    shapes: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)
    axes: dict[str, dict[str, Any]] = field(default_factory=lambda: {"xaxis": {}, "yaxis": {}})

    def line(
        self, x: Sequence[Any], y: Sequence[Any], colour: str, width: float, dash: str = "solid", **more: Any
    ) -> None:
        """Add a line; without a hover text of its own it is silent."""
        stroke = {"color": LIGHT[colour], "width": width, "dash": dash}
        self._trace(x, y, {"mode": "lines", "line": stroke} | more)

    def points(self, x: Sequence[Any], y: Sequence[Any], colour: str, symbol: str, size: float, **more: Any) -> None:
        """Add marks; their outline has the same colour, so that hollow ones show."""
        edge = {"width": 1.5, "color": LIGHT[colour]}
        marker = {"symbol": symbol, "size": size, "color": LIGHT[colour], "line": edge}
        self._trace(x, y, {"mode": "markers", "marker": marker} | more)

    def _trace(self, x: Sequence[Any], y: Sequence[Any], look: dict[str, Any]) -> None:
        said = {} if "hovertemplate" in look else {"hoverinfo": "skip"}
        self.data.append({"type": "scatter", "x": list(x), "y": list(y)} | said | look)

    def shade(self, x0: Any, x1: Any, colour: str) -> None:
        """Fill a span of x over the whole height, behind everything."""
        self.shapes.append({"type": "rect", "xref": "x", "x0": x0, "x1": x1, "yref": "paper", "y0": 0, "y1": 1,
                            "fillcolor": LIGHT[colour], "line": {"width": 0}, "layer": "below"})  # fmt: skip

    def rule(self, *, x: Any = None, y: Any = None, colour: str = "ink") -> None:
        """Draw a straight rule at an x or at a y."""
        (along, at), across = (("x", x), "y") if x is not None else (("y", y), "x")
        self.shapes.append({"type": "line", f"{along}ref": along, f"{along}0": at, f"{along}1": at,
                            f"{across}ref": "paper", f"{across}0": 0, f"{across}1": 1,
                            "line": {"color": LIGHT[colour], "width": 1}, "layer": "below"})  # fmt: skip

    def words(self, text: str, *, colour: str = "ink", size: int = 12, **where: Any) -> None:
        """Write words at a place given in plotly's terms."""
        font = {"size": size, "color": LIGHT[colour]}
        self.annotations.append({"text": text, "showarrow": False, "font": font} | where)

    def finish(self, height: int, *, top: int = 8, bottom: int = 30, left: int = 44, right: int = 12) -> dict[str, Any]:
        """Give the figure: `{"data": [...], "layout": {...}}`."""
        look = {"gridcolor": LIGHT["grid"], "zerolinecolor": LIGHT["grid"], "linecolor": LIGHT["muted"],
                "fixedrange": True, "tickfont": {"size": 12}, "tickangle": 0}  # fmt: skip
        quiet = {
            "x": {"showgrid": False, "zeroline": False, "showline": True},
            "y": {"showline": True, "automargin": True},
        }
        axes = {name: look | quiet[name[0]] | own for name, own in self.axes.items()}
        layout = {
            "height": height, "showlegend": False, "dragmode": False, "hovermode": "closest",
            "margin": {"l": left, "r": right, "t": top, "b": bottom}, "font": {"color": LIGHT["ink"], "size": 13},
            "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)",
            "shapes": self.shapes, "annotations": self.annotations,
        }  # fmt: skip
        return {"data": self.data, "layout": layout | axes}


def titled(text: str) -> dict[str, Any]:
    """Give an axis title."""
    return {"text": text, "font": {"size": 12}, "standoff": 6}
