"""habitus ilora: the next item, out of a list of titles, by a language model with experts mixed per user."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from habitus.cli.apps import group

Recipe = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe of this app (TOML).")]
Data = Annotated[Path, typer.Option(metavar="DIR", help="A folder, as `habitus ilora prepare` made it.")]
Model = Annotated[Path, typer.Option("--lm", metavar="LM", help="A folder with any causal language model.")]
States = Annotated[Path, typer.Option(metavar="RUN", help="A run of SASRec on DIR/sequences.store.")]
Adapter = Annotated[Path, typer.Argument(metavar="ADAPTER", help="A folder, as `habitus ilora train` made it.")]
Seed = Annotated[int, typer.Option(metavar="N", help="The seed; it also chooses the member of RUN, from 0.")]
Part = Annotated[str, typer.Option(metavar="PART", help="valid or test.")]
Kind = Annotated[str, typer.Option(metavar="KIND", help="Candidates: uniform or popular.")]


def prepare(
    store: Annotated[Path, typer.Argument(metavar="STORE", help="A store of events about items with titles.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder to make.")],
    unseen: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Profile column; `yes` marks users never trained on.")
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="The seed of the candidates.")] = 0,
    tie_seed: Annotated[int, typer.Option(metavar="N", help="The seed of the order within one instant.")] = 0,
) -> None:
    """Cut questions out of a store: histories, answers, fixed candidates, and a log for models of items."""
    from habitus.apps.ilora.prepare import prepare as run

    made = run(store, out, unseen=unseen, tie_seed=tie_seed, seed=seed)
    rows = ", ".join(f"{n:,} {part}" for part, n in made.facts["n_rows"].items())
    typer.echo(f"{made.facts['n_users']:,} users, {made.facts['n_items']:,} titles; rows: {rows}")
    typer.echo(f"wrote {out}; next\n  habitus lm pretrain RECIPE --data {out} --out LM")


def train(
    recipe: Recipe,
    data: Data,
    lm: Model,
    states: States,
    out: Annotated[Path, typer.Option(metavar="ADAPTER", help="The folder of the adapter.")],
    arm: Annotated[str, typer.Option(metavar="NAME", help="An arm of the recipe.")],
    seed: Seed = 0,
) -> None:
    """Train one arm of a recipe. With `checkpoint_every` in the recipe, a killed call goes on from its checkpoint."""
    from habitus.apps.ilora.study import train_arm

    train_arm(recipe, data, lm, states, out, arm=arm, seed=seed, say=typer.echo)
    typer.echo(f"wrote {out}; next\n  habitus ilora evaluate {out} --data {data} --lm {lm} --states {states}")


def evaluate(
    adapter: Adapter, data: Data, lm: Model, states: States, part: Part = "test", kind: Kind = "uniform"
) -> None:
    """Ask an adapter about every user of a part, by likelihood and in writing."""
    from habitus.apps.ilora.one import evaluate_adapter, figures

    typer.echo(figures(evaluate_adapter(adapter, data, lm, states, part=_part(part), kind=_kind(kind))))


def recommend(
    adapter: Adapter,
    data: Data,
    lm: Model,
    states: States,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the table goes (Parquet).")],
    users: Annotated[Path | None, typer.Option(metavar="FILE", help="A column user [default: everybody].")] = None,
    items: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A column item: what may be recommended [default: 20 by RUN].")
    ] = None,
) -> None:
    """Rank items for users after all they have had: user, item, title, rank, probability, weights of experts."""
    from habitus.apps.ilora.one import recommend as run

    typer.echo(f"wrote {run(adapter, data, lm, states, out, users=users, items=items)}")


def study(
    recipe: Recipe,
    data: Data,
    lm: Model,
    states: States,
    out: Annotated[Path, typer.Option(metavar="STUDY", help="The folder of the study.")],
    beside: Annotated[
        list[Path] | None, typer.Option(metavar="RUN", help="A further run of a model of items, for a line beside.")
    ] = None,
    arm: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Only these arms.")] = None,
    seed: Annotated[list[int] | None, typer.Option(metavar="N", help="Only these seeds.")] = None,
    part: Part = "test",
) -> None:
    """Train and ask every arm and seed that is not there yet, then judge all on the same candidates."""
    from habitus.apps.ilora.study import read_ilora_recipe, run_study
    from habitus.apps.ilora.tables import lines, tables

    chosen = read_ilora_recipe(recipe)
    options = {"part": _part(part), "only": tuple(arm or ()), "seeds": tuple(seed or ()), "say": typer.echo}
    run_study(chosen, data, lm, states, out, **options)
    models = {path.name: path for path in (states, *(beside or []))}
    for kind in chosen.kinds:
        typer.echo(lines(tables(chosen, out, data, models, part=_part(part), kind=kind)))


def _part(name: str):
    from habitus.core.errors import ConfigError

    if name not in ("valid", "test"):
        raise ConfigError("valid or test", repr(name), where="--part")
    return name


def _kind(name: str):
    from habitus.core.errors import ConfigError

    if name not in ("uniform", "popular"):
        raise ConfigError("uniform or popular", repr(name), where="--kind")
    return name


ilora = group("ilora", "Which title comes next for this user?", prepare, train, evaluate, recommend, study)
