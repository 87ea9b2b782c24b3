"""The answer as plain text: totals, how sure, the placebos beside it, days, segments, events."""

from __future__ import annotations

from typing import Any

import numpy as np

N_EVENTS = 8  # of the ranked table
N_SEGMENTS = 6  # the largest


def summary(section: dict[str, Any]) -> str:
    """Say the answer in plain text."""
    names = section["calendars"]
    lines = [f"{section['n_users']:,} users after {section['cutoff']}, compared with {names[0]!r}:"]
    lines += [_total(row, section) for row in section["rows"] if row["calendar"] == names[0]]
    for name in names[1:]:
        lines.append(f"{name}:")
        lines += [_difference(row, section) for row in section["rows"] if row["calendar"] == name]
        lines += [_change(change) for change in section["changes"] if change["calendar"] == name]
        lines += [f"  {event} is announced after the cut-off: it can change nothing" for event in _late(section, name)]
    lines += _meaning(section)
    lines += [line for daily in section["daily"] for line in _by_day(daily, names)]
    lines += _nothing(section)
    lines += _segments(section)
    lines += _events(section)
    return "\n".join(lines)


def _total(row: dict[str, Any], section: dict[str, Any]) -> str:
    known = row["total_low"] is not None
    spread = f" [{row['total_low']:,.1f}, {row['total_high']:,.1f}]" if known else ""
    return f"  {row['target']:<12} total {row['total']:>12,.1f}{_unit(row)}{spread}"


def _difference(row: dict[str, Any], section: dict[str, Any]) -> str:
    """The total; the difference, by days where they were asked; the other reading; the placebos."""
    prefix = "day_" if row["day_difference"] is not None else ""
    lines = [f"{_total(row, section)}  difference {_reading(row, prefix)}{' (by days)' if prefix else ''}"]
    if prefix:
        lines.append(f"    window as a whole: {_reading(row, '')}")
    beside = [p for p in section["placebo"] if (p["target"], p["calendar"]) == (row["target"], row["calendar"])]
    if beside:
        lines.append(f"    placebos: {'; '.join(_placebo(p, prefix) for p in beside)}")
    return "\n".join(lines)


def _reading(row: dict[str, Any], prefix: str) -> str:
    value, low, high, verdict = (row[f"{prefix}{part}"] for part in ("difference", "low", "high", "verdict"))
    spread = " (interval needs 3 members)" if low is None else f" [{low:+,.1f}, {high:+,.1f}]"
    return f"{value:+,.1f}{spread}{', may be noise' if verdict == 'noise' else ''}"


def _placebo(p: dict[str, Any], prefix: str) -> str:
    value, low, high = (p[f"{prefix}{part}"] for part in ("difference", "low", "high"))
    return f"{p['kind']} {value:+,.1f}" + (f" [{low:+,.1f}, {high:+,.1f}]" if p["n"] > 1 else "")


def _change(change: dict[str, Any]) -> str:
    warning = f"; {change['warning']}" if change["warning"] else ""
    was = f", before {change['was']}" if change["was"] else ""
    return (
        f"  {change['event']} ({change['start']}{was}) {change['what']}, {change['kind']}, "
        f"{change['n_past']} past events of type {change['type']!r}{warning}"
    )


def _late(section: dict[str, Any], name: str) -> list[str]:
    return [late["event"] for late in section["late"] if late["calendar"] == name]


def _meaning(section: dict[str, Any]) -> list[str]:
    """Say once what the two kinds of bracket are, and what each placebo is."""
    lines = []
    if section["total_level"] is not None and any(row["total_low"] is not None for row in section["rows"]):
        lines.append(
            f"Brackets of a total: {section['total_level']:.0%} of {section['n_cutoffs']} earlier totals fell as near"
            " to their forecast."
        )
    if any(row["low"] is not None for row in section["rows"]):
        lines.append(
            f"Brackets of a difference ({section['level']:.0%}): how far {section['n_members']} trainings disagree."
        )
    kinds = dict.fromkeys(p["kind"] for p in section["placebo"])
    lines += [f"Placebo {kind}: {PLACEBOS[kind]}" for kind in kinds]
    return lines


PLACEBOS = {
    "just after": "the changed events moved to just after the window; should be near 0.",
    "other days": "the same change on other days; if it is as large as the answer, the date is not special.",
    "other users": "as many other users of like activity; if as large, these users are not special.",
    "past day": "the changed events on a day of the past; should be near 0.",
}


def _by_day(daily: dict[str, Any], names: list[str]) -> list[str]:
    """Say on which day a target changes most, and what the days add up to.

    Days and window are read by different heads: their sums differ, and both are shown.
    """
    lines = []
    base = np.array(daily["values"][names[0]])
    for name in names[1:]:
        change = np.array(daily["values"][name]) - base
        most = int(np.abs(change).argmax())
        lines.append(
            f"  {name:<20} {daily['target']:<12} by day: most on {daily['day'][most]}, {change[most]:+,.1f}; "
            f"all days {change.sum():+,.1f}"
        )
    return lines


def _nothing(section: dict[str, Any]) -> list[str]:
    if not section["null"]:
        return []
    worst = max(test["largest"] for test in section["null"])
    said = "exactly 0 for every user" if worst == 0 else f"NOT 0: a user's answer moved by {worst:g}"
    return [f"A change of nothing ({'; '.join(test['test'] for test in section['null'])}): {said}."]


def _segments(section: dict[str, Any]) -> list[str]:
    """Name the largest segments; all stand in the section."""
    first, rows = section["calendars"][0], section["segments"]
    sizes = {row["segment"]: row["n_users"] for row in rows}
    shown = sorted(sizes, key=lambda name: -sizes[name])[:N_SEGMENTS]
    lines = [f"By {section['segment_by']}:"] if rows else []
    for row in sorted((r for r in rows if r["segment"] in shown), key=lambda r: shown.index(r["segment"])):
        if row["calendar"] != first:
            value, low, high = (row[f"{'day_' if row['day_difference'] is not None else ''}{part}"]
                                for part in ("difference", "low", "high"))  # fmt: skip
            spread = "" if low is None else f" [{low:+,.1f}, {high:+,.1f}]"
            lines.append(
                f"  {row['segment']:<16} {row['n_users']:>8,} users  {row['calendar']:<16} {row['target']:<12} "
                f"total {row['total']:>12,.1f}{_unit(row)}  difference {value:+,.1f}{spread}"
            )
    return lines + ([f"  and {len(sizes) - len(shown)} smaller"] if len(sizes) > len(shown) else [])


def _events(section: dict[str, Any]) -> list[str]:
    """Rank the coming events by what each adds, target by target."""
    rows = section["importance"]
    if not rows:
        return []
    lines = [f"What each coming event of {section['calendars'][0]!r} adds, dropped one at a time (and alone):"]
    for target in dict.fromkeys(row["target"] for row in rows):
        of_target = [row for row in rows if row["target"] == target]
        real = [row for row in of_target if not row["is_placebo"]]
        for row in [*real[:N_EVENTS], *(row for row in of_target if row["is_placebo"])]:
            label = row["event"] if row["is_placebo"] else f"{row['event']} ({row['start']}; {row['n_past']} before)"
            spread = f"[{row['low']:+,.1f}, {row['high']:+,.1f}]  alone {row['alone_value']:+,.1f}"
            lines.append(f"  {target:<12} {label:<44} {row['value']:+12,.1f}{_unit(row)} {spread}")
        if len(real) > N_EVENTS:
            lines.append(f"  {target:<12} and {len(real) - N_EVENTS} with less")
    return lines


def _unit(row: dict[str, Any]) -> str:
    return f" {row['unit']}" if row["unit"] else ""
