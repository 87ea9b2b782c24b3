"""Stats.StackExchange: on a small archive made here, and on the published dump where it is at hand."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import polars as pl
import pytest

from habitus.core.errors import SchemaError, SourceError
from habitus.data.ingest import ingest
from habitus.data.schema import Schema
from habitus.data.sources import xml_rows
from habitus.data.sources.stats_se import SCHEMA, stats_se
from habitus.data.sources.xml_rows import read_rows

REAL = Path(__file__).parents[4] / "shared" / "data" / "stats_se"

USERS = """
<row Id="-1" Reputation="1" CreationDate="2010-07-19T06:55:26.860" />
<row Id="2" Reputation="101" CreationDate="2010-07-19T14:01:36.697" DisplayName="A &lt;b&gt; &amp; C" />
<row Id="3" Reputation="7" CreationDate="2010-07-25T10:00:00.000" DisplayName="späť" />
"""
POSTS = """
<row Id="1" PostTypeId="1" CreationDate="2010-07-20T09:00:00.000" Score="9" OwnerUserId="2"
  Body="&lt;row Id=&quot;9&quot; /&gt;&#xA;" />
<row Id="2" PostTypeId="2" CreationDate="2010-07-24T09:00:00.000" OwnerUserId="3" Body="its owner came later" />
<row Id="3" PostTypeId="2" CreationDate="2010-07-25T09:00:00.000" OwnerUserId="3" Body="an hour early" />
<row Id="4" PostTypeId="2" CreationDate="2010-07-26T09:00:00.000" Body="nobody's" />
<row Id="5" PostTypeId="4" CreationDate="2010-07-26T09:00:00.000" OwnerUserId="2" Body="a wiki page" />
"""
BADGES = """
<row Id="1" UserId="2" Name="Teacher" Date="2010-07-27T00:00:00.000" Class="3" />
<row Id="2" UserId="-1" Name="Critic" Date="2010-07-28T00:00:00.000" Class="3" />
"""


def _xml(name: str, rows: str) -> str:
    return f'<?xml version="1.0" encoding="utf-8"?>\n<{name}>{rows}</{name}>\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, rows in (("users", USERS), ("posts", POSTS), ("badges", BADGES)):
        (tmp_path / f"{name.capitalize()}.xml").write_text(_xml(name, rows), "utf-8")
    return tmp_path


def test_registrations_posts_and_badges_become_one_log(folder: Path):
    log = stats_se(folder)
    assert log.events.sort("time", "rank").select("user", "time", "type").rows() == [
        ("2", dt.datetime(2010, 7, 19, 14, 1, 36, 697000), "register"),
        ("2", dt.datetime(2010, 7, 20, 9), "question"),
        ("3", dt.datetime(2010, 7, 25, 9), "answer"),
        ("3", dt.datetime(2010, 7, 25, 10), "register"),
        ("2", dt.datetime(2010, 7, 27), "badge"),
    ]
    assert log.profiles.rows() == [("2", dt.date(2010, 7, 19)), ("3", dt.date(2010, 7, 25))]
    assert "Independence Day (observed)" in log.calendar.events["event"].to_list()
    assert log.calendar.audiences.is_empty()


def test_the_archive_and_the_tables_give_the_same_log(folder: Path, tmp_path: Path):
    tables = tmp_path / "tables"
    tables.mkdir()
    for name in ("users", "posts", "badges"):
        columns = ["Id", "CreationDate", "PostTypeId", "OwnerUserId", "UserId", "Date"]
        text = read_rows(folder / f"{name.capitalize()}.xml", columns)
        times = [c for c in ("CreationDate", "Date") if text[c].null_count() < len(text)]
        numbers = [c for c in columns if c not in ("CreationDate", "Date")]
        text.with_columns(pl.col(times).str.to_datetime(time_unit="us"), pl.col(numbers).cast(pl.Int64)).write_parquet(
            tables / f"{name}.parquet"
        )
    assert stats_se(tables).events.equals(stats_se(folder).events)


def test_the_store_holds_it(folder: Path, tmp_path: Path):
    store = ingest(stats_se(folder), tmp_path / "se.store")
    assert sorted(store.types) == ["answer", "badge", "question", "register"]
    assert (store.n_users, store.n_events) == (2, 5)
    assert store.last_day == (dt.date(2010, 7, 26) - dt.date(1970, 1, 1)).days  # the day of the dump is partial


@pytest.mark.parametrize("column", ["Score", "ViewCount", "AnswerCount", "CommentCount", "FavoriteCount"])
def test_what_was_written_at_the_end_is_refused_as_an_input(column: str):
    values = Schema.read(SCHEMA).dump()
    values["events"]["amounts"] = {"points": {"value": column}}
    with pytest.raises(SchemaError, match=column):
        Schema.parse(values)


@pytest.mark.parametrize("column", ["Reputation", "Views", "UpVotes", "DownVotes"])
def test_an_account_s_last_counters_are_no_profile(column: str):
    values = Schema.read(SCHEMA).dump()
    values["profile"]["columns"]["counter"] = {"column": column, "kind": "number"}
    with pytest.raises(SchemaError, match=column):
        Schema.parse(values)


def test_rows_come_in_pieces_and_in_order(folder: Path, monkeypatch: pytest.MonkeyPatch):
    whole = read_rows(folder / "Posts.xml", ["Id", "Body"])
    monkeypatch.setattr(xml_rows, "ROWS", 2)
    monkeypatch.setattr(xml_rows, "CHUNK", 7)
    assert read_rows(folder / "Posts.xml", ["Id", "Body"]).equals(whole)
    assert whole["Id"].to_list() == ["1", "2", "3", "4", "5"]
    assert whole["Body"][0] == '<row Id="9" />\n'  # text of a post is never a row


def test_a_file_cut_short_is_named_with_its_line(folder: Path):
    file = folder / "Posts.xml"
    file.write_text(file.read_text("utf-8")[:-60], "utf-8")
    with pytest.raises(SourceError, match=r"Posts\.xml, line 8"):
        stats_se(folder)


def test_declared_entities_are_refused(tmp_path: Path):
    file = tmp_path / "Users.xml"
    file.write_text('<!DOCTYPE a [<!ENTITY b "bb"><!ENTITY c "&b;&b;">]><users><row Id="&c;" /></users>', "utf-8")
    with pytest.raises(SourceError, match="declaration of entities"):
        read_rows(file, ["Id"])


def test_what_is_absent_is_named(folder: Path):
    (folder / "Badges.xml").write_text(_xml("badges", '<row Id="1" UserId="2" />'), "utf-8")
    with pytest.raises(SourceError, match="an attribute 'Date'"):
        stats_se(folder)
    (folder / "Badges.xml").unlink()
    with pytest.raises(SourceError, match=r"badges\.parquet"):
        stats_se(folder)


@pytest.mark.skipif(not REAL.is_dir(), reason="the published dump is not at hand (shared/data/stats_se)")
def test_the_published_dump():
    log = stats_se(REAL)
    counts = dict(log.events["type"].value_counts().rows())
    assert counts == {"register": 40_324, "question": 41_935, "answer": 47_012, "badge": 79_851}
    assert log.events.filter(pl.col("user") == "-1").is_empty()
