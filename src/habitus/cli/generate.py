"""habitus generate: whole futures, event by event."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from habitus.cli.options import (
    Address,
    Cutoff,
    Engine,
    Histories,
    RunFolder,
    StorePath,
    WorkerCpus,
    WorkerGpus,
    WorkerMemory,
    Workers,
    engine_of,
)


def generate(
    run: RunFolder,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the events go (Parquet).")],
    days: Annotated[int, typer.Option(min=1, metavar="N", help="Days ahead.")] = 14,
    samples: Annotated[int, typer.Option(min=1, metavar="N", help="Futures per user.")] = 1,
    cutoff: Cutoff = None,
    users: Annotated[Path | None, typer.Option(metavar="FILE", help="Only these: a column `user`.")] = None,
    histories: Histories = None,
    store: StorePath = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Of the draws; each user has its own.")] = 0,
    temperature: Annotated[
        list[str] | None, typer.Option(metavar="FIELD=T", help="Sharper below 1, flatter above; may be repeated.")
    ] = None,
    top_p: Annotated[
        list[str] | None, typer.Option(metavar="FIELD=P", help="Only the likeliest values; may be repeated.")
    ] = None,
    max_events: Annotated[int, typer.Option(min=1, metavar="N", help="Per user and sample.")] = 1000,
    constraints: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What may happen (TOML): hours, budgets, items on sale.")
    ] = None,
    engine: Engine = "local",
    address: Address = None,
    workers: Workers = None,
    worker_cpus: WorkerCpus = None,
    worker_gpus: WorkerGpus = None,
    worker_memory: WorkerMemory = None,
) -> None:
    """Generate the days to come for every user.

    One row per event that a model of form `joint` draws. The same seed gives a user the same future in any company.
    """
    from habitus.tasks.generate import generate as task

    facts = task(
        run,
        out=out,
        days=days,
        n_samples=samples,
        cutoff=cutoff,
        users=users,
        histories=histories,
        store=store,
        seed=seed,
        temperature=_per_field(temperature, "--temperature"),
        top_p=_per_field(top_p, "--top-p"),
        max_events=max_events,
        constraints=constraints,
        engine=engine_of(engine, address, workers, worker_cpus, worker_gpus, worker_memory),
    )
    typer.echo(
        f"wrote {out}: {facts['n_events']:,} events of {facts['n_users']:,} users x {facts['n_samples']} samples x "
        f"{facts['days']} days, {facts['events_per_second']:,.0f} events/s"
    )
    if facts["n_cut"]:
        typer.echo(f"  {facts['n_cut']:,} futures were cut at {max_events} events: see is_cut in the users' table")
    for name, share in facts["masked_share"].items():
        typer.echo(f"  constraints took {share:.1%} of the probability of {name}")


def _per_field(given: list[str] | None, option: str) -> dict[str, float]:
    from habitus.core.errors import ConfigError

    found = {}
    for text in given or []:
        name, sign, value = text.partition("=")
        try:
            found[name] = float(value) if sign else float("nan")
        except ValueError:
            found[name] = float("nan")
        if not found[name] > 0:
            raise ConfigError("FIELD=NUMBER above 0", repr(text), where=option, fix="e.g. type=0.9")
    return found
