"""The small tables of a store, written as Parquet whose bytes depend on their rows alone."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from habitus.data.shards import sha256

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

ROWS_PER_GROUP = 122_880


def write_table(engine: duckdb.DuckDBPyConnection, sql: str, path: Path) -> int:
    """Stream the answer of a query into a Parquet file; give the number of rows."""
    import pyarrow.parquet as pq

    reader = engine.sql(sql).to_arrow_reader(ROWS_PER_GROUP)
    n_rows = 0
    with pq.ParquetWriter(path, reader.schema, compression="zstd") as writer:
        for table in recut(reader, ROWS_PER_GROUP):
            writer.write_table(table, ROWS_PER_GROUP)
            n_rows += table.num_rows
    return n_rows


def recut(batches: Iterable[pa.RecordBatch], size: int) -> Iterator[pa.Table]:
    """Hand on the same rows in tables of `size` rows, the last one shorter, however the batches were cut."""
    import pyarrow as pa

    waiting: list[pa.RecordBatch] = []
    n_waiting = 0
    for batch in batches:
        waiting.append(batch)
        n_waiting += batch.num_rows
        while n_waiting >= size:
            table = pa.Table.from_batches(waiting)
            yield table.slice(0, size).combine_chunks()
            waiting, n_waiting = table.slice(size).to_batches(), n_waiting - size
    if n_waiting:
        yield pa.Table.from_batches(waiting).combine_chunks()


def seal(root: Path, file: Path, name: str) -> dict[str, Any]:
    """Bring a finished file to disk under its final name, which carries its hash; give its manifest entry.

    So files of an older and a newer state of a store can lie side by side, and equal content has an equal name.
    """
    digest = sha256(file)
    with file.open("rb") as handle:
        os.fsync(handle.fileno())
    final = file.with_name(f"{name}-{digest[:12]}{file.suffix}")
    file.replace(final)
    return {"file": final.relative_to(root).as_posix(), "sha256": digest, "bytes": final.stat().st_size}
