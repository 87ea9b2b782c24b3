"""The section of a run of events: where the truth stood in the whole catalogue, beside counts and other runs."""

from __future__ import annotations

from habitus.tasks.report import plots
from habitus.tasks.report.blocks import Cell, Key, Missing, Plot, Points, Prose, Row, Section, Table
from habitus.tasks.report.record import Difference, Estimate, Ranking, Record
from habitus.tasks.report.verdict import WORD, outcome_of
from habitus.tasks.report.words import UNKNOWN, count, gap_place, number, percent, plural, span

SHOWN = (
    ("hit_rate@10", "Hit rate, first 10"),
    ("ndcg@10", "NDCG, first 10"),
    ("new_hit_rate@10", "Hit rate, only new"),
    ("new_ndcg@10", "NDCG, only new"),
    ("recall_weighted", "Rec_w"),
    ("recall_macro", "Rec_m"),
    ("hit_rate@10 tail", "Hit rate, rare values"),
    ("cross_entropy", "Cross-entropy"),
)
DRAWN = ("new_ndcg@10", "ndcg@10", "recall_macro")
PLACES = 4


def ranking_section(record: Record) -> Section:
    """The verdicts, the differences with intervals, all figures, and how to read them."""
    section = Section("comparison", "The ranking", "Where does the truth stand among everything that could come next?")
    ranking = record.ranking
    if ranking is None or not ranking.table:
        section.blocks.append(Missing("Nothing has been ranked yet.", "habitus evaluate RUN"))
        return section
    model = ranking.models[0].name if ranking.models else ranking.table[0].model
    section.blocks.append(Prose(_asked(ranking)))
    metrics = [name for name in DRAWN if any(d.metric == name and d.value is not None for d in ranking.differences)]
    section.blocks.extend(Prose(_verdict(d)) for d in ranking.differences if metrics and d.metric == metrics[0])
    drawn = [_forest(ranking, model, name) for name in metrics[-2:]]
    if drawn:
        section.blocks.append(Row(tuple(drawn)))
    section.blocks.append(_figures(ranking, model))
    section.blocks.append(Points(_how_to_read(ranking), "How to read these figures"))
    return section


def _asked(ranking: Ranking) -> str:
    unknown = (
        f" {count(ranking.n_unknown)} of them were never seen in training and count as missed."
        if ranking.n_unknown
        else ""
    )
    return (
        f"{count(ranking.n_targets)} times, for {plural(ranking.n_users or 0, 'user')}, the {ranking.field} of the "
        f"next event was asked for, out of {count(ranking.n_values)} values.{unknown}"
    )


def _verdict(d: Difference) -> str:
    at = gap_place(d)
    gap = f"{number(d.value, at, sign=True)} {span(d.low, d.high, at, sign=True)}".strip()
    return f"{d.model} against {d.against}: {WORD[outcome_of(d)]}, {dict(SHOWN).get(d.metric, d.metric)} {gap}."


def _forest(ranking: Ranking, model: str, name: str) -> Plot:
    rows = [d for d in ranking.differences if d.metric == name and d.value is not None]
    outcomes = [outcome_of(row) for row in rows]
    keys = [Key(plots.MARKS[o][0], plots.MARKS[o][1], WORD[o]) for o in ("better", "level", "worse") if o in outcomes]
    title = f"{dict(SHOWN)[name]}: {model} minus each other"
    said = "; ".join(f"{row.against}: {WORD[o]}" for row, o in zip(rows, outcomes))
    return Plot(
        f"ranking-{name.replace('@', '-')}",
        title,
        f"Differences with intervals. {said}.",
        plots.forest(rows, None),
        tuple(keys),
    )


def _figures(ranking: Ranking, model: str) -> Table:
    shown = [(key, title) for key, title in SHOWN if any(key in row.metrics for row in ranking.table)]
    roles = {m.name: m.role for m in ranking.models}
    body = []
    for row in ranking.table:
        role = roles.get(row.model, "gate")
        note = (
            "the model"
            if row.model == model
            else ""
            if role == "gate"
            else "mixed"
            if role == "blend"
            else "another run"
        )
        cells = [_cell(row.metrics.get(key), row.seed_sd.get(key)) for key, _ in shown]
        body.append((Cell(row.model, note, "ours" if row.model == model else ""), *cells))
    head = ("Method", *(title for _, title in shown))
    caption = "All figures, with 95 % intervals over users (cross-entropy: lower is better)"
    return Table(caption, head, body, frozenset(range(1, len(head))))


def _cell(estimate: Estimate | None, sd: float | None) -> Cell:
    if estimate is None or estimate.value is None:
        return Cell(UNKNOWN, "not computable")
    note = span(estimate.low, estimate.high, -PLACES)
    if sd:
        note = f"{note} seeds\u00a0±{number(sd, -PLACES)}".strip()
    return Cell(number(estimate.value, -PLACES), note)


def _how_to_read(ranking: Ranking) -> list[tuple[str, str]]:
    points = [
        (
            "Hit rate",
            "the share of targets with the truth among the first 10 of the whole catalogue; ties count against.",
        ),
        ("NDCG", "the same, a later place counting less: 1 / log2(place + 1)."),
        ("Rec_w, Rec_m", "the share told at first guess, over targets and averaged over the values that occur."),
        (
            "Rare values",
            f"all but the most frequent, which make up 80 % of training ({count(ranking.groups.get('tail'))}).",
        ),
        ("Cross-entropy", "the mean of -ln(probability given to the truth), in nats."),
    ]
    if ranking.repeat_share is not None and any("new_ndcg@10" in row.metrics for row in ranking.table):
        share = percent(ranking.repeat_share)
        points.insert(
            2, ("Only new", f"what the user had before is left out; {share} of targets repeat and are lost then.")
        )
    return points
