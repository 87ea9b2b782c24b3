"""The command `habitus`: one verb per file, nothing heavy loaded until a verb runs."""

from __future__ import annotations

import os
from typing import Annotated

import typer

import habitus
from habitus.cli.abtest import abtest
from habitus.cli.advisor import advisor
from habitus.cli.append import append
from habitus.cli.bubble import bubble
from habitus.cli.ctr import ctr
from habitus.cli.embed import embed
from habitus.cli.erase import erase
from habitus.cli.evaluate import evaluate
from habitus.cli.failures import guarded
from habitus.cli.generate import generate
from habitus.cli.ilora import ilora
from habitus.cli.ingest import ingest
from habitus.cli.lm import lm
from habitus.cli.personas import personas
from habitus.cli.predict import predict
from habitus.cli.probe import probe
from habitus.cli.report import report
from habitus.cli.scale import scale
from habitus.cli.serve import serve
from habitus.cli.similar import similar
from habitus.cli.simulate import simulate
from habitus.cli.train import train
from habitus.cli.whatif import whatif

VERBS = (
    ingest,
    append,
    erase,
    train,
    evaluate,
    predict,
    whatif,
    embed,
    generate,
    probe,
    similar,
    report,
    scale,
    simulate,
    serve,
)
APPS = (abtest, advisor, bubble, ctr, ilora, lm, personas)  # each a group of verbs, made by `habitus.cli.apps.group`

app = typer.Typer(
    name="habitus",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for verb in VERBS:
    app.command()(guarded(verb))
for each in APPS:
    app.add_typer(each)


def _show_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"habitus {habitus.__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """What will each user do next, and how would a known coming event change it?

    A log becomes a store (ingest), a store and a recipe become a run (train), and a run answers: evaluate, predict,
    whatif, embed, generate, report.
    """
    # before torch loads: on busy cores, threads that spin while they wait make a training step three times as slow
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
