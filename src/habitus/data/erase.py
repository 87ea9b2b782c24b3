"""Erasing users from a store: their rows leave every table and shard, and a list of salted hashes keeps them out.

What other users did stays bit-equal. New files are written beside the old ones, then the manifest is replaced: a killed
erasure leaves the store as it was.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from habitus.core.errors import StoreError
from habitus.core.progress import track
from habitus.data.pipeline import rejects, stream
from habitus.data.pipeline.derived import Change, Changed, Derive, ShardChange, with_derived
from habitus.data.pipeline.engine import literal, open_engine
from habitus.data.pipeline.erased import ERASED, write_erased
from habitus.data.pipeline.manifest import described
from habitus.data.pipeline.scan import vocabularies
from habitus.data.pipeline.swap import adopt, changing
from habitus.data.pipeline.tables import seal, write_table
from habitus.data.shards import TEXT_ROWS, ShardFile, map_shard, map_text
from habitus.data.store import Store

if TYPE_CHECKING:
    import duckdb
    import polars as pl

SHORT = 4  # ids of fewer characters are looked for as whole words in the text of rejected rows


@dataclass(frozen=True)
class Erased:
    """What an erasure did: users found, ids that no user had, events removed, size of the list of the erased."""

    n_users: int
    unknown: tuple[str, ...]
    n_events: int
    n_rejected: int
    n_listed: int


def erase(
    path: str | Path,
    users: Sequence[str | int],
    *,
    derive: Derive | None = None,
    memory_limit: str | int = "4GB",
    threads: int | None = None,
) -> Erased:
    """Remove users from the store at `path` for good; give what was removed. A `Store` opened before is stale.

    Gone are their events, their rows of users, profiles, audiences and rejected rows, and their counts of interests
    (`derive`, see `append`). Rejected rows of others that mention an id lose their text. Later files cannot bring them
    back: `ingest --replace` and `append` reject their rows as "erased". Vocabularies keep items and categories that
    only they had; tables that are made from the log on demand are dropped. Other users keep every value, bit for bit.

    Ids nobody has are listed too, so that a file still to come does not bring them. Errors: `StoreError` when `path` is
    no store, another process is changing it, or nobody would be left.

    >>> import polars, tempfile
    >>> from habitus.data.ingest import ingest
    >>> from habitus.data.log import EventLog
    >>> from habitus.data.schema import Schema
    >>> schema = Schema.parse({"events": {"user": "u", "time": "t", "type": {"constant": "visit"}}})
    >>> rows = polars.DataFrame({"u": ["a", "b"], "t": ["2024-05-01", "2024-05-02"]})
    >>> store = ingest(EventLog(schema, rows), tempfile.mkdtemp() + "/tiny.store")
    >>> erase(store.path, ["a"]).n_events, Store.open(store.path).users["user"].to_list()
    (1, ['b'])
    """
    ids = sorted({str(user) for user in users})
    with changing(Path(path)) as (store, staging):
        texts = store.users["user"].cast(str)
        gone = texts.is_in(ids).to_numpy()
        if gone.all():
            raise StoreError("somebody to be left", "every user would go", where=str(path), fix="remove the folder")
        change, n_rejected, n_listed = _build(store, staging, ids, gone, memory_limit, threads)
        manifest = with_derived(change, derive)
        shutil.rmtree(store.derived, ignore_errors=True)
        adopt(staging, store.path, manifest)
    n_events = store.n_events - manifest["n_events"]
    unknown = tuple(sorted(set(ids) - set(texts.filter(gone).to_list())))
    return Erased(int(gone.sum()), unknown, n_events, n_rejected, n_listed)


def _build(
    store: Store, staging: Path, ids: list[str], gone: np.ndarray, memory_limit: str | int, threads: int | None
) -> tuple[Change, int, int]:
    """Fill `staging` with every file that changes; give the change, rejected rows removed, length of the list."""
    work = staging / "work"
    for folder in (work, staging / "tables", staging / "shards"):
        folder.mkdir()
    engine = open_engine(work, memory_limit, threads)
    try:
        import pyarrow as pa

        engine.register("given_ids", pa.table({"user": pa.array(ids, pa.string())}))
        engine.execute('CREATE TEMP TABLE erased_ids AS SELECT "user" FROM given_ids')
        tables = dict(store.manifest["tables"])
        for name in ("users", "profiles", "audiences"):
            if name in tables:
                tables[name] = _without(engine, store, staging, name)
        n_rejected, tables["rejected"], rejected = _rejected(engine, store, staging, ids)
        file = staging / "tables" / f"{ERASED}.parquet"
        old = store.file(tables[ERASED]["file"]) if ERASED in tables else None
        n_listed = write_erased(engine, old, file)
        tables[ERASED] = seal(staging, file, ERASED)
        shards, parts = _shards(store, staging, gone)
        manifest = _described(engine, store, staging, tables, shards, rejected, n_rejected)
        return Change(store, Changed(staging, manifest, store.schema, kept=store.path), parts), n_rejected, n_listed
    finally:
        engine.close()


def _without(engine: duckdb.DuckDBPyConnection, store: Store, staging: Path, name: str) -> dict[str, Any]:
    """Write a table without the rows of the users."""
    old = literal(store.file(store.manifest["tables"][name]["file"]))
    sql = f"""SELECT * EXCLUDE (file_row_number) FROM read_parquet({old}, file_row_number=true)
        WHERE CAST("user" AS VARCHAR) NOT IN (SELECT "user" FROM erased_ids) ORDER BY file_row_number"""
    file = staging / "tables" / f"{name}.parquet"
    if name == "audiences":  # written by Polars, as ingest does
        engine.sql(sql).pl().write_parquet(file, compression="zstd")
    else:
        write_table(engine, sql, file)
    return seal(staging, file, name)


def _rejected(
    engine: duckdb.DuckDBPyConnection, store: Store, staging: Path, ids: list[str]
) -> tuple[int, dict[str, Any], dict[str, int]]:
    """Drop rejected rows of the users, and the text of others that mention an id."""
    import polars as pl

    rows = store.rejected
    column = store.schema.events.user.column
    user = None if column is None else _json_value(rows, column)
    kept = rows if user is None else rows.filter(~user.is_in(ids).fill_null(False))
    mentions = _mentions(pl.col("raw"), ids).fill_null(False)
    kept = kept.with_columns(raw=pl.when(~mentions).then("raw"))
    file = staging / "tables" / "rejected.parquet"
    engine.register("kept_rejected", kept.to_arrow())
    write_table(engine, "SELECT * FROM kept_rejected", file)
    counts = rejects.count_rejected(engine, file)
    return rows.height - kept.height, seal(staging, file, "rejected"), counts


def _json_value(rows: pl.DataFrame, column: str) -> pl.Series:
    """Give the text of a column out of the JSON of each row; null where the row is no JSON."""
    import duckdb

    path = literal("$." + json.dumps(column))
    sql = f"""SELECT CASE WHEN json_valid(raw) THEN json_extract_string(raw, {path}) END AS value
        FROM rows"""
    with closing(duckdb.connect()) as engine:
        engine.register("rows", rows.select("raw").to_arrow())
        return engine.sql(sql).pl()["value"]


def _mentions(raw: pl.Expr, ids: list[str]) -> pl.Expr:
    """Say which texts mention an id, as it is or as JSON writes it."""
    escaped = [json.dumps(one, ensure_ascii=plain)[1:-1] for one in ids for plain in (True, False)]
    forms = sorted({*ids, *escaped})
    long = [form for form in forms if len(form) >= SHORT]
    short = [re.escape(form) for form in forms if 0 < len(form) < SHORT]
    import polars as pl

    found = raw.str.contains_any(long) if long else pl.lit(False)
    return found | raw.str.contains(rf"(?:^|\W)(?:{'|'.join(short)})(?:\W|$)") if short else found


def _shards(store: Store, staging: Path, gone: np.ndarray) -> tuple[list[dict[str, Any]], dict[int, ShardChange]]:
    """Write the shards that lose users; give all entries, and how each of them changed."""
    entries, parts, first_user = [], {}, 0
    for i, entry in track(list(enumerate(store.manifest["shards"])), "erasing"):
        start = entry["first_user"]
        stays = ~gone[start : start + entry["n_users"]]
        n_users = int(stays.sum())
        if stays.all():
            entries.append(entry | {"first_user": first_user})
        else:
            entries.append(_filtered(store, staging, i, stays, first_user))
            parts[i] = ShardChange(np.where(stays, np.cumsum(stays) - 1, -1))
        first_user += n_users
    return entries, parts


def _filtered(store: Store, staging: Path, i: int, stays: np.ndarray, first_user: int) -> dict[str, Any]:
    """Write shard `i` without the rows of the users that go."""
    entry, columns = store.manifest["shards"][i], stream.columns_of(store.schema)
    rows = np.flatnonzero(np.repeat(stays, np.diff(store.shard(i).offsets)))
    path = staging / "shards" / f"{i:05d}.arrow"
    old = map_shard(store.file(entry["file"]))
    with closing(ShardFile(path, len(rows), columns.dtypes)) as shard, stream.open_text(path, columns) as text:
        for at, piece in _pieces(rows):
            for name in columns.dtypes:
                shard.write(name, at, old[name][piece])
        if text is not None:
            table = map_text(store.file(entry["text"]["file"]))
            for _, piece in _pieces(rows):
                for batch in table.take(piece).combine_chunks().to_batches():
                    text.write(batch)
    head = {"first_user": first_user, "n_users": int(stays.sum()), "n_events": len(rows)}
    return stream.seal_shard(staging, path, head, columns)


def _pieces(rows: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    for at in range(0, len(rows), TEXT_ROWS):
        yield at, rows[at : at + TEXT_ROWS]


def _described(
    engine: duckdb.DuckDBPyConnection,
    store: Store,
    staging: Path,
    tables: dict[str, Any],
    shards: list[dict[str, Any]],
    rejected: dict[str, int],
    n_rejected: int,
) -> dict[str, Any]:
    file = literal(staging / tables["users"]["file"])
    sql = f"SELECT count(*), sum(n_events), min(first_time), max(last_time) FROM read_parquet({file})"
    size = tuple(int(value) for value in engine.execute(sql).fetchall()[0])
    names = vocabularies(store.schema)
    with_names = tables | {f"vocabulary_{name}": store.manifest["vocabularies"][name] for name in names}
    n_read = store.manifest["counts"]["read"] - (store.n_events - size[1]) - n_rejected
    return described(store.schema, names, size, n_read, rejected, with_names, shards)
