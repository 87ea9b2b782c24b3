"""habitus serve: answers over HTTP, and the studio page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from habitus.cli.options import Cutoff, StorePath


def serve(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Run folders, each served by its recipe's name.")],
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="0.0.0.0 to be reached from elsewhere; set keys.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(metavar="PORT")] = 8000,
    cutoff: Cutoff = None,
    store: StorePath = None,
    keys: Annotated[Path | None, typer.Option(metavar="FILE", help="Keys, one a line; also HABITUS_KEYS.")] = None,
    window: Annotated[float, typer.Option(metavar="MS", help="How long a question may wait for company.")] = 20.0,
    timeout: Annotated[float, typer.Option(metavar="S", help="After this a question is given up (504).")] = 20.0,
    waiting: Annotated[int, typer.Option(metavar="N", help="Questions that may wait (more: 429).")] = 256,
) -> None:
    """Answer over HTTP, and show the studio.

    predict, what-if, next events, generate and embed for users of the store and for new users with their histories;
    open the address in a browser to ask "what if". Reads only: nothing that is asked changes a run or a store.
    """
    import logging
    import os

    # before torch loads: it keeps what it compiled for each of the last 1,024 shapes, and every batch has its own
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
    from habitus.core.errors import ConfigError, require
    from habitus.serve.config import ServeConfig, read_keys

    require("fastapi", "serve")
    require("uvicorn", "serve")
    from habitus.serve.app import make_app
    from habitus.serve.app import serve as task

    known = read_keys(keys)
    if not known and host not in ("127.0.0.1", "localhost", "::1"):
        fix = "give --keys FILE, or set HABITUS_KEYS"
        raise ConfigError("keys where others can reach the port", "none", where=f"--host {host}", fix=fix)
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO)
    values = {"cutoff": cutoff, "keys": known, "window_ms": window, "timeout_s": timeout, "waiting": waiting}
    values["store"] = None if store is None else str(store)
    app = make_app(runs, ServeConfig.parse(values))  # loads the runs: what is wrong with them is said first
    typer.echo(f"serving {', '.join(str(run) for run in runs)} at http://{host}:{port}/", err=True)
    task(app, host=host, port=port)
