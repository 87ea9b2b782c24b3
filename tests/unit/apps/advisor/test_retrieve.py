"""What is retrieved: the graph's answer is that of the arrays, nothing is later than the day, nobody else's is read."""

from __future__ import annotations

import datetime as dt
import re

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from habitus.apps.advisor.explain import Facts
from habitus.apps.advisor.graph import DayGraph, build_graph, cut_market, full_size, iso, open_graph
from habitus.apps.advisor.market import Market
from habitus.apps.advisor.retrieve import retrieve
from habitus.apps.advisor.select import RetrievalConfig, candidates, retrieve_many
from habitus.apps.advisor.text import from_jsonld, from_turtle, to_jsonld, to_turtle
from habitus.core.errors import ArtifactError, CutoffError, SourceError

DATED = re.compile(r"\d{4}-\d\d-\d\d")
ONE = RetrievalConfig()
CUT: dict[int, DayGraph] = {}


def cut(small, view) -> DayGraph:
    """A day's market graph, cut once."""
    if view.day not in CUT:
        CUT[view.day] = cut_market(small.store, view)
    return CUT[view.day]


def later_dates(triples, day: str) -> list[str]:
    """Every date anywhere in a triple that is later than the day."""
    return [found for triple in triples for found in DATED.findall(str(triple)) if found > day]


@pytest.mark.parametrize("path", ["multi", "parallel", "off"])
def test_the_graph_gives_what_the_arrays_give(small, path):
    config = RetrievalConfig(path=path)
    people = np.arange(0, 40)
    many = retrieve_many(small.view, small.view.trades(people), config)
    for row, code in enumerate(people):
        one = retrieve(small.store, small.day, small.view, str(small.source.customer_ids[code]), config)
        np.testing.assert_array_equal(one.retrieved.assets[0], many.assets[row])
        assert one.counts["candidates"] == many.n_candidates[row]


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    place=st.integers(0, 149), back=st.sampled_from([0, 411, 900]), path=st.sampled_from(["multi", "parallel", "off"])
)
def test_no_triple_is_later_than_the_day(small, place, back, path):
    view = small.market.view(small.view.day - back)
    graph = cut(small, view)
    found = retrieve(small.store, graph, view, str(small.source.customer_ids[place]), RetrievalConfig(path=path))
    assert found.market
    assert not later_dates(found.triples, iso(view.day))
    assert not later_dates(graph.store, iso(view.day))


def test_what_comes_later_changes_nothing(small, tmp_path):
    """The whole answer is the same when rows after the day never existed."""
    past = small.source.until(small.view.day)
    build_graph(past, tmp_path / "past")
    store, view = open_graph(tmp_path / "past"), Market(past).view(small.view.day)
    graph = cut_market(store, view)
    for code in range(0, 150, 15):
        customer = str(small.source.customer_ids[code])
        was = retrieve(small.store, small.day, small.view, customer, ONE)
        now = retrieve(store, graph, view, customer, ONE)
        assert to_jsonld(was.triples) == to_jsonld(now.triples)
        np.testing.assert_array_equal(was.retrieved.score, now.retrieved.score)


def test_only_the_customers_own_graph_is_read(small):
    for code in range(0, 60, 6):
        customer = str(small.source.customer_ids[code])
        found = retrieve(small.store, small.day, small.view, customer, ONE)
        owners = {t.object.value for t in found.triples if t.predicate.value.endswith((":by",))}
        assert owners <= {f"urn:habitus:customer:{customer}"}
        mine = set(small.source.ids[small.source.customer == code])
        assert {t.subject.value[15:] for t in found.personal if ":tx:" in t.subject.value} <= mine


def test_stage_two_depends_on_stage_one_only_when_multi(small):
    trades = small.view.trades(np.arange(30))
    for path, is_other in (("multi", True), ("parallel", False)):
        config = RetrievalConfig(path=path)
        was = retrieve_many(small.view, trades, config)
        first = np.full_like(was.first, -1)
        first[:, 0] = np.flatnonzero(small.view.is_open)[-1]
        now = retrieve_many(small.view, trades, config, first=first)
        market_was, market_now = (each.assets for each in (was, now))
        if is_other:
            assert (market_was != market_now).any(axis=1).mean() > 0.9
            reached = candidates(small.view, was.first)
            at = np.maximum(was.assets, 0)
            assert np.take_along_axis(reached, at, 1)[was.assets >= 0].all()
        else:  # the market's own list does not move: what one did not trade keeps its order
            for row in range(30):
                mine = set(was.first[row]) | set(first[row])
                lists = [[a for a in each[row] if a not in mine] for each in (market_was, market_now)]
                shorter = min(len(each) for each in lists)
                assert lists[0][:shorter] == lists[1][:shorter]


@pytest.mark.parametrize("caps", [{}, {"max_triples": 120}, {"max_tokens": 1500}, {"n_assets": 5, "n_transactions": 3}])
def test_caps_hold_and_nodes_are_whole(small, caps):
    config = RetrievalConfig(**caps)
    heaviest = int(np.argmax(np.diff(small.source.offsets)))
    found = retrieve(small.store, small.day, small.view, str(small.source.customer_ids[heaviest]), config)
    assert 0 < found.counts["triples"] <= config.max_triples
    assert found.counts["tokens"] <= config.max_tokens
    assert found.counts["assets"] <= config.n_assets
    buys = {t.subject for t in found.personal if ":tx:" in t.subject.value}
    assert len(buys) <= config.n_transactions
    for subject in buys:
        assert sum(t.subject == subject for t in found.personal) >= 6  # a node comes with all of its facts


def test_texts_give_the_graph_back(small):
    found = retrieve(small.store, small.day, small.view, str(small.source.customer_ids[3]), ONE)
    triples = set(found.triples)
    assert len(triples) > 100
    assert from_jsonld(to_jsonld(found.triples)) == triples
    assert from_turtle(to_turtle(found.triples)) == triples


def test_without_the_market_graph_only_own_assets_are_left(small):
    found = retrieve(
        small.store, small.day, small.view, str(small.source.customer_ids[3]), RetrievalConfig(market=False)
    )
    assert not found.market
    own = set(found.trades.asset.tolist())
    assert {int(a) for a in found.retrieved.assets[0] if a >= 0} <= own


def test_the_whole_graph_is_far_larger(small):
    customer = str(small.source.customer_ids[3])
    assert full_size(small.store, customer, small.view.day) > 50_000


def test_a_customer_without_a_trade_gets_what_the_crowd_buys(small):
    day = int(small.source.days[0])
    view = small.market.view(day)
    late = int(np.flatnonzero(small.source.day[small.source.offsets[:-1]] > day)[0])
    found = retrieve(small.store, cut_market(small.store, view), view, str(small.source.customer_ids[late]), ONE)
    assert found.counts["transactions"] == 0
    assert found.counts["assets"] == len(view.popular[view.is_open[view.popular]])


@pytest.mark.parametrize("customer", ["NOBODY", "x' } DROP", "C0000000>", ""])
def test_an_unknown_or_broken_id_is_an_error(small, customer):
    with pytest.raises(SourceError):
        retrieve(small.store, small.day, small.view, customer, ONE)


def test_no_graph_and_no_day_are_errors(small, tmp_path):
    with pytest.raises(ArtifactError, match="habitus advisor build"):
        open_graph(tmp_path)
    with pytest.raises(CutoffError):
        small.market.view(int(small.source.days[-1]) + 1)


def test_facts_know_where_they_stand(small):
    found = retrieve(small.store, small.day, small.view, str(small.source.customer_ids[3]), ONE)
    facts = Facts(found)
    assert facts.summary
    assert facts.trades
    assert set(facts.graph.values()) == {"customer", "market"}
    assert dt.date.fromisoformat(iso(found.day))
