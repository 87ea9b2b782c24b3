"""One page on a study of escape: accuracy against escape, exposure of both arms over rounds, every figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from habitus.apps.bubble.drawings import rounds_drawing, scatter, shares_drawing, sweep_drawing
from habitus.apps.bubble.run import read_run
from habitus.apps.page import framed, write_page

_STYLE = """
.small{display:grid;grid-template-columns:repeat(auto-fill,minmax(250px,1fr));gap:16px}svg{min-width:0}
.wide svg{min-width:600px}figure{margin:0}figcaption{font-size:.9rem}
.key{display:inline-block;width:18px;height:3px;vertical-align:middle;margin:0 5px 0 12px}
"""
HOW = {"retrain": "trained on", "fold_in": "folded in", "none": "frozen"}
WORDS = {
    "widens": "widens when users try",
    "moves": "moves without widening",
    "narrows": "follows so closely that trying narrows",
    "still": "no response that can be told from chance",
    "single": "one pair of worlds cannot tell",
}


def reading(row: Mapping[str, Any]) -> str:
    """Say in words what a gap and a JS mean together.

    >>> reading({"gap": {"value": 0.02, "low": 0.01, "high": 0.03}, "js": {"value": 0.004, "low": 0.003}})
    'widens when users try'
    """
    gap, js = row["gap"], row["js"]
    if gap.get("low") is None:
        return WORDS["single"]
    if gap["low"] > 0:
        return WORDS["widens"]
    if gap.get("high") is not None and gap["high"] < 0:
        return WORDS["narrows"]
    if js.get("low") is not None and js["low"] > 0:
        return WORDS["moves"]
    return WORDS["still"]


def lines(metrics: Mapping[str, Any]) -> str:
    """Give the table and the findings as text for a terminal."""
    head = f"{'recommender':<22}{'NDCG@20':>9}{'gap':>9}{'95 % over pairs':>20}{'p':>6}{'JS':>8}{'p':>6}  reading"
    rows = []
    for row in metrics["rows"]:
        if row["role"] not in ("main", "ruler"):
            continue
        gap, js = row["gap"], row["js"]
        rows.append(
            f"{row['label']:<22}{_number(row['ndcg@20 before']['value']):>9}{_signed(gap['value']):>9}"
            f"{_signed(gap['low']):>11}{_signed(gap['high']):>9}{_number(gap['p'], 2):>6}{_number(js['value']):>8}"
            f"{_number(js['p'], 2):>6}  {reading(row)}"
        )
    found = [f"{f['claim']}: {f['verdict']} ({_figure(f)})" for f in metrics["findings"]]
    return "\n".join([head, *rows, *found])


def write_report(run: str | Path, out: str | Path | None = None) -> Path:
    """Write RUN/report.html (or `out`) from RUN/metrics.json: no network, no other file.

    Errors: `ArtifactError` when `habitus bubble run` has not finished there.
    """
    run = Path(run)
    return write_page(page(read_run(run)), Path(run), out)


def page(metrics: Mapping[str, Any]) -> str:
    """Give the page as text."""
    main = [row for row in metrics["rows"] if row["role"] in ("main", "ruler")]
    log, loop = metrics["log"], metrics["loop"]
    parts = [
        f"<h1>{escape(verdict(main))}</h1>",
        f"<p class=soft>{escape(metrics['name'])}: {log['n_agents']:,} agents, {log['n_items']:,} items, "
        f"{log['n_categories']} categories, {loop['rounds']} rounds, {loop['pairs']} pair"
        f"{'s' if loop['pairs'] > 1 else ''} of worlds, {HOW[loop['how']]} between rounds. "
        "The agents are rules, not people.</p>",
        _findings(metrics["findings"]),
        "<h2>Accuracy against escape</h2>",
        f"<div class=wide tabindex=0>{scatter(metrics['rows'])}</div>",
        "<p class=soft>Across: NDCG@20 on later likes, before the loop. Up: BEP gap, the entropy of what is shown to "
        "agents who try new things less that of the same agents who do not; above 0 the list widens. Bars: 95 % over "
        "pairs of worlds. Filled: the recommenders of the table; hollow: other settings of them. A higher gap is not "
        "better by itself: it can be bought with poor accuracy.</p>",
        "<h2>Escape</h2>",
        _escape(main),
        "<p class=soft>Gap and JS on the common mask, which leaves only the answer of the recommender. Corrected: less "
        "the mean over all swaps of arm names inside pairs; p: share of swaps as extreme, at least 2 / 2^pairs. "
        "Relative: gap over that of the mirror, whose list repeats what the agent does.</p>",
        "<h2>Exposure of both arms, round by round</h2>",
        "<p class=soft><span class=key style='background:var(--model)'></span>tries new things"
        "<span class=key style='background:var(--top)'></span>stays with what it knows. Entropy of the list.</p>",
        "<div class=small>" + "".join(_round(row, main) for row in main) + "</div>",
        "<h2>What each arm is shown in the last round</h2>",
        "<div class=small>" + "".join(_shares(row) for row in main if row["kind"] != "random") + "</div>",
        _sweep(metrics["rows"]),
        _effort(main),
        "<h2>What the measure leaves out, and why</h2>",
        _controls(main),
        "<p class=soft>As shown counts the pages really opened: agents who try open more, and entropy grows with what "
        "is counted, so even a random list scores. Own mask gives both arms equal depth, but hides what each took; "
        "frozen is the same with the first scores kept, so all of it is the emptying of the list.</p>",
        "<h2>Accuracy and variety</h2>",
        _accuracy(main),
        _groups(metrics["groups"]),
        f"<p class=soft>Made {escape(metrics['made']['created'])} from {escape(metrics['made']['commit'])} on "
        f"{escape(metrics['made']['hardware'])}.</p>",
    ]
    return framed(metrics["name"], parts, _STYLE)


def verdict(rows: Sequence[Mapping[str, Any]]) -> str:
    """Say in one sentence who lets users out."""
    main = [row for row in rows if row["role"] == "main" and row["kind"] != "random"]
    by: dict[str, list[str]] = {}
    for row in main:
        by.setdefault(reading(row), []).append(row["label"])
    parts = [f"{_listed(by[word])}: {word}" for word in WORDS.values() if word in by]
    return "; ".join(parts) + "." if parts else "Nothing was played."


def _findings(found: Sequence[Mapping[str, Any]]) -> str:
    rows = "".join(
        f"<li>{escape(f['claim'][0].upper() + f['claim'][1:])}: <strong>{escape(f['verdict'])}</strong> "
        f"({escape(_figure(f))}).</li>"
        for f in found
    )
    return f"<p>The three published findings, the first asked twice:</p><ul>{rows}</ul>"


def _figure(found: Mapping[str, Any]) -> str:
    words = [found["words"]] if found.get("words") else []
    if found.get("value") is not None:
        span = f"{_signed(found['value'])} [{_signed(found['low'])}, {_signed(found['high'])}] {found['unit']}"
        words.insert(0, span)
    if found.get("ndcg") is not None:
        words.append(f"NDCG@20 {_signed(found['ndcg'])}")
    if found.get("spearman") is not None:
        words.append(f"rank correlation {found['spearman']:+.2f}")
    return "; ".join(words) or "not measured"


def _escape(rows: Sequence[Mapping[str, Any]]) -> str:
    head = ("Recommender", "Gap", "95 % over pairs", "95 % over users", "p", "JS", "Corrected", "p", "Within arm")
    head = (*head, "Relative", "Reading")
    cells = []
    for row in rows:
        gap, js = row["gap"], row["js"]
        cells.append((
            row["label"], _signed(gap["value"]), f"{_signed(gap['low'])} to {_signed(gap['high'])}",
            f"{_signed(gap['user_low'])} to {_signed(gap['user_high'])}", _number(gap["p"], 3), _number(js["value"]),
            _number(js["corrected"]), _number(js["p"], 3), _number(row["within"]), _number(row["rel"], 2), reading(row),
        ))  # fmt: skip
    return _table(head, cells)


def _controls(rows: Sequence[Mapping[str, Any]]) -> str:
    head = (
        "Recommender",
        "As shown, raw",
        "thinned",
        "JS raw",
        "JS pages shuffled",
        "Own mask",
        "Frozen",
        "Common mask",
    )
    cells = []
    for row in rows:
        shown, frozen = row["as_shown"], row.get("depletion") or {}
        cells.append((
            row["label"], _signed(shown["gap"]), _signed(shown["thinned_gap"]), _number(shown["js"]),
            _number(shown["shuffled_js"]), _signed(row["own_mask"]["gap"]), _signed(frozen.get("gap")),
            _signed(row["gap"]["value"]),
        ))  # fmt: skip
    return _table(head, cells)


def _accuracy(rows: Sequence[Mapping[str, Any]]) -> str:
    head = ("Recommender", "Recall@20", "NDCG@20", "after the loop", "Entropy", "KL", "Coverage", "Gini", "ILD")
    head = (*head, "Top category", "Pages +", "Pages -", "Taken +", "Taken -", "CPU seconds a pair")
    cells = []
    for row in rows:
        arms = row["arms"]
        base = arms.get("base") or arms["negative"]
        after = row.get("ndcg@20 after") or {}
        cells.append((
            row["label"], _number(row["recall@20 before"]["value"]), _number(row["ndcg@20 before"]["value"]),
            _number(after.get("value")),
            _number(base["entropy"], 3), _number(base["kl"], 3), _number(base["coverage"], 3),
            _number(base["gini"], 3), _number(base["ild"], 3), _number(base["top_share"], 3),
            _number(arms["positive"]["pages"], 2), _number(arms["negative"]["pages"], 2),
            _number(arms["positive"]["taken"], 2), _number(arms["negative"]["taken"], 2),
            _number(row["cpu_seconds"], 0),
        ))  # fmt: skip
    note = "Variety is that of what agents as they are were offered; pages and taken items are per round."
    return _table(head, cells) + f"<p class=soft>{note}</p>"


def _round(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    every = [v for each in rows for arm in ("positive", "negative") for v in each["rounds"][arm]]
    drawing = rounds_drawing(row, min(every), max(every))
    return f"<figure><figcaption>{escape(row['label'])}</figcaption>{drawing}</figure>"


def _shares(row: Mapping[str, Any]) -> str:
    return f"<figure><figcaption>{escape(row['label'])}</figcaption>{shares_drawing(row)}</figure>"


def _sweep(rows: Sequence[Mapping[str, Any]]) -> str:
    some = [row for row in rows if row["role"] == "eps"]
    if not some:
        return ""
    cells = [
        (row["name"], f"{row['eps']:g}", _signed(row["gap"]["value"]), f"{_signed(row['gap']['low'])} to "
         f"{_signed(row['gap']['high'])}", _signed(row["model_slots"]["gap"]), _number(row["js"]["value"]),
         _number((row["arms"].get("base") or row["arms"]["negative"])["coverage"], 3),
         _number((row.get("ndcg@20 after") or {}).get("value")))
        for row in some
    ]  # fmt: skip
    head = (
        "Recommender",
        "Share by chance",
        "Gap",
        "95 % over pairs",
        "Gap, other slots",
        "JS",
        "Coverage",
        "NDCG@20 after",
    )
    return (
        "<h2>Slots given to chance</h2>"
        f"<div class=wide tabindex=0>{sweep_drawing(rows)}</div>"
        "<p class=soft>Chance dilutes the lists of both arms alike, so part of a fall is arithmetic: the gap of the "
        "slots that were not given to chance stands beside it.</p>" + _table(head, cells)
    )


def _effort(rows: Sequence[Mapping[str, Any]]) -> str:
    some = [row for row in rows if row.get("effort")]
    if not some:
        return ""
    names = ("both", "activity", "diversity", "interaction")
    cells = [(row["label"], *(f"{_signed(row['effort'][n]['value'])}" for n in names)) for row in some]
    head = ("Recommender", "Both", "More pages alone", "Novelty alone", "Interaction")
    return "<h2>What part of trying counts?</h2>" + _table(head, cells)


def _groups(groups: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    some = [(name, row) for name, rows in groups.items() for row in rows if row["p_holm"] < 0.05]
    n = sum(len(rows) for rows in groups.values())
    title = "<h2>Who gets out?</h2>"
    if not n:
        return ""
    if not some:
        return title + f"<p>{n} groups were compared with all others; none differs after Holm's correction.</p>"
    some.sort(key=lambda pair: pair[1]["p_holm"])
    cells = [
        (name, f"{row['kind']}: {row['group']}", f"{row['n']:,}", _signed(row["value"]), _signed(row["difference"]),
         f"{_signed(row['low'])} to {_signed(row['high'])}", _number(row["p_holm"], 4))
        for name, row in some[:30]
    ]  # fmt: skip
    head = ("Recommender", "Group", "Users", "Gap", "Less that of the others", "95 %", "p (Holm)")
    return title + f"<p>{len(some)} of {n} comparisons differ from 0 after Holm's correction.</p>" + _table(head, cells)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th scope=col>{escape(name)}</th>" for name in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<div class=wide tabindex=0><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"


def _signed(value: float | None, digits: int = 4) -> str:
    if value is None or value != value:
        return "–"
    return f"{value:+.{digits}f}" if abs(value) >= 0.5 * 10**-digits else f"{0:.{digits}f}"


def _number(value: float | None, digits: int = 4) -> str:
    return "–" if value is None or value != value else f"{value:.{digits}f}"


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
