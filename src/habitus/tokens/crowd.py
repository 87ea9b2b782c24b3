"""The crowd: how busy the whole log was in the days up to a cut-off, beside what is usual for it.

A wave that moves everybody (a season, a slump, growth) shows in no user's own history as clearly as in the sum of all.
Without it a model takes whatever known event lies on the crest for the cause of the crest.
"""

from __future__ import annotations

from typing import Any

import numpy as np

WINDOWS = (7, 14, 28, 56)  # days
USUAL = 112  # days that say what is usual


def crowd(store: Any, cutoff: np.ndarray, types: tuple[str, ...], windows: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Give float32 columns [n], `crowd.TYPE.Wd`: log of events a day in the last W days over those in the last 112.

    Rows after a cut-off never reach its columns. Where the log is younger than a window, the days there are count; a
    window without any event of the type gives 0, as does a log without it.

    What it does not do: tell growth of the user base from activity of each user.
    """
    first, last = int(store.first_day), int(cutoff.max()) if len(cutoff) else int(store.first_day)
    per_day = _per_day(store, types, first, max(last, first))
    total = np.concatenate([np.zeros((1, len(types))), np.cumsum(per_day, axis=0)])
    end = np.clip(np.asarray(cutoff, np.int64) - first + 1, 0, len(per_day))  # days up to the cut-off

    def rate(window: int) -> np.ndarray:
        start = np.maximum(end - window, 0)
        return (total[end] - total[start]) / np.maximum(end - start, 1)[:, None]

    usual = rate(USUAL)
    columns: dict[str, np.ndarray] = {}
    for window in windows:
        now = rate(window)
        is_known = (now > 0) & (usual > 0)
        level = np.where(is_known, np.log(np.where(is_known, now, 1.0) / np.where(is_known, usual, 1.0)), 0.0)
        columns |= {f"crowd.{name}.{window}d": level[:, j].astype(np.float32) for j, name in enumerate(types)}
    return columns


def _per_day(store: Any, types: tuple[str, ...], first: int, last: int) -> np.ndarray:
    """Count events of each type on each day first..last, float64 [days, types]."""
    n_days, n_types = last - first + 1, len(store.types)
    counts = np.zeros(n_days * n_types)
    for i in range(store.n_shards):
        shard = store.shard(i)
        day = np.asarray(shard.day, np.int64) - first
        keep = (day >= 0) & (day < n_days)
        counts += np.bincount(day[keep] * n_types + np.asarray(shard.type)[keep], minlength=n_days * n_types)
    counts = counts.reshape(n_days, n_types)
    place = [store.types.index(name) if name in store.types else -1 for name in types]
    return np.stack([counts[:, j] if j >= 0 else np.zeros(n_days) for j in place], axis=1) if place else counts[:, :0]
