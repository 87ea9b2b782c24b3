"""Roll-out: from the state after a user's last event to a drawn future, one event at a time, many rows at once.

Letters: n rows (a row is one sample of one user), F fields, V values of a field.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import polars as pl
import torch
from pydantic import Field
from torch import Tensor

from habitus.core.config import Config
from habitus.core.seeds import mix, uniforms
from habitus.models.behavegpt import CLOCK, FIRST, BehaveGPT
from habitus.tasks.constraints import Constraints
from habitus.tokens.amounts import AmountBins
from habitus.tokens.gaps import GapBins

N_TRIES = 24  # draws of a gap before the row waits until it may act again


class DrawConfig(Config):
    """How values are drawn. `temperature` and `top_p` per field (default 1: as learnt); `max_events` per row.

    >>> DrawConfig(temperature={"type": 0.8}).temperature
    {'type': 0.8}
    """

    seed: int = 0
    temperature: dict[str, float] = Field(default={})
    top_p: dict[str, float] = Field(default={})
    max_events: int = Field(default=1000, ge=1)


@dataclass(frozen=True)
class Zone:
    """The clock of a store: local weekday, half hour and day of an instant."""

    name: str

    def local(self, time: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Give days since 1970-01-01 and seconds of the day, local, of instants (seconds UTC)."""
        at = pl.Series(np.asarray(time, np.int64) * 1000).cast(pl.Datetime("ms", "UTC"))
        clock = at.dt.convert_time_zone(self.name).dt.replace_time_zone(None).dt.epoch("s").to_numpy()
        return np.floor_divide(clock, 86_400), np.mod(clock, 86_400)

    def ids(self, name: str, time: np.ndarray) -> np.ndarray:
        """Give ids of `weekday` (Monday first) or `slot` (half hours)."""
        day, second = self.local(time)
        return FIRST + ((day + 3) % 7 if name == "weekday" else second // 1800)


@dataclass(frozen=True)
class Start:
    """Where roll-outs begin: one entry per user, repeated for every sample."""

    ids: Tensor  # B T F, the last events up to the cut-off
    length: Tensor  # B
    last_time: Tensor  # B i64, seconds, of the last event
    key: np.ndarray  # B uint64, of the user, for the draws
    user: np.ndarray  # B, what the caller calls the user
    begin: int  # seconds, the first instant after the cut-off
    end: int  # seconds, the first instant after the horizon


@dataclass
class Rolled:
    """Drawn events, by row and time. m events."""

    row: np.ndarray  # m, b * n_samples + sample
    event: np.ndarray  # m, 0.. within the row
    time: np.ndarray  # m, seconds
    ids: np.ndarray  # m F
    amount: np.ndarray  # m n_amounts, in the amount's unit; nan where there is none
    is_cut: np.ndarray  # n, true where max_events ended the row before the horizon
    masked: dict[str, tuple[float, int]] = field(default_factory=dict)  # mass that constraints took, draws


def roll_out(
    model: BehaveGPT,
    start: Start,
    gaps: GapBins,
    amounts: Mapping[str, AmountBins],
    zone: Zone,
    draws: DrawConfig,
    constraints: Constraints | None = None,
    *,
    n_samples: int = 1,
    is_cached: bool = True,
) -> Rolled:
    """Draw `n_samples` futures per user, from `start.begin` until `start.end`.

    The first gap is drawn given that nothing happened until `begin`; the event that crosses `end` is thrown away. Draws
    depend on (seed, user key, sample, event, field) alone. `is_cached=False` reads the whole past again for every
    event: the plain twin, for tests and for measuring.

    Errors: `ConstraintError` when constraints allow nothing.
    """
    with torch.inference_mode():
        return _Rollout(model, start, gaps, amounts, zone, draws, constraints, n_samples, is_cached).run()


class _Rollout:
    """The state of roll-outs on their way."""

    def __init__(
        self,
        model: BehaveGPT,
        start: Start,
        gaps: GapBins,
        amounts: Mapping[str, AmountBins],
        zone: Zone,
        draws: DrawConfig,
        constraints: Constraints | None,
        n_samples: int,
        is_cached: bool,
    ) -> None:
        self.model, self.start, self.gaps, self.amounts, self.zone = model, start, gaps, amounts, zone
        self.draws, self.rules = draws, constraints
        n = len(start.user) * n_samples
        owner = torch.arange(len(start.user)).repeat_interleave(n_samples)
        self.row = np.arange(n)
        self.time = start.last_time[owner].numpy()
        sample = np.tile(np.arange(n_samples, dtype=np.uint64), len(start.user))
        self.key = mix(start.key[owner.numpy()] ^ mix(sample))
        self.state: Past = (Cached if is_cached else Uncached)(model, start, owner)
        self.user = start.user[owner.numpy()]
        self.tally = constraints.tally(self.user, start.begin) if constraints else None
        self.masked: dict[str, tuple[float, int]] = {}
        self.n_rows = n

    def run(self) -> Rolled:
        """Draw until every row has crossed the horizon."""
        found: list[tuple[np.ndarray, ...]] = []
        is_cut = np.zeros(self.n_rows, bool)
        is_alive = np.ones(self.n_rows, bool)
        for event in range(self.draws.max_events + 1):
            time = np.minimum(self._next_time(event, is_alive), self.start.end)
            is_alive &= time < self.start.end
            if not is_alive.any():
                break
            if event == self.draws.max_events:
                is_cut[self.row[is_alive]] = True
                break
            if is_alive.mean() < 0.75:
                time, is_alive = self._compact(is_alive, time)
            ids, amount = self._next_fields(event, time, is_alive)
            found.append((self.row[is_alive], time[is_alive], ids.numpy()[is_alive], amount[is_alive]))
            if self.tally is not None:
                self.tally.add(time, self.zone, amount, is_alive)
            self.time = time
            self.state.read(ids)
        return self._gathered(found, is_cut)

    def _compact(self, is_alive: np.ndarray, time: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        kept = np.flatnonzero(is_alive)
        self.row, self.time, self.key, self.user = (v[kept] for v in (self.row, self.time, self.key, self.user))
        self.state.take(torch.from_numpy(kept))
        if self.tally is not None:
            self.tally = self.tally.take(kept)
        return time[kept], np.ones(len(kept), bool)

    def _next_time(self, event: int, is_alive: np.ndarray) -> np.ndarray:
        """Draw when the next event is; rows that constraints refuse draw again, then wait until they may act."""
        elapsed = np.maximum(self.start.begin - self.time, 0) if event == 0 else None
        p = self._shares(self.model.chain_logits(self.state.hidden, "gap"), "gap")
        silence = None if elapsed is None else torch.from_numpy(elapsed)
        p = p if silence is None else self.gaps.after(p, silence)
        time = self._gap_draw(p, silence, event, 0)
        if self.rules is None or self.tally is None:
            return time
        is_refused = self.rules.refuses(time, self.zone, self.tally) & is_alive & (time < self.start.end)
        n_first = int(is_refused.sum())
        for attempt in range(1, N_TRIES):
            if not is_refused.any():
                break
            time = np.where(is_refused, self._gap_draw(p, silence, event, attempt), time)
            is_refused &= self.rules.refuses(time, self.zone, self.tally) & (time < self.start.end)
        if is_refused.any():
            time = np.where(is_refused, self.rules.next_opening(time, self.zone, self.tally), time)
        if self.rules.limits_time:
            self._count("gap", float(n_first), int(is_alive.sum()))
        forced = self.tally.next_forced()
        return np.minimum(time, np.maximum(forced, self.time))

    def _gap_draw(self, p: Tensor, silence: Tensor | None, event: int, attempt: int) -> np.ndarray:
        suffix = f" {attempt}" if attempt else ""
        ids = pick(p, self._uniform("gap" + suffix, event))
        seconds = self.gaps.draw(ids, self._uniform("within gap" + suffix, event), silence).numpy()
        time = np.minimum(self.time + seconds.astype(np.int64), self.start.end)
        return time if silence is None else np.maximum(time, self.start.begin)

    def _next_fields(self, event: int, time: np.ndarray, is_alive: np.ndarray) -> tuple[Tensor, np.ndarray]:
        """Draw every field of the next event: ids n F, and amounts n n_amounts."""
        model, shape = self.model, self.model.shape
        ids = torch.ones(len(time), len(shape.fields), dtype=torch.int64)
        ids[:, shape.column("gap")] = self.gaps.encode(torch.from_numpy(time - self.time))
        for name in CLOCK:
            if name in shape.names:
                ids[:, shape.column(name)] = torch.from_numpy(self.zone.ids(name, time))
        forced = self.tally.take_forced(time) if self.tally is not None else {}
        value = {name: np.full(len(time), np.nan) for name in self.amounts}
        u, told = self.state.hidden, "gap"
        for name in model.links[1:]:
            u = model.chain_tell(u, told, ids)
            drawn = self._field(name, u, event, time, is_alive)
            if name in forced:
                drawn = torch.where(forced[name] > 0, forced[name], drawn)
            if name in self.amounts:
                value[name] = self.amounts[name].draw(drawn, self._uniform(f"within {name}", event)).numpy()
                if self.rules is not None and self.tally is not None:
                    value[name] = self.rules.cap(name, value[name], time, self.zone, self.tally)
            ids[:, shape.column(name)], told = drawn, name
        return ids, np.stack(list(value.values()), axis=1) if value else np.zeros((len(time), 0))

    def _field(self, name: str, u: Tensor, event: int, time: np.ndarray, is_alive: np.ndarray) -> Tensor:
        logits = self.model.chain_logits(u, name)
        if self.rules is not None and self.tally is not None:
            allowed = self.rules.allowed(name, logits.shape[1], time, self.zone, self.tally, self.amounts.get(name))
            if allowed is not None:
                allowed[~torch.from_numpy(is_alive)] = True
                self.rules.check(name, allowed[:, FIRST:], self.user, time)
                lost = logits.double().softmax(dim=1).masked_fill(allowed, 0.0).sum(dim=1)[torch.from_numpy(is_alive)]
                self._count(name, float(lost.sum()), int(is_alive.sum()))
                logits = logits.masked_fill(~allowed, -torch.inf)
        return pick(self._shares(logits, name), self._uniform(name, event))

    def _shares(self, logits: Tensor, name: str) -> Tensor:
        """Probabilities, sharpened and cut as asked."""
        p = (logits.double() / self.draws.temperature.get(name, 1.0)).softmax(dim=1)
        top = self.draws.top_p.get(name, 1.0)
        if top >= 1:
            return p
        order = p.sort(dim=1, descending=True, stable=True)
        is_kept = order.values.cumsum(dim=1) - order.values < top
        return torch.where(torch.zeros_like(is_kept).scatter(1, order.indices, is_kept), p, 0.0)

    def _uniform(self, stream: str, event: int) -> Tensor:
        keys = mix(self.key ^ np.uint64(event))
        return torch.from_numpy(uniforms(self.draws.seed, keys, stream=stream))

    def _count(self, name: str, mass: float, n: int) -> None:
        before = self.masked.get(name, (0.0, 0))
        self.masked[name] = (before[0] + mass, before[1] + n)

    def _gathered(self, found: list[tuple[np.ndarray, ...]], is_cut: np.ndarray) -> Rolled:
        n_fields, n_amounts = len(self.model.shape.fields), len(self.amounts)
        empty = (np.zeros(0, np.int64),) * 2 + (np.zeros((0, n_fields), np.int64), np.zeros((0, n_amounts)))
        row, time, ids, amount = (np.concatenate(column) for column in zip(empty, *found))
        event = np.repeat(np.arange(len(found)), [len(part[0]) for part in found])
        order = np.lexsort((event, row))
        return Rolled(row[order], event[order], time[order], ids[order], amount[order], is_cut, self.masked)


class Past:
    """What the model knows of every row: `hidden`, n D, and a way to read one more event."""

    hidden: Tensor

    def __init__(self, model: BehaveGPT, start: Start, owner: Tensor) -> None:
        raise NotImplementedError

    def read(self, ids: Tensor) -> None:
        """Read the next event of every row, n F."""
        raise NotImplementedError

    def take(self, rows: Tensor) -> None:
        """Keep only these rows."""
        raise NotImplementedError


class Cached(Past):
    """Keys and values kept: one position per event."""

    def __init__(self, model: BehaveGPT, start: Start, owner: Tensor) -> None:
        self.model = model
        hidden, cache = model.prefill(start.ids, start.length)
        self.hidden, self.cache = hidden[owner], cache.take(owner)

    def read(self, ids: Tensor) -> None:
        self.hidden = self.model.step(ids, self.cache)

    def take(self, rows: Tensor) -> None:
        self.hidden, self.cache = self.hidden[rows], self.cache.take(rows)


class Uncached(Past):
    """Everything read again for every event."""

    def __init__(self, model: BehaveGPT, start: Start, owner: Tensor) -> None:
        self.model, self.ids, self.length = model, start.ids[owner], start.length[owner]
        self._look()

    def read(self, ids: Tensor) -> None:
        if int(self.length.max()) == self.ids.shape[1]:
            self.ids = torch.cat([self.ids, torch.zeros_like(self.ids[:, :1])], dim=1)
        self.ids[torch.arange(len(ids)), self.length] = ids
        self.length = self.length + 1
        self._look()

    def take(self, rows: Tensor) -> None:
        self.ids, self.length, self.hidden = self.ids[rows], self.length[rows], self.hidden[rows]

    def _look(self) -> None:
        self.hidden = self.model.encode(self.ids)[torch.arange(len(self.ids)), self.length - 1]


def pick(p: Tensor, uniform: Tensor) -> Tensor:
    """Draw a class per row by inverse CDF on the fixed order of classes; never one of probability 0. p: n V, f64.

    >>> pick(torch.tensor([[0.0, 0.5, 0.5]]).double().expand(3, -1), torch.tensor([0.0, 0.4, 0.9]).double())
    tensor([1, 1, 2])
    """
    total = p.cumsum(dim=1)
    found = (total <= (uniform[:, None] * total[:, -1:])).sum(dim=1)
    last = p.shape[1] - 1 - (p > 0).flip(1).to(torch.uint8).argmax(dim=1)
    return torch.minimum(found, last)


def chunks(n_users: int, n_samples: int, model: BehaveGPT, n_bytes: int = 512 << 20) -> Iterator[tuple[int, int]]:
    """Give ranges of users whose caches and probabilities fit in about `n_bytes`."""
    config = model.config
    per_row = 8 * config.n_blocks * config.d_model * model.window
    per_row += 32 * max(n for _, n in model.shape.fields)
    step = max(1, min(1000, n_bytes // max(per_row * n_samples, 1)))
    return ((begin, min(begin + step, n_users)) for begin in range(0, n_users, step))
