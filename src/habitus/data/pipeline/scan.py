"""Pass 1: the view `typed` over the raw files, and the tables of users and vocabularies counted from it.

Names inside the engine: view `raw` (raw columns, and `raw row`, the position over all files), view `typed` (one column
per part, `time` in microseconds UTC, `reason` NULL where the row is kept), tables `new_users`, `new_<vocabulary>`.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from habitus.core.errors import IngestError, SourceError
from habitus.data.log import EventLog, RawFile, as_raw
from habitus.data.pipeline import zones
from habitus.data.pipeline.engine import engine_errors, literal, quoted
from habitus.data.pipeline.erased import ERASED, is_erased, load_erased
from habitus.data.pipeline.projection import Projection, check_columns, project
from habitus.data.schema import Schema

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa


@dataclass(frozen=True)
class Scan:
    """A log as the engine sees it: `files` in source order, the typed `projection`, a folder to work in."""

    schema: Schema
    label: str
    files: list[RawFile]
    projection: Projection
    work: Path
    stamps: tuple[tuple[int, int], ...]
    has_erased: bool = False

    @property
    def n_read(self) -> int:
        return sum(file.n_rows + file.n_rejects for file in self.files)

    @property
    def vocabularies(self) -> list[str]:
        return vocabularies(self.schema)


def vocabularies(schema: Schema) -> list[str]:
    """Name the coded columns of a schema."""
    return ["type", *(["item"] if schema.events.item is not None else []), *schema.events.categories]


def scan(engine: duckdb.DuckDBPyConnection, log: EventLog, folder: Path, erased: Path | None = None) -> Scan:
    """Open the raw rows and make the view `typed`. Errors: `SourceError`, `SchemaError`.

    Rows of users in the list `erased` get that reason, whatever else is wrong with them, and their values are not kept.
    """
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
        others = ", ".join(quoted(name) for name in projection.select if name != "time")
        time = _utc(projection, log.schema.time_zone, _time_range(engine, log.schema, projection))
        kept = "raw", "reason"
        if erased is not None:
            load_erased(engine, erased)
            is_gone = is_erased("user")
            kept = (
                f"CASE WHEN NOT {is_gone} THEN raw END AS raw",
                f"CASE WHEN {is_gone} THEN '{ERASED}' ELSE reason END",
            )
        columns = f"row, file, position, {kept[0]}, {time} AS time, {others}, {kept[1]} AS reason"
        engine.execute(
            f"CREATE OR REPLACE TEMP VIEW typed_rows AS SELECT {columns} FROM ({projection.sql});"
            " CREATE OR REPLACE TEMP VIEW typed AS SELECT * FROM typed_rows"
        )
    return Scan(log.schema, raw.label, files, projection, folder, stamps(files), erased is not None)


def check_unchanged(scanned: Scan) -> None:
    """Make sure that the files are those that were opened. Errors: `SourceError`."""
    if stamps(scanned.files) != scanned.stamps:
        fix = "leave the source alone while it is read"
        raise SourceError("the same rows in both passes", "a file that changed", where=scanned.label, fix=fix)


def stamps(files: list[RawFile]) -> tuple[tuple[int, int], ...]:
    """Give size and time of change of every file, by which a change is noticed."""
    return tuple((found.st_size, found.st_mtime_ns) for found in (file.path.stat() for file in files))


def refuse_repeats(engine: duckdb.DuckDBPyConnection, scanned: Scan, old_keys: Iterable[pa.Table] = ()) -> None:
    """Where a key is declared, give `typed` the reason "duplicate key": the first usable row of a key is kept.

    `old_keys` are the keys of rows kept before (key_high, key_low), in pieces; none of them is kept again.
    """
    if not scanned.schema.events.key:
        return
    with engine_errors(f"{scanned.label}: events.key"):
        engine.execute(
            """CREATE OR REPLACE TEMP TABLE repeats AS SELECT key_high, key_low, min(row) AS first_row FROM typed
            WHERE reason IS NULL GROUP BY key_high, key_low HAVING count(*) > 1"""
        )
        for piece in old_keys:
            engine.register("old_piece", piece)
            engine.execute(
                """INSERT INTO repeats SELECT key_high, key_low, -1 FROM
                (SELECT DISTINCT key_high, key_low FROM typed WHERE reason IS NULL) SEMI JOIN old_piece
                USING (key_high, key_low)"""
            )
            engine.unregister("old_piece")
        if engine.execute("SELECT count(*) FROM repeats").fetchall()[0][0]:
            engine.execute(
                """CREATE OR REPLACE TEMP TABLE repeated AS SELECT key_high, key_low, min(first_row) AS first_row
                FROM repeats GROUP BY key_high, key_low"""
            )
            mark_repeats(engine)


def has_repeats(engine: duckdb.DuckDBPyConnection) -> bool:
    """Tell whether `refuse_repeats` found any, and left the table `repeated`."""
    found = engine.execute("SELECT count(*) FROM duckdb_tables() WHERE table_name = 'repeated'").fetchall()
    return bool(found[0][0])


def mark_repeats(engine: duckdb.DuckDBPyConnection) -> None:
    """Make `typed` the view that rejects the rows which the table `repeated` names."""
    engine.execute(
        """CREATE OR REPLACE TEMP VIEW typed AS SELECT t.* REPLACE (CASE WHEN t.reason IS NULL
        AND t.row <> r.first_row THEN 'duplicate key' ELSE t.reason END AS reason)
        FROM typed_rows t LEFT JOIN repeated r ON t.key_high = r.key_high AND t.key_low = r.key_low"""
    )


def _raw_sql(schema: Schema, files: list[RawFile]) -> str:
    paths = ", ".join(literal(file.path) for file in files)
    bases = [sum(file.n_rows for file in files[:i]) for i in range(len(files))]
    row = "file_row_number" if len(files) == 1 else f"file_row_number + {bases}[CAST(file_index AS BIGINT) + 1]"
    place = f'{row} AS "raw row", file_row_number AS "raw position", CAST(file_index AS BIGINT) AS "raw file"'
    union = ", union_by_name=true" if len(files) > 1 else ""
    kinds = schema.events.columns
    copies = "".join(f", {quoted(name)} AS {quoted('raw ' + name)}" for name in kinds)
    casts = ", ".join(f"TRY_CAST({quoted(name)} AS {kind}) AS {quoted(name)}" for name, kind in kinds.items())
    star = f"* EXCLUDE (file_row_number){f' REPLACE ({casts})' if casts else ''}"
    return f"SELECT {star}{copies}, {place} FROM read_parquet([{paths}], file_row_number=true{union})"


def _time_range(engine: duckdb.DuckDBPyConnection, schema: Schema, projection: Projection) -> tuple[int, int]:
    """Give bounds of all usable times (microseconds), wide enough for local and UTC; (0, 0) in a zone without steps."""
    stated = schema.events.time_range
    if stated is not None:
        first, last = (datetime.date.fromisoformat(day).toordinal() - 719_163 for day in stated)
        return (first - 2) * zones.DAY, (last + 2) * zones.DAY
    if not zones.has_steps(schema.time_zone):
        return 0, 0
    sql = f"SELECT min(time), max(time) FROM (SELECT {projection.select['time']} AS time FROM raw)"
    low, high = engine.execute(sql).fetchall()[0]
    return (low or 0) - 2 * zones.DAY, (high or 0) + 2 * zones.DAY


def _utc(projection: Projection, zone: str, span: tuple[int, int]) -> str:
    if projection.is_local == "FALSE":
        return "time"
    utc = zones.utc_sql("time", zone, *span)
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
        sql = f"""SELECT {value} AS value, min(time) AS first_time FROM typed
            WHERE reason IS NULL AND {value} IS NOT NULL GROUP BY {value}"""
        if constant is not None:
            sql = f"SELECT {literal(constant)} AS value, min(first_time) AS first_time FROM new_users"
        with engine_errors(f"{scanned.label}: {name}"):
            engine.execute(f"CREATE OR REPLACE TEMP TABLE {quoted('new_' + name)} AS {sql}")
