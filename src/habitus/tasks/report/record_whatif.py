"""The what-if section of metrics.json as frozen containers; every key is optional."""

from __future__ import annotations

from datetime import date

from pydantic import AliasChoices, BaseModel, Field

from habitus.tasks.report.part import FROZEN, Days, Number, Numbers


class _Part(BaseModel):
    model_config = FROZEN


class Effect(_Part):
    """A difference with its interval, and how it reads: clear, noise, nothing or unknown."""

    value: Number = None
    low: Number = None
    high: Number = None
    verdict: str = "unknown"


class WhatIfRow(_Part):
    """A total under one calendar; `difference`, `low` and `high` are against the first calendar.

    `total_low` and `total_high` are about the total itself; `day_*` are the difference as the days say.
    """

    target: str
    calendar: str = ""
    event: str | None = None
    unit: str | None = None
    total: Number = None
    total_low: Number = None
    total_high: Number = None
    difference: Number = None
    low: Number = None
    high: Number = None
    n_users: int | None = None
    n_changed: int | None = None
    verdict: str = "unknown"
    day_difference: Number = None
    day_low: Number = None
    day_high: Number = None
    day_verdict: str = "unknown"

    @property
    def is_by_days(self) -> bool:
        """Tell whether the difference was read from the days too, which then leads."""
        return self.day_difference is not None

    @property
    def lead(self) -> Effect:
        """The difference that leads: read from the days where they were asked, else by the window head."""
        if self.day_difference is None:
            return self.by_window
        return Effect(value=self.day_difference, low=self.day_low, high=self.day_high, verdict=self.day_verdict)

    @property
    def by_window(self) -> Effect:
        """The difference as the window head says it."""
        return Effect(value=self.difference, low=self.low, high=self.high, verdict=self.verdict)


class Placebo(WhatIfRow):
    """A change that should matter little, or as much as the answer; `low` and `high` are its extreme draws."""

    kind: str = "just after"
    n: int | None = None


class SegmentRow(WhatIfRow):
    segment: str


class Change(_Part):
    calendar: str
    event: str
    type: str | None = None
    start: date | None = None
    end: date | None = None
    was: date | None = None
    what: str | None = None
    kind: str | None = None
    n_past: int | None = None
    warning: str | None = None


class Late(_Part):
    """An event that was announced too late to matter."""

    calendar: str
    event: str


class WhatIfDaily(_Part):
    target: str
    unit: str | None = None
    level: float | None = None
    day: Days = []
    values: dict[str, Numbers] = {}
    low: dict[str, Numbers] = {}
    high: dict[str, Numbers] = {}


class Null(_Part):
    """A change of nothing, and the largest move of any answer under it."""

    test: str
    largest: Number = None


class Adds(_Part):
    """What one coming event adds to a total: beside all others, and alone."""

    event: str
    target: str
    type: str | None = None
    start: date | None = None
    unit: str | None = None
    n_reached: int | None = None
    n_past: int | None = None
    is_placebo: bool = False
    value: Number = None
    low: Number = None
    high: Number = None
    alone_value: Number = None
    alone_low: Number = None
    alone_high: Number = None


class Arrivals(_Part):
    """Users first seen in the last `n_days`."""

    n_users: int | None = None
    n_days: int | None = None


class WhatIf(_Part):
    cutoff: date | None = None
    horizon: int | None = None
    level: float | None = Field(None, validation_alias=AliasChoices("level", "coverage"))
    total_level: float | None = None
    n_cutoffs: int | None = None
    n_members: int | None = None
    n_users: int | None = None
    calendars: list[str] = []
    rows: list[WhatIfRow] = []
    changes: list[Change] = []
    late: list[Late] = []
    arrivals: Arrivals = Arrivals()
    daily: list[WhatIfDaily] = []
    placebo: list[Placebo] = []
    null: list[Null] = []
    segment_by: str | None = None
    segments: list[SegmentRow] = []
    importance: list[Adds] = []
    n_events_left_out: int = 0

    @property
    def base(self) -> str:
        """The calendar that the others are compared with."""
        return self.calendars[0] if self.calendars else self.rows[0].calendar if self.rows else ""

    @property
    def others(self) -> list[str]:
        """The other calendars, in order."""
        return [c for c in dict.fromkeys(row.calendar for row in self.rows) if c != self.base]
