"""habitus abtest: experiments planned, assigned, watched and judged."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Annotated

import typer

from habitus.cli.apps import group

PlanFile = Annotated[Path, typer.Argument(metavar="PLAN", help="A plan, as `habitus abtest plan` wrote it.")]
AsOf = Annotated[
    str | None, typer.Option(metavar="DATE", help="The last complete day of the data [default: the last with a row].")
]


def plan(
    experiment: Annotated[Path, typer.Argument(metavar="EXPERIMENT", help="A declaration (TOML).")],
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Where the plan goes (JSON).")] = None,
    past: Annotated[
        Path | None, typer.Option(metavar="FILE", help="One row per past user, to take baselines from.")
    ] = None,
) -> None:
    """Size an experiment and save the plan.

    Users per arm, whole weeks, the ramp with the harm each step would find. Make it before the start: `analyse`
    compares.
    """
    from habitus.apps.abtest.declare import read_experiment
    from habitus.apps.abtest.plan import make_plan, save_plan, summary

    made = make_plan(read_experiment(experiment), past)
    path = out or experiment.with_suffix(".plan.json")
    save_plan(made, path)
    typer.echo(summary(made))
    typer.echo(f"wrote {path}; next\n  habitus abtest assign {path} --users USERS --out ASSIGNED")


def assign(
    plan: PlanFile,
    users: Annotated[Path | None, typer.Option(metavar="FILE", help="A table with the users (Parquet, CSV).")] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Where user, bucket, arm go (Parquet).")] = None,
    share: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Share per arm [default: the end of the ramp].")
    ] = None,
    sql: Annotated[
        str | None, typer.Option(metavar="DIALECT", help="Print the same assignment as SQL: duckdb or postgresql.")
    ] = None,
    beside: Annotated[
        list[Path] | None, typer.Option(metavar="PLAN", help="Other running plans: refuse shared buckets of one layer.")
    ] = None,
) -> None:
    """Assign users by a salted hash, or print its SQL.

    The same user gets the same arm on any day and machine; a larger share only adds users.
    """
    from habitus.apps.abtest import assign as task
    from habitus.apps.abtest.plan import read_plan
    from habitus.core.errors import ConfigError

    known = read_plan(plan).experiment
    task.check_layer([known, *(read_plan(other).experiment for other in beside or [])])
    if sql is not None:
        if sql not in ("duckdb", "postgresql"):
            raise ConfigError("duckdb or postgresql", repr(sql), where="--sql")
        typer.echo(task.arm_sql(known, share, unit=known.tables.user, dialect=sql))  # type: ignore[arg-type]
        return
    if users is None or out is None:
        raise ConfigError("--users and --out, or --sql", "neither", where="habitus abtest assign")
    table = task.assign(known, task.read_units(users, known.tables.user), share)
    from habitus.core.atomic import new_file

    with new_file(out) as beside_it:
        table.write_parquet(beside_it)
    sizes = table.group_by("arm").len().sort("arm").rows()
    typer.echo(f"wrote {out}: " + ", ".join(f"{n:,} {arm}" for arm, n in sizes))


def analyse(
    plan: PlanFile,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Where analysis.json and report.html go.")] = None,
    as_of: AsOf = None,
) -> None:
    """Judge an experiment against its plan.

    The split, the primary metric plain and adjusted, secondaries, guardrails, segments, and what was planned against
    what was done: on the terminal, as JSON, and as one HTML page.
    """
    from habitus.apps.abtest import report as task
    from habitus.apps.abtest.plan import read_plan

    folder = out or plan.with_suffix("").with_suffix(".analysis")
    typer.echo(task.judge_and_write(read_plan(plan), folder, _date(as_of)))


def monitor(
    plan: PlanFile,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Where the looks go too (JSON).")] = None,
    as_of: AsOf = None,
) -> None:
    """Look day by day, with intervals that stay valid.

    Says whether a rule to stop holds: better, worse, a broken guardrail, a wrong split. Looking often does no harm.
    """
    from habitus.apps.abtest import monitor as task
    from habitus.apps.abtest.plan import read_plan
    from habitus.core.atomic import write_json

    found = task.monitor(read_plan(plan), as_of=_date(as_of))
    if out is not None:
        write_json(out, found.to_json())
    typer.echo(task.summary(found))


def simulate(
    plan: PlanFile,
    runs: Annotated[int, typer.Option(min=100, metavar="N", help="Number of experiments.")] = 2000,
    looks: Annotated[int, typer.Option(min=1, metavar="N", help="Looks per experiment.")] = 20,
    past: Annotated[Path | None, typer.Option(metavar="FILE", help="One row per past user, to draw from.")] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="The seed; the same gives the same table.")] = 0,
) -> None:
    """Try a plan on users drawn from the past.

    False alarms, coverage and power, read once and at every look, without an effect and with the planned one.
    """
    from habitus.apps.abtest import simulate as task
    from habitus.apps.abtest.plan import read_plan

    typer.echo(
        task.summary(task.simulate_plan(read_plan(plan), n_experiments=runs, n_looks=looks, past=past, seed=seed))
    )


def _date(text: str | None) -> dt.date | None:
    from habitus.core.errors import ConfigError

    try:
        return None if text is None else dt.date.fromisoformat(text)
    except ValueError:
        raise ConfigError("a date such as 2011-11-11", repr(text), where="--as-of") from None


abtest = group("abtest", "Plan, assign, watch and judge an experiment.", plan, assign, analyse, monitor, simulate)
