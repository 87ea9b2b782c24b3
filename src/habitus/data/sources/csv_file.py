"""Rows in a CSV file: every value as text, lines that cannot be parsed counted one by one with their number.

A quote that is never closed would make one value of all that follows. Such a file is read again with a guard: a quoted
value may span at most `MOST_LINES` lines, else the line in which it opens is broken and the next one starts afresh.
"""

from __future__ import annotations

import csv
import gzip
import io
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from habitus.core.errors import SourceError
from habitus.data.log import RawFile
from habitus.data.pipeline.engine import engine_errors, literal, quoted
from habitus.data.sources.tables import copy_to_parquet

if TYPE_CHECKING:
    import duckdb

DELIMITERS = ",\t;|"
MOST_LINES = 100
CUT = 10_000  # the engine shows at most so much of a broken line
UNCLOSED = "broken line: a quote that is not closed"


def header(path: Path) -> tuple[list[str], str]:
    """Read the names in the first line, and the delimiter: the candidate that occurs most often in it."""
    try:
        with _open(path) as handle:
            line = handle.readline(1 << 20).decode("utf-8-sig").rstrip("\r\n")
    except (UnicodeDecodeError, EOFError, gzip.BadGzipFile) as cause:
        raise SourceError("UTF-8 text", str(cause), where=str(path), fix="convert the file to UTF-8") from None
    delimiter = max(DELIMITERS, key=line.count)
    names = next(csv.reader(io.StringIO(line), delimiter=delimiter), [])
    if not names or len({name.casefold() for name in names}) < len(names) or not all(name.strip() for name in names):
        raise SourceError("a header line of distinct column names", repr(line[:200]), where=f"{path}, line 1")
    return names, delimiter


def read_csv(engine: duckdb.DuckDBPyConnection, path: Path, copy: Path) -> RawFile:
    """Copy a CSV file to Parquet, and its broken lines to a second file."""
    names, delimiter = header(path)
    with engine_errors(str(path)):
        n_rows = _parse(engine, path, names, delimiter, copy)
        unclosed: list[tuple[int, str]] = []
        if _is_suspicious(engine, copy, names):
            guarded = copy.with_suffix(".csv")
            n_lines = _guard(path, guarded, unclosed)
            n_rows = _parse(engine, guarded, names, delimiter, copy)
            _account(engine, path, copy, names, n_lines, n_rows)
            guarded.unlink()
        n_broken, broken = _write_broken(engine, copy, unclosed)
    return RawFile(copy, str(path), n_rows, broken if n_broken else None, n_broken)


def _is_suspicious(engine: duckdb.DuckDBPyConnection, copy: Path, names: list[str]) -> bool:
    """Say whether a quote was not closed, or closed so late that it may belong to another one."""
    long = " OR ".join(f"(strlen({quoted(c)}) > {MOST_LINES} AND {_breaks(c)} > {MOST_LINES})" for c in names)
    sql = f"""SELECT (SELECT count(*) FROM csv_errors WHERE error_type = 'UNQUOTED VALUE')
        + (SELECT count(*) FROM read_parquet({literal(copy)}) WHERE {long})"""
    return engine.execute(sql).fetchall()[0][0] > 0


def _breaks(name: str) -> str:
    value = quoted(name)
    return f"coalesce(length({value}) - length(replace({value}, chr(10), '')), 0)"


def _parse(engine: duckdb.DuckDBPyConnection, path: Path, names: list[str], delimiter: str, copy: Path) -> int:
    columns = ", ".join(f"{literal(name)}: 'VARCHAR'" for name in names)
    options = f"""auto_detect=false, header=true, delim={literal(delimiter)}, quote='"', escape='"',
        columns={{{columns}}}, store_rejects=true, rejects_table='csv_errors', rejects_scan='csv_scans',
        rejects_limit=0"""
    engine.execute("DROP TABLE IF EXISTS csv_errors; DROP TABLE IF EXISTS csv_scans")
    return copy_to_parquet(engine, f"SELECT * FROM read_csv({literal(path)}, {options})", copy)


def _write_broken(engine: duckdb.DuckDBPyConnection, copy: Path, unclosed: list[tuple[int, str]]) -> tuple[int, Path]:
    import pyarrow as pa

    places, texts = [at for at, _ in unclosed], [raw for _, raw in unclosed]
    engine.register(
        "unclosed", pa.table({"position": pa.array(places, pa.int64()), "raw": pa.array(texts, pa.string())})
    )
    broken = copy.with_name(copy.stem + "-broken.parquet")
    rows = f"""SELECT CAST(line AS BIGINT) AS position,
        'broken line: ' || lower(first(error_type ORDER BY column_idx)) AS reason,
        first(trim(csv_line, chr(10) || chr(13))) AS raw
        FROM csv_errors GROUP BY line UNION ALL SELECT position, {literal(UNCLOSED)}, raw FROM unclosed"""
    n_broken = copy_to_parquet(engine, f"SELECT * FROM ({rows}) ORDER BY position", broken)
    engine.unregister("unclosed")
    return n_broken, broken


def _open(path: Path) -> BinaryIO:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def _guard(path: Path, guarded: Path, unclosed: list[tuple[int, str]]) -> int:
    """Copy a file with an empty line for every line whose quote is not closed; give the number of full lines."""
    n_lines = 0
    with _open(path) as source, guarded.open("wb") as target:
        for number, line, is_closed in _rows(source):
            n_lines += bool(line.strip()) and is_closed
            if not is_closed:
                unclosed.append((number, line.decode("utf-8", "replace").rstrip("\r\n")[:CUT]))
            target.write(line if is_closed else b"\n")
    return n_lines


def _rows(source: BinaryIO) -> Iterator[tuple[int, bytes, bool]]:
    """Give number, bytes and whether its quotes are closed for every line; lines of one quoted value are all closed."""
    lines, waiting = enumerate(source, 1), deque[tuple[int, bytes]]()
    again = deque[tuple[int, bytes]]()
    is_open = False
    while True:
        numbered = again.popleft() if again else next(lines, None)
        if numbered is not None:
            waiting.append(numbered)
            is_open ^= bool(numbered[1].count(b'"') % 2)
        if is_open and (numbered is None or len(waiting) > MOST_LINES):
            yield (*waiting.popleft(), False)
            again.extendleft(reversed(waiting))
            waiting.clear()
            is_open = False
        elif not is_open:
            yield from ((*line, True) for line in waiting)
            waiting.clear()
            if numbered is None:
                return


def _account(
    engine: duckdb.DuckDBPyConnection, path: Path, copy: Path, names: list[str], n_lines: int, n_rows: int
) -> None:
    """Make sure that no line was lost: rows, line breaks inside values and broken lines make up the file."""
    breaks = " + ".join(_breaks(name) for name in names)
    inside = engine.execute(f"SELECT coalesce(sum({breaks}), 0) FROM read_parquet({literal(copy)})").fetchall()[0][0]
    sql = """SELECT count(*), coalesce(sum(breaks), 0), coalesce(max(size), 0) FROM (SELECT line, max(length(csv_line)
        - length(replace(rtrim(csv_line, chr(10)), chr(10), ''))) AS breaks, max(length(csv_line)) AS size
        FROM csv_errors GROUP BY line)"""
    n_broken, broken_breaks, longest = engine.execute(sql).fetchall()[0]
    lost = n_lines - 1 - n_rows - int(inside) - int(n_broken) - int(broken_breaks)
    if lost > 0 or longest >= CUT:
        line = engine.execute("SELECT min(line) FROM csv_errors WHERE error_type = 'UNQUOTED VALUE'").fetchall()[0][0]
        raise SourceError(
            "quotes that open and close around a value", f"quotes that swallow about {max(lost, 1)} lines",
            where=f"{path}, line {line}", fix="mend the quotes of this line",
        )  # fmt: skip
