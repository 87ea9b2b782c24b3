"""Citations are looked up, and taken away: what is invented, of another asset or without weight is seen."""

from __future__ import annotations

from dataclasses import replace

import lightgbm as lgb
import numpy as np
import pytest

from habitus.apps.advisor.advise import Advisor
from habitus.apps.advisor.buy import Buy
from habitus.apps.advisor.explain import Citation
from habitus.apps.advisor.faithful import check_answer
from habitus.apps.advisor.features import NAMES
from habitus.apps.advisor.rank import Ranker, RankerConfig
from habitus.apps.advisor.rise import Rise
from habitus.apps.advisor.run import AdvisorRecipe, Run
from habitus.apps.advisor.select import RetrievalConfig


@pytest.fixture(scope="module")
def advisor(small) -> Advisor:
    """A ranker that reads two things: how often others bought an asset, and the customer's own trades of it."""
    rng = np.random.default_rng(0)
    x = np.zeros((600, len(NAMES)))
    x[:, NAMES.index("buys180")] = rng.integers(0, 40, 600)
    x[:, NAMES.index("own_score")] = rng.choice([0.0, 3.0], 600)
    y = x[:, NAMES.index("buys180")] + 10 * x[:, NAMES.index("own_score")] > 30
    options = {"objective": "binary", "num_leaves": 4, "verbosity": -1, "num_threads": 1, "min_data_in_leaf": 5}
    booster = lgb.train(options, lgb.Dataset(x, y.astype(int), feature_name=list(NAMES)), 10)
    buy = Buy(booster, np.array([0.0, 1.0, 0.0]), -5.0)
    ranker = Ranker(buy, Rise(np.array([0.3]), np.zeros(1)), RankerConfig.parse({}), RetrievalConfig.parse({}))
    return Advisor(
        Run(
            small.folder, AdvisorRecipe.parse({"name": "x"}), small.folder, small.graph, small.market, {"multi": ranker}
        )
    )


def busy(small) -> str:
    return str(small.source.customer_ids[int(np.argmax(np.diff(small.source.offsets)))])


def test_every_citation_of_an_answer_holds(advisor, small):
    for customer in (busy(small), str(small.source.customer_ids[3])):
        answer, found = advisor.advise(customer, small.view.day, k=5)
        checks = check_answer(advisor, answer, found)
        assert len(checks) == 5
        assert sum(each.cited for each in checks) >= 5
        for each in checks:
            assert each.cited == each.in_graph == each.dated
            assert each.of_asset + each.of_customer == each.cited
        assert checks == check_answer(advisor, answer, found)


def test_what_is_cited_carries_the_score_and_the_rest_does_not(advisor, small):
    answer, found = advisor.advise(busy(small), small.view.day, k=5)
    for check in check_answer(advisor, answer, found):
        assert check.moved > 1
        assert check.moved_other == 0  # this ranker reads nothing but what was cited


def test_what_is_invented_or_of_another_asset_is_seen(advisor, small):
    answer, found = advisor.advise(busy(small), small.view.day, k=2)
    first, second = answer.assets
    assert first.citations
    assert second.citations
    invented = replace(first.citations[0], object="2099-01-01")
    other = next(each for each in second.citations if second.isin in each.subject + each.object)
    nowhere = Citation("isin:XX0000000000", "h:sector", "Steel", "market", "It is of a sector.")
    forged = replace(answer, assets=[replace(first, citations=[invented, other, nowhere])])
    check = check_answer(advisor, forged, found)[0]
    assert check.cited == 3
    assert check.in_graph == 1
    assert check.of_asset <= 1


def test_suitability_warns_filters_or_is_off(advisor, small):
    known = small.source.profile_at(small.view.day)["risk"].fill_null("").to_numpy()
    customer = str(small.source.customer_ids[int(np.flatnonzero(known == "Conservative")[0])])
    warned, _ = advisor.advise(customer, small.view.day, k=10)
    assert warned.declared == "Conservative"
    assert any(each.fits is False for each in warned.assets)
    filtered, _ = advisor.advise(customer, small.view.day, k=10, suitability="filter")
    assert all(each.fits for each in filtered.assets)
    kept = [each.isin for each in warned.assets if each.fits]
    assert [each.isin for each in filtered.assets][: len(kept)] == kept
    off, _ = advisor.advise(customer, small.view.day, k=10, suitability="off")
    assert off.declared == ""
    assert [each.isin for each in off.assets] == [each.isin for each in warned.assets]
