"""One page on a study of clicks: who wins, how sure that is, how far the ceiling is, and for whom it holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from habitus.apps.page import framed, read_figures, write_page


def summary(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Give one row per model: means over its seeds, with the spread of the AUC over seeds."""
    rows: dict[str, list[Mapping[str, Any]]] = {}
    for card in metrics["cards"]:
        rows.setdefault(card["model"], []).append(card)
    found = []
    for name, cards in rows.items():
        names = (
            "auc",
            "auc_low",
            "auc_high",
            "gauc",
            "gauc_share",
            "log_loss",
            "normalised_entropy",
            "ece",
            "p_over_y",
        )
        names = (*names, "top_1", "top_5", "top_10", "n_parameters", "examples_per_second", "seconds", "expected_auc")
        means = {key: _mean(cards, key) for key in names}
        sd = float(np.std([card["auc"] for card in cards], ddof=1)) if len(cards) > 1 else None
        found.append({"model": name, "features": cards[0]["features"], "n_seeds": len(cards), "auc_sd": sd} | means)
    return found


def verdict(metrics: Mapping[str, Any]) -> str:
    """Say in one or two plain sentences who wins against the model compared with.

    >>> verdict({"against": "LR", "differences": []})
    'Nothing was compared with LR.'
    """
    against, rows = metrics["against"], metrics["differences"]
    if not rows:
        return f"Nothing was compared with {against}."
    groups = {word: [row["model"] for row in rows if row["verdict"] == word] for word in ("better", "level", "worse")}
    parts = [f"{_listed(names)} {word}" for word, names in groups.items() if names]
    best = max(rows, key=lambda row: row["auc"]["value"])
    gain = best["auc"]
    text = f"Against {against}: {'; '.join(parts)}."
    if gain["value"] > 0:
        text += (
            f" The largest difference is {best['model']}, {gain['value']:+.4f} AUC "
            f"[{gain['low']:+.4f}, {gain['high']:+.4f}], {100 * best['relative_auc']:+.2f} % relative."
        )
    leaks = [row["model"] for row in metrics.get("ladder", []) if row["is_leak"]]
    return text + (f" Above the ceiling of what they may know, so leaking: {_listed(leaks)}." if leaks else "")


def lines(metrics: Mapping[str, Any]) -> str:
    """Give the table as text for a terminal."""
    head = f"{'model':<22}{'AUC':>8}{'95 % interval':>18}{'gAUC':>8}{'log loss':>10}{'ECE':>8}{'p/y':>7}"
    rows = [
        f"{row['model']:<22}{row['auc']:>8.4f}{row['auc_low']:>10.4f}{row['auc_high']:>8.4f}{_number(row['gauc']):>8}"
        f"{row['log_loss']:>10.5f}{row['ece']:>8.4f}{row['p_over_y']:>7.3f}"
        for row in summary(metrics)
    ]
    return "\n".join([head, *rows, verdict(metrics)])


def write_report(run: str | Path, out: str | Path | None = None) -> Path:
    """Write RUN/report.html (or `out`) from RUN/metrics.json: no network, no other file.

    Errors: `ArtifactError` when `habitus ctr evaluate` has not been there.
    """
    run = Path(run)
    return write_page(page(read_figures(run, "ctr evaluate")), run, out)


def page(metrics: Mapping[str, Any]) -> str:
    """Give the page as text."""
    rows, first = summary(metrics), metrics["cards"][0]
    n_seeds = max(row["n_seeds"] for row in rows)
    parts = [
        f"<h1>Will this user respond? {escape(metrics['name'])}</h1>",
        f"<p class=soft>{first['n_rows']:,} impressions of the {escape(metrics['part'])} days, {first['n_clicks']:,} "
        f"responses, {n_seeds} seed{'s' if n_seeds > 1 else ''}.</p>",
        f"<p><strong>{escape(verdict(metrics))}</strong></p>",
        "<h2>AUC, with 95 % intervals over users</h2>",
        _bars(rows, metrics.get("ceilings") or {}),
        "<h2>All figures</h2>",
        _figures(rows),
        "<p class=soft>Means over seeds. gAUC: inside users with both labels, weighted by impressions; the share of "
        "impressions behind it stands beside. ECE: 15 bins of equal mass. Top 5 %: share of all responses among the "
        "5 % of impressions with the highest p.</p>",
        _differences(metrics),
        _ladder(metrics.get("ladder") or []),
        _segments(metrics),
    ]
    return framed(metrics["name"], parts)


def _bars(rows: Sequence[Mapping[str, Any]], ceilings: Mapping[str, float]) -> str:
    """Draw one line per model: its interval, its AUC, and the ceilings as upright lines."""
    values = [row[key] for row in rows for key in ("auc_low", "auc_high")] + list(ceilings.values())
    low, high = min(values) - 0.004, max(values) + 0.004
    left, width, step = 150, 560, 30
    height = step * len(rows) + 44

    def x(value: float) -> float:
        return left + (value - low) / (high - low) * width

    marks = [
        f"<line x1={x(v):.1f} x2={x(v):.1f} y1=20 y2={height - 24} stroke='var(--top)' stroke-dasharray='3 3'/>"
        f"<text class=low x={x(v):.1f} y={14} text-anchor=middle>{escape(name)}</text>"
        for name, v in ceilings.items()
    ]
    for place, row in enumerate(rows):
        y = 36 + place * step
        marks.append(
            f"<text x=0 y={y + 4}>{escape(row['model'])}</text>"
            f"<line x1={x(row['auc_low']):.1f} x2={x(row['auc_high']):.1f} y1={y} y2={y} stroke='var(--model)' "
            f"stroke-width=3 /><circle cx={x(row['auc']):.1f} cy={y} r=5 fill='var(--model)'/>"
            f"<text x={left + width + 12} y={y + 4}>{row['auc']:.4f}</text>"
        )
    ends = f"<text class=low x={left} y={height - 4}>{low:.3f}</text>"
    ends += f"<text class=low x={left + width} y={height - 4} text-anchor=end>{high:.3f}</text>"
    said = "; ".join(f"{row['model']} {row['auc']:.4f}" for row in rows)
    drawing = f"<svg viewBox='0 0 780 {height}' role=img aria-label='AUC: {escape(said)}'>{''.join(marks)}{ends}</svg>"
    return f"<div class=wide tabindex=0>{drawing}</div>" + (
        "<p class=soft>Dashed: the best AUC for what is known up to s1 (profile, ad, hour), s2 (crosses), s3 (mix of "
        "actions), s4 (matches with the ad), s5 (when, how often).</p>"
        if ceilings
        else ""
    )


def _figures(rows: Sequence[Mapping[str, Any]]) -> str:
    head = ("Model", "Features", "AUC", "s.d. of seeds", "gAUC", "its share", "Log loss", "Norm. entropy", "ECE")
    head = (*head, "p / y", "Top 5 %", "Parameters", "Rows/s")
    cells = [
        (row["model"], row["features"], _number(row["auc"]), _number(row["auc_sd"]), _number(row["gauc"]),
         _number(row["gauc_share"], 2), _number(row["log_loss"], 5), _number(row["normalised_entropy"]),
         _number(row["ece"]), _number(row["p_over_y"], 3), _number(row["top_5"], 3), f"{row['n_parameters']:,.0f}",
         f"{row['examples_per_second']:,.0f}")
        for row in rows
    ]  # fmt: skip
    return _table(head, cells)


def _differences(metrics: Mapping[str, Any]) -> str:
    """Draw the table against one model, and that of further pairs."""
    head = ("Model", "AUC", "Relative", "Log loss (less is better)", "Reading")
    text = ""
    if metrics["differences"]:
        title = f"<h2>Against {escape(metrics['against'])}, paired, first seed</h2>"
        text = title + _table(head, _paired(metrics["differences"]))
    if pairs := metrics.get("pairs"):
        named = [row | {"model": f"{row['model']} against {row['against']}"} for row in pairs]
        text += "<h2>Further pairs, first seed</h2>" + _table(head, _paired(named))
    return text


def _paired(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    return [
        (row["model"], _signed(row["auc"]), f"{100 * row['relative_auc']:+.2f} %", _signed(row["log_loss"], 5),
         row["verdict"])
        for row in rows
    ]  # fmt: skip


def _ladder(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    cells = [
        (row["model"], row["rung"], _number(row["ceiling"]), _number(row["expected_auc"]), f"{row['below']:+.4f}",
         f"{row['allowed']:.3f}", "leak" if row["is_leak"] else "met" if row["is_met"] else "not met")
        for row in rows
    ]  # fmt: skip
    head = ("Model", "Rung", "Ceiling", "Expected AUC", "Below it by", "Allowed", "Reading")
    note = "<p class=soft>Expected AUC: over all labels the known probabilities could draw; no luck in it.</p>"
    return "<h2>The ladder of ceilings</h2>" + _table(head, cells) + note


def _segments(metrics: Mapping[str, Any]) -> str:
    rows = [row for row in metrics["segments"] if row["model"] != metrics["against"]]
    if not rows:
        return ""
    models = list(dict.fromkeys(row["model"] for row in rows))
    cells = []
    for kind, segment in dict.fromkeys((row["kind"], row["segment"]) for row in rows):
        mine = {row["model"]: row for row in rows if (row["kind"], row["segment"]) == (kind, segment)}
        one = next(iter(mine.values()))
        gains = [_signed(mine[name]["gain"]) if name in mine else "" for name in models]
        cells.append((f"{kind}: {segment}", f"{one['n_rows']:,}", *gains))
    steps = [
        f"{row['model']} by {row['kind']} {row['slope']:+.4f} a step (z {row['z']:+.1f})"
        for row in metrics["trends"]
        if row["z"] is not None and abs(row["z"]) > 2
    ]
    said = (
        f"<p>Trends with |z| above 2: {escape('; '.join(steps))}.</p>" if steps else "<p>No trend with |z| above 2.</p>"
    )
    title = f"<h2>For whom: gain of AUC over {escape(metrics['against'])}</h2>"
    return title + said + _table(("Segment", "Impressions", *models), cells)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th scope=col>{escape(name)}</th>" for name in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<div class=wide tabindex=0><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"


def _signed(value: Mapping[str, Any], digits: int = 4) -> str:
    parts = (value["value"], value["low"], value["high"])
    if any(part is None for part in parts):
        return "–"
    middle, low, high = (f"{part:+.{digits}f}" for part in parts)
    return f"{middle} [{low}, {high}]"


def _number(value: float | None, digits: int = 4) -> str:
    return "–" if value is None or not np.isfinite(value) else f"{value:.{digits}f}"


def _mean(cards: Sequence[Mapping[str, Any]], key: str) -> float:
    found = [card[key] for card in cards if card.get(key) is not None]
    return float(np.mean(found)) if found else float("nan")


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
