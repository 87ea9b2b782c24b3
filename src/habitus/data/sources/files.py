"""Rows in files: Parquet as they are, CSV and JSON lines by way of a Parquet copy, so that every row is parsed once."""

from __future__ import annotations

import glob
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from habitus.core.errors import SourceError, nearest
from habitus.data.log import RawFile
from habitus.data.pipeline.engine import engine_errors, literal
from habitus.data.sources.csv_file import header, read_csv
from habitus.data.sources.tables import copy_to_parquet

if TYPE_CHECKING:
    import duckdb

FORMATS = {
    ".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".tsv": "csv", ".txt": "csv",
    ".jsonl": "json", ".ndjson": "json", ".json": "json",
}  # fmt: skip
LONGEST_LINE = 8_000_000
IS_OBJECT = "CASE WHEN json_valid(line) THEN coalesce(json_type(line), '') = 'OBJECT' ELSE FALSE END"


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
        read = {"parquet": _parquet, "csv": read_csv, "json": _json}[self.format]
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
            raise SourceError("a file with rows", "an empty file (0 bytes)", where=str(path), fix="write it again")
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
        return dict.fromkeys(header(path)[0], "VARCHAR")
    with engine_errors(str(path)):
        if format == "json":
            return dict.fromkeys(_keys(engine, path), "VARCHAR")
        rows = engine.execute(f"DESCRIBE SELECT * FROM read_parquet({literal(path)})").fetchall()
        return {row[0]: row[1] for row in rows}


def _parquet(engine: duckdb.DuckDBPyConnection, path: Path, copy: Path) -> RawFile:
    with engine_errors(str(path)):
        n_rows = engine.execute(f"SELECT num_rows FROM parquet_file_metadata({literal(path)})").fetchall()[0][0]
    return RawFile(path, str(path), int(n_rows))


def _json(engine: duckdb.DuckDBPyConnection, path: Path, copy: Path) -> RawFile:
    lines = copy.with_name(copy.stem + "-lines.parquet")
    broken = copy.with_name(copy.stem + "-broken.parquet")
    with engine_errors(str(path)):
        copy_to_parquet(engine, f"SELECT line, row_number() OVER () AS number FROM {_lines(path)}", lines)
        spec = json.dumps(dict.fromkeys(_keys(engine, path), "VARCHAR"))
        rows = f"SELECT unnest(from_json(line, {literal(spec)})) FROM read_parquet({literal(lines)}) WHERE {IS_OBJECT}"
        n_rows = copy_to_parquet(engine, rows, copy)
        rest = f"""SELECT number AS position, 'broken line: not a JSON object' AS reason, line AS raw
            FROM read_parquet({literal(lines)}) WHERE trim(line) <> '' AND NOT ({IS_OBJECT})"""
        n_broken = copy_to_parquet(engine, rest, broken)
    lines.unlink()
    return RawFile(copy, str(path), n_rows, broken if n_broken else None, n_broken)


def _lines(path: Path) -> str:
    """Scan a text file line by line, blank lines as NULL."""
    options = "auto_detect=false, header=false, delim='', quote='', escape='', columns={line: 'VARCHAR'}"
    return f"read_csv({literal(path)}, {options}, max_line_size={LONGEST_LINE})"


def _keys(engine: duckdb.DuckDBPyConnection, path: Path) -> list[str]:
    """List the keys of all objects in a file of JSON lines, in the order of the alphabet."""
    sql = (
        f"SELECT DISTINCT unnest(json_keys(CASE WHEN {IS_OBJECT} THEN line END)) AS key FROM {_lines(path)} ORDER BY 1"
    )
    names = [row[0] for row in engine.execute(sql).fetchall()]
    if not names:
        raise SourceError("one JSON object per line", "no line that is one", where=str(path), fix="write JSON lines")
    return names
