"""The same road on a Ray cluster of two nodes on this machine: the same bytes, and a node that dies on the way.

Three nodes, and kills during ingest, training and scoring: `python -m benchmarks.scale_out`.
"""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from habitus.core.engine import EngineConfig, do_jobs
from habitus.core.errors import ConfigError, EngineError
from habitus.data.append import append
from habitus.data.ingest import ingest
from habitus.data.log import EventLog
from habitus.data.pipeline import exchange
from habitus.data.sources.simulator import World, simulated_log
from habitus.tasks.by_shard import check_parts
from habitus.tasks.embed import embed
from habitus.tasks.generate import generate
from habitus.tasks.predict import predict
from habitus.tasks.run import read_metrics
from habitus.tasks.train import train
from habitus.testing.runs import CUTOFF, EVENTS, WORLD

ray = pytest.importorskip("ray", reason="the extra [ray] is not installed")
# Ray opens sockets and pipes for the life of the process, and tells of a change of its own defaults to come
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore:.*accelerator visible devices:FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context"),  # Ray copies its own old settings
]
RAY = EngineConfig.parse({"engine": "ray", "workers": 2})


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes of one core; the last test kills the second."""
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made: Any = Cluster(initialize_head=True, head_node_args=node | {"include_dashboard": False})
        made.add_node(**node)
        ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
    yield made
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ray.shutdown()
        made.shutdown()
        del made
        gc.collect()  # what Ray leaves open is closed here, not in somebody else's test


def test_ingest_append_predict_and_embed_are_the_same(
    cluster: Any, day_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(exchange, "SMALLEST_PIECE", 1)
    log = simulated_log(World.parse(WORLD))
    one = ingest(log, tmp_path / "one.store", n_shards=3)
    shared = ingest(log, tmp_path / "ray.store", n_shards=3, engine=RAY)
    assert shared.manifest == one.manifest
    shared.check()
    day = {"cutoff": CUTOFF, "store": shared.path}
    found = predict(day_run, out=tmp_path / "p.parquet", engine=RAY, **day)
    assert_frame_equal(found, predict(day_run, **day), abs_tol=1e-5, check_exact=False)
    embed(day_run, out=tmp_path / "z", engine=RAY, **day)
    assert_frame_equal(pl.read_parquet(tmp_path / "z"), embed(day_run, **day), abs_tol=1e-5, check_exact=False)
    check_parts(tmp_path / "z", shared)
    later = EventLog(
        shared.schema, pl.read_parquet(log.events).head(500) if isinstance(log.events, Path) else log.events
    )
    both = [append(store.path, later, engine=engine).manifest for store, engine in ((one, None), (shared, RAY))]
    assert both[0] == both[1]


def test_generate_is_the_same(cluster: Any, event_run: Path, tmp_path: Path):
    for engine, name in ((None, "one"), (RAY, "ray")):
        generate(event_run, out=tmp_path / f"{name}.parquet", days=2, n_samples=2, engine=engine)
    found = [pl.read_parquet(tmp_path / f"{name}.parquet") for name in ("one", "ray")]
    assert found[0].height > 10
    assert_frame_equal(found[0], found[1])


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("HABITUS_SLOW"), reason="Ray Train starts slowly: set HABITUS_SLOW=1")
def test_training_is_the_same(cluster: Any, event_run: Path, tmp_path: Path):
    recipe, store = tmp_path / "events.toml", event_run.parent / "shop.store"
    options = "loggers = [], batches_per_step = 2, checkpoint_every = 1"
    recipe.write_text(EVENTS.replace("loggers = []", options), "utf-8")
    runs = [train(recipe, out=tmp_path / name, store=store, engine=e).path for e, name in ((None, "one"), (RAY, "ray"))]
    losses = [[row["train"] for row in read_metrics(run)["history"]] for run in runs]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def slow(folder: Path, number: int) -> int:
    """Leave a sign of every attempt; take long enough to be killed."""
    (folder / f"{number}-{os.getpid()}").touch()
    time.sleep(1.0)
    return number * number


def dies(folder: Path) -> None:
    """Die as a process that the kernel kills for its memory."""
    (folder / str(time.time_ns())).touch()
    os.kill(os.getpid(), signal.SIGKILL)


def is_full() -> None:
    raise MemoryError("no room for the day table")


def says_no() -> None:
    raise ConfigError("a cup of tea", "none", where="kitchen", fix="boil water")


def test_errors_say_what_to_do(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from habitus.core import ray_engine

    monkeypatch.setattr(ray_engine, "ATTEMPTS", 2)
    with pytest.raises(EngineError, match="2 died on one job"):
        list(do_jobs(RAY, dies, [(tmp_path,)]))
    assert len(list(tmp_path.iterdir())) == 2
    with pytest.raises(EngineError, match="fits its node's memory"):
        list(do_jobs(RAY, is_full, [()]))
    with pytest.raises(ConfigError, match="boil water"):
        list(do_jobs(RAY, says_no, [()]))
    with pytest.raises(EngineError, match="1 CPU, 4 GPU"):
        list(do_jobs(RAY.model_copy(update={"gpus": 4.0}), is_full, [()]))
    monkeypatch.setattr(ray_engine, "versions", lambda: {"habitus": "9.9", "polars": "0.1"})
    with pytest.raises(EngineError, match=r"habitus 9\.9"):
        list(do_jobs(RAY, is_full, [()]))


def test_a_node_that_dies_costs_its_jobs_alone(cluster: Any, tmp_path: Path):
    node = cluster.list_all_nodes()[-1]

    def kill() -> None:
        while len(list(tmp_path.iterdir())) < 2:  # until every node has a job
            time.sleep(0.05)
        cluster.remove_node(node, allow_graceful=False)

    killer = threading.Thread(target=kill)
    killer.start()
    found = dict(do_jobs(RAY, slow, [(tmp_path, k) for k in range(4)]))
    killer.join()
    assert found == {k: k * k for k in range(4)}
    assert len(list(tmp_path.iterdir())) > 4  # the job of the dead node was done twice
