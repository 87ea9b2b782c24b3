"""The switch between engines, and the errors that need no cluster."""

from __future__ import annotations

import socket

import pytest

from habitus.core import errors
from habitus.core.engine import LOCAL, EngineConfig, as_engine, do_jobs, n_workers, refuse_engine
from habitus.core.errors import ConfigError, EngineError, ExtraError
from habitus.core.ray_engine import check_versions, connect, versions


def test_an_engine_is_named_or_configured():
    assert as_engine(None) is as_engine(LOCAL) is LOCAL
    assert as_engine("ray").engine == "ray"
    assert n_workers(LOCAL) == 1
    assert (LOCAL.threads, as_engine("ray").threads) == (None, 1)
    with pytest.raises(ConfigError, match="'local' or 'ray'"):
        as_engine("spark")
    with pytest.raises(ConfigError, match="are of the engine 'ray'"):
        EngineConfig.parse({"workers": 2})


def test_this_process_does_one_job_after_another():
    order: list[int] = []
    found = do_jobs(LOCAL, lambda k: order.append(k) or k + 1, [(1,), (2,)])
    assert next(found) == (0, 2)
    assert order == [1]  # the second is done when it is asked for
    assert list(found) == [(1, 3)]


def test_a_verb_that_knows_one_engine_says_so():
    refuse_engine(LOCAL, "which is not known here")
    with pytest.raises(ConfigError, match="leave --engine out"):
        refuse_engine(as_engine("ray"), "which is not known here")


def test_a_cluster_that_does_not_answer_is_told_at_once():
    pytest.importorskip("ray", reason="the extra [ray] is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(EngineError, match="a Ray cluster that answers"):
        connect(EngineConfig.parse({"engine": "ray", "address": address}))
    with pytest.raises(EngineError, match="HOST:PORT"):
        connect(EngineConfig.parse({"engine": "ray", "address": "nowhere"}))


def test_without_ray_the_install_command_is_named(monkeypatch: pytest.MonkeyPatch):
    def absent(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(errors.importlib, "import_module", absent)
    with pytest.raises(ExtraError, match=r"habitus\[ray\]"):
        list(do_jobs(as_engine("ray"), max, [(1, 2)]))


def test_workers_of_other_versions_are_refused():
    pytest.importorskip("ray", reason="the extra [ray] is not installed")
    check_versions(versions())
    with pytest.raises(EngineError, match=r"polars 0\.1"):
        check_versions(versions() | {"polars": "0.1"})
