"""OULAD: on a small folder made here, and on the published tables where they are at hand."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from habitus.core.errors import SourceError
from habitus.data.calendar import to_day
from habitus.data.sources.oulad import oulad

REAL = Path(__file__).parents[4] / "shared" / "data" / "oulad"

TABLES = {
    "courses": "code_module,code_presentation,module_presentation_length\nAAA,2013J,268\nBBB,2014B,234",
    "assessments": "code_module,code_presentation,id_assessment,assessment_type,date,weight\n"
    "AAA,2013J,1,TMA,19,10\nAAA,2013J,2,Exam,?,100\nBBB,2014B,3,CMA,5,0",
    "studentInfo": "code_module,code_presentation,id_student,gender,region,highest_education,imd_band,age_band,"
    "num_of_prev_attempts,studied_credits,disability,final_result\n"
    "AAA,2013J,11,M,Wales,HE,?,0-35,0,60,N,Pass\nBBB,2014B,11,M,Wales,HE,10-20,0-35,1,60,Y,Withdrawn\nAAA,2013J,12,F,Wales,HE,?,0-35,0,30,N,Fail",
    "studentRegistration": "code_module,code_presentation,id_student,date_registration,date_unregistration\n"
    "AAA,2013J,11,-30,\nBBB,2014B,11,3,40\nAAA,2013J,12,,",
    "studentAssessment": "id_assessment,id_student,date_submitted,is_banked,score\n"
    "1,11,18,0,78\n3,11,4,0,\n1,12,10,0,50\n2,11,-1,1,60",
    "vle": "id_site,code_module,code_presentation,activity_type,week_from,week_to\n"
    "1,AAA,2013J,url,2,2\n2,AAA,2013J,url,2,3\n3,AAA,2013J,url,,",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in TABLES.items():
        (tmp_path / f"{name}.csv").write_text(text + "\n", "utf-8")
    return tmp_path


def test_each_enrolment_is_a_user_on_the_dates_of_its_run(folder: Path):
    rows = oulad(folder).events.sort("date", "rank").select("user", "date", "type", "score", "weight", "mark").rows()
    start_j, start_b = dt.date(2013, 10, 5), dt.date(2014, 2, 1)

    def day(start: dt.date, n: int) -> dt.date:
        return start + dt.timedelta(days=n)

    assert rows == [
        ("AAA-2013J-11", day(start_j, -30), "register", None, None, None),
        ("AAA-2013J-11", day(start_j, 18), "submit", None, 10.0, 78.0),
        ("AAA-2013J-11", day(start_j, 32), "score", 78.0, None, None),
        ("BBB-2014B-11", day(start_b, 3), "register", None, None, None),
        ("BBB-2014B-11", day(start_b, 4), "submit", None, 0.0, None),
        ("BBB-2014B-11", day(start_b, 40), "unregister", None, None, None),
    ]


def test_outcomes_are_nowhere_in_the_profile(folder: Path):
    log = oulad(folder)
    assert "final_result" not in log.profiles.columns + log.events.columns
    assert not [name for name in log.profiles.columns if "unregistration" in name]
    assert log.profiles.sort("user").select("user", "module", "season", "imd_band", "disability").rows() == [
        ("AAA-2013J-11", "AAA", "J", None, "no"),
        ("BBB-2014B-11", "BBB", "B", "10-20", "yes"),
    ]


def test_due_dates_are_for_the_enrolments_of_the_run_from_its_start(folder: Path):
    calendar = oulad(folder).calendar
    assert calendar.types == ("due_cma", "due_tma", "material", "run_end", "run_start")
    due = calendar.events.filter(type="due_tma").row(0, named=True)
    assert (due["start"], due["end"], due["strength"]) == (dt.date(2013, 10, 24), dt.date(2013, 10, 24), 10.0)
    assert due["announced_at"] == dt.date(2013, 10, 5)
    assert calendar.audiences.filter(audience=due["audience"])["user"].to_list() == ["AAA-2013J-11"]
    assert calendar.items.filter(event=due["event"])["item"].to_list() == ["1"]
    assert "due_tma" not in calendar.known_at(to_day("2013-10-04")).types
    assert {"run_end", "run_start"} <= set(calendar.known_at(to_day("2013-10-04")).types)
    material = calendar.events.filter(type="material").row(0, named=True)
    assert (material["start"], material["strength"]) == (dt.date(2013, 10, 19), 2 / 5)


def test_marks_come_after_the_stated_delay(folder: Path):
    log = oulad(folder, score_delay=0)
    assert log.events.filter(type="score")["date"].to_list() == [dt.date(2013, 10, 23)]


def test_the_store_holds_it(folder: Path, tmp_path: Path):
    ingest = pytest.importorskip("habitus.data.ingest").ingest
    store = ingest(oulad(folder), tmp_path / "oulad.store")
    assert (store.n_users, store.n_events) == (2, 6)
    assert store.profiles.height == 2
    assert store.labels.columns == ["user", "run", "student"]
    assert "mark" not in store.amounts
    assert store.calendar.types[:2] == ("due_cma", "due_tma")


def test_what_is_absent_is_named(folder: Path):
    (folder / "studentAssessment.csv").unlink()
    with pytest.raises(SourceError, match=r"studentAssessment\.parquet / \.csv or student_assessment"):
        oulad(folder)


@pytest.mark.skipif(not REAL.is_dir(), reason="the published tables are not at hand (../shared/data/oulad)")
def test_the_published_tables():
    log = oulad(REAL)
    counts = dict(log.events["type"].value_counts().rows())
    assert counts["register"] == log.profiles.height == 32_593 - 45
    assert counts["submit"] == 172_000
    assert counts["unregister"] == 10_033
    kinds = dict(log.calendar.events["type"].value_counts().rows())
    assert (kinds["due_tma"], kinds["due_cma"], kinds["due_exam"], kinds["run_end"]) == (106, 76, 24 - 11, 22)
    assert log.calendar.audiences.height == log.profiles.height
