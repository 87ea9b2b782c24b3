"""Progress bars for work a person waits for; silent when nobody is looking at standard error."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def bar(description: str, total: float | None = None) -> Iterator[Callable[[float], None]]:
    """Show a bar while the block runs; call what it yields with the amount just done.

    >>> with bar("counting", total=2) as advance:
    ...     advance(2)
    """
    if not sys.stderr.isatty() and "FORCE_COLOR" not in os.environ:
        yield lambda amount: None  # a service asks for thousands of bars a minute that nobody sees
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    clock = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    with Progress(*columns, *clock, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task(description, total=total)
        yield lambda amount: progress.advance(task, amount)


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Iterate with a bar.

    >>> list(track([1, 2], "counting"))
    [1, 2]
    """
    if total is None and hasattr(items, "__len__"):
        total = len(items)  # type: ignore[arg-type]
    with bar(description, total) as advance:
        for item in items:
            yield item
            advance(1)
