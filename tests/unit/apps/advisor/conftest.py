"""A small generated market, its graphs, and one day of both."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from habitus.apps.advisor.graph import DayGraph, build_graph, cut_market, open_graph
from habitus.apps.advisor.market import Market, View
from habitus.apps.advisor.run import day_of
from habitus.data.sources.far_trans import FarTrans, read_far_trans
from habitus.data.sources.far_trans_world import write_far_trans_world

DAY = day_of("2021-12-02")


@dataclass(frozen=True)
class Small:
    folder: Path
    source: FarTrans
    market: Market
    view: View
    graph: Path
    store: Any
    day: DayGraph


@pytest.fixture(scope="package")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    folder = write_far_trans_world(tmp_path_factory.mktemp("world") / "market", n_customers=150)
    source = read_far_trans(folder)
    market = Market(source)
    graph = folder.parent / "graph"
    build_graph(source, graph)
    store, view = open_graph(graph), market.view(DAY)
    return Small(folder, source, market, view, graph, store, cut_market(store, view))
