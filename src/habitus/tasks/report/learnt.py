"""The sections on what the model learnt from, and how: the data, the training."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from habitus.tasks.report import plots
from habitus.tasks.report.blocks import Cell, Facts, Key, Missing, Plot, Prose, Row, Section, Table
from habitus.tasks.report.record import Cutoffs, Epoch, Record
from habitus.tasks.report.words import count, day, joined, number, percent, plural

N_TYPES = 12  # rows of the table of event types


def data_section(record: Record) -> Section:
    """Counts, rejected rows, event types, activity by day, and how time was divided."""
    section = Section("data", "The data", "What was the model given to learn from?")
    data = record.data
    if data is None:
        section.blocks.append(Missing("The data profile is not here yet.", "habitus evaluate RUN"))
        return section
    section.blocks.append(Facts(_counts(record)))
    if data.types:
        section.blocks.append(_types(data.types))
    if data.daily.day:
        daily = data.daily
        peak = max((n for n in daily.active_users if n is not None), default=None)
        section.blocks.append(
            Plot(
                "daily-log",
                "Activity by day",
                f"Two line charts of active users and events on each of {len(daily.day)} days; "
                f"the busiest day has {count(peak)} active users.",
                plots.daily_log(data),
                (Key("line", "faint", "each day"), Key("line", "model", "mean of the last 7 days")),
                note="A day at zero is a day without any event: closed, or missing from the log.",
            )
        )
    if record.cutoffs.test or record.cutoffs.train:
        section.blocks.append(_split(record))
    return section


def _counts(record: Record) -> list[tuple[str, str]]:
    data = record.data
    assert data is not None
    items = [("Users", count(data.n_users)), ("Events kept", count(data.n_events))]
    if data.n_rejected is not None and data.n_events is not None:
        share = data.n_rejected / max(1, data.n_events + data.n_rejected)
        items.append(("Rows rejected", f"{count(data.n_rejected)} ({percent(share)} of rows read)"))
    if data.first_day and data.last_day:
        n = (data.last_day - data.first_day).days + 1
        items.append(("Days", f"{day(data.first_day)} to {day(data.last_day)} ({plural(n, 'day')})"))
    return items


def _types(types: dict[str, int]) -> Table:
    n = sum(types.values()) or 1
    ranked = sorted(types.items(), key=lambda pair: -pair[1])
    shown, rest = ranked[:N_TYPES], ranked[N_TYPES:]
    if rest:
        shown.append((f"{plural(len(rest), 'other type')}", sum(k for _, k in rest)))
    rows = [
        (Cell(name), Cell(count(k)), Cell(percent(k / n) if k / n >= 1e-4 else f"< {percent(1e-4, 1)}"))
        for name, k in shown
    ]
    return Table("Events by type", ("Type", "Events", "Share"), rows, frozenset({1, 2}))


def _split(record: Record) -> Plot:
    cutoffs = record.cutoffs
    samples = [
        f"{count(cutoffs.n_samples[part])} {words}"
        for part, words in (("train", "training"), ("valid", "validation"), ("test", "test"))
        if cutoffs.n_samples.get(part) is not None
    ]
    n = f" Rows (a user at a cut-off): {joined(samples)}." if samples else ""
    return Plot(
        "split",
        "How time was divided",
        "Marks are cut-offs, the bars behind them the days to be forecast: "
        + joined([f"{len(getattr(cutoffs, part))} {words}" for part, _, _, words in plots.PARTS])
        + ".",
        plots.split(cutoffs),
        note="Each mark is a cut-off: the model sees the days up to it and must forecast the bar behind it. "
        f"{_gap_words(cutoffs)}{n}",
    )


def _gap_words(cutoffs: Cutoffs) -> str:
    """Say from the dates whether everything used to build the model ends before the test begins."""
    before = [*cutoffs.train, *cutoffs.gap, *cutoffs.valid]
    if not before or not cutoffs.test or cutoffs.horizon is None:
        return ""
    last, first = max(before) + timedelta(days=cutoffs.horizon), min(cutoffs.test)
    if last > first:
        return (
            f"The last bar before the test ends on {day(last)}, AFTER the first test cut-off ({day(first)}): "
            "the test is not clean."
        )
    return (
        f"The last bar before the test ends on {day(last)}, and the first test cut-off is {day(first)}: "
        "no day of a test bar was used to build the model."
    )


def training_section(record: Record) -> Section:
    """Loss by epoch and seed, the best epoch of each seed, and the validation ratio of each target there."""
    section = Section("training", "The training", "Did it learn, and did it stop at the right time?")
    history = record.history
    if not history:
        section.blocks.append(Missing("No training curves were recorded.", "habitus train RECIPE"))
        return section
    seeds = list(dict.fromkeys(e.seed for e in history))
    keys = [Key(plots.SERIES[i % 5][1] + "-open", plots.SERIES[i % 5][0], f"seed {s}") for i, s in enumerate(seeds)]
    bests = [plots.best_epoch([e for e in history if e.seed == s]) for s in seeds]
    section.blocks.append(Prose(_training_words(bests)))
    drawn = [
        Plot(
            f"training-{name}",
            title,
            f"{title} by epoch, {plural(len(seeds), 'seed')}; "
            f"it starts at {_first(history, name)} and ends at {_last(history, name)}.",
            plots.training(history, name),
            (*keys,),
            note,
        )
        for name, title, note in (
            ("train", "Training loss", "The sum the optimiser works on; only its shape matters."),
            ("valid", "Validation loss", "Relative to knowing only the average rate: below 1 is better than that."),
        )
        if any(getattr(e, name) is not None for e in history)
    ]
    if drawn:
        section.blocks.append(Row(tuple(drawn)))
    section.blocks.extend(_best_table(seeds, bests))
    return section


def _training_words(bests: Sequence[Epoch | None]) -> str:
    epochs = [b.epoch for b in bests if b is not None]
    if not epochs:
        return "Nothing was validated during training, so no best epoch is known."
    when = f"epoch {epochs[0]}" if len(set(epochs)) == 1 else f"epochs {min(epochs)} to {max(epochs)}"
    return f"The best epoch is the one of the least validation loss: {when}. A hollow mark shows it on each curve."


def _best_table(seeds: Sequence[int], bests: Sequence[Epoch | None]) -> list[Table]:
    found = [(seed, best) for seed, best in zip(seeds, bests) if best is not None]
    names = list(dict.fromkeys(name for _, best in found for name in best.targets))
    if not found:
        return []
    rows = [
        (Cell(f"seed {seed}"), Cell(str(best.epoch)), Cell(number(best.valid, -3)),
         *(Cell(number(best.targets.get(name), -3)) for name in names))
        for seed, best in found
    ]  # fmt: skip
    caption = "Validation loss at the best epoch, relative to knowing only the average (below 1 is better than that)"
    head = ("Seed", "Epoch", "All targets", *names)
    return [Table(caption, head, rows, frozenset(range(1, len(head))))]


def _first(history: Sequence[Epoch], name: str) -> str:
    return number(next((getattr(e, name) for e in history if getattr(e, name) is not None), None), -3)


def _last(history: Sequence[Epoch], name: str) -> str:
    return _first(list(reversed(history)), name)
