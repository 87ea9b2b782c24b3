"""Naming a log: registry names, files, tables and databases all become one EventLog."""

from __future__ import annotations

from pathlib import Path

import duckdb
import polars as pl
import pytest

from habitus.core.errors import ConfigError, SourceError
from habitus.data.calendar import Calendar
from habitus.data.schema import Schema
from habitus.data.sources.simulator import ready_made, write
from habitus.tasks.ingest import ingest, log_of, raw_of, summary

SCHEMA = {"events": {"user": "who", "time": "when", "type": {"constant": "visit"}}}
TABLE = pl.DataFrame({"who": ["a", None, "b"], "when": ["2024-05-01", "2024-05-02", "2024-05-02"]})


def test_a_known_source_brings_its_schema_and_calendar():
    log = log_of("online_retail")
    assert log.schema.time_zone == "Europe/London"
    assert "holiday" in log.calendar.types
    other = Schema.parse(SCHEMA)
    assert log_of("online_retail", schema=other).schema is other


def test_a_known_source_reads_the_folder_it_is_given(tmp_path: Path):
    folder = write(ready_made("effects", n_users=20, n_days=70), tmp_path / "world")
    assert log_of("simulator", folder=folder).schema.name == "simulated world"
    with pytest.raises(SourceError, match="--folder"):
        log_of("simulator")


def test_a_name_that_is_neither_is_explained():
    with pytest.raises(ConfigError, match="did you mean 'oulad'"):
        log_of("oulda")
    with pytest.raises(ConfigError, match="--infer"):
        log_of("events.parquet")
    with pytest.raises(ConfigError, match="a schema"):
        log_of(TABLE)


def test_databases_need_to_know_what_to_read(tmp_path: Path):
    with pytest.raises(SourceError) as caught:
        raw_of("postgresql://me:secret@localhost/shop")
    assert "secret" not in str(caught.value)
    with pytest.raises(SourceError, match="--table"):
        raw_of([str(tmp_path / "shop.duckdb")])
    with duckdb.connect(str(tmp_path / "shop.duckdb")) as connection:
        connection.register("given", TABLE.to_arrow())
        connection.execute("CREATE TABLE visits AS SELECT * FROM given")
    store = ingest(tmp_path / "shop.duckdb", tmp_path / "a.store", schema=SCHEMA, table="visits", max_rejected=0.5)
    assert store.n_events == 2
    with pytest.raises(SourceError, match="did you mean 'visits'"):
        ingest(tmp_path / "shop.duckdb", tmp_path / "b.store", schema=SCHEMA, table="visit")


def test_tables_given_replace_those_of_the_source(tmp_path: Path):
    calendar = Calendar.build([{"type": "sale", "start": "2024-05-01"}])
    store = ingest(TABLE, tmp_path / "a.store", schema=SCHEMA, calendar=calendar, max_rejected=0.5)
    assert store.calendar.types == ("sale",)
    calendar.write(tmp_path / "calendar.csv")
    again = ingest(TABLE, tmp_path / "b.store", schema=SCHEMA, calendar=tmp_path / "calendar.csv", max_rejected=0.5)
    assert again.fingerprint == store.fingerprint
    pl.DataFrame({"event": ["sale"], "item": ["a"]}).write_csv(tmp_path / "items.csv")
    both = {"calendar": tmp_path / "calendar.csv", "event_items": tmp_path / "items.csv"}
    third = ingest(TABLE, tmp_path / "c.store", schema=SCHEMA, max_rejected=0.5, **both)
    assert third.calendar.item_types == ("sale",)
    assert third.fingerprint != store.fingerprint
    with pytest.raises(ConfigError, match="--calendar"):
        ingest(TABLE, tmp_path / "d.store", schema=SCHEMA, event_items=tmp_path / "items.csv")


def test_the_summary_adds_up_and_names_the_reasons(tmp_path: Path):
    store = ingest(TABLE, tmp_path / "a.store", schema=SCHEMA, max_rejected=0.5)
    text = summary(store)
    assert "3 = 2 kept + 1 rejected" in text
    assert "no user" in text
    assert "2024-05-01 to 2024-05-02" in text
