"""How a command fails: an error a person can act on, in plain red lines, and never half a result."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import typer

from habitus.core.errors import HabitusError

INTERRUPTED = 130


def guarded(verb: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a verb: a `HabitusError` prints its lines and exits with 1; Ctrl-C says how to go on.

    With HABITUS_TRACEBACK=1 errors are raised as they are.
    """

    @functools.wraps(verb)
    def run(*args: Any, **options: Any) -> Any:
        try:
            return verb(*args, **options)
        except HabitusError as error:
            if os.environ.get("HABITUS_TRACEBACK") == "1":
                raise
            typer.secho(str(error), fg=typer.colors.RED, err=True)
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            typer.secho(
                "stopped; nothing is half-written. The same command again goes on: training from its last checkpoint, "
                "everything else from the start.",
                fg=typer.colors.YELLOW,
                err=True,
            )
            raise typer.Exit(INTERRUPTED) from None

    return run
