"""The manifest of a store: what is in it, how much was read, kept and rejected, and the hash of every file."""

from __future__ import annotations

import datetime
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from habitus.data.log import EventLog
from habitus.data.pipeline import attributes, codes
from habitus.data.pipeline.engine import engine_errors
from habitus.data.pipeline.erased import ERASED, is_erased
from habitus.data.pipeline.scan import Scan
from habitus.data.pipeline.tables import seal, write_table
from habitus.data.pipeline.zones import local_days
from habitus.data.schema import Schema
from habitus.data.store import FORMAT, Store

if TYPE_CHECKING:
    import duckdb


def write_tables(
    engine: duckdb.DuckDBPyConnection, log: EventLog, scanned: Scan, root: Path, old: Store | None = None
) -> dict[str, dict[str, Any]]:
    """Write users, vocabularies, profiles, items and the calendar below `root`; give their manifest entries."""
    schema = scanned.schema

    def old_file(name: str) -> Path | None:
        return old.path / old.manifest["tables"][name]["file"] if old and name in old.manifest["tables"] else None

    queries: dict[str, str | None] = {"users": codes.users_sql(engine, schema.time_zone)}
    queries |= {f"vocabulary_{name}": codes.vocabulary_sql(name) for name in scanned.vocabularies}
    with engine_errors(scanned.label):
        if schema.profile is not None:
            queries["profiles"] = attributes.profiles_sql(engine, log, scanned, old_file("profiles"))
        if schema.items is not None and schema.events.item is not None:
            files = old_file("items"), old_file("item_times")
            queries["items"], queries["item_times"] = attributes.items_sql(engine, log, scanned, *files)
    entries = {}
    for name, sql in queries.items():
        if sql is not None:
            file = root / "tables" / f"{name}.parquet"
            with engine_errors(f"{scanned.label}: {name}"):
                write_table(engine, sql, file)
            entries[name] = seal(root, file, name)
    return entries | _write_calendar(engine, log, root, old, scanned.has_erased)


def _write_calendar(
    engine: duckdb.DuckDBPyConnection, log: EventLog, root: Path, old: Store | None, has_erased: bool
) -> dict[str, Any]:
    if log.calendar is None:
        kept = old.manifest["tables"] if old is not None else {}
        return {name: kept[name] for name in ("calendar", "audiences", "event_items") if name in kept}
    calendar, entries = log.calendar, {}
    audiences = calendar.audiences
    if has_erased and audiences.height:
        engine.register("given_audiences", audiences.to_arrow())
        is_gone = is_erased("user")
        audiences = engine.sql(f"SELECT * FROM given_audiences WHERE NOT {is_gone}").pl()
        engine.unregister("given_audiences")
    frames = {"calendar": calendar.events, "audiences": audiences}
    for name, frame in (frames | ({"event_items": calendar.items} if calendar.items.height else {})).items():
        file = root / "tables" / f"{name}.parquet"
        frame.write_parquet(file, compression="zstd")
        entries[name] = seal(root, file, name)
    return entries


def make_manifest(
    engine: duckdb.DuckDBPyConnection,
    scanned: Scan,
    n_read: int,
    rejected: dict[str, int],
    tables: dict[str, Any],
    shards: list[dict[str, Any]],
) -> dict[str, Any]:
    """Put the manifest together. The fingerprint covers the schema and every kept value, not the rejected rows."""
    sql = "SELECT count(*), sum(n_old + n_new), min(first_time), max(last_time) FROM users"
    size = tuple(int(value) for value in engine.execute(sql).fetchall()[0])
    return described(scanned.schema, scanned.vocabularies, size, n_read, rejected, tables, shards)


def described(
    schema: Schema,
    names: list[str],
    size: tuple[int, ...],
    n_read: int,
    rejected: dict[str, int],
    tables: dict[str, Any],
    shards: list[dict[str, Any]],
) -> dict[str, Any]:
    """Describe a state of a store; `size` is users, events, first and last instant, `names` the vocabularies."""
    n_users, n_events, first, last = size
    first_day, last_day = local_days(np.array([first, last]), schema.time_zone).tolist()
    vocabularies = {name: tables[f"vocabulary_{name}"] for name in names}
    others = {name: entry for name, entry in tables.items() if not name.startswith("vocabulary_")}
    content = {
        "schema": schema.dump(),
        "vocabularies": {name: entry["sha256"] for name, entry in vocabularies.items()},
        "tables": {name: entry["sha256"] for name, entry in others.items() if name not in ("rejected", ERASED)},
        "shards": [[shard["sha256"], shard.get("text", {}).get("sha256")] for shard in shards],
    }
    return {
        "format": FORMAT,
        "name": schema.name,
        "fingerprint": hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest(),
        "n_users": n_users,
        "n_events": n_events,
        "counts": {"read": n_read, "kept": n_events, "rejected": rejected},
        "time": {"first": _iso(first), "last": _iso(last)},
        "days": {
            "first": first_day,
            "last": last_day,
            "last_complete": last_day - 1 if schema.is_last_day_partial else last_day,
        },
        "schema": schema.dump(),
        "vocabularies": vocabularies,
        "tables": others,
        "shards": shards,
    }


def _iso(time: int) -> str:
    return (datetime.datetime(1970, 1, 1) + datetime.timedelta(microseconds=time)).isoformat() + "Z"
