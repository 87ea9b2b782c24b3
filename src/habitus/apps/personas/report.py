"""One page on a study of personas: who wins, how sure that is, per action, per persona, and what is taken for what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from habitus.apps.page import framed, read_figures, write_page
from habitus.apps.personas.evaluate import BAYES, HYBRID, verdict

SHOWN = (HYBRID, "pooled LightGBM", "lookup only", "TF-IDF + LR", BAYES)  # columns that fit beside each other


def write_report(run: str | Path, out: str | Path | None = None) -> Path:
    """Write RUN/report.html (or `out`) from RUN/metrics.json: no network, no other file, no text of anybody.

    Errors: `ArtifactError` when `habitus personas evaluate` has not been there.
    """
    run = Path(run)
    return write_page(page(read_figures(run, "personas evaluate")), run, out)


def page(metrics: Mapping[str, Any]) -> str:
    """Give the page as text."""
    read = metrics["read"]
    parts = [
        f"<h1>Which action? {escape(metrics['name'])}</h1>",
        f"<p class=soft>{metrics['n_rows']:,} {escape(metrics['part'])} rows, {escape(metrics['split'])} split, "
        f"{len(metrics['labels'])} actions; common: {escape(', '.join(metrics['common']))}. "
        f"{read['n_read']:,} lines read, {read['n_rejected']:,} rejected{_reasons(read['reasons'])}.</p>",
        f"<p><strong>{escape(verdict(metrics))}</strong></p>",
        "<h2>Macro-F1, with 95 % intervals over posts or users</h2>",
        _bars(metrics["cards"]),
        "<h2>All figures</h2>",
        _figures(metrics["cards"]),
        "<p class=soft>Macro-F1 is the mean of F1 over the actions that occur. Personas: its plain mean over "
        "personas. Common and rare only: rows of that group, the answer restricted to it, so errors of the gate "
        "are hidden. Each model has its own decision rule, fitted on validation rows; argmax: without.</p>",
        _differences(metrics["differences"]),
        "<h2>Per action</h2>",
        _actions(metrics["actions"]),
        "<h2>What is taken for what</h2>",
        _confusion(metrics["confusion"], metrics["labels"]),
        "<h2>Per persona</h2>",
        _scatter(metrics["personas"]),
        _personas(metrics["personas"]),
        "<h2>Answers from the store alone</h2>",
        _lookup(metrics["lookup"]),
        "<h2>For whom</h2>",
        _slices(metrics["slices"]),
        "<h2>Are the chances true?</h2>",
        _reliability(metrics["reliability"]),
        _replies(metrics.get("replies") or {}),
    ]
    return framed(metrics["name"], parts)


def _reasons(reasons: Mapping[str, int]) -> str:
    return f" ({escape(', '.join(f'{n:,} {reason}' for reason, n in reasons.items()))})" if reasons else ""


def _bars(cards: Sequence[Mapping[str, Any]]) -> str:
    """One line per model: its interval and its figure, from 0."""
    rows = sorted(cards, key=lambda c: c["macro_f1"])
    high = max(c["high"] for c in rows) * 1.04
    left, width, step = 240, 450, 28
    height = step * len(rows) + 30

    def x(value: float) -> float:
        return left + value / high * width

    marks = []
    for place, c in enumerate(rows):
        y = 18 + place * step
        colour = "var(--top)" if c["model"] == BAYES else "var(--model)"
        weight = " font-weight=700" if c["model"] == HYBRID else ""
        marks.append(
            f"<text x=0 y={y + 4}{weight}>{escape(c['model'])}</text>"
            f"<line x1={left} x2={x(c['macro_f1']):.1f} y1={y} y2={y} stroke={colour} stroke-width=1 opacity=.4 />"
            f"<line x1={x(c['low']):.1f} x2={x(c['high']):.1f} y1={y} y2={y} stroke={colour} stroke-width=4 />"
            f"<circle cx={x(c['macro_f1']):.1f} cy={y} r=5 fill={colour} />"
            f"<text x={left + width + 12} y={y + 4}{weight}>{c['macro_f1']:.4f}</text>"
        )
    ends = f"<text class=low x={left} y={height - 4}>0</text>"
    ends += f"<text class=low x={left + width} y={height - 4} text-anchor=end>{high:.2f}</text>"
    said = "; ".join(f"{c['model']} {c['macro_f1']:.4f}" for c in rows)
    return _drawing(780, height, said, "".join(marks) + ends)


def _figures(cards: Sequence[Mapping[str, Any]]) -> str:
    head = ("Model", "Macro-F1", "argmax", "Personas", "weighted", "Common only", "its persona mean", "Rare only",
            "its persona mean", "Accuracy", "Log loss", "ECE")  # fmt: skip
    keys = ("macro_f1", "argmax", "persona_mean", "persona_weighted", "common_only", "common_only_persona_mean",
            "rare_only", "rare_only_persona_mean", "accuracy", "log_loss", "ece")  # fmt: skip
    return _table(head, [(c["model"], *(_number(c[key]) for key in keys)) for c in cards])


def _differences(rows: Sequence[Mapping[str, Any]]) -> str:
    cells = [
        (row["against"], f"{row['value']:+.4f}", f"[{row['low']:+.4f}, {row['high']:+.4f}]",
         "better" if row["low"] > 0 else "worse" if row["high"] < 0 else "level")
        for row in rows
    ]  # fmt: skip
    title = "<h2>The hybrid against each, paired over posts or users</h2>"
    return title + _table(("Against", "Gain of macro-F1", "95 % interval", "Reading"), cells)


def _actions(rows: Sequence[Mapping[str, Any]]) -> str:
    names = [name for name in SHOWN if name in rows[0]["f1"]]
    head = ("Action", "Rows", "Told", "Precision", "Recall", *(f"F1 {name}" for name in names))
    cells = [
        (r["action"], f"{r['n']:,}", f"{r['told']:,}", _number(r["precision"], 3), _number(r["recall"], 3),
         *(_number(r["f1"][name], 3) for name in names))
        for r in rows
    ]  # fmt: skip
    return _table(head, cells)


def _confusion(counts: Sequence[Sequence[int]], labels: Sequence[str]) -> str:
    """A square of shares per true action; every cell also says its share."""
    n, side, left, top = len(labels), 46, 96, 86
    marks = []
    for i, row in enumerate(counts):
        total = sum(row) or 1
        marks.append(f"<text x={left - 8} y={top + i * side + 27} text-anchor=end>{escape(labels[i])}</text>")
        middle = left + i * side + 22
        marks.append(f"<text transform='translate({middle + 4},{top - 8}) rotate(-50)'>{escape(labels[i])}</text>")
        for j, value in enumerate(row):
            share = value / total
            word = f"{100 * share:.0f}" if share >= 0.005 else ""
            marks.append(
                f"<rect x={left + j * side} y={top + i * side} width={side - 2} height={side - 2} "
                f"style='fill:rgba(var(--heat),{0.04 + 0.8 * share:.3f})'/>"
                f"<text x={left + j * side + 22} y={top + i * side + 27} text-anchor=middle>{word}</text>"
            )
    width, height = left + n * side + 60, top + n * side + 8
    note = "<p class=soft>Rows: what happened. Columns: what the hybrid told. Per cent of a row; empty: below 0.5.</p>"
    return _drawing(width, height, "Confusion of actions, per cent of each true action", "".join(marks)) + note


def _scatter(rows: Sequence[Mapping[str, Any]]) -> str:
    """Macro-F1 of each persona over its training rows, hybrid beside the ceiling where there is one."""
    from math import log10

    if len(rows) < 2:
        return ""
    x_all = [log10(max(r["n_train"], 1)) for r in rows]
    low, high = min(x_all) - 0.05, max(x_all) + 0.05
    top = max(max(v for v in r["macro_f1"].values() if v is not None) for r in rows) * 1.08
    left, width, height = 48, 700, 280

    def at(r: Mapping[str, Any], name: str) -> tuple[float, float]:
        x = left + (log10(max(r["n_train"], 1)) - low) / (high - low) * width
        return x, 10 + (1 - r["macro_f1"][name] / top) * (height - 40)

    marks = [f"<line x1={left} x2={left} y1=10 y2={height - 30} stroke='var(--line)'/>"
             f"<line x1={left} x2={left + width} y1={height - 30} y2={height - 30} stroke='var(--line)'/>"]  # fmt: skip
    for r in rows:
        x, y = at(r, HYBRID)
        if BAYES in r["macro_f1"]:
            _, best = at(r, BAYES)
            marks.append(f"<line x1={x:.1f} x2={x:.1f} y1={y:.1f} y2={best:.1f} stroke='var(--line)'/>")
            marks.append(f"<circle cx={x:.1f} cy={best:.1f} r=4 fill=none stroke='var(--top)' stroke-width=2 />")
        marks.append(
            f"<circle cx={x:.1f} cy={y:.1f} r=5 fill='var(--model)'><title>persona {r['persona']}</title></circle>"
        )
    for value in (0.2, 0.4, 0.6, 0.8):
        if value < top:
            y = 10 + (1 - value / top) * (height - 40)
            marks.append(f"<text class=low x={left - 8} y={y + 4:.1f} text-anchor=end>{value}</text>")
    first, last = (f"{10**edge:,.0f}" for edge in (low + 0.05, high - 0.05))
    marks.append(f"<text class=low x={left} y={height - 10}>{first} training rows</text>")
    marks.append(f"<text class=low x={left + width} y={height - 10} text-anchor=end>{last}</text>")
    note = "<p class=soft>Filled: the hybrid's macro-F1 of a persona. Hollow: the best there is, where it is known.</p>"
    said = "Macro-F1 of each persona over its training rows; the table below holds the figures"
    return _drawing(780, height, said, "".join(marks)) + note


def _personas(rows: Sequence[Mapping[str, Any]]) -> str:
    names = [name for name in SHOWN if name in rows[0]["macro_f1"]]
    cells = [
        (str(r["persona"]), f"{r['n_train']:,}", f"{r['n']:,}", str(r["n_actions"]),
         *(_number(r["macro_f1"][name], 3) for name in names))
        for r in rows
    ]  # fmt: skip
    return _table(("Persona", "Training rows", "Rows", "Actions", *names), cells)


def _lookup(rows: Sequence[Mapping[str, Any]]) -> str:
    cells = [
        (r["level"], f"{r['tau']:.1f}", f"{100 * r['coverage']:.1f} %", _number(r["precision"], 3)) for r in rows
    ]  # fmt: skip
    note = "<p class=soft>Seen three times or more on the post; the most frequent answer has at least this share.</p>"
    return _table(("Who answered before", "Share", "Coverage", "Precision"), cells) + note


def _slices(rows: Sequence[Mapping[str, Any]]) -> str:
    names = [key for key in rows[0] if key not in ("slice", "n")]
    return _table(
        ("Rows", "Number", *names), [(r["slice"], f"{r['n']:,}", *(_number(r[m]) for m in names)) for r in rows]
    )


def _reliability(table: Mapping[str, Sequence[float]]) -> str:
    names = list(table)
    cells = [tuple(f"{value:,.3f}" if value < 2 else f"{value:,.0f}" for value in row) for row in zip(*table.values())]
    return "<p>Chance stated for the likeliest action, and how often it came.</p>" + _table(names, cells)


def _replies(found: Mapping[str, float]) -> str:
    if not found.get("n"):
        return ""
    return (
        "<h2>Texts</h2><p>Replies found, beside the real ones: mean cosine "
        f"{found['cosine']:.3f}, with the found ones shuffled {found['shuffled']:.3f} (vectors of the run, "
        f"{found['n']:,.0f} replies; {100 * found['copies']:.1f} % are word for word the real one).</p>"
    )


def _drawing(width: int, height: int, said: str, marks: str) -> str:
    return (
        f"<div class=wide tabindex=0><svg viewBox='0 0 {width} {height}' style='max-width:{width}px' role=img "
        f"aria-label='{escape(said)}'>{marks}</svg></div>"
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th scope=col>{escape(name)}</th>" for name in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<div class=wide tabindex=0><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"


def _number(value: float | None, digits: int = 4) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
