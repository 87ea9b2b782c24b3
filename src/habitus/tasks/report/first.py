"""The first screen: what was asked, what the answer is, how sure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date, timedelta

from habitus.tasks.report import plots
from habitus.tasks.report.ahead import by_day, over_window, trimmed, window
from habitus.tasks.report.blocks import Key, Plot
from habitus.tasks.report.record import DailyTotals, Estimate, Record, Target, Total
from habitus.tasks.report.record_whatif import Change, WhatIf, WhatIfRow
from habitus.tasks.report.verdict import Verdict, idle_words, is_idle, model_of, overall, targets_of, verdicts
from habitus.tasks.report.words import (
    count,
    day,
    days_between,
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
    quantity,
    short,
    span,
    spread,
    title,
)

MOST_CHANGES = 3  # of the calendar, named on the first screen
MOST_TALL = 2  # answers beside which the drawing has its full height
MOST_OTHERS = 2  # calendars with a line of their own there


@dataclass(frozen=True)
class Answer:
    """A headline: what is counted, the figure, its range, and what happened when that is known."""

    name: str
    figure: str
    words: str = ""
    range: str = ""
    actual: str = ""
    others: tuple[str, ...] = ()  # what other calendars would change


@dataclass(frozen=True)
class Standing:
    """One line of "how sure": a target, the outcome of its comparison, and the figures behind it."""

    name: str
    outcome: str
    words: str


@dataclass(frozen=True)
class First:
    """Everything the first screen shows."""

    question: str
    lead: str
    asked: list[tuple[str, str]]
    targets: list[tuple[str, str]]
    answers: list[Answer]
    answer_note: str
    glance: Plot | None
    verdict: str
    standings: list[Standing]
    sure: list[str]
    fill: str = "habitus evaluate RUN"  # the command that fills "how sure"


def first_screen(record: Record) -> First:
    """Put the first screen together from whatever the run holds."""
    found = verdicts(record)
    cutoff, horizon = answer_day(record), record.cutoffs.horizon
    name = record.data.name if record.data and record.data.name else None
    who = f"the users of {short(title(name), 60)}" if name else "the users"
    when = f"in the {plural(horizon, 'day')}" if horizon else "in the days"
    answers, note = _answers(record, cutoff)
    answers = [replace(answer, others=_under_others(record, answer.name)) for answer in answers]
    glance = _glance(record, cutoff, is_low=len(answers) > MOST_TALL)
    return First(
        question=f"What will {who} do {when} after {day(cutoff) if cutoff else 'the cut-off'}?",
        lead=_lead(record, cutoff),
        asked=_asked(record, cutoff, horizon),
        targets=[(t.name, in_words(t)) for t in targets_of(record)],
        answers=answers,
        answer_note=note,
        glance=glance,
        verdict=overall(found, model_of(record)),
        standings=[_standing(v, test_rate(record, v.target)) for v in found],
        sure=_sure(record, cutoff),
    )


def answer_day(record: Record) -> date | None:
    """Give the cut-off of the headline: the latest of totals, daily forecasts, what-if, test; the first there is."""
    for days in (
        [t.cutoff for t in record.totals if t.cutoff],
        [d.cutoff for d in record.daily if d.cutoff],
        [record.whatif.cutoff] if record.whatif and record.whatif.cutoff else [],
        record.cutoffs.test,
    ):
        if days:
            return max(days)
    return None


def _lead(record: Record, cutoff: date | None) -> str:
    model = model_of(record)
    made = f"A forecast by {model}, made from what users did up to and including {day(cutoff)}" if cutoff else (
        f"A forecast by {model}"
    )  # fmt: skip
    n = len(record.cutoffs.test)
    if not record.table and not record.differences:
        return f"{made}."
    tested = f"{plural(n, 'cut-off')} whose outcome is known" if n else "days whose outcome is known"
    return f"{made}, and tested beside simpler baselines on {tested}."


def _asked(record: Record, cutoff: date | None, horizon: int | None) -> list[tuple[str, str]]:
    data = record.data
    items: list[tuple[str, str]] = []
    if data and data.name:
        size = f", {count(data.n_events)} events of {count(data.n_users)} users" if data.n_events else ""
        items.append(("Data", f"{title(data.name)}{size}"))
    known = next((t.n_users for t in (*record.totals, *record.daily) if t.n_users and t.cutoff == cutoff), None)
    if known:
        items.append(("Users", f"{count(known)} known by the cut-off"))
    if cutoff:
        days = record.cutoffs.history
        past = f"the {plural(days, 'day')} up to" if days else "all up to"
        items.append(("Past", f"{past} {day(cutoff)}, the cut-off"))
    if cutoff and horizon:
        ahead = days_between(cutoff + timedelta(days=1), cutoff + timedelta(days=horizon))
        length = plural(horizon, "day").replace(" ", "\u00a0")
        items.append(("Future", f"{ahead} ({length})"))
    elif horizon:
        items.append(("Future", f"the {plural(horizon, 'day')} after the cut-off"))
    if record.whatif and record.whatif.others:
        items.append(("What if", _what_if(record.whatif)))
    return items


def _what_if(whatif: WhatIf) -> str:
    """Say what the other calendars change, event by event, as far as a card has room."""
    changes = [c for c in whatif.changes if c.what]
    said = [f"{c.event} {c.what} {'to ' if c.what == 'moved' else ''}{_on(c)}" for c in changes[:MOST_CHANGES]]
    more = len(changes) - len(said)
    named = joined(said + ([f"{more} more"] if more > 0 else []))
    return named or f"under {joined([f'“{name}”' for name in whatif.others])}"


def _on(change: Change) -> str:
    on = day(change.start, year=False).replace(" ", "\u00a0")
    return on if change.what == "moved" else f"({on})"


def _under_others(record: Record, target: str) -> tuple[str, ...]:
    """Give one short line per other calendar about one target: the difference, and whether it may be noise."""
    whatif = record.whatif
    if whatif is None:
        return ()
    rows = [row for row in whatif.rows if row.target == target and row.calendar in whatif.others[:MOST_OTHERS]]
    return tuple(_under_other(row, len(whatif.others) == 1) for row in rows if row.lead.value is not None)


def _under_other(row: WhatIfRow, is_one: bool) -> str:
    name = "what if" if is_one else f"if “{short(row.calendar, 22)}”"
    found = row.lead
    if found.verdict == "nothing":
        return f"{name}: the same"
    at = gap_place(Estimate(value=found.value, low=found.low, high=found.high), -12)
    at = max(at, 0) if row.unit == "users" else at
    gap = number(found.value, at, sign=True)
    if found.verdict == "noise":
        return f"{name}: {gap}, may be noise"
    return f"{name}: {gap} {span(found.low, found.high, at, sign=True)}".strip()


def _answers(record: Record, cutoff: date | None) -> tuple[list[Answer], str]:
    totals = [t for t in record.totals if t.value is not None and t.cutoff in (None, cutoff)]
    if totals:
        return [_of_total(t, record.cutoffs.horizon) for t in totals], ""
    if record.whatif and not record.daily:
        whatif = record.whatif
        rows = [row for row in whatif.rows if row.calendar == whatif.base and row.total is not None]
        return [_of_total(_as_total(row, whatif), record.cutoffs.horizon or whatif.horizon) for row in rows], ""
    daily = [d for d in record.daily if d.cutoff in (None, cutoff) and any(v is not None for v in d.forecast.value)]
    has_range = any(v is not None for d in daily for v in d.forecast.low)
    note = "Ranges add up the daily bands, as if all days erred the same way: they are wide." if has_range else ""
    return [_of_daily(d) for d in daily], note


def _as_total(row: WhatIfRow, whatif: WhatIf) -> Total:
    """Read the first calendar's total of a what-if as a headline."""
    figures = {"value": row.total, "low": row.total_low, "high": row.total_high, "level": whatif.total_level}
    facts = {"target": row.target, "unit": row.unit, "cutoff": whatif.cutoff, "n_users": row.n_users}
    return Total.model_validate(figures | facts)


def _glance(record: Record, cutoff: date | None, *, is_low: bool) -> Plot | None:
    """The first daily forecast, small: the look of the answer."""
    entry = next((d for d in record.daily if d.cutoff in (None, cutoff) and d.forecast.day), None)
    if entry is None:
        return None
    keys = [Key("line", "ink", "happened"), Key("dash", "model", "forecast")]
    if any(v is not None for v in entry.forecast.low):
        keys.append(Key("band", "band", "band"))
    name = by_day(entry)
    return Plot("glance", name, f"{name}: the past, then the forecast with its band.",
                plots.glance(trimmed(entry, 28), 140 if is_low else 165), tuple(keys))  # fmt: skip


def _of_total(total: Total, horizon: int | None) -> Answer:
    at = place(total.value, total.low, total.high)
    if total.unit == "users":
        at = max(at, 0)
    figure, words = quantity(total.value, total.unit, at), f"over {plural(horizon, 'day')}" if horizon else ""
    if total.unit == "users" and total.n_users:
        figure, words = number(total.value, at), f"of {count(total.n_users)} users"
    return Answer(
        total.target,
        figure,
        words,
        _range(total.low, total.high, total.unit, at, total.level),
        _happened(total.actual, total.unit, total.low, total.high),
    )


def _of_daily(entry: DailyTotals) -> Answer:
    ahead = entry.forecast
    value, low, high, actual = (over_window(entry, v) for v in (ahead.value, ahead.low, ahead.high, ahead.actual))
    at = max(place(value, low, high), 0)
    return Answer(
        entry.target,
        quantity(value, entry.unit, at),
        window(entry),
        _range(low, high, entry.unit, at, None),
        _happened(actual, entry.unit, low, high),
    )


def _range(low: float | None, high: float | None, unit: str | None, at: int, level: float | None) -> str:
    words = spread(low, high, unit, at)
    return f"{percent(level) + ' ' if level else ''}range {words}" if words else "no range was computed"


def _happened(actual: float | None, unit: str | None, low: float | None, high: float | None) -> str:
    if actual is None:
        return ""
    text = number(actual, 0) if unit == "users" else quantity(actual, unit, place(actual, None, None))
    if low is None or high is None:
        return f"happened: {text}"
    side = "inside" if low <= actual <= high else "above" if actual > high else "below"
    return f"happened: {text}, {side} the range"


def _standing(verdict: Verdict, rate: float | None) -> Standing:
    name, target = metric(verdict.metric), verdict.target
    if verdict.outcome == "undefined":
        return Standing(target.name, "undefined", f"{name.title} cannot be computed: {why_undefined(rate)}")
    if verdict.outcome == "untested":
        return Standing(target.name, "untested", "no comparison with an interval was made")
    ours, theirs, difference = verdict.model_value, verdict.gate_value, verdict.difference
    at = metric_place(ours, name.in_units)
    words = f"{name.title} {number(ours.value, at)} against {number(theirs.value, at)} of {verdict.against}"
    if difference is not None and difference.value is not None:
        at = gap_place(difference)
        words += f": {number(difference.value, at, sign=True)} {span(difference.low, difference.high, at, sign=True)}"
    words += f". No better than {idle_words(verdict)}." if is_idle(verdict) else ""
    return Standing(target.name, verdict.outcome, words)


def test_rate(record: Record, target: Target) -> float | None:
    """Give the share of test rows above zero, or that of the training rows when the test was not counted."""
    return record.test_rates.get(target.name, target.rate)


def why_undefined(rate: float | None) -> str:
    """Say why a figure is absent."""
    return "not one test row had this outcome." if rate == 0 else "the run gives no value."


def _sure(record: Record, cutoff: date | None) -> list[str]:
    model, sentences = model_of(record), _metric_words(record)
    errors: list[str] = []
    for target in targets_of(record):
        cell = record.cell(target.name, model, "ece")
        if is_binary(target) and cell is not None and cell.value is not None and test_rate(record, target) != 0:
            at = metric_place(cell, False) + 2
            errors.append(f"{number(100 * cell.value, at)} ({target.name})")
    if errors:
        sentences.append(f"Stated chances are off by {joined(errors)} points in 100 on average.")
    for entry in record.daily:
        known = [ok for ok in plots.inside(entry) if ok is not None]
        if known and entry.cutoff in (None, cutoff):
            level = f"{percent(entry.level)} band" if entry.level else "band"
            sentences.append(f"The daily {level} of {entry.target} held {sum(known)} of {len(known)} days.")
    sentences += _whatif_words(record)
    if len(record.seeds) == 1 and record.differences:
        sentences.append("Trained once (one seed): a small difference may be the luck of that seed.")
    return sentences


def _whatif_words(record: Record) -> list[str]:
    """Say what the answers of the what-if were held against."""
    whatif = record.whatif
    if whatif is None or not whatif.others:
        return []
    exact = bool(whatif.null) and all(test.largest == 0 for test in whatif.null)
    words = " A change of nothing gave exactly 0." if exact else ""
    if not whatif.placebo:
        return [f"What if: no placebo stands beside the answer.{words}"]
    return [f"What if: noise is what trainings disagree on, or what a placebo moves as much.{words}"]


def _metric_words(record: Record) -> list[str]:
    """Say what the metrics of the standings mean, once, as briefly as can be."""
    named = dict.fromkeys(
        metric(v.metric).title for v in verdicts(record) if v.outcome not in ("untested", "undefined")
    )
    brief = {
        "AUC": "AUC: how well users are ranked, from 0.5 (coin toss) to 1.",
        "WAPE": "WAPE: error relative to the total; 0 is perfect, forecasting nothing scores 1.",
    }
    words = " ".join(brief[title] for title in named if title in brief)
    return [f"{words} In brackets: 95 % intervals."] if words else []
