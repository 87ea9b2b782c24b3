"""What the containers of the record share: frozen, unknown keys ignored, NaN read as None, columns of one length."""

from __future__ import annotations

import math
from datetime import date
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict


def _finite(value: Any) -> Any:
    """NaN and infinities mean "could not be computed", as null does."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _some(value: Any) -> Any:
    return value if value is not None else []


Number = Annotated[float | None, BeforeValidator(_finite)]
Numbers = Annotated[list[Number], BeforeValidator(_some)]
Days = Annotated[list[date], BeforeValidator(_some)]


FROZEN = ConfigDict(frozen=True, extra="ignore")


def filled(values: list[Number], n: int) -> list[Number]:
    """Give a column that may be absent as `n` values, unknown ones as None.

    >>> filled([], 2)
    [None, None]
    """
    return values or [None] * n


def same_length(part: Any, first: str, *others: str) -> Any:
    """Give the container when columns that stand beside each other are of one length; an absent column is empty."""
    n = len(getattr(part, first))
    for name in others:
        found = len(getattr(part, name))
        if found not in (0, n):
            raise ValueError(f"{found} values of {name!r} for {n} of {first!r}")
    return part
