"""habitus advisor: which assets fit this customer now? Graphs, retrieval, a ranker, cited answers, one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from habitus.cli.apps import group

AdvisorRun = Annotated[Path, typer.Argument(metavar="RUN", help="A folder, as `habitus advisor train` made it.")]
Customer = Annotated[str, typer.Option(metavar="ID", help="A customer of the market.")]
Way = Annotated[str | None, typer.Option(metavar="NAME", help="A way of retrieval [default: the recipe's first].")]


def world(
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder to make.")],
    customers: Annotated[int, typer.Option(metavar="N", help="Number of customers.")] = 29_090,
    seed: Annotated[int, typer.Option(metavar="N", help="The seed.")] = 0,
    no_rule: Annotated[bool, typer.Option("--no-rule", help="Nobody follows the planted rule.")] = False,
) -> None:
    """Write the CSV files of a market with the published totals of FAR-Trans, whose buying rule is known."""
    from habitus.data.sources.far_trans_world import write_far_trans_world

    more = {"rule": 0.0} if no_rule else {}
    folder = write_far_trans_world(out, customers, seed, **more)
    typer.echo(f"wrote {folder}; next\n  habitus advisor build {folder} --out GRAPH")


def build(
    source: Annotated[Path, typer.Argument(metavar="DIR", help="The CSV files of FAR-Trans, or of a world.")],
    out: Annotated[Path, typer.Option(metavar="GRAPH", help="The folder of the graphs to make.")],
) -> None:
    """Build the personal graphs and the market graph on disk, and say what was left out."""
    from habitus.apps.advisor.graph import build_graph
    from habitus.data.sources.far_trans import read_far_trans

    read = read_far_trans(source)
    found = build_graph(read, out)
    typer.echo(
        f"{found['triples']:,} triples in {found['seconds']:.1f} s ({found['triples_per_second']:,.0f} a second)"
    )
    for reason, count in read.left_out.items():
        if count:
            typer.echo(f"left out, {reason}: {count:,}")
    typer.echo(f"wrote {out}; next\n  habitus advisor train RECIPE --source {source} --graph {out} --out RUN")


def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe of this app (TOML).")],
    source: Annotated[Path, typer.Option(metavar="DIR", help="The CSV files.")],
    graph: Annotated[Path, typer.Option(metavar="GRAPH", help="The graphs, as `build` made them.")],
    out: Annotated[Path, typer.Option(metavar="RUN", help="The folder of the run.")],
) -> None:
    """Fit one ranker per way of retrieval. The same call again goes on with what is missing."""
    from habitus.apps.advisor.run import read_advisor_recipe, train_advisor

    run = train_advisor(read_advisor_recipe(recipe), source, graph, out, say=typer.echo)
    typer.echo(f"wrote {run}; next\n  habitus advisor evaluate {run}")


def evaluate(run: AdvisorRun) -> None:
    """Judge every row on the same cases, with intervals over customers. A killed call goes on with the next date."""
    from habitus.apps.advisor.evaluate import evaluate_advisor
    from habitus.apps.advisor.report import lines

    typer.echo(lines(evaluate_advisor(run, say=typer.echo)))
    typer.echo(f"wrote {run / 'metrics.json'}; next\n  habitus advisor report {run} --customer ID --date DATE")


def advise(
    run: AdvisorRun,
    customer: Customer,
    date: Annotated[str, typer.Option(metavar="DATE", help="The last day that may be used, e.g. 2021-12-02.")],
    k: Annotated[int, typer.Option(metavar="N", help="How many assets.")] = 10,
    objective: Annotated[str | None, typer.Option(metavar="NAME", help="pref, prof or comb.")] = None,
    way: Way = None,
    llm: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="A causal language model on disk, or `endpoint` (HABITUS_LLM_BASE_URL)."),
    ] = None,
    adapters: Annotated[Path | None, typer.Option(metavar="DIR", help="Adapters, as `tune` made them.")] = None,
    fill: Annotated[bool, typer.Option("--fill", help="Complete a short answer of the model from the ranker.")] = False,
    suitability: Annotated[
        str, typer.Option(metavar="MODE", help="Assets above the customer's class of risk: off, warn or filter.")
    ] = "warn",
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the answer here too (JSON).")] = None,
) -> None:
    """Rank assets for one customer, with the triples behind each. Not investment advice."""
    from habitus.apps.advisor.advise import Advisor
    from habitus.apps.advisor.report import answer_lines
    from habitus.apps.advisor.run import day_of, objective_of, open_run
    from habitus.apps.advisor.suitability import suitability_of
    from habitus.apps.advisor.write import writer_of
    from habitus.core.atomic import write_json

    wanted, day, mode = objective_of(objective), day_of(date), suitability_of(suitability)
    writer = writer_of(llm, adapters)
    advisor = Advisor(open_run(run), way)
    answer, _ = advisor.advise(
        customer, day, k=k, objective=wanted, writer=writer, fill=fill, suitability=mode,
        say=lambda text: typer.echo(text, err=True),
    )  # fmt: skip
    typer.echo(answer_lines(answer))
    if out is not None:
        write_json(out, answer.to_json())
        typer.echo(f"wrote {out}")


def tune(
    run: AdvisorRun,
    llm: Annotated[Path, typer.Option(metavar="FOLDER", help="A causal language model on disk.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the adapters go.")],
    customers: Annotated[int, typer.Option(metavar="N", help="Customers per training date.")] = 20,
    epochs: Annotated[int, typer.Option(metavar="N", help="Passes over the rows.")] = 3,
    way: Way = None,
) -> None:
    """Tune adapters of a language model by KTO, on cases of the recipe's training dates."""
    from habitus.apps.advisor.advise import Advisor
    from habitus.apps.advisor.run import open_run
    from habitus.apps.advisor.tune import TuneConfig, tune_adapters

    config = TuneConfig.parse({"n_customers": customers, "epochs": epochs})
    losses = tune_adapters(Advisor(open_run(run), way), llm, out, config, say=typer.echo)
    typer.echo(f"loss {losses[0]:.4f} at first, {losses[-1]:.4f} at last; wrote {out}")


def report(
    run: AdvisorRun,
    customer: Customer,
    date: Annotated[str, typer.Option(metavar="DATE", help="The day of the drawn answer.")],
    way: Way = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="The page [default: RUN/report.html].")] = None,
) -> None:
    """Write one self-contained page: the figures, one customer's answer and the subgraph behind it, drawn."""
    from habitus.apps.advisor.report import write_report

    typer.echo(f"wrote {write_report(run, customer, date, way=way, out=out)}")


advisor = group("advisor", "Which assets fit this customer now?", world, build, train, evaluate, advise, tune, report)
