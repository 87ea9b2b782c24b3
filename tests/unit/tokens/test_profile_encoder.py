"""The profile as numbers: fitted on training samples, and silent on what they never showed."""

from __future__ import annotations

import datetime as dt

import numpy as np
import polars as pl

from habitus.data.calendar import to_day
from habitus.data.cutoffs import Samples
from habitus.data.ingest import ingest
from habitus.data.log import EventLog
from habitus.data.schema import Schema
from habitus.tokens.spec import ProfileEncoder

SCHEMA = {
    "events": {"user": "u", "time": "t", "type": "k"},
    "profile": {"from": "table", "key": "u", "columns": {"course": {"column": "course"}}},
}


def test_a_category_that_training_never_saw_is_silent(tmp_path):
    events = pl.DataFrame({"u": list("abcd"), "t": [dt.datetime(2020, 1, 1)] * 4, "k": ["join"] * 4})
    profiles = pl.DataFrame({"u": list("abcd"), "course": ["art", "law", "new", None]})
    store = ingest(EventLog(Schema.parse(SCHEMA), events, profiles), tmp_path / "s")
    where = {name: i for i, name in enumerate(store.users["user"])}
    everyone = Samples(np.array([where[u] for u in "abcd"]), np.full(4, to_day("2020-01-05"), np.int32))
    known = everyone.take(np.array([0, 1]))
    encoder = ProfileEncoder.fit(store, known, "profile", horizon=7)
    n = encoder.widths["profile.course"]
    one_hot = encoder.encode(store, everyone, horizon=7)[:, -n:]
    assert n == 4  # unknown, art, law, new: the width does not depend on who was trained on
    assert one_hot[:2].sum(axis=1).tolist() == [1, 1]
    assert not np.array_equal(one_hot[0], one_hot[1])
    assert not one_hot[2:].any()
    again = ProfileEncoder.from_json(encoder.to_json())
    assert np.array_equal(again.encode(store, everyone, horizon=7)[:, -n:], one_hot)
    whole = ProfileEncoder.fit(store, everyone, "profile", horizon=7).encode(store, everyone, horizon=7)[:, -n:]
    assert np.array_equal(whole, np.eye(4)[[1, 2, 3, 0]])
