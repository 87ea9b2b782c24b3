"""The baselines on a market in which taste is plain: four groups of assets, and customers who stay in one."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from habitus.apps.advisor.baselines import Baselines, fit_hybrid, price_models, user_knn
from habitus.apps.advisor.market import Market, View
from habitus.apps.advisor.protocol import top
from habitus.data.sources.far_trans import FarTrans
from habitus.testing.threads import one_thread

__all__ = ["one_thread"]
N_GROUPS, SIZE, N_CUSTOMERS, N_DAYS = 4, 5, 80, 600
N_ASSETS = N_GROUPS * SIZE
CLOSED = 3


def made(seed: int = 0) -> FarTrans:
    """Prices rise faster the larger an asset's place within its group; asset 3 loses its price after day 300."""
    rng = np.random.default_rng(seed)
    days = np.arange(17_000, 17_000 + N_DAYS, dtype=np.int32)
    drift = np.tile(np.linspace(-0.002, 0.002, SIZE), N_GROUPS)
    close = np.exp(np.cumsum(drift + rng.normal(0, 0.004, (N_DAYS, N_ASSETS)), axis=0)).astype(np.float32) * 10
    close[300:, CLOSED] = np.nan
    n = N_CUSTOMERS * 12
    customer = np.sort(np.arange(n) % N_CUSTOMERS)
    asset = (customer % N_GROUPS) * SIZE + rng.integers(0, SIZE, n)
    day = np.sort(rng.integers(0, N_DAYS, (N_CUSTOMERS, 12)), axis=1).ravel() + 17_000
    names = {name: [f"{name}{code // SIZE}" for code in range(N_ASSETS)] for name in ("sector", "industry")}
    table = pl.DataFrame({"name": [f"asset {code}" for code in range(N_ASSETS)], "category": ["Stock"] * N_ASSETS,
                          "sub_category": [""] * N_ASSETS, "market": [""] * N_ASSETS} | names)  # fmt: skip
    people = pl.DataFrame({"customer": np.arange(N_CUSTOMERS), "type": "Mass", "risk": "Income", "capacity": "",
                           "asked": 17_000, "since": 17_000})  # fmt: skip
    return FarTrans(
        people, np.array([f"C{code:03}" for code in range(N_CUSTOMERS)]),
        np.array([f"AA{code:010}" for code in range(N_ASSETS)]), table, days, close, customer, asset, day,
        np.ones(n, bool), np.full(n, 100.0), np.full(n, 1.0), np.array(["web"] * n),
        np.arange(n).astype(str),
    )  # fmt: skip


@pytest.fixture(scope="module")
def market() -> Market:
    return Market(made())


@pytest.fixture(scope="module")
def view(market: Market) -> View:
    return market.view(17_450)


@pytest.fixture(scope="module")
def scores(market: Market, view: View) -> dict[str, np.ndarray]:
    pytest.importorskip("implicit", reason="needs the extra [recsys]")
    return Baselines(market).scores(view, view.trades(np.arange(N_CUSTOMERS)))


@pytest.mark.parametrize("name", ["item kNN", "user kNN", "association rules", "MF-BPR", "LightGCN"])
def test_what_neighbours_bought_leads_to_ones_own_group(name: str, scores: dict[str, np.ndarray]) -> None:
    found = top(scores[name], SIZE)
    share = (found // SIZE == (np.arange(N_CUSTOMERS) % N_GROUPS)[:, None]).mean()
    assert share > 0.9, share
    popular = (top(scores["popularity"], SIZE) // SIZE == (np.arange(N_CUSTOMERS) % N_GROUPS)[:, None]).mean()
    assert popular == pytest.approx(0.25)


def test_every_row_scores_every_asset(scores: dict[str, np.ndarray]) -> None:
    assert {"random", "popularity", "popularity 180", "holdings, popularity", "prices, linear", "prices, forest",
            "prices, LightGBM", "item kNN", "user kNN", "MF-BPR", "LightGCN",
            "association rules"} <= set(scores)  # fmt: skip
    assert {values.shape for values in scores.values()} == {(N_CUSTOMERS, N_ASSETS)}
    assert all(np.isfinite(values).all() for values in scores.values())


def test_popularity_is_the_count_of_buys_up_to_the_day(
    market: Market, view: View, scores: dict[str, np.ndarray]
) -> None:
    source = market.source
    for name, since in (("popularity", 0), ("popularity 180", 17_450 - 179)):
        inside = (source.day <= 17_450) & (source.day >= since)
        np.testing.assert_array_equal(scores[name][0], np.bincount(source.asset[inside], minlength=N_ASSETS))


def test_holdings_come_latest_first_before_the_crowd(market: Market, view: View, scores: dict[str, np.ndarray]) -> None:
    source = market.source
    own = np.flatnonzero((source.customer == 7) & (source.day <= view.day))
    latest = list(dict.fromkeys(source.asset[own[np.argsort(-source.day[own], kind="stable")]].tolist()))
    row = scores["holdings, popularity"][7]
    by_score = np.argsort(-row, kind="stable")[: len(latest)]
    assert set(by_score.tolist()) == set(latest)
    assert by_score[0] == latest[0]


@pytest.mark.parametrize("name", ["prices, linear", "prices, forest", "prices, LightGBM"])
def test_regressors_find_what_keeps_rising(name: str, scores: dict[str, np.ndarray], view: View) -> None:
    row = scores[name][0]
    place = np.arange(N_ASSETS) % SIZE
    assert np.corrcoef(row[view.is_open], place[view.is_open])[0, 1] > 0.8


def test_rows_after_the_day_change_nothing(view: View, scores: dict[str, np.ndarray]) -> None:
    source = made()
    late, after = source.day > view.day, source.days > view.day
    source.asset[late] = (source.asset[late] + 7) % N_ASSETS
    source.close[after] *= 3
    again = Baselines(Market(source)).scores(Market(source).view(view.day), view.trades(np.arange(N_CUSTOMERS)))
    for name, values in scores.items():
        np.testing.assert_array_equal(again[name], values, err_msg=name)


def test_a_customer_is_not_its_own_neighbour() -> None:
    import scipy.sparse as sp

    bought: Any = sp.csr_matrix(np.array([[1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 1]], np.float32))
    found = user_knn(bought, bought, k=1)
    np.testing.assert_allclose(found[0], [0.5, 0, 0.5, 0], atol=1e-6)  # of customer 1, cosine 1/2


def test_a_young_market_gives_no_price_model(market: Market) -> None:
    found = price_models(market.view(17_150), 0)
    assert all((values == 0).all() for values in found.values())


def test_the_hybrid_learns_which_score_to_trust(market: Market, view: View, scores: dict[str, np.ndarray]) -> None:
    rng = np.random.default_rng(1)
    people = np.arange(N_CUSTOMERS)
    label = scores["item kNN"] + rng.normal(0, 0.05, scores["item kNN"].shape) > np.quantile(scores["item kNN"], 0.8)
    score = fit_hybrid([(scores, label, view.is_open)], 0)
    later = market.view(17_550)
    fresh = Baselines(market).scores(later, later.trades(people))
    found = score(fresh)
    assert found.shape == (N_CUSTOMERS, N_ASSETS)
    share = (top(found, SIZE) // SIZE == (people % N_GROUPS)[:, None]).mean()
    assert share > 0.9, share
