"""What a simulated world is: a config that holds everything, and four ready-made worlds."""

from __future__ import annotations

import datetime as dt
from typing import Literal, Self

import numpy as np
from pydantic import Field, model_validator

from habitus.core.config import Config
from habitus.core.errors import ConfigError, nearest
from habitus.core.seeds import generator

EVERY_DAY = (1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
WEEKEND = (0.8, 0.8, 0.85, 0.95, 1.1, 1.35, 1.15)


class EventType(Config):
    """A type of event. With `median`, each event carries a log-normal amount `spend`; with `has_item`, an item."""

    name: str
    median: float | None = Field(default=None, gt=0)
    sigma: float = Field(default=0.6, ge=0)  # sd of the log-amount within a user
    has_item: bool = False


class UserType(Config):
    """A kind of user: `rates` are mean events per day by event type, before rhythm, season and known events.

    `affinity` multiplies the effect of a planted event type on these users (default 1). `churn` is the chance of
    leaving for good on any one day.
    """

    name: str
    share: float = Field(gt=0)
    rates: dict[str, float]
    affinity: dict[str, float] = Field(default={})
    weekly: tuple[float, ...] = WEEKEND  # Monday first; scaled to mean 1
    level_sigma: float = Field(default=0.6, ge=0)  # sd of a user's own log-level of activity; its mean level is 1
    amount_scale: float = Field(default=1.0, gt=0)
    amount_sigma: float = Field(default=0.3, ge=0)  # sd of a user's own log-level of amounts
    churn: float = Field(default=0.0, ge=0, lt=1)
    peak_hour: float = 19.0


class Planted(Config):
    """A type of known event and what it really does.

    On each day from start to end, log-rates rise by `rate` (by event type) and log-amounts by `amount`, times the
    strength of the occurrence and the user's affinity. On the `lead` days before and the `lag` days after, by
    `lead_share` and `lag_share` of that; negative shares mean waiting before and a dip after. `announced` is days
    from announcement to start; negative: the event is announced after it has begun.
    """

    type: str
    starts: tuple[int, ...]  # days, 0 = first day of the world
    length: int = Field(default=1, ge=1)
    rate: dict[str, float] = Field(default={})
    amount: float = 0.0
    strengths: tuple[float, ...] = ()  # one per start; default 1
    lead: int = Field(default=0, ge=0)
    lead_share: float = 0.0
    lag: int = Field(default=0, ge=0)
    lag_share: float = 0.0
    audience: Literal["all", "randomised", "targeted"] = "all"
    share: float = Field(default=0.3, gt=0, lt=1)  # of users, for an audience; each occurrence draws its own
    targeting: float = Field(default=0.7, ge=0, lt=1)  # correlation of being targeted with the user's level of activity
    announced: int = 28
    is_notable: bool = True

    @model_validator(mode="after")
    def _one_strength_each(self) -> Self:
        if self.strengths and len(self.strengths) != len(self.starts):
            raise ValueError(f"{len(self.starts)} starts need as many strengths, or none")
        if min((*self.strengths, 1.0)) <= 0:
            raise ValueError("strengths must be above 0")
        if self.announced <= -self.length:
            raise ValueError("an event must be announced before it is over")
        return self


class OrderRule(Config):
    """A rule that no sum over a window can see, only the order of days.

    Each user-week is quiet (no event of type `quiet`) or busy (twice the rate), by the toss of a coin. Half of the
    users do `then` in the week after a quiet week, the others in the week after a busy one: rates are `lift` and
    `2 - lift` times the usual. Totals are the same for both; who is who shows only in what followed what.
    """

    quiet: str
    then: str
    lift: float = Field(default=1.9, ge=1, le=2)


class Season(Config):
    """A smooth wave in all log-rates: `amplitude` at its `peak` (a day of the world), minus that half a period on."""

    amplitude: float = 0.0
    period: float = Field(default=365.25, gt=0)
    peak: float = 0.0


class Items(Config):
    """Items in interests: `focus` of a user's items are of two own interests, the rest of any; popularity is Zipf's."""

    n_items: int = Field(default=1000, ge=1)
    n_interests: int = Field(default=20, ge=1)
    focus: float = Field(default=0.7, ge=0, le=1)


EVENT_TYPES = (
    EventType(name="visit", has_item=True),
    EventType(name="purchase", median=20.0, has_item=True),
    EventType(name="help"),
)
USER_TYPES = (
    UserType(
        name="loyal",
        share=0.3,
        rates={"visit": 0.35, "purchase": 0.08, "help": 0.005},
        affinity={"sale": 0.4, "campaign": 0.6},
        churn=0.0003,
    ),
    UserType(
        name="bargain",
        share=0.4,
        rates={"visit": 0.20, "purchase": 0.035, "help": 0.008},
        affinity={"sale": 1.5, "campaign": 1.3},
        amount_scale=0.8,
        churn=0.0008,
    ),
    UserType(
        name="heavy",
        share=0.02,
        rates={"visit": 1.2, "purchase": 0.4, "help": 0.02},
        affinity={"sale": 0.3, "campaign": 0.3},
        amount_scale=2.0,
        churn=0.0002,
    ),
    UserType(
        name="rare",
        share=0.28,
        rates={"visit": 0.05, "purchase": 0.010, "help": 0.002},
        affinity={"sale": 0.8, "campaign": 0.3},
        amount_scale=1.5,
        level_sigma=1.0,
        churn=0.0015,
    ),
)


class World(Config):
    """A simulated world, complete: the same world gives the same files, byte for byte.

    >>> world = World(n_users=50, n_days=10)
    >>> world.event_names, world.n_days
    (('visit', 'purchase', 'help'), 10)
    >>> World.parse({"n_users": 5, "event_types": [{"name": "visit"}], "user_types": [
    ...     {"name": "a", "share": 1, "rates": {"vist": 1}}]})
    Traceback (most recent call last):
    ...
    habitus.core.errors.ConfigError: expected  user type 'a': 'vist' is not an event type; did you mean 'visit'?
    ...
    """

    name: str = "world"
    n_users: int = Field(default=1000, ge=0)
    n_days: int = Field(default=365, ge=1)
    seed: int = 0
    start: dt.date = dt.date(2023, 1, 2)
    event_types: tuple[EventType, ...] = EVENT_TYPES
    user_types: tuple[UserType, ...] = USER_TYPES
    planted: tuple[Planted, ...] = ()
    season: Season = Season()
    items: Items = Items()
    new_share: float = Field(default=0.2, ge=0, le=1)  # users who arrive, evenly, while the world runs
    affinity_sigma: float = Field(default=0.0, ge=0)  # sd of a user's own log-affinity to each planted type
    profile_noise: float = Field(default=0.2, ge=0, le=1)  # share of users whose profile names a random user type
    shock_sigma: float = Field(default=0.0, ge=0)  # sd of the log of a factor that all users share on a day; mean 1
    order_rule: OrderRule | None = None

    @property
    def event_names(self) -> tuple[str, ...]:
        """Names of the event types; their order is their code."""
        return tuple(t.name for t in self.event_types)

    @property
    def mean_rate(self) -> float:
        """Events per user-day at base rates, in expectation."""
        total = sum(u.share for u in self.user_types)
        return sum(u.share * sum(u.rates.values()) for u in self.user_types) / total

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        if not self.event_types or not self.user_types:
            raise ValueError("a world needs at least one event type and one user type")
        planted = tuple(p.type for p in self.planted)
        for names, kind in ((self.event_names, "event type"), (planted, "planted type")):
            if len(set(names)) < len(names):
                raise ValueError(f"each {kind} once, not {names}")
        for user in self.user_types:
            _known(user.rates, self.event_names, f"user type {user.name!r}", "an event type")
            if planted:
                _known(user.affinity, (*planted, *_READY_TYPES), f"user type {user.name!r}", "a planted type")
            if len(user.weekly) != 7:
                raise ValueError(f"user type {user.name!r}: weekly needs 7 numbers, Monday first")
        for event in self.planted:
            _known(event.rate, self.event_names, f"planted type {event.type!r}", "an event type")
        if self.order_rule:
            _known((self.order_rule.quiet, self.order_rule.then), self.event_names, "order_rule", "an event type")
            if self.order_rule.quiet == self.order_rule.then:
                raise ValueError("order_rule: quiet and then must be two event types")
            if any(user.churn for user in self.user_types) or self.shock_sigma:
                raise ValueError("order_rule: the closed form needs users without churn and days without shocks")
        return self


_READY_TYPES = ("sale", "campaign")  # affinities of the default user types, which a world need not plant


def _known(names, known: tuple[str, ...], place: str, kind: str) -> None:
    for name in names:
        if name not in known:
            meant = nearest(name, known)
            hint = f"; did you mean {meant!r}?" if meant else f"; there are {', '.join(known)}"
            raise ValueError(f"{place}: {name!r} is not {kind}{hint}")


def ready_made(name: str, *, n_users: int = 20_000, n_days: int = 420, seed: int = 0, horizon: int = 28) -> World:
    """Give one of four worlds; each has every one of its planted types on in the last `horizon` days.

    - `effects`: a sale for all (people wait before it and buy less after), campaigns to random audiences, mailings
      targeted at active users, a parade that does nothing, a festival at each seasonal peak that does nothing either
      but seems to, and shocks that all users share.
    - `independent`: the same calendar with no effect at all.
    - `late`: a flash sale that works but is announced only after it has begun; no cut-off may know of it ahead.
    - `order`: purchases follow a quiet week for half of the users and a busy one for the others (`OrderRule`).

    Errors: `ConfigError` for another name.

    >>> [event.type for event in ready_made("effects").planted]
    ['sale', 'campaign', 'mailing', 'parade', 'festival']
    """
    makers = {"effects": _effects, "independent": _independent, "late": _late, "order": _order}
    if name not in makers:
        meant = nearest(name, makers)
        fix = f"did you mean {meant!r}?" if meant else ""
        raise ConfigError(f"a world out of: {', '.join(makers)}", repr(name), fix=fix)
    if n_days < 2 * horizon:
        raise ConfigError(f"at least {2 * horizon} days, twice the horizon", f"{n_days} days", where="n_days")
    return makers[name](n_users, n_days, seed, horizon)


def _effects(n_users: int, n_days: int, seed: int, horizon: int) -> World:
    def spread(every: int, last: int, stream: str) -> tuple[int, ...]:
        return _spread(n_days, every, n_days - horizon + last, generator(seed, "starts", stream))

    period = 84.0
    peaks = np.arange(n_days - horizon + 20, 0, -period)[::-1]
    planted = (
        Planted(
            type="sale",
            starts=spread(49, 6, "sale"),
            length=3,
            rate={"visit": 0.6, "purchase": 1.1},
            amount=0.2,
            lead=3,
            lead_share=-0.3,
            lag=4,
            lag_share=-0.2,
        ),
        Planted(
            type="campaign",
            starts=spread(28, 10, "campaign"),
            length=10,
            rate={"visit": 0.3, "purchase": 0.9},
            audience="randomised",
            share=0.4,
        ),
        Planted(
            type="mailing", starts=spread(42, 15, "mailing"), length=5, rate={"purchase": 0.4}, audience="targeted"
        ),
        Planted(type="parade", starts=spread(40, 20, "parade"), length=2),
        Planted(type="festival", starts=tuple(int(p) for p in peaks), length=2),
    )
    season = Season(amplitude=0.25, period=period, peak=float(peaks[-1]))
    return World(
        name="effects",
        n_users=n_users,
        n_days=n_days,
        seed=seed,
        planted=planted,
        season=season,
        shock_sigma=0.1,
    )


def _independent(n_users: int, n_days: int, seed: int, horizon: int) -> World:
    world = _effects(n_users, n_days, seed, horizon)
    nothing = tuple(event.model_copy(update={"rate": {}, "amount": 0.0}) for event in world.planted)
    return world.model_copy(update={"name": "independent", "planted": nothing, "season": Season()})


def _late(n_users: int, n_days: int, seed: int, horizon: int) -> World:
    starts = _spread(n_days, 35, n_days - horizon + 10, generator(seed, "starts", "flash"))
    flash = Planted(type="flash", starts=starts, length=5, rate={"visit": 0.5, "purchase": 1.2}, announced=-2)
    return World(name="late", n_users=n_users, n_days=n_days, seed=seed, planted=(flash,))


def _order(n_users: int, n_days: int, seed: int, horizon: int) -> World:
    user = UserType(name="everyone", share=1, rates={"visit": 0.6, "purchase": 0.15}, level_sigma=0.3, weekly=EVERY_DAY)
    types = tuple(t for t in EVENT_TYPES if t.name in user.rates)
    rule = OrderRule(quiet="visit", then="purchase")
    return World(
        name="order",
        n_users=n_users,
        n_days=n_days,
        seed=seed,
        event_types=types,
        user_types=(user,),
        new_share=0.0,
        order_rule=rule,
    )


def _spread(n_days: int, every: int, last: int, draws: np.random.Generator) -> tuple[int, ...]:
    """Starts about `every` days apart, uneven by up to a fifth, the last exactly at `last`."""
    n_starts = last // every + 1
    jitter = draws.integers(-(every // 5), every // 5 + 1, size=n_starts)
    jitter[0] = 0
    starts = last - every * np.arange(n_starts) + jitter
    return tuple(int(s) for s in np.sort(starts[(starts >= 0) & (starts < n_days)]))
