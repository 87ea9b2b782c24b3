"""The pieces a page is made of: containers only; the template knows how to show each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Cell:
    """A table cell: its text, a smaller second line, and a class for its weight or colour."""

    text: str
    note: str = ""
    mark: str = ""


@dataclass(frozen=True)
class Table:
    """A table with a caption; the first column heads its rows. `numeric` columns are aligned right."""

    caption: str
    head: tuple[str, ...]
    rows: list[tuple[Cell, ...]]
    numeric: frozenset[int] = frozenset()
    strong: frozenset[int] = frozenset()  # rows to set in bold
    folded: str = ""  # a title to fold it away under
    is_stacked: bool = False  # on a phone each row becomes a small list; always so above 4 columns
    kind: str = "table"


@dataclass(frozen=True)
class Key:
    """One entry of a legend: a mark (line, dash, band, or a symbol name) in a palette colour, and words."""

    mark: str
    colour: str
    text: str


@dataclass(frozen=True)
class Plot:
    """A drawing, its words, and the same numbers as a table."""

    key: str
    title: str
    alt: str
    figure: dict[str, Any]
    legend: tuple[Key, ...] = ()
    note: str = ""
    table: Table | None = None
    kind: str = "plot"

    @property
    def height(self) -> int:
        """Its height in pixels, the same on every screen."""
        return self.figure["layout"]["height"]


@dataclass(frozen=True)
class Row:
    """Plots side by side where there is room, below each other where not."""

    plots: tuple[Plot, ...]
    kind: str = "row"


@dataclass(frozen=True)
class Prose:
    """A paragraph; `mark` may be "note" or "warning"."""

    text: str
    mark: str = ""
    kind: str = "prose"


@dataclass(frozen=True)
class Points:
    """A list of short sentences, folded away under `title` when it has one."""

    items: list[tuple[str, str]]  # a term (may be empty) and its words
    title: str = ""
    kind: str = "points"


@dataclass(frozen=True)
class Facts:
    """Short facts: a term, its value."""

    items: list[tuple[str, str]]
    kind: str = "facts"


@dataclass(frozen=True)
class Code:
    """Text as it stands, under a caption."""

    caption: str
    text: str
    is_folded: bool = False
    kind: str = "code"


@dataclass(frozen=True)
class Heading:
    """A heading inside a section, with an optional verdict beside it."""

    text: str
    outcome: str = ""
    words: str = ""
    kind: str = "heading"


@dataclass(frozen=True)
class Missing:
    """Says what is absent and which command fills it."""

    text: str
    command: str
    kind: str = "missing"


@dataclass(frozen=True)
class Section:
    """A numbered part of the page."""

    id: str
    title: str
    question: str
    blocks: list[Any] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Tell whether the run holds nothing for this part yet."""
        return all(block.kind == "missing" for block in self.blocks)
