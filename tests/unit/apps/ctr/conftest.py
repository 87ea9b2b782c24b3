"""A small world of impressions, made in memory once, for the tests of models and evaluation."""

from __future__ import annotations

import numpy as np
import pytest

from habitus.apps.ctr.examples import Examples
from habitus.apps.ctr.features import make_examples
from habitus.data.history import BehaviourLog
from habitus.data.impressions import DAY, Impressions
from habitus.testing.threads import one_thread

__all__ = ["one_thread"]


def small_world(n_users: int = 300, seed: int = 0) -> Impressions:
    """Clicks follow the ad, and touches of the ad's category within six hours before."""
    rng = np.random.default_rng(seed)
    n_events, n = n_users * 40, n_users * 16
    who = rng.integers(0, n_users, n_events)
    when = rng.integers(0, 10 * DAY, n_events)
    log = BehaviourLog.build(
        who, when, rng.integers(0, 4, n_events), rng.integers(1, 9, n_events), rng.integers(1, 30, n_events),
        n_users=n_users, kinds=("pv", "cart", "fav", "buy"),
    )  # fmt: skip
    user, time = rng.integers(0, n_users, n), rng.integers(5 * DAY, 10 * DAY, n)
    order = np.lexsort((time, user))
    user, time = user[order].astype(np.int32), time[order]
    ad = rng.integers(1, 41, n)
    cate = (ad % 8 + 1).astype(np.int32)
    from habitus.data.history import History, last_runs

    first, last, is_pad = last_runs(History.before(log, user, time), 20)
    is_fresh = (log.cate[first] == cate[:, None]) & (time[:, None] - log.time[last] < DAY) & ~is_pad
    logit = -1.8 + 1.2 * (ad % 5 == 0) + 1.5 * is_fresh.any(1)
    p = 1 / (1 + np.exp(-logit))
    return Impressions(
        user=user, time=time, label=(rng.random(n) < p).astype(np.int8), source=np.arange(n),
        ids={"user": user + 1, "pid": rng.integers(1, 3, n), "adgroup": ad}, cate=cate,
        brand=rng.integers(1, 30, n).astype(np.int32), price=np.exp(rng.normal(3, 1, n)),
        has_profile=rng.random(n) < 0.9, log=log, truth=p,
    )  # fmt: skip


@pytest.fixture(scope="session")
def shown() -> Impressions:
    return small_world()


@pytest.fixture(scope="session")
def parts(shown: Impressions) -> dict[str, Examples]:
    return make_examples(shown, features="static")


@pytest.fixture(scope="session")
def matched(shown: Impressions) -> dict[str, Examples]:
    return make_examples(shown, features="+match")
