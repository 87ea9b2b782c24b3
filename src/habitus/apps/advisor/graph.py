"""The two graphs in one store on disk, and the market graph of a day: built, cut, and asked in SPARQL.

One named graph per customer (their trades and profile), `assets` (what an asset is) and `prices` (summaries on a grid
of 70 days). A day adds a graph of its own in memory: summaries up to that day, the crowd's counts, and what is bought
together. What is dated later than the day is not in it.
"""

from __future__ import annotations

import datetime as dt
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from habitus.apps.advisor.market import View
from habitus.core.atomic import new_folder, write_json
from habitus.core.errors import ArtifactError, SourceError, require
from habitus.data.sources.far_trans import FarTrans

if TYPE_CHECKING:
    import pyoxigraph as ox

NAMESPACES = {
    "h": "urn:habitus:ns:",
    "isin": "urn:isin:",
    "tx": "urn:habitus:tx:",
    "c": "urn:habitus:customer:",
    "ps": "urn:habitus:price:",
    "xsd": "http://www.w3.org/2001/XMLSchema#",
}
PREFIXES = "".join(f"PREFIX {name}: <{address}>\n" for name, address in NAMESPACES.items())
TYPE = "<http://www.w3.org/1999/02/22-rdf-syntax-ns#type>"
GRID = 70
DAY_FACTS = ("return21", "return63", "return126", "volatility63", "drawdown", "rsi14", "buys30", "buys180", "buy_rank")
TRADES_OF = (
    PREFIXES
    + """SELECT ?t ?kind ?s ?v ?u ?on WHERE {{
?t h:security ?s ; a ?kind ; h:value ?v ; h:units ?u ; h:on ?on
FILTER(?on <= "{day}"^^xsd:date) }} ORDER BY DESC(?on) ?t"""
)
REACH = (
    PREFIXES
    + """SELECT DISTINCT ?x WHERE {{ {{ VALUES ?seed {{ {seeds} }}
{{ ?seed h:sector ?k . ?x h:sector ?k }} UNION {{ ?seed h:industry ?k . ?x h:industry ?k }}
UNION {{ ?seed h:subCategory ?k ; h:category ?c . ?x h:subCategory ?k ; h:category ?c }}
UNION {{ ?seed h:boughtWith ?x }} UNION {{ ?seed a h:Security BIND(?seed AS ?x) }} }}
UNION {{ ?x h:isPopular true }} }}"""
)
NODES = PREFIXES + "CONSTRUCT {{ ?n ?p ?o }} WHERE {{ VALUES ?n {{ {nodes} }} ?n ?p ?o }}"


def iso(day: int) -> str:
    """Give a day as text.

    >>> iso(0)
    '1970-01-01'
    """
    return (dt.date(1970, 1, 1) + dt.timedelta(days=int(day))).isoformat()


def checked(value: str, form: str) -> str:
    """Give an id that may stand in a query; anything else is a `SourceError`.

    >>> checked("C01", "[A-Z0-9]+")
    'C01'
    """
    if not re.fullmatch(form, value):
        raise SourceError(f"an id of the form {form}", repr(value), where="the question to the graph")
    return value


def build_graph(source: FarTrans, folder: str | Path) -> dict[str, float]:
    """Write the store of a market to a new folder; give the number of triples and the seconds it took.

    Errors: `ExtraError` without the extra [graph], `DiskError` when the folder exists.
    """
    ox: Any = require("pyoxigraph", "graph")
    began = time.perf_counter()
    with new_folder(folder) as beside:
        store = ox.Store(str(beside / "store"))
        counts = {}
        parts = {"customers": _trades, "profiles": _profiles, "assets": _assets, "prices": _prices}
        for name, lines_of in parts.items():
            lines = lines_of(source)
            path = beside / f"{name}.nq"
            path.write_text("\n".join(lines.to_list()) + "\n", "utf-8")
            counts[name] = path.read_bytes().count(b"\n")
            store.bulk_load(path=str(path), format=ox.RdfFormat.N_QUADS)
            path.unlink()
        store.flush()
        store.optimize()
        del store
        total, seconds = sum(counts.values()), time.perf_counter() - began
        found = {"triples": total, "seconds": seconds, "triples_per_second": total / seconds} | counts
        write_json(beside / "graph.json", found)
    return found


def open_graph(folder: str | Path) -> ox.Store:
    """Open a store for reading only. Errors: `ArtifactError` where there is none, `ExtraError` without [graph]."""
    ox: Any = require("pyoxigraph", "graph")
    path = Path(folder) / "store"
    if not path.is_dir():
        raise ArtifactError("a graph", "nothing", where=str(folder), fix="habitus advisor build SOURCE --out GRAPH")
    return ox.Store.read_only(str(path))


def _quads(subject: pl.Expr, facts: dict[str, pl.Expr], graph: pl.Expr) -> list[pl.Expr]:
    end = pl.concat_str(pl.lit(" <"), graph, pl.lit("> ."))
    return [
        pl.concat_str(pl.lit("<"), subject, pl.lit("> " + (TYPE if name == "a" else f"<urn:habitus:ns:{name}>") + " "),
                      value, end)
        for name, value in facts.items()
    ]  # fmt: skip


def _lines(table: pl.DataFrame, parts: list[pl.Expr]) -> pl.Series:
    """Give all lines, one fact after another; a fact whose value is null makes none."""
    return pl.concat([table.select(part.alias("line"))["line"].drop_nulls() for part in parts])


def _typed(value: pl.Expr, kind: str) -> pl.Expr:
    return pl.concat_str(pl.lit('"'), value.cast(pl.String), pl.lit(f'"^^<{NAMESPACES["xsd"]}{kind}>'))


def _number(name: str, digits: int = 4) -> pl.Expr:
    return _typed(pl.when(pl.col(name).is_finite()).then(pl.col(name).cast(pl.Float64).round(digits)), "double")


def _text(name: str) -> pl.Expr:
    value = pl.col(name).str.replace_all("\\", "\\\\", literal=True).str.replace_all('"', '\\"', literal=True)
    value = value.str.replace_all(r"[\r\n]", " ")
    return pl.concat_str(pl.lit('"'), pl.when(value != "").then(value), pl.lit('"'))


def _date(name: str) -> pl.Expr:
    return _typed(pl.col(name).cast(pl.Int32).cast(pl.Date), "date")


def _node(kind: str, name: str | pl.Expr) -> pl.Expr:
    return pl.concat_str(pl.lit(f"<{NAMESPACES[kind]}"), pl.col(name) if isinstance(name, str) else name, pl.lit(">"))


def _trades(source: FarTrans) -> pl.Series:
    table = pl.DataFrame({
        "id": source.ids, "by": source.customer_ids[source.customer], "isin": source.isins[source.asset],
        "is_buy": source.is_buy, "value": source.value, "units": source.units, "on": source.day,
        "channel": source.channel,
    })  # fmt: skip
    kind = pl.when(pl.col("is_buy")).then(pl.lit("Buy")).otherwise(pl.lit("Sell"))
    facts = {"a": _node("h", kind), "by": _node("c", "by"), "security": _node("isin", "isin"),
             "value": _number("value", 2), "units": _number("units"), "on": _date("on"),
             "channel": _text("channel")}  # fmt: skip
    subject = pl.concat_str(pl.lit(NAMESPACES["tx"]), pl.col("id"))
    return _lines(table, _quads(subject, facts, pl.concat_str(pl.lit(NAMESPACES["c"]), pl.col("by"))))


def _profiles(source: FarTrans) -> pl.Series:
    ids = source.customer_ids[source.customers["customer"].to_numpy()]
    table = source.customers.with_columns(
        pl.Series("id", ids), pl.max_horizontal("asked", "since").alias("from")
    ).filter(pl.col("from") < 2**30)
    facts = {"a": pl.lit("<urn:habitus:ns:Profile>"), "of": _node("c", "id"), "risk": _text("risk"),
             "capacity": _text("capacity"), "type": _text("type"), "validFrom": _date("from")}  # fmt: skip
    graph = pl.concat_str(pl.lit(NAMESPACES["c"]), pl.col("id"))
    subject = pl.concat_str(graph, pl.lit("/profile/"), pl.col("from").cast(pl.String))
    return _lines(table, _quads(subject, facts, graph))


def _assets(source: FarTrans) -> pl.Series:
    is_priced = np.isfinite(source.close)
    first = source.days[is_priced.argmax(axis=0)]
    table = source.assets.with_columns(pl.Series("isin", source.isins), pl.Series("from", first)).filter(
        pl.Series("priced", np.asarray(is_priced.any(axis=0)))
    )
    names = {"name": "name", "category": "category", "subCategory": "sub_category", "sector": "sector",
             "industry": "industry", "market": "market"}  # fmt: skip
    facts = {"a": pl.lit("<urn:habitus:ns:Security>")} | {new: _text(old) for new, old in names.items()}
    subject = pl.concat_str(pl.lit(NAMESPACES["isin"]), pl.col("isin"))
    return _lines(table, _quads(subject, facts | {"pricedFrom": _date("from")}, pl.lit("urn:habitus:ns:assets")))


def _prices(source: FarTrans) -> pl.Series:
    """Complete blocks of 70 days; the open one is made per day."""
    ends = np.arange(int(source.days[0]) + GRID - 1, int(source.days[-1]) + 1, GRID)
    blocks = [_summary(source, int(end) - GRID + 1, int(end)) for end in ends]
    if not blocks:
        return pl.Series("line", [], dtype=pl.String)
    return _lines(pl.concat(blocks), _summary_quads("urn:habitus:ns:prices"))


def _summary(source: FarTrans, first: int, last: int) -> pl.DataFrame:
    """Sum up the closes of [first, last], one row per asset that has one."""
    low, high = np.searchsorted(source.days, first), np.searchsorted(source.days, last, side="right")
    close = source.close[low:high].astype(np.float64)
    has = np.isfinite(close).any(axis=0)
    close = close[:, has]
    n, at = len(close), np.arange(close.shape[1])
    start, end = np.isfinite(close).argmax(axis=0), n - 1 - np.isfinite(close[::-1]).argmax(axis=0)
    steps = np.diff(np.log(close), axis=0)
    count = np.isfinite(steps).sum(0)
    total, square = np.nansum(steps, 0), np.nansum(steps**2, 0)
    spread = np.sqrt(np.maximum(square / np.maximum(count, 1) - (total / np.maximum(count, 1)) ** 2, 0) * 252)
    return pl.DataFrame({
        "isin": source.isins[has], "from": np.full(len(at), first), "until": np.full(len(at), last),
        "last": close[end, at], "mean": np.nanmean(close, 0), "high": np.nanmax(close, 0), "low": np.nanmin(close, 0),
        "return": close[end, at] / close[start, at] - 1, "volatility": spread,
    })  # fmt: skip


def _summary_quads(graph: str, *, kind: str = "PriceSummary", extra: tuple[str, ...] = ()) -> list[pl.Expr]:
    subject = pl.concat_str(
        pl.lit(NAMESPACES["ps"]),
        pl.col("isin"),
        pl.lit("_"),
        pl.col("until").cast(pl.Int32).cast(pl.Date).cast(pl.String),
    )
    subject = pl.concat_str(subject, pl.lit("_open" if kind == "OpenSummary" else ""))
    facts = {"a": pl.lit(f"<urn:habitus:ns:{kind}>"), "of": _node("isin", "isin"), "from": _date("from"),
             "until": _date("until")}  # fmt: skip
    numbers = ("last", "mean", "high", "low", "return", "volatility", *extra)
    return _quads(subject, facts | {name: _number(name) for name in numbers}, pl.lit(graph))


@dataclass(frozen=True)
class DayGraph:
    """The market graph of one day, in memory. `store` holds the graphs assets, prices and day.

    `kept` and `lines` remember nodes that were asked for, and how they are written: they are the same for everybody.
    """

    store: ox.Store
    day: int
    code: dict[str, int]
    kept: dict[str, list[Any]] = field(default_factory=dict)
    lines: dict[str, str] = field(default_factory=dict)

    def reach(self, first: np.ndarray, isins: np.ndarray) -> np.ndarray:
        """Ask which assets stage 2 may find after these seeds (codes): bool [1, A]."""
        import pyoxigraph as ox

        seeds = " ".join(f"isin:{checked(str(isins[code]), '[A-Z0-9]{12,13}')}" for code in first if code >= 0)
        graphs: list[Any] = [ox.NamedNode(f"urn:habitus:ns:{name}") for name in ("assets", "day")]
        rows: Any = self.store.query(REACH.format(seeds=seeds), default_graph=graphs)
        found = np.zeros((1, len(isins)), bool)
        found[0, [self.code[row["x"].value[9:]] for row in rows]] = True
        return found


def cut_market(store: ox.Store, view: View) -> DayGraph:
    """Copy the market graph as it was on the day of the view, and add what only that day knows."""
    import pyoxigraph as ox

    market, day = view.market, iso(view.day)
    made = ox.Store()
    for graph, dated in (("assets", "pricedFrom"), ("prices", "until")):
        since = f' && ?on > "{iso(view.day - 4 * GRID)}"^^xsd:date' if graph == "prices" else ""
        query = (
            f'CONSTRUCT {{ ?n ?p ?o }} WHERE {{ ?n h:{dated} ?on FILTER(?on <= "{day}"^^xsd:date{since}) . ?n ?p ?o }}'
        )
        name = ox.NamedNode(f"urn:habitus:ns:{graph}")
        triples: Any = store.query(PREFIXES + query, default_graph=name)
        made.bulk_extend(ox.Quad(t.subject, t.predicate, t.object, name) for t in triples)
    lines = pl.concat([_open_lines(view), *_crowd_lines(view)])
    made.bulk_load("\n".join(lines.to_list()).encode(), format=ox.RdfFormat.N_QUADS)
    return DayGraph(made, view.day, {isin: code for code, isin in enumerate(market.source.isins)})


def _open_lines(view: View) -> pl.Series:
    """The summary from the last grid end to the day, with the facts of the day."""
    source = view.market.source
    past = (view.day - int(source.days[0]) + 1) // GRID * GRID + int(source.days[0])
    facts = pl.DataFrame({"isin": source.isins} | {name: view.facts[name] for name in DAY_FACTS}).filter(
        pl.Series(view.is_open)
    )
    table = facts.join(_summary(source, min(past, view.day), view.day), on="isin", how="left")
    table = table.with_columns(pl.col("from").fill_null(view.day), pl.col("until").fill_null(view.day))
    parts = _summary_quads("urn:habitus:ns:day", kind="OpenSummary", extra=DAY_FACTS)
    return _lines(table, parts)


def _crowd_lines(view: View) -> list[pl.Series]:
    isins = view.market.source.isins
    one, other = np.nonzero(view.together)
    edges = pl.DataFrame({"isin": isins[one], "other": isins[other]})
    popular = pl.DataFrame({"isin": isins[view.popular]})
    subject, graph = pl.concat_str(pl.lit(NAMESPACES["isin"]), pl.col("isin")), pl.lit("urn:habitus:ns:day")
    true = pl.lit(f'"true"^^<{NAMESPACES["xsd"]}boolean>')
    return [
        _lines(edges, _quads(subject, {"boughtWith": _node("isin", "other")}, graph)),
        _lines(popular, _quads(subject, {"isPopular": true}, graph)),
    ]


def full_size(store: ox.Store, customer: str, day: int) -> int:
    """Count the triples of a prompt of the whole graph: one customer's and the market's, dated by the day."""
    import pyoxigraph as ox

    total = 0
    for graph, dated in ((f"{NAMESPACES['c']}{customer}", "on|h:validFrom"), ("urn:habitus:ns:assets", "pricedFrom"),
                         ("urn:habitus:ns:prices", "until")):  # fmt: skip
        query = f'SELECT (COUNT(*) AS ?k) WHERE {{ ?n h:{dated} ?on FILTER(?on <= "{iso(day)}"^^xsd:date) . ?n ?p ?o }}'
        rows: Any = store.query(PREFIXES + query, default_graph=ox.NamedNode(graph))
        total += int(next(iter(rows))["k"].value)
    return total
