"""Rows that cannot be used: written out in source order with reason and place, counted, and limited."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from habitus.core.errors import IngestError
from habitus.data.pipeline.engine import engine_errors, literal
from habitus.data.pipeline.erased import ERASED
from habitus.data.pipeline.scan import Scan
from habitus.data.pipeline.tables import write_table

if TYPE_CHECKING:
    import duckdb

N_SHOWN = 5


def write_rejected(engine: duckdb.DuckDBPyConnection, scanned: Scan, n_kept: int, path: Path) -> dict[str, int]:
    """Write the rejected rows in source order; give the counts by reason, most frequent first.

    Columns: reason, file, row (which readable row of the file, from 1), line (of a line that cannot be parsed), raw
    (the row's values as JSON, or the line).
    """
    is_any = n_kept < sum(file.n_rows for file in scanned.files)
    with engine_errors(scanned.label):
        write_table(engine, _rejected_sql(scanned, is_any=is_any), path)
    return count_rejected(engine, path)


def count_rejected(engine: duckdb.DuckDBPyConnection, path: Path) -> dict[str, int]:
    sql = f"SELECT reason, count(*) FROM read_parquet({literal(path)}) GROUP BY reason ORDER BY 2 DESC, 1"
    return {reason: int(count) for reason, count in engine.execute(sql).fetchall()}


def check_rejected(engine: duckdb.DuckDBPyConnection, scanned: Scan, rejected: dict[str, int], path: Path) -> None:
    """Stop when more was rejected than the schema allows, showing the first rows. Errors: `IngestError`."""
    n_erased = rejected.get(ERASED, 0)  # known to be unwanted: no sign of a broken source
    n_rejected, n_read = sum(rejected.values()) - n_erased, scanned.n_read - n_erased
    most = scanned.schema.max_rejected
    if n_rejected < n_read and n_rejected <= most * n_read:
        return
    place = "coalesce('row ' || row, 'line ' || line)"
    rows = f"read_parquet({literal(path)}) WHERE reason <> '{ERASED}' LIMIT {N_SHOWN}"
    sql = f"SELECT reason, file, {place}, left(raw, 100) FROM {rows}"
    shown = [f"{file}, {at}: {reason}: {raw}" for reason, file, at, raw in engine.execute(sql).fetchall()]
    counts = ", ".join(f"{reason}: {count:,}" for reason, count in list(rejected.items())[:8])
    found = f"{n_rejected:,} of {n_read:,} ({n_rejected / max(n_read, 1):.2%}) cannot be used ({counts})"
    raise IngestError(
        "rows that can be used" if n_rejected == n_read else f"at most {most:.2%} of the rows rejected",
        "\n".join([found, *shown]),
        where=scanned.label,
        fix="mend the source or the schema" + ("" if n_rejected == n_read else ", or raise max_rejected in the schema"),
    )


def _rejected_sql(scanned: Scan, *, is_any: bool) -> str:
    """Rejected rows and unreadable lines in source order; without a scan where every row is kept."""
    names = {"reason": "VARCHAR", "file": "BIGINT", "row": "BIGINT", "line": "BIGINT", "raw": "VARCHAR"}
    pieces = ["SELECT " + ", ".join(f"NULL::{kind} AS {name}" for name, kind in names.items()) + " LIMIT 0"]
    if is_any:
        pieces.append("SELECT reason, file, position + 1, NULL, raw FROM typed WHERE reason IS NOT NULL")
    for i, file in enumerate(scanned.files):
        if file.rejects is not None:
            raw = "NULL" if scanned.has_erased else "raw"  # a line that cannot be read may name anybody
            columns = f"reason, {i}, NULL, CAST(position AS BIGINT), {raw}"
            pieces.append(f"SELECT {columns} FROM read_parquet({literal(file.rejects)})")
    labels = "[" + ", ".join(literal(file.label) for file in scanned.files) + "]"
    union = " UNION ALL ".join(f"({piece})" for piece in pieces)
    order = "ORDER BY r.file, row NULLS LAST, line"
    return f"SELECT reason, {labels}[file + 1] AS file, row, line, raw FROM ({union}) r {order}"
