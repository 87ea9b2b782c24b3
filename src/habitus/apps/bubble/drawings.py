"""Drawings of the page: plain SVG made of the same numbers as its tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

Row = Mapping[str, Any]
COLOUR = {"static": "var(--model)", "sequential": "var(--top)", "ruler": "var(--third)"}


def scatter(rows: Sequence[Row]) -> str:
    """NDCG@20 across, gap up, an interval both ways; the main ones by name."""
    some = [row for row in rows if row["role"] in ("main", "strength", "ruler")]
    x_all = [row["ndcg@20 before"]["value"] or 0.0 for row in some]
    y_all = [
        v for row in some for v in (row["gap"]["value"], row["gap"].get("low"), row["gap"].get("high")) if v is not None
    ]
    left, top, width, height = 64, 16, 640, 330
    x_low, x_high = min([*x_all, 0.0]), max([*x_all, 0.01]) * 1.12
    y_low, y_high = _padded(_trimmed([*y_all, 0.0], [row["gap"]["value"] for row in some]))

    def x(value: float) -> float:
        return left + (value - x_low) / (x_high - x_low) * width

    def y(value: float) -> float:
        return top + (y_high - min(max(value, y_low), y_high)) / (y_high - y_low) * height

    marks = [
        f"<line x1={left} x2={left + width} y1={y(0):.1f} y2={y(0):.1f} stroke='var(--soft)' stroke-dasharray='3 3'/>",
        *(_tick_y(left, y(v), f"{v:+.3f}") for v in _ticks(y_low, y_high)),
        *(f"<text class=low x={x(v):.1f} y={top + height + 18} text-anchor=middle>{v:.2f}</text>"
          for v in _ticks(x_low, x_high)),
        f"<text class=low x={left + width} y={top + height + 36} text-anchor=end>NDCG@20 on later likes</text>",
    ]  # fmt: skip
    taken: list[tuple[float, float, float]] = [(x(r["ndcg@20 before"]["value"] or 0) - 5, y(r["gap"]["value"]) + 4, 10)
                                               for r in some]  # fmt: skip
    for row in sorted(some, key=lambda r: r["role"] != "strength"):
        marks.append(_point(row, x, y, taken))
    said = "; ".join(f"{r['label']} {r['ndcg@20 before']['value']:.3f}, {r['gap']['value']:+.4f}" for r in some)
    key = [
        ("static", "reads the set of likes"),
        ("sequential", "reads their order"),
        ("ruler", "mirror"),
        ("", "no model"),
    ]
    legend = "".join(
        f'<circle cx={left + 8 + 165 * i} cy={top + height + 52} r=5 fill="{COLOUR.get(family, "var(--soft)")}"/>'
        f"<text class=low x={left + 18 + 165 * i} y={top + height + 56}>{word}</text>"
        for i, (family, word) in enumerate(key)
    )
    return _svg(780, top + height + 66, said, "".join(marks) + legend)


def _point(row: Row, x: Any, y: Any, taken: list[tuple[float, float, float]]) -> str:
    """One mark with its bars, and its name where it is a main one, in a place that is free."""
    ndcg, gap = row["ndcg@20 before"], row["gap"]
    at_x, at_y = x(ndcg["value"] or 0.0), y(gap["value"])
    colour = COLOUR.get(row["family"], "var(--soft)")
    if row["role"] == "strength":
        return f'<circle cx={at_x:.1f} cy={at_y:.1f} r=4 fill=none stroke="{colour}" stroke-width=1.5 />'
    bars = ""
    if gap.get("low") is not None:
        bars += _bar(at_x, at_x, y(gap["low"]), y(gap["high"]), colour)
    if ndcg.get("sd"):
        bars += _bar(x(ndcg["value"] - 2 * ndcg["sd"]), x(ndcg["value"] + 2 * ndcg["sd"]), at_y, at_y, colour)
    left, word_y = _free(at_x, at_y, 7.5 * len(row["label"]), taken)
    name = f'<text x={left:.1f} y={word_y:.1f} style="fill:{colour}">{escape(row["label"])}</text>'
    return f'{bars}<circle cx={at_x:.1f} cy={at_y:.1f} r=5 fill="{colour}"/>{name}'


def _free(x: float, y: float, width: float, taken: list[tuple[float, float, float]]) -> tuple[float, float]:
    """Find the nearest place beside a mark where a name of this width meets no other; notes it in `taken`."""
    places = [(left, y + step) for step in (-8, 18, -22, 32, -36, 46) for left in (x + 8, x - 8 - width)]

    def is_free(left: float, at: float) -> bool:
        return not any(abs(at - b) < 13 and left < a + w and a < left + width for a, b, w in taken)

    found = next((place for place in places if place[0] > 66 and is_free(*place)), places[0])
    taken.append((*found, width))
    return found


def rounds_drawing(row: Row, low: float, high: float) -> str:
    """Entropy of the list of each arm, round by round; one scale for all recommenders of a page."""
    low, high = _padded((low, high))
    left, top, width, height = 46, 8, 200, 96
    n = len(row["rounds"]["positive"])

    def path(values: Sequence[float]) -> str:
        return " ".join(
            f"{left + i / max(n - 1, 1) * width:.1f},{top + (high - v) / (high - low) * height:.1f}"
            for i, v in enumerate(values)
        )

    lines = "".join(
        f"<polyline points='{path(row['rounds'][arm])}' fill=none stroke='{colour}' stroke-width=2.5 {dash}/>"
        for arm, colour, dash in (
            ("negative", "var(--top)", "stroke-dasharray='6 3'"), ("positive", "var(--model)", ""))
    )  # fmt: skip
    ticks = "".join(_tick_y(left, top + (high - v) / (high - low) * height, f"{v:.2f}", width) for v in (low, high))
    numbers = "".join(
        f"<text class=low x={left + i / max(n - 1, 1) * width:.1f} y={top + height + 16} "
        f"text-anchor=middle>{i + 1}</text>"
        for i in range(n)
        if n <= 8 or not i % 5
    )
    both = zip(row["rounds"]["positive"], row["rounds"]["negative"])
    said = "; ".join(f"round {i + 1}: {a:.3f} and {b:.3f}" for i, (a, b) in enumerate(both))
    return _svg(256, 126, said, ticks + lines + numbers)


def shares_drawing(row: Row) -> str:
    """Shares of the largest categories in the last round, both arms."""
    rounds = row["rounds"]
    names = rounds["categories"][:8]
    one, two = rounds["positive_shares"][-1], rounds["negative_shares"][-1]
    most, left, width, step = max([*one[:8], *two[:8], 1e-9]), 110, 130, 21
    marks = []
    for place, name in enumerate(names):
        y = 6 + place * step
        short = name if len(name) <= 15 else name[:14] + "…"
        marks.append(
            f"<text class=low x={left - 6} y={y + 11} text-anchor=end>{escape(short)}</text>"
            f"<rect x={left} y={y} width={one[place] / most * width:.1f} height=7 fill='var(--model)'/>"
            f"<rect x={left} y={y + 8} width={two[place] / most * width:.1f} height=7 fill='var(--top)'/>"
        )
    said = "; ".join(f"{name} {a:.3f} and {b:.3f}" for name, a, b in zip(names, one, two))
    return (
        f"<svg viewBox='0 0 256 {12 + step * len(names)}' role=img aria-label='{escape(said)}'>{''.join(marks)}</svg>"
    )


def sweep_drawing(rows: Sequence[Row]) -> str:
    """Gap over the share of slots given to chance, one line per recommender."""
    main = {row["name"]: row for row in rows if row["role"] == "main"}
    lines: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if row["role"] == "eps":
            lines.setdefault(row["name"], [(0.0, main[row["name"]]["gap"]["value"])]).append(
                (row["eps"], row["gap"]["value"])
            )
    left, top, width, height = 64, 12, 560, 220
    low, high = _padded((min([0.0, *(v for each in lines.values() for _, v in each)]),
                         max([0.0, *(v for each in lines.values() for _, v in each)])))  # fmt: skip

    def y(value: float) -> float:
        return top + (high - value) / (high - low) * height

    colours = ("var(--model)", "var(--top)", "var(--third)", "var(--soft)", "var(--ink)")
    marks = [
        f"<line x1={left} x2={left + width} y1={y(0):.1f} y2={y(0):.1f} stroke='var(--soft)' stroke-dasharray='3 3'/>"
    ]
    marks += [_tick_y(left, y(v), f"{v:+.3f}") for v in _ticks(low, high)]
    marks += [f"<text class=low x={left + v * width:.1f} y={top + height + 18} text-anchor=middle>{v:g}</text>"
              for v in (0, 0.2, 0.4, 0.6, 0.8, 1)]  # fmt: skip
    for place, (name, points) in enumerate(lines.items()):
        colour, path = colours[place % 5], " ".join(f"{left + x * width:.1f},{y(v):.1f}" for x, v in sorted(points))
        dash = "" if place < 5 else " stroke-dasharray='6 3'"
        marks.append(f"<polyline points='{path}' fill=none stroke='{colour}' stroke-width=2{dash} />")
        marks.append(
            f"<line x1={left + width + 16} x2={left + width + 34} y1={20 + 20 * place} y2={20 + 20 * place} "
            f"stroke='{colour}' stroke-width=2{dash} />"
            f"<text x={left + width + 40} y={24 + 20 * place}>{escape(name)}</text>"
        )
    said = "; ".join(f"{name}: " + ", ".join(f"{x:g} {v:+.4f}" for x, v in sorted(p)) for name, p in lines.items())
    return _svg(780, top + height + 26, said, "".join(marks))


def _svg(width: int, height: int, said: str, inside: str) -> str:
    return f"<svg viewBox='0 0 {width} {height}' role=img aria-label='{escape(said)}'>{inside}</svg>"


def _bar(x1: float, x2: float, y1: float, y2: float, colour: str) -> str:
    return f'<line x1={x1:.1f} x2={x2:.1f} y1={y1:.1f} y2={y2:.1f} stroke="{colour}" stroke-width=2 />'


def _tick_y(left: float, y: float, word: str, width: float = 0) -> str:
    line = f"<line x1={left} x2={left + width} y1={y:.1f} y2={y:.1f} stroke='var(--line)'/>" if width else ""
    return f"{line}<text class=low x={left - 8} y={y + 4:.1f} text-anchor=end>{word}</text>"


def _trimmed(every: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
    """Ends of an axis: all values, and bars up to as far again."""
    low, high = min([*values, 0.0]), max([*values, 0.0])
    reach = max(high - low, 1e-3)
    return max(min(every), low - 0.6 * reach), min(max(every), high + 0.6 * reach)


def _padded(ends: tuple[float, float]) -> tuple[float, float]:
    low, high = ends
    spare = max((high - low) * 0.08, 1e-3)
    return low - spare, high + spare


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers between two ends."""
    import math

    step = 10 ** math.floor(math.log10(max(high - low, 1e-9) / 4))
    step = next(step * m for m in (1, 2, 5, 10) if (high - low) / (step * m) <= 6)
    return [n * step for n in range(math.ceil(low / step), math.floor(high / step) + 1)]
