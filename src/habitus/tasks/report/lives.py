"""The page of a run of whole lives: what the vectors hold, anchor by anchor, and what can be read from them."""

from __future__ import annotations

from habitus.tasks.report import plots
from habitus.tasks.report.blocks import Cell, Heading, Key, Missing, Plot, Points, Prose, Row, Section, Table
from habitus.tasks.report.first import Answer, First, Standing
from habitus.tasks.report.record import Record
from habitus.tasks.report.record_lives import Lives, Probe, Probed
from habitus.tasks.report.words import UNKNOWN, count, day, number, percent, plural, short, span, title

PROBE = "habitus probe RUN --fuse --target TEXT --store STORE"
HEAD = "trees"  # the head that the first screen speaks of, where it was asked
PLACES = -4


def lives_first(record: Record) -> First:
    """Put the first screen together from the fit, and from a probe where there was one."""
    lives, probe = record.lives or Lives(), record.probe or Probe()
    who = f"the users of {short(title(record.data.name), 60)}" if record.data and record.data.name else "the users"
    rows = _headline(probe)
    return First(
        question=f"What do whole-life vectors know of {who}?",
        lead="One row of numbers per user, learnt without a label from everything the user did.",
        asked=_asked(record, lives),
        targets=[(name, "read from frozen vectors") for name in dict.fromkeys(row.label for row in probe.rows)]
        or [("vectors", f"{count(lives.width)} numbers per user, and one vector for each anchor")],
        answers=[_answer(row, probe) for row in rows[:3]] or [_width(lives)],
        answer_note="",
        glance=None,
        verdict=probe.verdict or "Nothing was read from the vectors yet: a label shows what they are worth.",
        standings=[_standing(row, probe) for row in rows if row.gain is not None],
        sure=_sure(probe),
        fill=PROBE,
    )


def lives_section(record: Record) -> Section:
    """Interests, anchors with their interests, and the alarms."""
    section = Section("lives", "The vectors", "What is each part of a vector made of?")
    lives = record.lives
    if lives is None:
        section.blocks.append(Missing("Nothing is known of the anchors.", "habitus train RECIPE"))
        return section
    section.blocks.append(Prose(_made_of(lives)))
    section.blocks.extend(Prose(alarm.capitalize() + ".", "warning") for alarm in lives.alarms)
    if lives.anchors:
        section.blocks.append(_overview(lives))
        section.blocks.append(Heading("Anchor by anchor"))
        for k, anchor in enumerate(lives.anchors):
            words = "; ".join(anchor.interests) or "no interest of its own"
            twin = (
                "" if anchor.twin is None else f" Most like it: anchor {anchor.twin} ({number(anchor.likeness, -2)})."
            )
            section.blocks.append(Points([("", f"{words}.{twin}")], f"Anchor {k}, {percent(anchor.share)} of the mass"))
    section.blocks.append(
        Prose(
            "Vectors of a person are personal data: what was done shows who did it. Treat them as you treat the log.",
            "note",
        )
    )
    return section


def probe_section(record: Record) -> Section:
    """Every figure of the last probe, with intervals."""
    section = Section("comparison", "The probe", "What can be read from the vectors, and do they add to aggregates?")
    probe = record.probe
    if probe is None or not probe.rows:
        section.blocks.append(Missing("No label was read from the vectors yet.", PROBE))
        return section
    section.blocks.append(Prose(probe.verdict))
    has_gain = any(row.gain is not None for row in probe.rows)
    head = ("Label", "Read from", "Head", "AUC", *([f"Against {probe.against}"] if has_gain else []))
    rows = [
        (
            Cell(row.label, f"{count(row.positive)} of {count(row.n)}"), Cell(row.features), Cell(row.head),
            Cell(number(row.auc, PLACES), span(row.low, row.high, PLACES)),
            *([_gain_cell(row)] if has_gain else []),
        )
        for row in probe.rows
    ]  # fmt: skip
    caption = "AUC of light heads on frozen numbers; in brackets the 95 % interval over users"
    section.blocks.append(Table(caption, head, rows, frozenset({3, 4} if has_gain else {3})))
    return section


def lives_training_section(record: Record) -> Section:
    """The loss of views, by epoch and seed."""
    section = Section("training", "The training", "Did it learn to tell a user's other half?")
    history = record.history
    if not history:
        section.blocks.append(
            Missing("Nothing was trained: the vectors are those of the start.", "habitus train RECIPE")
        )
        return section
    seeds = list(dict.fromkeys(e.seed for e in history))
    keys = [Key(plots.SERIES[i % 5][1] + "-open", plots.SERIES[i % 5][0], f"seed {s}") for i, s in enumerate(seeds)]
    drawn = [
        Plot(
            f"training-{name}", words, f"{words} by epoch, {plural(len(seeds), 'seed')}.",
            plots.training(history, name), (*keys,), "The sum of all terms; only its shape matters.",
        )
        for name, words in (("train", "Training loss"), ("valid", "Loss of held-out users"))
        if any(getattr(e, name) is not None for e in history)
    ]  # fmt: skip
    section.blocks.append(Prose("Training stops when users who were held out are no longer told apart better."))
    section.blocks.append(Row(tuple(drawn)))
    return section


def _asked(record: Record, lives: Lives) -> list[tuple[str, str]]:
    data, items = record.data, []
    if data and data.name:
        size = f", {count(data.n_events)} events of {count(data.n_users)} users" if data.n_events else ""
        items.append(("Data", f"{title(data.name)}{size}"))
    if lives.until:
        items.append(("Fitted on", f"everything up to {day(lives.until)}"))
    if lives.n_interests:
        items.append(("Read as", f"{count(lives.n_interests)} interests"))
    return items


def _made_of(lives: Lives) -> str:
    said = f"{count(lives.n_interests)} interests, counted by {lives.block or 'block'}"
    said += f", read in windows of {lives.scales}" if lives.scales else ""
    zero = "" if lives.share_of_0 is None else f" {percent(lives.share_of_0)} of events are of no known interest."
    short_lives = (
        f" {plural(lives.n_too_short, 'user')} with too short a life for two views." if lives.n_too_short else ""
    )
    return f"{said}. Trained on {plural(lives.n_trained or 0, 'user')}.{short_lives}{zero}"


def _overview(lives: Lives) -> Table:
    rows = [
        (Cell(f"anchor {k}"), Cell(percent(anchor.share)), Cell("; ".join(anchor.interests[:3]) or UNKNOWN),
         Cell(UNKNOWN if anchor.twin is None else f"anchor {anchor.twin}", number(anchor.likeness, -2)))
        for k, anchor in enumerate(lives.anchors)
    ]  # fmt: skip
    head = ("Anchor", "Mass", "Weightiest interests", "Most like")
    return Table(
        "Anchors: their share of the mass, and what they stand for", head, rows, frozenset({1}), is_stacked=True
    )


def _headline(probe: Probe) -> list[Probed]:
    """One row per label: the vectors with the aggregates where both were read, under one head."""
    heads = list(dict.fromkeys(row.head for row in probe.rows))
    head = HEAD if HEAD in heads else heads[0] if heads else ""
    rows = [row for row in probe.rows if row.head == head and row.features != probe.against]
    both = [row for row in rows if row.features == "both"]
    return both or rows


def _answer(row: Probed, probe: Probe) -> Answer:
    beside = " with aggregates" if row.features == "both" else ""
    return Answer(
        row.label, number(row.auc, -3), f"AUC, read from vectors{beside}", f"95 % range {span(row.low, row.high, -3)}"
    )


def _width(lives: Lives) -> Answer:
    n = f"{plural(len(lives.anchors), 'anchor')}" if lives.anchors else "one vector"
    return Answer("A vector", count(lives.width), f"numbers per user, {n}")


def _standing(row: Probed, probe: Probe) -> Standing:
    is_sure = row.gain_low is not None and row.gain_high is not None and not row.gain_low <= 0 <= row.gain_high
    outcome = "level" if not is_sure or row.gain is None else "better" if row.gain > 0 else "worse"
    gain = f"{number(row.gain, PLACES, sign=True)} {span(row.gain_low, row.gain_high, PLACES, sign=True)}"
    return Standing(row.label, outcome, f"{row.features} against {probe.against}: {gain} AUC")


def _gain_cell(row: Probed) -> Cell:
    if row.gain is None or (not row.gain_low and not row.gain_high):  # the aggregates beside themselves
        return Cell(UNKNOWN)
    return Cell(number(row.gain, PLACES, sign=True), span(row.gain_low, row.gain_high, PLACES, sign=True))


def _sure(probe: Probe) -> list[str]:
    if not probe.rows:
        return []
    return [
        "In brackets: 95 % intervals over users, paired.",
        "Folds share one cut-off: this is no forecast of tomorrow.",
    ]
