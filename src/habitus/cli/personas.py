"""habitus personas: which action does this kind of user take on this thread? Fit, judge, answer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from habitus.cli.apps import group

PersonasRun = Annotated[Path, typer.Argument(metavar="RUN", help="A folder, as `habitus personas fit` made it.")]
Threads = Annotated[Path, typer.Option(metavar="FILE", help="Threads as JSON lines, or a folder of *.jsonl.")]


def world(
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder to make.")],
    threads: Annotated[int, typer.Option(metavar="N", help="Number of threads.")] = 200_000,
    personas: Annotated[int, typer.Option(metavar="N", help="Number of personas.")] = 25,
    seed: Annotated[int, typer.Option(metavar="N", help="The seed.")] = 0,
    truth: Annotated[bool, typer.Option(help="Write the exact posterior too.")] = True,
    raw: Annotated[bool, typer.Option("--raw", help="Write a raw stream of commits instead.")] = False,
) -> None:
    """Write threads of a social world whose best score is known."""
    from habitus.data.sources.persona_dump import write_persona_dump
    from habitus.data.sources.persona_world import PersonaWorldConfig, write_persona_world

    config = PersonaWorldConfig.parse({"n_threads": threads, "n_personas": personas, "seed": seed}, where="world")
    if raw:
        folder = write_persona_dump(out, config)
        typer.echo(f"wrote {folder}; next\n  habitus personas prepare {folder}/commits.jsonl --out THREADS")
        return
    folder = write_persona_world(out, config, has_truth=truth)
    fit = f"habitus personas fit recipes/world_personas.toml --threads {folder}/threads.jsonl --out RUN"
    typer.echo(f"wrote {folder}; next\n  {fit}")


def prepare(
    dump: Annotated[Path, typer.Argument(metavar="DUMP", help="Commits as JSON lines, or a folder of *.jsonl.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder to make.")],
    personas: Annotated[int, typer.Option(metavar="N", help="Number of personas.")] = 25,
    least: Annotated[int, typer.Option(metavar="N", help="Users a persona has at least.")] = 10,
    language: Annotated[str, typer.Option(metavar="CODE", help="Of the texts; all: any.")] = "en",
    seed: Annotated[int, typer.Option(metavar="N", help="The seed.")] = 0,
) -> None:
    """Turn a raw stream of commits into personas and threads, ids hashed, addresses and handles taken out."""
    from habitus.apps.personas.raw import prepare_dump

    languages = () if language == "all" else (language,)
    found = prepare_dump(dump, out, n_personas=personas, least=least, languages=languages, seed=seed)
    what = ", ".join(f"{n:,} {name}" for name, n in (found["actions"] | found["rejected"]).items())
    typer.echo(f"wrote {out}: {found['n_read']:,} commits of {found['n_users']:,} users with a persona; {what}")
    typer.echo(f"next\n  habitus personas fit RECIPE --threads {out}/threads.jsonl --out RUN")


def fit(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe of this app (TOML).")],
    threads: Threads,
    out: Annotated[Path, typer.Option(metavar="RUN", help="The folder of the run.")],
    max_rejected: Annotated[float, typer.Option(metavar="SHARE", help="Lines that may be unusable.")] = 0.01,
) -> None:
    """Read threads and fit lookup, trees and network. The same call again goes on with what is missing."""
    from habitus.apps.personas.fit import fit_personas
    from habitus.apps.personas.settings import read_personas_recipe

    run = fit_personas(read_personas_recipe(recipe), threads, out, say=typer.echo, max_rejected=max_rejected)
    typer.echo(f"wrote {run}; next\n  habitus personas evaluate {run}")


def evaluate(
    run: PersonasRun,
    part: Annotated[str, typer.Option(metavar="PART", help="valid or test.")] = "test",
    truth: Annotated[Path | None, typer.Option(metavar="FILE", help="truth.parquet of a generated world.")] = None,
) -> None:
    """Judge the hybrid beside its parts and plain baselines, with intervals over posts."""
    from habitus.apps.personas.evaluate import evaluate_personas, lines

    typer.echo(lines(evaluate_personas(run, part=part, truth=truth)))
    typer.echo(f"wrote {run / 'metrics.json'}; next\n  habitus personas report {run}")


def predict(
    run: PersonasRun,
    threads: Threads,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the answers go (Parquet).")],
    lines: Annotated[Path | None, typer.Option(metavar="FILE", help="Also as JSON lines.")] = None,
    persona: Annotated[int | None, typer.Option(metavar="N", help="What if all were of this persona?")] = None,
    writer: Annotated[
        str, typer.Option(metavar="HOW", help="retrieval, endpoint (HABITUS_LLM_*), or a model folder.")
    ] = "retrieval",
) -> None:
    """Write the chance of every action, the action told, and a text where it carries one."""
    from habitus.apps.personas.predict import predict_personas

    writes = None
    if writer == "endpoint":
        from habitus.apps.personas.writer import EndpointWriter

        writes = EndpointWriter(run / "written")
    elif writer != "retrieval":
        from habitus.apps.personas.writer import FolderWriter

        writes = FolderWriter(writer)
    found = predict_personas(run, threads, out, lines=lines, writer=writes, cluster=persona)
    rejected = ", ".join(f"{n:,} {reason}" for reason, n in found.reasons.items()) or "none"
    speed = found.n_rows / max(found.seconds, 1e-9)
    typer.echo(f"wrote {out}: {found.n_rows:,} of {found.n_read:,} lines answered, {speed:,.0f} a second")
    typer.echo(f"rejected: {rejected}")


def report(
    run: PersonasRun,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="The page [default: RUN/report.html].")] = None,
) -> None:
    """Write one self-contained page from what `evaluate` measured."""
    from habitus.apps.personas.report import write_report

    typer.echo(f"wrote {write_report(run, out)}")


personas = group(
    "personas",
    "Which action does this kind of user take on this thread?",
    world,
    prepare,
    fit,
    evaluate,
    predict,
    report,
)
