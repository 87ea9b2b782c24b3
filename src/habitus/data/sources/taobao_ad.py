"""Taobao display ads: four raw files of 26 M impressions and 723 M behaviours into narrow memory-mapped columns.

The publisher (Alibaba, Tianchi data set 56) does not let others ship the files; the user names their folder. Columns
are found by name, in any order, with spaces around names ignored. The log has no item: a behaviour is (user, second,
kind, category, brand). Days are those of Asia/Shanghai, which had no summer time.

- Broken lines, unknown kinds, impossible times, and impressions with nonclk + clk other than 1 go to
  `rejected.parquet` with file, reason and position; read = kept + rejected for every file.
- An ad without features is kept with category, brand and campaign 0 and no price; a user without behaviours has an
  empty history; a user without a profile has 0 in every profile field. The manifest counts all three.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from habitus.core.atomic import new_folder, write_json
from habitus.core.errors import IngestError, SourceError, StoreError
from habitus.core.progress import bar
from habitus.data.history import BehaviourLog, index_rows, user_stretches
from habitus.data.impressions import DAY, Impressions
from habitus.data.pipeline.engine import engine_errors, literal, open_engine, quoted
from habitus.data.sources.csv_file import header

if TYPE_CHECKING:
    import duckdb

FORMAT = 1
KINDS = ("pv", "cart", "fav", "buy")
UTC_OFFSET = 8 * 3600
FIRST_DAY, FIRST_IMPRESSION_DAY, END_DAY = 17_278, 17_292, 17_300  # local 2017-04-22, 05-06 and 05-14
PROFILE = ("cms_segid", "cms_group_id", "final_gender_code", "age_level", "pvalue_level", "shopping_level")
PROFILE = (*PROFILE, "occupation", "new_user_class_level")
_SAMPLE = {"user": "INTEGER", "time_stamp": "BIGINT", "adgroup_id": "INTEGER", "pid": "VARCHAR"}
FILES: dict[str, dict[str, str]] = {
    "raw_sample": {**_SAMPLE, "nonclk": "TINYINT", "clk": "TINYINT"},
    "ad_feature": {
        **dict.fromkeys(("adgroup_id", "cate_id", "campaign_id", "customer", "brand"), "INTEGER"),
        "price": "DOUBLE",
    },
    "user_profile": dict.fromkeys(("userid", *PROFILE), "INTEGER"),
    "behavior_log": {
        "user": "INTEGER",
        "time_stamp": "BIGINT",
        "btag": "VARCHAR",
        **dict.fromkeys(("cate", "brand"), "INTEGER"),
    },
}
COLUMNS = {"time": np.int32, "kind": np.uint8, "cate": np.int32, "brand": np.int32}
IMPRESSIONS = {"user": np.int32, "ad": np.int32, "time": np.int32, "pid": np.int16, "clk": np.int8, "row": np.int64}


def read_taobao_ad(
    folder: str | Path,
    out: str | Path,
    *,
    memory_limit: str = "4GB",
    threads: int | None = None,
    max_rejected: float = 0.02,
) -> Impressions:
    """Read the four files into a new folder `out` and open it.

    Parameters
    ----------
    folder
        Where raw_sample, ad_feature, user_profile and behavior_log lie, as .csv or .csv.gz.
    memory_limit
        What the whole process may use; what does not fit is sorted on disk beside `out`.
    max_rejected
        The share of a file's rows that may be rejected.

    Errors: `SourceError` (a file or a column is absent), `IngestError` (too many rejected rows), `DiskError`.

    >>> read_taobao_ad("no/such/folder", "out")
    Traceback (most recent call last):
    ...
    habitus.core.errors.SourceError: expected  a folder with raw_sample, ad_feature, user_profile, behavior_log (.csv)
    found     no such folder
    where     no/such/folder
    """
    paths = _find_files(Path(folder))
    columns = {name: _check_header(path, FILES[name]) for name, path in paths.items()}
    with new_folder(out) as target:
        work = target / "work"
        work.mkdir()
        engine = open_engine(work, memory_limit, threads)
        try:
            with bar("reading", len(paths)) as advance:
                counts = {}
                for name, path in paths.items():
                    counts[name] = _copy(engine, name, path, columns[name], work)
                    advance(1)
            _write_rejected(engine, work, target, paths, counts, max_rejected)
            facts = _write_tables(engine, work, target)
            _write_log(engine, work, target, counts["behavior_log"]["kept"])
        finally:
            engine.close()
        shutil.rmtree(work)
        write_json(target / "manifest.json", {"format": FORMAT, "kinds": list(KINDS), "counts": counts, **facts})
    return open_taobao_ad(out, truth=Path(folder) / "truth.parquet")


def open_taobao_ad(out: str | Path, *, truth: str | Path | None = None) -> Impressions:
    """Open what `read_taobao_ad` wrote; the log is memory-mapped. `truth` is the table of a generated world, if any.

    Errors: `StoreError` when the folder is not one of these.
    """
    import polars as pl

    out = Path(out)
    try:
        manifest = json.loads((out / "manifest.json").read_text("utf-8"))
        if manifest["format"] != FORMAT:
            raise StoreError(f"format {FORMAT}", f"format {manifest['format']}", where=str(out))
        log_names = (*COLUMNS, "offsets", "run_start", "repeats")
        log = BehaviourLog(**{n: _mapped(out / f"log_{n}.npy") for n in log_names}, kinds=tuple(manifest["kinds"]))
        shown = {name: np.load(out / f"impressions_{name}.npy") for name in IMPRESSIONS}
        users = np.load(out / "users.npy")
        ads, profiles = pl.read_parquet(out / "ads.parquet"), pl.read_parquet(out / "profiles.parquet")
    except (OSError, KeyError, ValueError) as cause:
        raise StoreError("a folder written by read_taobao_ad", str(cause), where=str(out)) from None
    ad_at, _ = _places(ads["adgroup_id"].to_numpy(), shown["ad"])
    profile_at, has_profile = _places(profiles["userid"].to_numpy(), users[shown["user"]])
    ids = {"user": users[shown["user"]], "pid": shown["pid"] + 1, "adgroup": shown["ad"]}
    ids |= {name: _taken(ads[name].to_numpy(), ad_at) for name in ("campaign_id", "customer")}
    ids |= {name: _taken(profiles[name].to_numpy(), profile_at) for name in PROFILE}
    cate, brand = (_taken(ads[name].to_numpy(), ad_at).astype(np.int32) for name in ("cate_id", "brand"))
    prices = np.append(ads["price"].to_numpy(), np.nan)
    known = Path(truth) if truth is not None else None
    p = pl.read_parquet(known, columns=["p"])["p"].to_numpy()[shown["row"]] if known and known.is_file() else None
    return Impressions(
        user=shown["user"], time=shown["time"].astype(np.int64), label=shown["clk"], source=shown["row"], ids=ids,
        cate=cate, brand=brand, price=prices[ad_at], has_profile=has_profile, log=log,
        utc_offset=UTC_OFFSET, truth=p,
    )  # fmt: skip


def _find_files(folder: Path) -> dict[str, Path]:
    wanted = ", ".join(FILES)
    if not folder.is_dir():
        raise SourceError(f"a folder with {wanted} (.csv)", "no such folder", where=str(folder))
    found = {}
    for name in FILES:
        paths = [folder / f"{name}{ending}" for ending in (".csv", ".csv.gz")]
        there = [path for path in paths if path.is_file()]
        if not there:
            names = ", ".join(sorted(p.name for p in folder.iterdir())[:12]) or "nothing"
            raise SourceError(f"a file {name}.csv", names, where=str(folder), fix=f"all four are needed: {wanted}")
        found[name] = there[0]
    return found


def _check_header(path: Path, wanted: dict[str, str]) -> list[str]:
    """Give the names of the file in its own order, as they stand."""
    names, _ = header(path)
    stripped = [name.strip() for name in names]
    missing = [name for name in wanted if name not in stripped]
    if missing:
        raise SourceError(
            f"a column {missing[0]!r}", f"columns: {', '.join(stripped)}", where=str(path), fix="take the raw file"
        )
    return names


def _reason(name: str) -> str:
    """SQL that says why a row cannot be used, or NULL."""
    no_user = """CASE WHEN "user" IS NULL OR "user" < 0 THEN 'no user' """
    first = FIRST_IMPRESSION_DAY if name == "raw_sample" else FIRST_DAY
    low, high = (day * DAY - UTC_OFFSET for day in (first, END_DAY))
    bad_time = f"WHEN time_stamp IS NULL OR time_stamp < {low} OR time_stamp >= {high} THEN 'time out of range'"
    if name == "raw_sample":
        return f"""{no_user} {bad_time} WHEN adgroup_id IS NULL THEN 'no ad'
            WHEN clk IS NULL OR nonclk IS NULL OR clk NOT IN (0, 1) OR clk + nonclk <> 1 THEN 'nonclk + clk is not 1'
            END"""
    if name == "behavior_log":
        kinds = ", ".join(literal(kind) for kind in KINDS)
        return f"""{no_user} {bad_time} WHEN btag IS NULL OR btag NOT IN ({kinds}) THEN 'unknown btag'
            WHEN cate < 0 OR brand < 0 THEN 'negative id' END"""
    key = "adgroup_id" if name == "ad_feature" else "userid"
    return f"CASE WHEN {key} IS NULL THEN 'no {key}' END"


def _copy(engine: duckdb.DuckDBPyConnection, name: str, path: Path, names: list[str], work: Path) -> dict[str, int]:
    """Copy one file to Parquet, typed, with the reason of every row; count read, kept, broken."""
    types = FILES[name]
    declared = ", ".join(f"{literal(n)}: {literal(types.get(n.strip(), 'VARCHAR'))}" for n in names)
    options = f"""auto_detect=false, header=true, delim=',', quote='"', escape='"', nullstr=['', 'NULL'],
        columns={{{declared}}}, store_rejects=true, rejects_table='e_{name}', rejects_scan='s_{name}',
        rejects_limit=0"""
    kept = ", ".join(f"{quoted(n)} AS {quoted(n.strip())}" for n in names if n.strip() in types)
    with engine_errors(str(path)):
        rows = f"SELECT {kept} FROM read_csv({literal(path)}, {options})"
        goal = f"{literal(work / f'{name}.parquet')} (FORMAT parquet, COMPRESSION lz4)"
        engine.execute(f"COPY (SELECT *, {_reason(name)} AS reason FROM ({rows})) TO {goal}")
        n, n_good = engine.execute(
            f"SELECT count(*), count(*) FILTER (reason IS NULL) FROM {_parquet(work, name)}"
        ).fetchall()[0]
        n_broken = engine.execute(f"SELECT count(DISTINCT line) FROM e_{name}").fetchall()[0][0]
    return {"read": n + n_broken, "kept": n_good, "broken": n_broken}


def _parquet(work: Path, name: str) -> str:
    return f"read_parquet({literal(work / f'{name}.parquet')}, file_row_number=true)"


def _write_rejected(
    engine: duckdb.DuckDBPyConnection,
    work: Path,
    target: Path,
    paths: dict[str, Path],
    counts: dict[str, Any],
    most: float,
) -> None:
    """Write rejected.parquet (file, reason, position, raw) and put the counts by reason into `counts`."""
    parts = []
    for name in FILES:
        shown = " || ',' || ".join(f"coalesce(CAST({quoted(column)} AS VARCHAR), '')" for column in FILES[name])
        parts.append(
            f"""SELECT '{name}' AS file, reason, file_row_number AS position, {shown} AS raw
            FROM {_parquet(work, name)} WHERE reason IS NOT NULL"""
        )
        parts.append(
            f"""SELECT '{name}', 'broken line: ' || lower(first(error_type)), CAST(line AS BIGINT),
            first(csv_line) FROM e_{name} GROUP BY line"""
        )
    engine.execute(f"CREATE TABLE rejected AS {' UNION ALL '.join(parts)}")
    file = target / "rejected.parquet"
    engine.execute(f"COPY (SELECT * FROM rejected ORDER BY file, position) TO {literal(file)} (FORMAT parquet)")
    found = engine.execute("SELECT file, reason, count(*) FROM rejected GROUP BY ALL ORDER BY ALL").fetchall()
    for name, count in counts.items():
        count["rejected"] = {reason: n for file_name, reason, n in found if file_name == name}
        del count["broken"]
        n_bad = count["read"] - count["kept"]
        if n_bad > most * count["read"] or not count["kept"]:
            lines = engine.execute("SELECT reason, raw FROM rejected WHERE file = ? LIMIT 3", [name]).fetchall()
            raise IngestError(
                f"at most {most:.1%} rejected rows", f"{n_bad:,} of {count['read']:,}: {count['rejected']}",
                where=str(paths[name]), fix="; ".join(f"{reason}: {raw}" for reason, raw in lines),
            )  # fmt: skip


def _write_tables(engine: duckdb.DuckDBPyConnection, work: Path, target: Path) -> dict[str, Any]:
    """Write ads, profiles, users and impressions; give the placements and what is absent."""
    ads, profiles = _parquet(work, "ad_feature"), _parquet(work, "user_profile")
    names = ("cate_id", "campaign_id", "customer", "brand")
    given = ", ".join(f"first(coalesce({name}, 0) ORDER BY file_row_number) AS {name}" for name in names)
    rows = f"""SELECT adgroup_id, {given}, first(coalesce(price, 'nan') ORDER BY file_row_number) AS price FROM {ads}
        WHERE reason IS NULL GROUP BY adgroup_id ORDER BY adgroup_id"""
    engine.execute(f"COPY ({rows}) TO {literal(target / 'ads.parquet')} (FORMAT parquet)")
    # a field is its value + 2, blank is 1, no profile is 0
    fields = ", ".join(f"first(coalesce({name} + 2, 1) ORDER BY file_row_number) AS {name}" for name in PROFILE)
    rows = f"SELECT userid, {fields} FROM {profiles} WHERE reason IS NULL GROUP BY userid ORDER BY userid"
    engine.execute(f"COPY ({rows}) TO {literal(target / 'profiles.parquet')} (FORMAT parquet)")
    sample, events = (f"{_parquet(work, name)} WHERE reason IS NULL" for name in ("raw_sample", "behavior_log"))
    everyone = f'SELECT DISTINCT "user" FROM (SELECT "user" FROM {sample} UNION SELECT "user" FROM {events}) ORDER BY 1'
    users = engine.sql(everyone).to_arrow_table()["user"].to_numpy().astype(np.int32)
    np.save(target / "users.npy", users)
    pids = [row[0] for row in engine.execute(f"SELECT DISTINCT coalesce(pid, '') FROM {sample} ORDER BY 1").fetchall()]
    whens = " ".join(f"WHEN {literal(pid)} THEN {i}" for i, pid in enumerate(pids))
    n = engine.execute(f"SELECT count(*) FROM {sample}").fetchall()[0][0]
    rows = f"""SELECT "user", adgroup_id AS ad, CAST(time_stamp AS INTEGER) AS time,
        CAST(CASE coalesce(pid, '') {whens} END AS SMALLINT) AS pid, clk, file_row_number AS row
        FROM {sample} ORDER BY "user", time, row"""
    files = {c: _ColumnFile(target / f"impressions_{c}.npy", dtype, n) for c, dtype in IMPRESSIONS.items()}
    for batch in engine.sql(rows).to_arrow_reader(1_000_000):
        for name, file in files.items():
            values = batch.column(name).to_numpy(zero_copy_only=False)
            file.write(np.searchsorted(users, values) if name == "user" else values)
    for file in files.values():
        file.close()
    sql = f"SELECT count(*) FROM {sample} AND adgroup_id NOT IN (SELECT adgroup_id FROM {ads} WHERE reason IS NULL)"
    orphans = engine.execute(sql).fetchall()[0][0]
    return {"placements": pids, "n_users": len(users), "impressions_without_ad_features": orphans}


def _write_log(engine: duckdb.DuckDBPyConnection, work: Path, target: Path, n: int) -> None:
    """Stream the sorted behaviours to columns on disk, then index them stretch by stretch."""
    users = np.load(target / "users.npy")
    whens = " ".join(f"WHEN {literal(kind)} THEN {i}" for i, kind in enumerate(KINDS))
    rows = f"""SELECT CAST("user" AS BIGINT) << 31 | time_stamp AS key, CAST(CASE btag {whens} END AS UTINYINT) AS kind,
        coalesce(cate, 0) AS cate, coalesce(brand, 0) AS brand
        FROM {_parquet(work, "behavior_log")} WHERE reason IS NULL ORDER BY key, file_row_number"""
    files = {name: _ColumnFile(target / f"log_{name}.npy", dtype, n) for name, dtype in COLUMNS.items()}
    counts = np.zeros(len(users), np.int64)
    with engine_errors("behavior_log"), bar("sorting behaviours", n) as advance:
        for batch in engine.sql(rows).to_arrow_reader(1_000_000):
            key = batch.column("key").to_numpy()
            files["time"].write(key & (2**31 - 1))
            for name in ("kind", "cate", "brand"):
                files[name].write(batch.column(name).to_numpy())
            found, n_each = np.unique(key >> 31, return_counts=True)
            counts[np.searchsorted(users, found)] += n_each
            advance(batch.num_rows)
    for file in files.values():
        file.close()
    _index_log(target, np.concatenate([[0], counts.cumsum()]).astype(np.int64))


def _index_log(target: Path, offsets: np.ndarray) -> None:
    """Write offsets, runs and repeats, a stretch of users at a time."""
    n, starts = int(offsets[-1]), []
    np.save(target / "log_offsets.npy", offsets)
    repeats = _ColumnFile(target / "log_repeats.npy", np.uint8, n)
    for first, last in user_stretches(offsets):
        part = slice(offsets[first], offsets[last])
        here = {name: np.array(_mapped(target / f"log_{name}.npy")[part]) for name in COLUMNS}
        run, repeat = index_rows(**here, offsets=offsets[first : last + 1] - offsets[first])
        repeats.write(repeat)
        starts.append((run + offsets[first]).astype(np.uint32 if n < 2**32 else np.int64))
    repeats.close()
    np.save(target / "log_run_start.npy", np.concatenate(starts) if starts else np.zeros(0, np.uint32))


class _ColumnFile:
    """A .npy file of known length, written piece by piece: a mapped one would count as memory until it is flushed."""

    def __init__(self, path: Path, dtype: type, n: int) -> None:
        self.dtype, self.handle = np.dtype(dtype), path.open("wb")
        header = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": (n,)}
        np.lib.format.write_array_header_1_0(self.handle, header)

    def write(self, values: np.ndarray) -> None:
        self.handle.write(np.ascontiguousarray(values, self.dtype).data)

    def close(self) -> None:
        self.handle.close()


def _mapped(path: Path) -> np.ndarray:
    return np.load(path, mmap_mode="r") if path.stat().st_size > 128 else np.load(path)


def _places(known: np.ndarray, asked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give the place of each asked id in the sorted known ones (len(known): absent), and whether it is there."""
    at = np.searchsorted(known, asked)
    is_there = known[np.minimum(at, max(len(known) - 1, 0))] == asked if len(known) else np.zeros(len(asked), bool)
    return np.where(is_there, at, len(known)), is_there


def _taken(values: np.ndarray, at: np.ndarray) -> np.ndarray:
    return np.append(values, 0).astype(np.int32)[at]
