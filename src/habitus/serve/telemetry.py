"""What the operator sees: Prometheus text, and a log line per request that names no user."""

from __future__ import annotations

import logging
import threading
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

LOG = logging.getLogger("habitus.serve")
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """Counters, gauges and histograms as Prometheus reads them.

    >>> metrics = Metrics()
    >>> metrics.count("habitus_requests_total", route="/health", status="200")
    >>> print(metrics.text().splitlines()[-1])
    habitus_requests_total{route="/health",status="200"} 1
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._totals: dict[tuple[str, tuple[tuple[str, str], ...]], float] = defaultdict(float)
        self._buckets: dict[tuple[str, tuple[tuple[str, str], ...]], list[int]] = {}
        self._gauges: dict[str, Callable[[], float]] = {}

    def count(self, name: str, by: float = 1, **labels: str) -> None:
        """Add to a counter."""
        with self._lock:
            self._totals[name, tuple(sorted(labels.items()))] += by

    def observe(self, name: str, seconds: float, **labels: str) -> None:
        """Put a duration into a histogram."""
        key = name, tuple(sorted(labels.items()))
        with self._lock:
            self._buckets.setdefault(key, [0] * (len(SECONDS) + 1))[bisect_left(SECONDS, seconds)] += 1
            self._totals[f"{name}_sum", key[1]] += seconds

    def gauge(self, name: str, read: Callable[[], float]) -> None:
        """Show a value as it is when asked."""
        self._gauges[name] = read

    def text(self) -> str:
        """Give the page."""
        with self._lock:
            totals = dict(self._totals)
            buckets = {key: list(n) for key, n in self._buckets.items()}
        lines: list[str] = []
        for name, read in self._gauges.items():
            lines += [f"# TYPE {name} gauge", f"{name} {read():g}"]
        for name in dict.fromkeys(name for name, _ in buckets):
            lines.append(f"# TYPE {name} histogram")
            for (_, labels), counts in ((key, n) for key, n in buckets.items() if key[0] == name):
                total = 0
                for edge, n in zip((*(f"{s:g}" for s in SECONDS), "+Inf"), counts):
                    total += n
                    lines.append(f"{name}_bucket{_labels((*labels, ('le', edge)))} {total}")
                lines.append(f"{name}_sum{_labels(labels)} {totals.pop((f'{name}_sum', labels)):g}")
                lines.append(f"{name}_count{_labels(labels)} {total}")
        for name in dict.fromkeys(name for name, _ in totals):
            lines.append(f"# TYPE {name} counter")
            lines += [f"{name}{_labels(key[1])} {value:.15g}" for key, value in totals.items() if key[0] == name]
        return "\n".join(lines) + "\n"


def _labels(labels: tuple[tuple[str, str], ...]) -> str:
    inside = ",".join(f'{name}="{value}"' for name, value in labels)
    return f"{{{inside}}}" if inside else ""


class Observed:
    """ASGI middleware: counts and times each request by its route, and logs method, route, status and milliseconds.

    The route is the pattern, never the address: no user id, key or body reaches the log or the metrics.
    """

    def __init__(self, app: Any, *, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(
        self, scope: MutableMapping[str, Any], receive: Any, send: Callable[..., Awaitable[None]]
    ) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def watched(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, watched)
        finally:
            seconds = time.perf_counter() - began
            route = getattr(scope.get("route"), "path", "other")
            self.metrics.count("habitus_requests_total", route=route, status=str(status))
            self.metrics.observe("habitus_request_seconds", seconds, route=route)
            LOG.info("%s %s %d %.1f ms", scope["method"], route, status, seconds * 1000)
