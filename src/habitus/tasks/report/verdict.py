"""Does the model win, level or lose: one verdict per target, against the best of the gate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from habitus.tasks.report.record import Difference, Estimate, Record, Target
from habitus.tasks.report.words import joined, metric, plural, primary

Outcome = Literal["better", "level", "worse", "untested", "undefined"]
SYMBOL = {"better": "▲", "level": "○", "worse": "▼", "untested": "?", "undefined": "–"}
WORD = {
    "better": "better",
    "level": "no clear difference",
    "worse": "worse",
    "untested": "not compared",
    "undefined": "cannot be scored",
}

NOTHING = Estimate()


@dataclass(frozen=True)
class Verdict:
    """The model beside the best gate row of one target, in the metric that decides there."""

    target: Target
    outcome: Outcome
    metric: str = ""
    model: str = ""
    against: str = ""
    model_value: Estimate = NOTHING
    gate_value: Estimate = NOTHING
    difference: Difference | None = None


def verdicts(record: Record) -> list[Verdict]:
    """Give one verdict per target, in the order of the file.

    The best gate row is picked on the test set itself, which favours the gate a little.
    """
    return [verdict_of(record, target, model_of(record)) for target in targets_of(record)]


def targets_of(record: Record) -> list[Target]:
    """List the declared targets, and after them any that only the tables name."""
    named = {t.name for t in record.targets}
    mentioned = dict.fromkeys(row.target for row in (*record.table, *record.differences))
    return [*record.targets, *(Target(name=name) for name in mentioned if name not in named)]


def outcome_of(difference: Difference) -> Outcome:
    """Read one row of differences: the file's own verdict, else the interval and the metric's better side."""
    if difference.is_better is not None:
        return "better" if difference.is_better else "worse"
    if difference.low is None or difference.high is None:
        return "untested"
    if difference.low <= 0 <= difference.high:
        return "level"
    side = metric(difference.metric).better
    if not side:
        return "untested"
    return "better" if (difference.low > 0) == (side > 0) else "worse"


def model_of(record: Record) -> str:
    """Name the model that is judged: the first of role "model"."""
    named = record.names("model") or [row.model for row in record.differences]
    return named[0] if named else "the model"


def best_gate(record: Record, target: str, name: str) -> str | None:
    """Name the gate row with the best value of a metric, or None when none has one."""
    cells = {gate: record.cell(target, gate, name) for gate in record.names("gate")}
    values = {gate: cell.value for gate, cell in cells.items() if cell is not None and cell.value is not None}
    if not values:
        return None
    side = metric(name).better or 1
    return max(values, key=lambda gate: side * values[gate])


def is_idle(verdict: Verdict) -> bool:
    """Tell whether the model scores what no knowledge at all would: WAPE 1 (forecast nothing), or AUC about 0.5."""
    value, low = verdict.model_value.value, verdict.model_value.low
    if metric(verdict.metric).title == "WAPE":
        return value is not None and value >= 0.995
    return metric(verdict.metric).title == "AUC" and low is not None and low <= 0.5


def idle_words(verdict: Verdict) -> str:
    """Say what an idle score equals."""
    return "forecasting nothing" if metric(verdict.metric).title == "WAPE" else "a coin toss"


def overall(found: list[Verdict], model: str) -> str:
    """Say in short sentences where the model stands, the losses as plainly as the wins.

    >>> overall([Verdict(Target(name="buy"), "level"), Verdict(Target(name="spend"), "worse")], "LUMOS")
    'LUMOS does not beat the best baseline on any target. No clear difference on buy. Worse on spend.'
    """
    names = {o: [v.target.name for v in found if v.outcome == o] for o in ("better", "level", "worse")}
    n = sum(len(v) for v in names.values())
    idle = [v for v in found if is_idle(v)]
    if not n:
        return "Nothing has been compared with a baseline yet."
    wins = len(names["better"])
    head = f"on {wins} of {plural(n, 'target')} ({joined(names['better'])})" if wins else "on any target"
    if wins == n:
        head = f"on {names['better'][0]}" if n == 1 else f"on all {n} targets"
    parts = [f"{model} {'beats' if wins else 'does not beat'} the best baseline {head}."]
    parts += [f"No clear difference on {_listed(names['level'], n)}."] if names["level"] else []
    parts += [f"Worse on {_listed(names['worse'], n)}."] if names["worse"] else []
    for words in dict.fromkeys(idle_words(v) for v in idle):
        of_kind = [v.target.name for v in idle if idle_words(v) == words]
        parts.append(f"On {joined(of_kind)} it is no better than {words}.")
    return " ".join(parts)


def _listed(names: list[str], n: int) -> str:
    return f"all {n}" if len(names) == n > 1 else joined(names)


def verdict_of(record: Record, target: Target, model: str) -> Verdict:
    """Judge one model, or a blend, on one target."""
    rows = [row for row in record.table if row.target == target.name]
    present = list(dict.fromkeys(key for row in rows for key in row.metrics))
    present = present or list(dict.fromkeys(d.metric for d in record.differences if d.target == target.name))
    if not present:
        return Verdict(target, "untested", model=model)
    name = primary(target, present)[0]
    ours = record.cell(target.name, model, name)
    if rows and ours is None:
        return Verdict(target, "undefined", name, model)
    gate = best_gate(record, target.name, name)
    theirs = record.cell(target.name, gate, name) if gate else None
    found = [
        d for d in record.differences if (d.target, d.metric, d.model, d.against) == (target.name, name, model, gate)
    ]
    outcome = outcome_of(found[0]) if found else "untested"
    return Verdict(
        target, outcome, name, model, gate or "", ours or NOTHING, theirs or NOTHING, found[0] if found else None
    )
