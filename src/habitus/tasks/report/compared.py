"""The sections that judge: the model beside its baselines, and its stated chances beside what came true."""

from __future__ import annotations

from collections.abc import Sequence

from habitus.tasks.report import plots
from habitus.tasks.report.blocks import Cell, Heading, Key, Missing, Plot, Points, Prose, Row, Section, Table
from habitus.tasks.report.first import test_rate, why_undefined
from habitus.tasks.report.part import filled
from habitus.tasks.report.record import Difference, Estimate, Record, Target
from habitus.tasks.report.verdict import (
    SYMBOL,
    WORD,
    Verdict,
    best_gate,
    idle_words,
    is_idle,
    model_of,
    outcome_of,
    verdict_of,
    verdicts,
)
from habitus.tasks.report.words import (
    UNKNOWN,
    count,
    gap_place,
    in_words,
    is_binary,
    joined,
    metric,
    metric_place,
    number,
    percent,
    place,
    plural,
    primary,
    span,
)


def gate_section(record: Record) -> Section:
    """For each target: the verdict, the differences with intervals, all figures, and how to read them."""
    model = model_of(record)
    section = Section("comparison", "The comparison", f"Is {model} better than simpler methods?")
    if not record.table and not record.differences:
        section.blocks.append(Missing("Nothing has been compared yet.", "habitus evaluate RUN"))
        return section
    section.blocks.append(Prose(_test_words(record)))
    used: list[str] = []
    for i, verdict in enumerate(verdicts(record)):
        section.blocks.extend(_gate_target(record, verdict, i, used))
    section.blocks.append(Points(_how_to_read(record, used), "How to read these figures"))
    return section


def _test_words(record: Record) -> str:
    n, rows = len(record.cutoffs.test), record.cutoffs.n_samples.get("test")
    where = f"{plural(n, 'test cut-off')}" if n else "the test cut-offs"
    size = f" ({count(rows)} rows, each a user at a cut-off)" if rows else ""
    gates = record.names("gate")
    names = f": {joined(gates)}" if gates else ""
    return (
        f"{model_of(record)} and {plural(len(gates), 'baseline')}{names} answered the same questions "
        f"for the same users on {where}{size}. "
        "The verdict on each target is about its best baseline, set in bold."
    )


def _gate_target(record: Record, verdict: Verdict, i: int, used: list[str]) -> list[object]:
    target = verdict.target
    rows = [d for d in record.differences if d.target == target.name and d.model == verdict.model]
    blocks: list[object] = [
        Heading(target.name, verdict.outcome, WORD[verdict.outcome]),
        Prose(_verdict_words(record, verdict)),
    ]
    drawn = []
    for name in primary(target, list(dict.fromkeys(d.metric for d in rows)))[:2]:
        of_metric = [d for d in rows if d.metric == name and d.value is not None]
        if of_metric:
            drawn.append(_forest(record, target, name, of_metric, f"forest-{i}-{len(drawn)}"))
    if drawn:
        blocks.append(Row(tuple(drawn)))
    blocks.extend(_others(record, target, verdict.model))
    table = _figures(record, target, verdict.against)
    if table is not None:
        blocks.append(table)
        used.extend(key for row in record.table if row.target == target.name for key in row.metrics)
    if rows:
        blocks.append(_differences(record, target, verdict.model))
    return blocks


def _verdict_words(record: Record, verdict: Verdict) -> str:
    target, name = verdict.target, metric(verdict.metric)
    asked = f"Asked: {in_words(target)}."
    rate, rows = test_rate(record, target), "test rows" if target.name in record.test_rates else "rows"
    if rate is not None:
        asked += f" It {'came true' if is_binary(target) else 'was above zero'} in {percent(rate)} of the {rows}."
    if verdict.outcome == "undefined":
        return f"{asked} {name.title} cannot be computed: {why_undefined(rate)}"
    d, at = verdict.difference, metric_place(verdict.model_value, name.in_units)
    if verdict.outcome == "untested" or d is None or d.value is None:
        return f"{asked} No difference with an interval was computed, so nothing can be said about who is better."
    ours, theirs = number(verdict.model_value.value, at), number(verdict.gate_value.value, at)
    values = f"{name.title} {ours} against {theirs} of {verdict.against}"
    at = gap_place(d)
    gap = f"{number(d.value, at, sign=True)} {span(d.low, d.high, at, sign=True)}".strip()
    middle = {
        "better": f"{verdict.model} is better than the best baseline: {values}, a difference of {gap}.",
        "level": f"{verdict.model} does not win: {values}. The difference, {gap}, may be chance: its interval holds 0.",
        "worse": f"{verdict.model} loses: {values}, a difference of {gap}. For this target, use {verdict.against}.",
    }[verdict.outcome]
    idle = f" But {verdict.model} itself is no better than {idle_words(verdict)} here." if is_idle(verdict) else ""
    return f"{asked} {middle}{idle}{_seed_words(record, verdict, d.value)}"


def _others(record: Record, target: Target, judged: str) -> list[Prose]:
    """Say in a sentence how a blend, or a second model, stands against the best baseline."""
    said = []
    for other in record.models:
        found = verdict_of(record, target, other.name)
        d = found.difference
        if other.role == "gate" or other.name == judged or d is None or d.value is None:
            continue
        of_both = ", the mean of both," if other.role == "blend" else ""
        at = gap_place(d)
        gap = f"{number(d.value, at, sign=True)} {span(d.low, d.high, at, sign=True)}".strip()
        said.append(Prose(f"{other.name}{of_both} against {found.against}: {WORD[found.outcome]}, "
                          f"{metric(found.metric).title} {gap}."))  # fmt: skip
    return said


def _seed_words(record: Record, verdict: Verdict, difference: float) -> str:
    sd = record.seed_sd(verdict.target.name, verdict.model, verdict.metric)
    if not sd or verdict.outcome == "level" or abs(difference) > 2 * sd:
        return ""
    spread = number(sd, place(sd, None, None, 2))
    return f" It is no larger than twice the spread between seeds ({spread}): another seed may change it."


def _forest(record: Record, target: Target, name: str, rows: list[Difference], key: str) -> Plot:
    best = best_gate(record, target.name, name)
    title = f"{metric(name).title}: {model_of(record)} minus each baseline"
    outcomes = [outcome_of(row) for row in rows]
    said = [f"{row.against}: {WORD[o]}" for row, o in zip(rows, outcomes)]
    keys = [Key(plots.MARKS[o][0], plots.MARKS[o][1], WORD[o]) for o in ("better", "level", "worse") if o in outcomes]
    alt = f"Differences with intervals for {target.name}. {'; '.join(said)}."
    return Plot(key, title, alt, plots.forest(rows, best), tuple(keys))  # fmt: skip


def _figures(record: Record, target: Target, best: str) -> Table | None:
    rows = [row for row in record.table if row.target == target.name]
    keys = list(dict.fromkeys(key for row in rows for key in row.metrics))
    if not keys:
        return None
    models = record.names("model")
    body: list[tuple[Cell, ...]] = []
    strong: set[int] = set()
    for i, row in enumerate(rows):
        note = "the model" if row.model in models else "best baseline" if row.model == best else ""
        note = "the mean of both" if row.model in record.names("blend") else note
        mark = "ours" if row.model in models else ""
        body.append(
            (Cell(row.model, note, mark), *(_figure(row.metrics.get(key), row.seed_sd.get(key), key) for key in keys))
        )
        if row.model == best:
            strong.add(i)
    head = ("Method", *(metric(key).title + {1: "\u00a0↑", -1: "\u00a0↓", 0: ""}[metric(key).better] for key in keys))
    unit = f", amounts in {target.unit}" if target.unit else ""
    caption = f"All figures for {target.name}, with 95 % intervals{unit} (↑ higher is better, ↓ lower is better)"
    return Table(caption, head, body, frozenset(range(1, len(head))), frozenset(strong))


def _figure(estimate: Estimate | None, sd: float | None, key: str) -> Cell:
    if estimate is None or estimate.value is None:
        return Cell(UNKNOWN, "not computable")
    at = metric_place(estimate, metric(key).in_units)
    note = span(estimate.low, estimate.high, at)
    if sd:
        note = f"{note} seeds\u00a0±{number(sd, max(-4, place(sd, None, None, 1)))}".strip()
    return Cell(number(estimate.value, at), note)


def _differences(record: Record, target: Target, model: str) -> Table:
    rows = [d for d in record.differences if d.target == target.name and d.model == model]
    keys = list(dict.fromkeys(d.metric for d in rows))
    body = []
    for against in dict.fromkeys(d.against for d in rows):
        cells = [Cell(against)]
        for key in keys:
            d = next((d for d in rows if d.against == against and d.metric == key), None)
            if d is None or d.value is None:
                cells.append(Cell(UNKNOWN))
                continue
            at, outcome = gap_place(d), outcome_of(d)
            text = f"{SYMBOL[outcome]} {number(d.value, at, sign=True)}"
            cells.append(Cell(text, span(d.low, d.high, at, sign=True), outcome))
        body.append(tuple(cells))
    caption = f"{model} minus each baseline for {target.name}: ▲ better, ○ no clear difference, ▼ worse"
    head = ("Baseline", *(metric(key).title for key in keys))
    return Table(caption, head, body, frozenset(range(1, len(head))), folded=f"All differences for {target.name}")


def _how_to_read(record: Record, used: Sequence[str]) -> list[tuple[str, str]]:
    items = [(metric(key).title, metric(key).meaning) for key in dict.fromkeys(used) if metric(key).meaning]
    items.append(
        ("[low, high]", "a 95 % interval from drawing users again, with all their rows (paired bootstrap). "
         "It holds the luck of which users were in the test; not that of the seed, nor that of the season tested.")
    )  # fmt: skip
    if len(record.seeds) > 1:
        items.append(
            ("seeds ±", f"the standard deviation over {len(record.seeds)} trainings that differ only in their seed.")
        )
    items.append(
        ("No clear difference", "the interval of the difference holds 0. It does not prove that both are equal: "
         "a difference as large as the ends of the interval remains possible.")
    )  # fmt: skip
    n = len([d for d in record.differences if d.value is not None])
    if n > 20:
        items.append(
            ("Many comparisons", f"{n} differences are shown. If nothing differed at all, about {round(n / 20)} "
             "of their intervals would still miss 0. The best baseline is picked after the fact, "
             "which favours the baseline a little.")
        )  # fmt: skip
    return items


def reliability_section(record: Record) -> Section:
    """Stated chances against observed shares, for each yes-or-no target."""
    section = Section("chances", "The chances", "When it says 30 %, does it happen in 30 of 100 cases?")
    if not record.reliability:
        section.blocks.append(Missing("Calibration has not been measured.", "habitus evaluate RUN"))
        return section
    section.blocks.append(
        Prose("Test rows are grouped by the chance stated for them. On the dotted line the stated chance came true "
              "exactly; below it the forecast was too high, above it too low. Bars show the range that the number of "
              "rows alone allows.")
    )  # fmt: skip
    drawn = [
        _reliability(record, name, i) for i, name in enumerate(dict.fromkeys(r.target for r in record.reliability))
    ]
    section.blocks.append(Row(tuple(drawn)))
    return section


def _reliability(record: Record, target: str, i: int) -> Plot:
    of_target = [r for r in record.reliability if r.target == target]
    models = record.names("model")
    ours = [r for r in of_target if r.model in models][:1] or of_target[:1]
    gate = next((best_gate(record, target, key) for key in ("auc", "log_loss") if best_gate(record, target, key)), None)
    others = [r for r in of_target if r not in ours]
    shown = [*ours, *([r for r in others if r.model == gate] or others)[:1]]
    keys = [Key(("circle", "square-open")[k], ("model", "other")[k], r.model) for k, r in enumerate(shown)]
    errors = [f"{r.model} {number(cell.value, metric_place(cell, False))}" for r in shown
              if (cell := record.cell(target, r.model, "ece")) is not None]  # fmt: skip
    note = f"Expected calibration error: {joined(errors)}." if errors else ""
    positives = sum(o * n for o, n in zip(ours[0].observed, ours[0].n) if o is not None and n is not None)
    if ours[0].n and positives < 20:
        some = f"Only {plural(round(positives), 'test row')}" if round(positives) else "No test row"
        note += f" {some} came true: too few to judge these chances."
    rows = [
        (Cell(r.model), Cell(percent(p)), Cell(percent(o)), Cell(count(n)))
        for r in shown
        for p, o, n in zip(r.predicted, r.observed, filled(r.n, len(r.predicted)))
    ]
    table = Table(
        f"Chances of {target}",
        ("Method", "Stated", "Observed", "Rows"),
        rows,
        frozenset({1, 2, 3}),
        folded="The same as a table",
    )
    alt = f"Observed share over stated chance for {target}, in {plural(len(ours[0].predicted), 'group')}. {note}"
    return Plot(f"reliability-{i}", f"{target}: share that came true", alt, plots.reliability(shown),
                (*keys, Key("dot", "muted", "exact")), note.strip(), table)  # fmt: skip
