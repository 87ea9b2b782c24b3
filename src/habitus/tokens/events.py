"""Event tokens: one id per event and field, fitted on train, frozen, saved with the model.

Ids of a field: 0 padding, 1 unknown, 2.. its values. Values of a coded field (type, item, category) are ordered by how
often they occur in train, the most frequent first. Letters: n events, V values of a field.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import polars as pl
from pydantic import Field

from habitus.core.config import Config
from habitus.core.errors import ConfigError, FingerprintError, nearest
from habitus.core.seeds import generator
from habitus.data.pipeline.zones import transitions
from habitus.tokens.event_split import EventSplit
from habitus.tokens.fields import Scaler
from habitus.tokens.gaps import TIE

if TYPE_CHECKING:
    from habitus.data.store import Shard, Store

UNKNOWN, FIRST = 1, 2
N_SLOTS, N_PLACES = 48, 16
NONE, ZERO, NEGATIVE, FIRST_BIN = 2, 3, 4, 5  # ids of an amount
CLOCK = {"gap", "weekday", "slot"}  # fields that follow from times alone
FIT_ROWS = 200_000  # values per shard that quantiles look at
DAY = 86_400


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


class EventTokenConfig(Config):
    """How events become ids.

    `length` is T. `fields` are chosen by name out of gap, weekday, slot, type, item, every declared category, every
    amount, and place; empty takes all there are. `place` names the category that says where: it becomes the user's own
    number of that place, in order of first visit, 1..16, then elsewhere (raw places do not transfer between cities).
    Values seen fewer than `min_count` times in train are unknown; types in `held_out` are unknown as inputs and never
    targets.

    >>> EventTokenConfig(length=50, fields=("item",)).min_count
    1
    """

    length: int = Field(128, ge=1)
    fields: tuple[str, ...] = ()
    min_count: int = Field(1, ge=1)
    place: str | None = None
    held_out: tuple[str, ...] = ()
    n_gap_bins: int = Field(64, ge=2)
    n_amount_bins: int = Field(32, ge=1)


@dataclass(frozen=True)
class RawEvents:
    """n events of whole users before they are encoded: users in order, each user's events in order of time.

    `offsets` int64 [n_users + 1]; `time` int64 seconds UTC; `ids` per coded field, int [n]; `place` the codes of the
    place category, -1 missing; `amounts` float64 [n], nan missing.
    """

    offsets: np.ndarray
    time: np.ndarray
    ids: Mapping[str, np.ndarray]
    place: np.ndarray | None
    amounts: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class EventSpec:
    """Everything between a store and a batch of events. Equal fingerprints turn the same log into the same tensors."""

    schema: str
    tokens: EventTokenConfig
    zone: str
    fields: tuple[str, ...]
    values: Mapping[str, tuple[str, ...]]  # of the coded fields, id - 2 -> text
    gap_edges: tuple[float, ...]  # seconds, ascending
    amount_edges: Mapping[str, tuple[float, ...]]  # of positive amounts
    scaler: Scaler  # of the amounts among the fields, in order

    @cached_property
    def shape(self) -> EventShape:
        """The shape that models of these tokens have."""
        return EventShape(tuple((f, self._n_rows(f)) for f in self.fields), len(self.amount_edges), self.length)

    @property
    def length(self) -> int:
        """T."""
        return self.tokens.length

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the JSON form."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()

    def column(self, name: str) -> int:
        """Give the place of a field in `ids`. Errors: `ConfigError`."""
        return self.shape.column(name)

    def clock(self, time: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Give the ids of weekday and half hour in local time for instants (int64 seconds UTC).

        >>> spec = EventSpec("log", EventTokenConfig(), "Europe/Paris", ("gap",), {}, (1.0, 9.0), {}, _NO_AMOUNTS)
        >>> [int(ids[0]) for ids in spec.clock(np.array([0]))]  # a Thursday, one o'clock in Paris
        [5, 4]
        """
        instants, shifts = transitions(self.zone)
        local = time + shifts[np.searchsorted(instants, time * 1_000_000, side="right")] // 1_000_000
        return (local // DAY + 3) % 7 + FIRST, local % DAY // (DAY // N_SLOTS) + FIRST

    def encode(self, raw: RawEvents) -> tuple[np.ndarray, np.ndarray]:
        """Give ids int32 [n, n_fields] and standardised amounts float32 [n, n_amounts]."""
        n = len(raw.time)
        ids = np.zeros((n, len(self.fields)), np.int32)
        weekday, slot = self.clock(raw.time)
        made = {"weekday": lambda: weekday, "slot": lambda: slot}
        made |= {"gap": lambda: self._gaps(raw), "place": lambda: _own_number(raw)}
        for j, name in enumerate(self.fields):
            if name in self.values:
                ids[:, j] = raw.ids[name]
            elif name in self.amount_edges:
                ids[:, j] = _amount_ids(raw.amounts[name], np.array(self.amount_edges[name]))
            else:
                ids[:, j] = made[name]()
        amounts = [raw.amounts[name] for name in self.amount_edges]
        return ids, self.scaler.encode(np.stack(amounts, axis=1) if amounts else np.zeros((n, 0)))

    def lookup(self, field: str, texts: Sequence[str]) -> np.ndarray:
        """Give the ids (int32) of texts, then one more, 1, so that code -1 (missing) finds it."""
        values = self.values[field]
        known = pl.DataFrame(
            {"text": values, "id": np.arange(len(values)) + FIRST}, schema_overrides={"text": pl.String}
        )
        asked = pl.DataFrame({"text": texts}, schema={"text": pl.String})
        found = asked.join(known, on="text", how="left", maintain_order="left")["id"].fill_null(UNKNOWN)
        return np.r_[found.to_numpy(), UNKNOWN].astype(np.int32)

    def to_json(self) -> dict[str, Any]:
        """Give plain values."""
        return {
            "schema": self.schema,
            "tokens": self.tokens.model_dump(mode="json"),
            "zone": self.zone,
            "fields": list(self.fields),
            "values": {name: list(texts) for name, texts in self.values.items()},
            "gap_edges": list(self.gap_edges),
            "amount_edges": {name: list(edges) for name, edges in self.amount_edges.items()},
            "scaler": self.scaler.to_json(),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Read what `to_json` gave. Errors: `ConfigError` when a value does not fit."""
        return cls(
            values["schema"],
            EventTokenConfig.parse(values["tokens"], where="spec.json"),
            values["zone"],
            tuple(values["fields"]),
            {name: tuple(texts) for name, texts in values["values"].items()},
            tuple(values["gap_edges"]),
            {name: tuple(edges) for name, edges in values["amount_edges"].items()},
            Scaler.from_json(values["scaler"]),
        )

    def _n_rows(self, name: str) -> int:
        if name in self.values:
            return len(self.values[name]) + FIRST
        if name in self.amount_edges:
            return len(self.amount_edges[name]) - 1 + FIRST_BIN
        n_values = {"weekday": 7, "slot": N_SLOTS, "place": N_PLACES + 1, "gap": len(self.gap_edges)}
        return n_values[name] + FIRST

    def _gaps(self, raw: RawEvents) -> np.ndarray:
        gap = np.diff(raw.time, prepend=0)
        edges = np.array(self.gap_edges)
        ids = np.where(gap <= 0, TIE, np.searchsorted(edges[1:-1], gap, side="right") + TIE + 1)
        ids[_starts(raw.offsets)] = UNKNOWN
        return ids


_NO_AMOUNTS = Scaler(np.zeros(0, np.float32), np.ones(0, np.float32))


def fit_event_spec(store: Store, config: EventTokenConfig, split: EventSplit, *, seed: int = 0) -> EventSpec:
    """Fit values, bins and scales on the train part, in one pass over the shards.

    Errors: `ConfigError` for a field or a held-out type that the log does not have.
    """
    fields = _chosen_fields(store, config)
    coded = [name for name in fields if name not in CLOCK | {"place"} and name not in store.amounts]
    amounts = [name for name in fields if name in store.amounts]
    counts = {name: np.zeros(len(store.vocabulary(name)), np.int64) for name in coded}
    gaps, values, is_chosen = [], [], split.is_chosen(store)
    for i in range(store.n_shards):
        shard = store.shard(i)
        users = slice(shard.first_user, shard.first_user + shard.n_users)
        first, end = split.rows(shard.offsets, shard.day, "train")
        is_train = _inside(first, np.where(is_chosen[users], end, first), shard.n_events)
        for name in coded:
            codes = _codes(shard, name)[is_train]
            counts[name] += np.bincount(codes[codes >= 0], minlength=len(counts[name]))
        gap = np.diff(shard.time // 1_000_000, prepend=0)
        is_gap = is_train & (gap > 0)
        is_gap[_starts(shard.offsets)] = False
        draw = generator(seed, "event spec", i)
        gaps.append(_some(gap[is_gap], draw))
        rows = _some(np.flatnonzero(is_train), draw)
        values.append(np.stack([shard.amounts[name][rows] for name in amounts], axis=1) if amounts else rows[:, None])
    seen = np.concatenate(values)
    return EventSpec(
        schema=store.schema.name,
        tokens=config,
        zone=store.schema.time_zone,
        fields=fields,
        values={name: _kept(store, name, counts[name], config) for name in coded},
        gap_edges=_edges(np.concatenate(gaps), config.n_gap_bins - 1),
        amount_edges={n: _edges(seen[:, j][seen[:, j] > 0], config.n_amount_bins) for j, n in enumerate(amounts)},
        scaler=Scaler.fit(seen) if amounts else _NO_AMOUNTS,
    )


def raw_events(store: Store, spec: EventSpec, i: int, lookups: Mapping[str, np.ndarray]) -> RawEvents:
    """Read the events of shard i; `lookups` are from code to id, per coded field."""
    shard = store.shard(i)
    place = spec.tokens.place
    return RawEvents(
        offsets=shard.offsets,
        time=shard.time // 1_000_000,
        ids={name: lookups[name][_codes(shard, name)] for name in spec.values},
        place=shard.categories[place] if "place" in spec.fields and place else None,
        amounts={name: shard.amounts[name] for name in spec.amount_edges},
    )


def check_events_fit(spec: EventSpec, store: Store) -> None:
    """Check that a store is of the spec's schema. Errors: `FingerprintError`."""
    if store.schema.name != spec.schema or store.schema.time_zone != spec.zone:
        raise FingerprintError(
            f"a store of schema {spec.schema!r} in zone {spec.zone}, which the model was fitted on",
            f"schema {store.schema.name!r} in zone {store.schema.time_zone}",
            where=str(store.path),
            fix="use the store the model was trained on, or a later one of the same schema",
        )
    absent = [f for f in spec.fields if f not in (*_all_fields(store), "place")]
    if absent:
        raise FingerprintError(f"a log with {', '.join(absent)}", "a log without", where=str(store.path))


def _all_fields(store: Store) -> list[str]:
    item = ["item"] if store.items is not None else []
    return ["gap", "weekday", "slot", "type", *item, *store.categories, *store.amounts]


def _chosen_fields(store: Store, config: EventTokenConfig) -> tuple[str, ...]:
    every = _all_fields(store)
    if config.place is not None:
        if config.place not in store.categories:
            raise ConfigError(f"a category out of: {', '.join(store.categories) or 'none'}", repr(config.place))
        every = [name for name in every if name != config.place] + ["place"]
    twice = {name for name in every if every.count(name) > 1}
    fields = config.fields or tuple(every)
    unknown = [name for name in fields if name not in every]
    if unknown or twice:
        found = f"{sorted(twice)} twice" if twice else repr(unknown[0])
        meant = nearest(unknown[0], every) if unknown else None
        fix = f"did you mean {meant!r}?" if meant else "rename the column in the schema" if twice else ""
        raise ConfigError("fields out of: " + ", ".join(every), found, where="tokens.fields", fix=fix)
    strange = [name for name in config.held_out if name not in store.types]
    if strange or (config.held_out and "type" not in fields):
        found = repr(strange[0]) if strange else "no field 'type'"
        raise ConfigError("held-out types that the log has", found, where="tokens.held_out")
    return tuple(fields)


def _kept(store: Store, name: str, count: np.ndarray, config: EventTokenConfig) -> tuple[str, ...]:
    """Give the values that occur often enough, the most frequent first; equals by their text."""
    texts = store.vocabulary(name)
    order = np.lexsort((np.array(texts, dtype=str), -count))
    order = order[count[order] >= config.min_count]
    held = set(config.held_out) if name == "type" else set()
    return tuple(str(texts[code]) for code in order.tolist() if texts[code] not in held)


def _codes(shard: Shard, name: str) -> np.ndarray:
    found = shard.type if name == "type" else shard.item if name == "item" else shard.categories[name]
    assert found is not None
    return found


def _edges(values: np.ndarray, n_bins: int) -> tuple[float, ...]:
    """Give at most n_bins + 1 ascending quantiles of positive values, at least two."""
    if len(values) == 0:
        return (1.0, float(DAY))
    edges = np.unique(np.quantile(values.astype(np.float64), np.linspace(0, 1, n_bins + 1)))
    return tuple(float(e) for e in edges) if len(edges) > 1 else (float(edges[0]), 2 * float(edges[0]))


def _amount_ids(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    ids = np.searchsorted(edges[1:-1], values, side="right") + FIRST_BIN
    ids = np.where(values == 0, ZERO, np.where(values < 0, NEGATIVE, ids))
    return np.where(np.isnan(values), NONE, ids)


def _own_number(raw: RawEvents) -> np.ndarray:
    """Number each user's places in order of first visit: ids 2..17, then 18 for elsewhere; 1 where missing."""
    assert raw.place is not None
    user = np.repeat(np.arange(len(raw.offsets) - 1), np.diff(raw.offsets))
    code = user * (int(raw.place.max(initial=0)) + 2) + raw.place + 1
    _, first, which = np.unique(np.where(raw.place < 0, -1, code), return_index=True, return_inverse=True)
    is_new = np.zeros(len(user), np.int64)
    is_new[first[raw.place[first] >= 0]] = 1
    before = np.cumsum(is_new) - is_new
    number = before[first] - (before[raw.offsets[:-1].clip(max=max(len(user) - 1, 0))][user[first]] if len(user) else 0)
    return np.where(raw.place < 0, UNKNOWN, np.minimum(number, N_PLACES)[which] + FIRST)


def _starts(offsets: np.ndarray) -> np.ndarray:
    """Rows at which a user begins."""
    return offsets[:-1][np.diff(offsets) > 0]


def _inside(first: np.ndarray, end: np.ndarray, n: int) -> np.ndarray:
    """True on the rows of many ranges [first, end) that do not overlap, bool [n]."""
    step = np.zeros(n + 1, np.int64)
    np.add.at(step, first, 1)
    np.add.at(step, end, -1)
    return np.cumsum(step[:-1]) > 0


def _some(values: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    return values if len(values) <= FIT_ROWS else values[draw.integers(0, len(values), FIT_ROWS)]
