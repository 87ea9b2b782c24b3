"""The what-if section: what was changed, what it changes, the placebos beside it, by day, by segment, by event."""

from __future__ import annotations

from habitus.tasks.report import plots_whatif as plots
from habitus.tasks.report.blocks import Cell, Key, Missing, Plot, Points, Prose, Row, Section, Table
from habitus.tasks.report.breakdown import event_blocks, segment_blocks
from habitus.tasks.report.plots import SERIES
from habitus.tasks.report.plots_whatif import Line
from habitus.tasks.report.record import Estimate, Record
from habitus.tasks.report.record_whatif import Change, Placebo, WhatIf, WhatIfRow
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
    spread,
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
# kind of placebo: what it is called in a drawing, whether it should be near 0, and what it is
PLACEBOS = {
    "just after": ("placebo: just after the window", True,
                   "the changed events moved to the days just after the forecast ends. Little should move."),
    "past day": ("placebo: on a past day", True,
                 "the changed events moved to a random day of the past. Little should move."),
    "other days": ("same change, other days", False,
                   "the same change on other days of the window. Where it is as large as the answer, the date is "
                   "not special."),
    "other users": ("same change, other users", False,
                    "as many other users of like activity. Where it is as large as the answer, these users are not "
                    "special."),
}  # fmt: skip
NO_INTERVAL = (
    "No interval was computed: it comes from how far trainings with other seeds differ, and needs at least three. "
    "Any of these differences may be noise."
)
FEW = 3  # past occurrences below which an event shared by all is a guess


def whatif_section(record: Record) -> Section:
    """The answer in a sentence, then the figures behind it and how far to trust them."""
    section = Section("what-if", "What if", "How would another calendar of events change the forecast?")
    whatif = record.whatif
    if whatif is None or not whatif.rows:
        command = "habitus whatif RUN --calendar base.csv --edit move_sale.csv"
        section.blocks.append(Missing("No other calendar has been tried.", command))
        return section
    section.blocks.append(Prose(_intro(whatif)))
    if whatif.changes:
        section.blocks.append(_changes(whatif.changes))
        section.blocks.extend(Prose(f"{c.event}: {words}", "warning") for c in whatif.changes if (words := _warning(c)))
    section.blocks.extend(
        Prose(f"{late.event} (“{late.calendar}”) is announced after the cut-off, so it changes nothing.", "note")
        for late in whatif.late
    )
    section.blocks.extend(Prose(answer_words(whatif, name)) for name in whatif.others)
    section.blocks.extend(_forests(whatif))
    section.blocks.extend(_notes(whatif))
    section.blocks.append(_totals(whatif))
    section.blocks.extend(block for i in range(len(whatif.daily)) for block in _daily(whatif, i))
    section.blocks.extend(segment_blocks(whatif))
    section.blocks.extend(event_blocks(whatif))
    section.blocks.append(Points(_how_to_read(whatif), "How to read a what-if"))
    return section


def answer_words(whatif: WhatIf, calendar: str) -> str:
    """Say in one or two sentences what a calendar changes."""
    rows = [row for row in whatif.rows if row.calendar == calendar and row.difference is not None]
    clear = [f"{row.target} {_moved(row)}" for row in rows if row.verdict == "clear"]
    doubtful = [row.target for row in rows if row.verdict == "noise"]
    unknown = [f"{row.target} {_moved(row)}" for row in rows if row.verdict == "unknown"]
    has_placebo = any(p.calendar == calendar for p in whatif.placebo)
    than = "than trainings disagree" + (", and more than any placebo moved it" if has_placebo else "")
    words = [f"Under “{calendar}”: {joined(clear)}; more {than}." if clear else ""]
    if doubtful:
        start = "No change" if clear else f"Under “{calendar}”: no change"
        words.append(f"{start} that can be told from noise for {joined(doubtful)}.")
    if unknown:
        words.append(f"Under “{calendar}”: {joined(unknown)}; how sure is not known.")
    if rows and all(row.verdict == "nothing" for row in rows):
        words.append(f"Under “{calendar}” nothing changes, for anybody.")
    return " ".join(word for word in words if word)


def _moved(row: WhatIfRow) -> str:
    at = _place(row)
    gap = quantity(row.difference, row.unit, at, sign=True)
    return f"{gap} {span(row.low, row.high, at, sign=True)}".strip()


def _place(row: WhatIfRow) -> int:
    at = gap_place(Estimate(value=row.difference, low=row.low, high=row.high), -12)
    return max(at, 0) if row.unit == "users" else at


def _intro(whatif: WhatIf) -> str:
    n = next((row.n_users for row in whatif.rows if row.n_users), None)
    who = f"the same {count(n)} users" if n else "the same users"
    when = f" after {day(whatif.cutoff)}" if whatif.cutoff else ""
    base, others = whatif.base, whatif.others
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
        (Cell(c.event), Cell(c.calendar), Cell(c.what or UNKNOWN), Cell(c.type or UNKNOWN),
         Cell(day(c.start), f"before: {day(c.was)}" if c.was else ""),
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


# effects beside placebos -------------------------------------------------------------------------------------------


def _forests(whatif: WhatIf) -> list[Row]:
    """One drawing per target: the answers, and below each its placebos."""
    drawn = []
    for i, target in enumerate(dict.fromkeys(row.target for row in whatif.rows)):
        base = next((row for row in whatif.rows if (row.target, row.calendar) == (target, whatif.base)), None)
        lines = [line for name in whatif.others for line in _lines(whatif, target, name, base)]
        if not lines:
            continue
        keys = tuple(
            Key(symbol, colour, words)
            for kind, (symbol, colour, words) in plots.MARKS.items()
            if any(line.kind == kind for line in lines)
        )
        alt = "; ".join(f"{line.label} {line.text.format(' %')}" for line in lines)
        title = f"{target}: change of the total against “{whatif.base}”"
        drawn.append(Plot(f"whatif-forest-{i}", title, f"Changes in percent. {alt}.", plots.forest(lines, " %"), keys))
    return [Row(tuple(drawn[i : i + 2])) for i in range(0, len(drawn), 2)]


def _lines(whatif: WhatIf, target: str, calendar: str, base: WhatIfRow | None) -> list[Line]:
    found: list[Line] = []
    for row in (*whatif.rows, *whatif.placebo):
        value, low, high = _share(row, base)
        if (row.target, row.calendar) != (target, calendar) or value is None:
            continue
        if isinstance(row, Placebo):
            label, is_null, _ = PLACEBOS.get(row.kind, (row.kind, True, ""))
            found.append(Line(label, "placebo" if is_null else "alike", value, low, high))
        else:
            kind = {"clear": "clear", "unknown": "unknown"}.get(row.verdict, "noise")
            found.append(Line(f"“{calendar}”", kind, value, low, high))
    return found


def _share(row: WhatIfRow, base: WhatIfRow | None) -> tuple[float | None, float | None, float | None]:
    """Give difference, low and high in percent of the first calendar's total."""
    total = base.total if base else None
    if not total or row.difference is None:
        return None, None, None
    low, high = (None if v is None else 100 * v / abs(total) for v in (row.low, row.high))
    return 100 * row.difference / abs(total), low, high


def _notes(whatif: WhatIf) -> list[Prose]:
    """Say what the placebos say, and what is missing."""
    notes = []
    if whatif.others and not any(row.low is not None for row in whatif.rows if row.calendar != whatif.base):
        notes.append(Prose(NO_INTERVAL, "warning"))
    for test in whatif.null[:1]:
        worst = max((t.largest or 0.0) for t in whatif.null)
        said = joined([t.test for t in whatif.null])
        notes.append(
            Prose(f"Test of nothing ({said}): exactly 0 for every user and day.", "note")
            if worst == 0
            else Prose(
                f"Test of nothing ({test.test}): an answer moved by {worst:g}, so trust no answer here.", "warning"
            )
        )
    if not whatif.placebo and whatif.others:
        notes.append(
            Prose("No placebo was run, so it is not known how much the forecast moves when nothing of weight is "
                  "changed.", "warning")
        )  # fmt: skip
        return notes
    for calendar in whatif.others:
        beaten = [row.target for row in whatif.rows if row.calendar == calendar and _is_beaten(row)]
        beaten = [t for t in beaten if _largest_null(whatif, t, calendar) is not None]
        if beaten:
            notes.append(
                Prose(f"Under “{calendar}” a placebo that should change nothing moved {joined(beaten)} about as much "
                      "as the answer. Do not act on effects of that size.", "warning")
            )  # fmt: skip
    return notes


def _is_beaten(row: WhatIfRow) -> bool:
    """Tell whether only a placebo speaks against the answer: its own interval leaves out 0."""
    return row.verdict == "noise" and row.low is not None and row.high is not None and not row.low <= 0 <= row.high


def _largest_null(whatif: WhatIf, target: str, calendar: str) -> float | None:
    ends = [
        abs(end)
        for p in whatif.placebo
        if (p.target, p.calendar) == (target, calendar) and PLACEBOS.get(p.kind, ("", True, ""))[1]
        for end in (p.low, p.high)
        if end is not None
    ]
    return max(ends, default=None)


# totals and days ---------------------------------------------------------------------------------------------------


def _totals(whatif: WhatIf) -> Table:
    """One row per target, one column per calendar: the total, and below it the difference to the first."""
    calendars = [whatif.base, *whatif.others]
    cells = {(row.target, row.calendar): row for row in whatif.rows}
    rows = [
        (Cell(target), *(_total(whatif, cells.get((target, c)), cells.get((target, whatif.base))) for c in calendars))
        for target in dict.fromkeys(row.target for row in whatif.rows)
    ]
    caption = "Totals over the window by calendar, and the difference to the first with its interval"
    return Table(caption, ("Target", *calendars), rows, frozenset(range(1, len(calendars) + 1)), is_stacked=True)


def _total(whatif: WhatIf, row: WhatIfRow | None, first: WhatIfRow | None) -> Cell:
    if row is None or row.total is None:
        return Cell(UNKNOWN)
    at = 0 if row.unit == "users" else place(row.total, None, None)
    text = quantity(row.total, row.unit, at)
    if row is first or row.difference is None:
        near = place(row.total, row.total_low, row.total_high)
        said = spread(row.total_low, row.total_high, None, near)
        level = f"{percent(whatif.total_level)} " if whatif.total_level else ""
        return Cell(text, f"{level}range {said}" if said else "")
    at = _place(row)
    share, *_ = _share(row, first)
    change = "" if share is None else f", {percent(share / 100, sign=True)}"
    gap = f"{number(row.difference, at, sign=True)} {span(row.low, row.high, at, sign=True)}".strip()
    word = {"clear": ", clear of noise", "noise": ", may be noise"}.get(row.verdict, "")
    return Cell(text, f"{gap}{change}{word}")


def _daily(whatif: WhatIf, i: int) -> list[Row]:
    entry = whatif.daily[i]
    if not entry.values:
        return []
    first, *others = entry.values
    unit = entry.unit or next((row.unit for row in whatif.rows if row.target == entry.target and row.unit), None)
    name = f"{entry.target}{f': {unit}' if unit else ''} by day"
    level = f"{percent(entry.level)} band" if entry.level else "band"
    has_band = any(v is not None for values in entry.low.values() for v in values)
    series = [Key(SERIES[k % 5][1], SERIES[k % 5][0], calendar) for k, calendar in enumerate(others)]
    keys = [Key("circle", "ink", first), *series, *([Key("band", "band", f"{level} of “{first}”")] if has_band else [])]
    if has_band and len(others) == 1:
        keys.append(Key("dot", "model", f"band of “{others[0]}”"))
    both = Plot(
        f"whatif-days-{i}", name, f"{name} under {joined([first, *others])}.", plots.futures(entry), tuple(keys)
    )
    if not others:
        return [Row((both,))]
    title = f"{name}: change against “{first}”"
    moved = Plot(f"whatif-change-{i}", title, f"{title}, for {joined(others)}.", plots.change(entry), tuple(series))
    return [Row((both, moved))]


def _how_to_read(whatif: WhatIf) -> list[tuple[str, str]]:
    kinds = dict.fromkeys(c.kind for c in whatif.changes if c.kind)
    items = [(kind, KINDS[kind]) for kind in kinds if kind in KINDS]
    level = f"a {percent(whatif.level)} interval" if whatif.level else "an interval"
    members = f"{plural(whatif.n_members, 'training')} with other seeds" if whatif.n_members else "trainings"
    items.append(("[low, high] of a difference", f"{level}: how far {members} disagree. It holds the uncertainty of "
                  "the model's answer, not the chance that the world reacts otherwise "
                  "than it did in the past."))  # fmt: skip
    if any(row.total_low is not None for row in whatif.rows):
        share = percent(whatif.total_level) if whatif.total_level else "most"
        seen = plural(whatif.n_cutoffs, "earlier cut-off") if whatif.n_cutoffs else "earlier cut-offs"
        items.append(("range of a total", f"{share} of totals at {seen} fell as near to their forecast. What both "
                      "futures have in common is in it, so it says nothing about their difference."))  # fmt: skip
    for kind in dict.fromkeys(p.kind for p in whatif.placebo):
        if kind in PLACEBOS:
            items.append((PLACEBOS[kind][0].removeprefix("placebo: "), PLACEBOS[kind][2]))
    if whatif.arrivals.n_users is not None and whatif.arrivals.n_days:
        seen = f"In the last {plural(whatif.arrivals.n_days, 'day')} before it, {count(whatif.arrivals.n_users)} did."
        items.append(("newcomers", f"no total holds users who will first appear after the cut-off. {seen}"))
    return items
