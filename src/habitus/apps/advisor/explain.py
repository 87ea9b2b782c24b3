"""Why an asset was named: the triples behind the largest contributions of its score, in a fixed form of sentence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from habitus.apps.advisor.features import FACTS, NAMES
from habitus.apps.advisor.graph import DAY_FACTS, NAMESPACES
from habitus.apps.advisor.rank import Ranker
from habitus.apps.advisor.retrieve import Subgraph
from habitus.apps.advisor.text import RDF_TYPE, short

if TYPE_CHECKING:
    import pyoxigraph as ox

OF_TRADES = ("own_score", "is_first", "units_held", "since_buy", "since_sale", "n_buys", "n_sales")
OF_ASSET = {"share_category": "category", "share_sector": "sector", "share_industry": "industry",
            "share_sub_category": "subCategory", "category": "category"}  # fmt: skip
OF_PROFILE = {"risk": "risk", "capacity": "capacity"}
PHRASES = {
    "return21": "It returned {:+.1%} over 21 price days.", "return63": "It returned {:+.1%} over 63 price days.",
    "return126": "It returned {:+.1%} over 126 price days.", "volatility63": "Its volatility is {:.0%} a year.",
    "drawdown": "It stands {:.1%} from its high of half a year.", "rsi14": "Its strength index is {:.0f} of 100.",
    "buys30": "It was bought {:.0f} times in 30 days.", "buys180": "It was bought {:.0f} times in 180 days.",
    "buy_rank": "Of all assets, {:.0f} were bought more often in 180 days.",
}  # fmt: skip
MOST = 5


@dataclass(frozen=True)
class Citation:
    """A triple of the retrieved subgraph, written out, the graph it stands in, and the sentence it carries."""

    subject: str
    predicate: str
    object: str
    graph: str
    sentence: str


class Facts:
    """The triples of a subgraph by subject and predicate."""

    def __init__(self, subgraph: Subgraph) -> None:
        self.of: dict[str, dict[str, list[Any]]] = {}
        self.graph: dict[str, str] = {}
        for name, triples in (("customer", subgraph.personal), ("market", subgraph.market)):
            for triple in triples:
                subject = triple.subject.value  # type: ignore[union-attr]
                predicate = (
                    "a" if triple.predicate.value == RDF_TYPE else triple.predicate.value[len(NAMESPACES["h"]) :]
                )
                self.of.setdefault(subject, {}).setdefault(predicate, []).append(triple)
                self.graph[subject] = name
        self.trades: dict[str, list[str]] = {}
        self.summary: dict[str, str] = {}
        self.profile = ""
        for subject, facts in self.of.items():
            if "security" in facts:
                self.trades.setdefault(facts["security"][0].object.value, []).append(subject)
            elif subject.endswith("_open"):
                self.summary[facts["of"][0].object.value] = subject
            elif "risk" in facts or "validFrom" in facts:
                self.profile = subject

    def cite(self, subject: str, predicate: str, sentence: str, value: str = "") -> Citation | None:
        """Give a citation of one fact (the one with this value, if given), or None when it was not retrieved."""
        found = self.of.get(subject, {}).get(predicate, [])
        found = [each for each in found if value in ("", each.object.value)]
        if not found:
            return None
        triple: ox.Triple = found[0]
        return Citation(short(subject), "a" if predicate == "a" else f"h:{predicate}",
                        short(triple.object.value), self.graph[subject], sentence)  # type: ignore[union-attr]  # fmt: skip


def contributions(ranker: Ranker, rows: np.ndarray) -> np.ndarray:
    """Give what each feature adds to the score of a buy: float [n, F] of rows [n, F]."""
    return ranker.buy.contributions(rows)


def cite(facts: Facts, isin: str, adds: np.ndarray) -> list[Citation]:
    """Give up to five triples for an asset, those behind the largest contributions first."""
    found: list[Citation] = []
    for place in np.argsort(-np.abs(adds), kind="stable"):
        if adds[place] == 0 or len(found) >= MOST:
            break
        for citation in behind(facts, isin, NAMES[place]):
            if citation not in found and len(found) < MOST:
                found.append(citation)
    return found


def behind(facts: Facts, isin: str, feature: str) -> list[Citation]:
    """Give the triples that a feature of an asset was made from, as far as they were retrieved; some have none."""
    asset = f"{NAMESPACES['isin']}{isin}"
    if feature in OF_TRADES:
        made = []
        for trade in facts.trades.get(asset, [])[:1]:
            kind = facts.of[trade]["a"][0].object.value[len(NAMESPACES["h"]) :]
            day = facts.of[trade]["on"][0].object.value
            done = "bought" if kind == "Buy" else "sold"
            made += [facts.cite(trade, "security", f"The customer {done} {isin} before."),
                     facts.cite(trade, "on", f"The last such trade was on {day}.")]  # fmt: skip
        return [each for each in made if each is not None]
    if feature in OF_ASSET:
        name = OF_ASSET[feature]
        value = facts.of.get(asset, {}).get(name)
        text = value[0].object.value if value else ""
        return _one(facts.cite(asset, name, f"It is of the {name} {text}, as other holdings may be."))
    if feature.startswith(("together", "taste")):
        for edge in facts.of.get(asset, {}).get("boughtWith", []):
            other = edge.object.value
            if other in facts.trades:
                return _one(facts.cite(asset, "boughtWith", f"Others buy it together with {short(other)[5:]}.", other))
        return []
    if feature == "held_group":
        shared = (_of_group(facts, asset, name) for name in ("sector", "subCategory", "industry"))
        return next((found for found in shared if found), [])
    feature = {"mover_place": "return63"}.get(feature, feature)
    if feature in OF_PROFILE:
        return _one(facts.cite(facts.profile, OF_PROFILE[feature], f"The profile names a {feature}."))
    if feature in FACTS and feature in DAY_FACTS:
        summary = facts.summary.get(asset, "")
        value = facts.of.get(summary, {}).get(feature)
        sentence = PHRASES[feature].format(float(value[0].object.value)) if value else ""
        return _one(facts.cite(summary, feature, sentence))
    return []


def _of_group(facts: Facts, asset: str, name: str) -> list[Citation]:
    """The group that an asset shares with one that the customer traded."""
    value = [each.object.value for each in facts.of.get(asset, {}).get(name, [])]
    traded = (facts.of.get(other, {}).get(name, []) for other in facts.trades if other != asset)
    if value and any(each.object.value == value[0] for found in traded for each in found):
        return _one(facts.cite(asset, name, f"The customer traded others of the {name} {value[0]}."))
    return []


def _one(citation: Citation | None) -> list[Citation]:
    return [citation] if citation is not None else []
