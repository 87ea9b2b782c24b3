"""Every kind of source gives the same store; what is broken in one is said or counted."""

from __future__ import annotations

import gzip
import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pytest

from habitus.core.errors import SourceError
from habitus.data.ingest import ingest
from habitus.data.log import EventLog, as_raw
from habitus.data.schema import Schema
from habitus.data.sources.duckdb_file import DuckDBTable
from habitus.data.sources.postgresql import PostgreSQLQuery
from habitus.data.sources.tables import Query
from habitus.data.store import Store

SCHEMA = Schema.parse(
    {
        "max_rejected": 0.5,
        "events": {
            "user": "who",
            "time": "at",
            "type": {"sql": "CASE WHEN n > 1 THEN 'many' ELSE 'one' END"},
            "columns": {"n": "BIGINT", "price": "DOUBLE"},
            "amounts": {"spend": {"value": {"sql": "n * price"}}},
            "categories": {"shop": "shop"},
        },
    }
)
ROWS = pl.DataFrame(
    {
        "who": ["ann", "bob", "ann", None, 'c"d'],
        "at": [f"2024-05-0{day} {hour}:00:00" for day, hour in ((1, "10"), (1, "09"), (2, "00"), (1, "00"), (3, "00"))],
        "n": [1, 2, 3, 4, 5],
        "price": [0.5, 1.25, 2.0, 1.0, 3.0],
        "shop": ["north, east", "south", None, "south", "line\nbreak"],
    }
)


def store_of(events: Any, folder: Path, schema: Schema = SCHEMA) -> Store:
    return ingest(EventLog(schema, events), folder / "s.store")


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = store_of(ROWS, tmp_path_factory.mktemp("wanted"))
    assert store.manifest["counts"] == {"read": 5, "kept": 4, "rejected": {"no user": 1}}
    assert store.shard(0).amounts["spend"].tolist() == [0.5, 6.0, 2.5, 15.0]
    return store


def write_parquet(path: Path) -> Path:
    ROWS.write_parquet(path / "e.parquet")
    return path / "e.parquet"


def write_two_parquet_files(path: Path) -> list[Path]:
    ROWS[:2].write_parquet(path / "1.parquet")
    ROWS[2:].select("n", "price", "at", "who", "shop").write_parquet(path / "2.parquet")
    return [path / "1.parquet", path / "2.parquet"]


def write_csv(path: Path) -> Path:
    ROWS.write_csv(path / "e.csv")
    return path / "e.csv"


def write_tsv_in_a_folder(path: Path) -> Path:
    (path / "in").mkdir()
    ROWS[:3].write_csv(path / "in" / "1.tsv", separator="\t", include_bom=True)
    ROWS[3:].write_csv(path / "in" / "2.tsv", separator="\t", line_terminator="\r\n")
    return path / "in"


def write_zipped_csv(path: Path) -> str:
    with gzip.open(path / "e.csv.gz", "wb") as file:
        file.write(ROWS.write_csv(separator=";").encode())
    return str(path / "*.csv.gz")


def write_json_lines(path: Path) -> Path:
    ROWS.write_ndjson(path / "e.jsonl")
    return path / "e.jsonl"


def write_duckdb(path: Path) -> DuckDBTable:
    with duckdb.connect(str(path / "shop.duckdb")) as connection:
        connection.register("given", ROWS.to_arrow())
        connection.execute("CREATE SCHEMA raw; CREATE TABLE raw.events AS SELECT * FROM given")
    return DuckDBTable(path / "shop.duckdb", "raw.events")


SOURCES = {
    "parquet": write_parquet,
    "two parquet files": write_two_parquet_files,
    "csv": write_csv,
    "folder of tsv": write_tsv_in_a_folder,
    "zipped csv": write_zipped_csv,
    "json lines": write_json_lines,
    "duckdb": write_duckdb,
    "polars": lambda path: ROWS,
    "arrow": lambda path: ROWS.to_arrow(),
    "one-shot stream": lambda path: ROWS.to_arrow().to_reader(),
    "duckdb relation": lambda path: duckdb.connect().from_arrow(ROWS.to_arrow()),
    "query": lambda path: Query("SELECT * FROM a UNION ALL SELECT * FROM b", {"a": ROWS[:2], "b": write_rest(path)}),
}


def write_rest(path: Path) -> Path:
    ROWS[2:].write_parquet(path / "rest.parquet")
    return path / "rest.parquet"


@pytest.mark.parametrize("kind", SOURCES)
def test_every_source_gives_the_same_store(tmp_path: Path, wanted: Store, kind: str):
    store = store_of(SOURCES[kind](tmp_path), tmp_path)
    assert store.fingerprint == wanted.fingerprint
    assert store.manifest["counts"] == wanted.manifest["counts"]
    assert store.users["user"].to_list() == ["ann", "bob", 'c"d']


def test_whole_numbers_in_text_files_are_ids_as_given(tmp_path: Path):
    (tmp_path / "e.csv").write_text("u,t\n007,2024-05-01\n7,2024-05-01\n")
    schema = Schema.parse({"events": {"user": "u", "time": "t", "type": {"constant": "v"}}})
    assert store_of(tmp_path / "e.csv", tmp_path, schema).users["user"].to_list() == ["007", "7"]


PLAIN = Schema.parse({"max_rejected": 0.9, "events": {"user": "u", "time": "t", "type": {"constant": "v"}}})


def test_broken_csv_lines_are_counted_with_their_line(tmp_path: Path):
    lines = ["u,t", "a,2024-05-01", "b", "c,2024-05-01,x", 'd,"2024-05-01', "e,2024-05-01", "", '"f",2024-05-02']
    (tmp_path / "e.csv").write_text("\n".join(lines) + "\n")
    store = store_of(tmp_path / "e.csv", tmp_path, PLAIN)
    assert store.manifest["counts"]["read"] == 6
    assert store.users["user"].to_list() == ["a", "e", "f"]
    assert store.rejected.select("reason", "line", "raw").rows() == [
        ("broken line: missing columns", 3, "b"),
        ("broken line: too many columns", 4, "c,2024-05-01,x"),
        ("broken line: a quote that is not closed", 5, 'd,"2024-05-01'),
    ]


@pytest.mark.parametrize("quoted", [False, True])
@pytest.mark.parametrize("closes", [False, True])
def test_a_quote_that_is_not_closed_swallows_one_line_only(tmp_path: Path, quoted: bool, closes: bool):
    rows = [f'{i},"2024-05-01"' if quoted else f"{i},2024-05-01" for i in range(3_000)]
    rows[1_000] = '1000,"2024-05-01'
    if closes:
        rows[2_000] = '2000,2024-05-01"'
    (tmp_path / "e.csv").write_text("\n".join(["u,t", *rows, '"several\nlines",2024-05-01']) + "\n")
    counts = store_of(tmp_path / "e.csv", tmp_path, PLAIN).manifest["counts"]
    assert counts["read"] == 3_001
    assert counts["kept"] >= 3_001 - 1 - int(closes)


def test_broken_json_lines_are_counted_with_their_line(tmp_path: Path):
    lines = [
        '{"u": "a", "t": "2024-05-01"}',
        '{"u": "b", "t"',
        "",
        "[1]",
        '{"t": "2024-05-01"}',
        '{"u": 7, "t": "2024-05-01"}',
    ]
    (tmp_path / "e.jsonl").write_text("\n".join(lines) + "\n")
    store = store_of(tmp_path / "e.jsonl", tmp_path, PLAIN)
    assert store.manifest["counts"] == {
        "read": 5, "kept": 2, "rejected": {"broken line: not a JSON object": 2, "no user": 1},
    }  # fmt: skip
    assert store.rejected["line"].to_list() == [None, 2, 4]
    assert store.users["user"].to_list() == ["7", "a"]


@pytest.mark.parametrize(
    ("content", "name", "words"),
    [
        ("", "e.csv", "empty file"),
        ("a,a\n1,2\n", "e.csv", "distinct column names"),
        ("a,\n1,2\n", "e.csv", "distinct column names"),
        ("[{},\n{}]\n", "e.json", "one JSON object per line"),
        ("x", "e.xlsx", "ending in one of"),
        ("PAR1 not really", "e.parquet", "can be read"),
    ],
)
def test_files_that_cannot_be_read_are_said_so(tmp_path: Path, content: str, name: str, words: str):
    (tmp_path / name).write_text(content)
    with pytest.raises(SourceError, match=words) as caught:
        store_of(tmp_path / name, tmp_path, PLAIN)
    assert name in str(caught.value)
    assert not (tmp_path / "s.store").exists()


def test_paths_that_lead_nowhere_name_the_nearest(tmp_path: Path):
    (tmp_path / "events.csv").write_text("u,t\n")
    with pytest.raises(SourceError, match=r"did you mean .*events\.csv"):
        as_raw(tmp_path / "event.csv")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="a folder without any"):
        as_raw(tmp_path / "empty")
    with pytest.raises(SourceError, match="__arrow_c_stream__"):
        as_raw(7)
    ROWS.write_parquet(tmp_path / "e.parquet")
    with pytest.raises(SourceError, match="one format"):
        as_raw([tmp_path / "e.parquet", tmp_path / "events.csv"])


def test_a_duckdb_file_or_table_that_is_not_there(tmp_path: Path):
    with pytest.raises(SourceError, match="no such file"):
        store_of(DuckDBTable(tmp_path / "no.duckdb", "t"), tmp_path)
    table = write_duckdb(tmp_path)
    with pytest.raises(SourceError, match="did you mean 'events'"):
        store_of(DuckDBTable(table.path, "event"), tmp_path)
    (tmp_path / "text.duckdb").write_text("no database, but long enough to look like one" * 100)
    with pytest.raises(SourceError, match=r"text\.duckdb"):
        store_of(DuckDBTable(tmp_path / "text.duckdb", "t"), tmp_path)


def test_a_query_that_cannot_run_says_why(tmp_path: Path):
    from habitus.core.errors import SchemaError

    with pytest.raises(SchemaError, match="nobody"):
        store_of(Query("SELECT * FROM nobody"), tmp_path)


@pytest.fixture(scope="module")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a PostgreSQL server of our own on a socket; give its URI."""
    pytest.importorskip("adbc_driver_postgresql", reason="needs the extra [sql]")
    programs = {name: shutil.which(name) for name in ("initdb", "postgres", "pg_isready")}
    if not all(programs.values()):
        pytest.skip("needs the PostgreSQL programs initdb, postgres and pg_isready on the path")
    folder = tmp_path_factory.mktemp("pg")
    user = _someone_else(folder) if os.getuid() == 0 else {}
    data, socket = folder / "data", str(folder)
    made = subprocess.run(
        [str(programs["initdb"]), "-D", str(data), "-U", "reader", "-A", "trust", "--no-sync"],
        capture_output=True, text=True, cwd=folder, **user,
    )  # fmt: skip
    if made.returncode:
        pytest.skip(f"initdb failed: {made.stderr[-300:]}")
    server = subprocess.Popen(
        [str(programs["postgres"]), "-D", str(data), "-k", socket, "-c", "listen_addresses=", "-c", "fsync=off"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder, **user,
    )  # fmt: skip
    try:
        for _ in range(100):
            if (
                subprocess.run([str(programs["pg_isready"]), "-h", socket, "-t", "1"], capture_output=True).returncode
                == 0
            ):
                break
        yield f"postgresql://reader@/postgres?host={socket}"
    finally:
        server.terminate()
        server.wait(30)


def _someone_else(folder: Path) -> dict[str, Any]:
    """PostgreSQL refuses to run as root: run it as an ordinary user who owns the folder."""
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        os.chown(folder, entry.pw_uid, entry.pw_gid)
        for parent in folder.parents:
            if parent.stat().st_uid == 0 and parent != Path("/") and not parent.stat().st_mode & 0o001:
                parent.chmod(parent.stat().st_mode | 0o011)
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    pytest.skip("PostgreSQL refuses to run as root, and there is no ordinary user")


def test_a_query_on_postgresql_gives_the_same_store(tmp_path: Path, postgresql: str, wanted: Store):
    from adbc_driver_postgresql import dbapi

    with dbapi.connect(postgresql) as connection, connection.cursor() as cursor:
        cursor.adbc_ingest("events", ROWS.with_row_index("row").cast({"row": pl.Int64}).to_arrow(), mode="replace")
        connection.commit()
    query = "SELECT who, at, n, price, shop FROM events ORDER BY row;"
    store = store_of(PostgreSQLQuery(postgresql, query), tmp_path)
    assert store.fingerprint == wanted.fingerprint
    assert store.manifest["counts"] == wanted.manifest["counts"]
    with pytest.raises(SourceError, match="nobody"):
        store_of(PostgreSQLQuery(postgresql, "SELECT * FROM nobody"), tmp_path / "x")


def test_a_server_that_is_not_there_is_said_without_the_password(tmp_path: Path):
    pytest.importorskip("adbc_driver_postgresql", reason="needs the extra [sql]")
    uri = "postgresql://reader:secret@127.0.0.1:1/shop"
    with pytest.raises(SourceError, match="PostgreSQL") as caught:
        store_of(PostgreSQLQuery(uri, "SELECT 1"), tmp_path)
    assert "secret" not in str(caught.value)
    assert "secret" not in repr(PostgreSQLQuery(uri, "SELECT 1"))


def test_arrow_types_beyond_the_plain_ones_are_read(tmp_path: Path):
    table = pa.table(
        {
            "u": pa.array(["a", "b"]).dictionary_encode(),
            "t": pa.array([0, 1], pa.timestamp("s", "UTC")),
            "k": pa.array(["x", "y"], pa.large_string()),
            "a": pa.array([1, 2], pa.int8()),
        }
    )
    schema = Schema.parse({"events": {"user": "u", "time": "t", "type": "k", "amounts": {"a": {"value": "a"}}}})
    store = store_of(table, tmp_path, schema)
    assert store.users["user"].to_list() == ["a", "b"]
    assert store.shard(0).amounts["a"].tolist() == [1.0, 2.0]
