"""Histories handed in with the question, for models of user-days, encoded as the store's were.

The events become a log in memory with the words of the store behind the model; from there on every step is that of the
batch path, so the answer is the same as if the users had been ingested.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from habitus.core.errors import CutoffError, SchemaError, nearest
from habitus.data.calendar import AUDIENCE_COLUMNS, Calendar, to_date
from habitus.data.cutoffs import Samples, rows_until
from habitus.data.pipeline.zones import local_days
from habitus.data.store import Shard, Store
from habitus.tokens.days import DayTable, days_of_shard
from habitus.tokens.event_requests import instants
from habitus.tokens.known_events import known_events
from habitus.tokens.loader import SEEN_AT_START

if TYPE_CHECKING:
    from habitus.tokens.loader import Inputs


@dataclass(frozen=True)
class HeldStore(Store):
    """A log in memory that speaks the words of another store: one shard, its own users, the other's codes."""

    held: Shard | None = field(default=None, repr=False)
    tables: Mapping[str, pl.DataFrame] = field(default_factory=dict, repr=False)

    @property
    def n_users(self) -> int:
        return self.tables["users"].height

    @property
    def n_shards(self) -> int:
        return 1

    @property
    def users(self) -> pl.DataFrame:  # type: ignore[override]
        return self.tables["users"]

    @property
    def profiles(self) -> pl.DataFrame | None:  # type: ignore[override]
        return self.tables.get("profiles")

    def shard(self, i: int) -> Shard:
        """Give the only shard."""
        assert self.held is not None
        return self.held


def day_request(
    base: Inputs, histories: Any, *, profiles: Any = None, audiences: Mapping[str, Sequence[str]] | None = None
) -> Inputs:
    """Turn a table of events into inputs of one sample per user, at the one cut-off of `base`.

    Parameters
    ----------
    base
        What `prepare` gave for users of the store at one cut-off day.
    histories
        What `polars.DataFrame` takes: a row per event with `user`, `time` (dates or datetimes, or their ISO text; local
        time of the schema's zone where none is given), `type`, and where the log has them `item`, `session`, amounts
        and categories by name. Rows of one user and instant keep their order.
    profiles
        A row per user with `user` and columns of the profile; what is absent is unknown.
    audiences
        Audience -> users of it, for known events that are not for everyone.

    Users come in the order of their first row. Errors: `SchemaError` for a missing column, an unknown type or a time
    that cannot be read; `CutoffError` for an event after the cut-off: it would be the future.
    """
    store, cutoff = base.store, int(base.samples.cutoff[0])
    held, users = held_shard(store, histories, cutoff)
    first_day = held.day[held.offsets[:-1]].astype(np.int32)
    tables = {"users": pl.DataFrame({"user": users, "first_day": pl.Series(first_day).cast(pl.Date)})}
    if store.profiles is not None:
        tables["profiles"] = _profiles(store.profiles, users, profiles)
    memory = HeldStore(store.path, store.manifest, store.schema, held, tables)
    for name in ("types", "items"):  # read once from disk, by the store behind
        memory.__dict__[name] = getattr(store, name)
    return _inputs(base, memory, Samples(np.arange(len(users)), np.full(len(users), cutoff, np.int32)), audiences or {})


def held_shard(store: Store, histories: Any, cutoff: int) -> tuple[Shard, pl.Series]:
    """Give a table of events as a shard of a store, in its codes, and the users in the order of their first row.

    `histories` and errors as in `day_request`; `cutoff` is the last day that may be used, days since 1970-01-01.
    """
    table = histories if isinstance(histories, pl.DataFrame) else pl.DataFrame(histories, infer_schema_length=None)
    _check_columns(store, table)
    users = table["user"].cast(pl.String).unique(maintain_order=True)
    number = pl.DataFrame({"user": users, "_user": np.arange(len(users))})
    table = table.with_columns(pl.col("user").cast(pl.String), _time=instants(table["time"], store.schema.time_zone))
    table = table.join(number, on="user", maintain_order="left").sort("_user", "_time", maintain_order=True)
    return _shard(store, table, len(users), cutoff), users


def _inputs(base: Inputs, memory: HeldStore, samples: Samples, audiences: Mapping[str, Sequence[str]]) -> Inputs:
    """Do what `prepare` does, with the shared tables of `base`."""
    spec, store = base.spec, base.store
    assert memory.held is not None
    calendar = with_members(store.calendar, audiences)
    day, value, n_per_user = days_of_shard(memory.held, memory, base.table.features)
    table = DayTable(base.table.features, np.r_[0, np.cumsum(n_per_user)].astype(np.int64), day, value)
    low, high = rows_until(table.offsets, table.day, samples.user, samples.cutoff, spec.tokens.history)
    if spec.tokens.max_days is not None:
        low = np.maximum(low, high - spec.tokens.max_days)
    first_day = memory.users["first_day"].cast(pl.Int32).to_numpy()
    users = memory.users["user"].to_numpy()
    profile = spec.profile.encode(memory, samples, horizon=spec.horizon, calendar=calendar)
    return replace(
        base,
        store=memory,
        table=table,
        known=known_events(calendar, spec.event_types, users, item_types=spec.item_types, store=memory),
        cutoff_place=np.zeros(len(samples), np.int64),
        samples=samples,
        low=low,
        high=high,
        first_day=first_day,
        has_start=first_day - store.first_day > SEEN_AT_START,
        profile=_with_crowd(base, profile),
        measured=None,
        day_measured=None,
    )


def _with_crowd(base: Inputs, profile: np.ndarray) -> np.ndarray:
    """Take what is said of the whole log from the log itself: every user shares it."""
    encoder = base.spec.profile
    numbers = [name for name in encoder.chosen if name not in encoder.widths]
    shared = [j for j, name in enumerate(numbers) if name.startswith("crowd.")]
    profile[:, shared] = base.profile[0, shared]
    return profile


def with_members(calendar: Calendar, audiences: Mapping[str, Sequence[str]]) -> Calendar:
    """Give the calendar with these users, and no others, as the audiences."""
    pairs = [(name, user) for name, users in audiences.items() for user in users]
    more = pl.DataFrame(pairs, schema=AUDIENCE_COLUMNS, orient="row")
    return Calendar(calendar.events, more, calendar.items)


def _check_columns(store: Store, table: pl.DataFrame) -> None:
    events = store.schema.events
    needed = ["user", "time", "type", *(["item"] if events.item is not None else []), *events.amounts]
    absent = [name for name in needed if name not in table.columns]
    if absent:
        raise SchemaError(f"a column {absent[0]!r}", "columns: " + ", ".join(table.columns), where="histories")
    unknown = table["type"].filter(~table["type"].is_in(store.types)) if table.height else table["type"]
    if len(unknown):
        meant = nearest(str(unknown[0]), store.types)
        raise SchemaError(
            f"a type of the log: {', '.join(store.types[:30])}", repr(unknown[0]), where="histories: type",
            fix=f"did you mean {meant!r}?" if meant else "leave such events out",
        )  # fmt: skip


def _shard(store: Store, table: pl.DataFrame, n_users: int, cutoff: int) -> Shard:
    time = table["_time"].to_numpy()
    day = local_days(time, store.schema.time_zone)
    if len(day) and int(day.max()) > cutoff:
        late = str(to_date(int(day.max())))
        raise CutoffError(f"events on or before {to_date(cutoff)}", late, where="histories: time", fix="leave it out")
    offsets = np.searchsorted(table["_user"].to_numpy(), np.arange(n_users + 1)).astype(np.int64)
    events = store.schema.events
    return Shard(
        first_user=0,
        offsets=offsets,
        time=time,
        day=day,
        type=_codes(table, "type", store.types),
        item=None if store.items is None else _codes(table, "item", store.items),
        session=None if events.session is None else _numbered(table),
        amounts={name: table[name].cast(pl.Float64).fill_null(np.nan).to_numpy() for name in events.amounts},
        categories={
            name: _codes(table, name, store.vocabulary(name) if name in table.columns else [])
            for name in store.categories
        },
    )  # fmt: skip


def _codes(table: pl.DataFrame, name: str, words: Sequence[str]) -> np.ndarray:
    """Give the code of each text, int32; a text that the log never had gets a code of its own, beyond all others."""
    if name not in table.columns:
        return np.full(table.height, -1, np.int32)
    texts = table[name].cast(pl.String)
    known = pl.DataFrame({"text": pl.Series(words, dtype=pl.String), "code": np.arange(len(words), dtype=np.int32)})
    code = pl.DataFrame({"text": texts}).join(known, on="text", how="left", maintain_order="left")["code"]
    new = len(words) + texts.rank("dense").cast(pl.Int32) - 1
    return code.fill_null(new).fill_null(-1).cast(pl.Int32).to_numpy()


def _numbered(table: pl.DataFrame) -> np.ndarray:
    """Number the sessions, int64; -1 where there is none."""
    if "session" not in table.columns:
        return np.full(table.height, -1, np.int64)
    return (table["session"].cast(pl.String).rank("dense").cast(pl.Int64) - 1).fill_null(-1).to_numpy()


def _profiles(like: pl.DataFrame, users: pl.Series, given: Any) -> pl.DataFrame:
    """Give a row per user with the columns of the store's profile, nulls where nothing was said."""
    whole = pl.DataFrame({"user": users})
    if given is None or not len(given):
        told = pl.DataFrame({"user": pl.Series([], dtype=pl.String)})
    else:
        told = pl.DataFrame(given, infer_schema_length=None).with_columns(pl.col("user").cast(pl.String))
    unknown = [name for name in told.columns if name not in like.columns]
    if unknown:
        meant = nearest(unknown[0], like.columns)
        fix = f"did you mean {meant!r}?" if meant else "leave it out"
        raise SchemaError(
            f"profile columns out of: {', '.join(like.columns[1:])}", unknown[0], where="profiles", fix=fix
        )
    if told["user"].is_duplicated().any():
        raise SchemaError("one profile per user", "two of one user", where="profiles")
    try:
        told = told.with_columns(_typed(told[name], like[name].dtype) for name in told.columns if name != "user")
    except pl.exceptions.PolarsError as cause:
        raise SchemaError("values of the profile's kinds", str(cause).splitlines()[0][:200], where="profiles") from None
    table = whole.join(told, on="user", how="left", maintain_order="left")
    missing = [name for name in like.columns if name not in table.columns]
    return table.with_columns(pl.lit(None, dtype=like[name].dtype).alias(name) for name in missing).select(like.columns)


def _typed(values: pl.Series, kind: pl.DataType) -> pl.Series:
    """Give values of the profile's kind; dates and times may be ISO text."""
    if values.dtype == pl.String and kind.is_temporal():
        return values.str.to_datetime().cast(kind) if kind != pl.Date else values.str.to_date()
    return values.cast(kind)
