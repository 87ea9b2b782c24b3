"""Worlds of tastes whose answers are known, to judge what a vector of a user has kept.

    LongMemory   a hobby last touched one to three years ago, behind hundreds of later events
    Twins        pairs of users of one taste: who is like whom is known
    Wide         10^5 interests, labels that are linear in the true tastes
    Drift        tastes change, and only the last weeks decide
    Untidy       a log as late, repeated and shuffled files

Every draw is a function of seed, user and event number, so a larger world holds the users of the smaller one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Self

import numpy as np
from pydantic import Field, model_validator

from habitus.core.config import Config
from habitus.core.seeds import generator, uniforms

if TYPE_CHECKING:
    import polars as pl

    from habitus.data.log import EventLog
    from habitus.data.schema import Schema

START = 17_896  # 2018-12-31, a Monday, in days since 1970-01-01
YEAR = 364
_MOST = 1 << 20  # events of one user
Size = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class DrawnTastes:
    """Events of n users, sorted by user and day, and what is true of the users.

    Attributes
    ----------
    user, day, interest
        int64 [events]; days since 1970-01-01; interests 0 .. V - 1.
    labels
        Binary outcomes by name, int8 [n].
    twin
        The twin of each user, int64 [n]; None in other worlds.
    tastes
        The true tastes, float64 [n, K]; None where a world has no linear tastes.
    """

    n_users: int
    n_interests: int
    user: np.ndarray
    day: np.ndarray
    interest: np.ndarray
    labels: dict[str, np.ndarray]
    twin: np.ndarray | None = None
    tastes: np.ndarray | None = None

    def log(self) -> EventLog:
        """Give the log: user `u7`, item `i12` (one interest each), type `visit`, midday UTC."""
        from habitus.data.log import EventLog

        return EventLog(_schema(), _table(self))


class Wide(Config):
    """Labels linear in the true tastes, over very many interests.

    A user has a taste over `n_topics` (softmax of `sharpness` x normal), a topic has `n_interests / n_topics` interests
    of its own with popularity rank^-`zipf`; an event picks a topic, then with chance `stray` any interest at all.
    Label k is drawn with probability sigmoid(`slope` x the standardised product of weights k and log tastes).
    """

    n_users: Size = 20_000
    n_interests: Size = 100_000
    n_topics: Size = 100
    n_labels: int = Field(default=20, ge=0)
    n_events: tuple[int, int] = (60, 400)  # per user, log-uniform between
    n_days: Size = 728
    sharpness: float = Field(default=1.5, ge=0)
    zipf: float = Field(default=0.8, ge=0)
    stray: float = Field(default=0.05, ge=0, le=1)
    slope: float = Field(default=2.0, ge=0)
    seed: int = 0


class LongMemory(Config):
    """A user may have had one hobby, one to three years before the end; nothing of it comes back later.

    `n_touches` events of the hobby lie among older ones of the same years; then `n_recent` events of the last year
    follow. Label k: the user's hobby was k. An encoder of the last 200 events cannot know.
    """

    n_users: Size = 4_000
    n_interests: Size = 2_000
    n_hobbies: Size = 8
    n_touches: Size = 8
    n_old: int = Field(default=100, ge=0)
    n_recent: Size = 300
    per_hobby: Size = 12  # interests of one hobby: the first n_hobbies x per_hobby
    seed: int = 0

    @model_validator(mode="after")
    def _room(self) -> Self:
        if self.n_hobbies * self.per_hobby >= self.n_interests:
            raise ValueError("more interests than n_hobbies x per_hobby")
        return self


class Twins(Config):
    """Users 2 i and 2 i + 1 share a taste of `n_tastes` interests and act on it apart from each other."""

    n_users: Size = 4_000
    n_interests: Size = 5_000
    n_tastes: Size = 40
    n_events: Size = 120
    n_days: Size = 364
    stray: float = Field(default=0.3, ge=0, le=1)
    seed: int = 0


class Drift(Config):
    """A user's topic changes at random times; label k: the topic of the last `recent` days is k.

    The change before lies at least `recent` days before the end, and older topics hold most of the events.
    """

    n_users: Size = 4_000
    n_interests: Size = 2_000
    n_topics: Size = 8
    n_phases: Size = 4
    recent: Size = 91
    n_days: Size = 728
    n_events: Size = 200
    stray: float = Field(default=0.2, ge=0, le=1)
    seed: int = 0


class Untidy(Config):
    """How files differ from the log they hold: weeks as files, some rows in a later file, some twice, none in order."""

    late: float = Field(default=0.1, ge=0, le=1)
    late_files: Size = 3
    twice: float = Field(default=0.05, ge=0, le=1)
    days_per_file: Size = 28
    seed: int = 0


TasteWorld = Wide | LongMemory | Twins | Drift


def draw_tastes(world: TasteWorld) -> DrawnTastes:
    """Draw every event of a world, and its answers.

    >>> drawn = draw_tastes(Wide(n_users=5, n_interests=50, n_topics=5, n_labels=2, n_events=(3, 9)))
    >>> len(drawn.labels), drawn.n_interests, bool(drawn.interest.max() < 50)
    (2, 50, True)
    """
    draw: Any = {Wide: _wide, LongMemory: _long_memory, Twins: _twins, Drift: _drift}[type(world)]
    drawn = draw(world)
    order = np.lexsort((drawn.day, drawn.user))
    return replace(drawn, user=drawn.user[order], day=drawn.day[order], interest=drawn.interest[order])


def untidy_files(drawn: DrawnTastes, how: Untidy | None = None) -> list[EventLog]:
    """Give the log as files to ingest one after the other: late, repeated and shuffled rows.

    Each row carries `event_id`, the schema's key, so repeated rows can be told from events that are alike. All files
    together hold the same events as `drawn.log()`.
    """
    from habitus.data.log import EventLog

    how = how or Untidy()
    table = _table(drawn).with_row_index("event_id")
    keys = np.arange(table.height)
    file = (drawn.day - START) // how.days_per_file
    is_late = uniforms(how.seed, keys, stream="late") < how.late
    file = file + is_late * (1 + np.floor(uniforms(how.seed, keys, stream="by") * how.late_files).astype(np.int64))
    again = np.flatnonzero(uniforms(how.seed, keys, stream="twice") < how.twice)
    rows, file = np.concatenate([keys, again]), np.concatenate([file, file[again] + again % 2])
    order = np.lexsort((uniforms(how.seed, np.arange(len(rows)), stream="order"), file))
    rows, file = rows[order], file[order]
    parts = np.split(rows, np.flatnonzero(np.diff(file)) + 1)
    schema = _schema(key=("event_id",))
    return [EventLog(schema, table[part]) for part in parts]


def wide_world() -> EventLog:
    """Give the log of a `Wide` world, all defaults: 10^5 interests, 20,000 users."""
    return draw_tastes(Wide.parse({})).log()


def long_memory_world() -> EventLog:
    """Give the log of a `LongMemory` world, all defaults."""
    return draw_tastes(LongMemory.parse({})).log()


def twins_world() -> EventLog:
    """Give the log of a world of `Twins`, all defaults."""
    return draw_tastes(Twins.parse({})).log()


def drift_world() -> EventLog:
    """Give the log of a world of `Drift`, all defaults."""
    return draw_tastes(Drift.parse({})).log()


def _wide(world: Wide) -> DrawnTastes:
    users, n_topics = np.arange(world.n_users), world.n_topics
    cells = (users[:, None] * _MOST + np.arange(n_topics)).ravel()
    logits = world.sharpness * _normal(world.seed, cells, "taste").reshape(-1, n_topics)
    low, high = world.n_events
    n = np.floor(low * (high / low) ** uniforms(world.seed, users, stream="n")).astype(np.int64)
    user, key = _keys(users, n)
    share = np.exp(logits - logits.max(axis=1, keepdims=True))
    edges = np.cumsum(share / share.sum(axis=1, keepdims=True), axis=1)
    edges[:, -1] = 1.0
    topic = np.searchsorted((edges + users[:, None]).ravel(), user + _u(world.seed, key, "topic"), side="right")
    topic = np.minimum(topic - user * n_topics, n_topics - 1)
    per_topic = max(world.n_interests // n_topics, 1)
    weight = np.arange(1, per_topic + 1) ** -world.zipf
    place = np.searchsorted(np.cumsum(weight / weight.sum()), _u(world.seed, key, "place"))
    interest = np.minimum(topic * per_topic + np.minimum(place, per_topic - 1), world.n_interests - 1)
    interest = _strayed(world.seed, key, interest, world.stray, world.n_interests)
    weights = generator(world.seed, "labels", n_topics).normal(size=(n_topics, world.n_labels)) / np.sqrt(n_topics)
    score = world.slope * logits @ weights / max(world.sharpness, 1e-9)
    keys = users[:, None] * _MOST + np.arange(world.n_labels)
    drawn = uniforms(world.seed, keys.ravel(), stream="label").reshape(keys.shape) < 1 / (1 + np.exp(-score))
    labels = {f"label_{k}": drawn[:, k].astype(np.int8) for k in range(world.n_labels)}
    day = START + np.floor(_u(world.seed, key, "day") * world.n_days).astype(np.int64)
    return DrawnTastes(world.n_users, world.n_interests, user, day, interest, labels, tastes=logits)


def _long_memory(world: LongMemory) -> DrawnTastes:
    users = np.arange(world.n_users)
    hobby = np.floor(uniforms(world.seed, users, stream="hobby") * 2 * world.n_hobbies).astype(np.int64)
    sizes = world.n_old, world.n_recent, world.n_touches
    user, key = _keys(users, np.full(world.n_users, sum(sizes)))
    number = key % _MOST
    is_recent = (number >= world.n_old) & (number < world.n_old + world.n_recent)
    is_hobby = number >= world.n_old + world.n_recent
    age = np.where(is_recent, 0.0, 1.0) + _u(world.seed, key, "age") * np.where(is_recent, 1.0, 2.0)
    day = START + 3 * YEAR - 1 - np.floor(age * YEAR).astype(np.int64)
    reserved = world.n_hobbies * world.per_hobby
    rest = reserved + np.floor(_u(world.seed, key, "other") ** 3 * (world.n_interests - reserved)).astype(np.int64)
    inside = np.floor(_u(world.seed, key, "touch") * world.per_hobby).astype(np.int64)
    interest = np.where(is_hobby & (hobby[user] < world.n_hobbies), hobby[user] * world.per_hobby + inside, rest)
    labels = {f"hobby_{k}": (hobby == k).astype(np.int8) for k in range(world.n_hobbies)}
    return DrawnTastes(world.n_users, world.n_interests, user, day, interest, labels)


def _twins(world: Twins) -> DrawnTastes:
    users = np.arange(world.n_users)
    user, key = _keys(users, np.full(world.n_users, world.n_events))
    slot = np.floor(_u(world.seed, key, "slot") ** 1.5 * world.n_tastes).astype(np.int64)
    taste = uniforms(world.seed, (user // 2) * _MOST + slot, stream="taste")
    interest = np.floor(taste * world.n_interests).astype(np.int64)
    interest = _strayed(world.seed, key, interest, world.stray, world.n_interests)
    day = START + np.floor(_u(world.seed, key, "day") * world.n_days).astype(np.int64)
    twin = np.where((users ^ 1) < world.n_users, users ^ 1, -1)
    return DrawnTastes(world.n_users, world.n_interests, user, day, interest, {}, twin=twin)


def _drift(world: Drift) -> DrawnTastes:
    users = np.arange(world.n_users)
    user, key = _keys(users, np.full(world.n_users, world.n_events))
    old_days = max(world.n_days - world.recent, 1)
    day = np.floor(_u(world.seed, key, "day") * world.n_days).astype(np.int64)
    phase = np.minimum(day * (world.n_phases - 1) // old_days, world.n_phases - 1)
    topics = uniforms(world.seed, (users[:, None] * _MOST + np.arange(world.n_phases)).ravel(), stream="topic")
    topics = np.floor(topics * world.n_topics).astype(np.int64).reshape(-1, world.n_phases)
    per_topic = max(world.n_interests // world.n_topics, 1)
    place = np.floor(_u(world.seed, key, "place") ** 2 * per_topic).astype(np.int64)
    interest = _strayed(world.seed, key, topics[user, phase] * per_topic + place, world.stray, world.n_interests)
    labels = {f"now_{k}": (topics[:, -1] == k).astype(np.int8) for k in range(world.n_topics)}
    return DrawnTastes(world.n_users, world.n_interests, user, START + day, interest, labels)


def _keys(users: np.ndarray, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give the user and the key of each event: user x 2^20 + number."""
    user = np.repeat(users, n)
    number = np.arange(len(user)) - np.repeat(np.cumsum(n) - n, n)
    return user, user * _MOST + number


def _u(seed: int, key: np.ndarray, stream: str) -> np.ndarray:
    return uniforms(seed, key, stream=stream)


def _strayed(seed: int, key: np.ndarray, interest: np.ndarray, share: float, n_interests: int) -> np.ndarray:
    anything = np.floor(_u(seed, key, "anything") * n_interests).astype(np.int64)
    return np.where(_u(seed, key, "stray") < share, anything, interest)


def _normal(seed: int, keys: np.ndarray, stream: str) -> np.ndarray:
    """Box-Muller (1958)."""
    one, two = (uniforms(seed, keys, stream=f"{stream} {i}") for i in "ab")
    return np.sqrt(-2 * np.log(1 - one)) * np.cos(2 * np.pi * two)


def _table(drawn: DrawnTastes) -> pl.DataFrame:
    import polars as pl

    return pl.DataFrame(
        {
            "user": pl.Series([f"u{i}" for i in range(drawn.n_users)], dtype=pl.String).gather(drawn.user),
            "time": pl.Series((drawn.day * 86_400 + 43_200) * 1_000_000).cast(pl.Datetime("us")),
            "item": pl.Series([f"i{i}" for i in range(drawn.n_interests)], dtype=pl.String).gather(drawn.interest),
        }
    )


def _schema(key: tuple[str, ...] = ()) -> Schema:
    from habitus.data.schema import Schema

    events = {"user": "user", "time": "time", "time_is": "utc", "type": {"constant": "visit"}, "item": "item"}
    return Schema.parse({"name": "tastes", "time_zone": "UTC", "events": {**events, "key": key}})
