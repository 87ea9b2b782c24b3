"""A small experiment in memory: assignment, events, the time before, and its declaration."""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import polars as pl

from habitus.apps.abtest.assign import arms, buckets
from habitus.apps.abtest.declare import Experiment
from habitus.apps.abtest.plan import Plan, make_plan

START = dt.datetime(2024, 3, 4)
BUYERS = {"name": "buyers", "role": "primary", "kind": "binary", "value": "bought", "window_days": 7, "lift": 0.3,
          "baseline": 0.3, "before": "before"}  # fmt: skip
SPEND = {"name": "spend", "kind": "mean", "value": "spend", "window_days": 7, "baseline": 10.0, "variance": 300.0}
RATE = {"name": "conversion", "kind": "ratio", "value": "bought", "per": "*", "window_days": 7, "baseline": 0.15,
        "variance": 0.06}  # fmt: skip
SLOW = {"name": "slow", "role": "guardrail", "kind": "ratio", "value": "slow", "per": "*", "window_days": 7,
        "better": "down",
        "margin": 0.5, "baseline": 0.05, "variance": 0.03}  # fmt: skip


def tables(n: int = 6000, lift: float = 0.4, harm: float = 0.0, seed: int = 0) -> dict[str, pl.DataFrame]:
    rng = np.random.default_rng(seed)
    users = [f"u{i}" for i in range(n)]
    arm = arms(buckets(users, "salt"), 0.5)
    exposed = [START + dt.timedelta(seconds=int(s)) for s in rng.uniform(0, 14 * 86400 - 1, n)]
    taste = rng.gamma(2.0, 0.5, n)
    row = np.repeat(np.arange(n), 1 + rng.poisson(1.0, n))
    time = [exposed[u] + dt.timedelta(seconds=int(s)) for u, s in zip(row, rng.uniform(0, 6 * 86400, len(row)))]
    is_treated = arm[row] == 1
    bought = (rng.random(len(row)) < 0.15 * taste[row] * (1 + lift * is_treated)).astype(int)
    slow = (rng.random(len(row)) < 0.05 * (1 + harm * is_treated)).astype(int)
    events = pl.DataFrame({"user": [users[u] for u in row], "time": time, "bought": bought, "slow": slow,
                           "spend": bought * rng.gamma(2.0, 20.0, len(row))})  # fmt: skip
    assignment = pl.DataFrame({
        "user": users, "arm": np.where(arm == 1, "treatment", "control"), "time": exposed,
        "country": rng.choice(["DE", "FR"], n),
    })  # fmt: skip
    before = pl.DataFrame({"user": users[: n * 3 // 4], "before": rng.poisson(taste)[: n * 3 // 4].astype(float)})
    return {"assignment": assignment, "metrics": events, "before": before}


def plan(metrics: tuple[dict[str, Any], ...] = (BUYERS, SPEND, RATE, SLOW), **changes: Any) -> Plan:
    values = {"name": "trial", "salt": "salt", "start": START.date(), "days": 14, "users_per_day": 430, "ramp": (0.5,),
              "segments": ("country",), "first_look": 500, "metrics": list(metrics)}  # fmt: skip
    return make_plan(Experiment.parse(values | changes))
