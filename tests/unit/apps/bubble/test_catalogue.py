"""How a store becomes a catalogue and a history, and what is held back from whom."""

import numpy as np
import polars as pl
import pytest

from habitus.apps.bubble.catalogue import Catalogue, Likes, LogConfig, read_log
from habitus.core.errors import ConfigError
from habitus.data.ingest import ingest
from habitus.data.log import EventLog
from habitus.data.schema import Schema

SCHEMA = {
    "name": "films",
    "time_zone": "UTC",
    "events": {"user": "u", "time": "t", "type": {"constant": "rating"}, "item": "i",
               "amounts": {"stars": {"value": "stars", "unit": "stars"}}},
    "items": {"from": "table", "key": "i", "columns": {"genres": {"column": "genres", "kind": "text"}}},
}  # fmt: skip


def films(tmp_path, name="films"):
    rng = np.random.default_rng(0)
    rows = pl.DataFrame({
        "u": [f"u{u}" for u in range(6) for _ in range(12)],
        "t": [f"2024-01-{d + 1:02d}" for _ in range(6) for d in range(12)],
        "i": [f"f{i}" for _ in range(6) for i in rng.permutation(15)[:12]],
        "stars": rng.integers(2, 6, 72).astype(float),
    })  # fmt: skip
    items = pl.DataFrame({
        "i": [f"f{i}" for i in range(15)],
        "genres": [("Drama|War", "Comedy", None, "unknown", "Drama")[i % 5] for i in range(15)],
    })  # fmt: skip
    return ingest(EventLog(Schema.parse(SCHEMA), rows, items=items), tmp_path / f"{name}.store")


CONFIG = LogConfig.parse(
    {"amount": "stars", "at_least": 4, "column": "genres", "dropped": ("unknown",), "min_likes": 2}
)


def test_categories_are_shares_and_items_without_any_have_the_mean(tmp_path):
    catalogue, _ = read_log(films(tmp_path), CONFIG)
    assert catalogue.categories == ("Comedy", "Drama", "War")
    row = dict(zip(catalogue.items, catalogue.share.tolist()))
    assert row["f0"] == [0, 0.5, 0.5]
    assert row["f1"] == [1, 0, 0]
    mean = np.mean([row[f"f{i}"] for i in range(15) if i % 5 in (0, 1, 4)], axis=0)
    assert row["f2"] == pytest.approx(mean)
    assert row["f3"] == pytest.approx(mean)


def test_later_likes_are_the_last_fifth_and_in_no_other_part(tmp_path):
    catalogue, history = read_log(films(tmp_path), CONFIG)
    n_items = catalogue.n_items
    for user in range(len(history.users)):
        parts = [part.item[part.user == user] for part in (history.train, history.held, history.seen)]
        n = len(parts[0]) + len(parts[1])
        assert len(parts[0]) == min(int(np.ceil(0.8 * n)), n - 1)
        assert not set(parts[1]) & set(parts[2])
        assert set(parts[0]) <= set(parts[2])
    rated = {(u, i) for u, i, _ in zip(*history.rated)} | {(u, i) for u, i, _ in zip(*history.rated_later)}
    assert len(rated) == 72
    assert n_items == 15


def test_what_the_store_lacks_is_named(tmp_path):
    store = films(tmp_path)
    with pytest.raises(ConfigError, match="genres"):
        read_log(store, CONFIG.model_copy(update={"column": "genre"}))
    with pytest.raises(ConfigError, match="did you mean 'stars'"):
        read_log(store, CONFIG.model_copy(update={"amount": "star"}))
    with pytest.raises(ConfigError, match="rating"):
        read_log(store, CONFIG.model_copy(update={"types": ("ratings",)}))
    with pytest.raises(ConfigError, match="not both"):
        LogConfig.parse({"column": "genres", "interests": 4})


def test_new_likes_stand_at_the_end_of_their_user():
    likes = Likes.of(np.array([0, 2, 0]), np.array([5, 6, 7]), 3, 9)
    more = likes.plus(np.array([2, 0]), np.array([1, 2]))
    assert more.item.tolist() == [5, 7, 2, 6, 1]
    assert more.offsets.tolist() == [0, 3, 3, 5]
    assert more.take(np.array([2, 1, 2])).item.tolist() == [6, 1, 6, 1]
    items, size = more.last(2)
    assert items.tolist() == [[7, 2], [-1, -1], [6, 1]]
    assert size.tolist() == [2, 0, 2]


def test_a_catalogue_without_any_category_is_even():
    found = Catalogue.of(("a",), ("x", "y"), np.zeros((1, 2)))
    assert found.share.tolist() == [[0.5, 0.5]]
