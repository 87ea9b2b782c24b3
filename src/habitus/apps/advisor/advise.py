"""An answer for one customer on a day: retrieved, ranked, cited; by the offline ranker or by a language model."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from habitus.apps.advisor.explain import Citation, Facts, cite, contributions
from habitus.apps.advisor.features import features
from habitus.apps.advisor.graph import DayGraph, cut_market, full_size, iso, open_graph
from habitus.apps.advisor.market import HORIZON, View
from habitus.apps.advisor.prompt import messages, read_answer, unsupported
from habitus.apps.advisor.rank import Objective, Ranker
from habitus.apps.advisor.retrieve import Subgraph, retrieve
from habitus.apps.advisor.run import Run
from habitus.apps.advisor.suitability import CLASSES, Suitability, asset_class, declared_class
from habitus.apps.advisor.write import Writer, answered
from habitus.core.errors import ConfigError, CutoffError

NOTE = "A ranking by a model of past trades. This is no investment advice."


@dataclass(frozen=True)
class Named:
    """An asset of an answer. isin is None where a language model named nothing usable on that line."""

    isin: str | None
    name: str
    score: float | None
    p_buy: float | None
    p_rise: float | None
    citations: list[Citation]
    fits: bool | None = None  # the customer's declared class of risk; None where none is known


@dataclass(frozen=True)
class Answer:
    """What a customer would be told, with what it rests on."""

    customer: str
    date: str
    writer: str
    assets: list[Named]
    counts: dict[str, int]
    milliseconds: float
    is_unparsable: bool = False
    is_filled: bool = False
    text: str = ""
    unsupported: list[str] = field(default_factory=list)
    declared: str = ""
    suitability: Suitability = "warn"
    note: str = NOTE

    def to_json(self) -> dict[str, Any]:
        """Give plain values."""
        return asdict(self)


class Advisor:
    """Answers of one run. The graph is open for reading; a market graph is cut once per day.

    Errors: `ConfigError` for an unknown way, `ArtifactError` for a missing graph, `CutoffError` for a day
    without prices.
    """

    def __init__(self, run: Run, way: str | None = None) -> None:
        name = way or next(iter(run.rankers))
        if name not in run.rankers:
            raise ConfigError(f"one of: {', '.join(run.rankers)}", repr(name), where="--way")
        self.run, self.way, self.ranker = run, name, run.rankers[name]
        self.store = open_graph(run.graph)
        self._days: dict[int, tuple[View, DayGraph]] = {}

    def at(self, day: int) -> tuple[View, DayGraph]:
        """Give the view and the market graph of a day."""
        if day not in self._days:
            view = self.run.market.view(day)
            if not view.is_open.any():
                raise CutoffError("a day on which an asset has a price", iso(day), where="--date")
            self._days[day] = view, cut_market(self.store, view)
        return self._days[day]

    def subgraph(self, customer: str, day: int) -> Subgraph:
        """Retrieve for one customer."""
        view, graph = self.at(day)
        return retrieve(self.store, graph, view, customer, self.ranker.retrieval)

    def full_size(self, customer: str, day: int) -> int:
        """Count the triples of the whole graph of a customer and the market on a day."""
        return full_size(self.store, customer, day)

    def advise(
        self,
        customer: str,
        day: int,
        *,
        k: int = 10,
        objective: Objective | None = None,
        writer: Writer | None = None,
        fill: bool = False,
        suitability: Suitability = "warn",
        say: Callable[[str], Any] | None = None,
    ) -> tuple[Answer, Subgraph]:
        """Rank for one customer. With a `writer` its lines are the answer; `fill` completes them from the ranker.

        `suitability`: `warn` marks assets above the customer's declared class of risk, `filter` names none of them,
        `off` does not look.
        """
        view, _ = self.at(day)
        began = time.perf_counter()
        found = self.subgraph(customer, day)
        places, rows, p, score = _ranked(self.ranker, view, found, objective)
        isins = view.market.source.isins
        ranked = [str(isins[found.retrieved.assets[0, at]]) for at in places]
        class_of, fits = self._fitting(view, found, suitability)
        text, unparsable, filled = "", False, False
        usable = [isin for isin in ranked if suitability != "filter" or fits.get(isin) is not False]
        wanted: list[str | None] = list(usable[:k])
        if writer is not None:
            text = answered(writer, messages(found, k=k, horizon=HORIZON), say) or ""
            read = read_answer(text, set(isins[view.is_open]), k)
            wanted, unparsable = [*read.isins], read.is_unparsable
            if suitability == "filter":  # the place stays, as a miss
                wanted = [None if isin is not None and fits.get(isin) is False else isin for isin in wanted]
            if fill and len([isin for isin in wanted if isin]) < k:
                rest: list[str | None] = [isin for isin in usable if isin not in wanted]
                wanted, filled = [*[isin for isin in wanted if isin], *rest][:k], True
        at_of = {isin: place for place, isin in enumerate(ranked)}
        some = sorted({at_of[isin] for isin in wanted if isin in at_of})  # the costly part of an answer
        adds = dict(zip(some, contributions(self.ranker, rows[some]), strict=True)) if some else {}
        facts = Facts(found)
        named = [self._named(isin, at_of, p, score, facts, adds, fits) for isin in wanted]
        answer = Answer(
            customer, iso(day), "ranker" if writer is None else "language model", named, found.counts,
            1000 * (time.perf_counter() - began), unparsable, filled, text, unsupported(text, found) if text else [],
            class_of, suitability,
        )  # fmt: skip
        return answer, found

    def _named(
        self, isin: str | None, at_of: dict[str, int], p: dict[str, np.ndarray], score: np.ndarray, facts: Facts,
        adds: dict[int, np.ndarray], fits: dict[str, bool],
    ) -> Named:  # fmt: skip
        if isin is None:
            return Named(None, "", None, None, None, [])
        source = self.run.market.source
        name = self.run.market.names[int(np.searchsorted(source.isins, isin))]
        if isin not in at_of:  # a language model may name an open asset that was not retrieved
            return Named(isin, name, None, None, None, [], fits.get(isin))
        at = at_of[isin]
        return Named(str(isin), name, float(score[at]), float(p["buy"][at]), float(p["rise"][at]),
                     cite(facts, str(isin), adds[at]), fits.get(isin))  # fmt: skip

    def _fitting(self, view: View, found: Subgraph, suitability: Suitability) -> tuple[str, dict[str, bool]]:
        """Give the customer's declared class, empty if unknown, and whether each open asset fits it."""
        declared = int(declared_class(view, found.trades.customers)[0])
        if suitability == "off" or declared < 0:
            return "", {}
        fits = asset_class(view) <= declared
        isins = view.market.source.isins
        return CLASSES[declared], {str(isins[code]): bool(fits[code]) for code in np.flatnonzero(view.is_open)}


def _ranked(
    ranker: Ranker, view: View, found: Subgraph, objective: Objective | None
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray], np.ndarray]:
    """Give places of the retrieved assets, best first, their rows, chances and scores in that order."""
    rows = features(view, found.trades, found.retrieved, market=ranker.retrieval.market)[0]
    p = ranker.chances(rows)
    score = ranker.score_of(p, objective)
    order = np.argsort(-score, kind="stable")[: int((found.retrieved.assets[0] >= 0).sum())]
    return order, rows[order], {name: values[order] for name, values in p.items()}, score[order]
