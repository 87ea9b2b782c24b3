"""What each coming event adds: one decode without it, one with it alone, and the same for a placebo.

Dropping one event says what it adds to all others; leaving it alone says what it adds to none. The two differ where
events overlap. Intervals are percentiles over users drawn again: how sure the mean over such users is, for this model.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from habitus.core.seeds import generator
from habitus.data.calendar import Calendar, to_date
from habitus.metrics.bootstrap import resamples
from habitus.tasks.whatif.futures import Answer
from habitus.tasks.whatif.placebo import AFTER
from habitus.tokens.known_events import KnownEvents
from habitus.tokens.loader import Inputs

MOST = 40  # events asked one by one
N_RESAMPLES = 500
PLACEBO = "placebo: an event just after the window"


@dataclass(frozen=True)
class Coming:
    """The coming events of a calendar, and the futures that say what each adds.

    `rows` describes them, the placebo last; `inputs` holds, for each, the calendar without it and with it alone, after
    the calendar without any and the one with the placebo: [none, placebo, drop 0, alone 0, drop 1, ...].
    """

    rows: list[dict[str, Any]]
    inputs: list[Inputs]
    n_left_out: int


def coming_events(base: Inputs, calendar: Calendar, cutoff: int, *, seed: int = 0) -> Coming | None:
    """List the events announced by the cut-off that begin within the horizon; None without any. At most `MOST`, the
    first to come."""
    events = calendar.events.sort("start", "event", "type", maintain_order=True)
    known, horizon = base.known, base.spec.horizon
    is_coming = (known.start > cutoff) & (known.start <= cutoff + horizon) & (known.announced_at <= cutoff)
    found = np.flatnonzero(is_coming & (known.type >= 0))
    if not len(found):
        return None
    shown = found[:MOST]
    n_reached = _reached(base, known, shown)
    described = events[shown.tolist()].select("event", "type", "start", "end").to_dicts()
    rows = [{name: str(value) for name, value in row.items()} for row in described]
    n_past = _seen(base, known, shown, cutoff)
    rows = [
        row | {"n_reached": int(n), "n_past": int(seen), "is_placebo": False}
        for row, n, seen in zip(rows, n_reached, n_past)
    ]
    after = to_date(cutoff + horizon + int(generator(seed, "importance").integers(AFTER[0], AFTER[1] + 1)))
    pattern = events.row(int(shown[0]), named=True)
    late = Calendar.build([pattern | {"event": PLACEBO, "start": after, "end": after}], calendar.audiences)
    users = base.store.users["user"].to_numpy()
    inputs = [base.with_known(_only(known, found, [])), base.with_calendar(calendar.joined(late), users)]
    for row in shown:
        kept = found[found != row]
        inputs += [base.with_known(_only(known, found, kept)), base.with_known(_only(known, found, [row]))]
    placebo = {"event": PLACEBO, "type": pattern["type"], "start": str(after), "end": str(after)}
    rows.append(placebo | {"n_reached": int(n_reached[0]), "n_past": int(n_past[0]), "is_placebo": True})
    return Coming(rows, inputs, len(found) - len(shown))


def importance(
    coming: Coming, base: Answer, found: list[Answer], user: np.ndarray, targets: list[str], units: list[str]
) -> list[dict[str, Any]]:
    """Give, per event and target, what it adds to the total beside all others (`value`) and alone, with intervals.

    Read from the days where the target has a day head, else by the window head.

    `found` are the answers to `coming.inputs`. Sorted by the size of `value` within each target, the placebo last.
    """
    none, placebo, *rest = found
    effects = [base.lead - drop.lead for drop in rest[::2]] + [placebo.lead - base.lead]
    alone = [one.lead - none.lead for one in rest[1::2]] + [placebo.lead - base.lead]
    of_all = _estimates(np.stack([*effects, *alone]), user)
    n, rows = len(coming.rows), []
    for k, target in enumerate(targets):
        order = sorted(range(n), key=lambda e: (coming.rows[e]["is_placebo"], -abs(of_all[0, e, k])))
        for e in order:
            drop, left = ({part: float(of_all[i, at, k]) for i, part in enumerate(("value", "low", "high"))}
                          for at in (e, n + e))  # fmt: skip
            facts = coming.rows[e] | {"target": target, "unit": units[k], "mean": drop["value"] / max(len(user), 1)}
            rows.append(facts | drop | {f"alone_{part}": value for part, value in left.items()})
    return rows


def _estimates(effect: np.ndarray, user: np.ndarray) -> np.ndarray:
    """Give total, low and high (95 %) of effects [E, n, K]: float64 [3, E, K]; users are drawn again, all at once."""
    n_events, n, n_targets = effect.shape
    flat = effect.transpose(1, 0, 2).reshape(n, -1).astype(np.float32)
    drawn = resamples(user, N_RESAMPLES)
    step = max(1, 2_000_000 // max(n, 1))
    sums = [drawn.weights(slice(i, i + step)) @ flat for i in range(0, len(drawn), step)]
    low, high = np.quantile(np.concatenate(sums).astype(np.float64), [0.025, 0.975], axis=0)
    total = effect.sum(axis=1)
    return np.stack([total, low.reshape(n_events, n_targets), high.reshape(n_events, n_targets)])


def _only(known: KnownEvents, coming: np.ndarray, kept: Any) -> KnownEvents:
    """Make the coming events unseen but for the kept ones: a type of -1 is one that the model does not read."""
    gone = np.setdiff1d(coming, np.asarray(kept, np.int64))
    kind, item_kind = known.type.copy(), known.item_type.copy()
    kind[gone] = item_kind[gone] = -1
    return replace(known, type=kind, item_type=item_kind)


def _reached(base: Inputs, known: KnownEvents, rows: np.ndarray) -> np.ndarray:
    """Count the users asked whom each event addresses."""
    n_rows = np.diff(known.offsets)
    owner = np.repeat(np.arange(len(n_rows)), n_rows)
    is_asked = np.zeros(len(n_rows), bool)
    is_asked[base.samples.user] = True
    count = np.bincount(known.rows[is_asked[owner]], minlength=len(known.start))
    return np.where(known.is_shared, len(base), count)[rows]


def _seen(base: Inputs, known: KnownEvents, rows: np.ndarray, cutoff: int) -> np.ndarray:
    """Count the events of the same type that the log saw begin by the cut-off."""
    past = (known.start <= cutoff) & (known.start >= base.store.first_day) & (known.announced_at <= cutoff)
    return np.array([(known.type[past] == known.type[row]).sum() for row in rows])
