"""habitus lm: a small causal language model made on the spot, for proof without downloaded weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from habitus.cli.apps import group


def pretrain(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe of `habitus ilora` (TOML): prompts, lm.")],
    data: Annotated[Path, typer.Option(metavar="DIR", help="A folder, as `habitus ilora prepare` made it.")],
    out: Annotated[Path, typer.Option(metavar="LM", help="The folder to make.")],
) -> None:
    """Train a tokenizer and a small model on item titles and prompt texts; transformers opens the folder."""
    from habitus.apps.ilora.prepare import Prepared
    from habitus.apps.ilora.small_lm import pretrain as run
    from habitus.apps.ilora.study import read_ilora_recipe

    chosen = read_ilora_recipe(recipe)
    folder = run(Prepared.open(data).sequences, chosen.prompts, chosen.lm, out, say=typer.echo)
    typer.echo(
        f"wrote {folder}; next\n  habitus ilora study {recipe} --data {data} --lm {folder} --states RUN --out STUDY"
    )


lm = group("lm", "A small language model of item titles, made on the spot.", pretrain)
