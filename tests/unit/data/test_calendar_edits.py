"""Edits of a calendar: each does what it says, leaves the rest alone, and a bad one is named by its row."""

import datetime as dt
from pathlib import Path

import polars as pl
import pytest

from habitus.core.errors import CalendarError
from habitus.data.calendar import Calendar, read_calendar, to_day
from habitus.data.calendar_edits import Edits, apply_edits, is_edits, read_audiences, read_edits, with_audiences

PLAN = Calendar.build(
    [
        {"event": "winter sale", "type": "sale", "start": "2020-01-25", "end": "2020-01-28"},
        {"event": "spring sale", "type": "sale", "start": "2020-04-13", "end": "2020-04-15", "strength": 2.0},
        {"event": "mailing", "type": "mail", "start": "2020-04-14", "audience": "vip", "is_randomised": True},
        {"event": "holiday", "type": "holiday", "start": "2020-01-01"},
        {"event": "holiday", "type": "holiday", "start": "2020-05-01"},
        {"event": "holiday", "type": "holiday", "start": "2020-05-08"},
    ],
    pl.DataFrame({"audience": ["vip", "vip", "new"], "user": ["a", "b", "c"]}),
    pl.DataFrame({"event": ["spring sale"], "item": ["sock"]}),
)
CUTOFF = to_day("2020-04-10")


def edited(*rows: dict, cutoff: int | None = CUTOFF) -> Calendar:
    return apply_edits(PLAN, Edits.build(rows, where="e.csv"), cutoff=cutoff)


def row_of(calendar: Calendar, event: str) -> dict:
    (row,) = calendar.events.filter(event=event).to_dicts()
    return row


def users_of(calendar: Calendar, event: str) -> set[str]:
    return set(calendar.audiences.filter(audience=row_of(calendar, event)["audience"])["user"])


def others(calendar: Calendar, event: str) -> pl.DataFrame:
    return calendar.events.filter(pl.col("event") != event)


def test_no_edit_is_the_same_calendar():
    assert edited().events.equals(PLAN.events)


def test_an_added_event_is_as_a_calendar_would_have_it():
    made = edited(
        {"edit": "add", "type": "sale", "event": "flash", "start": "2020-04-20", "announced_at": "2020-04-01"}
    )
    direct = Calendar.build([{"type": "sale", "event": "flash", "start": "2020-04-20", "announced_at": "2020-04-01"}])
    assert made.events.filter(event="flash").equals(direct.events)
    assert others(made, "flash").equals(PLAN.events)


def test_a_dropped_event_is_gone_and_nothing_else():
    made = edited({"edit": "drop", "event": "spring sale"})
    assert made.events.equals(others(PLAN, "spring sale"))


@pytest.mark.parametrize(
    ("move", "start", "end"),
    [
        ({"start": "2020-04-20"}, "2020-04-20", "2020-04-22"),
        ({"start": "2020-04-20", "end": "2020-04-20"}, "2020-04-20", "2020-04-20"),
        ({"shift": "-2"}, "2020-04-11", "2020-04-13"),
        ({"shift": 7}, "2020-04-20", "2020-04-22"),
    ],
)
def test_a_moved_event_keeps_all_but_its_days(move, start, end):
    made = edited({"edit": "move", "event": "spring sale"} | move)
    row = row_of(made, "spring sale")
    assert (str(row["start"]), str(row["end"])) == (start, end)
    kept = {name: value for name, value in row.items() if name not in ("start", "end")}
    was = row_of(PLAN, "spring sale")
    assert kept == {name: was[name] for name in kept}
    assert others(made, "spring sale").equals(others(PLAN, "spring sale"))
    assert made.item_types == ("sale",), "items stay with the name"


def test_there_and_back_is_where_it_was():
    there = Edits.build(
        [{"edit": "move", "event": "spring sale", "shift": 3}, {"edit": "drop", "event": "mailing"}], where="there"
    )
    mail = {name: value for name, value in row_of(PLAN, "mailing").items() if value is not None}
    back = Edits.build([{"edit": "move", "event": "spring sale", "shift": -3}, {"edit": "add"} | mail])
    round_trip = apply_edits(apply_edits(PLAN, there, cutoff=CUTOFF), back, cutoff=CUTOFF)
    assert round_trip.events.equals(PLAN.events)
    assert round_trip.audiences.equals(PLAN.audiences)


@pytest.mark.parametrize(
    ("change", "users"),
    [
        ({"audience": "new"}, {"c"}),
        ({"audience": "new", "users": "more"}, {"a", "b", "c"}),
        ({"audience": "some", "users": "fewer"}, {"b"}),
        ({"audience": "*"}, None),
    ],
)
def test_an_event_is_addressed_to_others(change, users):
    plan = with_audiences(PLAN, pl.DataFrame({"audience": ["some", "some"], "user": ["a", "c"]}))
    made = apply_edits(plan, Edits.build([{"edit": "rescope", "event": "mailing"} | change]), cutoff=CUTOFF)
    row = row_of(made, "mailing")
    assert (row["audience"] is None) if users is None else (users_of(made, "mailing") == users)
    assert row | {"audience": "vip"} == row_of(PLAN, "mailing")
    assert set(made.audiences.filter(audience="vip")["user"]) == {"a", "b"}, "no audience in use is changed"


def test_namesakes_are_told_apart_by_the_day_they_were():
    made = edited({"edit": "drop", "event": "holiday", "was": "2020-05-08"})
    assert made.events.filter(event="holiday")["start"].to_list() == [dt.date(2020, 1, 1), dt.date(2020, 5, 1)]
    later = edited({"edit": "drop", "event": "holiday"}, cutoff=to_day("2020-05-01"))
    assert later.events.filter(event="holiday").height == 2, "only one of that name is still to come"


SPRING = {"edit": "move", "event": "spring sale", "shift": 1}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"edit": "drop", "event": "sprin sale"}], ["did you mean 'spring sale'?", "row 1"]),
        ([{"edit": "drop", "event": "winter sale"}], ["begins after the cut-off, 2020-04-10", "began on 2020-01-25"]),
        ([SPRING, {"edit": "drop", "event": "mailing"}, SPRING], ["one edit per event", "row 3", "row 1"]),
        ([SPRING | {"shift": None, "start": "14 April"}], ["a date YYYY-MM-DD", "14 April", "row 1, column 'start'"]),
        ([SPRING | {"shift": None, "start": "2020-04-133"}], ["a date YYYY-MM-DD"]),
        ([SPRING | {"shift": "1.5"}], ["whole days"]),
        ([SPRING | {"start": "2020-04-20"}], ["a new start, or a shift", "both"]),
        ([SPRING | {"shift": None}], ["a new start, or a shift", "neither"]),
        ([SPRING | {"end": "2020-04-20"}], ["no end beside a shift"]),
        ([SPRING | {"shift": -3}], ["a start after the cut-off", "2020-04-10"]),
        (
            [SPRING | {"shift": None, "start": "2020-04-20", "end": "2020-04-19"}],
            ["an end on or after", "e.csv, row 1"],
        ),
        ([SPRING | {"strength": 2}], ["columns that move uses", "strength"]),
        ([SPRING | {"edit": "delay"}], ["an edit out of: add, drop, move, rescope"]),
        ([SPRING | {"shfit": 1}], ["did you mean 'shift'?"]),
        ([{"edit": "add", "type": "sale"}], ["a value of 'start' for add"]),
        ([{"edit": "add", "type": "sale", "start": "2020-04-01"}], ["a start after the cut-off"]),
        ([{"edit": "add", "type": "mail", "start": "2020-04-20", "audience": "vips"}], ["did you mean 'vip'?"]),
        ([{"edit": "drop", "event": "holiday"}], ["one event of that name", "2020-05-01, 2020-05-08", "'was'"]),
        ([{"edit": "drop", "event": "holiday", "was": "2020-05-02"}], ["out of: 2020-01-01, 2020-05-01"]),
        ([{"edit": "rescope", "event": "mailing"}], ["a value of 'audience'", "write * for everyone"]),
        ([{"edit": "rescope", "event": "mailing", "audience": "vip", "users": "fewer"}], ["nobody is left"]),
        ([{"edit": "rescope", "event": "mailing", "audience": "new", "users": "also"}], ["only, more, fewer"]),
        ([{"edit": "rescope", "event": "spring sale", "audience": "new", "users": "more"}], ["one for everyone"]),
    ],
)
def test_a_bad_edit_is_named_by_its_row(rows, said):
    with pytest.raises(CalendarError) as caught:
        edited(*rows)
    for words in [*said, "e.csv"]:
        assert words in str(caught.value)


def test_the_shipped_edit_is_the_shipped_calendar():
    folder = Path(__file__).parents[3] / "recipes" / "calendars"
    made = apply_edits(read_calendar(folder / "base.csv"), read_edits(folder / "add_holiday.csv"))
    assert made.events.equals(read_calendar(folder / "extra_holiday.csv").events)


def test_without_a_cutoff_the_past_may_be_edited_too():
    assert edited({"edit": "drop", "event": "winter sale"}, cutoff=None).events.height == PLAN.events.height - 1


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_files_are_told_apart_by_the_column(tmp_path, suffix):
    table = pl.DataFrame({"edit": ["move", "drop"], "event": ["spring sale", "mailing"], "shift": [7, None]})
    write = pl.DataFrame.write_csv if suffix == "csv" else pl.DataFrame.write_parquet
    write(table, tmp_path / f"e.{suffix}")
    PLAN.write(tmp_path / f"c.{suffix}")
    assert is_edits(tmp_path / f"e.{suffix}")
    assert not is_edits(tmp_path / f"c.{suffix}")
    assert not is_edits(tmp_path / f"nowhere.{suffix}")
    read = read_edits(tmp_path / f"e.{suffix}")
    assert read.rows == Edits.build(table).rows
    with pytest.raises(CalendarError, match="a column 'edit'"):
        read_edits(tmp_path / f"c.{suffix}")
    with pytest.raises(CalendarError, match="no such file"):
        read_edits(tmp_path / f"nowhere.{suffix}")


def test_audiences_come_from_a_file_and_never_replace_one_in_use(tmp_path):
    pl.DataFrame({"audience": ["more", "more"], "user": [7, 8]}).write_csv(tmp_path / "a.csv")
    more = read_audiences(tmp_path / "a.csv")
    assert more.rows() == [("more", "7"), ("more", "8")]
    assert with_audiences(PLAN, more).audiences.height == PLAN.audiences.height + 2
    assert with_audiences(PLAN, PLAN.audiences).audiences.equals(PLAN.audiences)
    with pytest.raises(CalendarError, match="rescope the coming event"):
        with_audiences(PLAN, pl.DataFrame({"audience": ["vip"], "user": ["z"]}))
    pl.DataFrame({"group": ["more"], "user": [7]}).write_csv(tmp_path / "b.csv")
    with pytest.raises(CalendarError, match="a column 'audience'"):
        read_audiences(tmp_path / "b.csv")
