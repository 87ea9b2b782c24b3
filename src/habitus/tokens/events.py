"""Event tokens: one id per event and field, fitted on train, frozen, saved with the model."""

from __future__ import annotations

from dataclasses import dataclass

from habitus.core.errors import ConfigError, nearest


@dataclass(frozen=True)
class EventShape:
    """What the data imply for a model of events.

    `fields`: name and rows of each field's table, padding (0) and unknown (1) included, in the order of `ids`;
    `n_amounts`: columns of `amount`; `length`: T, the longest row a model is given.

    >>> shape = EventShape((("gap", 66), ("type", 5)), n_amounts=0, length=128)
    >>> shape.column("type"), shape.n_rows("type")
    (1, 5)
    """

    fields: tuple[tuple[str, int], ...]
    n_amounts: int
    length: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "fields", tuple((str(name), int(n)) for name, n in self.fields))

    @property
    def names(self) -> tuple[str, ...]:
        """The fields, in order."""
        return tuple(name for name, _ in self.fields)

    def column(self, name: str) -> int:
        """Give the place of a field in `ids`. Errors: `ConfigError` for a field that there is not."""
        if name not in self.names:
            meant = nearest(name, self.names)
            fix = f"did you mean {meant!r}?" if meant else ""
            raise ConfigError("a field out of: " + ", ".join(self.names), repr(name), where="field", fix=fix)
        return self.names.index(name)

    def n_rows(self, name: str) -> int:
        """Give the rows of a field's table."""
        return self.fields[self.column(name)][1]
