"""Placebos: drawn within strata, on other days, and judged beside the answer."""

import datetime as dt

import numpy as np
import polars as pl
import pytest

from habitus.data.calendar import Calendar, to_date, to_day
from habitus.data.calendar_edits import Edits, apply_edits
from habitus.tasks.whatif.evidence import changes_of
from habitus.tasks.whatif.placebo import Crowd, draws, nothing, past_draws, verdict

CUTOFF, HORIZON = to_day("2020-04-10"), 14
USERS = pl.Series([f"u{i}" for i in range(100)])
ACTIVITY = np.repeat([0, 1, 3, 7, 20], 20)
PLAN = Calendar.build(
    [
        {"event": "past", "type": "sale", "start": "2020-03-01"},
        {"event": "sale", "type": "sale", "start": "2020-04-13", "end": "2020-04-15"},
        {"event": "mailing", "type": "mail", "start": "2020-04-14", "audience": "vip"},
    ],
    pl.DataFrame({"audience": ["vip"] * 10, "user": [f"u{i}" for i in range(75, 85)]}),
)


def drawn(*edits: dict, n: int = 20, seed: int = 0):
    other = apply_edits(PLAN, Edits.build(edits), cutoff=CUTOFF)
    changes = changes_of(PLAN, other, CUTOFF)
    crowd = Crowd.of(USERS, ACTIVITY)
    return draws(PLAN, other, changes, "edit", cutoff=CUTOFF, horizon=HORIZON, crowd=crowd, n=n, seed=seed)


def starts(calendar: Calendar, event: str) -> list[dt.date]:
    return calendar.events.filter(event=event)["start"].to_list()


def test_a_moved_event_is_moved_to_other_days_of_the_window():
    found = [d for d in drawn({"edit": "move", "event": "sale", "shift": 3}) if d.kind == "other days"]
    days = [starts(d.plus, "sale")[0] for d in found]
    assert len(set(days)) > 3
    assert all(to_date(CUTOFF) < day <= to_date(CUTOFF + HORIZON - 2) for day in days), "all three days fit"
    assert dt.date(2020, 4, 16) not in days, "not where it was moved to"
    assert dt.date(2020, 4, 13) not in days, "nor where it was"
    for one in found:
        assert starts(one.minus, "sale") == [dt.date(2020, 4, 13)]
        assert one.plus.events.filter(event="sale").row(0, named=True)["end"] == starts(one.plus, "sale")[
            0
        ] + dt.timedelta(2)
        for side in (one.plus, one.minus):
            kept = side.events.filter(pl.col("event") != "sale")
            assert kept.equals(PLAN.events.filter(pl.col("event") != "sale")), "all else stays"


def test_a_dropped_event_is_dropped_from_other_days():
    for one in (d for d in drawn({"edit": "drop", "event": "sale"}) if d.kind == "other days"):
        assert starts(one.plus, "sale") == []
        assert len(starts(one.minus, "sale")) == 1
        assert starts(one.minus, "sale") != [dt.date(2020, 4, 13)]


def test_just_after_the_window_nothing_of_the_event_is_left_in_it():
    found = [d for d in drawn({"edit": "drop", "event": "sale"}) if d.kind == "just after"]
    for one in found:
        (start,) = starts(one.plus, "sale")
        assert 2 <= (start - to_date(CUTOFF + HORIZON)).days <= 8
        assert starts(one.minus, "sale") == []


def test_other_users_are_as_many_of_each_stratum_and_not_the_same():
    strata = Crowd.of(USERS, ACTIVITY).stratum
    assert np.bincount(strata).tolist() == [20] * 5
    found = [d for d in drawn({"edit": "drop", "event": "mailing"}) if d.kind == "other users"]
    seen = set()
    for one in found:
        assert starts(one.plus, "mailing") == []
        audience = one.minus.events.filter(event="mailing")["audience"][0]
        users = one.minus.audiences.filter(audience=audience)["user"]
        places = USERS.is_in(users.implode()).to_numpy()
        assert np.bincount(strata[places], minlength=5).tolist() == [0, 0, 0, 5, 5], "as the ten of before"
        seen.add(tuple(sorted(users)))
    assert len(seen) == len(found)


def test_those_added_are_exchanged_and_those_who_had_it_keep_it():
    groups = pl.DataFrame({"audience": ["more"] * 6, "user": [f"u{i}" for i in (0, 1, 2, 3, 4, 75)]})
    plan = Calendar(PLAN.events, pl.concat([PLAN.audiences, groups]), PLAN.items)
    edit = {"edit": "rescope", "event": "mailing", "audience": "more", "users": "more"}
    other = apply_edits(plan, Edits.build([edit]), cutoff=CUTOFF)
    changes = changes_of(plan, other, CUTOFF)
    assert [c.what for c in changes] == ["addressed to others"]
    found = draws(plan, other, changes, "e", cutoff=CUTOFF, horizon=HORIZON, crowd=Crowd.of(USERS, ACTIVITY), n=3)
    vip = set(PLAN.audiences["user"])
    assert {d.kind for d in found} == {"just after", "other users"}, "no day was changed"
    for one in (d for d in found if d.kind == "other users"):
        sides = {}
        for name, side in (("plus", one.plus), ("minus", one.minus)):
            audience = side.events.filter(event="mailing")["audience"][0]
            sides[name] = set(side.audiences.filter(audience=audience)["user"])
        assert sides["minus"] == vip
        assert vip < sides["plus"]
        won = sides["plus"] - vip
        assert len(won) == 5
        assert all(int(user[1:]) < 20 for user in won), "of the same stratum"


def test_past_days_are_past_and_known():
    other = PLAN.without(events=["sale"])
    for one in past_draws(PLAN, changes_of(PLAN, other, CUTOFF), "e", cutoff=CUTOFF, history=28, n=10):
        row = one.plus.events.filter(event="sale").row(0, named=True)
        assert to_date(CUTOFF - 28) < row["start"] <= row["end"] <= to_date(CUTOFF)
        assert row["announced_at"] < row["start"]


def test_draws_depend_on_the_seed_alone():
    one, same, other = (drawn({"edit": "move", "event": "sale", "shift": 3}, seed=seed) for seed in (0, 0, 1))
    assert [d.plus.events.rows() for d in one] == [d.plus.events.rows() for d in same]
    assert [d.plus.events.rows() for d in one] != [d.plus.events.rows() for d in other]


def test_a_change_of_nothing_is_built_anew_and_unknown_at_the_cutoff():
    again, late = nothing(PLAN, CUTOFF, [])
    assert again is not PLAN
    assert again.events.equals(PLAN.events)
    assert late.known_at(CUTOFF).events.equals(PLAN.events)
    assert len(late) == len(PLAN) + 1


ROW = {"target": "buy", "calendar": "e", "difference": 10.0, "low": 6.0, "high": 14.0}
SMALL = {"target": "buy", "calendar": "e", "kind": "just after", "low": -1.0, "high": 2.0}


@pytest.mark.parametrize(
    ("row", "placebo", "said"),
    [
        ({}, [SMALL], "clear"),
        ({}, [], "clear"),
        ({"low": -1.0}, [SMALL], "noise"),
        ({}, [SMALL | {"low": -11.0}], "noise"),
        ({}, [SMALL | {"low": -11.0, "kind": "other days"}], "clear"),
        ({}, [SMALL | {"low": -11.0, "target": "spend"}], "clear"),
        ({"low": None, "high": None}, [SMALL], "unknown"),
        ({"difference": 0.0}, [SMALL], "nothing"),
    ],
)
def test_an_answer_is_judged_by_its_interval_and_its_placebos(row, placebo, said):
    assert verdict(ROW | row, placebo) == said
    row, *placebo = ({f"day_{k}" if k in ("difference", "low", "high") else k: v for k, v in part.items()}
                     for part in (ROW | row, *placebo))  # fmt: skip
    assert verdict(row, placebo, "day_") == said, "the days are judged by the same rule"
