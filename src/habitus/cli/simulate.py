"""habitus simulate: a world with known answers, as files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from habitus.cli.options import Audiences, CalendarFile


def simulate(
    world: Annotated[
        str,
        typer.Argument(
            metavar="WORLD", help="effects, independent, late or order; or a TOML file that describes a world."
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder to make.")],
    users: Annotated[int | None, typer.Option(metavar="N", help="Number of users.")] = None,
    days: Annotated[int | None, typer.Option(metavar="N", help="Number of days.")] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="The seed; the same world gives the same bytes.")
    ] = None,
    in_order: Annotated[bool, typer.Option("--in-order", help="Sort by user and time instead of shuffling.")] = False,
    no_truth: Annotated[
        bool, typer.Option("--no-truth", help="Do not write the true effects (truth.parquet).")
    ] = False,
    calendar: CalendarFile = None,
    audiences: Audiences = None,
    replace: Annotated[bool, typer.Option("--replace", help="Take the place of an existing folder when done.")] = False,
) -> None:
    """Write a world with known answers.

    Events, profiles, a calendar with audiences, and the true effect of each known event on each user. With --calendar,
    also what that calendar would change in the coming days, per user (change.parquet).
    """
    from habitus.data.calendar import read_calendar
    from habitus.data.sources.simulator import calendar_of, read_world, ready_made, write

    given = {k: v for k, v in (("n_users", users), ("n_days", days), ("seed", seed)) if v is not None}
    if Path(world).suffix in (".toml", ".json"):
        chosen = read_world(world)
        chosen = type(chosen).parse({**chosen.model_dump(), **given}, where=world)
    else:
        chosen = ready_made(world, **given)
    known = audiences or calendar_of(chosen).audiences if calendar else None
    other = None if calendar is None else read_calendar(calendar, known)
    folder = write(chosen, out, shuffle=not in_order, with_truth=not no_truth, change=other, replace=replace)
    typer.echo(f"wrote {folder}: {chosen.n_users:,} users, {chosen.n_days:,} days; next")
    typer.echo(f"  habitus ingest simulator --folder {folder} --out STORE")
