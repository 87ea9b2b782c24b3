"""Tables as Stack Exchange ships them: an XML file whose rows are elements `<row Id="1" ... />`, read as a stream."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from xml.parsers import expat

from habitus.core.errors import SourceError

if TYPE_CHECKING:
    import polars as pl

CHUNK = 1 << 20  # bytes parsed at a time
ROWS = 200_000  # rows turned into a table at a time


def read_rows(path: str | Path, columns: Sequence[str]) -> pl.DataFrame:
    """Give chosen attributes of every `<row>` as text, in the order of the file; an absent attribute is missing.

    The file is read piece by piece: memory grows with the chosen columns, not with the texts of posts beside them.
    Entities that a file declares are refused, as is anything that is not well formed.

    Errors: `SourceError` with the line, for a file that is absent, cut short or no XML.

    >>> read_rows("no/such/Posts.xml", ["Id"])
    Traceback (most recent call last):
    ...
    habitus.core.errors.SourceError: expected  an XML file
    found     No such file or directory
    where     no/such/Posts.xml
    """
    gather = _Gather(tuple(columns))
    parser = expat.ParserCreate()
    parser.StartElementHandler = gather.start
    parser.EntityDeclHandler = _refuse
    try:
        with Path(path).open("rb") as file:
            while chunk := file.read(CHUNK):
                parser.Parse(chunk)
            parser.Parse(b"", True)
    except OSError as cause:
        raise SourceError("an XML file", cause.strerror or str(cause), where=str(path)) from None
    except (expat.ExpatError, _DeclaresEntities) as cause:
        raise SourceError(
            "well-formed XML",
            str(cause) or "a declaration of entities",
            where=f"{path}, line {parser.CurrentLineNumber:,}",
            fix="unpack the publisher's archive again",
        ) from None
    return gather.table()


class _DeclaresEntities(Exception):
    pass


def _refuse(*declaration: object) -> None:
    """Stop at an entity declaration: expanding them is the one way a small XML file fills a machine."""
    raise _DeclaresEntities


class _Gather:
    """Collects attributes row by row and turns them into tables, so that Python objects stay few."""

    def __init__(self, columns: tuple[str, ...]) -> None:
        self.columns = columns
        self.waiting: list[tuple[str | None, ...]] = []
        self.tables: list[pl.DataFrame] = []

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if name == "row":
            self.waiting.append(tuple(map(attributes.get, self.columns)))
            if len(self.waiting) == ROWS:
                self._turn()

    def table(self) -> pl.DataFrame:
        import polars as pl

        self._turn()
        return pl.concat(self.tables)

    def _turn(self) -> None:
        import polars as pl

        schema = dict.fromkeys(self.columns, pl.String)
        self.tables.append(pl.DataFrame(self.waiting, schema=schema, orient="row"))
        self.waiting = []
