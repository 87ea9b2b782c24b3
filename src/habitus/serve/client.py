"""A small client of the service, with nothing but the standard library."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self
from urllib.parse import quote, urlsplit

from habitus.core.errors import HabitusError


class Client:
    """Ask a service. One connection is kept open; a client belongs to one thread.

    Told to come back later (429, 503), it waits as long as it was told and asks again, `tries` times in all. Errors:
    `HabitusError` with what the service says is to be mended; `OSError` when nobody answers.
    """

    def __init__(
        self, address: str = "http://127.0.0.1:8000", *, key: str | None = None, timeout_s: float = 60, tries: int = 3
    ) -> None:
        parts = urlsplit(address)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connect = lambda: kind(parts.hostname or "127.0.0.1", parts.port, timeout=timeout_s)
        self._connection = self._connect()
        self._headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        self._tries = tries

    def runs(self) -> list[dict[str, Any]]:
        """List the runs that are served."""
        return self._ask("GET", "/v1/runs")["runs"]

    def about(self, run: str) -> dict[str, Any]:
        """Tell what a run can answer."""
        return self._ask("GET", f"/v1/runs/{quote(run, safe='')}")

    def predict(
        self, run: str, users: Sequence[str] = (), histories: Sequence[Mapping[str, Any]] = ()
    ) -> dict[str, Any]:
        """Every target of users of the store, or of new ones with their histories."""
        return self._post(run, "predict", users=list(users), histories=list(histories))

    def whatif(
        self, run: str, alternatives: Sequence[Mapping[str, Any]], users: Sequence[str] = (),
        histories: Sequence[Mapping[str, Any]] = (),
    ) -> dict[str, Any]:  # fmt: skip
        """The same users under other calendars: `alternatives` are `{"name": ..., "edits": [...]}`."""
        body = {"users": list(users), "histories": list(histories), "alternatives": list(alternatives)}
        return self._post(run, "whatif", **body)

    def totals(self, run: str, alternatives: Sequence[Mapping[str, Any]] = (), **scope: str) -> dict[str, Any]:
        """Totals and days of everybody, of `segment=, value=` or of `user=`."""
        return self._post(run, "totals", scope=scope, alternatives=list(alternatives))

    def next(
        self, run: str, users: Sequence[str] = (), histories: Sequence[Mapping[str, Any]] = (), **more: Any
    ) -> dict[str, Any]:
        """The most probable next events, of a run of events."""
        return self._post(run, "next", users=list(users), histories=list(histories), **more)

    def embed(self, run: str, users: Sequence[str] = (), histories: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
        """Users as vectors."""
        return self._post(run, "embed", users=list(users), histories=list(histories))

    def similar(self, run: str, user: str, top: int = 10) -> dict[str, Any]:
        """The users most like a user."""
        return self._post(run, "similar", user=user, top=top)

    def generate(
        self, run: str, users: Sequence[str] = (), histories: Sequence[Mapping[str, Any]] = (), **more: Any
    ) -> Iterator[dict[str, Any]]:
        """Drawn events, one after the other as they come. Errors: `HabitusError` when the stream ends early."""
        body = {"users": list(users), "histories": list(histories)} | more
        response = self._send("POST", f"/v1/runs/{quote(run, safe='')}/generate", body)
        if response.status != 200:
            raise _error(response.status, response.read())
        for line in response:
            event = json.loads(line)
            if "done" in event:
                response.read()
                if not event["done"]:
                    raise HabitusError("a whole stream", f"it ended early ({event['because']})", where="generate")
                return
            yield event
        raise HabitusError("a whole stream", "it was cut", where="generate")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _post(self, run: str, verb: str, **body: Any) -> dict[str, Any]:
        return self._ask("POST", f"/v1/runs/{quote(run, safe='')}/{verb}", body)

    def _ask(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        for left in reversed(range(self._tries)):
            response = self._send(method, path, body)
            found = response.read()
            if response.status in (429, 503) and left:
                time.sleep(float(response.getheader("Retry-After") or 1))
                continue
            if response.status != 200:
                raise _error(response.status, found)
            return json.loads(found)
        raise AssertionError("unreachable")

    def _send(self, method: str, path: str, body: Any = None) -> http.client.HTTPResponse:
        text = None if body is None else json.dumps(body)
        try:
            self._connection.request(method, path, text, self._headers)
            return self._connection.getresponse()
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
            self._connection.close()  # the service closed a connection that nobody had used for long
            self._connection = self._connect()
            self._connection.request(method, path, text, self._headers)
            return self._connection.getresponse()


def _error(status: int, body: bytes) -> HabitusError:
    try:
        told = json.loads(body)["error"]
        return HabitusError(told["expected"], f"{told['found']} ({status})", where=told["where"], fix=told["fix"])
    except (ValueError, KeyError, TypeError):
        return HabitusError("an answer", f"status {status}")
