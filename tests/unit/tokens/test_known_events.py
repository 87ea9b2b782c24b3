"""Known events: announced in time, addressed to their audience, the same for shared and audience rows."""

import datetime as dt

import numpy as np
import polars as pl
import pytest

from habitus.data.calendar import Calendar, to_day
from habitus.tokens.known_events import CLOCK, add_audience_events, known_events, notable_days, shared_table

USERS = np.array(["ann", "bob", "cy"])
START = to_day("2020-03-02")  # a Monday


def _calendar(*rows: dict, audience: dict[str, list[str]] | None = None) -> Calendar:
    pairs = [(name, user) for name, users in (audience or {}).items() for user in users]
    groups = pl.DataFrame(pairs, schema=["audience", "user"], orient="row") if pairs else None
    return Calendar.build(rows, groups)


def _table(calendar: Calendar, user: int, cutoff: int, first: int, n: int, types=("sale",)) -> np.ndarray:
    known = known_events(calendar, types, USERS)
    table = shared_table(known, cutoff, first, n)[None].copy()
    days = (first + np.arange(n))[None]
    add_audience_events(table, known, np.array([user]), np.array([cutoff]), days)
    return table[0]


def test_clock_columns_follow_the_date():
    table = _table(Calendar.empty(), 0, START, START, 14)
    assert table[:7, :7].argmax(axis=1).tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert (table[:, :7].sum(axis=1) == 1).all()
    new_year = _table(Calendar.empty(), 0, START, to_day("2020-01-01"), 1)
    assert np.allclose(new_year[0, 7:9], [0.0, 1.0])


def test_event_columns_by_hand():
    calendar = _calendar({"type": "sale", "start": "2020-03-04", "end": "2020-03-05", "strength": 2.0})
    table = _table(calendar, 0, START, START, 5)[:, CLOCK:]
    assert table[:, 0].tolist() == [0, 0, 1, 1, 0]
    assert np.allclose(table[:, 1] * 14, [14, 14, 0, 1, 2])
    assert np.allclose(table[:, 2] * 14, [14, 1, 14, 14, 14])
    assert np.allclose(table[:, 3], [0, 0, np.log(2), np.log(2), 0])


def test_past_days_do_not_see_events_that_begin_after_the_cutoff():
    calendar = _calendar({"type": "sale", "start": "2020-03-04"})
    with_sale, without = _table(calendar, 0, START, START - 5, 12), _table(Calendar.empty(), 0, START, START - 5, 12)
    assert np.array_equal(with_sale[:6], without[:6])
    assert with_sale[6, CLOCK + 2] * 14 == pytest.approx(1)


def test_event_announced_after_the_cutoff_is_invisible():
    row = {"type": "sale", "start": "2020-03-10", "announced_at": "2020-03-05"}
    unseen, nothing = _table(_calendar(row), 0, START, START, 20), _table(Calendar.empty(), 0, START, START, 20)
    assert np.array_equal(unseen, nothing)
    assert not np.array_equal(_table(_calendar(row), 0, to_day("2020-03-05"), START, 20), nothing)
    addressed = _calendar({**row, "audience": "x"}, audience={"x": ["ann"]})
    assert np.array_equal(_table(addressed, 0, START, START, 20), nothing)


def test_audience_event_reaches_its_audience_alone():
    row = {"type": "sale", "start": "2020-03-04", "end": "2020-03-08", "strength": 3.0}
    shared = _calendar(row)
    addressed = _calendar({**row, "audience": "x"}, audience={"x": ["bob", "stranger"]})
    nobody = _table(Calendar.empty(), 0, START, START, 20)
    assert np.array_equal(_table(addressed, 0, START, START, 20), nobody)
    assert np.array_equal(_table(addressed, 1, START, START, 20), _table(shared, 1, START, START, 20))


def test_overlapping_events_of_a_type_merge_to_the_strongest_and_nearest():
    rows = [
        {"type": "sale", "start": "2020-03-03", "end": "2020-03-06", "strength": 0.5, "audience": "x"},
        {"type": "sale", "start": "2020-03-05", "end": "2020-03-05", "strength": 4.0, "audience": "x"},
        {"type": "sale", "start": "2020-03-12", "audience": "x"},
    ]
    mixed = _table(_calendar(*rows, audience={"x": ["cy"]}), 2, START, START, 12)
    shared = _table(_calendar(*({k: v for k, v in r.items() if k != "audience"} for r in rows)), 2, START, START, 12)
    assert np.array_equal(mixed, shared)
    column = mixed[:, CLOCK:]
    assert np.allclose(column[1:5, 3], np.log([0.5, 0.5, 4.0, 0.5]))
    assert np.allclose(column[1:3, 2] * 14, [2, 1])


def test_unknown_type_changes_nothing():
    calendar = _calendar({"type": "match", "start": "2020-03-04"})
    assert np.array_equal(_table(calendar, 0, START, START, 9), _table(Calendar.empty(), 0, START, START, 9))


def test_notable_days_lie_inside_the_history_and_were_announced():
    rows = [
        {"type": "sale", "start": "2020-02-20", "is_notable": True},
        {"type": "sale", "start": "2020-02-25", "is_notable": True, "audience": "x"},
        {"type": "sale", "start": "2020-03-01", "is_notable": False},
        {"type": "sale", "start": "2020-03-09", "is_notable": True},
        {"type": "sale", "start": "2019-01-01", "is_notable": True},
    ]
    known = known_events(_calendar(*rows, audience={"x": ["bob"]}), ("sale",), USERS)
    sample, day = notable_days(known, np.array([0, 1]), np.array([START, START]), history=30)
    found = sorted(zip(sample.tolist(), day.tolist()))
    assert found == sorted([(0, to_day("2020-02-20")), (1, to_day("2020-02-20")), (1, to_day("2020-02-25"))])


def test_many_users_at_once_equal_one_by_one():
    draw = np.random.default_rng(0)
    rows, audience = [], {}
    for i in range(40):
        start = dt.date(2020, 2, 1) + dt.timedelta(days=int(draw.integers(60)))
        name = f"g{i}"
        audience[name] = [u for u in USERS if draw.random() < 0.6] or ["ann"]
        end = start + dt.timedelta(days=int(draw.integers(9)))
        kind = "ab"[int(draw.integers(2))]
        rows.append(
            {"event": str(i), "type": kind, "start": start, "end": end, "strength": 1 + draw.random(), "audience": name}
        )
    known = known_events(_calendar(*rows, audience=audience), ("a", "b"), USERS)
    users, cutoffs = np.array([2, 0, 1, 0]), np.array([START, START + 9, START + 3, START])
    days = cutoffs[:, None] + np.arange(-5, 20)
    table = np.stack([shared_table(known, int(c), int(d[0]), 25) for c, d in zip(cutoffs, days)])
    add_audience_events(table, known, users, cutoffs, days)
    for b in range(len(users)):
        alone = shared_table(known, int(cutoffs[b]), int(days[b, 0]), 25)[None].copy()
        add_audience_events(alone, known, users[b : b + 1], cutoffs[b : b + 1], days[b : b + 1])
        assert np.array_equal(table[b], alone[0])


@pytest.mark.parametrize("n", [0, 3])
def test_no_users_or_no_events(n):
    known = known_events(Calendar.empty(), (), USERS)
    table = np.zeros((n, 4, CLOCK), np.float32)
    add_audience_events(table, known, np.zeros(n, np.int64), np.full(n, START), np.full((n, 4), START))
    assert not table.any()
