"""What may be asked and what is told: strict, with examples, the source of the OpenAPI page."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Text = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Word = str | int | float


class Strict(BaseModel):
    """No unknown key."""

    model_config = ConfigDict(extra="forbid")


class Event(Strict):
    """One past event of a user, in the words of the log."""

    time: Annotated[str, StringConstraints(min_length=8, max_length=40)] = Field(
        description="ISO date or time; local time of the log's zone where no zone is given.",
        examples=["2011-10-03T14:20:00"],
    )  # fmt: skip
    type: Text = Field(examples=["purchase"])
    item: Text | None = None
    session: Text | None = None
    amounts: dict[Text, float] = Field(default_factory=dict, max_length=20, examples=[{"spend": 12.5}])
    categories: dict[Text, Text] = Field(default_factory=dict, max_length=20)


class NewUser(Strict):
    """A user whom no store knows: the history comes with the question and is kept nowhere."""

    user: Text = Field(examples=["new-1"])
    events: list[Event] = Field(min_length=1)
    profile: dict[Text, Word | None] = Field(default_factory=dict, max_length=50, examples=[{"country": "France"}])
    audiences: list[Text] = Field(default_factory=list, max_length=100)


class Who(Strict):
    """Users of the store by id, or new users with their histories; not both."""

    users: list[Text] = Field(default_factory=list, examples=[["12347", "12348"]])
    histories: list[NewUser] = Field(default_factory=list, examples=[[]])


class Edit(Strict):
    """One change of the calendar of known events. What each edit needs stands in the guide page on what-if."""

    edit: Literal["add", "drop", "move", "rescope"]
    event: Text | None = Field(None, examples=["Extra bank holiday"])
    type: Text | None = Field(None, examples=["holiday"])
    start: dt.date | None = Field(None, examples=["2011-11-28"])
    end: dt.date | None = None
    strength: float | None = Field(None, gt=0, le=1e6)
    shift: int | None = Field(None, ge=-1000, le=1000)
    was: dt.date | None = None
    audience: Text | None = None
    users: Literal["only", "more", "fewer"] | None = None


class Alternative(Strict):
    """One future to compare with the calendar as planned."""

    name: Text = Field("edited", examples=["one holiday more"])
    edits: list[Edit] = Field(min_length=1, max_length=200)


ONE_MORE = {
    "name": "one holiday more",
    "edits": [{"edit": "add", "event": "Extra bank holiday", "type": "holiday", "start": "2011-11-28"}],
}


class WhatIf(Who):
    """Whom to ask about, and which futures."""

    alternatives: list[Alternative] = Field(min_length=1, max_length=8, examples=[[ONE_MORE]])


class Scope(Strict):
    """Everybody, a segment of the profile, or one user."""

    segment: Text | None = None
    value: Annotated[str, StringConstraints(max_length=200)] | None = None
    user: Text | None = None


class ScopeWhatIf(Strict):
    """Totals and days of a scope under further calendars; none gives the forecast alone."""

    scope: Scope = Scope()
    alternatives: list[Alternative] = Field(default_factory=list, max_length=4, examples=[[ONE_MORE]])
    past_days: int = Field(56, ge=0, le=400)


class NextEvents(Who):
    """Whom to ask about, and how many values."""

    top: int = Field(10, ge=1, le=1000)
    is_new: bool = Field(False, description="Leave out what the user had before.")


class Generate(Who):
    """Futures to draw, event by event, from the day after the cut-off."""

    users: list[Text] = Field(default_factory=list, examples=[["u1"]])
    days: int = Field(14, ge=1, le=92)
    samples: int = Field(1, ge=1, le=64)
    seed: int = Field(0, ge=0, lt=2**31)
    max_events: int = Field(200, ge=1, le=2000)


class Alike(Strict):
    """A user of the store, and how many look-alikes."""

    user: Text = Field(examples=["12347"])
    top: int = Field(10, ge=1, le=100)


class Interest(BaseModel):
    """An interest of a user: its events, its anchor, that anchor's share of the life, its weight there."""

    interest: str
    n: int
    anchor: int
    share: float
    weight: float


class Neighbour(BaseModel):
    """A look-alike; of runs of LURM also how many interests are shared, and those that weigh most in both bags."""

    user: str
    score: float
    n_shared: int | None = None
    shared: list[str] | None = None


class AlikeAnswer(BaseModel):
    """Users whose vectors lie nearest, with the cosine. Alike is what the model reads in their histories, no more.

    Interests are known to runs of LURM alone; null elsewhere.
    """

    run: str
    as_of: dt.date
    interests: list[Interest] | None = None
    users: list[Neighbour]


class Value(BaseModel):
    """A target of a user: a calibrated probability, or an expected value with quantiles."""

    target: str
    value: float
    quantiles: dict[str, float] | None = None


class Predicted(BaseModel):
    user: str
    targets: list[Value]


class Predictions(BaseModel):
    """One row per user, in the order asked."""

    run: str
    as_of: dt.date
    users: list[Predicted]


class Outcome(BaseModel):
    target: str
    calendar: str
    value: float
    difference: float
    by_days: float | None = None


class UserOutcomes(BaseModel):
    user: str
    outcomes: list[Outcome]


class WhatIfAnswer(BaseModel):
    """Every user under every calendar; `difference` to the calendar as planned, `by_days` as the days say."""

    run: str
    as_of: dt.date
    calendars: list[str]
    users: list[UserOutcomes]
    changes: list[dict[str, Any]]


class ScopeAnswer(BaseModel):
    """Totals and days of a scope. Intervals are null where nothing is known of the error; `notes` say why."""

    run: str
    as_of: dt.date
    n_users: int
    calendars: list[str]
    rows: list[dict[str, Any]]
    daily: list[dict[str, Any]]
    past: dict[str, Any]
    changes: list[dict[str, Any]]
    notes: list[str]


class Ranked(BaseModel):
    rank: int
    value: str
    probability: float


class NextOfUser(BaseModel):
    user: str
    values: list[Ranked]


class NextAnswer(BaseModel):
    """The most probable values of the next event's field."""

    run: str
    as_of: dt.date | None
    field: str
    users: list[NextOfUser]


class VectorOfUser(BaseModel):
    user: str
    vector: list[float]


class Vectors(BaseModel):
    """Vectors are personal data: they reveal what the history reveals. Those of two runs do not compare."""

    run: str
    as_of: dt.date | None
    users: list[VectorOfUser]


class Told(BaseModel):
    expected: str
    found: str
    where: str
    fix: str


class Problem(BaseModel):
    """What was expected, what was found, where, and what to do."""

    error: Told
