"""What the operator chooses: addresses, limits, keys."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import Field

from habitus.core.config import Config
from habitus.core.errors import ConfigError

KEYS = "HABITUS_KEYS"


class ServeConfig(Config):
    """Limits of the service; every one has an answer of its own when it is passed (see docs/serve.md).

    `window_ms` is how long a question may wait for others to be answered with; `batch_users` how many users are
    answered together; `waiting` how many questions may wait at a time (more: 429); `timeout_s` when a question is given
    up (504). `keys` empty means that anybody who reaches the port may ask.

    >>> ServeConfig().window_ms
    20.0
    """

    cutoff: str | None = None
    store: str | None = None
    window_ms: float = Field(default=20.0, ge=0, le=1000)
    batch_users: int = Field(default=512, ge=1)
    waiting: int = Field(default=256, ge=1)
    body_bytes: int = Field(default=2_000_000, ge=1000)
    events: int = Field(default=20_000, ge=1)
    users: int = Field(default=1000, ge=1)
    timeout_s: float = Field(default=20.0, gt=0)
    watch_s: float = Field(default=2.0, gt=0)
    past_bytes: int = Field(default=512 << 20, ge=0)
    keys: tuple[str, ...] = Field(default=(), repr=False)


def read_keys(file: str | Path | None = None) -> tuple[str, ...]:
    """Read keys from a file, one a line, and from the environment variable HABITUS_KEYS, separated by commas.

    Errors: `ConfigError` for an absent or empty file, or a key shorter than 16 characters.
    """
    found = [key.strip() for key in os.environ.get(KEYS, "").split(",") if key.strip()]
    if file is not None:
        if not Path(file).is_file():
            raise ConfigError("a file of keys, one a line", "no such file", where=str(file))
        lines = [line.strip() for line in Path(file).read_text("utf-8").splitlines()]
        found += [line for line in lines if line and not line.startswith("#")]
        if not found:
            raise ConfigError("at least one key", "none", where=str(file))
    if any(len(key) < 16 or not key.isascii() for key in found):
        raise ConfigError("keys of 16 plain characters or more", "a shorter one", where=str(file or KEYS))
    return tuple(found)
