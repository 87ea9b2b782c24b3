"""OULAD: enrolments in runs of Open University courses, with their due dates.

Kuzilek, Hlosta, Zdrahal (2017), Open University Learning Analytics dataset, CC BY 4.0.
Files, from a folder that the user names (Parquet or CSV, publisher's names or singular): courses, assessments,
studentInfo, studentRegistration, studentAssessment, vle. The click log is not used.

- User = one enrolment, `MODULE-RUN-STUDENT`, so one student may be several users. 45 enrolments without a registration
  date are dropped.
- Days are published relative to the start of a run. They are put on real dates by an **approximation**: runs named B
  start on the first Saturday of February, runs named J on that of October. Differences of days within a run are exact,
  and weekdays agree between runs (due dates of a module fall on one weekday); which weekday it was, and distances
  between runs, are not known.
- Events: `register`; `submit` (an assessment handed in; 1,909 banked ones, all on day -1, are dropped); `score` (its
  score, `score_delay` days after the hand-in, since marking takes time); `unregister`. The hand-in carries the score as
  the outcome `mark`: a target may sum the marks of the work handed in, no input sees them. `final_result` is never
  read, and unregistration is an event, never part of the profile.
- Labels: `run` (2013B, 2013J, ...) and `student`, who may be several users. `run_start` is day 0 of the run.
- Known events, each for the enrolments of its own run: due dates (`due_tma`, `due_cma`, `due_exam`; 11 exams have
  none), strong by their weight in percent, each naming its assessment as item, so that an enrolment's hand-ins tell
  which are open; weeks in which material opens (`material`); first and last day of the run
  (`run_start`, `run_end`). Due dates and material are known from the start of the run, its two ends a year before.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING

from habitus.data.log import EventLog
from habitus.data.schema import Schema
from habitus.data.sources.published import read_published

if TYPE_CHECKING:
    import polars as pl

    from habitus.data.calendar import Calendar

SCHEMA = Path(__file__).with_name("oulad.toml")
RUN = ("code_module", "code_presentation")
STARTS = {"B": 2, "J": 10}  # month
SATURDAY = 5
CATEGORIES = ("gender", "region", "highest_education", "imd_band", "age_band")
NUMBERS = ("num_of_prev_attempts", "studied_credits")


def oulad(folder: str | Path, *, score_delay: int = 14) -> EventLog:
    """Give the OULAD log without clicks: user = enrolment, item = assessment.

    Parameters
    ----------
    folder
        Where the six tables lie.
    score_delay
        Days from hand-in to the day a mark is known.

    Errors: `SourceError` when a table or a column is absent.

    >>> oulad("no/such/folder")
    Traceback (most recent call last):
    ...
    habitus.core.errors.SourceError: expected  a folder with the publisher's files
    found     no such folder
    where     no/such/folder
    """
    runs = _runs(folder)
    enrolments = _enrolments(folder, runs)
    assessments = _assessments(folder, runs)
    return EventLog(
        Schema.read(SCHEMA),
        _events(folder, enrolments, assessments, score_delay),
        _profiles(folder, enrolments),
        calendar=_calendar(folder, runs, enrolments, assessments),
    )


def _runs(folder: str | Path) -> pl.DataFrame:
    """Rows module, run, length in days, and the (approximate) date of day 0."""
    import polars as pl

    table = read_published(
        folder,
        ("courses", "course"),
        {"code_module": pl.String, "code_presentation": pl.String, "module_presentation_length": pl.Int32},
    )
    season = pl.col("code_presentation").str.slice(-1)
    start = {name: _first_saturday(int(name[:4]), STARTS[name[-1]]) for name in table["code_presentation"].unique()}
    return table.with_columns(
        run=_run_name(),
        season=season,
        day_0=pl.col("code_presentation").replace_strict(start, return_dtype=pl.Date),
        length=pl.col("module_presentation_length"),
    ).drop("module_presentation_length")


def _first_saturday(year: int, month: int) -> dt.date:
    first = dt.date(year, month, 1)
    return first + dt.timedelta(days=(SATURDAY - first.weekday()) % 7)


def _run_name() -> pl.Expr:
    import polars as pl

    return pl.concat_str(*RUN, separator="-")


def _on(day: str) -> pl.Expr:
    """The date of a relative day of the run."""
    import polars as pl

    return pl.col("day_0") + pl.duration(days=pl.col(day))


def _enrolments(folder: str | Path, runs: pl.DataFrame) -> pl.DataFrame:
    """Enrolments with a registration date: user, run, dates of registration and unregistration."""
    import polars as pl

    columns = {
        "code_module": pl.String,
        "code_presentation": pl.String,
        "id_student": pl.Int64,
        "date_registration": pl.Int32,
        "date_unregistration": pl.Int32,
    }
    table = read_published(folder, ("studentRegistration", "student_registration"), columns)
    return (
        table.filter(pl.col("date_registration").is_not_null())
        .join(runs, on=RUN)
        .with_columns(
            user=pl.col("run") + "-" + pl.col("id_student").cast(pl.String),
            registered=_on("date_registration"),
            unregistered=_on("date_unregistration"),
        )
    )


def _assessments(folder: str | Path, runs: pl.DataFrame) -> pl.DataFrame:
    import polars as pl

    columns = {
        "code_module": pl.String,
        "code_presentation": pl.String,
        "id_assessment": pl.Int64,
        "assessment_type": pl.String,
        "date": pl.Int32,
        "weight": pl.Float64,
    }
    return read_published(folder, ("assessments", "assessment"), columns).join(runs, on=RUN)


def _events(folder: str | Path, enrolments: pl.DataFrame, assessments: pl.DataFrame, score_delay: int) -> pl.DataFrame:
    """Rows user, date, type, rank (order within a day), id_assessment, kind of assessment, weight, mark, score."""
    import polars as pl

    columns = {
        "id_assessment": pl.Int64,
        "id_student": pl.Int64,
        "date_submitted": pl.Int32,
        "is_banked": pl.Boolean,
        "score": pl.Float64,
    }
    handed_in = (
        read_published(folder, ("studentAssessment", "student_assessment"), columns)
        .filter(~pl.col("is_banked"))
        .join(assessments, on="id_assessment")
        .join(enrolments.select(*RUN, "id_student", "user"), on=(*RUN, "id_student"))
        .with_columns(date=_on("date_submitted"), kind=pl.col("assessment_type").str.to_lowercase())
    )
    late = handed_in.filter(pl.col("score").is_not_null()).with_columns(
        date=pl.col("date").dt.offset_by(f"{score_delay}d")
    )
    ended = enrolments.filter(pl.col("unregistered").is_not_null())
    parts = [
        enrolments.select("user", date="registered", type=pl.lit("register"), rank=0),
        handed_in.select(
            "user", "date", "id_assessment", "kind", "weight", mark="score", type=pl.lit("submit"), rank=1
        ),
        late.select("user", "date", "id_assessment", "kind", "score", type=pl.lit("score"), rank=2),
        ended.select("user", date="unregistered", type=pl.lit("unregister"), rank=3),
    ]
    return pl.concat(parts, how="diagonal")


def _profiles(folder: str | Path, enrolments: pl.DataFrame) -> pl.DataFrame:
    import polars as pl

    keys = {"code_module": pl.String, "code_presentation": pl.String, "id_student": pl.Int64, "disability": pl.Boolean}
    columns = {**keys, **dict.fromkeys(CATEGORIES, pl.String), **dict.fromkeys(NUMBERS, pl.Int32)}
    table = read_published(folder, ("studentInfo", "student"), columns)
    known = enrolments.select(
        *RUN, "id_student", "user", "season", "length", "registered", "date_registration", "day_0"
    )
    return table.join(known, on=(*RUN, "id_student")).select(
        "user",
        *CATEGORIES,
        *NUMBERS,
        "season",
        "registered",
        "code_presentation",
        run_start="day_0",
        student=pl.col("id_student").cast(pl.String),
        module="code_module",
        disability=pl.when("disability").then(pl.lit("yes")).otherwise(pl.lit("no")),
        run_length="length",
        registration_day="date_registration",
    )


def _calendar(folder: str | Path, runs: pl.DataFrame, enrolments: pl.DataFrame, assessments: pl.DataFrame) -> Calendar:
    """Due dates, weeks of material, first and last day: for the enrolments of the run, known from its start."""
    import polars as pl

    from habitus.data.calendar import Calendar

    due = assessments.filter(pl.col("date").is_not_null()).select(
        "run",
        "day_0",
        event=_due_name(),
        type="due_" + pl.col("assessment_type").str.to_lowercase(),
        start=_on("date"),
        end=_on("date"),
        strength=pl.max_horizontal("weight", 1.0),
        is_notable=pl.lit(True),
    )
    ends = [
        runs.select(
            "run",
            day_0=pl.col("day_0").dt.offset_by("-1y"),
            event=pl.col("run") + " " + label,
            type=pl.lit(f"run_{label}"),
            start=day,
            end=day,
            strength=1.0,
            is_notable=pl.lit(True),
        )
        for label, day in (("start", pl.col("day_0")), ("end", _on("length")))
    ]
    rows = pl.concat([due, _material(folder, runs), *ends]).rename({"run": "audience", "day_0": "announced_at"})
    audiences = enrolments.select(audience="run", user="user")
    items = assessments.select(event=_due_name(), item=pl.col("id_assessment").cast(pl.String))
    return Calendar.build(rows, audiences, items, where="oulad: assessments")


def _due_name() -> pl.Expr:
    import polars as pl

    return pl.concat_str("run", "assessment_type", pl.col("id_assessment").cast(pl.String), separator=" ")


def _material(folder: str | Path, runs: pl.DataFrame) -> pl.DataFrame:
    """One event per run and week in which material opens; strong by the number of pages (1 = 5 of them)."""
    import polars as pl

    columns = {"code_module": pl.String, "code_presentation": pl.String, "week_from": pl.Int32}
    weeks = (
        read_published(folder, ("vle",), columns)
        .filter(pl.col("week_from").is_not_null())
        .group_by(*RUN, "week_from", maintain_order=True)
        .len("pages")
        .join(runs, on=RUN)
        .with_columns(first=7 * pl.col("week_from"), last=7 * pl.col("week_from") + 6)
    )
    return weeks.select(
        "run",
        "day_0",
        event=pl.col("run") + " week " + pl.col("week_from").cast(pl.String),
        type=pl.lit("material"),
        start=_on("first"),
        end=_on("last"),
        strength=pl.col("pages") / 5,
        is_notable=pl.lit(False),
    )
