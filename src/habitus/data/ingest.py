"""From a raw log to a store: two passes inside DuckDB under a memory limit, then shards written as they stream out.

Pass 1 types every row, says why a row cannot be used, and counts users and vocabularies. Pass 2 sorts what is kept by
user index, time and source order. The manifest is written last, and the whole folder appears by one rename.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from habitus.core.atomic import new_folder, write_json
from habitus.data import codes, scan, stream
from habitus.data.engine import open_engine
from habitus.data.log import EventLog
from habitus.data.store import MANIFEST, Store
from habitus.data.tables import seal

if TYPE_CHECKING:
    import duckdb


def ingest(
    log: EventLog,
    path: str | Path,
    *,
    memory_limit: str | int = "4GB",
    n_shards: int | None = None,
    threads: int | None = None,
    replace: bool = False,
) -> Store:
    """Write a log to a new store at `path` and open it.

    Parameters
    ----------
    log
        The schema and the raw tables.
    path
        The folder to make. Until all is done nothing is there; a killed or failed ingest leaves nothing usable behind.
    memory_limit
        What the whole process may use, at least "500MB"; larger logs spill to disk beside `path`.
    n_shards
        How many shard files; by default one per two million events. The same log with the same number gives the same
        bytes.
    threads
        Threads of the engine; by default one per core.
    replace
        Take the place of what is at `path`, once the new store is complete.

    Errors: `SourceError` (a file is absent, empty, broken), `SchemaError` (a column is missing or has the wrong type),
    `IngestError` (more than `schema.max_rejected` of the rows cannot be used, or nothing is left), `DiskError`.

    >>> import polars, tempfile
    >>> from habitus.data.schema import Schema
    >>> schema = Schema.parse({"events": {"user": "u", "time": "t", "type": {"constant": "visit"}}})
    >>> log = EventLog(schema, polars.DataFrame({"u": ["a", "b", "a"], "t": ["2024-05-02", "2024-05-01", "2024-05-01"]}))
    >>> store = ingest(log, tempfile.mkdtemp() + "/tiny.store")
    >>> store.n_users, store.n_events, store.users["user"].to_list()
    (2, 3, ['a', 'b'])
    """
    with new_folder(path, replace=replace) as folder:
        work = folder / "work"
        engine = open_engine(work, memory_limit, threads)
        try:
            manifest = _write(engine, log, folder, work, n_shards)
        finally:
            engine.close()
        shutil.rmtree(work)
        write_json(folder / MANIFEST, manifest)
    return Store.open(path)


def _write(
    engine: duckdb.DuckDBPyConnection, log: EventLog, folder: Path, work: Path, n_shards: int | None
) -> dict[str, Any]:
    """Fill `folder` with all files but the manifest; give the manifest."""
    (folder / "tables").mkdir()
    (folder / "shards").mkdir()
    scanned = scan.scan(engine, log, work)
    n_kept = scan.count_users(engine, scanned)
    rejected_file = folder / "tables" / "rejected.parquet"
    rejected = scan.write_rejected(engine, scanned, n_kept, rejected_file)
    scan.check_rejected(engine, scanned, rejected, rejected_file)
    scan.count_vocabularies(engine, scanned)
    sizes = codes.index_users(engine, n_shards or stream.default_shards(n_kept))
    codes.number_vocabularies(engine, scanned.vocabularies)
    tables = codes.write_tables(engine, log, scanned, folder)
    tables["rejected"] = seal(folder, rejected_file, "rejected")
    shards = stream.write_shards(engine, scanned, sizes, folder)
    return codes.manifest(engine, scanned, rejected, tables, shards)
