"""Tiny trained runs, and a service over them in a thread of this process."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def day_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of user-days of three members, evaluated."""
    import torch

    from habitus.testing.runs import tiny_day_run

    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return tiny_day_run(tmp_path_factory.mktemp("days"))
    finally:
        torch.set_num_threads(n_threads)


@pytest.fixture(scope="session")
def event_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of events that generates."""
    from habitus.testing.runs import tiny_event_run

    return tiny_event_run(tmp_path_factory.mktemp("events"))


@pytest.fixture(scope="session")
def life_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of whole lives."""
    from habitus.testing.runs import tiny_life_run

    return tiny_life_run(tmp_path_factory.mktemp("lives"))


@contextmanager
def running(runs: list[Path], **options: Any) -> Iterator[tuple[str, Any]]:
    """Serve runs in a thread; gives the address and the service, and stops it gracefully."""
    import uvicorn

    from habitus.serve.app import make_app
    from habitus.serve.config import ServeConfig

    app = make_app(runs, ServeConfig.parse(options))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error", access_log=False, ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the service did not start"
            time.sleep(0.02)
        yield f"http://127.0.0.1:{port}", app.state.service
    finally:
        server.should_exit = True
        thread.join(timeout=60)
        assert not thread.is_alive(), "the service did not stop"


@pytest.fixture(scope="session")
def serve_runs() -> Any:
    """The function `running`, for tests that choose their own options."""
    return running
