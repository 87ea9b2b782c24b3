"""Erase: the users' ids are in no file, their rows in no table, and an old file does not bring them back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from habitus.core.errors import IngestError, StoreError
from habitus.data.append import append
from habitus.data.calendar import Calendar
from habitus.data.erase import erase
from habitus.data.ingest import ingest
from habitus.data.log import EventLog
from habitus.data.schema import Schema
from habitus.data.store import Store

SCHEMA = Schema.parse(
    {
        "max_rejected": 0.5,
        "events": {"user": "who", "time": "t", "type": "k", "item": "i", "text": {"note": "note"}},
        "profile": {"from": "table", "key": "who", "columns": {"city": "city"}},
        "items": {"columns": {"note": {"column": "note", "kind": "text"}}},
    }
)
GONE = ["person-2", "person-3"]


def table(n: int = 60) -> pl.DataFrame:
    who = [f"person-{i % 6}" for i in range(n)]
    days = [f"2024-05-{1 + i % 28:02d}" for i in range(n)]
    times = [None if i in (2, 10) else day for i, day in enumerate(days)]  # one rejected row of a user who goes
    notes = ["sent to person-3" if i == 10 else f"note {i}" for i in range(n)]
    return pl.DataFrame({"who": who, "t": times, "k": ["x"] * n, "i": [f"i{i % 5}" for i in range(n)], "note": notes})


def log(rows: pl.DataFrame) -> EventLog:
    people = pl.DataFrame({"who": [f"person-{i}" for i in range(6)], "city": ["Ulm"] * 6})
    events = pl.DataFrame({"event": ["sale"], "type": ["sale"], "start": ["2024-05-03"], "audience": ["some"]})
    members = pl.DataFrame({"audience": ["some"] * 2, "user": ["person-2", "person-4"]})
    events = events.with_columns(pl.col("start").str.to_date())
    return EventLog(SCHEMA, rows, profiles=people, calendar=Calendar.build(events, members))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return ingest(log(table()), tmp_path / "s", n_shards=2)


def holding(path: Path, word: str) -> list[str]:
    """Files that hold a word, in plain bytes or in a column of a Parquet file, whose pages are compressed."""
    found = []
    files = [file for file in sorted(path.rglob("*")) if file.is_file()]
    assert len(files) > 8
    for file in files:
        content = file.read_bytes().decode("latin-1")
        if file.suffix == ".parquet":
            content += pl.read_parquet(file).write_ndjson()
        if word in content:
            found.append(file.name)
    return found


def test_the_search_finds_them_before(store: Store):
    assert {name.split("-")[0] for name in holding(store.path, "person-2")} == {
        "users", "profiles", "audiences", "rejected",
    }  # fmt: skip


def test_no_file_names_an_erased_user_and_counts_add_up(store: Store):
    derived = store.path / "derived" / "days-0"
    derived.mkdir(parents=True)
    done = erase(store.path, GONE)
    store = Store.open(store.path)
    store.check()
    for user in GONE:
        assert holding(store.path, user) == []
    assert not derived.exists()
    assert (done.n_users, done.n_events, done.n_rejected, done.unknown) == (2, 19, 1, ())
    counts = store.manifest["counts"]
    assert counts["read"] == counts["kept"] + sum(counts["rejected"].values()) == 40
    assert store.n_events == 39
    assert store.users["user"].to_list() == store.profiles["user"].to_list()  # pyright: ignore
    assert store.calendar.audiences["user"].to_list() == ["person-4"]
    assert store.rejected["raw"].to_list() == [None]  # another user's row, whose text named one of the two


def test_an_old_file_does_not_bring_them_back(store: Store):
    erase(store.path, [*GONE, "never-seen"])
    before = Store.open(store.path).n_events
    again = store
    for verb in (append, lambda path, rows: ingest(rows, path, n_shards=2, replace=True)):
        again = verb(store.path, log(table()))
        assert not set(GONE) & set(again.users["user"].to_list())
        assert again.manifest["counts"]["rejected"]["erased"] == 20
        for user in GONE:
            assert [name for name in holding(store.path, user) if not name.startswith("rejected")] == []
    assert again.n_events == before  # the replacement, which holds each row once
    stranger = table(6).with_columns(who=pl.lit("never-seen"), t=pl.lit("2024-05-02"))
    with pytest.raises(IngestError, match="erased: 6"):
        append(store.path, log(stranger))


def test_others_keep_their_rows_and_the_store_is_as_if_they_had_never_been(store: Store, tmp_path: Path):
    erase(store.path, GONE)
    rest = table().filter(~pl.col("who").is_in(GONE))
    never = ingest(log(rest), tmp_path / "never", n_shards=2)
    found = Store.open(store.path)
    for name in ("users", "profiles"):
        assert (found.path / found.manifest["tables"][name]["file"]).read_bytes() == (
            never.path / never.manifest["tables"][name]["file"]
        ).read_bytes()
    assert found.manifest["days"] == never.manifest["days"]
    for i in range(2):  # vocabularies stay, so codes are those from before
        mine, other = found.shard(i), never.shard(i)
        for name in ("offsets", "time", "day"):
            np.testing.assert_array_equal(getattr(mine, name), getattr(other, name))
        texts = [np.array(s.items)[shard.item].tolist() for s, shard in ((found, mine), (never, other))]
        assert texts[0] == texts[1]
        assert mine.text["note"].to_pylist() == other.text["note"].to_pylist()


def test_somebody_has_to_be_left(store: Store):
    with pytest.raises(StoreError, match="somebody to be left"):
        erase(store.path, [f"person-{i}" for i in range(6)])
    assert Store.open(store.path).n_users == 6


def test_short_ids_are_found_as_whole_words_only(tmp_path: Path):
    schema = Schema.parse({"max_rejected": 0.9, "events": {"user": "u", "time": "t", "type": "k"}})
    rows = pl.DataFrame({"u": [7, 8, 7, 8], "t": ["2024-05-01", "2024-05-02", None, None], "k": ["a", "a", "b", "77"]})
    path = ingest(EventLog(schema, rows), tmp_path / "s").path
    assert erase(path, [7]).n_rejected == 1
    left = Store.open(path)
    assert left.users["user"].to_list() == [8]
    assert '"77"' in left.rejected["raw"][0]
