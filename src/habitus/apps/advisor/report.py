"""The figures as lines, and one page: who ranks best, and one customer's answer with the subgraph behind it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from habitus.apps.advisor.advise import NOTE, Advisor, Answer
from habitus.apps.advisor.draw import draw_subgraph
from habitus.apps.advisor.run import day_of, open_run
from habitus.apps.page import framed, write_page

_STYLE = """
tr.own td:first-child{font-weight:600;color:var(--model)}svg{min-width:760px}
details{border-bottom:1px solid var(--line);padding:8px 0}summary{cursor:pointer}
code{font-size:.82rem;overflow-wrap:anywhere}.risky{color:var(--top);font-weight:600}
"""
HEAD = ("Pref@3", "Prof@3", "Comb@3")


def lines(metrics: Mapping[str, Any]) -> str:
    """Give the table as text for a terminal."""
    head = f"{'row':<28}" + "".join(f"{name:>8}" for name in (*HEAD, *HEAD, "nDCG@10", "ROI@10"))
    over = f"{'':<28}{'good buy exists':>24}{'all cases':>24}"
    rows = []
    for name, row in metrics["rows"].items():
        cells = [_number(row["cond"][key]["value"]) for key in ("pref", "prof", "comb")]
        cells += [_number(row["all"][key]["value"]) for key in ("pref", "prof", "comb", "ndcg", "roi")]
        rows.append(f"{name:<28}" + "".join(f"{cell:>8}" for cell in cells))
    found = f"{metrics['n_cases']:,} cases of {metrics['n_customers']:,} customers on {len(metrics['dates'])} days"
    return "\n".join([found, over, head, *rows, *_more_lines(metrics), verdict(metrics)])


def _more_lines(metrics: Mapping[str, Any]) -> list[str]:
    """Suitability, slices and citations, for a terminal."""
    made = [
        f"{'fits the declared class of risk, first three':<46}" + "".join(f"{row[:22]:>24}" for row in _sliced(metrics))
    ]
    for by, name, parts in _by_slice(metrics):
        cells = [f"{_number(part['comb']['value'])} {_number(part['fit']['value'])}" for part in parts]
        head = f"Comb@3 and fit, {by}: {name} ({parts[0]['n']:,})"
        made.append(f"{head:<46}" + "".join(f"{cell:>24}" for cell in cells))
    for row in metrics["categories"]:
        cells = [f"{figure} {_number(row[figure]['value'])}" for figure in ("bought", "rises", "fits")]
        made.append(f"named {row['category']:<10} {row['share']:>6.1%} of places: {', '.join(cells)}")
    for row, part in metrics["gap_closed"].items():
        shares = ", ".join(f"{share:.2f} ({which})" for which, share in part.items())
        made.append(f"of the way from popularity to the oracle in Pref@3, {row} goes {shares}")
    found = metrics["citations"]
    return [*made, citation_words(found)] if found else made


def citation_words(found: Mapping[str, Any]) -> str:
    """Say what the checks of citations found.

    >>> interval = {"value": 0.5, "low": 0.4, "high": 0.6}
    >>> words = citation_words({"cited": 9, "assets": 3, "customers": 1, "share_in_graph": 1.0, "share_of_asset": 0.8,
    ...     "share_of_customer": 0.2, "share_dated": 1.0, "moved": interval, "moved_other": interval,
    ...     "faithfulness": interval})
    >>> words.split(":")[0]
    '9 citations of 3 assets for 1 customers'
    """
    return (
        f"{found['cited']:,} citations of {found['assets']:,} assets for {found['customers']:,} customers: "
        f"{found['share_in_graph']:.1%} stand in the retrieved graph, {found['share_of_asset']:.1%} name the asset, "
        f"{found['share_of_customer']:.1%} the customer's profile, {found['share_dated']:.1%} are not later than the "
        f"day. Without them the score moves by {_span(found['moved'])}, without as many other triples of the asset by "
        f"{_span(found['moved_other'])}: faithfulness {_span(found['faithfulness'])}."
    )


def _sliced(metrics: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(part["row"] for part in metrics["slices"]))


def _by_slice(metrics: Mapping[str, Any]) -> list[tuple[str, str, list[Any]]]:
    """Slices in order, each with one part per row."""
    found: dict[tuple[str, str], list[Any]] = {}
    for part in metrics["slices"]:
        found.setdefault((part["by"], part["slice"]), []).append(part)
    return [(by, name, parts) for (by, name), parts in found.items()]


def verdict(metrics: Mapping[str, Any]) -> str:
    """Say in plain sentences where the first way stands.

    >>> verdict({"differences": []})
    'Nothing was compared.'
    """
    rows = [row for row in metrics["differences"] if row["figure"] == "comb" and row["cases"] == "cond"]
    if not rows:
        return "Nothing was compared."
    groups: dict[str, list[str]] = {"better than": [], "level with": [], "worse than": []}
    for row in rows:
        word = "better than" if row["low"] > 0 else "worse than" if row["high"] < 0 else "level with"
        groups[word].append(row["against"])
    parts = [f"{word} {', '.join(names)}" for word, names in groups.items() if names]
    return f"Comb@3 of {rows[0]['row']}, where a good buy exists: {'; '.join(parts)}."


def answer_lines(answer: Answer) -> str:
    """Give an answer as text for a terminal."""
    counts = answer.counts
    head = (
        f"{answer.customer} on {answer.date}, by the {answer.writer}: {counts['triples']} triples, about "
        f"{counts['tokens']:,} tokens, {answer.milliseconds:.0f} ms"
    )
    rows = [head]
    for place, named in enumerate(answer.assets, 1):
        chances = "" if named.p_buy is None else f"  P(buy) {named.p_buy:.3f}  P(rise) {named.p_rise:.3f}"
        risky = f"  riskier than {answer.declared}" if named.fits is False else ""
        rows.append(f"{place:>2}. {named.isin or '(a line that names no asset)'} {named.name}{chances}{risky}")
        rows += [f"      {each.sentence}  [{each.subject} {each.predicate} {each.object}]" for each in named.citations]
    if answer.is_unparsable:
        rows.append("the language model gave no usable line: a miss")
    if answer.unsupported:
        rows.append(f"not in the retrieved graph: {', '.join(answer.unsupported)}")
    return "\n".join([*rows, answer.note])


def write_report(
    run: str | Path, customer: str, date: str, *, way: str | None = None, out: str | Path | None = None
) -> Path:
    """Write RUN/report.html (or `out`): no network, no other file. Figures are shown once `evaluate` has been there."""
    opened = open_run(run)
    answer, found = Advisor(opened, way).advise(customer, day_of(date))
    kept = opened.folder / "metrics.json"
    metrics = json.loads(kept.read_text("utf-8")) if kept.is_file() else None
    drawing = draw_subgraph(found, answer, opened.market)
    return write_page(page(answer, drawing, metrics, opened.recipe.name), opened.folder, out)


def page(answer: Answer, drawing: str, metrics: Mapping[str, Any] | None, name: str) -> str:
    """Give the page as text."""
    counts = answer.counts
    parts = [
        f"<h1>Which assets fit {escape(answer.customer)} now?</h1>",
        f"<p class=soft>{escape(name)}, {escape(answer.date)}, by the {escape(answer.writer)}. {NOTE}</p>",
        f"<p>Out of {counts['candidates']} candidates {counts['assets']} assets were retrieved, with "
        f"{counts['triples']} triples (about {counts['tokens']:,} tokens; {counts['dropped']} nodes did not fit). "
        f"Nothing in it is dated later than {escape(answer.date)}.</p>",
        "<h2>The retrieved subgraph</h2>", f"<div class=wide tabindex=0>{drawing}</div>",
        "<p class=soft>Left: the customer. Middle: assets of their own trades (stage 1). Right: the assets named, best "
        "first. Full lines: traded before. Dashed: same sector, industry or sub-category. Dotted: bought together by "
        "others. An asset without a line comes from what most people bought.</p>",
        "<h2>The answer, with what it rests on</h2>", f"<p>{escape(_class_words(answer))}</p>", _answer(answer),
        _figures(metrics), _tails(metrics), _suitability(metrics), _citations(metrics),
    ]  # fmt: skip
    return framed(f"Advice for {answer.customer}", parts, _STYLE)


def _answer(answer: Answer) -> str:
    rows = []
    for place, named in enumerate(answer.assets, 1):
        chance = "" if named.p_buy is None else f" · P(buy) {named.p_buy:.3f} · P(rise) {named.p_rise:.3f}"
        facts = "".join(
            f"<li>{escape(each.sentence)} <code>{escape(each.subject)} {escape(each.predicate)} {escape(each.object)}"
            f"</code> <span class=soft>({each.graph} graph)</span></li>"
            for each in named.citations
        )
        risky = f" <span class=risky>riskier than {escape(answer.declared)}</span>" if named.fits is False else ""
        head = f"{place}. {escape(named.isin or 'a line that names no asset')} <span class=soft>{escape(named.name)}"
        rows.append(
            f"<details{' open' if place == 1 else ''}><summary>{head}{chance}</span>{risky}</summary>"
            f"<ul>{facts or '<li class=soft>No retrieved triple stands behind it.</li>'}</ul></details>"
        )
    return "\n".join(rows)


def _figures(metrics: Mapping[str, Any] | None) -> str:
    if metrics is None:
        return "<p class=soft>No figures yet: habitus advisor evaluate RUN.</p>"
    body = []
    for name, row in metrics["rows"].items():
        cells = [_span(row["cond"][key]) for key in ("pref", "prof", "comb")]
        cells += [_number(row["all"][key]["value"]) for key in ("pref", "prof", "comb", "ndcg", "roi")]
        own = " class=own" if name.rpartition(", ")[0] in metrics["tail_recall"] else ""
        body.append(f"<tr{own}><td>{escape(name)}</td>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    heads = ("Row", *HEAD, *(f"{name}, all" for name in HEAD), "nDCG@10", "Monthly ROI@10")
    share = 1 - metrics["excluded_share_of_cond"]
    note = (
        f"{metrics['n_cases']:,} cases of {metrics['n_customers']:,} customers on {len(metrics['dates'])} days. The "
        f"first three columns are the cases in which something was bought that rose ({share:.0%} of all), with "
        "95 % intervals over customers; the others count every case, one without a later buy as a miss."
    )
    return f"<h2>Who ranks best</h2><p>{escape(verdict(metrics))}</p>{_table(heads, body)}<p class=soft>{note}</p>"


def _class_words(answer: Answer) -> str:
    """Say what the customer declared and how the answer deals with it."""
    if answer.suitability == "off":
        return "Suitability was not looked at."
    if not answer.declared:
        return "No class of risk of the customer is known on that day: suitability cannot be judged."
    n = sum(named.fits is False for named in answer.assets)
    left = "Riskier assets are left out." if answer.suitability == "filter" else f"Riskier assets are marked: {n}."
    return f"The customer declared the class {answer.declared}. {left}"


def _tails(metrics: Mapping[str, Any] | None) -> str:
    if metrics is None:
        return ""
    body = [
        f"<tr><td>{escape(name)}</td><td>{_span(row)}</td><td>{row['n']:,}</td></tr>"
        for name, row in metrics["tail_recall"].items()
    ]
    note = "Share of later buys, neither held nor among the 25 most bought, that are among the 25 retrieved assets."
    return f"<h2>What each way retrieves</h2><p>{note}</p>{_table(('Way', 'Tail recall@25', 'Cases'), body)}"


def _suitability(metrics: Mapping[str, Any] | None) -> str:
    """Does it fit, and for whom: by row, by slice, by category of the asset."""
    if metrics is None:
        return ""
    rows = _sliced(metrics)
    heads = ("Slice", "Cases", *(f"{what}, {row}" for row in rows for what in ("Comb@3", "fits")))
    body = []
    for by, name, parts in _by_slice(metrics):
        cells = "".join(f"<td>{_span(part['comb'])}</td><td>{_number(part['fit']['value'])}</td>" for part in parts)
        body.append(f"<tr><td>{escape(by)}: {escape(name)}</td><td>{parts[0]['n']:,}</td>{cells}</tr>")
    fit = [
        f"<tr><td>{escape(name)}</td><td>{_span(row['all']['fit'])}</td><td>{row['all']['fit']['n']:,}</td></tr>"
        for name, row in metrics["rows"].items()
    ]
    named = [
        f"<tr><td>{escape(row['category'])}</td><td>{row['share']:.1%}</td>"
        + "".join(f"<td>{_span(row[figure])}</td>" for figure in ("bought", "rises", "fits")) + "</tr>"
        for row in metrics["categories"]
    ]  # fmt: skip
    note = (
        "Share of the first three assets whose volatility and category fit the class of risk that the customer "
        f"declared by the day; {metrics['share_without_class']:.0%} of the cases have none and are left out here."
    )
    return (
        f"<h2>Does it fit the customer?</h2><p>{note}</p>{_table(('Row', 'Fits', 'Cases'), fit)}"
        f"<h2>By activity, type, class and market</h2>{_table(heads, body)}<h2>By category of the assets named</h2>"
        f"{_table(('Category', 'Share of places', 'Bought later', 'Rose', 'Fits'), named)}"
    )


def _citations(metrics: Mapping[str, Any] | None) -> str:
    if metrics is None or not metrics["citations"]:
        return ""
    return f"<h2>Do the citations hold?</h2><p>{escape(citation_words(metrics['citations']))}</p>"


def _table(heads: Sequence[str], body: Sequence[str]) -> str:
    top = "".join(f"<th scope=col>{escape(name)}</th>" for name in heads)
    return (
        f"<div class=wide tabindex=0><table><thead><tr>{top}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _span(value: Mapping[str, Any]) -> str:
    if value["value"] is None:
        return "–"
    return f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"
