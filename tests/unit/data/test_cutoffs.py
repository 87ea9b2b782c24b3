"""Cut-offs: parts cannot leak into each other, samples are who was there, the guard finds the right rows."""

import numpy as np
import polars as pl
import pytest

from habitus.core.errors import ConfigError, CutoffError
from habitus.data.calendar import to_date, to_day
from habitus.data.cutoffs import (
    Cutoffs,
    bisect,
    days_of,
    groups_of,
    ranges,
    rows_after,
    rows_until,
    samples_at,
    samples_of,
    samples_on,
    user_keys,
)
from habitus.data.ingest import ingest
from habitus.data.log import EventLog
from habitus.data.schema import Schema
from habitus.data.targets import Target, measure
from habitus.tokens.aggregates import aggregates
from habitus.tokens.days import day_table

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


COURSE = {
    "name": "course",
    "events": {
        "user": "u", "time": "t", "type": "k",
        "amounts": {"weight": {"value": "w"}, "mark": {"value": "m", "is_outcome": True}},
    },
    "profile": {
        "from": "table", "key": "u",
        "columns": {
            "begins": {"column": "begins", "kind": "date"},
            "lasts": {"column": "lasts", "kind": "number"},
            "run": {"column": "run", "kind": "label"},
            "student": {"column": "student", "kind": "label"},
        },
    },
}  # fmt: skip
BY_RUN = {
    "horizon": 7,
    "since": "begins",
    "length": "lasts",
    "train": {"first": 0, "last": 90, "every": 14, "users": {"run": ["early"]}},
    "valid": {"days": [0, 20], "users": {"run": ["middle"]}},
    "test": {"days": [0, 7], "users": {"run": ["late"]}},
    "eligible": ["none(leave)"],
}


@pytest.fixture
def course(tmp_path):
    """Runs of 30, 40 and 20 days; `b` joins on day 10 and leaves on day 16, `c` has no start."""
    table = pl.DataFrame(
        {
            "u": ["a", "b", "c", "d", "e"],
            "begins": ["2020-01-01", "2020-01-01", None, "2020-01-10", "2020-03-01"],
            "lasts": [30, 30, 30, 40, 20],
            "run": ["early", "early", "early", "middle", "late"],
            "student": ["s1", "s2", None, "s1", None],
        }
    )
    rows = [("a", "2019-12-20", "join"), ("b", "2020-01-11", "join"), ("c", "2020-01-01", "join")]
    rows += [("b", "2020-01-17", "leave"), ("d", "2020-01-12", "join"), ("e", "2020-03-01", "join")]
    rows += [("a", "2020-01-05", "submit"), ("e", "2020-04-30", "submit")]
    events = pl.DataFrame(rows, schema=["u", "t", "k"], orient="row").with_columns(w=1.0, m=60.0)
    return ingest(EventLog(Schema.parse(COURSE), events, table), tmp_path / "course.store")


def _pairs(store, samples) -> list[tuple[str, str]]:
    names = store.users["user"].to_list()
    return [(names[u], str(to_date(c))) for u, c in zip(samples.user, samples.cutoff)]


def test_cutoffs_count_from_the_clock_of_each_user(course):
    plan = Cutoffs.parse(BY_RUN)
    train = _pairs(course, samples_of(course, plan, "train"))
    assert sorted(train) == [("a", "2020-01-01"), ("a", "2020-01-15"), ("b", "2020-01-15")]
    assert _pairs(course, samples_of(course, plan, "valid")) == [("d", "2020-01-30")]  # on day 0 d had not joined
    assert _pairs(course, samples_of(course, plan, "test")) == [("e", "2020-03-01"), ("e", "2020-03-08")]
    assert [str(to_date(d)) for d in days_of(course, plan, "train")] == ["2020-01-01", "2020-01-15"]
    assert len(samples_of(course, plan, "gap")) == 0
    assert _pairs(course, samples_on(course, plan, to_day("2020-01-20"))) == [("a", "2020-01-20"), ("d", "2020-01-20")]


def test_parts_kept_apart_by_a_label_may_overlap_but_the_test_comes_last(course):
    same = {"train": {**BY_RUN["train"], "users": {"run": ["early", "middle"]}}}
    with pytest.raises(CutoffError, match=r"cutoffs\.train"):
        samples_of(course, Cutoffs.parse(BY_RUN | same), "train")
    early = {
        "test": {"days": [0], "users": {"run": ["early"]}},
        "train": {**BY_RUN["train"], "users": {"run": ["late"]}},
    }
    with pytest.raises(CutoffError, match="first test cut-off, 2020-01-01"):
        samples_of(course, Cutoffs.parse(BY_RUN | early), "valid")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"since": None, "length": None}, "dates, or since"),
        ({"since": None}, "whole numbers|dates, or since"),
        ({"test": {"days": ["2020-03-01"]}}, "whole numbers of days since"),
        ({"test": {"days": [1, "2020-03-01"]}}, "not both"),
    ],
)
def test_days_are_dates_or_counted_never_both(change, said):
    with pytest.raises(ConfigError, match=said):
        Cutoffs.parse(BY_RUN | change)


def test_unknown_clocks_and_labels_are_named(course):
    with pytest.raises(CutoffError, match="begins, lasts"):
        samples_of(course, Cutoffs.parse(BY_RUN | {"since": "start"}), "train")
    with pytest.raises(CutoffError, match="run, student"):
        samples_of(course, Cutoffs.parse(BY_RUN | {"valid": {"days": [0], "users": {"class": ["x"]}}}), "valid")


def test_groups_are_those_of_a_label_and_alone_without_one(course):
    names = course.users["user"].to_list()
    group = dict(zip(names, groups_of(course, np.arange(5), "student").tolist()))
    assert group["a"] == group["d"]
    assert len(set(group.values())) == 4
    assert groups_of(course, np.array([3, 1]), None).tolist() == [3, 1]
    with pytest.raises(CutoffError, match="run, student"):
        groups_of(course, np.arange(5), "module")


def test_labels_and_outcomes_reach_no_input_and_targets_sum_outcomes(course):
    assert course.profiles.columns == ["user", "begins", "lasts"]
    assert (course.amounts, course.outcomes) == (("weight",), ("mark",))
    samples = samples_of(course, Cutoffs.parse(BY_RUN), "train")
    seen = (*aggregates(course, samples, horizon=7).names, *day_table(course).features)
    assert any("weight" in name for name in seen)
    assert not [name for name in seen if "mark" in name or "run" in name or "student" in name]
    value = measure((Target.parse("sum(mark of submit) in 7d"),), course, samples).value[:, 0]
    assert dict(zip(_pairs(course, samples), value.tolist()))["a", "2020-01-01"] == 60
