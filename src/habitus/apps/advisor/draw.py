"""A retrieved subgraph as a drawing: the customer, what they traded, what was named, and the edges between."""

from __future__ import annotations

from html import escape

import numpy as np

from habitus.apps.advisor.advise import Answer
from habitus.apps.advisor.market import Market
from habitus.apps.advisor.retrieve import Subgraph

STEP, TOP = 40, 34
COLUMNS = (10, 230, 560)
WIDTHS = (130, 210, 330)
STYLES = {"own": "", "group": " stroke-dasharray='6 4'", "together": " stroke-dasharray='1 4' stroke-linecap=round"}


def draw_subgraph(found: Subgraph, answer: Answer, market: Market) -> str:
    """Give an SVG drawing of up to ten assets on each side. Names are escaped."""
    source = market.source
    first = [int(code) for code in found.retrieved.first[0] if code >= 0]
    named = [int(np.searchsorted(source.isins, each.isin)) for each in answer.assets if each.isin]
    rows = max(len(first), len(named), 1)
    height = TOP + STEP * rows + 8

    def y(place: int, count: int) -> float:
        return TOP + STEP * (place + (rows - count) / 2) + STEP / 2

    together = {(t.subject.value, t.object.value) for t in found.market if t.predicate.value.endswith(":boughtWith")}  # type: ignore[union-attr]
    marks = [_edge(COLUMNS[0] + WIDTHS[0], y(0, 1), COLUMNS[1], y(at, len(first)), "own") for at in range(len(first))]
    for one, code in enumerate(first):
        for other, goal in enumerate(named):
            kind = _relation(market, together, code, goal)
            if kind:
                ends = (COLUMNS[1] + WIDTHS[1], y(one, len(first)), COLUMNS[2], y(other, len(named)))
                marks.append(_edge(*ends, kind))
    marks.append(_box(0, y(0, 1), answer.customer, f"{found.counts['transactions']} trades"))
    share = found.retrieved.own[0]
    for at, code in enumerate(first):
        group = source.assets["sector"][code] or source.assets["sub_category"][code]
        marks.append(_box(1, y(at, len(first)), str(source.isins[code]), f"s1 {share[code]:.2f} {group}"))
    for at, (code, each) in enumerate(zip(named, [a for a in answer.assets if a.isin], strict=True)):
        group = source.assets["sector"][code] or source.assets["sub_category"][code]
        kind = source.assets["category"][code]
        chance = "" if each.p_buy is None else f", P(buy) {each.p_buy:.3f}, P(rise) {each.p_rise:.2f}"
        marks.append(_box(2, y(at, len(named)), f"{at + 1}. {source.isins[code]}", f"{kind} {group}".rstrip() + chance))
    heads = ("Customer", "Traded (stage 1)", "Named, best first")
    marks += [f"<text class=low x={x} y=16>{head}</text>" for x, head in zip(COLUMNS, heads, strict=True)]
    said = f"{answer.customer}, {len(first)} traded assets, {len(named)} named assets"
    return f"<svg viewBox='0 0 900 {height:.0f}' role=img aria-label='{escape(said)}'>{''.join(marks)}</svg>"


def _relation(market: Market, together: set[tuple[str, str]], one: int, other: int) -> str:
    isins = market.source.isins
    if one == other:
        return "own"
    names = f"urn:isin:{isins[one]}", f"urn:isin:{isins[other]}"
    if names in together or names[::-1] in together:
        return "together"
    return "group" if market.same_group[one, other] else ""


def _edge(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    middle, colour = (x1 + x2) / 2, "var(--top)" if kind == "own" else "var(--model)"
    opacity = 0.9 if kind == "own" else 0.55
    return (
        f"<path d='M{x1:.0f} {y1:.0f}C{middle:.0f} {y1:.0f} {middle:.0f} {y2:.0f} {x2:.0f} {y2:.0f}' fill=none "
        f"stroke='{colour}' stroke-width=1.4 opacity={opacity}{STYLES[kind]} />"
    )


def _box(column: int, middle: float, title: str, below: str) -> str:
    x, width = COLUMNS[column], WIDTHS[column]
    return (
        f"<rect x={x} y={middle - 17:.0f} width={width} height=34 rx=5 fill='var(--fill)' stroke='var(--line)' />"
        f"<text x={x + 8} y={middle - 2:.0f}>{escape(title)}</text>"
        f"<text class=low x={x + 8} y={middle + 12:.0f} style='font-size:11px'>{escape(below)}</text>"
    )
