"""Keys and the size of a body, before anything is parsed."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

OPEN = ("/", "/health", "/ready", "/studio.css", "/studio.js")  # without a key: they tell nothing of a user or a model
HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'"),
)


def said(expected: str, found: str, where: str = "", fix: str = "") -> dict[str, Any]:
    """Give the body of every error."""
    return {"error": {"expected": expected, "found": found, "where": where, "fix": fix}}


class Keys:
    """The keys that may ask. Hashes are compared, all of them, in a time that does not depend on what was sent.

    >>> keys = Keys(("a key of sixteen or more",))
    >>> keys.knows("a key of sixteen or more"), keys.knows("another"), Keys(()).knows("")
    (True, False, True)
    """

    def __init__(self, keys: tuple[str, ...]) -> None:
        self._hashes = [hashlib.sha256(key.encode()).digest() for key in keys]

    def knows(self, key: str) -> bool:
        """Tell whether the key may ask; without any key declared, everybody may."""
        if not self._hashes:
            return True
        sent = hashlib.sha256(key.encode("utf-8", "replace")).digest()
        return sum(hmac.compare_digest(sent, known) for known in self._hashes) > 0


class Guard:
    """ASGI middleware: 401 for a wrong key, 413 for a body that is too large, safe headers on every answer."""

    def __init__(self, app: Any, *, keys: Keys, body_bytes: int) -> None:
        self.app, self.keys, self.body_bytes = app, keys, body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}

        async def send_safely(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *HEADERS]
            await send(message)

        if scope["path"] not in OPEN and not self.keys.knows(_key(headers)):
            told = said("a known key", "none, or another", "header Authorization", "send `Authorization: Bearer KEY`")
            await _answer(send_safely, 401, told, ((b"www-authenticate", b"Bearer"),))
            return
        body = await self._read(headers, receive)
        if body is None:
            told = said(f"a body of at most {self.body_bytes:,} bytes", "a larger one", "body", "ask about fewer users")
            await _answer(send_safely, 413, told, ((b"connection", b"close"),))
            return
        is_given = False

        async def give() -> MutableMapping[str, Any]:
            nonlocal is_given
            if is_given:
                return await receive()
            is_given = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, give, send_safely)

    async def _read(self, headers: dict[bytes, bytes], receive: Receive) -> bytes | None:
        """Read the body; None as soon as it is too large."""
        declared = headers.get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > self.body_bytes:
            return None
        parts: list[bytes] = []
        size, is_more = 0, True
        while is_more:
            message = await receive()
            if message["type"] != "http.request":
                break
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self.body_bytes:
                return None
            is_more = message.get("more_body", False)
        return b"".join(parts)


def _key(headers: dict[bytes, bytes]) -> str:
    value = headers.get(b"authorization", b"").decode("latin-1")
    kind, _, key = value.partition(" ")
    return key.strip() if kind.lower() == "bearer" else headers.get(b"x-api-key", b"").decode("latin-1")


async def _answer(send: Send, status: int, body: dict[str, Any], headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
    text = json.dumps(body).encode()
    kinds = [(b"content-type", b"application/json"), (b"content-length", str(len(text)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*kinds, *headers]})
    await send({"type": "http.response.body", "body": text})
