"""Cut-offs: parts cannot leak into each other, samples are who was there, the guard finds the right rows."""

import numpy as np
import pytest

from habitus.core.errors import ConfigError, CutoffError
from habitus.data.calendar import to_day
from habitus.data.cutoffs import Cutoffs, bisect, ranges, rows_after, rows_until, samples_at, samples_of, user_keys

PLAN = {
    "horizon": 7,
    "train": {"first": "2020-01-20", "last": "2020-02-10", "every": 7},
    "valid": {"days": ["2020-02-20"]},
    "test": {"days": ["2020-03-10"]},
}


def test_label_windows_of_one_part_end_before_the_next_begins():
    with pytest.raises(CutoffError, match="end train at 2020-02-08"):
        Cutoffs.parse(PLAN | {"valid": {"days": ["2020-02-15"]}})
    with pytest.raises(CutoffError, match=r"cutoffs\.gap"):
        Cutoffs.parse(PLAN | {"gap": {"days": ["2020-03-05"]}})


def test_a_misspelt_key_gets_the_nearest_name():
    with pytest.raises(ConfigError, match="did you mean 'eligible'"):
        Cutoffs.parse(PLAN | {"eligable": []})


def test_samples_are_users_already_seen(make_store, shop):
    store = make_store(shop)
    day = to_day("2020-01-02")
    samples = samples_at(store, np.array([day], np.int32))
    seen = {u for u, t in zip(shop["user"], shop["time"]) if to_day(t.date()) <= day}
    assert {store.users["user"][int(u)] for u in samples.user} == seen
    assert len(seen) < store.n_users


def test_cutoffs_outside_the_log_are_refused(make_store, shop):
    store = make_store(shop)
    with pytest.raises(CutoffError, match="between"):
        samples_at(store, np.array([to_day("2019-01-01")], np.int32))
    late = Cutoffs.parse(PLAN | {"test": {"days": ["2020-04-28"]}})
    with pytest.raises(CutoffError, match="use cut-offs up to"):
        samples_of(store, late, "test")


def test_nobody_eligible_is_an_error(make_store, shop):
    store = make_store(shop.filter(shop["kind"] != "refund").vstack(shop.filter(shop["kind"] == "refund").tail(1)))
    plan = Cutoffs.parse(PLAN | {"eligible": ["none(visit)", "none(purchase)"]})
    with pytest.raises(CutoffError, match="at least one eligible user"):
        samples_of(store, plan, "test")


def test_unseen_users_are_the_same_in_every_part(make_store, shop):
    store = make_store(shop)
    plan = Cutoffs.parse(PLAN | {"unseen_users": 0.3})
    held = {int(u) for part in ("train", "valid", "test") for u in samples_of(store, plan, part, unseen=True).user}
    kept = {int(u) for part in ("train", "valid", "test") for u in samples_of(store, plan, part).user}
    assert held
    assert kept
    assert not held & kept


def test_user_keys_do_not_depend_on_the_store(make_store, shop):
    one, other = make_store(shop), make_store(shop.filter(shop["user"] != "u003"), n_shards=5, name="other")
    keys = dict(zip(one.users["user"], user_keys(one)))
    assert all(keys[user] == key for user, key in zip(other.users["user"], user_keys(other)))
    assert len(set(keys.values())) == one.n_users


def test_bisect_equals_searchsorted_in_each_slice():
    draw = np.random.default_rng(0)
    offsets = np.r_[0, np.cumsum(draw.integers(0, 9, 40))]
    values = np.concatenate([np.sort(draw.integers(0, 12, n)) for n in np.diff(offsets)])
    users, wanted = draw.integers(0, 40, 300), draw.integers(-1, 14, 300)
    found = bisect(values, offsets[users], offsets[users + 1], wanted)
    expected = [o + np.searchsorted(values[o:e], w) for o, e, w in zip(offsets[users], offsets[users + 1], wanted)]
    assert found.tolist() == expected


def test_history_and_label_window_split_the_rows_at_the_cutoff():
    offsets, day = np.array([0, 4, 6]), np.array([1, 5, 5, 9, 5, 6])
    users, cutoffs = np.array([0, 1]), np.array([5, 5])
    assert [a.tolist() for a in rows_until(offsets, day, users, cutoffs)] == [[0, 4], [3, 5]]
    assert [a.tolist() for a in rows_until(offsets, day, users, cutoffs, 2)] == [[1, 4], [3, 5]]
    assert [a.tolist() for a in rows_after(offsets, day, users, cutoffs, 4)] == [[3, 5], [4, 6]]


def test_ranges_of_empty_and_long_slices():
    which, rows = ranges(np.array([3, 5, 5]), np.array([3, 8, 6]))
    assert which.tolist() == [1, 1, 1, 2]
    assert rows.tolist() == [5, 6, 7, 5]
