"""Tiny runs that are trained in seconds: a world with a sale and a mailing, and a small shop read event by event."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

WORLD: dict[str, Any] = {
    "n_users": 120,
    "n_days": 170,
    "new_share": 0.0,
    "event_types": [{"name": "purchase", "median": 20.0}],
    "user_types": [
        {"name": "often", "share": 0.5, "rates": {"purchase": 0.18}, "weekly": [1.0] * 7},
        {"name": "seldom", "share": 0.5, "rates": {"purchase": 0.07}, "weekly": [1.0] * 7},
    ],
    "planted": [
        {"type": "sale", "starts": [20, 41, 62, 83, 104, 125, 160], "length": 2, "rate": {"purchase": 1.8}},
        {"type": "mail", "starts": [30, 51, 72, 93, 114, 135, 164], "length": 2, "rate": {"purchase": 1.8},
         "audience": "randomised", "share": 0.4},
    ],
}  # fmt: skip
CUTOFF = "2023-06-06"
DAYS = """
name = "tiny_world"
store = "unused.store"
seeds = {seeds}
refit = false
[cutoffs]
horizon = 14
train = {{ first = 2023-02-05, last = 2023-04-19, every = 10 }}
valid = {{ first = 2023-05-05, last = 2023-05-17, every = 3 }}
test = {{ days = [2023-06-06] }}
[tokens]
history = 28
[[targets]]
name = "buy"
define = "any(purchase) in 14d"
per_day = true
[[targets]]
name = "spend"
define = "sum(spend of purchase) in 14d"
unit = "EUR"
[model]
name = "lumos"
size = "tiny"
d_model = 16
n_heads = 2
d_ff = 32
n_encoder = 1
d_profile = 8
[loader]
batch_size = 128
per_user = 0
[training]
epochs = 2
lr = 8e-3
loggers = []
[gate]
rows = ["base_rate", "recency_frequency"]
n_resamples = 100
"""
EVENTS = """
name = "tiny_shop"
store = "unused.store"
seeds = [0]
model = { name = "behavegpt", size = "tiny", n_blocks = 1, form = "joint" }
objective = { name = "joint", field = "type" }
tokens = { length = 16 }
loader = { tokens_per_batch = 512 }
training = { epochs = 1, lr = 3e-3, loggers = [] }
[split]
protocol = "time"
train_until = 2020-03-10
valid = [2020-03-11, 2020-03-31]
test = [2020-04-01, 2020-04-20]
"""
LIVES = """
name = "tiny_lives"
store = "unused.store"
interests = { way = "item" }
model = { name = "lurm", size = "tiny", scales = "1x3, 2x3, life" }
views = { batch_size = 16, held_out = 0.2 }
training = { epochs = 1 }
"""
SHOP: dict[str, Any] = {
    "name": "tiny_shop",
    "time_zone": "UTC",
    "events": {"user": "user", "time": "time", "type": "kind", "item": "item",
               "amounts": {"spend": {"value": "spend", "unit": "EUR"}}},
}  # fmt: skip


def tiny_day_run(folder: str | Path, *, seeds: tuple[int, ...] = (0, 1, 2)) -> Path:
    """Train a run of user-days in `folder`/days and evaluate it; `CUTOFF` is a good day to ask after."""
    from habitus.data.ingest import ingest
    from habitus.data.sources.simulator import World, simulated_log
    from habitus.tasks.evaluate import evaluate
    from habitus.tasks.train import train

    folder = Path(folder)
    store = ingest(simulated_log(World.parse(WORLD)), folder / "world.store")
    (folder / "days.toml").write_text(DAYS.format(seeds=list(seeds)), "utf-8")
    run = train(folder / "days.toml", out=folder / "days", store=store.path)
    evaluate(run.path)
    return run.path


def tiny_event_run(folder: str | Path, *, n_users: int = 30, seed: int = 0) -> Path:
    """Train a run of BehaveGPT of form joint in `folder`/events, which predicts and generates."""
    return _of_shop(Path(folder), "events", EVENTS, n_users, seed)


def tiny_life_run(folder: str | Path, *, n_users: int = 30, seed: int = 0) -> Path:
    """Train a run of LURM on the same shop in `folder`/lives, which embeds and finds look-alikes."""
    return _of_shop(Path(folder), "lives", LIVES, n_users, seed)


def _of_shop(folder: Path, name: str, recipe: str, n_users: int, seed: int) -> Path:
    from habitus.data.ingest import ingest
    from habitus.data.log import EventLog
    from habitus.data.schema import Schema
    from habitus.tasks.train import train

    draw, n = np.random.default_rng(seed), n_users * 40
    kind = draw.choice(["visit", "purchase"], n, p=[0.65, 0.35])
    table = pl.DataFrame(
        {
            "user": [f"u{u:03d}" for u in draw.integers(0, n_users, n)],
            "time": np.datetime64("2020-01-01", "us") + draw.integers(0, 120 * 1440, n).astype("timedelta64[m]"),
            "kind": kind,
            "item": [f"i{i}" for i in draw.integers(0, 20, n)],
            "spend": np.where(kind == "purchase", draw.lognormal(2, 1, n).round(2), 0.0),
        }
    )
    store = ingest(EventLog(Schema.parse(SHOP), table), folder / "shop.store")
    (folder / f"{name}.toml").write_text(recipe, "utf-8")
    return train(folder / f"{name}.toml", out=folder / name, store=store.path).path
