"""From a raw log to a store: two passes inside DuckDB under a memory limit, then shards written as they stream out.

Pass 1 types every row, says why a row cannot be used, and counts users and vocabularies. Pass 2 sorts what is kept by
user index, time and source order. The manifest is written last, and the whole folder appears by one rename.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from habitus.core.atomic import new_folder, write_json
from habitus.core.engine import LOCAL, EngineConfig, as_engine
from habitus.core.errors import ConfigError
from habitus.core.progress import bar
from habitus.data.log import EventLog
from habitus.data.pipeline import codes, rejects, scan, stream
from habitus.data.pipeline.engine import open_engine
from habitus.data.pipeline.erased import ERASED
from habitus.data.pipeline.exchange import SharedPasses
from habitus.data.pipeline.manifest import make_manifest, write_tables
from habitus.data.pipeline.swap import adopt, changing, claimed, remove_dead
from habitus.data.pipeline.tables import seal
from habitus.data.store import MANIFEST, Store

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa


def ingest(
    log: EventLog,
    path: str | Path,
    *,
    memory_limit: str | int = "4GB",
    n_shards: int | None = None,
    threads: int | None = None,
    replace: bool = False,
    engine: EngineConfig | str | None = None,
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
    engine
        Who reads and sorts: this process, or workers on Ray, which must see the source and `path`; `memory_limit` is
        then that of each. The bytes are the same.

    Errors: `SourceError` (a file is absent, empty, broken), `SchemaError` (a column is missing or has the wrong type),
    `IngestError` (more than `schema.max_rejected` of the rows cannot be used, or nothing is left), `DiskError`,
    `EngineError`.

    >>> import polars, tempfile
    >>> from habitus.data.schema import Schema
    >>> schema = Schema.parse({"events": {"user": "u", "time": "t", "type": {"constant": "visit"}}})
    >>> rows = polars.DataFrame({"u": ["a", "b", "a"], "t": ["2024-05-02", "2024-05-01", "2024-05-01"]})
    >>> store = ingest(EventLog(schema, rows), tempfile.mkdtemp() + "/tiny.store")
    >>> store.n_users, store.n_events, store.users["user"].to_list()
    (2, 3, ['a', 'b'])
    """
    path = Path(path)
    remove_dead(path)
    chosen = as_engine(engine)
    if replace and path.exists():
        with changing(path) as (old, staging):
            manifest = build(log, staging, memory_limit, n_shards, threads, erased_of(old), chosen)
            adopt(staging, path, manifest)
    else:
        with new_folder(path) as folder, claimed(folder):
            manifest = build(log, folder, memory_limit, n_shards, threads, engine=chosen)
            write_json(folder / MANIFEST, manifest)
    return Store.open(path)


class LocalPasses:
    """Both passes over one log by this process; `SharedPasses` does them by workers."""

    def first(
        self,
        engine: duckdb.DuckDBPyConnection,
        log: EventLog,
        work: Path,
        file: Path,
        old_keys: Iterable[pa.Table] = (),
        erased: Path | None = None,
    ) -> tuple[scan.Scan, int, dict[str, int]]:
        """See `first_pass`."""
        return first_pass(engine, log, work, file, old_keys, erased)

    def second(
        self, engine: duckdb.DuckDBPyConnection, scanned: scan.Scan, n_rows: int, sizes: list[codes.Size], root: Path
    ) -> list[dict[str, Any]]:
        """Sort the rows into shards below `root`; give the manifest entries."""
        return stream.write_shards(stream.sorted_rows(engine, scanned, n_rows), sizes, scanned, root)


def passes_of(engine: EngineConfig, memory_limit: str | int, n_shards: int | None) -> LocalPasses | SharedPasses:
    """Give the passes of an engine."""
    return LocalPasses() if engine.is_local else SharedPasses(engine, memory_limit, n_shards)


def first_pass(
    engine: duckdb.DuckDBPyConnection,
    log: EventLog,
    work: Path,
    file: Path,
    old_keys: Iterable[pa.Table] = (),
    erased: Path | None = None,
) -> tuple[scan.Scan, int, dict[str, int]]:
    """Open the log, count users and vocabularies, write the rejected rows to `file`; shows a bar.

    Gives the scan, the number of kept rows and the rejects by reason.
    """
    with bar("reading", 4) as advance:
        scanned = scan.scan(engine, log, work, erased)
        advance(1)
        scan.refuse_repeats(engine, scanned, old_keys)
        n_kept = scan.count_users(engine, scanned)
        advance(1)
        rejected = rejects.write_rejected(engine, scanned, n_kept, file)
        rejects.check_rejected(engine, scanned, rejected, file)
        advance(1)
        scan.count_vocabularies(engine, scanned)
        advance(1)
    return scanned, n_kept, rejected


def erased_of(store: Store) -> tuple[Path, dict[str, Any]] | None:
    """Give the list of erased users of a store, with its manifest entry: it outlives whatever replaces the log."""
    entry = store.manifest["tables"].get(ERASED)
    return None if entry is None else (store.path / entry["file"], entry)


def build(
    log: EventLog,
    folder: Path,
    memory_limit: str | int,
    n_shards: int | None,
    threads: int | None,
    erased: tuple[Path, dict[str, Any]] | None = None,
    engine: EngineConfig = LOCAL,
) -> dict[str, Any]:
    """Fill `folder` with all files of a store but the manifest; give the manifest."""
    if n_shards is not None and n_shards < 1:
        raise ConfigError("at least 1 shard", str(n_shards), where="n_shards")
    work = folder / "work"
    for name in ("work", "tables", "shards"):
        (folder / name).mkdir()
    passes = passes_of(engine, memory_limit, n_shards)
    duck = open_engine(work, memory_limit, threads)
    try:
        file = folder / "tables" / "rejected.parquet"
        scanned, n_kept, rejected = passes.first(duck, log, work, file, erased=erased and erased[0])
        sizes = codes.index_users(duck, n_shards or stream.default_shards(n_kept))
        for name in scanned.vocabularies:
            codes.number_vocabulary(duck, name)
        tables = write_tables(duck, log, scanned, folder) | {"rejected": seal(folder, file, "rejected")}
        tables |= {ERASED: erased[1]} if erased else {}
        shards = passes.second(duck, scanned, n_kept, sizes, folder)
        manifest = make_manifest(duck, scanned, scanned.n_read, rejected, tables, shards)
    finally:
        duck.close()
    shutil.rmtree(work)
    return manifest
