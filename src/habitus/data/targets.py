"""Targets: what is to be forecast, declared in words and measured in one pass over the log.

    any(purchase) in 28d          did it happen            none(visit) in 30d         did it not happen
    count(purchase) in 7d         how many events          days(visit) in 7d          on how many days
    sum(spend of purchase) in 28d how much                 sessions(purchase) in 28d  how many baskets

Types are joined by `|`; `*` is any type. The window is days cut-off + 1 .. cut-off + N.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self, get_args

import numpy as np

from habitus.core.errors import TargetError, nearest
from habitus.data.cutoffs import Samples, rows_after, rows_until

if TYPE_CHECKING:
    from habitus.data.store import Shard, Store

Aggregation = Literal["any", "none", "count", "days", "sum", "sessions"]
_FORM = re.compile(r"^\s*(\w+)\s*\(\s*(?:(\w+)\s+of\s+)?([^()]+?)\s*\)\s*(?:in\s+(\d+)\s*d)?\s*$")


@dataclass(frozen=True)
class Target:
    """One measured outcome of a user in the days after a cut-off.

    >>> target = Target.parse("sum(spend of purchase) in 28d", name="spend")
    >>> target.aggregation, target.amount, target.types, target.horizon
    ('sum', 'spend', ('purchase',), 28)
    >>> print(target)
    sum(spend of purchase) in 28d
    """

    name: str
    aggregation: Aggregation
    types: tuple[str, ...]  # empty: any type
    horizon: int | None  # days; None: all of history (eligibility only)
    amount: str | None = None

    @classmethod
    def parse(cls, text: str, *, name: str = "") -> Self:
        """Read a declaration. Errors: `TargetError` showing the forms there are."""
        match = _FORM.match(text)
        forms = "aggregation(type) in Nd, e.g. any(purchase) in 28d or sum(spend of purchase) in 28d"
        if not match:
            raise TargetError(forms, repr(text), where=name or "target")
        aggregation, amount, types, horizon = match.groups()
        if aggregation not in get_args(Aggregation):
            meant = nearest(aggregation, get_args(Aggregation))
            hint = f"did you mean {meant!r}?" if meant else ""
            raise TargetError("one of " + ", ".join(get_args(Aggregation)), repr(aggregation), where=text, fix=hint)
        if (aggregation == "sum") != (amount is not None):
            raise TargetError("'AMOUNT of TYPE' inside sum(...), and only there", repr(text), where=name or "target")
        if horizon is not None and int(horizon) < 1:
            raise TargetError("a window of at least 1 day", f"{horizon}d", where=text)
        chosen = () if types.strip() == "*" else tuple(part.strip() for part in types.split("|"))
        return cls(name or text, aggregation, chosen, None if horizon is None else int(horizon), amount)  # type: ignore[arg-type]

    def __str__(self) -> str:
        inside = " | ".join(self.types) or "*"
        inside = f"{self.amount} of {inside}" if self.amount else inside
        window = "" if self.horizon is None else f" in {self.horizon}d"
        return f"{self.aggregation}({inside}){window}"

    @property
    def is_binary(self) -> bool:
        """True for any and none."""
        return self.aggregation in ("any", "none")


@dataclass(frozen=True)
class Measured:
    """Targets of n samples: value float64 [n, K] in original units, is_observed bool [n, K]."""

    value: np.ndarray
    is_observed: np.ndarray


def measure(targets: tuple[Target, ...], store: Store, samples: Samples) -> Measured:
    """Measure K targets of n samples in one pass over the shards.

    A window that ends after the last complete day of the log is not observed: its value means nothing.
    Errors: `TargetError` for an unknown type or amount.
    """
    value = np.zeros((len(samples), len(targets)))
    is_observed = np.zeros(value.shape, dtype=bool)
    for k, target in enumerate(targets):
        assert target.horizon is not None, f"{target} has no window"
        is_observed[:, k] = samples.cutoff + target.horizon <= store.last_day
    for shard, rows, users in _by_shard(store, samples):
        for k, target in enumerate(targets):
            counter = _counter(target, shard, store)
            low, high = rows_after(counter.offsets, counter.day, users, samples.cutoff[rows], target.horizon or 0)
            value[rows, k] = _aggregate(target, counter, low, high)
    return Measured(value, is_observed)


def measure_days(targets: tuple[Target, ...], store: Store, samples: Samples, horizon: int) -> Measured:
    """Measure targets on each single day of the horizon: value float64 [n, F, K].

    Windows of the declarations are ignored: every answer is for one day. Not meant for `sessions` across midnight.
    """
    value = np.zeros((len(samples), horizon, len(targets)))
    ahead = np.arange(horizon)
    is_observed = np.broadcast_to(
        (samples.cutoff[:, None] + ahead + 1 <= store.last_day)[:, :, None], value.shape
    ).copy()
    for shard, rows, users in _by_shard(store, samples):
        many_users = np.repeat(users, horizon)
        before = (samples.cutoff[rows][:, None] + ahead).ravel()
        for k, target in enumerate(targets):
            counter = _counter(target, shard, store)
            low, high = rows_after(counter.offsets, counter.day, many_users, before, 1)
            value[rows, :, k] = _aggregate(target, counter, low, high).reshape(len(rows), horizon)
    return Measured(value, is_observed)


def holds(condition: str, store: Store, samples: Samples) -> np.ndarray:
    """Tell per sample whether a history such as `any(purchase)` or `none(cancel) in 30d` holds at its cut-off."""
    target = Target.parse(condition)
    if not target.is_binary:
        raise TargetError("any(...) or none(...) as an eligibility", repr(condition), where="cutoffs.eligible")
    answer = np.zeros(len(samples), dtype=bool)
    for shard, rows, users in _by_shard(store, samples):
        counter = _counter(target, shard, store)
        low, high = rows_until(counter.offsets, counter.day, users, samples.cutoff[rows], target.horizon)
        answer[rows] = _aggregate(target, counter, low, high) > 0
    return answer


@dataclass(frozen=True)
class _Counter:
    """The rows of one shard that matter to one target: offsets per user, day, and the running total of their value."""

    offsets: np.ndarray
    day: np.ndarray
    total: np.ndarray  # n + 1


def _counter(target: Target, shard: Shard, store: Store) -> _Counter:
    codes = _type_codes(target, store)
    rows = np.flatnonzero(np.isin(shard.type, codes)) if target.types else np.arange(len(shard.type))
    offsets = np.searchsorted(rows, shard.offsets)
    day = shard.day[rows]
    value = np.ones(len(rows))
    if target.aggregation == "days":
        value = _is_first(day, offsets)
    elif target.aggregation == "sum":
        amounts = _amount(target, shard, store)[rows]
        value = np.where(np.isfinite(amounts), amounts, 0.0)
    elif target.aggregation == "sessions":
        value = _is_first_of_session(target, shard, rows, offsets)
    return _Counter(offsets, day, np.concatenate([[0.0], np.cumsum(value)]))


def _aggregate(target: Target, counter: _Counter, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    if target.aggregation == "any":
        return (high > low).astype(float)
    if target.aggregation == "none":
        return (high == low).astype(float)
    # an empty window is exactly 0, whatever rounding the running total carries
    return np.where(high > low, counter.total[high] - counter.total[low], 0.0)


def _is_first(day: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """1 where a row is the first of its user and day, else 0."""
    is_first = np.ones(len(day))
    is_first[1:] = day[1:] != day[:-1]
    starts = offsets[:-1]
    is_first[starts[starts < len(day)]] = 1
    return is_first


def _is_first_of_session(target: Target, shard: Shard, rows: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    if shard.session is None:
        raise TargetError("a session column in the schema", "none", where=str(target), fix="declare events.session")
    user = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    session = shard.session[rows]
    _, first = np.unique(np.stack([user, session], axis=1), axis=0, return_index=True)
    is_first = np.zeros(len(rows))
    is_first[first] = 1
    is_first[session < 0] = 0
    return is_first


def _type_codes(target: Target, store: Store) -> np.ndarray:
    for name in target.types:
        if name not in store.types:
            meant = nearest(name, store.types)
            hint = f"did you mean {meant!r}?" if meant else ""
            raise TargetError("a type out of: " + ", ".join(store.types[:30]), repr(name), where=str(target), fix=hint)
    return np.array([store.types.index(name) for name in target.types], dtype=np.int64)


def _amount(target: Target, shard: Shard, store: Store) -> np.ndarray:
    if target.amount is None or target.amount not in shard.amounts:
        amounts = (*store.amounts, *store.outcomes)
        meant = nearest(str(target.amount), amounts)
        hint = f"did you mean {meant!r}?" if meant else "declare it under events.amounts"
        known = ", ".join(amounts) or "none declared"
        raise TargetError(f"an amount out of: {known}", repr(target.amount), where=str(target), fix=hint)
    return shard.amounts[target.amount]


def _by_shard(store: Store, samples: Samples):
    """Yield (shard, rows of the samples in it, their user numbers within the shard)."""
    for i in range(store.n_shards):
        shard = store.shard(i)
        n_users = len(shard.offsets) - 1
        rows = np.flatnonzero((samples.user >= shard.first_user) & (samples.user < shard.first_user + n_users))
        if len(rows):
            yield shard, rows, samples.user[rows] - shard.first_user
