"""A graph as text: compact JSON-LD with a `@context`, Turtle, and how many tokens either costs, roughly."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from habitus.apps.advisor.graph import NAMESPACES
from habitus.core.errors import SourceError

if TYPE_CHECKING:
    import pyoxigraph as ox

IRIS = ("by", "security", "of", "boughtWith")
DATES = ("on", "from", "until", "validFrom", "pricedFrom")
RDF_TYPE = "http://www.w3.org/1999/02/22-rdf-syntax-ns#type"
CONTEXT: Mapping[str, Any] = {
    **{name: address for name, address in NAMESPACES.items() if name != "h"},
    "@vocab": NAMESPACES["h"],
    **{name: {"@type": "@id"} for name in IRIS},
    **{name: {"@type": "xsd:date"} for name in DATES},
}
TOKEN = re.compile(r"[A-Za-z]{1,6}|\d{1,3}|[^\sA-Za-z\d]{1,2}")


def tokens(text: str) -> int:
    """Estimate the tokens of a text: pieces of up to six letters, three digits or two marks. No model's own count.

    >>> tokens("isin:GR0123456789")
    7
    """
    return len(TOKEN.findall(text))


def short(iri: str) -> str:
    """Write an address with its prefix.

    >>> short("urn:isin:GR0123456789")
    'isin:GR0123456789'
    """
    for name, address in NAMESPACES.items():
        if iri.startswith(address):
            return f"{name}:{iri[len(address) :]}"
    return iri


def to_nodes(triples: Iterable[ox.Triple]) -> list[dict[str, Any]]:
    """Give one mapping per subject, in order of appearance; what occurs more than once is a list, sorted."""
    nodes: dict[str, dict[str, Any]] = {}
    for triple in triples:
        subject, predicate, value = triple.subject, triple.predicate, triple.object
        node = nodes.setdefault(subject.value, {"@id": short(subject.value)})  # type: ignore[union-attr]
        if predicate.value == RDF_TYPE:
            node["@type"] = value.value.removeprefix(NAMESPACES["h"])  # type: ignore[union-attr]
            continue
        name, written = predicate.value.removeprefix(NAMESPACES["h"]), _value(value)
        if name in node:
            kept = node[name]
            node[name] = sorted([*(kept if isinstance(kept, list) else [kept]), written])
        else:
            node[name] = written
    return list(nodes.values())


def _value(term: Any) -> Any:
    kind = getattr(getattr(term, "datatype", None), "value", "")
    if kind.endswith("#double"):
        return float(term.value)
    if kind.endswith("#boolean"):
        return term.value == "true"
    return term.value if kind else short(term.value)


def to_jsonld(triples: Iterable[ox.Triple]) -> str:
    """Write compact JSON-LD, one node a line."""
    return of_lines(node_lines(triples))


def node_lines(triples: Iterable[ox.Triple]) -> list[str]:
    """Write one line per node, as they stand in `to_jsonld`."""
    return [json.dumps(node, separators=(",", ":"), ensure_ascii=False) for node in to_nodes(triples)]


def of_lines(lines: Iterable[str]) -> str:
    """Frame lines of nodes as a document."""
    context = json.dumps(CONTEXT, separators=(",", ":"))
    return f'{{"@context":{context},"@graph":[\n' + ",\n".join(lines) + "\n]}"


def from_jsonld(text: str) -> set[ox.Triple]:
    """Read what `to_jsonld` wrote. Errors: `SourceError` for anything else."""
    import pyoxigraph as ox

    try:
        nodes = json.loads(text)["@graph"]
    except (ValueError, KeyError, TypeError) as cause:
        raise SourceError("compact JSON-LD with @graph", str(cause), where="graph text") from None
    found = set()
    for node in nodes:
        subject = ox.NamedNode(_long(node["@id"]))
        for name, values in node.items():
            if name == "@id":
                continue
            predicate = ox.NamedNode(RDF_TYPE if name == "@type" else NAMESPACES["h"] + name)
            for value in values if isinstance(values, list) else [values]:
                found.add(ox.Triple(subject, predicate, _term(name, value)))
    return found


def _term(name: str, value: Any) -> Any:
    import pyoxigraph as ox

    if name == "@type":
        return ox.NamedNode(NAMESPACES["h"] + value)
    if name in IRIS:
        return ox.NamedNode(_long(value))
    if name in DATES:
        return ox.Literal(value, datatype=ox.NamedNode(NAMESPACES["xsd"] + "date"))
    return ox.Literal(value)


def _long(curie: str) -> str:
    prefix, _, rest = curie.partition(":")
    return NAMESPACES[prefix] + rest if prefix in NAMESPACES else curie


def to_turtle(triples: Iterable[ox.Triple]) -> str:
    """Write Turtle with the prefixes of the graphs."""
    import pyoxigraph as ox

    made = ox.serialize(triples, format=ox.RdfFormat.TURTLE, prefixes=dict(NAMESPACES))
    return made.decode() if made is not None else ""


def from_turtle(text: str) -> set[ox.Triple]:
    """Read Turtle."""
    import pyoxigraph as ox

    return {quad.triple for quad in ox.parse(text, format=ox.RdfFormat.TURTLE)}
