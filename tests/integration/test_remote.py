"""Stores, runs and answers on S3: a server on this machine stands for it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from habitus.core import remote
from habitus.core.errors import DiskError, StoreError
from habitus.data.part import part_of
from habitus.data.remote_store import publish
from habitus.data.sources.simulator import World, simulated_log
from habitus.data.store import Store, files_of
from habitus.tasks.by_shard import check_parts
from habitus.tasks.embed import embed
from habitus.tasks.ingest import append, ingest
from habitus.tasks.predict import predict
from habitus.tasks.train import train
from habitus.testing.runs import CUTOFF, DAYS, WORLD


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The options of a bucket: what follows `s3://bucket/name` in an address of the server."""
    server = pytest.importorskip("moto.server", reason="moto[server] is not installed")
    from pyarrow import fs

    started = server.ThreadedMotoServer(port=0, verbose=False)
    started.start()
    host, port = started.get_host_and_port()
    options = f"scheme=http&endpoint_override={host}:{port}&region=us-east-1&allow_bucket_creation=true"
    system, _ = fs.FileSystem.from_uri(f"s3://key:secret@bucket?{options}")
    system.create_dir("bucket")
    yield options
    started.stop()


@pytest.fixture
def at(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Give addresses below a folder of this test alone, read by a machine without a cache."""
    monkeypatch.setenv("HABITUS_CACHE", str(tmp_path / "cache"))
    return lambda name: f"s3://key:secret@bucket/{tmp_path.name}/{name}?{bucket}"


def test_a_store_elsewhere_is_the_store(at, tmp_path: Path):
    log = simulated_log(World.parse(WORLD))
    here, there = ingest(log, tmp_path / "world.store"), ingest(log, at("world.store"))
    assert there.manifest == here.manifest
    there.check()
    assert there.users.equals(here.users)
    assert there.calendar.events.equals(here.calendar.events)
    assert part_of(there, [0], tmp_path).shard(0).n_events == here.n_events
    names = remote.listed(at("world.store"))
    assert set(names) == {p.relative_to(here.path).as_posix() for p in here.path.rglob("*") if p.is_file()}
    with pytest.raises(DiskError, match="it exists already") as caught:
        ingest(log, at("world.store"))
    assert "secret" not in str(caught.value)


def test_append_and_replace_leave_no_litter_and_notice_each_other(at, tmp_path: Path):
    log = simulated_log(World.parse(WORLD))
    first = ingest(log, at("world.store"))
    later = type(log)(log.schema, log.events.slice(0, 300), log.profiles, log.items)
    second = append(at("world.store"), later)
    assert second.n_events == first.n_events + 300
    second.check()
    again = ingest(log, at("world.store"), replace=True)
    assert again.fingerprint == first.fingerprint
    assert set(remote.listed(at("world.store"))) == {e["file"] for e in files_of(again.manifest)} | {"manifest.json"}
    with pytest.raises(StoreError, match="another one"):
        publish(second, at("world.store"), replaces=second.fingerprint)


def test_an_upload_that_breaks_off_leaves_the_older_store(at, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    log = simulated_log(World.parse(WORLD))
    first = ingest(log, at("world.store"))
    push = remote.push

    def broken(folder: Path, address: str, names: list[str]) -> None:
        push(folder, address, [name for name in names if name != "manifest.json"])
        raise KeyboardInterrupt

    later = type(log)(log.schema, log.events.slice(0, 300), log.profiles, log.items)
    with monkeypatch.context() as killed:
        killed.setattr(remote, "push", broken)
        with pytest.raises(KeyboardInterrupt):
            append(at("world.store"), later)
    still = Store.open(at("world.store"))
    still.check()
    assert still.fingerprint == first.fingerprint


def test_a_run_and_its_answers_elsewhere(at, tmp_path: Path):
    store = ingest(simulated_log(World.parse(WORLD)), at("world.store"))
    recipe = tmp_path / "days.toml"
    recipe.write_text(DAYS.format(seeds=[0]).replace("unused.store", at("world.store")), "utf-8")
    here = train(recipe, out=tmp_path / "days")
    train(recipe, out=at("days"))
    wanted = predict(here, cutoff=CUTOFF)
    found = predict(at("days"), cutoff=CUTOFF, out=at("p.parquet"))
    assert_frame_equal(found, wanted, abs_tol=1e-5, check_exact=False)
    read = pl.read_parquet(remote.fetch(at("p.parquet"), tmp_path / "p.parquet"))
    assert_frame_equal(read, found)
    facts = json.loads(remote.fetch(at("p.manifest.json"), tmp_path / "p.json").read_text())
    assert facts["store_fingerprint"] == store.fingerprint
    embed(here, cutoff=CUTOFF, out=at("z"))
    remote.fetch_folder(at("z"), tmp_path / "z")
    remote.fetch(at("z.manifest.json"), tmp_path / "z.manifest.json")
    check_parts(tmp_path / "z", store)


def test_what_does_not_answer_is_told_without_secrets(at, tmp_path: Path):
    with pytest.raises(StoreError, match=r"no manifest\.json"):
        Store.open(at("none.store"))
    nobody = "s3://key:secret@bucket/x.store?scheme=http&endpoint_override=127.0.0.1:9&region=us-east-1"
    with pytest.raises(DiskError, match="a file system that answers") as caught:
        Store.open(nobody + "&connect_timeout=1&retry_strategy=none")
    assert "secret" not in str(caught.value)
