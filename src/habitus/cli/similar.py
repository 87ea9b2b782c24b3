"""habitus similar: who is like whom."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from habitus.cli.options import Cutoff, StorePath


def similar(
    vectors: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run folder, or what `habitus embed` wrote (Parquet).")
    ],
    users: Annotated[Path, typer.Option(metavar="FILE", help="A column user: whom to look for (CSV or Parquet).")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the answer goes (Parquet).")],
    k: Annotated[int, typer.Option("--k", metavar="N", help="How many for each.")] = 100,
    anchor: Annotated[
        str | None, typer.Option(metavar="M", help="One anchor by number, or any: the best one of each pair.")
    ] = None,
    how: Annotated[
        str, typer.Option(metavar="HOW", help="each; or one audience for the list: mean or classifier.")
    ] = "each",
    index: Annotated[
        str | None, typer.Option(metavar="KIND", help="flat, hnsw or ivf: build a FAISS index and search it.")
    ] = None,
    cutoff: Cutoff = None,
    store: StorePath = None,
    index_folder: Annotated[Path | None, typer.Option(metavar="DIR", help="Where an index lies or goes.")] = None,
) -> None:
    """Find the users most like the given ones."""
    from habitus.core.errors import ConfigError
    from habitus.tasks.similar import similar as task
    from habitus.tasks.vectors import read_vectors

    chosen = int(anchor) if anchor is not None and anchor.isdigit() else anchor
    if chosen is not None and not isinstance(chosen, int) and chosen != "any":
        raise ConfigError("the number of an anchor, or any", repr(anchor), where="--anchor")
    table = read_vectors(vectors, cutoff=cutoff, store=store)
    folder = index_folder
    if index is not None:
        from habitus.tasks.similar_index import build_index

        folder = folder or out.with_suffix(".index")
        facts = build_index(table, folder, kind=index, k=min(k, 100))  # type: ignore[arg-type]
        typer.echo(
            f"wrote {folder}: recall@{facts['k']} {facts['recall']:.3f} of exact on {facts['n_queries']:,} users, "
            f"hub skew {facts['hubs']['skew']:.1f}"
        )
    answer = task(table, users=users, k=k, anchor=chosen, how=how, index=folder, out=out)  # type: ignore[arg-type]
    typer.echo(f"wrote {out}: {answer.height:,} rows")
