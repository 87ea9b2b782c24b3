"""Loaded runs: all that answering needs, looked up once, and replaced as a whole when the files behind change."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from habitus.core.errors import ConfigError, FingerprintError, HabitusError
from habitus.data.calendar import Calendar, to_date, to_day
from habitus.data.store import MANIFEST
from habitus.models.artifact import Artifact, load_artifact
from habitus.tasks.answer_events import ask_events, event_vectors
from habitus.tasks.describe import describe
from habitus.tasks.embed import vectors_of
from habitus.tasks.event_recipe import EventRecipe
from habitus.tasks.forecast import Heads, of_rows
from habitus.tasks.lurm_fit import encode
from habitus.tasks.lurm_recipe import LurmRecipe
from habitus.tasks.predict import eligible_at
from habitus.tasks.run import Run, open_run, read_metrics
from habitus.tasks.similar import nearest_users
from habitus.tasks.train_lurm import interests_of
from habitus.tasks.whatif.days import DayPlan
from habitus.tasks.whatif.futures import Encoded, encoded
from habitus.tasks.whatif.totals import units_of
from habitus.tokens.bags import raw_bag
from habitus.tokens.blocks import block_until
from habitus.tokens.counts import Counter, Counts, count_interests
from habitus.tokens.day_requests import held_shard
from habitus.tokens.interest_lookup import lookup
from habitus.tokens.interests import Interests
from habitus.tokens.known_events import KnownEvents
from habitus.tokens.loader import Inputs, prepare
from habitus.tokens.spec import InputSpec

MOST_VALUES = 50  # of a profile column that may be a segment
KEPT_CALENDARS = 64


class UnknownUser(HabitusError):
    """The log has no such user, or not at the cut-off."""


@dataclass(frozen=True)
class Loaded:
    """A run and its artifact as they were when loaded; `stamp` says which files those were."""

    run: Run[Any]
    artifact: Artifact
    day: int  # the cut-off, days since 1970-01-01
    rows: dict[str, int]  # user -> row of the eligible users
    stamp: tuple[Any, ...]

    @property
    def name(self) -> str:
        """The name of the recipe."""
        return self.run.recipe.name

    @property
    def as_of(self) -> str:
        return str(to_date(self.day))

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """The figures of the run."""
        return read_metrics(self.run.path)

    def rows_of(self, users: Sequence[str]) -> np.ndarray:
        """Give the rows of users. Errors: `UnknownUser`; also for one erased from the log since it was loaded."""
        places = [self.rows.get(user, -1) for user in users]
        if -1 in places:
            found = f"{sum(place < 0 for place in places)} of {len(places)} without, first in place {places.index(-1)}"
            raise UnknownUser(f"users with an answer at {self.as_of}", found, where="users", fix="send their history")
        return np.array(places, np.int64)

    @cached_property
    def vectors(self) -> np.ndarray:
        """The vector of every user at the cut-off, of length 1, float32 [n, D]; made at the first question."""
        found = self._embed()
        return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)

    def _embed(self) -> np.ndarray:
        raise NotImplementedError

    def alike(self, user: str, top: int) -> list[tuple[str, float]]:
        """Give the users whose vectors lie nearest by cosine, best first, with it; who was erased is left out."""
        (row,) = self.rows_of([user])
        names = {place: name for name, place in self.rows.items()}
        n_gone = len(self.vectors) - len(names)
        query = self.vectors[row : row + 1]
        found = nearest_users(self.vectors, query, top + n_gone, without=np.array([row], np.int64))
        pairs = zip(found.place[0].tolist(), found.score[0].tolist())
        return [(names[place], score) for place, score in pairs if place in names][:top]


@dataclass(frozen=True)
class DayRun(Loaded):
    """A run of user-days: `base` holds every eligible user at the cut-off, so a question costs its own users only."""

    spec: InputSpec
    heads: Heads
    base: Inputs
    past_bytes: int = 0
    _known: OrderedDict[str, list[tuple[str, Calendar, KnownEvents]]] = field(default_factory=OrderedDict, repr=False)
    _memory: OrderedDict[str, Any] = field(default_factory=OrderedDict, repr=False)
    _past: dict[str, list[Encoded]] = field(default_factory=dict, repr=False)

    @property
    def plan(self) -> DayPlan:
        return DayPlan.of(self.heads, self.run.recipe)

    @property
    def units(self) -> list[str]:
        return units_of(self.heads, self.run.recipe)

    @cached_property
    def segments(self) -> dict[str, pl.Series]:
        """Profile columns that can be chosen from, as text, in the order of the rows."""
        profiles = self.run.store.profiles
        if profiles is None:
            return {}
        rows = pl.Series(self.base.samples.user)
        texts = {name: profiles[name].gather(rows).cast(pl.String) for name in profiles.columns if name != "user"}
        return {name: text.fill_null("(none)") for name, text in texts.items() if text.n_unique() <= MOST_VALUES}

    def _embed(self) -> np.ndarray:
        return vectors_of(self.artifact.members[0], self.base)

    def scope(self, segment: str | None, value: str | None) -> np.ndarray:
        """Give the rows of a segment, or of everybody. Errors: `ConfigError` for an unknown one."""
        if segment is None:
            return np.arange(len(self.base))
        if segment not in self.segments:
            known = ", ".join(self.segments) or "none"
            raise ConfigError(f"a segment out of: {known}", repr(segment), where="scope.segment")
        rows = np.flatnonzero((self.segments[segment] == (value or "")).to_numpy())
        if not len(rows):
            raise ConfigError(f"a value of {segment}", repr(value), where="scope.value", fix="see GET /v1/runs/RUN")
        return rows

    def known(self, key: str, calendars: Sequence[tuple[str, Calendar]]) -> list[tuple[str, Calendar, KnownEvents]]:
        """Prepare calendars once for all users of the store; the latest are kept under their key."""
        found = self._known.get(key)
        if found is None:
            users = self.run.store.users["user"].to_numpy()
            found = [(name, one, self.base.with_calendar(one, users).known) for name, one in calendars]
            self._known[key] = found
            if len(self._known) > KEPT_CALENDARS:
                self._known.popitem(last=False)
        return found

    def remembered(self, key: str, make: Callable[[], Any]) -> Any:
        """Give what was made under a key, or make it; the latest are kept."""
        found = self._memory.get(key)
        if found is None:
            found = self._memory[key] = make()
            if len(self._memory) > KEPT_CALENDARS:
                self._memory.popitem(last=False)
        return found

    def inputs(self, rows: np.ndarray) -> Inputs:
        """Give the inputs of some rows."""
        return of_rows(self.base, rows)

    def past(self, key: str, inputs: Inputs) -> list[Encoded]:
        """Encode the past of a scope; kept while all that is kept stays under `past_bytes`."""
        if key in self._past:
            return self._past[key]
        found = list(encoded(self.artifact.members, self.heads, inputs, self.artifact.calibration))
        size = sum(part.n_bytes for part in found)
        while self._past and size + sum(p.n_bytes for some in self._past.values() for p in some) > self.past_bytes:
            self._past.pop(next(iter(self._past)))
        if size <= self.past_bytes:
            self._past[key] = found
        return found


@dataclass(frozen=True)
class EventRun(Loaded):
    """A run of events: users are numbers of the store, and a question reads their last stretch."""

    users: np.ndarray  # row -> number in the store

    def _embed(self) -> np.ndarray:
        return event_vectors(self.asked(np.arange(len(self.users))))["vector"].to_numpy()

    def asked(self, rows: np.ndarray | None, histories: Any = None) -> Any:
        """Look up who is asked about."""
        users = None if rows is None else self.users[rows]
        return ask_events(self.run, to_date(self.day), histories, users=users, artifact=self.artifact)

    @property
    def can_generate(self) -> bool:
        """Whether the model draws whole futures."""
        return bool(getattr(self.artifact.members[0], "links", ()))


@dataclass(frozen=True)
class LifeRun(Loaded):
    """A run of LURM: whole lives up to `block` as vectors; everybody in the store is known by it."""

    interests: Interests
    counts: Counts
    block: int

    def _embed(self) -> np.ndarray:
        return self.flat(np.arange(len(self.run.store.users)))

    def flat(self, rows: np.ndarray) -> np.ndarray:
        """Give the vectors of users as `embed` does, float32 [n, M P]."""
        return encode(self.artifact.members[0], self.counts, self.interests, rows, self.block)[0]

    def new(self, histories: Any) -> np.ndarray:
        """Give the vectors of users whose histories are handed in. Errors: those of `held_shard`."""
        shard, users = held_shard(self.run.store, histories, self.day)
        store = self.run.store
        counted = Counter.of(self.interests, store.types, lookup(self.interests, store))(shard)
        return encode(self.artifact.members[0], counted, self.interests, np.arange(len(users)), self.block)[0]

    def made_of(self, row: int, top: int) -> list[dict[str, Any]]:
        """Give the weightiest interests of a user by anchor: interest, n, anchor, share (of the life), weight."""
        rows = np.array([row], np.int64)
        table = describe(self.artifact.members[0], self.interests, self.counts, rows, cutoff_block=self.block, k=top)
        return table.drop("row", "rank").to_dicts()

    def shared(self, row: int, others: np.ndarray, top: int) -> list[dict[str, Any]]:
        """Say which interests each other user has in common with a user: how many, and those that weigh most."""
        bags = raw_bag(self.counts, self.interests, np.r_[row, others], self.block)
        both = bags[1:].multiply(bags[0]).tocsr()
        found = []
        for low, high in zip(both.indptr[:-1], both.indptr[1:]):
            best = np.argsort(-both.data[low:high], kind="stable")[:top]
            names = [self.interests.names[i] for i in both.indices[low:high][best]]
            found.append({"n_shared": int(high - low), "shared": names})
        return found


def stamp_of(path: Path, store: Path) -> tuple[Any, ...]:
    """Tell one state of artifact and store from another, at the cost of two looks at the disk."""
    looks = (path / "artifact" / "manifest.json", path / "artifact" / "calibration.json", store / MANIFEST)
    return tuple((seen.st_ino, seen.st_mtime_ns, seen.st_size) for seen in (os.stat(file) for file in looks))


def load(path: str | Path | Run[Any], *, cutoff: str | None = None, past_bytes: int = 0) -> Loaded:
    """Open a run and look up everything that its answers share. Errors: those of `open_run` and `predict`."""
    run = open_run(path)
    stamp = stamp_of(run.path, run.store.path)
    artifact = load_artifact(run.artifact_path)
    users = run.store.users["user"].cast(pl.String)
    if isinstance(run.recipe, LurmRecipe):
        return _life_run(run, artifact, users, stamp, cutoff)
    if isinstance(run.recipe, EventRecipe):
        day = run.store.last_day if cutoff is None else to_day(cutoff)
        chosen = np.flatnonzero(run.store.users["first_day"].to_numpy() <= day)
        found = EventRun(run, artifact, day, _places(users.gather(chosen)), stamp, chosen)
        found.asked(np.arange(min(1, len(chosen))))  # encodes the log once, and checks it
        return found
    samples = eligible_at(run, cutoff)
    spec = InputSpec.from_json(artifact.spec)
    base = prepare(run.store, spec, samples, has_targets=False)
    rows = _places(users.gather(pl.Series(samples.user)))
    heads = Heads(artifact.heads, artifact.day_heads)
    return DayRun(run, artifact, int(samples.cutoff[0]), rows, stamp, spec, heads, base, past_bytes)


def _life_run(
    run: Run[LurmRecipe], artifact: Artifact, users: pl.Series, stamp: tuple[Any, ...], cutoff: str | None
) -> LifeRun:
    """Count everybody's interests once. Errors: `FingerprintError` for other ones; `CutoffError` inside a block."""
    interests = interests_of(run)
    if interests.version != artifact.fingerprint:
        found = f"interests {interests.version}"
        raise FingerprintError(f"interests {artifact.fingerprint}", found, where=str(run.path), fix="train again")
    day = run.store.last_day if cutoff is None else to_day(cutoff)
    counts = count_interests(run.store, interests)
    now = int(counts.block.max()) if len(counts) else 0  # a new user's ages are counted from it too
    block = now if cutoff is None else block_until(day, interests.block, interests.week_starts)
    return LifeRun(run, artifact, day, _places(users), stamp, interests, counts, block)


def _places(users: pl.Series) -> dict[str, int]:
    return {user: row for row, user in enumerate(users.to_list())}


class Models:
    """The runs that are served, by name. A swap replaces one whole; who was being answered keeps the old one."""

    def __init__(
        self,
        runs: Sequence[str | Path],
        *,
        cutoff: str | None = None,
        past_bytes: int = 0,
        store: str | Path | None = None,
    ) -> None:
        self._options = {"cutoff": cutoff, "past_bytes": past_bytes}
        self._lock = threading.Lock()
        self._loaded: dict[str, Loaded] = {}
        for path in runs:
            one = load(open_run(path, store), **self._options)
            if one.name in self._loaded:
                raise ConfigError("runs that differ in name", f"two called {one.name!r}", where=str(path))
            self._loaded[one.name] = one

    @property
    def names(self) -> list[str]:
        """Names of the runs, in the order given."""
        return list(self._loaded)

    def get(self, name: str) -> Loaded | None:
        """Give a run as it is loaded now."""
        return self._loaded.get(name)

    def stale(self) -> list[str]:
        """Name the runs whose files have changed; files that are being replaced count as not changed yet."""
        found = []
        for name, one in list(self._loaded.items()):
            try:
                if stamp_of(one.run.path, one.run.store.path) != one.stamp:
                    found.append(name)
            except OSError:
                continue
        return found

    def forget(self, name: str) -> int:
        """Drop users that the log does not hold any more, before the new state is loaded; give how many."""
        from habitus.data.store import Store

        with self._lock:
            one = self._loaded[name]
            left = set(Store.open(one.run.store.path).users["user"].cast(pl.String).to_list())
            gone = [user for user in one.rows if user not in left]
            for user in gone:
                del one.rows[user]
            return len(gone)

    def swap(self, name: str) -> None:
        """Load a run again and answer from it from now on. Errors: those of `load`; then the old one stays."""
        old = self._loaded[name]
        fresh = load(open_run(old.run.path, old.run.store.path), **self._options)
        with self._lock:
            self._loaded[name] = fresh
