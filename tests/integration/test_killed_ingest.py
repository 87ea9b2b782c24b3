"""kill -9 at any stage of ingest and append: the old store stays usable, a second run gives the very same store."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from habitus.core.errors import IngestError
from habitus.data.append import append
from habitus.data.erase import erase
from habitus.data.ingest import ingest
from habitus.data.log import EventLog
from habitus.data.pipeline.swap import claimed
from habitus.data.schema import Schema
from habitus.data.store import Store
from habitus.tokens.counts import count_interests
from habitus.tokens.interests import InterestConfig, fit_interests
from habitus.tokens.stored_counts import derive_counts, keep_counts, stored_counts

SCHEMA = {
    "max_rejected": 0.5,
    "events": {"user": "user", "time": "time", "type": "kind", "item": "item", "key": ["id"], "text": {"note": "item"}},
}

NURSERY = """
import importlib, json, os, signal, sys
from habitus.data.append import append
from habitus.data.erase import erase
from habitus.data.ingest import ingest
from habitus.data.log import EventLog
from habitus.data.schema import Schema
from habitus.tokens.stored_counts import derive_counts

def run(verb, events, path, schema, place, when):
    module, names = place.split(":")
    owner, names = importlib.import_module(module), names.split(".")
    for name in names[:-1]:
        owner = getattr(owner, name)
    honest = getattr(owner, names[-1])

    def deadly(*given, **named):
        if when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        honest(*given, **named)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, names[-1], deadly)
    log = EventLog(Schema.parse(schema), events)
    if verb == "erase":
        erase(path, ["u3", "u7"], derive=derive_counts)
    elif verb == "append":
        append(path, log, derive=derive_counts)
    else:
        ingest(log, path, n_shards=2, replace=verb == "replace")

for line in sys.stdin:
    child = os.fork()
    if child == 0:
        run(*json.loads(line))
        os._exit(0)
    print(os.WTERMSIG(os.waitpid(child, 0)[1]), flush=True)
"""

INGEST = [
    ("habitus.data.pipeline.scan:count_users", "after"),
    ("habitus.data.pipeline.rejects:write_rejected", "after"),
    ("habitus.data.shards:ShardFile.close", "before"),
    ("habitus.data.pipeline.stream:seal_shard", "after"),
    ("habitus.data.ingest:make_manifest", "after"),
    ("habitus.data.ingest:write_json", "after"),
]
APPEND = [
    ("habitus.data.pipeline.scan:refuse_repeats", "after"),
    ("habitus.data.append:write_tables", "after"),
    ("habitus.data.pipeline.stream:write_shards", "after"),
    ("habitus.data.pipeline.merge:merge_shard", "after"),
    ("habitus.data.append:adopt", "before"),
    ("habitus.data.pipeline.swap:write_json", "before"),
    ("habitus.data.pipeline.swap:write_json", "after"),
]


def rows(seed: int, n: int = 400) -> pl.DataFrame:
    draw = np.random.default_rng(seed)
    times = np.datetime64("2024-05-01", "us") + draw.integers(0, 10**12, n).astype("timedelta64[us]")
    return pl.DataFrame(
        {
            "user": [f"u{u}" for u in draw.integers(0, 30, n)],
            "time": times,
            "kind": draw.choice(["a", "b", "c"], n),
            "item": [f"i{i}" for i in draw.integers(0, 9 * (seed + 1), n)],
            "id": draw.integers(0, 10_000, n),
        }
    )


def bytes_of(path: Path) -> dict[str, bytes]:
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


Kill = Callable[[str, Path, Path, str, str], None]


@pytest.fixture(scope="module")
def kill() -> Iterator[Kill]:
    """Run a verb in a process of its own that kills itself before or after a function that it calls."""
    with subprocess.Popen([sys.executable, "-c", NURSERY], stdin=-1, stdout=-1, text=True) as nursery:

        def run(verb: str, events: Path, path: Path, place: str, when: str) -> None:
            assert nursery.stdin is not None
            assert nursery.stdout is not None
            nursery.stdin.write(json.dumps([verb, str(events), str(path), SCHEMA, place, when]) + "\n")
            nursery.stdin.flush()
            assert int(nursery.stdout.readline()) == signal.SIGKILL

        yield run


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("raw")
    for i in range(2):
        rows(i).write_parquet(folder / f"{i}.parquet")
    return [folder / "0.parquet", folder / "1.parquet"]


def log(*files: Path) -> EventLog:
    return EventLog(Schema.parse(SCHEMA), list(files))


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, files: list[Path]) -> Path:
    return ingest(log(files[0]), tmp_path_factory.mktemp("first") / "s.store", n_shards=2).path


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, files: list[Path]) -> Path:
    return ingest(log(*files), tmp_path_factory.mktemp("both") / "s.store", n_shards=2).path


@pytest.mark.parametrize(("place", "when"), INGEST)
def test_a_killed_ingest_leaves_no_store_and_the_next_one_is_whole(
    tmp_path: Path, kill: Kill, files: list[Path], first: Path, place: str, when: str
):
    path = tmp_path / "s.store"
    kill("ingest", files[0], path, place, when)
    assert not path.exists()
    assert len(list(tmp_path.glob(".partial-*"))) == 1
    ingest(log(files[0]), path, n_shards=2)
    assert bytes_of(path) == bytes_of(first)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("place", "when"), APPEND)
def test_a_killed_append_leaves_a_whole_store_and_the_next_one_is_the_same(
    tmp_path: Path, kill: Kill, files: list[Path], first: Path, both: Path, place: str, when: str
):
    path = ingest(log(files[0]), tmp_path / "s.store", n_shards=2).path
    kill("append", files[1], path, place, when)
    survivor = Store.open(path)
    survivor.check()
    is_done = place.endswith("swap:write_json") and when == "after"
    assert survivor.fingerprint == Store.open(both if is_done else first).fingerprint
    assert survivor.users.height == survivor.n_users
    if not is_done:
        append(path, log(files[1]))
        assert bytes_of(path) == bytes_of(both)
        return
    with pytest.raises(IngestError, match="duplicate key: 400"):  # nothing is added twice, and the leftovers go
        append(path, log(files[1]))
    assert Store.open(path).n_events == survivor.n_events
    assert {file.name for file in (path / "shards").iterdir()} == {file.name for file in (both / "shards").iterdir()}


@pytest.mark.parametrize(("place", "when"), [INGEST[3], ("habitus.data.pipeline.swap:write_json", "before")])
def test_a_killed_replacement_leaves_the_old_store(
    tmp_path: Path, kill: Kill, files: list[Path], first: Path, place: str, when: str
):
    path = ingest(log(files[0]), tmp_path / "s.store", n_shards=2).path
    kill("replace", files[1], path, place, when)
    survivor = Store.open(path)
    survivor.check()
    assert survivor.fingerprint == Store.open(first).fingerprint
    fresh = ingest(log(files[1]), tmp_path / "fresh", n_shards=2)
    assert ingest(log(files[1]), path, n_shards=2, replace=True).fingerprint == fresh.fingerprint
    assert bytes_of(path) == bytes_of(fresh.path)


COUNTED = [
    ("append", "habitus.tokens.stored_counts:_write_shard", "after"),
    ("append", "habitus.data.pipeline.swap:write_json", "before"),
    ("erase", "habitus.data.erase:write_erased", "after"),
    ("erase", "habitus.data.pipeline.swap:write_json", "before"),
    ("erase", "habitus.data.pipeline.swap:write_json", "after"),
]


@pytest.mark.parametrize(("verb", "place", "when"), COUNTED)
def test_killed_with_counts_the_store_is_whole_and_the_next_try_ends_well(
    tmp_path: Path, kill: Kill, files: list[Path], verb: str, place: str, when: str
):
    store = ingest(log(files[0]), tmp_path / "s.store", n_shards=2)
    interests = fit_interests(store, InterestConfig(way="item"), until=store.last_day)
    keep_counts(store, interests)
    before = Store.open(store.path)
    kill(verb, files[1], store.path, place, when)
    survivor = Store.open(store.path)
    survivor.check()
    assert (survivor.fingerprint == before.fingerprint) == (when == "before" or "swap" not in place)
    again = count_interests(survivor, interests)
    np.testing.assert_array_equal(stored_counts(survivor, interests.version).n, again.n)
    if verb == "append":
        store = append(store.path, log(files[1]), derive=derive_counts)
        assert store.n_events > before.n_events
    else:
        erase(store.path, ["u3", "u7"], derive=derive_counts)
        store = Store.open(store.path)
        assert not {"u3", "u7"} & set(store.users["user"].to_list())
    np.testing.assert_array_equal(stored_counts(store, interests.version).n, count_interests(store, interests).n)
    assert not list(store.path.glob(".partial-*"))


def test_another_ingest_at_work_beside_is_left_alone(tmp_path: Path, files: list[Path]):
    other = tmp_path / ".partial-01234567-s.store"
    other.mkdir()
    with claimed(other):
        ingest(log(files[0]), tmp_path / "s.store")
        assert other.exists()
    ingest(log(files[0]), tmp_path / "s.store", replace=True)
    assert not other.exists()
