"""Pass 1: the view `typed` over the raw files, what cannot be used and why, and the tables of users and vocabularies.

Names inside the engine: view `raw` (raw columns, and `row`, the position over all files), view `typed` (one column per
part, `time` in microseconds UTC, `reason` NULL where the row is kept), tables `new_users` and `new_<vocabulary>`.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from habitus.core.errors import IngestError
from habitus.data import zones
from habitus.data.engine import engine_errors, literal, quoted
from habitus.data.log import EventLog, RawFile, as_raw
from habitus.data.projection import Projection, check_columns, project
from habitus.data.schema import Schema

if TYPE_CHECKING:
    import duckdb

REJECTED = ("reason", "file", "row", "line", "raw")
N_SHOWN = 5


@dataclass(frozen=True)
class Scan:
    """A log as the engine sees it: `files` in source order, the typed `projection`, and the range of its times."""

    schema: Schema
    label: str
    files: list[RawFile]
    projection: Projection
    low: int
    high: int
    work: Path

    @property
    def n_read(self) -> int:
        return sum(file.n_rows + file.n_rejects for file in self.files)

    @property
    def vocabularies(self) -> list[str]:
        return vocabularies(self.schema)


def vocabularies(schema: Schema) -> list[str]:
    """Name the coded columns of a schema."""
    return ["type", *(["item"] if schema.events.item is not None else []), *schema.events.categories]


def scan(engine: duckdb.DuckDBPyConnection, log: EventLog, folder: Path) -> Scan:
    """Open the raw rows and make the view `typed`. Errors: `SourceError`, `SchemaError`."""
    raw = as_raw(log.events)
    columns = raw.columns(engine)
    check_columns(log.schema, columns, raw.label)
    files = raw.files(engine, folder)
    if sum(file.n_rows + file.n_rejects for file in files) == 0:
        raise IngestError("at least one row", "0 rows", where=raw.label, fix="check the source")
    with engine_errors(raw.label):
        engine.execute(f"CREATE OR REPLACE TEMP VIEW raw AS {_raw_sql(log.schema, files)}")
    projection = project(engine, log.schema, columns, raw.label)
    with engine_errors(raw.label):
        low, high = _time_range(engine, log.schema, projection)
        others = ", ".join(quoted(name) for name in projection.select if name != "time")
        time = _utc(projection, log.schema.time_zone, low, high)
        engine.execute(
            f"CREATE OR REPLACE TEMP VIEW typed AS SELECT row, file, position, raw, {time} AS time, {others}, reason"
            f" FROM ({projection.sql})"
        )
    return Scan(log.schema, raw.label, files, projection, low, high, folder)


def _raw_sql(schema: Schema, files: list[RawFile]) -> str:
    paths = ", ".join(literal(file.path) for file in files)
    bases = [sum(file.n_rows for file in files[:i]) for i in range(len(files))]
    row = "file_row_number" if len(files) == 1 else f"file_row_number + {bases}[CAST(file_index AS BIGINT) + 1]"
    place = f'{row} AS row, file_row_number AS "raw position", CAST(file_index AS BIGINT) AS "raw file"'
    union = ", union_by_name=true" if len(files) > 1 else ""
    kinds = schema.events.columns
    copies = "".join(f", {quoted(name)} AS {quoted('raw ' + name)}" for name in kinds)
    casts = ", ".join(f"TRY_CAST({quoted(name)} AS {kind}) AS {quoted(name)}" for name, kind in kinds.items())
    star = f"* EXCLUDE (file_row_number){f' REPLACE ({casts})' if casts else ''}"
    return f"SELECT {star}{copies}, {place} FROM read_parquet([{paths}], file_row_number=true{union})"


def _time_range(engine: duckdb.DuckDBPyConnection, schema: Schema, projection: Projection) -> tuple[int, int]:
    """Give bounds of all usable times (microseconds), wide enough for local and UTC; only zones with steps need them."""
    stated = schema.events.time_range
    if stated is not None:
        first, last = (datetime.date.fromisoformat(day).toordinal() - 719_163 for day in stated)
        return (first - 2) * zones.DAY, (last + 2) * zones.DAY
    if not zones.has_steps(schema.time_zone):
        return 0, 0
    sql = f"SELECT min(time), max(time) FROM (SELECT {projection.select['time']} AS time FROM raw)"
    low, high = engine.execute(sql).fetchall()[0]
    return (low or 0) - 2 * zones.DAY, (high or 0) + 2 * zones.DAY


def _utc(projection: Projection, zone: str, low: int, high: int) -> str:
    if projection.is_local == "FALSE":
        return "time"
    utc = zones.utc_sql("time", zone, low, high)
    return utc if projection.is_local == "TRUE" else f"CASE WHEN is_local THEN {utc} ELSE time END"


def count_users(engine: duckdb.DuckDBPyConnection, scanned: Scan) -> int:
    """Make `new_users` (user, n_events, first_time, last_time) of the kept rows; give their number of rows."""
    with engine_errors(scanned.label):
        engine.execute(
            """CREATE OR REPLACE TEMP TABLE new_users AS SELECT "user", count(*) AS n_events,
            min(time) AS first_time, max(time) AS last_time FROM typed WHERE reason IS NULL GROUP BY "user" """
        )
        return int(engine.execute("SELECT coalesce(sum(n_events), 0) FROM new_users").fetchall()[0][0])


def count_vocabularies(engine: duckdb.DuckDBPyConnection, scanned: Scan) -> None:
    """Make a table `new_<name>` (value, first_time) for every coded column."""
    for name in scanned.vocabularies:
        constant = scanned.schema.events.type.constant if name == "type" else None
        value = quoted(name)
        sql = f"SELECT {value} AS value, min(time) AS first_time FROM typed WHERE reason IS NULL AND {value} IS NOT NULL GROUP BY 1"
        if constant is not None:
            sql = f"SELECT {literal(constant)} AS value, min(first_time) AS first_time FROM new_users"
        with engine_errors(f"{scanned.label}: {name}"):
            engine.execute(f"CREATE OR REPLACE TEMP TABLE {quoted('new_' + name)} AS {sql}")


def write_rejected(engine: duckdb.DuckDBPyConnection, scanned: Scan, n_kept: int, path: Path) -> dict[str, int]:
    """Write the rejected rows in source order; give the counts by reason."""
    from habitus.data.tables import write_table

    with engine_errors(scanned.label):
        write_table(engine, _rejected_sql(scanned, any_typed=n_kept < sum(f.n_rows for f in scanned.files)), path)
        sql = f"SELECT reason, count(*) FROM read_parquet({literal(path)}) GROUP BY reason ORDER BY 2 DESC, 1"
        return {reason: int(count) for reason, count in engine.execute(sql).fetchall()}


def _rejected_sql(scanned: Scan, *, any_typed: bool) -> str:
    """Rejected rows and unreadable lines in source order; without a scan where every row is kept."""
    empty = (
        "NULL::VARCHAR AS reason, NULL::BIGINT AS file, NULL::BIGINT AS row, NULL::BIGINT AS line, NULL::VARCHAR AS raw"
    )
    pieces = [f"SELECT {empty} LIMIT 0"]
    if any_typed:
        pieces.append("SELECT reason, file, position + 1, NULL, raw FROM typed WHERE reason IS NOT NULL")
    for i, file in enumerate(scanned.files):
        if file.rejects is not None:
            pieces.append(f"SELECT reason, {i}, NULL, position, raw FROM read_parquet({literal(file.rejects)})")
    labels = "[" + ", ".join(literal(file.label) for file in scanned.files) + "]"
    union = " UNION ALL ".join(f"({piece})" for piece in pieces)
    return f"SELECT reason, {labels}[file + 1] AS file, row, line, raw FROM ({union}) r ORDER BY r.file, row NULLS LAST, line"


def check_rejected(engine: duckdb.DuckDBPyConnection, scanned: Scan, rejected: dict[str, int], path: Path) -> None:
    """Stop when more was rejected than the schema allows, showing the first rows. Errors: `IngestError`."""
    n_rejected, n_read = sum(rejected.values()), scanned.n_read
    if n_rejected == n_read or n_rejected > scanned.schema.max_rejected * n_read:
        sql = f"SELECT reason, file, coalesce('row ' || row, 'line ' || line), raw FROM read_parquet({literal(path)}) LIMIT {N_SHOWN}"
        shown = [
            f"{file}, {place}: {reason}: {(raw or '')[:100]}"
            for reason, file, place, raw in engine.execute(sql).fetchall()
        ]
        counts = ", ".join(f"{reason}: {count:,}" for reason, count in rejected.items())
        limit = (
            "rows that can be used" if n_rejected == n_read else f"at most {scanned.schema.max_rejected:.2%} rejected"
        )
        raise IngestError(
            limit,
            f"{n_rejected:,} of {n_read:,} rows ({n_rejected / n_read:.2%}) cannot be used ({counts})\n"
            + "\n".join(shown),
            where=scanned.label,
            fix="mend the source or the schema, or raise max_rejected in the schema",
        )
