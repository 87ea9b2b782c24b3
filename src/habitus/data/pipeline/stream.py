"""Pass 2: sort what is kept inside the engine and write it to shards as it streams out."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from habitus.core.errors import SourceError
from habitus.core.progress import bar
from habitus.data.pipeline import zones
from habitus.data.pipeline.codes import Size
from habitus.data.pipeline.engine import engine_errors, quoted
from habitus.data.pipeline.scan import Scan, check_unchanged
from habitus.data.pipeline.tables import seal
from habitus.data.schema import Schema
from habitus.data.shards import KEYS, TEXT_ROWS, Columns, ShardFile, TextFile

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


def sorted_rows(engine: duckdb.DuckDBPyConnection, scanned: Scan, n_rows: int) -> Iterator[pa.RecordBatch]:
    """Stream the kept rows, coded, sorted by user index, time, declared order, source order; shows a bar."""
    with engine_errors(scanned.label), bar("sorting and writing", n_rows) as advance:
        size = TEXT_ROWS if scanned.schema.events.text else BATCH
        for batch in engine.sql(_sorted_sql(engine, scanned)).to_arrow_reader(size):
            yield batch
            advance(batch.num_rows)


def _sorted_sql(engine: duckdb.DuckDBPyConnection, scanned: Scan) -> str:
    schema, events = scanned.schema, scanned.schema.events
    low, high = engine.execute("SELECT min(first_time), max(last_time) FROM new_users").fetchall()[0]
    day = zones.day_sql("time", schema.time_zone, low, high)
    inner, joins = ["u.idx AS idx", "t.time AS time", "t.row AS row"], ['JOIN users u ON t."user" = u."user"']
    for name in scanned.vocabularies:
        code, join = _coded(name, is_constant=name == "type" and events.type.constant is not None)
        inner.append(f"{code} AS {quoted(name)}")
        joins.append(join)
    if events.session is not None:
        inner.append(f"{_session(scanned)} AS session")
    if events.order is not None:
        inner.append('t."order" AS "order"')
    inner += [f"coalesce(t.{quoted(name)}, 'nan'::DOUBLE) AS {quoted(name)}" for name in events.amounts]
    inner += [f"t.{quoted(name)}" for name in (*events.text, *(KEYS if events.key else ()))]
    names = [name for name in columns_of(schema).dtypes if name != "day"]
    outer = ", ".join([f"{day} AS day", *(quoted(name) for name in (*names, *events.text))])
    order = 'idx, time, "order", row' if events.order is not None else "idx, time, row"
    rows = f"SELECT {', '.join(inner)} FROM typed t {' '.join(joins)} WHERE t.reason IS NULL"
    return f"SELECT {outer} FROM ({rows}) ORDER BY {order}"


def _coded(name: str, *, is_constant: bool) -> tuple[str, str]:
    """Give the code of a text as SQL, -1 where it is missing, and the join it needs."""
    if is_constant:
        return "CAST(0 AS INTEGER)", ""
    table = quoted("of " + name)
    join = f"LEFT JOIN {quoted('code_' + name)} {table} ON t.{quoted(name)} = {table}.value"
    return (f"coalesce({table}.code, -1)", join) if name != "type" else (f"{table}.code", join[5:])


def _session(scanned: Scan) -> str:
    """A session is its number, or 60 bits of the md5 of its text where it is no number from 0; -1 where missing."""
    digest = "CAST('0x' || substr(md5(CAST(t.session AS VARCHAR)), 1, 15) AS BIGINT)"
    if scanned.projection.session_is_text:
        return f"coalesce({digest}, -1)"
    return f"CASE WHEN t.session >= 0 THEN t.session WHEN t.session < 0 THEN {digest} ELSE -1 END"


def write_shards(
    batches: Iterator[pa.RecordBatch],
    sizes: list[Size],
    scanned: Scan,
    root: Path,
    *,
    first_shard: int = 0,
    first_user: int = 0,
) -> list[dict[str, Any]]:
    """Cut sorted rows at the shard borders and write them below `root`; give the manifest entries.

    The rows may be those of some shards alone, of which `first_shard` is the first and `first_user` its first user.
    Finished shards are hashed and brought to disk while the next one is being filled.
    Errors: `SourceError` when the source gives other rows than in pass 1 (it changed meanwhile).
    """
    columns = columns_of(scanned.schema)
    entries: list[Future[dict[str, Any]]] = []
    source = _Pieces(batches)
    with ThreadPoolExecutor(1) as pool:
        for i, size in enumerate(sizes, first_shard):
            path = root / "shards" / f"{i:05d}.arrow"
            n_written = _fill(path, source, size.n_new, columns)
            if n_written < size.n_new:
                raise _changed(scanned)
            head = {"first_user": first_user, "n_users": size.n_users, "n_events": size.n_new}
            entries.append(pool.submit(seal_shard, root, path, head, columns))
            first_user += size.n_users
        if source.take(1) is not None:
            raise _changed(scanned)
        check_unchanged(scanned)
        return [entry.result() for entry in entries]


def seal_shard(root: Path, path: Path, head: dict[str, Any], columns: Columns) -> dict[str, Any]:
    """Give the manifest entry of a finished shard, its files under their final names."""
    entry = head | seal(root, path, path.stem)
    if columns.text:
        entry["text"] = seal(root, text_path(path), f"{path.stem}-text")
    return entry


def text_path(path: Path) -> Path:
    return path.with_name(f"{path.stem}-text.arrow")


def _fill(path: Path, source: _Pieces, n_rows: int, columns: Columns) -> int:
    """Write the next `n_rows` rows to a shard and its text; give how many there were."""
    at = 0
    with closing(ShardFile(path, n_rows, columns.dtypes)) as shard, open_text(path, columns) as text:
        while at < n_rows and (piece := source.take(n_rows - at)) is not None:
            for name in columns.dtypes:
                shard.write(name, at, piece.column(name).to_numpy(zero_copy_only=False))
            if text is not None:
                text.write(piece)
            at += piece.num_rows
    return at


def open_text(path: Path, columns: Columns) -> AbstractContextManager[TextFile | None]:
    """Open the text file beside a shard, or nothing where the schema has no text."""
    return closing(TextFile(text_path(path), columns.text)) if columns.text else nullcontext()


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


def _changed(scanned: Scan) -> SourceError:
    fix = "leave the source alone while it is read"
    return SourceError("the same rows in both passes", "another number of rows", where=scanned.label, fix=fix)
