"""The last section: everything needed to make the same figures again."""

from __future__ import annotations

from habitus.tasks.report.blocks import Cell, Code, Facts, Section, Table
from habitus.tasks.report.record import Built, Record
from habitus.tasks.report.verdict import targets_of
from habitus.tasks.report.words import UNKNOWN, count, day, in_words, short


def made_section(record: Record) -> Section:
    """Everything needed to make the same figures again."""
    section = Section("made", "How this was made", "Can I make it again?")
    created = record.created
    items = [
        ("Run", record.name),
        (
            "Made on",
            None if created is None else day(created) + (f", {created:%H:%M}" if hasattr(created, "hour") else ""),
        ),
        ("Commit", record.commit),
        ("Hardware", record.hardware),
        ("Versions", record.versions),
        ("Model", _model(record.model)),
        ("Seeds", ", ".join(str(s) for s in record.seeds) or None),
        ("Time taken", _wall(record.wall)),
    ]
    section.blocks.append(Facts([(term, value or "not recorded") for term, value in items]))
    commands = record.commands or ["habitus train RECIPE", "habitus evaluate RUN", "habitus report RUN"]
    section.blocks.append(
        Code("Commands" if record.commands else "Commands that make a page such as this one", "\n".join(commands))
    )
    targets = [t for t in targets_of(record) if t.define]
    if targets:
        rows = [(Cell(t.name), Cell(t.define or ""), Cell(in_words(t)), Cell(t.head or UNKNOWN)) for t in targets]
        section.blocks.append(
            Table("Targets as declared", ("Target", "Declaration", "In words", "Head"), rows, is_stacked=True)
        )
    if record.recipe.text:
        section.blocks.append(
            Code(f"Recipe {short(record.recipe.path or '', 60)}".strip(), record.recipe.text, is_folded=True)
        )
    return section


def _model(built: Built) -> str | None:
    size = f"{count(built.n_parameters)} parameters" if built.n_parameters else None
    return ", ".join(part for part in (built.name, built.size, size) if part) or None


def _wall(wall: dict[str, object]) -> str | None:
    parts = []
    for name, seconds in wall.items():
        if isinstance(seconds, (int, float)) and not isinstance(seconds, bool):
            words = f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"
            parts.append(f"{name.removesuffix('_s').replace('_', ' ')} {words}")
    return ", ".join(parts) or None
