"""Learning interests: kinds of items that go together share one, and a new item joins its kind by content alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from habitus.core.errors import ConfigError
from habitus.data.ingest import ingest
from habitus.data.log import EventLog
from habitus.data.schema import Schema
from habitus.data.store import Store
from habitus.tasks.interests import learn_interests, learn_vectors
from habitus.tokens.counts import count_interests
from habitus.tokens.interest_lookup import items_on
from habitus.tokens.interests import InterestConfig, Interests, TowerConfig, fit_interests
from habitus.training.item_pairs import pair_loss

SCHEMA = Schema.parse(
    {
        "events": {"user": "u", "time": "t", "type": {"constant": "buy"}, "item": "i"},
        "items": {
            "from": "table", "key": "i",
            "columns": {"title": {"column": "title", "kind": "text"}, "price": {"column": "price", "kind": "number"}},
        },
    }
)  # fmt: skip
KINDS, EACH = ("tea", "bolt", "sock", "lamp"), 12
TOWER = TowerConfig(d=16, title_buckets=256, price_bins=4, batch=256, steps=120, thin=0.5, lr=1e-2)
CONFIG = InterestConfig(way="cluster", n=4, tower=TOWER)
UNTIL = 18262 + 27


@contextmanager
def torch_alone() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def items() -> pl.DataFrame:
    draw = np.random.default_rng(1)
    rows: list[tuple] = [(f"{kind}{i}", f"{kind} no {i}", 1.0 + k) for k, kind in enumerate(KINDS) for i in range(EACH)]
    rows.append(("blank", None, None))
    order = draw.permutation(len(rows))
    return pl.DataFrame([rows[i] for i in order], schema=["i", "title", "price"], orient="row")


def log(seed: int = 0, n_users: int = 80, n_days: int = 40) -> pl.DataFrame:
    """Every user buys of one kind, nine times in ten; the last two items of each kind are sold after train."""
    draw = np.random.default_rng(seed)
    n = n_users * 30
    day = np.sort(draw.integers(0, n_days, n))
    user = draw.integers(0, n_users, n)
    kind = np.where(draw.random(n) < 0.1, draw.integers(0, 4, n), user % 4)
    sold = np.where(day <= 27, EACH - 2, EACH)
    item = [f"{KINDS[k]}{i}" for k, i in zip(kind, draw.integers(0, sold))]
    item = ["blank" if draw.random() < 0.01 and d > 30 else i for i, d in zip(item, day)]
    times = np.datetime64("2020-01-01", "us") + day * np.timedelta64(86_400_000_000, "us")
    return pl.DataFrame({"u": [f"u{u}" for u in user], "t": times, "i": item}).sort("u", "t")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return ingest(EventLog(SCHEMA, log(), items=items()), tmp_path_factory.mktemp("items") / "s", n_shards=2)


@pytest.fixture(scope="module")
def interests(store: Store) -> Interests:
    with torch_alone():
        return learn_interests(store, CONFIG, until=UNTIL, seed=0)


def test_items_of_a_kind_share_an_interest_new_ones_too(store: Store, interests: Interests):
    of = dict(zip(interests.item_ids, interests.of_item.tolist(), strict=True))
    for kind in KINDS:
        assert len({of[f"{kind}{i}"] for i in range(EACH)}) == 1, kind  # the last two were never met in train
    assert len(set(of.values())) == 5
    assert of["blank"] == 0
    assert interests.figures["tower_last_loss"] < interests.figures["tower_first_loss"] - 0.3


def test_another_store_asks_the_frozen_weights(store: Store, interests: Interests, tmp_path: Path):
    interests.save(tmp_path / "i")
    frozen = Interests.load(tmp_path / "i")
    fresh = pl.DataFrame({"item": ["tea99", "sock3", "odd"], "title": ["Tea, no 99", None, None],
                          "price": [1.0, None, None]})  # fmt: skip
    of = dict(zip(interests.item_ids, interests.of_item.tolist(), strict=True))
    assert items_on(frozen, fresh["item"].to_list(), fresh).tolist() == [of["tea0"], of["sock3"], 0]
    counts = count_interests(store, frozen)
    assert counts.n.sum() == store.n_events
    assert 0 < counts.n[counts.interest == 0].sum() < store.n_events / 50


def test_the_future_changes_nothing(interests: Interests, tmp_path: Path):
    other = pl.concat(
        [log().filter(pl.col("t") < pl.date(2020, 1, 29)), log(seed=5).filter(pl.col("t") >= pl.date(2020, 1, 29))]
    )
    store = ingest(EventLog(SCHEMA, other, items=items()), tmp_path / "s", n_shards=2)
    with torch_alone():
        again = learn_interests(store, CONFIG, until=UNTIL, seed=0)
    np.testing.assert_array_equal(again.idf, interests.idf)
    mine, theirs = (dict(zip(i.item_ids, i.of_item.tolist(), strict=True)) for i in (interests, again))
    shared = set(mine) & set(theirs)
    assert len(shared) > 40
    assert all(mine[item] == theirs[item] for item in shared)


def test_permuted_items_give_the_same_clusters(store: Store, tmp_path: Path):
    """Centres and assignment depend on vectors and ids, not on codes, which follow the order of first events."""
    with torch_alone():
        vectors, encoder, _ = learn_vectors(store, CONFIG, until=UNTIL)
    is_past = pl.col("t") < pl.date(2020, 1, 29)
    turned = pl.lit(np.datetime64("2020-01-28", "us")) - (pl.col("t") - pl.lit(np.datetime64("2020-01-01", "us")))
    rows = log().with_columns(t=pl.when(is_past).then(turned).otherwise("t"))
    other = ingest(EventLog(SCHEMA, rows, items=items()), tmp_path / "s")
    assert store.items is not None
    assert other.items is not None
    assert other.items != store.items
    place = [store.items.index(item) for item in other.items]
    a = fit_interests(store, CONFIG, until=UNTIL, vectors=vectors, content=encoder)
    b = fit_interests(other, CONFIG, until=UNTIL, vectors=vectors[place], content=encoder)
    np.testing.assert_array_equal(a.of_item[place], b.of_item)
    np.testing.assert_array_equal(a.idf, b.idf)
    assert a.version == b.version
    with pytest.raises(ConfigError, match="learn_interests"):
        fit_interests(store, CONFIG, until=UNTIL)


def test_pair_loss_is_the_written_out_softmax():
    draw = torch.Generator().manual_seed(0)
    a, b = (torch.nn.functional.normalize(torch.randn(5, 3, generator=draw), dim=-1) for _ in range(2))
    left, right = torch.tensor([0, 1, 2, 3, 0]), torch.tensor([4, 5, 6, 5, 7])
    log_q = torch.linspace(-3, -1, 8)
    sides, kept = [], []

    def is_blocked(i: int, k: int) -> bool:
        return bool(left[i] == left[k] or right[i] == right[k] or left[i] == right[k] or left[k] == right[i])

    for x, y, other in ((a, b, right), (b, a, left)):
        total = 0.0
        for i in range(5):
            scores = [x[i] @ y[k] / 0.1 - log_q[other[k]] for k in range(5)]
            kept = [
                k for k in range(5) if k == i or not ({int(left[k]), int(right[k])} & {int(left[i]), int(right[i])})
            ]
            total += float(torch.logsumexp(torch.stack([scores[k] for k in kept]), 0) - scores[i])
        assert len(kept) < 5
        sides.append(total / 5)
    assert float(pair_loss(a, b, left, right, log_q, 0.1)) == pytest.approx(np.mean(sides), rel=1e-5)
