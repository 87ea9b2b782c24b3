"""habitus ctr: will this user respond to this ad? A world, five models, one table, one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from habitus.cli.apps import group

CtrRun = Annotated[Path, typer.Argument(metavar="RUN", help="A folder, as `habitus ctr train` made it.")]
Only = Annotated[list[str] | None, typer.Option(metavar="NAME", help="A model to train now; may be repeated.")]
Part = Annotated[str, typer.Option(metavar="PART", help="valid or test.")]


def world(
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder to make.")],
    users: Annotated[int, typer.Option(metavar="N", help="Number of users.")] = 20_000,
    ads: Annotated[int, typer.Option(metavar="N", help="Number of ads.")] = 4000,
    seed: Annotated[int, typer.Option(metavar="N", help="The seed.")] = 0,
    clean: Annotated[bool, typer.Option("--clean", help="Without blanks, duplicates and bad rows.")] = False,
    parts: Annotated[int, typer.Option(metavar="N", help="Parts of the log odds, s1 to sN.", min=1, max=5)] = 5,
) -> None:
    """Write the four Taobao files of a world whose click probabilities are known."""
    from habitus.data.sources.taobao_ad_world import TaobaoAdWorld, write_taobao_ad_world

    spread = TaobaoAdWorld().deviations
    spread = tuple(value if part < parts else 0.0 for part, value in enumerate(spread))
    folder = write_taobao_ad_world(out, n_users=users, n_ads=ads, seed=seed, defects=not clean, deviations=spread)
    typer.echo(f"wrote {folder}; next\n  habitus ctr train recipes/taobao_world_ctr.toml --folder {folder} --out RUN")


def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe of this app (TOML).")],
    folder: Annotated[Path, typer.Option(metavar="DIR", help="Where the files of the source lie.")],
    out: Annotated[Path, typer.Option(metavar="RUN", help="The folder of the run.")],
    only: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A model to train now; may be repeated.")
    ] = None,
) -> None:
    """Train every model and seed of a recipe. The same call again goes on with what is missing."""
    from habitus.apps.ctr.run import read_ctr_recipe, train_ctr

    run = train_ctr(read_ctr_recipe(recipe), folder, out, only=only or (), say=typer.echo)
    typer.echo(f"wrote {run}; next\n  habitus ctr evaluate {run}")


def evaluate(run: CtrRun, part: Part = "test") -> None:
    """Judge all models on one table, with intervals over users, beside the ceilings of a world."""
    from habitus.apps.ctr.report import lines
    from habitus.apps.ctr.run import evaluate_ctr

    typer.echo(lines(evaluate_ctr(run, part=_part(part))))
    typer.echo(f"wrote {run / 'metrics.json'}; next\n  habitus ctr report {run}")


def predict(
    run: CtrRun,
    model: Annotated[str, typer.Option(metavar="NAME", help="A model of the recipe.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the scores go (Parquet).")],
    part: Part = "test",
) -> None:
    """Write the probability of every impression of a part, keyed by the ids of the log."""
    from habitus.apps.ctr.run import predict_ctr

    typer.echo(f"wrote {predict_ctr(run, model, out, part=_part(part))}")


def report(
    run: CtrRun,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="The page [default: RUN/report.html].")] = None,
) -> None:
    """Write one self-contained page from what `evaluate` measured."""
    from habitus.apps.ctr.report import write_report

    typer.echo(f"wrote {write_report(run, out)}")


def _part(name: str):
    from habitus.core.errors import ConfigError

    if name not in ("valid", "test"):
        raise ConfigError("valid or test", repr(name), where="--part")
    return name


ctr = group("ctr", "Will this user respond to this ad?", world, train, evaluate, predict, report)
