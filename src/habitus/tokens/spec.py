"""InputSpec: what the data implied. Fitted on train only, frozen, saved with the model, carrying a fingerprint."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from pydantic import Field

from habitus.core.config import Config
from habitus.core.errors import FingerprintError, TargetError
from habitus.core.seeds import generator
from habitus.data.calendar import Calendar
from habitus.data.cutoffs import Samples, ranges, rows_until
from habitus.data.targets import Target
from habitus.tokens import crowd
from habitus.tokens.aggregates import Aggregates, AggregateSpec, aggregate_spec, aggregates
from habitus.tokens.days import DayTable, day_table
from habitus.tokens.fields import Scaler
from habitus.tokens.known_events import n_columns

if TYPE_CHECKING:
    from habitus.data.store import Store

FIT_ROWS = 200_000  # rows that a scaler looks at


class TokenConfig(Config):
    """How a history becomes tokens.

    `keep = "sparse"` keeps active days, the first day of each notable known event, the last `keep_recent` days and the
    start token; `"all"` keeps every day since the user was first seen. `max_days` keeps the newest active days only.
    `summary = "windows"` puts windowed aggregates of the whole life into the profile, beside its own columns;
    `"profile"` leaves the profile's columns and the tenure. `known` says which part of the calendar a model may see:
    that of past days, of future days, both or neither (an ablation). The rest looks like days on which nothing is known
    of any event; weekday and day of the year stay, for they need no calendar. With `has_crowd` the profile also says
    how busy the whole log has been of late (see `tokens.crowd`).
    """

    history: int = Field(default=180, ge=1)  # days
    keep: Literal["sparse", "all"] = "sparse"
    keep_recent: int = Field(default=7, ge=1)
    max_days: int | None = Field(default=None, ge=1)
    summary: Literal["windows", "profile"] = "windows"
    history_dropout: float = Field(default=0.05, ge=0, lt=1)  # share of training samples whose past is one start token
    known: Literal["all", "past", "future", "none"] = "all"
    has_crowd: bool = False

    @property
    def sees_past(self) -> bool:
        """Whether past days carry known events."""
        return self.known in ("all", "past")

    @property
    def sees_future(self) -> bool:
        """Whether future days carry known events."""
        return self.known in ("all", "future")


@dataclass(frozen=True)
class ProfileEncoder:
    """Static numbers of a user at a cut-off: aggregates scaled, gaps in them flagged, categories one-hot."""

    columns: AggregateSpec
    chosen: tuple[str, ...]  # aggregate columns used, in order
    scaler: Scaler  # of the chosen number columns
    flagged: tuple[str, ...]  # number columns that are missing for some users
    widths: dict[str, int]  # category column -> number of values, the first stands for unknown
    unseen: dict[str, tuple[int, ...]] = field(default_factory=dict)  # values that no training sample has

    @property
    def width(self) -> int:
        """P."""
        return len(self.chosen) - len(self.widths) + len(self.flagged) + sum(self.widths.values())

    @classmethod
    def fit(
        cls,
        store: Store,
        samples: Samples,
        summary: str,
        *,
        horizon: int,
        calendar: Calendar | None = None,
        has_crowd: bool = False,
    ) -> Self:
        """Choose and scale the columns on training samples.

        Of a calendar, the profile holds which events that name items are still open: the past alone.
        """
        columns = aggregate_spec(store, until=int(samples.cutoff.max()))
        if calendar is not None and store.items is not None:
            columns = columns.model_copy(update={"item_types": calendar.item_types})
        if has_crowd:
            columns = columns.model_copy(update={"crowd": crowd.WINDOWS})
        table = _past(store, samples, columns, calendar, horizon)
        always = ("profile.", "tenure", "crowd.")
        is_chosen = [summary == "windows" or name.startswith(always) for name in table.names]
        chosen = tuple(name for name, is_used in zip(table.names, is_chosen) if is_used)
        place = {name: j for j, name in enumerate(table.names)}
        categories = [name for name in chosen if table.is_category[place[name]]]
        numbers = [name for name in chosen if name not in categories]
        values = table.value[:, [place[name] for name in numbers]]
        missing = np.isnan(values).mean(axis=0) if len(values) else np.zeros(len(numbers))
        widths = {n: len(dict(columns.categories)[n.removeprefix("profile.")]) + 1 for n in categories}
        places = {n: _places(table.value[:, place[n]], width) for n, width in widths.items()}
        unseen = {n: tuple(sorted(set(range(widths[n])) - set(codes.tolist()))) for n, codes in places.items()}
        return cls(
            columns=columns,
            chosen=chosen,
            scaler=Scaler.fit(values),
            flagged=tuple(name for name, share in zip(numbers, missing) if 0.01 < share < 0.99),
            widths=widths,
            unseen={name: codes for name, codes in unseen.items() if codes},
        )

    def encode(self, store: Store, samples: Samples, *, horizon: int, calendar: Calendar | None = None) -> np.ndarray:
        """Give float32 [n, P]. A category that training never saw is 0 in every column: no weight was learnt for it."""
        table = _past(store, samples, self.columns, calendar, horizon)
        place = {name: j for j, name in enumerate(table.names)}
        absent = [name for name in self.chosen if name not in place]
        if absent:
            raise FingerprintError(
                f"aggregates with a column {absent[0]!r}",
                "none",
                where="profile",
                fix="train again: columns have changed",
            )
        numbers = [name for name in self.chosen if name not in self.widths]
        blocks = [self.scaler.encode(table.value[:, [place[name] for name in numbers]])]
        blocks += [np.isnan(table.value[:, place[name]]).astype(np.float32)[:, None] for name in self.flagged]
        for name, width in self.widths.items():
            one_hot = np.eye(width, dtype=np.float32)
            one_hot[list(self.unseen.get(name, ()))] = 0.0
            blocks.append(one_hot[_places(table.value[:, place[name]], width)])
        return np.concatenate(blocks, axis=1)

    def to_json(self) -> dict[str, Any]:
        """Give plain values."""
        return {
            "columns": self.columns.model_dump(mode="json"),
            "chosen": list(self.chosen),
            "scaler": self.scaler.to_json(),
            "flagged": list(self.flagged),
            "widths": self.widths,
            **({"unseen": {name: list(codes) for name, codes in self.unseen.items()}} if self.unseen else {}),
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Read what `to_json` gave."""
        return cls(
            AggregateSpec.parse(values["columns"]),
            tuple(values["chosen"]),
            Scaler.from_json(values["scaler"]),
            tuple(values["flagged"]),
            {name: int(width) for name, width in values["widths"].items()},
            {name: tuple(codes) for name, codes in values.get("unseen", {}).items()},
        )


@dataclass(frozen=True)
class InputSpec:
    """Everything between a store and a batch: names, scalers, windows and targets.

    Two specs with one fingerprint turn the same log into the same tensors.
    """

    schema: str  # the name of the schema it was fitted under
    tokens: TokenConfig
    horizon: int  # F, days
    features: tuple[str, ...]  # A day-token columns
    activity: Scaler
    event_types: tuple[str, ...]  # known-event types
    profile: ProfileEncoder
    targets: tuple[Target, ...]  # K
    day_targets: tuple[Target, ...] = ()  # measured on every future day
    item_types: tuple[str, ...] = ()  # known-event types that name the items they are about

    @property
    def n_known(self) -> int:
        """E."""
        return n_columns(self.event_types, self.item_types)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the JSON form."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Give plain values."""
        return {
            "schema": self.schema,
            "tokens": self.tokens.model_dump(mode="json"),
            "horizon": self.horizon,
            "features": list(self.features),
            "activity": self.activity.to_json(),
            "event_types": list(self.event_types),
            "profile": self.profile.to_json(),
            "targets": {target.name: str(target) for target in self.targets},
            "day_targets": {target.name: str(target) for target in self.day_targets},
            **({"item_types": list(self.item_types)} if self.item_types else {}),
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Read what `to_json` gave. Errors: `ConfigError` or `TargetError` when a value does not fit."""
        return cls(
            values["schema"],
            TokenConfig.parse(values["tokens"], where="spec.json"),
            int(values["horizon"]),
            tuple(values["features"]),
            Scaler.from_json(values["activity"]),
            tuple(values["event_types"]),
            ProfileEncoder.from_json(values["profile"]),
            tuple(Target.parse(text, name=name) for name, text in values["targets"].items()),
            tuple(Target.parse(text, name=name) for name, text in values["day_targets"].items()),
            tuple(values.get("item_types", ())),
        )


def fit_spec(
    store: Store,
    config: TokenConfig,
    samples: Samples,
    targets: tuple[Target, ...],
    *,
    day_targets: tuple[Target, ...] = (),
    calendar: Calendar | None = None,
    seed: int = 0,
) -> InputSpec:
    """Fit scalers and choose columns on training samples; rows after their cut-offs are never read.

    Errors: `TargetError` when the windows of the targets differ or there are none.
    """
    horizons = {target.horizon for target in targets}
    if len(horizons) != 1 or None in horizons:
        found = ", ".join(f"{t.name}: {t}" for t in targets) or "no target"
        raise TargetError("targets that share one window, such as `in 28d`", found, where="targets")
    horizon = horizons.pop()
    assert horizon is not None
    in_force: Calendar = store.calendar if calendar is None else calendar
    table = day_table(store)
    if len(samples) > FIT_ROWS:
        rows = np.sort(generator(seed, "spec samples").choice(len(samples), FIT_ROWS, replace=False))
        samples = samples.take(rows)
    return InputSpec(
        schema=store.schema.name,
        tokens=config,
        horizon=horizon,
        features=table.features,
        activity=Scaler.fit(_rows_seen(store, table, samples, seed)),
        event_types=in_force.types,
        profile=ProfileEncoder.fit(
            store,
            samples,
            config.summary,
            horizon=horizon,
            calendar=in_force if config.sees_past else None,
            has_crowd=config.has_crowd,
        ),
        targets=targets,
        day_targets=day_targets,
        item_types=() if store.items is None else in_force.item_types,
    )


def check_fits(spec: InputSpec, store: Store, table: DayTable) -> np.ndarray:
    """Give, per feature of the spec, its column in a store's day table, -1 for an event type the store has not seen.

    Errors: `FingerprintError` when the store has another schema, or lacks an amount, items or sessions.
    """
    if store.schema.name != spec.schema:
        raise FingerprintError(
            f"a store of schema {spec.schema!r}, which the model was fitted on",
            f"schema {store.schema.name!r}",
            where=str(store.path),
            fix="use the store the model was trained on, or a later one of the same schema",
        )
    place = {name: j for j, name in enumerate(table.features)}
    amounts = {name[4:].partition(" of ")[0] for name in spec.features if name.startswith("sum(")}
    needed = [n for n in ("items", "sessions") if n in spec.features and n not in place]
    absent = sorted(amounts - set(store.amounts)) + needed
    if absent:
        raise FingerprintError(
            f"a log with {', '.join(absent)}", "a log without", where=str(store.path), fix="ingest with the same schema"
        )
    return np.array([place.get(name, -1) for name in spec.features], dtype=np.int64)


def _places(codes: np.ndarray, width: int) -> np.ndarray:
    """Give the one-hot place of category codes: 0 for unknown ones."""
    place = np.nan_to_num(codes, nan=-1.0).astype(np.int64) + 1
    return np.where((place < 0) | (place >= width), 0, place)


def _past(
    store: Store, samples: Samples, columns: AggregateSpec, calendar: Calendar | None, horizon: int
) -> Aggregates:
    calendar = calendar if columns.item_types else None
    return aggregates(store, samples, horizon=horizon, spec=columns, calendar=calendar, has_future=False)


def _rows_seen(store: Store, table: DayTable, samples: Samples, seed: int) -> np.ndarray:
    """Give day-token rows up to the last cut-off of each sampled user, at most FIT_ROWS of them."""
    last = np.full(store.n_users, -(2**31), dtype=np.int64)
    np.maximum.at(last, samples.user, samples.cutoff)
    users = np.flatnonzero(last > -(2**31))
    low, high = rows_until(table.offsets, table.day, users, last[users])
    rows = ranges(low, high)[1]
    if len(rows) > FIT_ROWS:
        rows = np.sort(generator(seed, "spec rows").choice(rows, FIT_ROWS, replace=False))
    return np.asarray(table.value[rows])
