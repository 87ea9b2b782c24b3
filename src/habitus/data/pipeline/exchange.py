"""The two passes done by workers: pieces of the source are read apart, and groups of shards are sorted apart.

    reading   every worker types the rows of a piece, counts users and vocabularies, and lays the rows it keeps into one
              file per group of shards, below `exchange/`
    sorting   every worker sorts the rows of one group and writes its shards

Between the two, the counts are added up here, so that users and codes are numbered as one machine would number them.
Both steps call the functions of `scan`, `stream` and `rejects` that one machine calls; a store is the same, byte for
byte, however the rows were cut.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from habitus.core.atomic import new_folder, write_json
from habitus.core.engine import EngineConfig, do_jobs, n_workers
from habitus.core.progress import bar
from habitus.data.log import EventLog, RawFile, as_raw
from habitus.data.pipeline import codes, rejects, scan, stream
from habitus.data.pipeline.codes import Size
from habitus.data.pipeline.engine import engine_errors, literal, open_engine, quoted
from habitus.data.pipeline.projection import check_columns
from habitus.data.pipeline.scan import Scan
from habitus.data.schema import Schema
from habitus.data.sources.files import Files

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

PIECE = 8_000_000  # rows that a worker reads at most, up to 8 billion in all
SMALLEST_PIECE = 100_000  # fewer are not worth a job
GROUP = 8_000_000  # rows that a worker sorts, where shards are smaller, up to 8 billion in all
MOST = 1_000  # pieces, and groups: rows are exchanged in a file per piece and group
PER_WORKER = 2  # jobs per worker at least, so that a slow one holds up little


@dataclass(frozen=True)
class Ready:
    """A source whose rows are Parquet already, with the columns that the whole source has."""

    label: str
    kinds: dict[str, str]
    parts: tuple[RawFile, ...]

    def columns(self, engine: duckdb.DuckDBPyConnection) -> dict[str, str]:
        return self.kinds

    def files(self, engine: duckdb.DuckDBPyConnection, folder: Path) -> list[RawFile]:
        return list(self.parts)


@dataclass(frozen=True)
class Piece:
    """Rows [low, high) of some files in a row, of which the first is file `first_file` and begins at row `base`."""

    number: int
    source: Ready
    first_file: int
    base: int
    low: int
    high: int


@dataclass(frozen=True)
class Plan:
    """What every worker must know: where rows are exchanged, how shards are grouped, what a worker may use."""

    schema: Schema
    exchange: Path
    n_shards: int
    per_group: int
    memory_limit: str | int
    threads: int | None
    erased: Path | None

    @property
    def has_key(self) -> bool:
        return bool(self.schema.events.key)

    @property
    def n_groups(self) -> int:
        return -(-self.n_shards // self.per_group)


class SharedPasses:
    """Both passes over one log by the workers of an engine; the same answers as on one machine."""

    def __init__(self, engine: EngineConfig, memory_limit: str | int, n_shards: int | None) -> None:
        self.engine, self.memory_limit, self.n_shards = engine, memory_limit, n_shards
        self._plan: Plan | None = None

    def first(
        self,
        engine: duckdb.DuckDBPyConnection,
        log: EventLog,
        work: Path,
        file: Path,
        old_keys: Iterable[pa.Table] = (),
        erased: Path | None = None,
    ) -> tuple[Scan, int, dict[str, int]]:
        """See `habitus.data.ingest.first_pass`."""
        source = self._source(engine, log, work)
        n_rows = sum(part.n_rows for part in source.parts)
        if n_rows + sum(part.n_rejects for part in source.parts) == 0:
            scan.scan(engine, replace(log, events=source), work)  # which says so
        n_shards = self.n_shards or stream.default_shards(n_rows)
        found = self._read(source, self._planned(log.schema, work, n_shards, n_rows, erased))
        scanned = Scan(
            log.schema, source.label, list(source.parts), found, work, scan.stamps(list(source.parts)), bool(erased)
        )
        n_kept, rejected = self._add_up(engine, scanned, file, old_keys)
        if self.n_shards is None and stream.default_shards(n_kept) != n_shards:  # rejects were many: cut anew
            shutil.rmtree(self.plan.exchange)
            self._read(source, self._planned(log.schema, work, stream.default_shards(n_kept), n_rows, erased))
            n_kept, rejected = self._add_up(engine, scanned, file, old_keys)
        return scanned, n_kept, rejected

    def second(
        self, engine: duckdb.DuckDBPyConnection, scanned: Scan, n_rows: int, sizes: list[Size], root: Path
    ) -> list[dict[str, Any]]:
        """Sort the rows into shards below `root`; give the manifest entries. The table `users` must be made."""
        plan = self.plan
        shared = plan.exchange / "shared"
        shared.mkdir()
        _copy(engine, "SELECT * FROM users ORDER BY idx", shared / "users.parquet")
        for k, name in enumerate(scanned.vocabularies):
            _copy(engine, f"SELECT * FROM {quoted('code_' + name)} ORDER BY code", shared / f"code-{k}.parquet")
        if scan.has_repeats(engine):
            _copy(engine, "SELECT * FROM repeated", shared / "repeated.parquet")
        jobs, first_user = [], 0
        for group in range(plan.n_groups):
            own = sizes[group * plan.per_group : (group + 1) * plan.per_group]
            jobs.append((scanned, plan, group, own, first_user))
            first_user += sum(size.n_users for size in own)
        entries: list[dict[str, Any]] = []
        with bar("sorting and writing", len(jobs)) as advance:
            for _ in do_jobs(self.engine, sort_group, jobs):
                advance(1)
        scan.check_unchanged(scanned)
        for group in range(plan.n_groups):
            folder = plan.exchange / f"sorted-{group:05d}"
            entries += json.loads((folder / "shards.json").read_text("utf-8"))
            for made in (folder / "shards").iterdir():
                made.replace(root / "shards" / made.name)
        shutil.rmtree(plan.exchange)
        return entries

    @property
    def plan(self) -> Plan:
        assert self._plan is not None, "the first pass comes first"
        return self._plan

    def _planned(self, schema: Schema, work: Path, n_shards: int, n_rows: int, erased: Path | None) -> Plan:
        n_groups = min(n_shards, MOST, max(PER_WORKER * n_workers(self.engine), -(-n_rows // GROUP)))
        exchange = work.absolute() / "exchange"
        exchange.mkdir()
        self._plan = Plan(
            schema, exchange, n_shards, -(-n_shards // n_groups), self.memory_limit, self.engine.threads,
            erased and erased.absolute(),
        )  # fmt: skip
        return self._plan

    def _source(self, engine: duckdb.DuckDBPyConnection, log: EventLog, work: Path) -> Ready:
        """Give the source as Parquet files; several files of text are parsed by workers, one each."""
        raw = as_raw(log.events)
        columns = raw.columns(engine)
        check_columns(log.schema, columns, raw.label)
        if isinstance(raw, Files) and raw.format != "parquet" and len(raw.paths) > 1:
            jobs = [(raw, k, work.absolute(), self.memory_limit, self.engine.threads) for k in range(len(raw.paths))]
            parts = [part for _, part in sorted(do_jobs(self.engine, parse_file, jobs), key=lambda done: done[0])]
        else:
            parts = raw.files(engine, work)
        return Ready(raw.label, columns, tuple(replace(part, path=part.path.absolute()) for part in parts))

    def _read(self, source: Ready, plan: Plan) -> Any:
        """Have every piece read; give the projection."""
        pieces = list(cut(source, PER_WORKER * n_workers(self.engine)))
        found = None
        with bar("reading", len(pieces)) as advance:
            for _, projection in do_jobs(self.engine, read_piece, [(piece, plan) for piece in pieces]):
                found = projection
                advance(1)
        return found

    def _add_up(
        self, engine: duckdb.DuckDBPyConnection, scanned: Scan, file: Path, old_keys: Iterable[pa.Table]
    ) -> tuple[int, dict[str, int]]:
        """Add the counts of all pieces up, as tables of `engine`; write the rejected rows."""
        plan = self.plan
        with engine_errors(scanned.label):
            _view(engine, plan, "bucket=*")
            scan.refuse_repeats(engine, scanned, old_keys)
            if scan.has_repeats(engine):
                n_kept = scan.count_users(engine, scanned)
                scan.count_vocabularies(engine, scanned)
            else:
                n_kept = _added_counts(engine, plan, scanned)
        rejected = rejects.write_rejected(engine, scanned, n_kept, file)
        rejects.check_rejected(engine, scanned, rejected, file)
        return n_kept, rejected


def cut(source: Ready, at_least: int) -> Iterator[Piece]:
    """Cut a source into pieces: of one file each, so that a worker opens no other, where all have the same columns."""
    n_rows = sum(part.n_rows for part in source.parts)
    size = max(min(PIECE, -(-n_rows // at_least)), SMALLEST_PIECE, -(-n_rows // MOST))
    if not _is_alike(source):
        for number, low in enumerate(range(0, max(n_rows, 1), size)):
            yield Piece(number, source, 0, 0, low, min(low + size, n_rows))
        return
    number, base = 0, 0
    for k, part in enumerate(source.parts):
        alone = replace(source, parts=(replace(part, rejects=None, n_rejects=0),))
        for low in range(0, part.n_rows, size):
            yield Piece(number, alone, k, base, low, min(low + size, part.n_rows))
            number += 1
        base += part.n_rows


def _is_alike(source: Ready) -> bool:
    import pyarrow.parquet as pq

    first, *others = (pq.read_schema(part.path) for part in source.parts)
    return all(other.equals(first) for other in others)


def parse_file(files: Files, number: int, folder: Path, memory_limit: str | int, threads: int | None) -> RawFile:
    """Parse one file of text into Parquet in `folder`."""
    goal = folder / f"parsed-{number:05d}"
    with new_folder(goal, replace=True) as beside:
        engine = open_engine(beside / "work", memory_limit, threads)
        try:
            part = replace(files, paths=files.paths[number : number + 1]).files(engine, beside)[0]
        finally:
            engine.close()
        shutil.rmtree(beside / "work")
    rejects = None if part.rejects is None else goal / part.rejects.relative_to(beside)
    return replace(part, path=goal / part.path.relative_to(beside), rejects=rejects)


def read_piece(piece: Piece, plan: Plan) -> Any:
    """Type the rows of a piece, count them, lay them out by group of shards; give the projection."""
    goal = plan.exchange / f"part-{piece.number:05d}"
    with new_folder(goal, replace=True) as beside:
        work = beside / "work"
        engine = open_engine(work, plan.memory_limit, plan.threads)
        try:
            scanned = scan.scan(engine, EventLog(plan.schema, piece.source), work, plan.erased)
            with engine_errors(scanned.label):
                _hold(engine, piece)
                _count(engine, scanned, beside)
                _lay_out(engine, plan, beside)
        finally:
            engine.close()
        shutil.rmtree(work)
    return scanned.projection


def _hold(engine: duckdb.DuckDBPyConnection, piece: Piece) -> None:
    """Read the piece once: `typed` becomes a table of its rows, numbered as in the whole source."""
    columns = f"* REPLACE (row + {piece.base} AS row, file + {piece.first_file} AS file)"
    engine.execute(
        f"""CREATE TEMP TABLE held AS SELECT {columns} FROM typed_rows WHERE row >= {piece.low} AND row < {piece.high};
        CREATE OR REPLACE TEMP VIEW typed AS SELECT * FROM held"""
    )


def _count(engine: duckdb.DuckDBPyConnection, scanned: Scan, folder: Path) -> None:
    scan.count_users(engine, scanned)
    scan.count_vocabularies(engine, scanned)
    _copy(engine, "SELECT * FROM new_users", folder / "users.parquet")
    for k, name in enumerate(scanned.vocabularies):
        _copy(engine, f"SELECT * FROM {quoted('new_' + name)}", folder / f"new-{k}.parquet")


def _lay_out(engine: duckdb.DuckDBPyConnection, plan: Plan, folder: Path) -> None:
    left_out = "reason" if plan.has_key else "reason, raw, file, position"  # of a repeated key, the row is shown
    group = f"{codes.shard_sql(quoted('user'), plan.n_shards)} // {plan.per_group}"
    kept = f"SELECT * EXCLUDE ({left_out}), {group} AS bucket FROM typed WHERE reason IS NULL"
    options = "FORMAT parquet, COMPRESSION lz4, PARTITION_BY (bucket)"
    (folder / "kept").mkdir()
    engine.execute(f"COPY ({kept}) TO {literal(folder / 'kept')} ({options}, OVERWRITE_OR_IGNORE)")
    _copy(engine, "SELECT reason, file, position, raw FROM typed WHERE reason IS NOT NULL", folder / "rejected.parquet")


def _view(engine: duckdb.DuckDBPyConnection, plan: Plan, bucket: str, *, has_rejects: bool = True) -> None:
    """Make the views `typed_rows` and `typed` over the rows that were laid out."""
    pieces = []
    if any(plan.exchange.glob(f"part-*/kept/{bucket}/*.parquet")):
        file = literal(plan.exchange / "part-*" / "kept" / bucket / "*.parquet")
        blanks = "" if plan.has_key else ", NULL::VARCHAR AS raw, NULL::BIGINT AS file, NULL::BIGINT AS position"
        rows = f"read_parquet({file}, hive_partitioning=false)"
        pieces.append(f"SELECT *, NULL::VARCHAR AS reason{blanks} FROM {rows}")
    if has_rejects:
        pieces.append(f"SELECT * FROM read_parquet({literal(plan.exchange / 'part-*' / 'rejected.parquet')})")
    union = " UNION ALL BY NAME ".join(pieces)
    engine.execute(
        f"CREATE OR REPLACE TEMP VIEW typed_rows AS {union}; CREATE OR REPLACE TEMP VIEW typed AS FROM typed_rows"
    )


def _added_counts(engine: duckdb.DuckDBPyConnection, plan: Plan, scanned: Scan) -> int:
    """Make `new_users` and `new_<vocabulary>` from those of all pieces; give the number of kept rows."""

    def every(name: str) -> str:
        return f"read_parquet({literal(plan.exchange / 'part-*' / name)})"

    engine.execute(
        f"""CREATE OR REPLACE TEMP TABLE new_users AS SELECT "user", CAST(sum(n_events) AS BIGINT) AS n_events,
        min(first_time) AS first_time, max(last_time) AS last_time FROM {every("users.parquet")} GROUP BY "user" """
    )
    for k, name in enumerate(scanned.vocabularies):
        engine.execute(
            f"""CREATE OR REPLACE TEMP TABLE {quoted("new_" + name)} AS SELECT value, min(first_time) AS first_time
            FROM {every(f"new-{k}.parquet")} WHERE first_time IS NOT NULL GROUP BY value"""
        )
    return int(engine.execute("SELECT coalesce(sum(n_events), 0) FROM new_users").fetchall()[0][0])


def sort_group(scanned: Scan, plan: Plan, group: int, sizes: list[Size], first_user: int) -> None:
    """Sort the rows of one group of shards and write the shards, with their manifest entries beside them."""
    first, shared = group * plan.per_group, plan.exchange / "shared"
    with new_folder(plan.exchange / f"sorted-{group:05d}", replace=True) as beside:
        work = beside / "work"
        (beside / "shards").mkdir()
        engine = open_engine(work, plan.memory_limit, plan.threads)
        try:
            with engine_errors(scanned.label):
                _load(engine, plan, scanned, group, len(sizes))
            own = replace(scanned, work=work)
            n_rows = sum(size.n_new for size in sizes)
            batches = stream.sorted_rows(engine, own, n_rows) if n_rows else iter(())
            entries = stream.write_shards(batches, sizes, own, beside, first_shard=first, first_user=first_user)
        finally:
            engine.close()
        write_json(beside / "shards.json", entries)
        shutil.rmtree(work)
    assert shared.is_dir()


def _load(engine: duckdb.DuckDBPyConnection, plan: Plan, scanned: Scan, group: int, n_shards: int) -> None:
    """Make the tables and views that `stream.sorted_rows` reads, of one group."""
    shared, first = plan.exchange / "shared", group * plan.per_group
    users = f"read_parquet({literal(shared / 'users.parquet')}) WHERE shard BETWEEN {first} AND {first + n_shards - 1}"
    engine.execute(f"CREATE TEMP TABLE users AS SELECT * FROM {users} ORDER BY idx")
    engine.execute("CREATE TEMP VIEW new_users AS SELECT * FROM users WHERE n_new > 0")
    for k, name in enumerate(scanned.vocabularies):
        file = literal(shared / f"code-{k}.parquet")
        engine.execute(f"CREATE TEMP TABLE {quoted('code_' + name)} AS SELECT * FROM read_parquet({file})")
    if any(plan.exchange.glob(f"part-*/kept/bucket={group}/*.parquet")):
        _view(engine, plan, f"bucket={group}", has_rejects=False)
    if (shared / "repeated.parquet").is_file():
        file = literal(shared / "repeated.parquet")
        engine.execute(f"CREATE TEMP TABLE repeated AS SELECT * FROM read_parquet({file})")
        scan.mark_repeats(engine)


def _copy(engine: duckdb.DuckDBPyConnection, sql: str, path: Path) -> None:
    engine.execute(f"COPY ({sql}) TO {literal(path)} (FORMAT parquet, COMPRESSION lz4)")
