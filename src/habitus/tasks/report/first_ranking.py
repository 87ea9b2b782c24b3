"""The first screen of a run of events: what comes next, how often the model tells it, and beside what that stands."""

from __future__ import annotations

from habitus.tasks.report.first import Answer, First, Standing
from habitus.tasks.report.ranked import DRAWN, SHOWN
from habitus.tasks.report.record import Difference, Ranking, Record
from habitus.tasks.report.verdict import outcome_of
from habitus.tasks.report.words import count, gap_place, joined, number, percent, plural, short, span, title

HEADLINES = ("new_hit_rate@10", "hit_rate@10", "recall_weighted")
SAID = {
    "new_hit_rate@10": ("First 10, only new", "had the truth among the first 10, what the user had before left out"),
    "hit_rate@10": ("First 10", "had the truth among the first 10"),
    "recall_weighted": ("First guess", "were told at first guess"),
}


def ranking_first(record: Record) -> First:
    """Put the first screen together from the ranking; without one it says so."""
    ranking = record.ranking or Ranking()
    model = ranking.models[0].name if ranking.models else ranking.table[0].model if ranking.table else "the model"
    who = f"the users of {short(title(record.data.name), 60)}" if record.data and record.data.name else "the users"
    lead = f"Told by {model} from what each user did before, out of everything that could come"
    return First(
        question=f"Which {ranking.field} comes next for {who}?",
        lead=f"{lead}, and tested beside counts on {count(ranking.n_targets)} events." if ranking.table else f"{lead}.",
        asked=_asked(record, ranking),
        targets=[(ranking.field, f"the {ranking.field} of the next event, whenever it comes")],
        answers=_answers(ranking, model),
        answer_note="",
        glance=None,
        verdict=_verdict(_compared(ranking), model),
        standings=[_standing(d) for d in _compared(ranking)],
        sure=_sure(record, ranking),
    )


def _asked(record: Record, ranking: Ranking) -> list[tuple[str, str]]:
    data = record.data
    items: list[tuple[str, str]] = []
    if data and data.name:
        size = f", {count(data.n_events)} events of {count(data.n_users)} users" if data.n_events else ""
        items.append(("Data", f"{title(data.name)}{size}"))
    if ranking.n_targets:
        items.append(("Test", f"{count(ranking.n_targets)} events of {plural(ranking.n_users or 0, 'user')}"))
    if ranking.n_values:
        items.append(("Out of", f"{count(ranking.n_values)} values, all of them ranked"))
    return items


def _answers(ranking: Ranking, model: str) -> list[Answer]:
    row = next((row for row in ranking.table if row.model == model), None)
    found = []
    has_new = row is not None and "new_hit_rate@10" in row.metrics  # then the first guess is often what was had before
    for key in HEADLINES[: 2 if has_new else 3] if row else ():
        estimate = row.metrics.get(key)  # pyright: ignore
        if estimate is not None and estimate.value is not None:
            low, high = percent(estimate.low), percent(estimate.high)
            has_range = estimate.low is not None and estimate.high is not None
            name, words = SAID[key]
            found.append(
                Answer(name, percent(estimate.value), words, f"95 % range {low} to {high}" if has_range else "")
            )
    return found


def _compared(ranking: Ranking) -> list[Difference]:
    """The differences in the first metric that has any."""
    for name in DRAWN:
        rows = [d for d in ranking.differences if d.metric == name and d.value is not None]
        if rows:
            return rows
    return []


def _verdict(rows: list[Difference], model: str) -> str:
    if not rows:
        return "Nothing has been ranked yet: run habitus evaluate RUN."
    words = {"better": "better than", "level": "level with", "worse": "worse than"}
    said = [
        f"{words[outcome]} {joined([d.against for d in rows if outcome_of(d) == outcome])}"
        for outcome in words
        if any(outcome_of(d) == outcome for d in rows)
    ]
    return f"{model} is {joined(said)}."


def _standing(d: Difference) -> Standing:
    at = gap_place(d)
    gap = f"{number(d.value, at, sign=True)} {span(d.low, d.high, at, sign=True)}".strip()
    return Standing(d.against, outcome_of(d), f"{dict(SHOWN)[d.metric]}: {gap}")


def _sure(record: Record, ranking: Ranking) -> list[str]:
    said = []
    if _compared(ranking):
        said.append("In brackets: 95 % intervals over users, paired.")
    if len(record.seeds) == 1 and ranking.differences:
        said.append("Trained once (one seed): a small difference may be the luck of that seed.")
    if ranking.n_unknown:
        said.append(f"{plural(ranking.n_unknown, 'answer')} never seen in training, counted as missed everywhere.")
    return said
