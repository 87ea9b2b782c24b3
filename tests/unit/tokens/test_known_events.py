"""Known events: announced in time, addressed to their audience, the same for shared and audience rows."""

import datetime as dt

import numpy as np
import polars as pl
import pytest

from habitus.data.calendar import Calendar, to_day
from habitus.tokens.known_events import (
    CLOCK,
    add_audience_events,
    known_events,
    n_columns,
    n_touches,
    notable_days,
    shared_table,
)

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


DUE = {"event": "essay", "type": "due", "start": "2020-03-04", "audience": "class"}
QUIZ = {"event": "quiz", "type": "due", "start": "2020-03-10", "audience": "class"}


def _log(*rows: tuple[str, str, str]) -> pl.DataFrame:
    """Rows of (user, date, item) as a log."""
    first = [(user, "2020-01-01", "none") for user in USERS]
    table = pl.DataFrame([*first, *rows], schema=["user", "time", "item"], orient="row")
    return table.with_columns(pl.col("time").str.to_datetime(), kind=pl.lit("submit"), basket=0, spend=0.0)


def _touched_table(store, calendar: Calendar, user: int, cutoff: int, first: int, n: int) -> np.ndarray:
    users = store.users["user"].to_list()
    known = known_events(calendar, calendar.types, np.array(users), item_types=calendar.item_types, store=store)
    table = shared_table(known, cutoff, first, n)[None].copy()
    assert table.shape[-1] == n_columns(calendar.types, calendar.item_types)
    add_audience_events(
        table, known, np.array([users.index(USERS[user])]), np.array([cutoff]), (first + np.arange(n))[None]
    )
    return table[0]


def _class(*rows: dict) -> Calendar:
    groups = pl.DataFrame({"audience": ["class"] * 2, "user": ["ann", "bob"]})
    items = pl.DataFrame({"event": ["essay", "quiz"], "item": ["e1", "q1"]})
    return Calendar.build(rows, groups, items)


def test_touched_open_and_missed_by_hand(make_store):
    store = make_store(_log(("ann", "2020-03-02", "e1"), ("ann", "2020-03-03", "e1"), ("bob", "2020-03-06", "q1")))
    calendar, cutoff = _class(DUE, QUIZ), to_day("2020-03-05")
    ann, bob = (_touched_table(store, calendar, u, cutoff, START, 11)[:, -3:] for u in (0, 1))
    assert np.allclose(ann[:, 0], [0, 0, np.log(3), 0, 0, 0, 0, 0, 0, 0, 0])  # the essay's day, two hand-ins
    assert np.allclose(bob[:, 0], 0)  # the quiz is handed in after the cut-off
    near = 1 - np.array([4, 3, 2, 1]) / 14  # the quiz begins after the cut-off: only days after it know of it
    assert np.allclose(ann[:, 1], [0, 0, 0, 0, *near, 1, 0, 0])
    assert np.allclose(bob[:, 1], [1 - 2 / 14, 1 - 1 / 14, 1, 0, *near, 1, 0, 0])
    gone = 1 - np.arange(1, 7) / 14
    assert np.allclose(ann[:, 2], [0] * 9 + [gone[0], gone[1]])  # the quiz alone
    assert np.allclose(bob[:, 2], [0, 0, 0, *gone, gone[0], gone[1]])  # the nearest counts


def test_items_leave_the_other_columns_and_the_other_users_bit_for_bit(make_store):
    store = make_store(_log(("ann", "2020-03-02", "e1"), ("cy", "2020-03-02", "e1")))
    calendar = _class(DUE, QUIZ)
    plain = Calendar.build(calendar.events, calendar.audiences)
    for user in range(3):
        with_items = _touched_table(store, calendar, user, START, START, 20)
        assert np.array_equal(with_items[:, :-3], _table(plain, user, START, START, 20, types=("due",)))
    assert not _touched_table(store, calendar, 2, START, START, 20)[:, -3:].any()


def test_an_event_of_everyone_tells_who_touched_its_items(make_store):
    store = make_store(_log(("ann", "2020-03-02", "e1"), ("cy", "2020-03-03", "e1")))
    shared = [{k: v for k, v in row.items() if k != "audience"} for row in (DUE, QUIZ)]
    tables = [_touched_table(store, _class(*shared), u, START, START, 12)[:, -3:] for u in range(3)]
    assert [float(t[2, 0]) for t in tables] == pytest.approx([np.log(2), 0, 0])
    assert [float(t[2, 1]) for t in tables] == pytest.approx([1 - 6 / 14, 1, 1])  # the quiz is open to all
    assert [float(t[3, 2]) for t in tables] == pytest.approx([0, 1 - 1 / 14, 1 - 1 / 14])


def test_touches_equal_a_plain_count(make_store, shop):
    store, draw = make_store(shop), np.random.default_rng(0)
    users = store.users["user"].to_numpy()
    rows = [
        {"event": f"e{i}", "type": "sale", "start": "2020-03-01"} | ({"audience": "a"} if i % 2 else {})
        for i in range(6)
    ]
    items = pl.DataFrame(
        [(f"e{i}", f"i{j}") for i in range(6) for j in draw.choice(22, 5, replace=False)],
        schema=["event", "item"],
        orient="row",
    )
    calendar = Calendar.build(rows, pl.DataFrame({"audience": "a", "user": users[::2]}), items)
    known = known_events(calendar, ("sale",), users, item_types=("sale",), store=store)
    user, row = (part.ravel() for part in np.meshgrid(np.arange(0, len(users), 2), np.arange(6)))
    cutoff = START + draw.integers(-60, 60, len(user))
    found = n_touches(known, user, row, cutoff)
    for u, r, c, n in zip(user, row, cutoff, found):
        about = items.filter(event=f"e{r}")["item"].to_list()
        mine = shop.filter((pl.col("user") == users[u]) & pl.col("item").is_in(about))
        assert n == (mine["time"].dt.date().to_physical() <= c).sum()
    assert found.max() > 5
