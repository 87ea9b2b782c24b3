"""Real logs and labels for the studies of whole-life vectors: one past cut-off each, labels after it or of profiles."""

from __future__ import annotations

import dataclasses
import datetime as dt
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from benchmarks._event_logs import DATA, RUNS
from habitus.data.calendar import to_day
from habitus.data.cutoffs import Samples, samples_at
from habitus.data.log import EventLog
from habitus.data.schema import Schema
from habitus.data.sources.complete_journey import complete_journey
from habitus.data.sources.movielens import SCHEMA
from habitus.data.sources.online_retail import online_retail
from habitus.data.store import Store
from habitus.data.targets import Target, measure
from habitus.tasks.ingest import ingest
from habitus.tokens.blocks import block_until
from habitus.tokens.counts import Counts, count_interests
from habitus.tokens.interests import InterestConfig, Interests, fit_interests

MOST_USERS = int(os.environ.get("HABITUS_MOST_USERS", "10000"))


@dataclass(frozen=True)
class Study:
    """A log with its interests counted, the users probed, and their labels (NaN: unknown)."""

    name: str
    store: Store
    interests: Interests
    counts: Counts
    users: np.ndarray
    day: int
    horizon: int
    scales: str
    labels: dict[str, np.ndarray]

    @property
    def block(self) -> int:
        return block_until(self.day, self.interests.block, self.interests.week_starts)


def study(name: str) -> Study | None:
    """Make a study; None, with the reason printed, where its files are absent."""
    folder = DATA / SOURCES.get(name, name)
    if name != "online_retail" and not folder.is_dir():
        print(f"  {name} skipped: no {folder.name} under HABITUS_DATA")
        return None
    return STUDIES[name]()


def opened(source: str, log: Callable[[], Any] | None = None) -> Store:
    """Open the store of a source under runs/, ingested at the first time."""
    path = RUNS / "lurm" / f"{source}.store"
    if path.is_dir():
        return Store.open(path)
    return ingest(source if log is None else log(), path, folder=None if log else DATA / source, replace=True)


def movies_log() -> EventLog:
    """MovieLens-100K from its RecBole tables, under the schema of the source."""
    folder = DATA / "ml_100k"
    ratings, films, people = (pl.read_parquet(folder / f"{name}.parquet") for name in ("ratings", "items", "users"))
    events = ratings.select(
        user=pl.col("user_id").cast(pl.String), item=pl.col("item_id").cast(pl.String),
        stars=pl.col("rating").cast(pl.Float64), time="timestamp",
    )  # fmt: skip
    titles = films.select(
        item="item_id", title="movie_title", year=pl.col("release_year").cast(pl.Float64, strict=False), genres="class"
    )
    age = pl.col("age").cast(pl.Float64)
    users = people.select("gender", "occupation", age=age, user="user_id", zip="zip_code")
    return EventLog(Schema.parse(SCHEMA), events, users, titles)


def journey_log() -> EventLog:
    """Complete Journey with the product's type beside its category."""
    log = complete_journey(DATA / "complete_journey")
    schema = log.schema.dump()
    schema["items"]["columns"]["product_type"] = {"column": "product_type", "kind": "category"}
    products = pl.read_parquet(DATA / "complete_journey" / "products.parquet")
    return dataclasses.replace(log, schema=Schema.parse(schema), items=products)


def _made(
    name: str,
    store: Store,
    config: dict,
    day: int,
    users: np.ndarray,
    labels: dict[str, np.ndarray],
    horizon: int = 28,
    scales: str = "1x13, 4x13, life",
) -> Study:
    if len(store.types) > 1 and config.get("fields") != ("type",):
        config["groups"] = tuple((kind,) for kind in store.types)
    interests = fit_interests(store, InterestConfig.parse(config), until=day, seed=0)
    counts = count_interests(store, interests)
    return Study(name, store, interests, counts, users, day, horizon, scales, labels)


def movies() -> Study:
    """MovieLens-100K: no life cycle (half of all users stay an hour), so the whole life only."""
    store = opened("ml_100k", movies_log)
    profiles = store.profiles
    assert profiles is not None
    labels = {
        "woman": (profiles["gender"] == "F").to_numpy(),
        "age >= 35": (profiles["age"] >= 35).to_numpy(),
        "student": (profiles["occupation"] == "student").to_numpy(),
    }
    users, labels = np.arange(store.n_users), {k: v.astype(float) for k, v in labels.items()}
    return _made("ml_100k", store, {"way": "item"}, store.last_day, users, labels, scales="life")


def journey(way: str = "field") -> Study:
    """Complete Journey: demographics of 801 households, and purchases of the four weeks after the cut-off."""
    store, day = opened("complete_journey", journey_log), to_day(dt.date(2017, 12, 3))
    users = samples_at(store, np.array([day], np.int32)).user
    profiles = store.profiles
    assert profiles is not None
    assert store.item_table is not None
    known = profiles["age"].is_not_null().to_numpy()
    kids = profiles["kids_count"].is_not_null() & (profiles["kids_count"] != "0")
    older = profiles["age"].cast(pl.String).is_in(["55-64", "65+"]).fill_null(False)
    alone = profiles["household_comp"].cast(pl.String).fill_null("") == "1 Adult No Kids"
    labels = {
        name: np.where(known, mask.fill_null(False).to_numpy(), np.nan)[users]
        for name, mask in (("kids", kids), ("age >= 55", older), ("lives alone", alone))
    }
    category = store.item_table["product_category"].fill_null("none")
    wanted = category.to_frame("c").group_by("c").len().filter(pl.col("c") != "none").sort("len", descending=True)["c"]
    found = 0
    for name in wanted:
        bought = _bought(store, users, day, 28, (category == name).to_numpy())
        if 0.08 < bought.mean() < 0.5:
            labels[f"buys {name.lower()}"] = bought.astype(float)
            found += 1
        if found == 4:
            break
    config = {"way": "item"} if way == "item" else {"way": "field", "fields": ("product_type",)}
    return _made("complete_journey", store, config, day, users, labels, scales="1x13, 4x13, life")


def journey_items() -> Study:
    """The same with each product as its own interest: the grain matters."""
    return journey("item")


def retail() -> Study:
    """Online Retail: a purchase, or a cancellation, in the four weeks after the cut-off."""
    store, day = opened("online_retail", lambda: online_retail()), to_day(dt.date(2011, 11, 10))
    users = samples_at(store, np.array([day], np.int32), ("any(purchase)",)).user
    labels = _targets(store, users, day, {"buys again": "any(purchase)", "cancels": "any(cancellation)"}, 28)
    return _made("online_retail", store, {"way": "item"}, day, users, labels)


def courses() -> Study:
    """OULAD, run 2014J at one date of the term: who withdraws within twelve weeks, who hands in within four."""
    store, day = opened("oulad"), to_day(dt.date(2014, 11, 30))
    users = samples_at(store, np.array([day], np.int32), ("none(unregister)",)).user
    users = users[(store.labels["run"] == "2014J").to_numpy()[users]]
    labels = _targets(store, users, day, {"withdraws": "any(unregister)"}, 84)
    labels |= _targets(store, users, day, {"hands in": "any(submit)"}, 28)
    chosen = {"way": "item"}
    return _made("oulad", store, chosen, day, users, labels, horizon=28)


def posts() -> Study:
    """Stats.StackExchange: a handful of event types and no item, a negative control for interests."""
    store, day = opened("stats_se"), to_day(dt.date(2014, 8, 10))
    users = samples_at(store, np.array([day], np.int32)).user
    users = np.sort(np.random.default_rng(0).permutation(users)[:MOST_USERS])
    labels = _targets(store, users, day, {"posts": "any(question | answer)", "badge": "any(badge)"}, 28)
    return _made("stats_se", store, {"way": "field", "fields": ("type",)}, day, users, labels)


STUDIES: dict[str, Callable[[], Study]] = {
    "ml_100k": movies,
    "complete_journey": journey,
    "complete_journey_items": journey_items,
    "online_retail": retail,
    "oulad": courses,
    "stats_se": posts,
}
SOURCES = {"complete_journey_items": "complete_journey"}


def _targets(store: Store, users: np.ndarray, day: int, wanted: dict[str, str], horizon: int) -> dict[str, np.ndarray]:
    parsed = tuple(Target.parse(f"{text} in {horizon}d", name=name) for name, text in wanted.items())
    found = measure(parsed, store, Samples(users, np.full(len(users), day, np.int32)))
    assert found.is_observed.all()
    return {target.name: (found.value[:, k] > 0).astype(float) for k, target in enumerate(parsed)}


def _bought(store: Store, users: np.ndarray, day: int, horizon: int, is_wanted: np.ndarray) -> np.ndarray:
    """Say of each user whether an item of the mask comes in the days after the cut-off."""
    bought = np.zeros(store.n_users, bool)
    for i in range(store.n_shards):
        shard = store.shard(i)
        rows = np.flatnonzero((shard.day > day) & (shard.day <= day + horizon) & (shard.item >= 0))
        rows = rows[is_wanted[shard.item[rows]]]
        bought[shard.first_user + np.searchsorted(shard.offsets, rows, side="right") - 1] = True
    return bought[users]
