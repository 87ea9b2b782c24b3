"""The advisor at full size: cost of the graphs, retrieval with and without the planted rule, and what a run measured.

    python -m benchmarks.advisor cost --source WORLD --graph GRAPH     builds GRAPH where it is not there
    python -m benchmarks.advisor tails --source WORLD --recipe recipes/world_advisor.toml
    python -m benchmarks.advisor rows --run RUN                        after `habitus advisor evaluate RUN`
    python -m benchmarks.advisor answers --run RUN                     milliseconds per answer

Without a word: `cost` and `tails` on a market of 300 customers, made on the spot.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import record

HERE = Path(__file__).parent
DAY = 18_963  # 2021-12-02
CLASSES = ((1, 3), (4, 20), (21, 100), (101, 10**9))
WAYS = {"multi": {}, "parallel": {"path": "parallel", "momentum": 0.5}, "off": {"path": "off"},
        "multi, no market": {"market": False}}  # fmt: skip


def opened(source: Path) -> Any:
    """Give the market of a folder of CSV files."""
    from habitus.apps.advisor.market import Market
    from habitus.data.sources.far_trans import read_far_trans

    return Market(read_far_trans(source))


def drawn(view: Any, each: int) -> dict[str, np.ndarray]:
    """Give `each` customers of every class of activity on the day, and as many of all of them, drawn once."""
    from habitus.apps.advisor.rank import active_customers
    from habitus.core.seeds import generator

    people = active_customers(view)
    n = np.bincount(view.trades(people).row, minlength=len(people))
    draw = generator(0, "customers timed")
    found = {"any customer": draw.permutation(people)[: 2 * each]}
    for low, high in CLASSES:
        name = f"{low} to {high} trades" if high < 10**9 else f"{low} trades and more"
        found[name] = draw.permutation(people[(n >= low) & (n <= high)])[:each]
    return found


def cost(source: Path, graph: Path, each: int, note: str) -> None:
    """Time the building of the graphs, the cut of a day and retrieval; count triples and tokens."""
    from habitus.apps.advisor.graph import build_graph, cut_market, open_graph
    from habitus.apps.advisor.retrieve import retrieve
    from habitus.apps.advisor.select import RetrievalConfig

    market = opened(source)
    if not graph.is_dir():
        build_graph(market.source, graph)
    built = json.loads((graph / "graph.json").read_text("utf-8"))
    record("advisor", f"{note}: triples", built["triples"])
    record("advisor", f"{note}: building the graphs", built["triples_per_second"], "triples/s")
    store, view = open_graph(graph), market.view(DAY)
    began = time.perf_counter()
    cut = cut_market(store, view)
    record("advisor", f"{note}: cutting the market graph of a day", time.perf_counter() - began, "s", "once a day")
    classes, ids = drawn(view, each), market.source.customer_ids
    for name, more in WAYS.items():
        config = RetrievalConfig.parse(more)
        retrieve(store, cut, view, str(ids[classes["any customer"][0]]), config)  # what a view keeps is made once
        for kind, people in classes.items():
            rows = [_timed(retrieve, store, cut, view, str(ids[who]), config) for who in people]
            if not rows or (kind != "any customer" and name != "multi"):
                continue
            _spread(f"{note}, {name}, {kind}", rows)
            for place, what in ((1, "triples"), (2, "tokens, estimated")):
                values = np.array([row[place] for row in rows])
                said = f"largest {values.max():,}; {len(rows)} customers"
                record("advisor", f"{note}, {name}, {kind}: {what} per prompt, mean", float(values.mean()), note=said)
    _whole(store, view, classes["any customer"], ids, note)


def _timed(retrieve: Any, *asked: Any) -> tuple[float, int, int]:
    began = time.process_time()  # of this process: the wall clock would time the neighbours
    counts = retrieve(*asked).counts
    return 1000 * (time.process_time() - began), counts["triples"], counts["tokens"]


def _spread(name: str, rows: list[tuple[float, int, int]]) -> None:
    took = np.array([row[0] for row in rows])
    for share in (50, 95):
        record(
            "advisor",
            f"{name}: retrieval p{share}",
            float(np.percentile(took, share)),
            "CPU ms",
            f"{len(rows)} customers",
        )


def _whole(store: Any, view: Any, people: np.ndarray, ids: np.ndarray, note: str) -> None:
    """Count the prompt of both graphs up to the day, nothing left out."""
    import pyoxigraph as ox

    from habitus.apps.advisor.graph import PREFIXES, iso
    from habitus.apps.advisor.text import to_jsonld, tokens

    def dated(graph: str, path: str) -> list[Any]:
        until = f'FILTER(?on <= "{iso(view.day)}"^^xsd:date)'
        query = f"{PREFIXES} CONSTRUCT {{ ?n ?p ?o }} WHERE {{ ?n {path} ?on {until} . ?n ?p ?o }}"
        return list(store.query(query, default_graph=ox.NamedNode(graph)))

    market = dated("urn:habitus:ns:assets", "h:pricedFrom") + dated("urn:habitus:ns:prices", "h:until")
    own = [dated(f"urn:habitus:customer:{ids[who]}", "h:on|h:validFrom") for who in people]
    n, words = np.array([len(part) for part in own]), np.array([tokens(to_jsonld(part)) for part in own])
    said = f"market {len(market):,} triples; {len(own)} customers, mean own {n.mean():.0f}"
    record("advisor", f"{note}, both graphs whole: triples per prompt, mean", float(len(market) + n.mean()), note=said)
    total = tokens(to_jsonld(market)) + float(words.mean())
    record("advisor", f"{note}, both graphs whole: tokens, estimated per prompt, mean", total, note=said)


def tails(source: Path, recipe: Path, note: str) -> None:
    """Measure what multi-stage and parallel retrieval find of later buys that neither habit nor the crowd explains."""
    from habitus.apps.advisor.protocol import Intervals, tail_recall
    from habitus.apps.advisor.rank import active_customers
    from habitus.apps.advisor.run import read_advisor_recipe
    from habitus.apps.advisor.select import RetrievalConfig, retrieve_many
    from habitus.core.seeds import uniforms

    market, chosen = opened(source), read_advisor_recipe(recipe)
    found: dict[str, list[np.ndarray]] = {name: [] for name in WAYS}
    customers: list[np.ndarray] = []
    for day in chosen.test.days():
        view = market.view(day)
        people = active_customers(view)
        people = people[uniforms(0, people.astype(np.uint64), stream="customers judged") < chosen.customer_share]
        customers.append(people)
        for block in np.array_split(people, -(-len(people) // 3000)):
            trades, outcome = view.trades(block), view.outcome(block)
            held = trades.matrix(np.where(trades.is_buy, trades.units, -trades.units), view.n_assets) > 1e-4
            for name, more in WAYS.items():
                assets = retrieve_many(view, trades, RetrievalConfig.parse(more)).assets
                found[name].append(tail_recall(view, assets, outcome, held))
    sure = Intervals(np.concatenate(customers))
    values = {name: np.concatenate(parts) for name, parts in found.items()}
    for name, each in values.items():
        _interval(f"{note}: tail recall@25, {name}", sure.mean(each))
    _interval(f"{note}: tail recall@25, multi less parallel", sure.mean(values["multi"] - values["parallel"]))


def _interval(figure: str, found: dict[str, Any]) -> None:
    if found["value"] is not None:
        said = f"95 % over customers {found['low']:.4f} to {found['high']:.4f}; {found['n']:,} cases"
        record("advisor", figure, found["value"], note=said)


def rows(run: Path) -> None:
    """Record RUN/metrics.json: every row on all cases and on those with a good buy, and the paired differences."""
    found = json.loads((run / "metrics.json").read_text("utf-8"))
    name = found["name"]
    for row, kinds in found["rows"].items():
        for cases, figures in kinds.items():
            for figure, value in figures.items():
                if not figure.endswith("_new"):
                    _interval(f"{name}, {row}: {figure}, {cases} cases", value)
    for way, value in found["tail_recall"].items():
        _interval(f"{name}, {way}: tail recall@25", value)
    for pair in found["differences"]:
        figure = f"{name}, {pair['row']} less {pair['against']}: {pair['figure']}, {pair['cases']} cases"
        _interval(figure, pair)
    for row, parts in found["gap_closed"].items():
        for which, share in parts.items():
            record(
                "advisor", f"{name}, {row}: share of the way from popularity to oracle, Pref@3, {which} cases", share
            )
    for part in found["slices"]:
        for figure in ("comb", "fit"):
            _interval(f"{name}, {part['row']}, {part['by']} {part['slice']}: {figure}", part[figure])
    for part in found["categories"]:
        for figure in ("bought", "rises", "fits"):
            _interval(f"{name}, named of {part['category']}: {figure}", part[figure])
    for figure, value in (found["citations"] or {}).items():
        if isinstance(value, dict):
            _interval(f"{name}, citations: {figure}", value)
        else:
            record("advisor", f"{name}, citations: {figure}", value)
    record("advisor", f"{name}: monthly return of the equal-weight market", found["market"])
    record("advisor", f"{name}: share of cases without a good buy", found["excluded_share_of_cond"])


def answers(run: Path, each: int) -> None:
    """Time whole answers without a language model, citations included."""
    from habitus.apps.advisor.advise import Advisor
    from habitus.apps.advisor.run import open_run

    opened_run = open_run(run)
    advisor, day = Advisor(opened_run), DAY
    view, _ = advisor.at(day)
    ids = opened_run.market.source.customer_ids
    for kind, people in drawn(view, each).items():
        advisor.advise(str(ids[people[0]]), day)
        took = []
        for who in people:
            began = time.process_time()
            advisor.advise(str(ids[who]), day)
            took.append(1000 * (time.process_time() - began))
        for share in (50, 95):
            figure = f"{opened_run.recipe.name}, {kind}: answer p{share}"
            record("advisor", figure, float(np.percentile(took, share)), "CPU ms", f"{len(took)} customers")


def small() -> None:
    """Measure `cost` and `tails` on a small market."""
    from habitus.data.sources.far_trans_world import write_far_trans_world

    with tempfile.TemporaryDirectory() as folder:
        world = write_far_trans_world(Path(folder) / "world", 300, 0)
        cost(world, Path(folder) / "graph", 5, "300 customers")
        tails(world, HERE.parent / "recipes" / "world_advisor.toml", "300 customers")


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=("cost", "tails", "rows", "answers"))
    parser.add_argument("--size", choices=("small", "full"), default="small")
    parser.add_argument("--source", type=Path, help="A world, as `habitus advisor world` wrote it.")
    parser.add_argument("--graph", type=Path)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--recipe", type=Path, default=HERE.parent / "recipes" / "world_advisor.toml")
    parser.add_argument("--each", type=int, default=60, help="Customers timed per class of activity.")
    parser.add_argument("--name", default="world", help="How the figures are called.")
    asked = parser.parse_args()
    needs = {"cost": (asked.source, asked.graph), "tails": (asked.source,), "rows": (asked.run,)}
    if asked.part and None in needs.get(asked.part, (asked.run,)):
        parser.error(f"{asked.part}: give the folders it reads, see --help")
    if asked.part == "cost":
        cost(asked.source, asked.graph, asked.each, asked.name)
    elif asked.part == "tails":
        tails(asked.source, asked.recipe, asked.name)
    elif asked.part == "rows":
        rows(asked.run)
    elif asked.part == "answers":
        answers(asked.run, asked.each)
    else:
        small()


if __name__ == "__main__":
    main()
