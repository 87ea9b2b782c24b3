"""Worlds of tastes as studies: counts straight from what was drawn, labels planted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks._lurm_tasks import Study
from benchmarks.record import record
from habitus.data.sources.interest_worlds import DrawnTastes, Drift, LongMemory, Twins, Wide, draw_tastes
from habitus.tasks.similar import nearest_users
from habitus.tokens.blocks import block_of
from habitus.tokens.counts import summed


class _Drawn:
    """What bags and fits need of `Interests`: V with id 0, and idf over all users."""

    def __init__(self, drawn: DrawnTastes) -> None:
        pairs = np.unique(drawn.user * (drawn.n_interests + 1) + drawn.interest + 1)
        df = np.bincount(pairs % (drawn.n_interests + 1), minlength=drawn.n_interests + 1)
        self.n, self.version = drawn.n_interests + 1, "world"
        self.idf = np.log((1 + drawn.n_users) / (1 + df)).astype(np.float32)
        self.block, self.week_starts, self.n_groups = "week", int(drawn.day.max() + 1) % 7, 1


def as_study(name: str, drawn: DrawnTastes, scales: str) -> Study:
    """Count a drawn world by weeks; everybody is probed at its last day."""
    interests: Any = _Drawn(drawn)
    block = block_of(drawn.day, "week", interests.week_starts)
    one = np.ones(len(drawn.user), np.int64)
    zero = np.zeros(len(drawn.user), np.int64)
    counts = summed("world", drawn.n_users, drawn.user, block, zero, drawn.interest + 1, one, zero)
    labels = {label: value.astype(float) for label, value in drawn.labels.items()}
    day, store = int(drawn.day.max()), None
    return Study(name, store, interests, counts, np.arange(drawn.n_users), day, 28, scales, labels)  # type: ignore[arg-type]


def last_events(drawn: DrawnTastes, n: int) -> DrawnTastes:
    """Give the world cut to the last n events of each user."""
    ends = np.cumsum(np.bincount(drawn.user, minlength=drawn.n_users))
    keep = ends[drawn.user] - np.arange(len(drawn.user)) <= n
    cut = {key: getattr(drawn, key)[keep] for key in ("user", "day", "interest")}
    return DrawnTastes(drawn.n_users, drawn.n_interests, **cut, labels=drawn.labels)


def wide(size: str, seed: int = 0) -> Study:
    """W3: 10^5 interests; the first 6 labels of 20, for time."""
    world = (
        Wide(n_labels=6, seed=seed)
        if size == "full"
        else Wide(n_users=4_000, n_interests=20_000, n_labels=6, seed=seed)
    )
    return as_study("W3 wide", draw_tastes(world), "life")


def memory(size: str, seed: int = 0) -> Study:
    """W1: a hobby of one to three years ago."""
    return as_study(
        "W1 long memory", draw_tastes(LongMemory(n_users=4_000 if size == "full" else 1_500, seed=seed)), "4x13, life"
    )


def memory_cut(size: str, seed: int = 0) -> Study:
    """W1 as an encoder of the last 200 events sees it."""
    drawn = draw_tastes(LongMemory(n_users=4_000 if size == "full" else 1_500, seed=seed))
    return as_study("W1, last 200 events", last_events(drawn, 200), "4x13, life")


def drift(size: str, seed: int = 0) -> Study:
    """W4: recent interests decide."""
    return as_study("W4 drift", draw_tastes(Drift(n_users=4_000 if size == "full" else 1_500, seed=seed)), "4x13, life")


WORLDS: dict[str, Callable[[str, int], Study]] = {
    "wide": wide, "memory": memory, "memory_cut": memory_cut, "drift": drift,
}  # fmt: skip


def twins(options: Any) -> None:
    """W2: how often the twin is among the ten most alike."""
    from benchmarks.lurm import vectors
    from habitus.tasks.probe.comparators import tfidf_svd
    from habitus.tokens.bags import raw_bag

    drawn = draw_tastes(Twins(n_users=4_000 if options.size == "full" else 1_500, seed=options.world_seed))
    made = as_study("W2 twins", drawn, "life")
    assert drawn.twin is not None
    bag = raw_bag(made.counts, made.interests, made.users, made.block)
    ways = {how: vectors(made, options, how) for how in ("trained", "start", "random")}
    ways["TF-IDF + SVD"] = tfidf_svd(bag, options.width).value.astype(np.float32)
    ways["raw bag"] = np.asarray(bag.todense(), np.float32)
    for name, value in ways.items():
        value = value - value.mean(axis=0) if name == "random" else value
        found = nearest_users(value, value, 10, without=made.users).place
        hit = float((found == drawn.twin[:, None]).any(axis=1).mean())
        record("lurm", f"W2 twins: twin in the top 10, {name}", hit, "share", f"{len(value):,} users, {options.width}")
