"""What may be generated: opening hours, counts and budgets per day, what is on sale to whom and when, forced events."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import torch
from pydantic import Field
from torch import Tensor

from habitus.core.config import Config
from habitus.core.errors import ConstraintError, nearest
from habitus.models.behavegpt import FIRST

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from habitus.tasks.rollout import Zone
    from habitus.tokens.amounts import AmountBins

NEVER = np.iinfo(np.int64).max


class ConstraintConfig(Config):
    """Constraints of a roll-out, as in a TOML file; paths are Parquet or CSV.

    `closed_hours`: local hours (0..23) in which nothing happens. `max_per_day`: events per user and local day.
    `budgets`: amount -> the most it may add up to per user and local day. `never`: a table `field, value` and, if
    wanted, `user`, `since`, `until` (null: everyone, always): what may not happen. `only`: the same columns: for a
    field that it lists, nothing else may happen. `forced`: a table `user, time` and a column per field: what will
    happen.

    >>> ConstraintConfig(closed_hours=(0, 1)).max_per_day is None
    True
    """

    closed_hours: tuple[int, ...] = ()
    max_per_day: int | None = Field(default=None, ge=1)
    budgets: dict[str, float] = Field(default={})
    never: Path | None = None
    only: Path | None = None
    forced: Path | None = None


@dataclass(frozen=True)
class Listed:
    """Rows of `never` or `only` of one field, as arrays of length m, by user (-1: everyone)."""

    code: np.ndarray
    user: np.ndarray
    since: np.ndarray
    until: np.ndarray

    def hits(self, user: np.ndarray, time: np.ndarray, n_rows: int) -> Tensor:
        """Give n x n_rows bool: which ids are listed for each (user, instant)."""
        found = torch.zeros(len(user), n_rows, dtype=torch.bool)
        for owner in (np.full_like(user, -1), user):  # what holds for everyone, then what holds for this user
            low, high = np.searchsorted(self.user, owner, "left"), np.searchsorted(self.user, owner, "right")
            row = np.repeat(np.arange(len(user)), high - low)
            rule = np.arange(len(row)) - np.repeat((high - low).cumsum() - (high - low), high - low) + low[row]
            is_on = (self.since[rule] <= time[row]) & (time[row] < self.until[rule])
            found[torch.from_numpy(row[is_on]), torch.from_numpy(self.code[rule[is_on]])] = True
        return found


@dataclass(frozen=True)
class Forced:
    """Events that will happen, as arrays of length m, by user and time; `ids` per field, 0 where any value will do."""

    user: np.ndarray
    time: np.ndarray
    ids: Mapping[str, np.ndarray]


@dataclass
class Tally:
    """What each of n rows has done on its current local day, and its next forced event."""

    user: np.ndarray  # n, user numbers
    day: np.ndarray  # n
    n_events: np.ndarray  # n
    spent: dict[str, np.ndarray]  # n each
    forced: Forced | None
    at: np.ndarray  # n, place in `forced` of the row's next one
    last: np.ndarray  # n, one past its last one

    def take(self, rows: np.ndarray) -> Tally:
        """Keep these rows."""
        spent = {name: values[rows] for name, values in self.spent.items()}
        user, day, n_events = self.user[rows], self.day[rows], self.n_events[rows]
        return Tally(user, day, n_events, spent, self.forced, self.at[rows], self.last[rows])

    def next_forced(self) -> np.ndarray:
        """Give the instant of each row's next forced event."""
        if self.forced is None or not len(self.forced.time):
            return np.full(len(self.user), NEVER)
        return np.where(self.at < self.last, self.forced.time[np.minimum(self.at, len(self.forced.time) - 1)], NEVER)

    def take_forced(self, time: np.ndarray) -> dict[str, Tensor]:
        """Give ids per field where a forced event is due (0 elsewhere), and move on to the one after."""
        is_due = self.next_forced() <= time
        if self.forced is None or not is_due.any():
            return {}
        place = np.minimum(self.at, len(self.forced.time) - 1)
        self.at = self.at + is_due
        return {n: torch.from_numpy(np.where(is_due, ids[place], 0)) for n, ids in self.forced.ids.items()}

    def add(self, time: np.ndarray, zone: Zone, amount: np.ndarray, is_alive: np.ndarray) -> None:
        """Count the events just drawn; amounts are n x n_amounts in the order of `spent`."""
        day = zone.local(time)[0]
        is_new = day != self.day
        self.n_events = np.where(is_new, 0, self.n_events) + is_alive
        for k, name in enumerate(self.spent):
            self.spent[name] = np.where(is_new, 0.0, self.spent[name]) + np.nan_to_num(amount[:, k]).clip(min=0)
        self.day = day


@dataclass(frozen=True)
class Constraints:
    """Compiled constraints; `names` are the users' own ids, for errors."""

    config: ConstraintConfig
    never: Mapping[str, Listed]
    only: Mapping[str, Listed]
    forced: Forced | None
    amounts: tuple[str, ...]
    names: Sequence[str]

    @property
    def limits_time(self) -> bool:
        """Whether some instants are refused."""
        return bool(self.config.closed_hours) or self.config.max_per_day is not None

    def tally(self, user: np.ndarray, begin: int) -> Tally:
        """Begin counting for n rows of these user numbers; forced events before `begin` (seconds) are passed over."""
        low = high = np.zeros(len(user), np.int64)
        if self.forced is not None:
            low, high = (np.searchsorted(self.forced.user, user, side) for side in ("left", "right"))
            n_over = np.append(0, np.cumsum(self.forced.time < begin))
            low = low + n_over[high] - n_over[low]
        spent = {name: np.zeros(len(user)) for name in self.amounts}
        return Tally(user, np.full(len(user), -1), np.zeros(len(user), np.int64), spent, self.forced, low, high)

    def refuses(self, time: np.ndarray, zone: Zone, tally: Tally) -> np.ndarray:
        """Say which rows may not act at these instants (n bool)."""
        day, second = zone.local(time)
        found = np.isin(second // 3600, self.config.closed_hours)
        if self.config.max_per_day is not None:
            found |= (day == tally.day) & (tally.n_events >= self.config.max_per_day)
        return found

    def next_opening(self, time: np.ndarray, zone: Zone, tally: Tally) -> np.ndarray:
        """Move refused instants to the next hour, local, at which the row may act."""
        for _ in range(24 * 3):
            is_refused = self.refuses(time, zone, tally)
            if not is_refused.any():
                break
            time = np.where(is_refused, time + 3600 - zone.local(time)[1] % 3600, time)
        return time

    def allowed(
        self, name: str, n_rows: int, time: np.ndarray, zone: Zone, tally: Tally, amounts: AmountBins | None
    ) -> Tensor | None:
        """Give n x n_rows bool of allowed ids, or None where nothing constrains the field."""
        found = None
        if name in self.only:
            found = self.only[name].hits(tally.user, time, n_rows)
        if name in self.never:
            hit = self.never[name].hits(tally.user, time, n_rows)
            found = ~hit if found is None else found & ~hit
        if amounts is not None and name in self.config.budgets:
            left = torch.from_numpy(self._left(name, time, zone, tally))[:, None]
            fits = ~(amounts.low > left) | torch.isnan(amounts.low)
            found = fits if found is None else found & fits
        return found

    def cap(self, name: str, value: np.ndarray, time: np.ndarray, zone: Zone, tally: Tally) -> np.ndarray:
        """Cut amounts at what is left of the day's budget."""
        return np.fmin(value, self._left(name, time, zone, tally)) if name in self.config.budgets else value

    def check(self, name: str, allowed: Tensor, user: np.ndarray, time: np.ndarray) -> None:
        """Errors: `ConstraintError` for the first row in which nothing is allowed."""
        is_stuck = ~allowed.any(dim=1).numpy()
        if is_stuck.any():
            row = int(is_stuck.argmax())
            when = np.datetime64(int(time[row]), "s")
            raise ConstraintError(
                f"at least one allowed value of {name!r}",
                "none",
                where=f"user {self.names[int(user[row])]!r} at {when} UTC",
                fix="widen `only`, or shorten `never`",
            )

    def _left(self, name: str, time: np.ndarray, zone: Zone, tally: Tally) -> np.ndarray:
        is_today = zone.local(time)[0] == tally.day
        spent = tally.spent[name] if name in tally.spent else np.zeros(len(time))
        return np.maximum(self.config.budgets[name] - np.where(is_today, spent, 0.0), 0.0)


def compile_constraints(
    config: ConstraintConfig,
    vocabularies: Mapping[str, Mapping[str, int]],
    users: Sequence[str],
    amounts: Sequence[str] = (),
    tables: Mapping[str, Any] | None = None,
) -> Constraints:
    """Make constraints from a config.

    Parameters
    ----------
    vocabularies
        Per field, its values and their ids.
    users
        The users' own ids in the order of user numbers.
    amounts
        The amounts of an event, in the order of the model's amounts.
    tables
        Tables in memory under `never`, `only` or `forced`, in place of the files.

    Errors: `ConstraintError` for hours that do not exist, or are all closed, and for an unknown field, value or amount.
    """
    if not set(config.closed_hours) < set(range(24)):
        raise ConstraintError("hours of 0..23, some of them open", str(config.closed_hours), where="closed_hours")
    for name in config.budgets:
        if name not in amounts:
            raise ConstraintError(f"an amount out of: {', '.join(amounts) or 'none'}", repr(name), where="budgets")
    number = {name: i for i, name in enumerate(users)}
    read = {n: _read(getattr(config, n), (tables or {}).get(n)) for n in ("never", "only", "forced")}
    listed = [
        {} if read[n] is None else _listed(read[n], vocabularies, number, n)  # type: ignore[arg-type]
        for n in ("never", "only")
    ]
    forced = None if read["forced"] is None else _forced(read["forced"], vocabularies, number)
    return Constraints(config, listed[0], listed[1], forced, tuple(amounts), users)


def _read(path: Path | None, table: Any) -> pl.DataFrame | None:
    if table is not None:
        return pl.DataFrame(table)
    if path is None:
        return None
    return pl.read_csv(path, try_parse_dates=True) if path.suffix == ".csv" else pl.read_parquet(path)


def _listed(
    table: pl.DataFrame, vocabularies: Mapping[str, Mapping[str, int]], number: Mapping[str, int], where: str
) -> dict[str, Listed]:
    """Arrays per field, sorted by user."""
    n = table.height
    owner = np.full(n, -1, np.int64)
    if "user" in table.columns:
        known = table["user"].cast(pl.String).replace_strict(number, default=-2, return_dtype=pl.Int64)
        owner = pl.select(pl.when(table["user"].is_null()).then(-1).otherwise(known)).to_series().to_numpy()
    since, until = (_instants(table, name, n) for name in ("since", "until"))
    found = {}
    for (name,), _ in table.group_by("field"):
        rows = np.flatnonzero((table["field"] == name).to_numpy())
        code = _codes(table["value"].gather(pl.Series(rows)), vocabularies, str(name), where)
        order = np.argsort(owner[rows], kind="stable")
        rows = rows[order]
        found[str(name)] = Listed(code[order], owner[rows], since[rows], until[rows])
    return found


def _forced(table: pl.DataFrame, vocabularies: Mapping[str, Mapping[str, int]], number: Mapping[str, int]) -> Forced:
    owner = table["user"].cast(pl.String).replace_strict(number, default=-2, return_dtype=pl.Int64).to_numpy()
    time = _instants(table, "time", table.height)
    order = np.lexsort((time, owner))
    fields = [name for name in table.columns if name not in ("user", "time")]
    ids = {name: _codes(table[name], vocabularies, name, "forced")[order] for name in fields}
    return Forced(owner[order], time[order], ids)


def _codes(values: pl.Series, vocabularies: Mapping[str, Mapping[str, int]], name: str, where: str) -> np.ndarray:
    """Ids of texts; null gives 0. Errors: `ConstraintError` for an unknown field or value."""
    if name not in vocabularies:
        meant = nearest(name, vocabularies)
        fix = f"did you mean {meant!r}?" if meant else ""
        raise ConstraintError(f"a field out of: {', '.join(vocabularies)}", repr(name), where=where, fix=fix)
    texts = values.cast(pl.String)
    found = texts.replace_strict(vocabularies[name], default=-1, return_dtype=pl.Int64)
    is_wrong = (found < FIRST) & texts.is_not_null()
    if is_wrong.any():
        wrong = str(texts.filter(is_wrong)[0])
        meant = nearest(wrong, vocabularies[name])
        fix = f"did you mean {meant!r}?" if meant else ""
        raise ConstraintError(f"a value of {name!r} that the model knows", repr(wrong), where=where, fix=fix)
    return np.where(texts.is_null().to_numpy(), 0, found.to_numpy())


def _instants(table: pl.DataFrame, name: str, n: int) -> np.ndarray:
    """Seconds UTC of a column of dates, timestamps or seconds; open where it is absent or null."""
    open_end = -NEVER if name == "since" else NEVER
    if name not in table.columns:
        return np.full(n, open_end)
    column = table[name]
    if column.dtype == pl.String:
        column = column.str.to_datetime(time_unit="us")
    if column.dtype.is_temporal():
        column = column.cast(pl.Datetime("us")).dt.epoch("s")
    return column.cast(pl.Int64).fill_null(open_end).to_numpy()
