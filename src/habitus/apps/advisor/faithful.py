"""Do citations hold? Each cited triple is looked up in what was retrieved, and taken away to see what the score does.

Taking a triple away empties the features made from it. The move of the score is compared with the move when as many
other triples of the same asset are taken away, drawn at random: an explanation that says no more than chance has 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from habitus.apps.advisor.advise import Advisor, Answer
from habitus.apps.advisor.explain import Citation, Facts, behind
from habitus.apps.advisor.features import NAMES, features
from habitus.apps.advisor.graph import NAMESPACES, iso
from habitus.apps.advisor.retrieve import Subgraph
from habitus.apps.advisor.text import short
from habitus.core.seeds import generator

FIELDS = ("cited", "in_graph", "of_asset", "of_customer", "dated")


@dataclass(frozen=True)
class Checked:
    """Citations of one asset: how many, how many stand in the retrieved graph, name the asset, are facts of the
    customer's profile, are not later than the day; and how far the score of a buy moves without them, and without as
    many others (NaN without citations or others)."""

    cited: int
    in_graph: int
    of_asset: int
    of_customer: int
    dated: int
    moved: float
    moved_other: float


def check_answer(advisor: Advisor, answer: Answer, found: Subgraph, *, seed: int = 0) -> list[Checked]:
    """Check the citations of every asset of an answer; a line that names no retrieved asset is left out."""
    view, _ = advisor.at(found.day)
    facts = Facts(found)
    held = _written(found)
    place = {str(view.market.source.isins[code]): at for at, code in enumerate(found.retrieved.assets[0]) if code >= 0}
    rows = features(view, found.trades, found.retrieved, market=advisor.ranker.retrieval.market)[0]
    draw = generator(seed, "triples taken away", found.day, int(found.trades.customers[0]))
    checks = []
    for named in answer.assets:
        if named.isin not in place:
            continue
        row = rows[place[named.isin]]
        of = {name: behind(facts, named.isin, name) for name in NAMES}
        checks.append(_checked(advisor, named.isin, named.citations, of, row, held, facts, found.day, draw))
    return checks


def _checked(
    advisor: Advisor, isin: str, citations: list[Citation], of: dict[str, list[Citation]], row: np.ndarray,
    held: set[tuple[str, str, str]], facts: Facts, day: int, draw: np.random.Generator,
) -> Checked:  # fmt: skip
    others = [each for each in dict.fromkeys(c for found in of.values() for c in found) if each not in citations]
    n = min(len(citations), len(others))
    some = [others[at] for at in draw.permutation(len(others))[:n]]
    gone = np.stack([row, _without(row, of, citations), _without(row, of, some)])
    score = advisor.ranker.buy.score(gone)
    moves = np.abs(score[1:] - score[0])
    is_profile = [each.subject == short(facts.profile) for each in citations]
    return Checked(
        len(citations),
        sum((each.subject, each.predicate, each.object) in held for each in citations),
        sum(_is_of(facts, each, isin) for each in citations),
        sum(is_profile),
        sum(_date_of(facts, each) <= iso(day) for each in citations),
        float(moves[0]) if citations else np.nan,
        float(moves[1]) if n == len(citations) and n else np.nan,
    )


def _without(row: np.ndarray, of: dict[str, list[Citation]], gone: list[Citation]) -> np.ndarray:
    """Empty every feature that one of these triples stands behind."""
    out = row.copy()
    taken = set(gone)
    out[[place for place, name in enumerate(NAMES) if taken & set(of[name])]] = np.nan
    return out


def _written(found: Subgraph) -> set[tuple[str, str, str]]:
    """Every retrieved triple as a citation writes it."""
    written = set()
    for triple in found.triples:
        subject, predicate, value = triple.subject, triple.predicate.value, triple.object
        name = predicate.removeprefix(NAMESPACES["h"])
        written.add((short(subject.value), "a" if name == predicate else f"h:{name}", short(value.value)))  # type: ignore[union-attr]
    return written


def _is_of(facts: Facts, citation: Citation, isin: str) -> bool:
    """Whether the triple, or the node it belongs to (a trade, a summary of prices), names the asset."""
    wanted = f"isin:{isin}"
    if wanted in (citation.subject, citation.object):
        return True
    node = next((facts.of[subject] for subject in facts.of if short(subject) == citation.subject), {})
    return any(short(each.object.value) == wanted for name in ("security", "of") for each in node.get(name, []))


def _date_of(facts: Facts, citation: Citation) -> str:
    """The date of the node that a citation belongs to; empty where it has none, which `in_graph` then counts."""
    node = next((facts.of[subject] for subject in facts.of if short(subject) == citation.subject), {})
    return next((node[name][0].object.value for name in ("on", "until", "validFrom", "pricedFrom") if name in node), "")
