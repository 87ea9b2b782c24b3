"""The what-if section: what was changed, what it changes, the placebos beside it, by day, by segment, by event."""

from __future__ import annotations

from habitus.tasks.report import plots_whatif as plots
from habitus.tasks.report.blocks import Cell, Key, Missing, Plot, Points, Prose, Row, Section, Table
from habitus.tasks.report.breakdown import event_blocks, segment_blocks
from habitus.tasks.report.plots import SERIES
from habitus.tasks.report.plots_whatif import Line
from habitus.tasks.report.record import Estimate, Record
from habitus.tasks.report.record_whatif import Change, Effect, Placebo, WhatIf, WhatIfDaily, WhatIfRow
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
READS = {"clear": "clear of noise", "noise": "may be noise", "nothing": "no change", "unknown": "how sure is not known"}
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
    rows = [row for row in whatif.rows if row.calendar == calendar and row.lead.value is not None]
    clear = [f"{row.target} {_moved(row)}" for row in rows if row.lead.verdict == "clear"]
    doubtful = [row.target for row in rows if row.lead.verdict == "noise"]
    unknown = [f"{row.target} {_moved(row)}" for row in rows if row.lead.verdict == "unknown"]
    has_placebo = any(p.calendar == calendar for p in whatif.placebo)
    than = "than trainings disagree" + (", and more than any placebo moved it" if has_placebo else "")
    words = [f"Under “{calendar}”: {joined(clear)}; more {than}." if clear else ""]
    if doubtful:
        start = "No change" if clear else f"Under “{calendar}”: no change"
        words.append(f"{start} that can be told from noise for {joined(doubtful)}.")
    if unknown:
        words.append(f"Under “{calendar}”: {joined(unknown)}; how sure is not known.")
    if rows and all(row.lead.verdict == "nothing" for row in rows):
        words.append(f"Under “{calendar}” nothing changes, for anybody.")
    return " ".join(word for word in words if word)


def _moved(row: WhatIfRow) -> str:
    found, at = row.lead, _place(row.lead, row.unit)
    return f"{quantity(found.value, row.unit, at, sign=True)} {span(found.low, found.high, at, sign=True)}".strip()


def _place(effect: Effect, unit: str | None) -> int:
    at = gap_place(Estimate(value=effect.value, low=effect.low, high=effect.high), -12)
    return max(at, 0) if unit == "users" else at


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
    """The answer, its placebos, and last the other reading of the answer where there are two."""
    beside = sorted(whatif.placebo, key=lambda p: list(PLACEBOS).index(p.kind) if p.kind in PLACEBOS else 0)
    rows = [row for row in (*whatif.rows, *beside) if (row.target, row.calendar) == (target, calendar)]
    lines: list[Line | None] = []
    for row in rows:
        if isinstance(row, Placebo):
            label, is_null, _ = PLACEBOS.get(row.kind, (row.kind, True, ""))
            lines.append(_line(label, "placebo" if is_null else "alike", row.lead, base))
        else:
            kind = {"clear": "clear", "unknown": "unknown"}.get(row.lead.verdict, "noise")
            lines.append(_line(f"“{calendar}”", kind, row.lead, base))
    answer = next((row for row in rows if not isinstance(row, Placebo)), None)
    if answer is not None and answer.is_by_days:
        lines.append(_line("the answer, window as a whole", "window", answer.by_window, base))
    return [line for line in lines if line is not None]


def _line(label: str, kind: str, effect: Effect, base: WhatIfRow | None) -> Line | None:
    value, low, high = _share(effect, base)
    return None if value is None else Line(label, kind, value, low, high)


def _share(effect: Effect, base: WhatIfRow | None) -> tuple[float | None, float | None, float | None]:
    """Give difference, low and high in percent of the first calendar's total."""
    total = base.total if base else None
    if not total or effect.value is None:
        return None, None, None
    low, high = (None if v is None else 100 * v / abs(total) for v in (effect.low, effect.high))
    return 100 * effect.value / abs(total), low, high


def _notes(whatif: WhatIf) -> list[Prose]:
    """Say what the placebos say, and what is missing."""
    notes = []
    if whatif.others and not any(row.lead.low is not None for row in whatif.rows if row.calendar != whatif.base):
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
    apart = list(dict.fromkeys(row.target for row in whatif.rows if _is_apart(row)))
    if apart:
        notes.append(
            Prose(f"The two readings of {joined(apart)} disagree: by days, and for the window as a whole. The days "
                  "lead: where such an event falls into every window, a window as a whole cannot tell what it does.",
                  "note")
        )  # fmt: skip
    for calendar in whatif.others:
        beaten = [row.target for row in whatif.rows if row.calendar == calendar and _is_beaten(row)]
        if beaten:
            notes.append(
                Prose(f"Under “{calendar}” a placebo that should change nothing moved {joined(beaten)} about as much "
                      "as the answer. Do not act on effects of that size.", "warning")
            )  # fmt: skip
    return notes


def _is_apart(row: WhatIfRow) -> bool:
    """Tell whether the intervals of both readings do not touch."""
    days, window = row.lead, row.by_window
    if not row.is_by_days or None in (days.low, days.high, window.low, window.high):
        return False
    return days.low > window.high or window.low > days.high  # type: ignore[operator]


def _is_beaten(row: WhatIfRow) -> bool:
    """Tell whether only a placebo speaks against the answer: its own interval leaves out 0."""
    found = row.lead
    return found.verdict == "noise" and None not in (found.low, found.high) and not found.low <= 0 <= found.high  # type: ignore[operator]


# totals and days ---------------------------------------------------------------------------------------------------


def _totals(whatif: WhatIf) -> Table:
    """One row per target and calendar: the total, and the difference to the first in both readings."""
    has_days = any(row.is_by_days for row in whatif.rows)
    bases = {row.target: row for row in whatif.rows if row.calendar == whatif.base}
    calendars = [whatif.base, *whatif.others]
    order = sorted(whatif.rows, key=lambda row: (list(bases).index(row.target), calendars.index(row.calendar)))
    body = []
    for row in order:
        total = _total(whatif, row)
        if row.calendar == whatif.base:
            cells = [Cell(UNKNOWN), *([Cell(UNKNOWN)] if has_days else []), Cell("compared against")]
        else:
            effects = [*([row.lead if row.is_by_days else None] if has_days else []), row.by_window]
            cells = [_effect(effect, row.unit, bases.get(row.target)) for effect in effects]
            cells.append(Cell(READS.get(row.lead.verdict, UNKNOWN)))
        body.append((Cell(row.target), Cell(row.calendar), total, *cells))
    caption = "Totals over the window, and the change against the first calendar with its interval"
    readings = ("Change, by days", "Change, window as a whole") if has_days else ("Change",)
    head = ("Target", "Calendar", "Total", *readings, "Reads as")
    return Table(caption, head, body, frozenset(range(2, len(head) - 1)), is_stacked=True)


def _total(whatif: WhatIf, row: WhatIfRow) -> Cell:
    if row.total is None:
        return Cell(UNKNOWN)
    text = quantity(row.total, row.unit, 0 if row.unit == "users" else place(row.total, None, None))
    near = place(row.total, row.total_low, row.total_high)
    said = spread(row.total_low, row.total_high, None, near)
    level = f"{percent(whatif.total_level)} " if whatif.total_level else ""
    return Cell(text, f"{level}range {said}" if said else "")


def _effect(effect: Effect | None, unit: str | None, base: WhatIfRow | None) -> Cell:
    if effect is None or effect.value is None:
        return Cell(UNKNOWN)
    at = _place(effect, unit)
    share, *_ = _share(effect, base)
    text = f"{number(effect.value, at, sign=True)} {span(effect.low, effect.high, at, sign=True)}".strip()
    return Cell(text, "" if share is None else percent(share / 100, sign=True))


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
    said = " ".join(_by_day(entry, name, unit) for name in others)
    alt = f"{title}, for {joined(others)}. {said}"
    moved = Plot(f"whatif-change-{i}", title, alt, plots.change(entry), tuple(series), said)
    return [Row((both, moved))]


def _by_day(entry: WhatIfDaily, calendar: str, unit: str | None) -> str:
    """Say on which day a calendar changes most, and what the days add up to; users are not added up over days."""
    base = entry.values[next(iter(entry.values))]
    moved = [(abs(v - b), v - b, d) for v, b, d in zip(entry.values[calendar], base, entry.day) if None not in (v, b)]  # type: ignore[operator]
    if not moved:
        return ""
    _, most, when = max(moved)
    total = sum(change for _, change, _ in moved)
    if not total and not most:
        return f"“{calendar}”: no day changes."
    at = [max(place(value, None, None, 2), 0 if unit == "users" else -2) for value in (most, total)]
    what = quantity(most, unit, at[0], sign=True)
    together = "" if unit == "users" else f"; all days together {quantity(total, unit, at[1], sign=True)}"
    return f"“{calendar}”: most on {day(when)}, {what}{together}."


def _how_to_read(whatif: WhatIf) -> list[tuple[str, str]]:
    kinds = dict.fromkeys(c.kind for c in whatif.changes if c.kind)
    items = [(kind, KINDS[kind]) for kind in kinds if kind in KINDS]
    level = f"a {percent(whatif.level)} interval" if whatif.level else "an interval"
    members = f"{plural(whatif.n_members, 'training')} with other seeds" if whatif.n_members else "trainings"
    items.append(("[low, high] of a difference", f"{level}: how far {members} disagree. It holds the uncertainty of "
                  "the model's answer, not the chance that the world reacts otherwise "
                  "than it did in the past."))  # fmt: skip
    if any(row.is_by_days for row in whatif.rows):
        items.append(("by days, window as a whole", "each change is read twice. The days come first: they know days "
                      "with an event and days without it, while a window in which it always falls tells nothing of it. "
                      "Amounts are the days added up; a chance moves as the daily risks do."))  # fmt: skip
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
