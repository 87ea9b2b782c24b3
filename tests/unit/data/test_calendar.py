"""Calendars: every row that makes no sense is refused by its place; files round-trip."""

import datetime as dt

import polars as pl
import pytest

from habitus.core.errors import CalendarError
from habitus.data.calendar import Calendar, holiday_calendar, read_calendar, to_day

SALE = {"event": "spring", "type": "sale", "start": "2011-03-01", "end": "2011-03-03"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"start": "1 March"}, "1 March"),
        ({"end": "2011-02-01"}, "an end on or after the start"),
        ({"strength": 0}, "strength above 0"),
        ({"announced_at": "2011-04-01"}, "announcement before"),
        ({"audience": "vip"}, "audience with users"),
        ({"tipe": "sale"}, "did you mean 'type'?"),
        ({"type": None}, "a type"),
        ({"is_notable": "perhaps"}, "true or false"),
    ],
)
def test_a_bad_row_is_named(change, said):
    with pytest.raises(CalendarError) as caught:
        Calendar.build([SALE | change], where="shop.csv")
    assert said in str(caught.value)
    assert "shop.csv" in str(caught.value)


def test_defaults_fill_what_is_absent():
    calendar = Calendar.build([{"type": "sale", "start": "2011-03-01"}])
    row = calendar.events.row(0, named=True)
    assert row["end"] == row["start"] == dt.date(2011, 3, 1)
    assert row["announced_at"] == dt.date(2001, 3, 1)
    assert (row["event"], row["strength"], row["audience"]) == ("sale", 1.0, None)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_files_round_trip(tmp_path, suffix):
    groups = pl.DataFrame({"audience": ["vip", "vip"], "user": ["1", "2"]})
    calendar = Calendar.build(
        [SALE | {"audience": "vip", "is_randomised": True}, {"type": "match", "start": "2011-05-01"}], groups
    )
    calendar.write(tmp_path / f"c.{suffix}", tmp_path / f"a.{suffix}")
    again = read_calendar(tmp_path / f"c.{suffix}", tmp_path / f"a.{suffix}")
    assert again.events.equals(calendar.events)
    assert again.audiences.equals(calendar.audiences)


def test_items_of_events_are_kept_by_files_and_edits(tmp_path):
    about = pl.DataFrame({"event": ["spring", "spring", "gone"], "item": [7, 8, 9]})
    calendar = Calendar.build([SALE, {"type": "match", "start": "2011-05-01"}], items=about)
    assert calendar.items.rows() == [("spring", "7"), ("spring", "8"), ("gone", "9")]
    assert calendar.item_types == ("sale",)
    calendar.write(tmp_path / "c.csv", items=tmp_path / "i.csv")
    again = read_calendar(tmp_path / "c.csv", items=tmp_path / "i.csv")
    assert again.items.equals(calendar.items)
    for edited in (calendar.known_at(to_day("2011-01-01")), calendar.without(types=["match"]), calendar.joined(again)):
        assert edited.items.equals(calendar.items)
    assert calendar.without(types=["sale"]).item_types == ()
    assert Calendar.empty().joined(calendar).item_types == ("sale",)
    with pytest.raises(CalendarError, match="a column 'item' in the items of events"):
        Calendar.build([SALE], items=about.rename({"item": "product"}))


def test_known_at_hides_what_was_not_announced():
    calendar = Calendar.build([SALE | {"announced_at": "2011-02-10"}])
    assert len(calendar.known_at(to_day("2011-02-09"))) == 0
    assert len(calendar.known_at(to_day("2011-02-10"))) == 1


def test_without_and_joined():
    calendar = Calendar.build([SALE, {"type": "match", "start": "2011-05-01"}])
    assert calendar.without(types=["sale"]).types == ("match",)
    assert calendar.without(events=["spring"]).types == ("match",)
    assert calendar.joined(calendar).events.equals(calendar.events)


def test_holidays_of_an_unknown_country():
    with pytest.raises(CalendarError):
        holiday_calendar("Atlantis", dt.date(2011, 1, 1), dt.date(2011, 12, 31))


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(CalendarError, match="no such file"):
        read_calendar(tmp_path / "none.csv")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(CalendarError, match="readable"):
        read_calendar(tmp_path / "broken.parquet")


def test_empty_calendar_has_its_columns():
    assert Calendar.empty().types == ()
    assert Calendar.build([]).events.columns == Calendar.empty().events.columns
