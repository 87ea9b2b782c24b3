"""The what-if section: totals under each calendar, the changed events, and the placebo beside the answer."""

from __future__ import annotations

from habitus.tasks.report import plots
from habitus.tasks.report.blocks import Cell, Key, Missing, Plot, Points, Prose, Row, Section, Table
from habitus.tasks.report.record import Change, Estimate, Record, WhatIf, WhatIfRow
from habitus.tasks.report.words import (
    UNKNOWN,
    count,
    day,
    gap_place,
    joined,
    number,
    percent,
    place,
    plural,
    quantity,
    sentence,
    span,
)

BRIEF = {
    "randomised": "drawn by lot: reads as cause",
    "targeted": "sent to chosen users: association only",
    "shared by all": "the sample is its past occurrences",
}
KINDS = {
    "randomised": "who got it was drawn by lot, so the answer can be read as cause and effect.",
    "targeted": "it was sent to chosen users, so the answer is an association: they may have differed to begin with.",
    "shared by all": "everybody got it on the same days, so the sample is its past occurrences, not the users.",
}
NO_INTERVAL = (
    "No interval was computed: it comes from how far trainings with other seeds differ, and needs at least three. "
    "Any of these differences may be noise."
)
FEW = 3  # past occurrences below which an event shared by all is a guess


def whatif_section(record: Record) -> Section:
    """Totals by calendar with differences and intervals, and how far to trust them."""
    section = Section("what-if", "What if", "How would another calendar of events change the forecast?")
    whatif = record.whatif
    if whatif is None or not whatif.rows:
        command = "habitus whatif RUN --calendar base.csv --calendar other.csv"
        section.blocks.append(Missing("No other calendar has been tried.", command))
        return section
    base = whatif.calendars[0] if whatif.calendars else whatif.rows[0].calendar
    others = [c for c in dict.fromkeys(row.calendar for row in whatif.rows) if c != base]
    section.blocks.append(Prose(_intro(whatif, base, others)))
    if whatif.changes:
        section.blocks.append(_changes(whatif.changes))
        section.blocks.extend(Prose(f"{c.event}: {words}", "warning") for c in whatif.changes if (words := _warning(c)))
    section.blocks.extend(_forest(whatif, base))
    if others and not any(row.low is not None for row in whatif.rows if row.calendar != base):
        section.blocks.append(Prose(NO_INTERVAL, "warning"))
    section.blocks.append(_totals(whatif, base))
    section.blocks.extend(_placebo(whatif))
    section.blocks.extend(_daily(whatif, i) for i in range(len(whatif.daily)) if whatif.daily[i].values)
    section.blocks.append(Points(_how_to_read(whatif), "How to read a what-if"))
    return section


def _intro(whatif: WhatIf, base: str, others: list[str]) -> str:
    n = next((row.n_users for row in whatif.rows if row.n_users), None)
    who = f"the same {count(n)} users" if n else "the same users"
    when = f" after {day(whatif.cutoff)}" if whatif.cutoff else ""
    if not others:
        return (
            f"Only one calendar was given, “{base}”: its totals for {who}{when} are below, "
            "and there is nothing to compare them with. "
            "Give a second calendar to ask what it would change."
        )
    names = joined([f"“{name}”" for name in others])
    return f"The forecast for {who}{when} was made under “{base}” and again under {names}; nothing else was changed."


def _changes(changes: list[Change]) -> Table:
    rows = [
        (Cell(c.event), Cell(c.calendar), Cell(c.what or UNKNOWN), Cell(c.type or UNKNOWN), Cell(day(c.start)),
         Cell(c.kind or UNKNOWN, BRIEF.get(c.kind or "", "")), Cell(count(c.n_past)))
        for c in changes
    ]  # fmt: skip
    head = ("Event", "Calendar", "Change", "Type", "Starts", "Kind", "Past occurrences")
    return Table("What differs from the first calendar", head, rows, frozenset({6}))


def _warning(change: Change) -> str | None:
    if change.warning:
        return sentence(change.warning)
    if change.kind == "shared by all" and change.n_past is not None and change.n_past < FEW:
        return f"seen {plural(change.n_past, 'time')} in the past: too few to learn from, read the answer as a guess."
    return None


def _share(row: WhatIfRow, base: WhatIfRow | None) -> tuple[float | None, float | None, float | None]:
    """Give difference, low and high in percent of the first calendar's total."""
    total = base.total if base else None
    if not total or row.difference is None:
        return None, None, None
    low, high = (None if v is None else 100 * v / abs(total) for v in (row.low, row.high))
    return 100 * row.difference / abs(total), low, high


def _forest(whatif: WhatIf, base: str) -> list[Row]:
    bases = {row.target: row for row in whatif.rows if row.calendar == base}
    lines = []
    for target in dict.fromkeys(row.target for row in whatif.rows):
        real = [row for row in whatif.rows if row.target == target and row.calendar != base]
        fake = [row for row in whatif.placebo if row.target == target]
        for kind, rows in (("answer", real), ("placebo", fake)):
            for row in rows:
                value, low, high = _share(row, bases.get(target))
                if value is not None:
                    lines.append((f"{target}: {_name(row) if kind == 'answer' else 'placebo'}", kind, value, low, high))
    if not any(kind == "answer" for _, kind, *_ in lines):
        return []
    answers = [(low, high) for _, kind, _, low, high in lines if kind == "answer"]
    known = [low <= 0 <= high for low, high in answers if low is not None and high is not None]
    keys = [Key("circle", "model", "interval leaves out 0")] if False in known else []
    keys += [Key("circle-open", "model", "interval holds 0")] if True in known else []
    keys += [Key("x-thin", "model", "no interval known")] if len(known) < len(answers) else []
    keys += [Key("diamond-open", "muted", "placebo: should be 0")] if whatif.placebo else []
    alt = "; ".join(
        f"{label} {number(v, gap_place(Estimate(value=v, low=lo, high=hi), -2), sign=True)} %"
        for label, _, v, lo, hi in lines
    )
    return [Row((Plot("whatif-forest", f"Change of the total against “{base}”", f"Changes in percent. {alt}.",
                 plots.whatif_forest(lines), tuple(keys)),))]  # fmt: skip


def _totals(whatif: WhatIf, base: str) -> Table:
    """One row per target, one column per calendar: the total, and below it the difference to the first."""
    calendars = list(dict.fromkeys([base, *(row.calendar for row in whatif.rows)]))
    cells = {(row.target, row.calendar): row for row in whatif.rows}
    rows = [
        (Cell(target), *(_total(cells.get((target, c)), cells.get((target, base)), c == base) for c in calendars))
        for target in dict.fromkeys(row.target for row in whatif.rows)
    ]
    caption = "Totals over the window by calendar, and the difference to the first with its interval"
    return Table(caption, ("Target", *calendars), rows, frozenset(range(1, len(calendars) + 1)), is_stacked=True)


def _total(row: WhatIfRow | None, first: WhatIfRow | None, is_first: bool) -> Cell:
    if row is None or row.total is None:
        return Cell(UNKNOWN)
    at = 0 if row.unit == "users" else place(row.total, None, None)
    text = quantity(row.total, row.unit, at)
    if is_first or row.difference is None:
        return Cell(text)
    at = gap_place(Estimate(value=row.difference, low=row.low, high=row.high), -12)
    at = max(at, 0) if row.unit == "users" else at
    share, *_ = _share(row, first)
    change = "" if share is None else f", {percent(share / 100, sign=True)}"
    gap = f"{number(row.difference, at, sign=True)} {span(row.low, row.high, at, sign=True)}".strip()
    return Cell(text, f"{gap}{change}")


def _placebo(whatif: WhatIf) -> list[Prose]:
    if not whatif.placebo:
        return [
            Prose(
                "No placebo was run, so it is not known how much the forecast moves when nothing of weight is changed.",
                "warning",
            )
        ]
    moved = [
        row for row in whatif.placebo if row.low is not None and row.high is not None and not row.low <= 0 <= row.high
    ]
    names = joined(list(dict.fromkeys(_name(row) for row in whatif.placebo)))
    if moved:
        targets = joined(list(dict.fromkeys(row.target for row in moved)))
        return [Prose(f"The placebo ({names}) should change nothing, but it moved {targets}. "
                      "The model reacts to changes without weight: do not act on effects of that size.",
                      "warning")]  # fmt: skip
    are_known = all(row.low is not None and row.high is not None for row in whatif.placebo)
    holds = ", and its intervals hold 0" if are_known else ""
    words = f"The placebo ({names}) should change nothing{holds}. Read an effect no larger than the placebo's as noise."
    return [Prose(words, "note")]


def _daily(whatif: WhatIf, i: int) -> Plot:
    entry = whatif.daily[i]
    first, *others = entry.values
    keys = [Key(plots.SERIES[k % 5][1], plots.SERIES[k % 5][0], name) for k, name in enumerate(others or [first])]
    unit = next((f": {row.unit}" for row in whatif.rows if row.target == entry.target and row.unit), "")
    title = f"{entry.target}{unit} by day" + (f", change against “{first}”" if others else f" under “{first}”")
    alt = f"{title}, for {joined(others)}." if others else f"{title}."
    return Plot(f"whatif-daily-{i}", title, alt, plots.whatif_daily(entry), tuple(keys))


def _how_to_read(whatif: WhatIf) -> list[tuple[str, str]]:
    kinds = dict.fromkeys(c.kind for c in whatif.changes if c.kind)
    items = [(kind, KINDS[kind]) for kind in kinds if kind in KINDS]
    level = f"a {percent(whatif.level)} interval" if whatif.level else "an interval"
    items.append(("[low, high]", f"{level} of the difference to the first calendar. It holds the uncertainty of "
                  "the model's answer, not the chance that the world reacts otherwise "
                  "than it did in the past."))  # fmt: skip
    items.append(("Placebo", "a change that must not matter, such as an event moved to a random past day. It shows "
                  "how far the forecast moves for no reason."))  # fmt: skip
    return items


def _name(row: WhatIfRow) -> str:
    name = row.event or row.calendar
    return name.removeprefix("placebo").lstrip(": ") or "nothing of weight"
