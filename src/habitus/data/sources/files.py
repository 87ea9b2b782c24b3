"""Rows in files: Parquet as they are, CSV and JSON lines by way of a Parquet copy, so that every row is parsed once."""

from __future__ import annotations

import csv
import glob
import gzip
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from habitus.core.errors import SourceError, nearest
from habitus.data.engine import engine_errors, literal
from habitus.data.log import RawFile

if TYPE_CHECKING:
    import duckdb

FORMATS = {
    ".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".tsv": "csv", ".txt": "csv",
    ".jsonl": "json", ".ndjson": "json", ".json": "json",
}  # fmt: skip
DELIMITERS = ",\t;|"


@dataclass(frozen=True)
class Files:
    """Files of one format, in the order given."""

    paths: tuple[Path, ...]
    format: str

    @property
    def label(self) -> str:
        return str(self.paths[0]) if len(self.paths) == 1 else f"{self.paths[0]} and {len(self.paths) - 1} more"

    def columns(self, engine: duckdb.DuckDBPyConnection) -> dict[str, str]:
        columns: dict[str, str] = {}
        for path in self.paths:
            for name, kind in _columns(engine, path, self.format).items():
                columns.setdefault(name, kind)
        return columns

    def files(self, engine: duckdb.DuckDBPyConnection, folder: Path) -> list[RawFile]:
        read = {"parquet": _parquet, "csv": _csv, "json": _json}[self.format]
        return [read(engine, path, folder / f"raw-{i:04d}.parquet") for i, path in enumerate(self.paths)]


def files(paths: str | Path | list[Any] | tuple[Any, ...]) -> Files:
    """Find files by path, glob, folder or list of paths; the suffix says the format (`.gz` may follow for text).

    Errors: `SourceError` when there is none, one is empty, or formats are mixed.
    """
    given = list(paths) if isinstance(paths, list | tuple) else [paths]
    found = [path for one in given for path in _expand(one)]
    formats = {_format(path) for path in found}
    if len(formats) > 1:
        raise SourceError("files of one format", ", ".join(sorted(formats)), where=str(paths))
    for path in found:
        if path.stat().st_size == 0:
            raise SourceError("a file with rows", "an empty file (0 bytes)", where=str(path))
    return Files(tuple(found), formats.pop())


def _expand(one: str | Path) -> list[Path]:
    path = Path(one)
    if path.is_file():
        return [path]
    if path.is_dir():
        inside = sorted(p for p in path.iterdir() if p.is_file() and _suffix(p) in FORMATS)
        if inside:
            return inside
        raise SourceError("Parquet, CSV or JSON lines files", "a folder without any", where=str(path))
    matches = sorted(Path(match) for match in glob.glob(str(one), recursive=True) if Path(match).is_file())
    if matches:
        return matches
    siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    meant = nearest(path.name, siblings)
    hint = f"did you mean {path.parent / meant}?" if meant else "check the path"
    raise SourceError("a file, a folder or a glob", "no such file", where=str(path), fix=hint)


def _suffix(path: Path) -> str:
    return (path.with_suffix("") if path.suffix == ".gz" else path).suffix.lower()


def _format(path: Path) -> str:
    if _suffix(path) not in FORMATS:
        known = ", ".join(sorted(FORMATS))
        raise SourceError(f"a file ending in one of: {known}", path.name, where=str(path), fix="rename the file")
    return FORMATS[_suffix(path)]


def _columns(engine: duckdb.DuckDBPyConnection, path: Path, format: str) -> dict[str, str]:
    if format == "csv":
        return dict.fromkeys(_header(path)[0], "VARCHAR")
    with engine_errors(str(path)):
        if format == "json":
            sql = f"SELECT * FROM read_json({literal(path)}, format='newline_delimited', ignore_errors=true)"
            rows = engine.execute(f"DESCRIBE {sql}").fetchall()
            return {row[0]: "VARCHAR" for row in rows}
        rows = engine.execute(f"DESCRIBE SELECT * FROM read_parquet({literal(path)})").fetchall()
        return {row[0]: row[1] for row in rows}


def _parquet(engine: duckdb.DuckDBPyConnection, path: Path, copy: Path) -> RawFile:
    with engine_errors(str(path)):
        n_rows = engine.execute(f"SELECT num_rows FROM parquet_file_metadata({literal(path)})").fetchall()[0][0]
    return RawFile(path, str(path), int(n_rows))


def _header(path: Path) -> tuple[list[str], str]:
    """Read the names in the first line, and the delimiter: the candidate that occurs most often in it."""
    opened = gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")
    try:
        with opened as handle:
            line = handle.readline(1 << 20).decode("utf-8-sig").rstrip("\r\n")
    except (UnicodeDecodeError, EOFError, gzip.BadGzipFile) as cause:
        raise SourceError("UTF-8 text", str(cause), where=str(path), fix="convert the file to UTF-8") from None
    delimiter = max(DELIMITERS, key=line.count)
    names = next(csv.reader(io.StringIO(line), delimiter=delimiter), [])
    if not names or len(set(names)) < len(names) or any(not name.strip() for name in names):
        raise SourceError("a header line of distinct column names", repr(line[:200]), where=f"{path}, line 1")
    return names, delimiter


def _csv(engine: duckdb.DuckDBPyConnection, path: Path, copy: Path) -> RawFile:
    names, delimiter = _header(path)
    columns = ", ".join(f"{literal(name)}: 'VARCHAR'" for name in names)
    options = f"""auto_detect=false, header=true, delim={literal(delimiter)}, quote='"', escape='"', columns={{{columns}}},
        store_rejects=true, rejects_table='csv_errors', rejects_scan='csv_scans', rejects_limit=0"""
    broken = copy.with_name(copy.stem + "-broken.parquet")
    with engine_errors(str(path)):
        engine.execute("DROP TABLE IF EXISTS csv_errors; DROP TABLE IF EXISTS csv_scans")
        scan = f"SELECT * FROM read_csv({literal(path)}, {options})"
        n_rows = engine.execute(f"COPY ({scan}) TO {literal(copy)} (FORMAT parquet, COMPRESSION lz4)").fetchall()[0][0]
        rows = """SELECT line AS position, 'broken line: ' || lower(first(error_type ORDER BY column_idx)) AS reason,
            first(csv_line) AS raw FROM csv_errors GROUP BY line ORDER BY line"""
        n_broken = engine.execute(f"COPY ({rows}) TO {literal(broken)} (FORMAT parquet)").fetchall()[0][0]
    return RawFile(copy, str(path), int(n_rows), broken if n_broken else None, int(n_broken))


def _json(engine: duckdb.DuckDBPyConnection, path: Path, copy: Path) -> RawFile:
    columns = ", ".join(f"{literal(name)}: 'VARCHAR'" for name in _columns(engine, path, "json"))
    options = f"format='newline_delimited', ignore_errors=true, columns={{{columns}}}"
    with engine_errors(str(path)):
        scan = f"SELECT * FROM read_json({literal(path)}, {options})"
        n_rows = engine.execute(f"COPY ({scan}) TO {literal(copy)} (FORMAT parquet, COMPRESSION lz4)").fetchall()[0][0]
    return RawFile(copy, str(path), int(n_rows))
