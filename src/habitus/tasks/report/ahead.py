"""The section on the days of the forecast: the past, the band, and what happened."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

from habitus.tasks.report import plots
from habitus.tasks.report.blocks import Cell, Key, Missing, Plot, Prose, Section, Table
from habitus.tasks.report.part import filled
from habitus.tasks.report.record import DailyTotals, Record
from habitus.tasks.report.words import UNKNOWN, day, number, percent, place, plural, quantity, span

N_PAST = 42  # days before the cut-off that a plot shows


def forecast_section(record: Record) -> Section:
    """Daily totals: the past, the forecast with its band, what happened, known events."""
    section = Section("forecast", "The forecast day by day", "What was expected of each day, and what happened?")
    if not record.daily:
        section.blocks.append(Missing("There is no daily forecast yet.", "habitus evaluate RUN"))
        return section
    section.blocks.append(
        Prose(
            "The band is meant to hold the stated share of days. The days of one window share their luck, "
            "so one window alone is weak evidence for or against it."
        )
    )
    for i, target in enumerate(dict.fromkeys(d.target for d in record.daily)):
        entries = [d for d in record.daily if d.target == target]
        latest = max(entries, key=lambda d: d.cutoff.toordinal() if d.cutoff else 0)
        section.blocks.append(_forecast(trimmed(latest), i))
        if len(entries) > 1:
            section.blocks.append(_by_cutoff(target, entries))
    return section


def by_day(entry: DailyTotals) -> str:
    """Name a daily total with its unit, unless the name says the unit."""
    unit = f": {entry.unit}" if entry.unit and entry.unit not in entry.target else ""
    return f"{entry.target}{unit} by day"


def trimmed(entry: DailyTotals, n_past: int = N_PAST) -> DailyTotals:
    """Keep the last weeks of the past, and the events that fall into what is shown, in order."""
    past = entry.past.model_copy(update={"day": entry.past.day[-n_past:], "value": entry.past.value[-n_past:]})
    days = [*past.day, *entry.forecast.day]
    if not days:
        return entry
    events = [e for e in entry.events if e.start <= max(days) and (e.end or e.start) >= min(days)]
    return entry.model_copy(update={"past": past, "events": sorted(events, key=lambda e: (e.start, e.event))})


def _forecast(entry: DailyTotals, i: int) -> Plot:
    has_band = any(v is not None for v in entry.forecast.low)
    level = f"{percent(entry.level)} band" if entry.level else "band"
    keys = [Key("line", "ink", "happened"), Key("dash", "model", "forecast")]
    keys += [Key("band", "band", level)] if has_band else []
    keys += [Key("x", "other", "happened, outside the band")] if False in plots.inside(entry) else []
    keys += [Key("band", "shade", "known event")] if entry.events else []
    words = _forecast_words(entry)
    named = [f"{n} {e.event} ({_dates(e.start, e.end)})" for n, e in enumerate(entry.events, start=1)]
    note = words + (f" Known events: {'; '.join(named)}." if named else "")
    title = by_day(entry) + (f", forecast from {day(entry.cutoff)}" if entry.cutoff else "")
    ahead, n = entry.forecast, len(entry.forecast.day)
    low, high, actual = (filled(values, n) for values in (ahead.low, ahead.high, ahead.actual))
    rows = [_row(*figures) for figures in zip(ahead.day, ahead.value, low, high, actual)]
    table = Table(
        by_day(entry),
        ("Day", "Forecast", "Band", "Happened"),
        rows,
        frozenset({1, 2, 3}),
        folded="The same as a table",
    )
    return Plot(
        f"forecast-{i}",
        title,
        f"Line chart of {entry.target} by day. {words}",
        plots.forecast(entry),
        tuple(keys),
        note,
        table,
    )


def _row(
    of: date, value: float | None, low: float | None, high: float | None, actual: float | None
) -> tuple[Cell, ...]:
    at = place(value, low, high)
    known = UNKNOWN if actual is None else number(actual, 0 if abs(actual) < 1e4 else 2)
    return (
        Cell(f"{of:%a} {day(of, year=False)}"),
        Cell(number(value, at)),
        Cell(span(low, high, at) or UNKNOWN),
        Cell(known),
    )


def _forecast_words(entry: DailyTotals) -> str:
    said, known = (over_window(entry, values) for values in (entry.forecast.value, entry.forecast.actual))
    if said is None:
        return "The forecast is incomplete."
    text = f"Expected: {_said(entry)} {window(entry)}."
    if known is None:
        return f"{text} What happened is not known yet."
    ratio = said / known - 1 if known else None
    gap = "" if ratio is None else f", so the forecast was {percent(abs(ratio))} too {'high' if ratio > 0 else 'low'}"
    text = f"{text} Happened: {_happened(entry)}{gap}."
    held = [ok for ok in plots.inside(entry) if ok is not None]
    meant = f" (meant to hold {percent(entry.level)})" if entry.level else ""
    return f"{text} The band held {sum(held)} of {plural(len(held), 'day')}{meant}." if held else text


def over_window(entry: DailyTotals, values: Sequence[float | None]) -> float | None:
    """One figure for the whole window: amounts are summed, users are averaged, as one user counts on several days."""
    known = [v for v in values if v is not None]
    if not known or len(known) < len(values):
        return None
    return sum(known) / (len(known) if entry.unit == "users" else 1)


def _said(entry: DailyTotals) -> str:
    """The forecast over the window, with the digits that its band supports."""
    value, low, high = (over_window(entry, v) for v in (entry.forecast.value, entry.forecast.low, entry.forecast.high))
    return quantity(value, entry.unit, max(place(value, low, high), 0))


def _happened(entry: DailyTotals) -> str:
    return quantity(over_window(entry, entry.forecast.actual), entry.unit, 0 if entry.unit == "users" else None)


def window(entry: DailyTotals) -> str:
    """Say what the figure of the whole window is."""
    return "a day, on average" if entry.unit == "users" else f"over {plural(len(entry.forecast.day), 'day')}"


def _by_cutoff(target: str, entries: Sequence[DailyTotals]) -> Table:
    rows = []
    for entry in sorted(entries, key=lambda d: d.cutoff.toordinal() if d.cutoff else 0):
        said, known = (over_window(entry, values) for values in (entry.forecast.value, entry.forecast.actual))
        held = [ok for ok in plots.inside(entry) if ok is not None]
        gap = percent(said / known - 1, sign=True) if said is not None and known else UNKNOWN
        in_band = f"{sum(held)} of {len(held)}" if held else UNKNOWN
        rows.append((Cell(day(entry.cutoff)), Cell(_said(entry)), Cell(_happened(entry)),
                     Cell(gap), Cell(in_band)))  # fmt: skip
    caption = f"{target} {window(entries[0])}, at each test cut-off"
    return Table(caption, ("Cut-off", "Forecast", "Happened", "Error", "Days in band"), rows, frozenset({1, 2, 3, 4}))


def _dates(start: date, end: date | None) -> str:
    return (
        day(start, year=False) if end is None or end == start else f"{day(start, year=False)} to {day(end, year=False)}"
    )
