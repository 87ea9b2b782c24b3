"""The service put together: runs, batchers, limits, routes, and what happens at start, swap and stop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from habitus.core.errors import HabitusError, require
from habitus.serve.answers import work
from habitus.serve.batching import Batcher
from habitus.serve.config import ServeConfig
from habitus.serve.models import Loaded, Models
from habitus.serve.safety import Guard, Keys
from habitus.serve.telemetry import LOG, Metrics, Observed

CALL = "habitus_batch"


class Service:
    """What every route needs: the runs, two batchers (`quick` for users, `long` for whole scopes), limits, metrics."""

    def __init__(self, models: Models, config: ServeConfig) -> None:
        self.models, self.config, self.metrics = models, config, Metrics()
        self.is_ready = False
        self._swaps: set[str] = set()
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="loader")
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self) -> None:
        """Begin to answer; needs a running loop."""
        config = self.config

        def observe(kind: str) -> Callable[[int, int, float], None]:
            def seen(n: int, size: int, seconds: float) -> None:
                self.metrics.count(f"{CALL}es_total", kind=kind)
                self.metrics.count(f"{CALL}_questions_total", n, kind=kind)
                self.metrics.count(f"{CALL}_users_total", size, kind=kind)
                self.metrics.observe(f"{CALL}_seconds", seconds, kind=kind)

            return seen

        self.quick = Batcher(
            work, window_s=config.window_ms / 1000, most=config.batch_users, waiting=config.waiting,
            observe=observe("quick"),
        )  # fmt: skip
        self.long = Batcher(_each, window_s=0, most=1, waiting=max(config.waiting // 16, 4), observe=observe("long"))
        self.quick.start()
        self.long.start()
        self.metrics.gauge("habitus_open_questions", lambda: self.quick.n_open + self.long.n_open)
        self.metrics.gauge("habitus_ready", lambda: float(self.is_ready))
        self.metrics.gauge("habitus_resident_bytes", _resident)
        self._keep(asyncio.create_task(self._watch()))
        self.is_ready = True

    async def stop(self) -> None:
        """Answer what was asked, then end."""
        self.is_ready = False
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(self.quick.stop(), self.long.stop())
        self._loader.shutdown(wait=True)

    def run(self, name: str) -> Loaded | None:
        """Give a run; where its files have changed, users who left the log are forgotten first and a swap begins."""
        if name in self.models.names and name not in self._swaps and name in self.models.stale():
            self.begin_swap(name)
        return self.models.get(name)

    def begin_swap(self, name: str) -> None:
        """Load a changed run in the background; until it is there, the old one answers."""
        self._swaps.add(name)
        try:
            gone = self.models.forget(name)
            if gone:
                LOG.info("%s: %d users have left the log", name, gone)
        except (HabitusError, OSError):
            LOG.warning("%s: the log behind it cannot be read", name)
        self._keep(asyncio.create_task(self._swap(name)))

    async def _swap(self, name: str) -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(self._loader, self.models.swap, name)
            self.metrics.count("habitus_swaps_total", run=name, result="done")
            LOG.info("%s: swapped", name)
        except (HabitusError, OSError, ValueError, KeyError) as error:
            self.metrics.count("habitus_swaps_total", run=name, result="failed")
            LOG.warning("%s: not swapped: %s", name, str(error).replace("\n", "; "))
            await asyncio.sleep(self.config.watch_s)
        finally:
            self._swaps.discard(name)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self.config.watch_s)
            for name in self.models.stale():
                if name not in self._swaps:
                    self.begin_swap(name)

    def _keep(self, task: asyncio.Task[Any]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _each(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """Work on calls one after the other."""
    found: list[Any] = []
    for call in calls:
        try:
            found.append(call())
        except Exception as error:
            found.append(error)
    return found


def _resident() -> float:
    """Bytes this process holds in memory."""
    statm = Path("/proc/self/statm")
    if not statm.is_file():
        return float("nan")
    import resource

    return float(statm.read_text().split()[1]) * resource.getpagesize()


def make_app(runs: Sequence[str | Path], config: ServeConfig | None = None) -> Any:
    """Give the ASGI app that serves some runs; they are loaded before it is given back.

    Errors: `ExtraError` without the extra [serve]; those of loading a run.
    """
    fastapi = require("fastapi", "serve")
    from habitus.serve.routes import add_routes

    config = config or ServeConfig()
    service = Service(Models(runs, cutoff=config.cutoff, past_bytes=config.past_bytes, store=config.store), config)

    @contextlib.asynccontextmanager
    async def life(app: Any) -> AsyncIterator[None]:
        service.start()
        try:
            yield
        finally:
            await service.stop()

    app = fastapi.FastAPI(
        title="habitus", version="1", lifespan=life, docs_url=None, redoc_url=None, openapi_url="/openapi.json",
        description="What will each user do next, and how would a coming event change it.",
    )  # fmt: skip
    app.state.service = service
    add_routes(app, service)
    app.add_middleware(Guard, keys=Keys(config.keys), body_bytes=config.body_bytes)
    app.add_middleware(Observed, metrics=service.metrics)
    return app


def serve(app: Any, *, host: str, port: int, grace_s: int = 30) -> None:
    """Serve an app until stopped. SIGTERM and SIGINT answer what was asked first, for at most `grace_s` seconds."""
    uvicorn = require("uvicorn", "serve")
    settings = uvicorn.Config(
        app, host=host, port=port, access_log=False, log_level="warning", server_header=False,
        timeout_graceful_shutdown=grace_s, timeout_keep_alive=30, h11_max_incomplete_event_size=32768,
    )  # fmt: skip
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(settings).run()
