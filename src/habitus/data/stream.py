"""Pass 2: sort what is kept inside the engine and write it to shards as it streams out."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from habitus.core.errors import SourceError
from habitus.core.progress import bar
from habitus.data import zones
from habitus.data.engine import engine_errors, quoted
from habitus.data.scan import Scan
from habitus.data.schema import Schema
from habitus.data.shards import Columns, ShardFile
from habitus.data.tables import seal

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

ROWS_PER_SHARD = 2_000_000
BATCH = 500_000


def default_shards(n_rows: int) -> int:
    return max(1, -(-n_rows // ROWS_PER_SHARD))


def columns_of(schema: Schema) -> Columns:
    """Name the columns that shards of this schema have."""
    events = schema.events
    return Columns(
        has_item=events.item is not None,
        has_session=events.session is not None,
        has_order=events.order is not None,
        has_key=bool(events.key),
        amounts=tuple(events.amounts),
        categories=tuple(events.categories),
        text=tuple(events.text),
    )


def sorted_sql(engine: duckdb.DuckDBPyConnection, scanned: Scan) -> str:
    """Write the query of pass 2: codes for texts, sorted by user index, time, declared order, source order."""
    schema = scanned.schema
    events = schema.events
    low, high = engine.execute("SELECT min(first_time), max(last_time) FROM users").fetchall()[0]
    day = zones.day_sql("time", schema.time_zone, low, high)
    inner, joins = ["u.idx AS idx", "t.time AS time", "t.row AS row"], ['JOIN users u ON t."user" = u."user"']
    for name in scanned.vocabularies:
        if name == "type" and events.type.constant is not None:
            inner.append("CAST(0 AS INTEGER) AS type")
            continue
        table = quoted("of_" + name)
        is_optional = name != "type"
        joins.append(
            f"{'LEFT ' if is_optional else ''}JOIN {quoted('code_' + name)} {table} ON t.{quoted(name)} = {table}.value"
        )
        inner.append(f"{f'coalesce({table}.code, -1)' if is_optional else f'{table}.code'} AS {quoted(name)}")
    if events.session is not None:
        inner.append(f"{_session(scanned)} AS session")
    if events.order is not None:
        inner.append('t."order" AS "order"')
    inner += [f"coalesce(t.{quoted(name)}, 'nan'::DOUBLE) AS {quoted(name)}" for name in events.amounts]
    inner += [f"t.{quoted(name)}" for name in events.text]
    if events.key:
        inner += ["t.key_high", "t.key_low"]
    names = [name for name in columns_of(schema).dtypes if name not in ("day",)]
    outer = ", ".join([f"{day} AS day", *(quoted(name) for name in names), *(quoted(name) for name in events.text)])
    order = 'idx, time, "order", row' if events.order is not None else "idx, time, row"
    return f"SELECT {outer} FROM (SELECT {', '.join(inner)} FROM typed t {' '.join(joins)} WHERE t.reason IS NULL) ORDER BY {order}"


def _session(scanned: Scan) -> str:
    """A session is its number, or 63 bits of the md5 of its text; -1 where missing."""
    if not scanned.projection.session_is_text:
        return "coalesce(t.session, -1)"
    return "coalesce(CAST('0x' || substr(md5(t.session), 1, 15) AS BIGINT), -1)"


def write_shards(
    engine: duckdb.DuckDBPyConnection, scanned: Scan, sizes: list[tuple[int, int]], folder: Path
) -> list[dict[str, Any]]:
    """Stream the sorted rows into one file per shard; give the manifest entries.

    Errors: `SourceError` when the source gives other rows than in pass 1 (it changed meanwhile).
    """
    n_rows = sum(rows for _, rows in sizes)
    with engine_errors(scanned.label), bar("sorting and writing", n_rows) as advance:
        reader = engine.sql(sorted_sql(engine, scanned)).to_arrow_reader(BATCH)
        return fill_shards(_advancing(reader, advance), sizes, columns_of(scanned.schema), folder, scanned.label)


def _advancing(reader: Any, advance: Any) -> Iterator[pa.RecordBatch]:
    for batch in reader:
        yield batch
        advance(batch.num_rows)


def fill_shards(
    batches: Iterator[pa.RecordBatch], sizes: list[tuple[int, int]], columns: Columns, folder: Path, label: str
) -> list[dict[str, Any]]:
    """Cut sorted batches at the shard borders and write them; hash finished shards meanwhile."""
    entries: list[Future[dict[str, Any]]] = []
    source = _Pieces(batches)
    first_user = 0
    with ThreadPoolExecutor(1) as pool:
        for i, (n_users, n_rows) in enumerate(sizes):
            shard = ShardFile(folder / "shards" / f"{i:05d}.arrow", n_rows, columns.dtypes)
            at = 0
            while at < n_rows:
                piece = source.take(n_rows - at)
                if piece is None:
                    raise _changed(label)
                for name in columns.dtypes:
                    shard.write(name, at, piece.column(name).to_numpy(zero_copy_only=False))
                at += piece.num_rows
            shard.close()
            head = {"first_user": first_user, "n_users": n_users, "n_events": n_rows}
            entries.append(pool.submit(_finish, folder, shard.path, f"{i:05d}", head))
            first_user += n_users
        if source.take(1) is not None:
            raise _changed(label)
        return [entry.result() for entry in entries]


class _Pieces:
    """Batches, handed out in pieces of at most the number of rows asked for."""

    def __init__(self, batches: Iterator[pa.RecordBatch]) -> None:
        self._batches, self._rest = iter(batches), None

    def take(self, most: int) -> pa.RecordBatch | None:
        while self._rest is None or self._rest.num_rows == 0:
            self._rest = next(self._batches, None)
            if self._rest is None:
                return None
        piece, self._rest = self._rest.slice(0, most), self._rest.slice(most)
        return piece


def _finish(folder: Path, path: Path, name: str, head: dict[str, Any]) -> dict[str, Any]:
    return head | seal(folder, path, name)


def _changed(label: str) -> SourceError:
    return SourceError(
        "the same rows in both passes", "another number of rows", where=label, fix="leave the source alone meanwhile"
    )
