"""One customer's subgraph on a day: both stages asked of the graphs, whole nodes kept while the caps hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from habitus.apps.advisor.graph import NODES, TRADES_OF, DayGraph, checked, iso
from habitus.apps.advisor.market import Trades, View
from habitus.apps.advisor.select import RetrievalConfig, Retrieved, retrieve_many
from habitus.apps.advisor.text import node_lines, of_lines, tokens
from habitus.core.errors import SourceError

if TYPE_CHECKING:
    import pyoxigraph as ox

KINDS = {"urn:habitus:ns:Buy": True, "urn:habitus:ns:Sell": False}
CONTEXT_TOKENS = 2 * 190  # two graphs, each with its context


@dataclass(frozen=True)
class Subgraph:
    """What was retrieved for one customer.

    Attributes
    ----------
    customer, day
        Whose, and the cut.
    personal, market
        Triples of the customer's graph and of the market's, in order of use.
    retrieved
        The assets and scores of the stages; the first axis has length 1.
    trades
        All trades of the customer up to the day.
    counts
        Candidates, nodes, dropped nodes, triples, tokens.
    """

    customer: str
    day: int
    personal: list[ox.Triple]
    market: list[ox.Triple]
    retrieved: Retrieved
    trades: Trades
    counts: dict[str, int]

    @property
    def triples(self) -> list[ox.Triple]:
        return [*self.personal, *self.market]


def read_trades(store: ox.Store, customer: str, view: View) -> tuple[Trades, list[str]]:
    """Ask the customer's own graph for the trades up to the day; give them with their node ids, oldest first."""
    import pyoxigraph as ox

    source = view.market.source
    at = int(np.searchsorted(source.customer_ids, checked(customer, "[A-Z0-9]+")))
    if at == len(source.customer_ids) or source.customer_ids[at] != customer:
        raise SourceError("a customer of this market", repr(customer), where="--customer")
    graph = ox.NamedNode(f"urn:habitus:customer:{customer}")
    answer: Any = store.query(TRADES_OF.format(day=iso(view.day)), default_graph=graph)
    rows = list(answer)[::-1]
    names = [row["s"].value[9:] for row in rows]
    asset = np.searchsorted(source.isins, names) if names else np.zeros(0, np.int64)
    on = np.array([row["on"].value for row in rows], "datetime64[D]").astype(np.int64)
    return Trades(
        np.array([at]), np.zeros(len(rows), np.int64), asset, view.day - on,
        np.array([KINDS[row["kind"].value] for row in rows], bool),
        np.array([float(row["v"].value) for row in rows]), np.array([float(row["u"].value) for row in rows]),
    ), [row["t"].value for row in rows]  # fmt: skip


def retrieve(store: ox.Store, day: DayGraph, view: View, customer: str, config: RetrievalConfig) -> Subgraph:
    """Give the subgraph of one customer.

    Errors: `SourceError` for a customer the market does not know. One without a trade gets what the crowd buys.
    """
    trades, ids = read_trades(store, customer, view)
    first = retrieve_many(view, trades, config.model_copy(update={"market": False, "path": "multi"})).first
    isins = view.market.source.isins
    asks = config.path == "multi" and config.market
    reach = day.reach(first[0], isins) if asks else None
    found = retrieve_many(view, trades, config, first=first, reach=reach)
    personal = _personal(store, customer, view, trades, ids, first[0], config)
    market = _market(day, view, found.assets[0], config) if config.market else []
    kept, dropped = _within(sorted([*personal, *market], key=lambda node: -node.score), config)
    chosen = {found.retrieved for found in kept}
    own = [t for node in personal if node.retrieved in chosen for t in node.triples]
    others = [t for node in market if node.retrieved in chosen for t in node.triples]
    texts = [of_lines(node.line for node in part if node.retrieved in chosen) for part in (personal, market)]
    counts = {
        "transactions": len(ids), "first": int((first >= 0).sum()), "candidates": int(found.n_candidates[0]),
        "assets": int((found.assets >= 0).sum()), "nodes": len(kept), "dropped": dropped,
        "triples": len(own) + len(others), "tokens": sum(tokens(text) for text in texts),
    }  # fmt: skip
    return Subgraph(customer, view.day, own, others, found, trades, counts)


@dataclass(frozen=True)
class _Node:
    retrieved: str
    score: float
    triples: list[Any]
    line: str


def _personal(
    store: ox.Store, customer: str, view: View, trades: Trades, ids: list[str], first: np.ndarray,
    config: RetrievalConfig,
) -> list[_Node]:  # fmt: skip
    """The profile, and the latest trades of the assets that stage 1 kept."""
    import pyoxigraph as ox

    graph = ox.NamedNode(f"urn:habitus:customer:{customer}")
    of_first = np.flatnonzero(np.isin(trades.asset, first))[::-1][: config.n_candidates][: config.n_transactions]
    profiles: Any = store.query(
        f'SELECT ?n WHERE {{ ?n <urn:habitus:ns:validFrom> ?on FILTER(?on <= "{iso(view.day)}"^^'
        "<http://www.w3.org/2001/XMLSchema#date>) } ORDER BY DESC(?on) LIMIT 1",
        default_graph=graph,
    )
    names = [row["n"].value for row in profiles] + [ids[at] for at in of_first]
    scores = [1000.0] * (len(names) - len(of_first)) + [95 - 0.9 * place for place in range(len(of_first))]
    of = _asked(store, names, [graph])
    score = dict(zip(names, scores, strict=True))
    return [_Node(name, score[name], of[name], node_lines(of[name])[0]) for name in dict.fromkeys(names) if name in of]


def _market(day: DayGraph, view: View, assets: np.ndarray, config: RetrievalConfig) -> list[_Node]:
    """The assets with all their facts, the summary of the day for each, older summaries of the best."""
    import pyoxigraph as ox

    source = view.market.source
    isins = [source.isins[code] for code in assets if code >= 0]
    names = [f"urn:isin:{isin}" for isin in isins]
    open_ones = [f"urn:habitus:price:{isin}_{iso(view.day)}_open" for isin in isins][: config.n_summaries]
    ends = int(source.days[0]) + 69 + 70 * np.arange((view.day - int(source.days[0]) + 1) // 70)
    ends = ends[::-1][: max(config.per_asset - 1, 0)]
    older = [f"urn:habitus:price:{isin}_{iso(end)}" for isin in isins for end in ends]
    older = older[: max(config.n_summaries - len(open_ones), 0)]
    scores = [100.0 - place for place in range(len(names))]
    scores += [99.5 - place for place in range(len(open_ones))] + [40.0 - place for place in range(len(older))]
    graphs = [ox.NamedNode(f"urn:habitus:ns:{name}") for name in ("assets", "prices", "day")]
    every = names + open_ones + older
    missing = [name for name in every if name not in day.kept]
    fresh = _asked(day.store, missing, graphs)
    day.kept.update({name: fresh.get(name, []) for name in missing})
    score, inside = dict(zip(every, scores, strict=True)), set(names)
    found = []
    for name in every:
        triples = day.kept.get(name, [])
        if name in inside:  # edges between assets only where both are retrieved
            triples = [each for each in triples if not _leads_out(each, inside)]
            line = node_lines(triples)[0] if triples else ""
        elif triples:
            line = day.lines.get(name) or day.lines.setdefault(name, node_lines(triples)[0])
        if triples:
            found.append(_Node(name, score[name], triples, line))
    return found


def _leads_out(triple: Any, inside: set[str]) -> bool:
    return triple.predicate.value.endswith(":boughtWith") and triple.object.value not in inside


def _asked(store: ox.Store, names: list[str], graphs: list[Any]) -> dict[str, list[Any]]:
    """Fetch nodes with all their facts, in a fixed order."""
    if not names:
        return {}
    triples: Any = store.query(NODES.format(nodes=" ".join(f"<{name}>" for name in names)), default_graph=graphs)
    of: dict[str, list[Any]] = {}
    for triple in triples:
        of.setdefault(triple.subject.value, []).append(triple)
    return {name: sorted(facts, key=str) for name, facts in of.items()}


def _within(nodes: list[_Node], config: RetrievalConfig) -> tuple[list[_Node], int]:
    """Keep the best nodes while triples and tokens hold; the lowest-scored are dropped whole."""
    cost = np.array([[len(node.triples), tokens(node.line) + 1] for node in nodes]).reshape(-1, 2).cumsum(axis=0)
    fits = (cost[:, 0] <= config.max_triples) & (cost[:, 1] <= config.max_tokens - CONTEXT_TOKENS)
    n = int(fits.sum())
    return nodes[:n], len(nodes) - n
