"""Answers shard by shard: the same as at once, gone on with after a kill, and provably whole."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from habitus.core.errors import ConfigError, CutoffError, DiskError, FingerprintError, StoreError
from habitus.data.ingest import ingest
from habitus.data.sources.simulator import World, simulated_log
from habitus.data.store import Store
from habitus.models.artifact import load_artifact, save_artifact
from habitus.tasks import by_shard
from habitus.tasks.by_shard import check_parts
from habitus.tasks.embed import embed
from habitus.tasks.predict import predict
from habitus.testing.runs import CUTOFF, WORLD


@pytest.fixture(scope="session")
def in_shards(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The log of `day_run` in four shards."""
    return ingest(simulated_log(World.parse(WORLD)), tmp_path_factory.mktemp("shards") / "world.store", n_shards=4)


def test_a_folder_holds_the_same_forecasts(day_run: Path, in_shards: Store, tmp_path: Path):
    parts = predict(day_run, cutoff=CUTOFF, store=in_shards.path, out=tmp_path / "p")
    whole = predict(day_run, cutoff=CUTOFF, store=in_shards.path)
    found = pl.read_parquet(tmp_path / "p").sort("user", "target")
    assert_frame_equal(found, whole.sort("user", "target"), abs_tol=1e-6, check_exact=False)
    assert parts["shard"].to_list() == [0, 1, 2, 3]
    facts = check_parts(tmp_path / "p", in_shards)
    assert facts["n_rows"] == whole.height == parts["n_rows"].sum()
    assert facts["store_fingerprint"] == in_shards.fingerprint
    assert not list(tmp_path.glob("*.parts"))


def test_vectors_of_days_and_events(day_run: Path, event_run: Path, in_shards: Store, tmp_path: Path):
    embed(day_run, cutoff=CUTOFF, store=in_shards.path, out=tmp_path / "z")
    whole = embed(day_run, cutoff=CUTOFF, store=in_shards.path)
    assert_frame_equal(pl.read_parquet(tmp_path / "z"), whole, abs_tol=1e-5, check_exact=False)
    asked: list[tuple[str, Any, dict[str, Any]]] = [("p", predict, {"top": 3}), ("e", embed, {})]
    asked.append(("v", embed, {"per_event": True}))
    for name, verb, options in asked:
        verb(event_run, out=tmp_path / f"events-{name}", **options)
        found = pl.read_parquet(tmp_path / f"events-{name}")
        assert_frame_equal(found, verb(event_run, **options), abs_tol=1e-5, check_exact=False)


def test_a_killed_call_goes_on_with_what_is_left(
    day_run: Path, in_shards: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    done: list[int] = []
    answer = by_shard.answer_shard

    def dies_at_the_third(question: Any, i: int) -> Any:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(i)
        return answer(question, i)

    asked = {"cutoff": CUTOFF, "store": in_shards.path, "out": tmp_path / "p"}
    monkeypatch.setattr(by_shard, "answer_shard", dies_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        predict(day_run, **asked)
    assert not (tmp_path / "p").exists()
    with pytest.raises(DiskError, match="another one"):
        predict(day_run, **(asked | {"cutoff": "2023-06-05"}))
    left = json.loads((tmp_path / "p.parts" / "00001.json").read_text())["file"]
    (tmp_path / "p.parts" / left).write_bytes(b"half of")  # a part that was damaged is made again
    monkeypatch.setattr(by_shard, "answer_shard", lambda question, i: done.append(i) or answer(question, i))
    predict(day_run, **asked)
    assert done == [0, 1, 1, 2, 3]
    check_parts(tmp_path / "p", in_shards)


def test_a_model_that_was_trained_anew_is_opened_anew(day_run: Path, in_shards: Store, tmp_path: Path):
    shutil.copytree(day_run, tmp_path / "run")
    asked = {"cutoff": CUTOFF, "store": in_shards.path}
    predict(tmp_path / "run", out=tmp_path / "p", **asked)
    artifact = load_artifact(tmp_path / "run" / "artifact")
    for member in artifact.members:
        member.readout.heads[0].bias.data += 1.0
    names = {"name": artifact.name, "spec": artifact.spec, "fingerprint": artifact.fingerprint}
    kept = {"heads": artifact.heads, "day_heads": artifact.day_heads, "calibration": artifact.calibration}
    save_artifact(artifact.path, artifact.members, **names, **kept)
    predict(tmp_path / "run", out=tmp_path / "q", **asked)
    both = [pl.read_parquet(tmp_path / name)["value"] for name in ("p", "q")]
    assert (both[1] - both[0]).abs().max() > 0.01  # pyright: ignore


def test_what_is_missing_or_another_is_told(day_run: Path, in_shards: Store, tmp_path: Path):
    predict(day_run, cutoff=CUTOFF, store=in_shards.path, out=tmp_path / "p")
    predict(day_run, cutoff=CUTOFF, store=in_shards.path, out=tmp_path / "p")  # an older answer is replaced
    (tmp_path / "p" / "00002.parquet").write_bytes(b"")
    with pytest.raises(StoreError, match=r"00002\.parquet"):
        check_parts(tmp_path / "p", in_shards)
    with pytest.raises(StoreError, match="did not end"):
        check_parts(tmp_path, in_shards)
    (tmp_path / "mine").mkdir()
    with pytest.raises(DiskError, match="another folder"):
        predict(day_run, cutoff=CUTOFF, store=in_shards.path, out=tmp_path / "mine")
    with pytest.raises(CutoffError, match="a day from"):
        predict(day_run, cutoff="1999-01-01", store=in_shards.path, out=tmp_path / "q")
    with pytest.raises(ConfigError, match="a file or folder"):
        predict(day_run, cutoff=CUTOFF, store=in_shards.path, engine="ray")
    assert not (tmp_path / "q.parts").exists()


def test_a_store_that_changes_under_the_job_stops_it(day_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    log, path = simulated_log(World.parse(WORLD)), tmp_path / "world.store"
    ingest(log, path, n_shards=3)
    answer = by_shard.answer_shard

    def changes(question: Any, i: int) -> Any:
        if i == 1:
            ingest(simulated_log(World.parse(WORLD | {"n_users": 60})), path, n_shards=3, replace=True)
        return answer(question, i)

    monkeypatch.setattr(by_shard, "answer_shard", changes)
    with pytest.raises(FingerprintError, match="the job began with"):
        predict(day_run, cutoff=CUTOFF, store=path, out=tmp_path / "p")
    assert not (tmp_path / "p").exists()
