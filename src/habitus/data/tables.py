"""The small tables of a store, written as Parquet whose bytes depend on their rows alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from habitus.data.shards import sha256

if TYPE_CHECKING:
    import duckdb

ROWS_PER_GROUP = 122_880


def write_table(engine: duckdb.DuckDBPyConnection, sql: str, path: Path) -> int:
    """Stream the answer of a query into a Parquet file; give the number of rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    reader = engine.sql(sql).to_arrow_reader(ROWS_PER_GROUP)
    n_rows, waiting, n_waiting = 0, [], 0
    with pq.ParquetWriter(path, reader.schema, compression="zstd") as writer:
        for batch in reader:
            waiting.append(batch)
            n_waiting += batch.num_rows
            n_rows += batch.num_rows
            while n_waiting >= ROWS_PER_GROUP:  # row groups of one size, however the engine cuts its batches
                table = pa.Table.from_batches(waiting)
                writer.write_table(table.slice(0, ROWS_PER_GROUP).combine_chunks(), ROWS_PER_GROUP)
                waiting = table.slice(ROWS_PER_GROUP).to_batches()
                n_waiting -= ROWS_PER_GROUP
        if n_waiting:
            writer.write_table(pa.Table.from_batches(waiting).combine_chunks(), ROWS_PER_GROUP)
    return n_rows


def seal(root: Path, file: Path, name: str) -> dict[str, Any]:
    """Give a finished file its final name, which carries its hash; give its manifest entry.

    Files of an older and a newer state of a store can so lie side by side, and equal content has an equal name.
    """
    digest = sha256(file)
    final = file.with_name(f"{name}-{digest[:12]}{file.suffix}")
    file.rename(final)
    return {"file": final.relative_to(root).as_posix(), "sha256": digest, "bytes": final.stat().st_size}
