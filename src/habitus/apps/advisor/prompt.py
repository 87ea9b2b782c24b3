"""What a language model is asked, and how its answer is read: strictly, so that an invented asset is a miss."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from habitus.apps.advisor.graph import iso
from habitus.apps.advisor.retrieve import Subgraph
from habitus.apps.advisor.text import to_jsonld, to_turtle

Form = Literal["json-ld", "turtle"]
TASK = (
    "You rank financial assets for one customer. Use only the two graphs that follow: facts of assets and prices, and "
    "what the customer traded. Write one sentence, then {k} lines, the best first, each a dash and an ISIN of the "
    "graphs:\n- ISIN"
)
LINE = re.compile(r"^\s*-\s*(?:isin:)?([A-Z0-9]{12,13})\b")
THINKING = re.compile(r"</think(?:ing)?>")
CLAIM = re.compile(r"\d{4}-\d\d-\d\d|\b[A-Z]{2}[A-Z0-9]{10,11}\b|[-+]?\d+(?:\.\d+)?")


def messages(subgraph: Subgraph, *, k: int = 10, horizon: int = 180, form: Form = "json-ld") -> list[dict[str, str]]:
    """Give the four messages: task, market graph, customer graph, date and horizon."""
    write = to_jsonld if form == "json-ld" else to_turtle
    wish = (
        f"The date is {iso(subgraph.day)}. Which assets will this customer buy in the next {horizon} days, and gain by?"
    )
    return [
        {"role": "system", "content": TASK.format(k=k)},
        {"role": "system", "content": "Market graph:\n" + write(subgraph.market)},
        {"role": "system", "content": "Customer graph:\n" + write(subgraph.personal)},
        {"role": "user", "content": wish},
    ]


def joined(parts: list[dict[str, str]]) -> list[dict[str, str]]:
    """Give the same as one user message, for models that know no system role.

    >>> joined([{"role": "system", "content": "a"}, {"role": "user", "content": "b"}])[0]["role"]
    'user'
    """
    return [{"role": "user", "content": "\n\n".join(part["content"] for part in parts)}]


@dataclass(frozen=True)
class Read:
    """isins: one per answered line, None where it names no asset of the day; is_unparsable: no line named one."""

    isins: list[str | None]
    is_unparsable: bool


def read_answer(text: str, known: Collection[str] | Mapping[str, object], k: int = 10) -> Read:
    """Read an answer: after the last mark of thinking, each line `- ISIN` gives at most one asset, once.

    A line with anything else fills its place as a miss. No valid line: unparsable, a miss as well.

    >>> read_answer("Buy.\\n- GR0000000011\\n- XX0000000000", {"GR0000000011"}).isins
    ['GR0000000011', None]
    """
    body = THINKING.split(text)[-1]
    found: list[str | None] = []
    for line in body.splitlines():
        if not line.lstrip().startswith("-"):
            continue
        named = LINE.match(line)
        isin = named[1] if named and named[1] in known else None
        if isin is None or isin not in found:
            found.append(isin)
    return Read(found[:k], not any(found))


def unsupported(text: str, subgraph: Subgraph) -> list[str]:
    """List the ISINs, dates and numbers of a text that no retrieved triple holds.

    A number counts as held when it stands in the graph as it is written.
    """
    held = set()
    for triple in subgraph.triples:
        for term in (triple.subject, triple.object):
            held |= set(CLAIM.findall(term.value))  # type: ignore[union-attr]
    held.add(iso(subgraph.day))
    return [claim for claim in dict.fromkeys(CLAIM.findall(text)) if claim not in held]
