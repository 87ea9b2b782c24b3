"""Worlds of single events whose rules are known: a long tail with its oracle, and planted rules in time.

Every draw is a function of seed, user and event number, so a larger world holds the smaller one. Both worlds can be
drawn as domain `a` or `b`: the same behaviour under other names, with other users.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from habitus.core.config import Config
from habitus.core.seeds import generator, uniforms

if TYPE_CHECKING:
    from habitus.data.log import EventLog

START = 1_672_617_600  # 2023-01-02 00:00 UTC, a Monday
DAY = 86_400
RULE_SECONDS = 7_200
_SCHEMA = {"time_zone": "UTC", "events": {"user": "user", "time": "time", "type": "type", "time_is": "utc"}}


class TailWorld(Config):
    """Common types that follow each other, and `n_rare` rare ones, each decided by a rare trigger of its own.

    A trigger waits until the next `gate`; the event after that gate is then the trigger's rare type with a certainty
    between `certainty[0]` and `certainty[1]`, else an ordinary one. Triggers come at `trigger_rate` per event, the k-th
    in proportion to k^-`zipf`. With a certainty below one half the best single guess is a common type, so that recall
    of rare types has a price.

    >>> TailWorld(n_head=5, n_rare=3).n_types
    12
    """

    n_users: int = Field(default=2000, ge=0)
    n_events: int = Field(default=60, ge=2)  # per user, at most; a user has at least half of it
    n_head: int = Field(default=20, ge=2)
    n_rare: int = Field(default=20, ge=1)
    zipf: float = Field(default=1.2, ge=0)
    trigger_rate: float = Field(default=0.08, gt=0, lt=1)
    certainty: tuple[float, float] = (0.1, 0.8)
    seed: int = 0
    domain: Literal["a", "b"] = "a"

    @property
    def n_types(self) -> int:
        """The gate, head types, triggers, rare types."""
        return 1 + self.n_head + 2 * self.n_rare

    @property
    def names(self) -> tuple[str, ...]:
        """Names in code order."""
        parts = ("gate",), *(tuple(f"{n} {i}" for i in range(k)) for n, k in self._groups)
        names = tuple(name for part in parts for name in part)
        return names if self.domain == "a" else tuple(f"b {name}" for name in names)

    @property
    def _groups(self) -> tuple[tuple[str, int], ...]:
        return ("head", self.n_head), ("trigger", self.n_rare), ("rare", self.n_rare)

    @cached_property
    def probabilities(self) -> np.ndarray:
        """P(next type | state), n_states x n_types: what an oracle knows. See `state_of`."""
        n_common, n_rare = 1 + self.n_head, self.n_rare
        popular = np.arange(1, n_common + 1) ** -1.0
        own = np.eye(n_common)[generator(0, "tail world", self.n_head).permutation(n_common)]
        common = np.vstack([0.5 * popular / popular.sum() + 0.5 * own, popular / popular.sum()])
        trigger = np.arange(1, n_rare + 1) ** -self.zipf
        ordinary = np.zeros((n_common + 1, self.n_types))
        ordinary[:, :n_common] = (1 - self.trigger_rate) * common
        ordinary[:, n_common : n_common + n_rare] = self.trigger_rate * trigger / trigger.sum()
        table = np.repeat(ordinary[:, None], n_rare + 1, axis=1)
        sure = np.resize(np.linspace(*self.certainty, 5), n_rare)
        table[0, 1:] *= 1 - sure[:, None]
        table[0, np.arange(1, n_rare + 1), n_common + n_rare + np.arange(n_rare)] += sure
        return table.reshape(-1, self.n_types)

    def state_of(self, last: np.ndarray, waiting: np.ndarray) -> np.ndarray:
        """Give the state from the last type and the waiting trigger (0: none, else its number + 1)."""
        return np.minimum(last, self.n_head + 1) * (self.n_rare + 1) + waiting


class RulesWorld(Config):
    """`A`, then `B` within two hours, then `C` with `certainty`, some minutes later; and habits around it.

    Each user has an hour at which most longer gaps end, two favourite items of `n_items`, a level of activity, types
    that lean on the weekday, and leaves for good with chance `churn` after every event.

    >>> RulesWorld().names
    ('A', 'B', 'C', 'visit', 'buy', 'help')
    """

    n_users: int = Field(default=1000, ge=0)
    n_events: int = Field(default=80, ge=2)
    n_items: int = Field(default=40, ge=2)
    certainty: float = Field(default=0.9, ge=0, le=1)
    churn: float = Field(default=0.01, ge=0, lt=1)
    seed: int = 0
    domain: Literal["a", "b"] = "a"

    @property
    def names(self) -> tuple[str, ...]:
        """Names in code order."""
        names = ("A", "B", "C", "visit", "buy", "help")
        return names if self.domain == "a" else ("first", "second", "third", "look", "order", "ask")


EventWorld = TailWorld | RulesWorld


@dataclass(frozen=True)
class Drawn:
    """The events of a world, by user and time. n rows."""

    user: np.ndarray  # n, user number
    time: np.ndarray  # n, seconds since 1970-01-01 UTC
    type: np.ndarray  # n, code
    state: np.ndarray  # n, what an oracle knew before the event (tail), or 1 where the rule decided it (rules)
    item: np.ndarray | None = None  # n, code


def draw_world(world: EventWorld) -> Drawn:
    """Draw every event of a world.

    >>> drawn = draw_world(TailWorld(n_users=3, n_events=10))
    >>> len(drawn.type) == len(drawn.state) > 10
    True
    """
    users = np.arange(world.n_users, dtype=np.int64) + (0 if world.domain == "a" else 10_000_000)
    rows = _tail_rows(world, users) if isinstance(world, TailWorld) else _rules_rows(world, users)
    is_there = rows.pop("is_there")
    n = is_there.shape[1]
    flat = {name: values.T[is_there] for name, values in rows.items()}
    return Drawn(user=np.repeat(users, n).reshape(-1, n)[is_there], **flat)


def event_world(world: EventWorld) -> EventLog:
    """Give the log of a world, drawn in memory: user, time, type, and items in the world of rules."""
    import polars as pl

    from habitus.data.log import EventLog
    from habitus.data.schema import Schema

    drawn = draw_world(world)
    columns = {
        "user": pl.Series(drawn.user).cast(pl.String),
        "time": pl.Series(drawn.time * 1_000_000).cast(pl.Datetime("us")),
        "type": pl.Series(np.array(world.names, object)[drawn.type], dtype=pl.String),
    }
    schema = {**_SCHEMA, "name": "tail world" if isinstance(world, TailWorld) else "rules world"}
    if drawn.item is not None:
        mark = "item" if world.domain == "a" else "thing"
        columns["item"] = pl.Series([f"{mark} {i}" for i in range(drawn.item.max(initial=0) + 1)]).gather(drawn.item)
        schema["events"] = {**_SCHEMA["events"], "item": "item"}
    return EventLog(Schema.parse(schema), pl.DataFrame(columns))


def tail_world() -> EventLog:
    """Give the log of a `TailWorld`, all defaults."""
    return event_world(TailWorld.parse({}))


def rules_world() -> EventLog:
    """Give the log of a `RulesWorld`, all defaults."""
    return event_world(RulesWorld.parse({}))


def _tail_rows(world: TailWorld, users: np.ndarray) -> dict[str, np.ndarray]:
    """Columns of n_events x n_users."""
    cumulative = world.probabilities.cumsum(axis=1)
    last, waiting = np.zeros(len(users), np.int64), np.zeros(len(users), np.int64)
    gate, first_trigger = 0, 1 + world.n_head
    first_rare = first_trigger + world.n_rare
    types, states = [], []
    for step in range(world.n_events):
        state = world.state_of(last, waiting)
        drawn = _pick(cumulative[state], uniforms(world.seed, users, stream=f"type {step}"))
        waiting = np.where(last == gate, 0, waiting)
        is_trigger = (drawn >= first_trigger) & (drawn < first_rare)
        waiting, last = np.where(is_trigger, drawn - first_trigger + 1, waiting), drawn
        types.append(drawn)
        states.append(state)
    level = np.exp(_normal(world.seed, users, "level"))
    gaps = [np.exp(9.5 + 1.3 * _normal(world.seed, users, f"gap {step}")) * level for step in range(world.n_events)]
    begin = uniforms(world.seed, users, stream="begin") * 14 * DAY
    time = START + (begin + np.maximum(np.stack(gaps), 1).cumsum(axis=0)).astype(np.int64)
    n = np.floor((0.5 + 0.5 * uniforms(world.seed, users, stream="n")) * (world.n_events + 1)).astype(np.int64)
    is_there = np.arange(world.n_events) < np.minimum(n, world.n_events)[:, None]
    return {"time": time, "type": np.stack(types), "state": np.stack(states), "is_there": is_there}


def _rules_rows(world: RulesWorld, users: np.ndarray) -> dict[str, np.ndarray]:
    """Columns of n_events x n_users."""
    hour = 7 + np.floor(uniforms(world.seed, users, stream="hour") * 14)
    level = np.exp(0.5 * _normal(world.seed, users, "level"))
    favourites = np.floor(
        np.stack([uniforms(world.seed, users, stream=f"item {i}") for i in range(2)]) ** 2 * world.n_items
    )
    time = START + np.floor(uniforms(world.seed, users, stream="begin") * 14 * DAY)
    last, since_a = np.full(len(users), -1), np.full(len(users), np.inf)
    alive = np.ones(len(users), bool)
    columns: dict[str, list[np.ndarray]] = {name: [] for name in ("time", "type", "state", "item", "is_there")}
    for step in range(world.n_events):
        u = {n: uniforms(world.seed, users, stream=f"{n} {step}") for n in ("short", "gap", "slot", "rule", "type")}
        is_short = (u["short"] < 0.5) | (last == 0)  # what follows A comes soon, within two hours or not
        short = 120 * np.exp(u["gap"] * 5.3)  # 2 minutes to 6.7 hours
        long = DAY * (0.3 + 3 * u["gap"]) * level
        at = time + np.where(is_short, short, long)
        habit = np.floor(at / DAY) * DAY + (hour + u["slot"]) * 3600
        at = np.where(~is_short & (u["slot"] < 0.8) & (habit > time), habit, at)
        is_rule = (last == 1) & (since_a <= RULE_SECONDS) & (u["rule"] < world.certainty)
        at = np.where(is_rule, time + 300 + 1500 * u["gap"], at)
        drawn = np.where(is_rule, 2, _ordinary_type(at, last, u["type"]))
        since_a = np.where(drawn == 0, 0.0, since_a + at - time)
        chosen = favourites[(u["rule"] * 1e4 % 1 > 0.5).astype(int), np.arange(len(users))]
        anything = np.floor((u["slot"] * 1e4 % 1) * world.n_items)
        item = np.where(u["type"] * 1e4 % 1 < 0.8, chosen, anything).astype(np.int64)
        time, last = np.floor(at), drawn
        for name, values in (("time", time.astype(np.int64)), ("type", drawn), ("state", is_rule * 1), ("item", item)):
            columns[name].append(values)
        columns["is_there"].append(alive.copy())
        alive = alive & (uniforms(world.seed, users, stream=f"churn {step}") >= world.churn)
    rows = {name: np.stack(values) for name, values in columns.items()}
    return rows | {"is_there": rows["is_there"].T}


def _ordinary_type(at: np.ndarray, last: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """A type that no rule decides: B is likely after A; weekends are for visits."""
    is_weekend = (np.floor(at / DAY) + 3) % 7 >= 5
    shares = np.where(is_weekend[:, None], (0.12, 0.08, 0.02, 0.55, 0.18, 0.05), (0.2, 0.12, 0.02, 0.3, 0.3, 0.06))
    shares = np.where((last == 0)[:, None], (0.02, 0.7, 0.02, 0.13, 0.1, 0.03), shares)
    return _pick(shares.cumsum(axis=1), uniform)


def _pick(cumulative: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """Inverse CDF, one draw per row."""
    return np.minimum((cumulative < uniform[:, None] * cumulative[:, -1:]).sum(axis=1), cumulative.shape[1] - 1)


def _normal(seed: int, keys: np.ndarray, stream: str) -> np.ndarray:
    """Box-Muller (1958)."""
    one, two = (uniforms(seed, keys, stream=f"{stream} {i}") for i in "ab")
    return np.sqrt(-2 * np.log(1 - one)) * np.cos(2 * np.pi * two)
