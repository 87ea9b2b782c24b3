"""Logs of events that several benchmarks share: stores made once under runs/, and short training of small models."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from pathlib import Path

import polars as pl
import torch
from torch import nn

from habitus.core.seeds import derive
from habitus.data.ingest import ingest
from habitus.data.log import EventLog
from habitus.data.schema import Schema
from habitus.data.sources.event_worlds import RulesWorld, TailWorld, event_world
from habitus.data.sources.online_retail import FOLDER
from habitus.data.sources.stats_se import stats_se
from habitus.data.store import Store
from habitus.tokens.event_loader import EventLoader
from habitus.tokens.event_split import EventSplit
from habitus.training.objectives import Objective

DATA = Path(os.environ.get("HABITUS_DATA", Path(__file__).parents[2] / "shared" / "data"))
RUNS = Path(os.environ.get("HABITUS_RUNS", Path(__file__).parents[1] / "runs"))
SPLITS = {
    "tail": ("2023-01-25", "2023-01-26", "2023-01-31", "2023-02-01", "2023-12-31"),
    "tail_long": ("2023-01-25", "2023-01-26", "2023-01-31", "2023-02-01", "2023-12-31"),
    "tail_b": ("2023-01-25", "2023-01-26", "2023-01-31", "2023-02-01", "2023-12-31"),
    "journey": ("2017-08-31", "2017-09-01", "2017-10-15", "2017-10-16", "2017-12-31"),
    "departments": ("2017-08-31", "2017-09-01", "2017-10-15", "2017-10-16", "2017-12-31"),
    "retail": ("2011-08-31", "2011-09-01", "2011-10-09", "2011-10-10", "2011-12-08"),
}


def split_of(name: str) -> EventSplit:
    """Give the split of a log: train until a day, then validation, then test."""
    until, *days = SPLITS[name]
    return EventSplit.parse({"protocol": "time", "train_until": until, "valid": days[:2], "test": days[2:]})


def store_of(name: str) -> Store:
    """Open the store of a log, made at the first call.

    `tail`, `tail_b`: a `TailWorld` and its other domain. `journey`: lines of Complete Journey, type = product category.
    `departments`: the same lines, type = department, with the spend. `retail`: purchases of every third customer of
    Online Retail, type = stock code. `NAME_long` is the log NAME.
    """
    name = name.removesuffix("_long")
    path = RUNS / "robust" / f"{name}.store"
    if not path.is_dir():
        path.parent.mkdir(parents=True, exist_ok=True)
        makers = {"tail": _tail, "tail_b": _tail_b, "journey": _journey, "departments": _departments, "retail": _retail}
        ingest(makers[name](), path)
    return Store.open(path)


def generation_split(name: str) -> EventSplit:
    """Give the split of a log of `generation_log`: the test begins where futures begin."""
    until, *days = {
        "journey": ("2017-09-30", "2017-10-01", "2017-10-31", "2017-11-01", "2017-11-14"),
        "stats": ("2014-05-31", "2014-06-01", "2014-06-30", "2014-07-01", "2014-07-14"),
        "rules": ("2023-02-13", "2023-02-14", "2023-02-28", "2023-03-01", "2023-03-14"),
    }[name]
    return EventSplit.parse({"protocol": "time", "train_until": until, "valid": days[:2], "test": days[2:]})


def generation_log(name: str) -> Store:
    """Open the store of a log for futures, made at the first call.

    `journey`: lines of Complete Journey, type = department, amount = spend. `stats`: Stats.StackExchange. `rules`: a
    `RulesWorld`.
    """
    path = RUNS / "generate" / f"{name}.store"
    if not path.is_dir():
        path.parent.mkdir(parents=True, exist_ok=True)
        if name == "stats":
            log = stats_se(DATA / "stats_se")
        else:
            log = _departments() if name == "journey" else event_world(RulesWorld.parse({}))
        ingest(log, path)
    return Store.open(path)


def _departments() -> EventLog:
    folder = DATA / "complete_journey"
    lines, products = (pl.read_parquet(folder / f"{name}.parquet") for name in ("transactions", "products"))
    joined = lines.join(products, on="product_id", how="left", maintain_order="left")
    table = joined.select(
        user=pl.col("household_id").cast(pl.String),
        time=pl.col("transaction_timestamp"),
        type=pl.col("department").fill_null("none"),
        spend=pl.col("sales_value"),
    )
    events = {"user": "user", "time": "time", "type": "type", "amounts": {"spend": {"value": "spend", "unit": "USD"}}}
    return EventLog(Schema.parse({"name": "departments", "time_zone": "UTC", "events": events}), table)


def _tail() -> EventLog:
    return event_world(TailWorld.parse({}))


def _tail_b() -> EventLog:
    return event_world(TailWorld.parse({"domain": "b"}))


def _journey() -> EventLog:
    folder = DATA / "complete_journey"
    lines, products = (pl.read_parquet(folder / f"{name}.parquet") for name in ("transactions", "products"))
    joined = lines.join(products, on="product_id", how="left", maintain_order="left")
    table = joined.select(
        user=pl.col("household_id").cast(pl.String),
        time=pl.col("transaction_timestamp"),
        type=pl.col("product_category").fill_null("none"),
    )
    return EventLog(_schema("journey", "UTC"), table)


def _retail() -> EventLog:
    table = pl.read_parquet(FOLDER / "transactions.parquet").filter(
        pl.col("CustomerID").is_not_null() & (pl.col("Quantity") > 0)
    )
    user = pl.col("CustomerID").cast(pl.Int64)
    chosen = table.filter(user % 3 == 0).select(
        user=user.cast(pl.String), time=pl.col("InvoiceDate"), type=pl.col("StockCode").cast(pl.String)
    )
    return EventLog(_schema("retail", "Europe/London"), chosen)


def _schema(name: str, zone: str) -> Schema:
    events = {"user": "user", "time": "time", "type": "type"}
    return Schema.parse({"name": name, "time_zone": zone, "events": events})


def train(
    model: nn.Module,
    objective: Objective,
    loader: EventLoader,
    epochs: Iterable[int],
    *,
    lr: float = 2e-3,
    warm_up: float = 0.05,
    seed: int = 0,
) -> None:
    """Train in place: AdamW, warm-up, cosine to a tenth, clipping at 1. No validation: the length is given."""
    epochs = list(epochs)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95), fused=True)
    model.train()
    objective.train()
    total, step = 0, 0
    for epoch in epochs:
        loader.set_epoch(epoch)
        total += len(loader)
    for epoch in epochs:
        loader.set_epoch(epoch)
        for batch in loader:
            done = step / total
            rate = min(1.0, done / warm_up) if warm_up else 1.0
            rate *= 0.1 + 0.45 * (1 + math.cos(math.pi * done))
            for group in optimiser.param_groups:
                group["lr"] = lr * max(rate, 1e-3)
            torch.manual_seed(derive(seed, "step", step))
            optimiser.zero_grad(set_to_none=True)
            objective(model, batch).value.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            step += 1
            objective.after_step(step / total)
    model.eval()
