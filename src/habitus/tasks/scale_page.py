"""The page of a ladder: loss against events per size with the law's bands, and the best size for a compute."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from habitus.metrics.scaling import NAMES, Law

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#5d6670")
TITLES = {"loss": "Cross-entropy on validation (nats)", "missed_recall": "1 - macro recall on validation"}
_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>body{{font:16px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#1b1f24}}
table{{border-collapse:collapse}}td,th{{padding:.2rem .8rem;text-align:right;border-bottom:1px solid #e4e6e8}}</style>
<script>{plotly}</script><h1>{title}</h1>{body}</html>"""


def scale_page(name: str, found: Mapping[str, Any]) -> str:
    """Give a page that needs no other file. A law that is not identified is said to be none, and not drawn."""
    import plotly.offline

    parts, rungs = [], found["rungs"]
    for number, (key, told) in enumerate(found["laws"].items()):
        law = Law(**told["values"]) if not told["verdict"] else None
        draws = [Law(**dict(zip(NAMES, row))) for row in told.get("draws", [])]
        parts += [f"<h2>{TITLES[key]}</h2>", f"<p>{html.escape(_words(told, found['held_out'].get(key)))}</p>"]
        parts.append(_plot(f"plot-{number}", _curves(rungs, key, law, draws), "training events", TITLES[key], "log"))
        if law is not None and law.a + law.b > 0:
            title = "weights (embeddings not counted)"
            parts.append(_plot(f"best-{number}", _best(rungs, law, draws), "compute, 6 N D operations", title, "log"))
    facts = f"{len(rungs)} runs; {found['hardware']}; commit {found['commit']}; {found['created'][:10]}."
    parts.append(f"<p>{html.escape(facts)}</p>{_table(rungs)}")
    return _PAGE.format(title=html.escape(name), plotly=plotly.offline.get_plotlyjs(), body="".join(parts))


def _words(told: Mapping[str, Any], held_out: Mapping[str, Any] | None) -> str:
    if told["verdict"]:
        return f"No law is drawn: {told['verdict']}."
    shown = ((k, told["values"][k], *told["intervals"][k]) for k in NAMES)
    parts = [f"{name} = {value:.3g} ({low:.3g} to {high:.3g})" for name, value, low, high in shown]
    text = f"L = E + A N^-a + B D^-b with {', '.join(parts)}; 95 % intervals over resampled runs."
    if held_out:
        text += f" The {held_out['n_runs']} largest runs, left out, were foretold {held_out['mean_error']:+.1%} off."
    return text


def _curves(rungs: Sequence[dict[str, Any]], key: str, law: Law | None, draws: list[Law]) -> list[dict[str, Any]]:
    """Points per size, and where there is a law its line and band."""
    data: list[dict[str, Any]] = []
    events = np.array([rung["n_events"] for rung in rungs], np.float64)
    grid = np.geomspace(events.min(), events.max(), 40)
    for number, n in enumerate(sorted({rung["n_weights"] for rung in rungs})):
        colour, label = COLOURS[number % len(COLOURS)], f"{n:,} weights"
        mine = [rung for rung in rungs if rung["n_weights"] == n]
        data.append(_trace([r["n_events"] for r in mine], [r[key] for r in mine], "markers", colour, label))
        if law is None:
            continue
        values = np.stack([draw.loss(np.array(n), grid) for draw in draws])
        low, high = np.quantile(values, [0.025, 0.975], axis=0)
        data.append(_trace(grid, law.loss(np.array(n), grid), "lines", colour, label, showlegend=False))
        data.append(_band(grid, low, high, colour))
    return data


def _best(rungs: Sequence[dict[str, Any]], law: Law, draws: list[Law]) -> list[dict[str, Any]]:
    """The size of least loss for a compute, with its band, and where the runs lie."""
    compute = np.array([6.0 * rung["n_weights"] * rung["n_events"] for rung in rungs])
    grid = np.geomspace(compute.min(), compute.max(), 40)
    usable = [draw for draw in draws if draw.a > 0 and draw.b > 0]
    values = np.stack([draw.best_size(grid)[0] for draw in usable])
    low, high = np.quantile(values, [0.025, 0.975], axis=0)
    return [
        _trace(compute, [rung["n_weights"] for rung in rungs], "markers", COLOURS[-1], "runs"),
        _trace(grid, law.best_size(grid)[0], "lines", COLOURS[0], "least loss"),
        _band(grid, low, high, COLOURS[0]),
    ]


def _trace(x: Any, y: Any, mode: str, colour: str, name: str, **more: Any) -> dict[str, Any]:
    look = {"line": {"color": colour}} if mode == "lines" else {"marker": {"color": colour}}
    return {"type": "scatter", "x": _plain(x), "y": _plain(y), "mode": mode, "name": name} | look | more


def _band(x: np.ndarray, low: np.ndarray, high: np.ndarray, colour: str) -> dict[str, Any]:
    around = {"fill": "toself", "fillcolor": colour, "opacity": 0.15, "line": {"width": 0}, "hoverinfo": "skip"}
    edge = {"x": _plain(np.r_[x, x[::-1]]), "y": _plain(np.r_[high, low[::-1]]), "mode": "lines", "showlegend": False}
    return {"type": "scatter"} | edge | around


def _plain(values: Any) -> list[float]:
    return [float(value) for value in values]


def _plot(name: str, data: list[dict[str, Any]], x: str, y: str, kind: str) -> str:
    axes = {"xaxis": {"type": kind, "title": {"text": x}}, "yaxis": {"type": kind, "title": {"text": y}}}
    layout = json.dumps(axes | {"height": 460, "margin": {"t": 10}, "legend": {"orientation": "h", "y": -0.2}})
    return f'<div id="{name}"></div><script>Plotly.newPlot("{name}",{json.dumps(data)},{layout})</script>'


def _table(rungs: Sequence[dict[str, Any]]) -> str:
    names = ("n_weights", "n_events", "seed", "n_steps", "loss", "missed_recall")
    head = "".join(f"<th>{name}</th>" for name in names)
    cells = ["".join(f"<td>{_number(rung[name])}</td>" for name in names) for rung in rungs]
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>"


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
