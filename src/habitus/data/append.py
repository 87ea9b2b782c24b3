"""Adding rows to a store: the new rows are sorted as in an ingest, then merged into each shard beside the old file.

The result is the same store, byte for byte, as one ingest of the old and then the new rows with the same shards.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from habitus.core.atomic import new_folder
from habitus.core.engine import EngineConfig, as_engine, do_jobs
from habitus.core.errors import SchemaError
from habitus.core.progress import bar
from habitus.data.ingest import erased_of, passes_of
from habitus.data.log import EventLog
from habitus.data.pipeline import codes, merge, rejects, stream
from habitus.data.pipeline.codes import Size
from habitus.data.pipeline.derived import Change, Changed, Derive, ShardChange, with_derived
from habitus.data.pipeline.engine import literal, open_engine, quoted
from habitus.data.pipeline.erased import ERASED
from habitus.data.pipeline.manifest import make_manifest, write_tables
from habitus.data.pipeline.scan import Scan
from habitus.data.pipeline.swap import adopt, changing
from habitus.data.pipeline.tables import seal, write_table
from habitus.data.schema import Schema
from habitus.data.shards import Columns, map_shard
from habitus.data.store import Store, shard_of

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

MAY_DIFFER = ("max_rejected", "is_last_day_partial", "events.time_range")


def append(
    path: str | Path,
    log: EventLog,
    *,
    memory_limit: str | int = "4GB",
    threads: int | None = None,
    derive: Derive | None = None,
    engine: EngineConfig | str | None = None,
) -> Store:
    """Add the rows of a log to the store at `path`, and open it anew.

    Later days are the usual case; late rows of earlier days, new users, types and items are fine too. Gives the same
    bytes as one ingest of everything in that order with the same number of shards. A killed or failed append leaves the
    store as it was. A `Store` opened before must be opened again.

    The schema must be that of the store, but for `max_rejected`, `is_last_day_partial` and `time_range`, which the log
    sets anew; the share of rejected rows is that of the new rows. Tables of profiles and items may be left out; where
    given, their rows replace those of the same key. A calendar replaces the old one.

    `derive` keeps counts of interests up to date (`tokens.stored_counts.derive_counts`, which the verb hands in);
    without it they are dropped. Rows of erased users are rejected.

    `engine` says who reads, sorts and merges; see `ingest`.
    Memory: as for `ingest`; the old rows are read by memory map, one shard after another.

    Errors: those of `ingest`; `StoreError` when `path` is no store or another process is changing it; `SchemaError`
    when the schemas differ.

    >>> import polars, tempfile
    >>> from habitus.data.ingest import ingest
    >>> schema = Schema.parse({"events": {"user": "u", "time": "t", "type": {"constant": "visit"}}})
    >>> path = tempfile.mkdtemp() + "/tiny.store"
    >>> _ = ingest(EventLog(schema, polars.DataFrame({"u": ["b"], "t": ["2024-05-01"]})), path)
    >>> append(path, EventLog(schema, polars.DataFrame({"u": ["a"], "t": ["2024-05-02"]}))).users["user"].to_list()
    ['a', 'b']
    """
    with changing(Path(path)) as (store, staging):
        check_schemas(store.schema, log.schema, str(path))
        manifest = _build(store, log, staging, memory_limit, threads, derive, as_engine(engine))
        adopt(staging, store.path, manifest)
    return Store.open(path)


def check_schemas(old: Schema, new: Schema, where: str) -> None:
    """Refuse a log whose schema reads rows otherwise than the store's did. Errors: `SchemaError` with the first key."""
    before, after = _flat(old.dump()), _flat(new.dump())
    for key in sorted({*before, *after}):
        if before.get(key) != after.get(key) and not key.startswith(MAY_DIFFER):
            raise SchemaError(
                f"{key} = {before.get(key)!r}, as in the store", repr(after.get(key)), where=where,
                fix="append with the schema of the store, or ingest everything anew",
            )  # fmt: skip


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


def _build(
    store: Store,
    log: EventLog,
    staging: Path,
    memory_limit: str | int,
    threads: int | None,
    derive: Derive | None,
    workers: EngineConfig,
) -> dict[str, Any]:
    """Fill `staging` with every file that changes; give the manifest of the whole."""
    work = staging / "work"
    for folder in (work, work / "shards", staging / "tables", staging / "shards"):
        folder.mkdir()
    passes = passes_of(workers, memory_limit, store.n_shards)
    engine = open_engine(work, memory_limit, threads)
    try:
        erased = erased_of(store)
        file = work / "rejected.parquet"
        scanned, n_kept, _ = passes.first(engine, log, work, file, _old_keys(store), erased and erased[0])
        _check_user_type(engine, store, scanned)
        tables, rejected = _merged_tables(engine, store, log, scanned, staging)
        tables |= {ERASED: erased[1]} if erased else {}
        sizes = _sizes(engine, store)
        new = passes.second(engine, scanned, n_kept, sizes, work)
        maps = {name: _code_map(engine, store, name) for name in scanned.vocabularies}
        shards = _merged_shards(engine, store, scanned, sizes, new, maps, staging, workers)
        n_read = store.manifest["counts"]["read"] + scanned.n_read
        manifest = make_manifest(engine, scanned, n_read, rejected, tables, shards)
        state = Changed(staging, manifest, scanned.schema, kept=store.path)
        return with_derived(Change(store, state, _changes(engine, scanned, sizes, new)), derive)
    finally:
        engine.close()


def _check_user_type(engine: duckdb.DuckDBPyConnection, store: Store, scanned: Scan) -> None:
    """Text ids and numbers do not mix: "7" and 7 would be two users."""
    file = literal(store.path / store.manifest["tables"]["users"]["file"])
    old = engine.execute(f'DESCRIBE SELECT "user" FROM read_parquet({file})').fetchall()[0][1]
    new = scanned.projection.user_type
    if (old == "VARCHAR") != (new == "VARCHAR"):
        raise SchemaError(
            f"user ids of type {old}, as in the store", new, where=f"{scanned.label}: events.user",
            fix="cast the user in the schema of both",
        )  # fmt: skip


def _merged_tables(
    engine: duckdb.DuckDBPyConnection, store: Store, log: EventLog, scanned: Scan, staging: Path
) -> tuple[dict[str, Any], dict[str, int]]:
    """Number users and vocabularies anew, write the small tables; give their entries and the counts of rejects."""
    old = store.manifest
    codes.index_users(engine, store.n_shards, str(store.path / old["tables"]["users"]["file"]))
    for name in scanned.vocabularies:
        codes.number_vocabulary(engine, name, str(store.path / old["vocabularies"][name]["file"]))
    if store.schema.profile is not None and store.schema.profile.from_ == "events":
        _old_firsts(engine, store)
    tables = write_tables(engine, log, scanned, staging, store)
    both = [store.path / old["tables"]["rejected"]["file"], scanned.work / "rejected.parquet"]
    file = staging / "tables" / "rejected.parquet"
    write_table(engine, f"SELECT * FROM read_parquet([{', '.join(literal(path) for path in both)}])", file)
    rejected = rejects.count_rejected(engine, file)
    return tables | {"rejected": seal(staging, file, "rejected")}, rejected


def _sizes(engine: duckdb.DuckDBPyConnection, store: Store) -> list[Size]:
    sql = "SELECT shard, count(*), sum(n_old), sum(n_new) FROM users GROUP BY shard"
    found = {row[0]: Size(*(int(value) for value in row[1:])) for row in engine.execute(sql).fetchall()}
    return [found.get(shard, Size(0, 0, 0)) for shard in range(store.n_shards)]


def _old_keys(store: Store) -> Iterator[pa.Table]:
    import pyarrow as pa

    for entry in store.manifest["shards"] if store.schema.events.key else []:
        columns = map_shard(store.path / entry["file"])
        yield pa.table({name: columns[name] for name in ("key_high", "key_low")})


def _old_firsts(engine: duckdb.DuckDBPyConnection, store: Store) -> None:
    """Make `old_firsts` (key, first_time, first_order): when each old user's first row happened."""
    import pyarrow as pa

    order = np.zeros(store.n_users, np.int64)
    for i in range(store.n_shards) if store.schema.events.order is not None else []:
        shard = store.shard(i)
        columns = map_shard(store.path / store.manifest["shards"][i]["file"])
        order[shard.first_user : shard.first_user + shard.n_users] = columns["order"][shard.offsets[:-1]]
    file = store.path / store.manifest["tables"]["users"]["file"]
    engine.register("old_order", pa.table({"first_order": order, "idx": np.arange(store.n_users)}))
    engine.execute(
        f"""CREATE OR REPLACE TEMP TABLE old_firsts AS SELECT u."user" AS key, u.first_time, o.first_order
        FROM read_parquet({literal(file)}, file_row_number=true) u JOIN old_order o ON u.file_row_number = o.idx"""
    )
    engine.unregister("old_order")


def _code_map(engine: duckdb.DuckDBPyConnection, store: Store, name: str) -> np.ndarray:
    """Give the new code (int32) of every old code; the last entry, reached as -1, stays -1."""
    file = store.path / store.manifest["vocabularies"][name]["file"]
    sql = f"""SELECT c.code FROM read_parquet({literal(file)}, file_row_number=true) o
        JOIN {quoted("code_" + name)} c ON o.{quoted(name)} = c.value ORDER BY o.file_row_number"""
    found = [row[0] for row in engine.execute(sql).fetchall()]
    return np.array([*found, -1], np.int32)


def _merged_shards(
    engine: duckdb.DuckDBPyConnection,
    store: Store,
    scanned: Scan,
    sizes: list[Size],
    new: list[dict[str, Any]],
    maps: dict[str, np.ndarray],
    staging: Path,
    workers: EngineConfig,
) -> list[dict[str, Any]]:
    """Merge old and new rows shard by shard; a shard without new rows whose codes stay keeps its file."""
    columns = stream.columns_of(scanned.schema)
    is_same = all(np.array_equal(codes[:-1], np.arange(len(codes) - 1)) for codes in maps.values())
    first_user, entries, jobs, places = 0, [], [], []
    for i, size in enumerate(sizes):
        head = {"first_user": first_user, "n_users": size.n_users, "n_events": size.n_old + size.n_new}
        first_user += size.n_users
        entry = store.manifest["shards"][i]
        entries.append(entry | head)
        if size.n_new == 0 and is_same:
            continue
        counts = engine.sql(f"SELECT n_old, n_new FROM users WHERE shard = {i} ORDER BY idx").to_arrow_table()
        sides = (
            merge.Side(
                (store.path / entry["file"]).absolute(), _text(store.path.absolute(), entry), counts["n_old"].to_numpy()
            ),
            merge.Side(
                (scanned.work / new[i]["file"]).absolute(),
                _text(scanned.work.absolute(), new[i]),
                counts["n_new"].to_numpy(),
            ),
        )
        jobs.append((sides, maps, columns, staging.absolute(), i, head))
        places.append(i)
    with bar("merging", len(jobs)) as advance:
        for number, entry in do_jobs(workers, _merged, jobs):
            entries[places[number]] = entry
            advance(1)
    return entries


def _merged(
    sides: tuple[merge.Side, merge.Side],
    maps: dict[str, np.ndarray],
    columns: Columns,
    staging: Path,
    i: int,
    head: dict[str, Any],
) -> dict[str, Any]:
    """Merge one shard in a folder of its own, then move it below `staging`; give its manifest entry."""
    with new_folder(staging / "work" / f"merged-{i:05d}", replace=True) as beside:
        (beside / "shards").mkdir()
        path = beside / "shards" / f"{i:05d}.arrow"
        merge.merge_shard(*sides, maps, columns, path)
        entry = stream.seal_shard(beside, path, head, columns)
        for made in (beside / "shards").iterdir():
            made.replace(staging / "shards" / made.name)
    return entry


def _changes(
    engine: duckdb.DuckDBPyConnection, scanned: Scan, sizes: list[Size], new: list[dict[str, Any]]
) -> dict[int, ShardChange]:
    """Say of each shard with new rows where its old users stand now, and map the new rows."""
    found = {}
    for i, size in enumerate(sizes):
        if size.n_new:
            counts = engine.sql(f"SELECT n_old, n_new FROM users WHERE shard = {i} ORDER BY idx").to_arrow_table()
            offsets = np.concatenate([[0], np.cumsum(counts["n_new"].to_numpy())]).astype(np.int64)
            columns = map_shard(scanned.work / new[i]["file"])
            place = np.flatnonzero(counts["n_old"].to_numpy() > 0)
            found[i] = ShardChange(place, shard_of(scanned.schema, columns, 0, offsets))
    return found


def _text(root: Path, entry: dict[str, Any]) -> Path | None:
    return root / entry["text"]["file"] if "text" in entry else None
