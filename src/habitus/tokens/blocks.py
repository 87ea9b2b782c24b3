"""Blocks of days: the smallest span that counts are kept for; a window is a sum of whole blocks."""

from __future__ import annotations

from typing import Literal

import numpy as np

from habitus.core.errors import CutoffError
from habitus.data.calendar import to_date

Block = Literal["day", "week", "month"]


def block_of(day: np.ndarray, block: Block, week_starts: int = 0) -> np.ndarray:
    """Give the block (int32) of days (since 1970-01-01): weeks begin on days = `week_starts` modulo 7.

    >>> block_of(np.array([0, 6, 7, 31]), "week").tolist(), block_of(np.array([0, 30, 31]), "month").tolist()
    ([0, 0, 1, 4], [0, 0, 1])
    """
    day = np.asarray(day)
    if block == "day":
        return day.astype(np.int32)
    if block == "week":
        return ((day.astype(np.int64) - week_starts) // 7).astype(np.int32)
    months = day.astype("datetime64[D]").astype("datetime64[M]")
    return months.astype(np.int64).astype(np.int32)


def first_day(block_number: np.ndarray, block: Block, week_starts: int = 0) -> np.ndarray:
    """Give the first day (int64, since 1970-01-01) of blocks.

    >>> first_day(np.array([0, 1]), "month").tolist()
    [0, 31]
    """
    number = np.asarray(block_number, np.int64)
    if block == "day":
        return number
    if block == "week":
        return number * 7 + week_starts
    return number.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)


def last_day(block_number: np.ndarray, block: Block, week_starts: int = 0) -> np.ndarray:
    """Give the last day of blocks: the days at which a cut-off may lie."""
    return first_day(np.asarray(block_number) + 1, block, week_starts) - 1


def block_until(cutoff: int, block: Block, week_starts: int = 0) -> int:
    """Give the last block that ends by a cut-off day. Errors: `CutoffError` when the cut-off lies inside a block.

    >>> block_until(13, "week")
    1
    """
    number = int(block_of(np.array([cutoff]), block, week_starts)[0])
    end = int(last_day(np.array(number), block, week_starts))
    if end != cutoff:
        before = int(first_day(np.array(number), block, week_starts)) - 1
        raise CutoffError(
            f"the last day of a {block}, such as {to_date(before)} or {to_date(end)}", str(to_date(cutoff)),
            where="cutoff", fix=f"choose one of the two, or fit with smaller blocks than a {block}",
        )  # fmt: skip
    return number
