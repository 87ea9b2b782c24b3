"""How an app joins the command: a group of verbs, one line in `main`, nothing heavy loaded until a verb runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer

from habitus.cli.failures import guarded


def group(name: str, promise: str, *verbs: Callable[..., Any]) -> typer.Typer:
    """Give the sub-command `habitus NAME VERB`; each verb is a plain function that imports what it needs inside.

    >>> def greet() -> None: ...
    >>> group("door", "Says hello.", greet).info.name
    'door'
    """
    app = typer.Typer(
        name=name,
        help=promise,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(lambda: None)  # a group stays one, even with a single verb
    for verb in verbs:
        app.command(verb.__name__)(guarded(verb))
    return app
