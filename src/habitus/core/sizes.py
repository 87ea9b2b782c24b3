"""Sizes in bytes, as people write them."""

from __future__ import annotations

import re

from habitus.core.errors import ConfigError

UNITS = {"kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}


def parse_bytes(text: str | int) -> int:
    """Read a size: "4GB" is 4e9 bytes, "4GiB" is 4 x 2^30.

    >>> parse_bytes("1.5GB")
    1500000000
    """
    if isinstance(text, int):
        return text
    match = re.fullmatch(r"\s*([0-9.]+)\s*([KMGTkmgt][iI]?[bB])\s*", text)
    try:
        return int(float(match[1]) * UNITS[match[2].lower()])  # type: ignore[index]
    except (TypeError, ValueError):
        raise ConfigError('a size like "4GB"', repr(text), where="memory_limit") from None
