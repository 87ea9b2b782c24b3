"""The verb erase: a file of users, vectors and indexes of runs, what is said about what is not undone."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

import habitus
from habitus.cli.main import app
from habitus.core.atomic import write_json
from habitus.core.errors import SourceError
from habitus.data.shards import sha256
from habitus.data.store import Store
from habitus.tasks.by_shard import check_parts
from habitus.tasks.interests import learn_interests
from habitus.tokens.counts import count_interests
from habitus.tokens.interests import InterestConfig
from habitus.tokens.stored_counts import keep_counts, stored_counts

SCHEMA = habitus.Schema.parse({"events": {"user": "u", "time": "t", "type": {"constant": "buy"}, "item": "i"}})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    n = 400
    table = pl.DataFrame(
        {
            "u": [f"user-{i % 40:02d}" for i in range(n)],
            "t": [f"2024-05-{1 + i % 28:02d}" for i in range(n)],
            "i": [f"i{i % 9}" for i in range(n)],
        }
    )
    return habitus.ingest(table, tmp_path / "s", schema=SCHEMA)


def test_counts_vectors_and_indexes_lose_the_user(store: Store, tmp_path: Path):
    interests = learn_interests(store, InterestConfig(way="item"), until=store.last_day)
    keep_counts(store, interests)
    run = tmp_path / "run"
    (run / "near").mkdir(parents=True)
    vectors = pl.DataFrame({"user": store.users["user"], "flat": [[0.5, 1.0]] * store.n_users})
    vectors.write_parquet(run / "z.parquet")
    vectors.select("user").write_csv(run / "seed.csv")
    for name in ("index.json", "vectors.faiss"):
        (run / "near" / name).write_text("user-03")
    (run / "log.txt").write_text("user-03 was odd")
    (tmp_path / "gone.csv").write_text("user\nuser-03\nuser-99\n")
    options = ["erase", str(store.path), "--users", str(tmp_path / "gone.csv"), "--run", str(run)]
    found = CliRunner().invoke(app, options)
    assert found.exit_code == 0, found.output
    assert "erased 1 users: 10 events" in found.output
    assert "1 ids that no user had" in found.output
    assert "log.txt" in found.output.split("still holds an id")[1]
    assert "fit again" in found.output  # 2 of 41 is above 1 %
    left = Store.open(store.path)
    assert pl.read_parquet(run / "z.parquet")["user"].to_list() == left.users["user"].to_list()
    assert "user-03" not in (run / "seed.csv").read_text()
    assert not (run / "near").exists()
    counts = stored_counts(left, interests.version)
    assert counts.n.sum() == count_interests(left, interests).n.sum() == 390


def test_append_after_erase_keeps_counts(store: Store):
    interests = learn_interests(store, InterestConfig(way="item"), until=store.last_day)
    keep_counts(store, interests)
    assert habitus.erase(store.path, ["user-07"]).n_events == 10
    more = pl.DataFrame({"u": ["user-07", "user-08", "new"], "t": ["2024-06-01"] * 3, "i": ["i1", "i2", "odd"]})
    grown = habitus.append(store.path, more)
    assert grown.n_events == 392
    counts = stored_counts(grown, interests.version)
    assert counts.n.sum() == 392
    assert counts.n[counts.interest == 0].sum() == 1  # of an item that the interests do not know


def test_a_file_without_users_is_refused(store: Store, tmp_path: Path):
    (tmp_path / "x.csv").write_text("name\nuser-03\n")
    with pytest.raises(SourceError, match="column 'user'"):
        habitus.erase(store.path, tmp_path / "x.csv")
    with pytest.raises(SourceError, match="no such folder"):
        habitus.erase(store.path, ["user-03"], runs=[tmp_path / "none"])
    assert Store.open(store.path).n_users == 40


def test_manifests_tell_of_the_tables_as_they_are_after_it(store: Store, tmp_path: Path):
    run, ids = tmp_path / "run", store.users["user"]
    (run / "z").mkdir(parents=True)
    parts = []
    for i, entry in enumerate(store.manifest["shards"]):
        file = run / "z" / f"{i:05d}.parquet"
        ids.slice(entry["first_user"], entry["n_users"]).to_frame().write_parquet(file)
        n = entry["n_users"]
        parts.append({"shard": i, "n_users": n, "n_rows": n, "sha256": sha256(file), "file": file.name})
    ids.to_frame().write_parquet(run / "one.parquet")
    facts = {"store_fingerprint": store.fingerprint, "n_rows": 40, "n_users": 40, "parts": parts}
    write_json(run / "z.manifest.json", facts)
    write_json(run / "one.manifest.json", facts)
    write_json(run / "old.manifest.json", facts | {"store_fingerprint": "another"})
    check_parts(run / "z", store)
    done = habitus.erase(store.path, ["user-07"], runs=[run])
    left = Store.open(store.path)
    assert check_parts(run / "z", left)["n_rows"] == 39
    one = json.loads((run / "one.manifest.json").read_text())
    assert (one["n_rows"], one["store_fingerprint"]) == (39, left.fingerprint)
    assert "parts" not in one
    assert json.loads((run / "old.manifest.json").read_text())["n_rows"] == 40
    assert {file.name for file in done.files} >= {"z.manifest.json", "one.manifest.json"}
