"""Targets of the house as metrics: measured from exposure on, and the same before it as the covariate."""

from __future__ import annotations

import datetime as dt

import numpy as np
import polars as pl
import pytest

from habitus.apps.abtest.analyse import analyse
from habitus.apps.abtest.declare import Experiment
from habitus.apps.abtest.plan import make_plan
from habitus.apps.abtest.tables import read_units
from habitus.core.errors import SourceError
from tests.conftest import shop_table

METRIC = {"name": "buyers", "role": "primary", "kind": "binary", "target": "any(purchase) in 14d", "lift": 0.2}
START = dt.date(2011, 10, 3)


def experiment(store, **changes) -> Experiment:
    values = {"name": "retail", "salt": "a/a", "start": START, "segments": ("country",), "metrics": [METRIC]}
    return Experiment.parse(values | {"tables": {"store": str(store.path)}} | changes)


def test_nobody_is_treated_in_a_store_and_nothing_is_found(retail_store):
    plan = make_plan(experiment(retail_store))
    found = analyse(plan)
    assert found.outcome in ("no difference", "not yet")
    assert found.primary.adjusted is not None
    assert found.primary.adjusted.se <= found.primary.plain.se
    n = found.primary.plain.n_control + found.primary.plain.n_treatment
    assert n == retail_store.n_users
    assert abs(found.primary.plain.diff) < 4 * found.primary.plain.se


def test_the_window_begins_on_the_day_of_exposure_and_the_past_ends_before(make_store):
    table = shop_table(n_users=4, n_days=100)
    store = make_store(table)
    first = dt.date(1970, 1, 1) + dt.timedelta(days=store.first_day)
    metric = {**METRIC, "kind": "mean", "target": "count(purchase) in 10d"}
    own = experiment(store, start=first + dt.timedelta(days=50), metrics=[metric], segments=())
    users = store.users["user"].cast(pl.String)
    arms = pl.DataFrame({"user": users, "arm": ["control", "treatment"] * 2})
    columns = read_units(own, tables={"assignment": arms}).metrics["buyers"]
    shard_days = {"after": range(50, 60), "before": range(40, 50)}
    for place, days in enumerate(shard_days.values()):
        wanted = np.zeros(4)
        for i in range(store.n_shards):
            shard = store.shard(i)
            code = store.types.index("purchase")
            for user in range(shard.n_users):
                part = slice(shard.offsets[user], shard.offsets[user + 1])
                inside = np.isin(shard.day[part] - store.first_day, list(days)) & (shard.type[part] == code)
                wanted[shard.first_user + user] = inside.sum()
        np.testing.assert_array_equal(columns.values[:, place], wanted)


def test_users_that_the_log_does_not_know_did_nothing(retail_store):
    arms = pl.DataFrame({"user": ["nobody", "none", "12583", "17850"], "arm": ["control", "treatment"] * 2})
    columns = read_units(experiment(retail_store, segments=()), tables={"assignment": arms}).metrics["buyers"]
    assert columns.values[:2, 0].tolist() == [0, 0]
    assert columns.values[:2, -1].tolist() == [1, 1]
    assert columns.is_known.all()


def test_a_window_after_the_log_is_still_open(retail_store):
    late = experiment(retail_store, start=dt.date(2011, 12, 1), segments=())
    with pytest.raises(SourceError, match="at least 2 users per arm"):
        analyse(make_plan(late))
