"""Generate: whole futures, event by event, for every user; streamed to Parquet, resumable, the same in any order."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from habitus.core.atomic import new_file, remove_partial, write_json
from habitus.core.config import read_toml
from habitus.core.engine import LOCAL, EngineConfig, as_engine, do_jobs
from habitus.core.errors import ConfigError, CutoffError, DiskError
from habitus.core.progress import bar
from habitus.core.seeds import text_keys
from habitus.data.calendar import to_date
from habitus.data.pipeline.zones import first_instant
from habitus.data.store import Store
from habitus.models.artifact import Artifact, load_artifact
from habitus.models.behavegpt import CLOCK, FIRST, BehaveGPT
from habitus.tasks.answer_events import Asked, ask_events
from habitus.tasks.by_shard import day_asked
from habitus.tasks.constraints import ConstraintConfig, Constraints, compile_constraints
from habitus.tasks.predict import manifest
from habitus.tasks.rollout import DrawConfig, Rolled, Start, Zone, chunks, roll_out
from habitus.tasks.run import Run, open_run
from habitus.tokens.amounts import AmountBins
from habitus.tokens.event_loader import assemble_events, last_states
from habitus.tokens.event_table import event_table
from habitus.tokens.events import FIRST_BIN, ZERO, EventSpec
from habitus.tokens.gaps import GapBins


@dataclass(frozen=True)
class Futures:
    """What to draw: a model with its spec, a log, users (numbers in the store), a cut-off day, days ahead.

    With `asked`, users are places among the new users whose histories were handed in, and the store gives no past.
    """

    model: BehaveGPT
    spec: EventSpec
    store: Store
    users: np.ndarray
    cutoff: int
    days: int
    n_samples: int
    draws: DrawConfig
    constraints: Constraints | None = None
    is_cached: bool = True
    asked: Asked | None = None

    def chunks(self) -> list[tuple[int, int]]:
        """Ranges of users that are drawn together."""
        return list(chunks(len(self.users), self.n_samples, self.model))

    def draw(self, begin: int, end: int) -> tuple[pl.DataFrame, pl.DataFrame, Rolled]:
        """Draw users[begin:end]: events; rows per user and sample; and the raw roll-out."""
        users = self.users[begin:end]
        rolled = roll_out(
            self.model,
            self._start(users),
            GapBins.of(self.spec.gap_edges),
            {name: amount_bins(edges) for name, edges in self.spec.amount_edges.items()},
            Zone(self.spec.zone),
            self.draws,
            self.constraints,
            n_samples=self.n_samples,
            is_cached=self.is_cached,
        )
        ids = self._names(users)
        return self._events(rolled, ids), self._rows(rolled, ids), rolled

    def _names(self, users: np.ndarray) -> pl.Series:
        names = self.store.users["user"] if self.asked is None else self.asked.users
        return names.gather(pl.Series(users))

    def _start(self, users: np.ndarray) -> Start:
        if self.asked is None:
            inputs = last_states(self.store, self.spec, users, np.full(len(users), self.cutoff, np.int32))
            batch = assemble_events(inputs, np.arange(len(users)))
        else:
            batch = assemble_events(self.asked.inputs, users)
        return Start(
            ids=batch.ids,
            length=batch.length,
            last_time=batch.time[torch.arange(len(users)), batch.length - 1],
            key=text_keys(self._names(users).cast(pl.String).to_list()),
            user=users,
            begin=self.instant(1),
            end=self.instant(1 + self.days),
        )

    def instant(self, after: int) -> int:
        """First second of the day so many days after the cut-off, UTC."""
        return first_instant(to_date(self.cutoff + after), self.spec.zone) // 1_000_000

    def _events(self, rolled: Rolled, ids: pl.Series) -> pl.DataFrame:
        columns: dict[str, Any] = {
            "user": ids.gather(pl.Series(rolled.row // self.n_samples)),
            "sample": pl.Series(rolled.row % self.n_samples, dtype=pl.Int32),
            "event": pl.Series(rolled.event, dtype=pl.Int32),
            "time": pl.Series(rolled.time * 1_000_000).cast(pl.Datetime("us", "UTC")),
        }
        for name in self.model.links[1:]:
            drawn = rolled.ids[:, self.spec.column(name)] - FIRST
            if name in self.spec.values:
                columns[name] = pl.Series(self.spec.values[name], dtype=pl.String).gather(pl.Series(drawn))
            elif name not in self.spec.amount_edges:
                columns[name] = pl.Series(drawn, dtype=pl.Int32)
        for k, name in enumerate(self.spec.amount_edges):
            columns[name] = pl.Series(rolled.amount[:, k]).fill_nan(None)
        return pl.DataFrame(columns)

    def _rows(self, rolled: Rolled, ids: pl.Series) -> pl.DataFrame:
        n = len(rolled.is_cut)
        return pl.DataFrame(
            {
                "user": ids.gather(pl.Series(np.arange(n) // self.n_samples)),
                "sample": pl.Series(np.arange(n) % self.n_samples, dtype=pl.Int32),
                "n_events": pl.Series(np.bincount(rolled.row, minlength=n), dtype=pl.Int32),
                "is_cut": pl.Series(rolled.is_cut),
            }
        )


def generate(
    run: str | Path | Run,
    *,
    out: str | Path,
    days: int = 14,
    n_samples: int = 1,
    cutoff: str | dt.date | None = None,
    users: str | Path | Sequence[Any] | None = None,
    histories: Any = None,
    store: str | Path | None = None,
    seed: int = 0,
    temperature: Mapping[str, float] | None = None,
    top_p: Mapping[str, float] | None = None,
    max_events: int = 1000,
    constraints: str | Path | ConstraintConfig | None = None,
    engine: EngineConfig | str | None = None,
) -> dict[str, Any]:
    """Draw the next `days` days of every user, event by event, and write them to `out` (Parquet).

    Parameters
    ----------
    run
        A run of a BehaveGPT of form `joint`; its first member draws.
    out
        `user, sample, event, time` (UTC), then a column per field. Beside it `OUT.users.parquet` (user, sample,
        n_events, is_cut: whether `max_events` ended it early; users without an event are there too) and a manifest.
    cutoff
        The last day that may be used; default: the last complete day of the store. Users have an event by then.
    users
        Only these: their own ids, or a file (CSV or Parquet) with a column `user`.
    histories
        New users instead, whom no store knows: a table or file of their events (see `request_inputs`), none after the
        cut-off. A user drawn so has the same future as one of that id and past in the store.
    seed
        A user's draws depend on seed, user id, sample, event and field alone, not on company, order or `n_samples`.
    temperature, top_p
        Per field; by default as learnt.
    constraints
        A TOML file or a `ConstraintConfig`: what may happen.
    engine
        Who draws: this process, or workers on Ray, some users each. The futures are the same.

    Gives the figures of the manifest. Killed, the same call goes on. It does not change the model or the store.
    Errors: `ConfigError` for a model without a chain, unknown users or fields, or histories with `users` or
    `constraints`, which speak of the log's own users; `CutoffError`; `ConstraintError`; `DiskError` when `out` exists,
    or another generation was begun there.
    """
    run, out, workers = open_run(run, store), Path(out), as_engine(engine)
    artifact = load_artifact(run.artifact_path)
    model, spec = artifact.members[0], EventSpec.from_json(artifact.spec)
    if not isinstance(model, BehaveGPT) or not model.links:
        fix = "train model.name = 'behavegpt' with form = 'joint'"
        raise ConfigError("a model that generates", artifact.name, where=str(run.path), fix=fix)
    day = day_asked(run.store, cutoff)
    draws = DrawConfig.parse(
        {"seed": seed, "temperature": temperature or {}, "top_p": top_p or {}, "max_events": max_events}
    )
    _check_fields(draws, model)
    rules = _constraints(constraints, spec, run.store)
    if histories is not None and (users is not None or rules is not None):
        raise ConfigError("histories alone", "users or constraints too", where="generate", fix="leave those out")
    asked = None if histories is None else ask_new(run, histories, day)
    chosen = _users(run.store, users, day) if asked is None else np.arange(len(asked.users))
    futures = Futures(model, spec, run.store, chosen, day, days, n_samples, draws, rules, asked=asked)
    plan = manifest(run, artifact, as_of=str(to_date(day)), days=days, n_samples=n_samples, n_users=len(chosen))
    plan |= {"draws": draws.model_dump(mode="json")}
    plan |= {"constraints": rules.config.model_dump(mode="json") if rules else None}
    plan |= {} if asked is None else {"histories": _digest(asked)}
    if not workers.is_local and asked is None:
        event_table(run.store, spec)  # once, before the workers look for it
    return write_futures(futures, out, plan, workers)


def ask_new(run: Run, histories: Any, day: int, *, artifact: Artifact | None = None) -> Asked:
    """Encode histories handed in. Errors: `CutoffError` for an event after the cut-off; those of `request_inputs`."""
    asked = ask_events(run, None, histories, artifact=artifact)
    late = asked.inputs.table.day
    if len(late) and int(late.max()) > day:
        found = str(to_date(int(late.max())))
        raise CutoffError(f"events on or before {to_date(day)}", found, where="histories: time", fix="leave it out")
    return asked


def write_futures(futures: Futures, out: Path, plan: Mapping[str, Any], engine: EngineConfig = LOCAL) -> dict[str, Any]:
    """Draw chunk by chunk into parts beside `out`, then join them; what a killed call drew is kept."""
    if out.exists():
        raise DiskError("a new path", "it exists already", where=str(out), fix="choose another --out, or remove it")
    folder = out.with_name(f"{out.name}.parts")
    _begin(folder, {k: v for k, v in plan.items() if k != "created"})
    ranges = futures.chunks()
    left = [number for number in range(len(ranges)) if not (folder / f"{number:05}.json").is_file()]
    jobs = [(folder.absolute(), number, *ranges[number]) for number in left]
    with bar("generating", len(futures.users)) as advance:
        advance(len(futures.users) - sum(end - begin for _, _, begin, end in jobs))
        for k, _ in do_jobs(engine, partial(_write_part, futures), jobs):
            advance(jobs[k][3] - jobs[k][2])
    parts = [json.loads((folder / f"{number:05}.json").read_text("utf-8")) for number in range(len(ranges))]
    _join([folder / f"{number:05}-users.parquet" for number in range(len(ranges))], out.with_suffix(".users.parquet"))
    _join([folder / f"{number:05}.parquet" for number in range(len(ranges))], out)
    facts = dict(plan) | _totals(parts)
    write_json(out.with_suffix(".manifest.json"), facts)
    shutil.rmtree(folder)
    return facts


def _begin(folder: Path, plan: Mapping[str, Any]) -> None:
    """Make the folder of parts, or check that it holds the same generation."""
    plan = json.loads(json.dumps(plan))
    if not (folder / "plan.json").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "plan.json", plan)
    elif json.loads((folder / "plan.json").read_text("utf-8")) != plan:
        fix = "finish that one with the arguments it began with, or remove the folder"
        raise DiskError("parts of this generation", "those of another one", where=str(folder), fix=fix)
    remove_partial(folder)


def _write_part(futures: Futures, folder: Path, number: int, begin: int, end: int) -> None:
    """Draw one chunk; its JSON comes last, so that a part counts only when it is whole."""
    began = time.perf_counter()
    events, rows, rolled = futures.draw(begin, end)
    for table, name in ((events, f"{number:05}.parquet"), (rows, f"{number:05}-users.parquet")):
        with new_file(folder / name) as beside:
            table.write_parquet(beside)
    facts = {
        "n_events": events.height,
        "n_rows": rows.height,
        "n_cut": int(rolled.is_cut.sum()),
        "masked": {name: list(found) for name, found in rolled.masked.items()},
        "seconds": time.perf_counter() - began,
    }
    write_json(folder / f"{number:05}.json", facts)


def _join(parts: Sequence[Path], out: Path) -> None:
    """Join Parquet files part by part: memory is that of one."""
    import pyarrow.parquet as pq

    with new_file(out) as beside:
        first = pq.read_schema(parts[0])
        with pq.ParquetWriter(beside, first, compression="zstd") as writer:
            for part in parts:
                writer.write_table(pq.read_table(part).cast(first))


def _totals(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    names = dict.fromkeys(name for part in parts for name in part["masked"])
    mass = {n: [sum(p["masked"].get(n, (0, 0))[k] for p in parts) for k in (0, 1)] for n in names}
    total = {key: sum(part[key] for part in parts) for key in ("n_events", "n_rows", "n_cut")}
    seconds = sum(part["seconds"] for part in parts)
    return total | {
        "masked_share": {name: lost / max(n, 1) for name, (lost, n) in mass.items()},
        "events_per_second": round(total["n_events"] / max(seconds, 1e-9), 1),
    }


def amount_bins(edges: Sequence[float]) -> AmountBins:
    """Give the values behind the ids of an amount: nothing, zero, negative (of unknown size), bins between `edges`.

    >>> amount_bins((1.0, 3.0, 9.0)).low.tolist()[3:]
    [0.0, nan, 1.0, 3.0]
    """
    ends = torch.tensor(list(edges), dtype=torch.float64)
    low = torch.full((FIRST_BIN,), torch.nan, dtype=torch.float64)
    low[ZERO] = 0.0
    return AmountBins(torch.cat([low, ends[:-1]]), torch.cat([low, ends[1:]]))


def _digest(asked: Asked) -> str:
    """Tell one set of histories from another."""
    table = asked.inputs.table
    parts = (table.offsets, table.time, table.ids, table.amount)
    text = hashlib.sha256("\x1f".join(map(str, asked.users.to_list())).encode())
    for part in parts:
        text.update(np.ascontiguousarray(part).tobytes())
    return text.hexdigest()


def _users(store: Store, users: str | Path | Sequence[Any] | None, day: int) -> np.ndarray:
    """Numbers of the users asked for, in the order of the store. Errors: `ConfigError`, `CutoffError`."""
    has_event = (store.users["first_day"].cast(pl.Int32) <= day).to_numpy()
    own = store.users["user"].cast(pl.String)
    if users is not None:
        if isinstance(users, str | Path):
            table = pl.read_csv(users) if Path(users).suffix == ".csv" else pl.read_parquet(users)
            users = table["user"].to_list()
        asked = pl.Series("user", [str(user) for user in users], dtype=pl.String)
        unknown = asked.filter(~asked.is_in(own.implode()))
        if len(unknown):
            raise ConfigError("users of the log", repr(unknown[0]), where="users", fix="leave them out")
        has_event &= own.is_in(asked.implode()).to_numpy()
    if not has_event.any():
        raise CutoffError("at least one user with an event by then", "none", where=f"cut-off {to_date(day)}")
    return np.flatnonzero(has_event)


def _constraints(
    constraints: str | Path | ConstraintConfig | None, spec: EventSpec, store: Store
) -> Constraints | None:
    if constraints is None:
        return None
    if not isinstance(constraints, ConstraintConfig):
        constraints = ConstraintConfig.parse(read_toml(constraints), where=str(constraints))
    known = {name: {text: i + FIRST for i, text in enumerate(texts)} for name, texts in spec.values.items()}
    return compile_constraints(
        constraints, known, store.users["user"].cast(pl.String).to_list(), tuple(spec.amount_edges)
    )


def _check_fields(draws: DrawConfig, model: BehaveGPT) -> None:
    for name in {**draws.temperature, **draws.top_p}:
        if name not in model.links:
            there = ", ".join(model.links)
            found = f"{name!r}, which follows from the gap" if name in CLOCK else repr(name)
            raise ConfigError(f"a drawn field out of: {there}", found, where="temperature or top_p")
