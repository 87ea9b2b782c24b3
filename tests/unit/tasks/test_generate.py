"""Generate: what is written, that a killed call goes on to the same file, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
import torch

from habitus.core.errors import ConfigError, CutoffError, DiskError
from habitus.data.calendar import to_day
from habitus.data.ingest import ingest
from habitus.data.log import EventLog
from habitus.data.schema import Schema
from habitus.data.store import Store
from habitus.models.behavegpt import BehaveGPT, BehaveGPTConfig
from habitus.tasks import generate as module
from habitus.tasks.answer_events import Asked
from habitus.tasks.by_shard import day_asked
from habitus.tasks.constraints import ConstraintConfig
from habitus.tasks.generate import Futures, _check_fields, _constraints, _digest, _users, write_futures
from habitus.tasks.rollout import DrawConfig, Zone
from habitus.testing.threads import one_thread
from habitus.tokens.event_requests import request_inputs
from habitus.tokens.event_split import EventSplit
from habitus.tokens.events import EventTokenConfig, fit_event_spec

__all__ = ["one_thread"]

CUTOFF = to_day("2024-03-20")


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    draw = np.random.default_rng(0)
    n = 900
    seconds = np.sort(draw.integers(0, 90 * 86_400, n))
    table = pl.DataFrame(
        {
            "user": draw.integers(0, 25, n),
            "time": (np.datetime64("2024-01-01T00:00:00") + seconds).astype("datetime64[us]"),
            "kind": draw.choice(["visit", "purchase", "help"], n),
            "item": draw.integers(0, 9, n).astype(str),
            "spend": np.where(draw.random(n) < 0.4, draw.lognormal(2, 1, n), np.nan),
        }
    )
    parts = {"user": "user", "time": "time", "type": "kind", "item": "item"}
    schema = {"time_zone": "Europe/London", "events": {**parts, "amounts": {"spend": {"value": "spend"}}}}
    return ingest(EventLog(Schema.parse(schema), table), tmp_path_factory.mktemp("shop") / "store")


@pytest.fixture(scope="module")
def futures(store) -> Futures:
    days = {"train_until": "2024-02-28", "valid": ["2024-03-01", "2024-03-10"], "test": ["2024-03-11", "2024-03-20"]}
    tokens = EventTokenConfig(length=16, n_gap_bins=16, n_amount_bins=4)
    spec = fit_event_spec(store, tokens, EventSplit.parse({"protocol": "time", **days}))
    model = BehaveGPT(BehaveGPTConfig(size="tiny", n_blocks=1), spec.shape).eval()
    with torch.no_grad():
        model.chain["of_gap"].head.out.bias.add_(8.0)  # users come back
    return Futures(model, spec, store, _users(store, None, CUTOFF), CUTOFF, 7, 2, DrawConfig(max_events=40))


def test_events_are_of_the_horizon_with_the_users_own_words(futures, tmp_path):
    out = tmp_path / "g.parquet"
    facts = write_futures(futures, out, {"as_of": "2024-03-20"})
    table, rows = pl.read_parquet(out), pl.read_parquet(tmp_path / "g.users.parquet")
    assert table.columns == ["user", "sample", "event", "time", "type", "item", "spend"]
    assert set(table["type"]) == {"visit", "purchase", "help"}
    assert set(table["item"]) == {str(i) for i in range(9)}
    local = table["time"].dt.convert_time_zone("Europe/London").dt.date()
    assert str(local.min()) >= "2024-03-21"
    assert str(local.max()) <= "2024-03-27"
    assert 0.1 < table["spend"].is_null().mean() < 0.9
    assert rows.height == facts["n_rows"] == 2 * len(futures.users)
    assert rows["n_events"].sum() == table.height == facts["n_events"] > 100
    counted = table.group_by("user", "sample").len().sort("user", "sample")
    assert counted["len"].to_list() == rows.filter(pl.col("n_events") > 0).sort("user", "sample")["n_events"].to_list()
    assert json.loads((tmp_path / "g.manifest.json").read_text())["n_events"] == table.height
    assert not (tmp_path / "g.parquet.parts").exists()


def test_a_killed_call_goes_on_to_the_same_file(futures, tmp_path, monkeypatch):
    monkeypatch.setattr(Futures, "chunks", lambda self: [(k, min(k + 10, len(self.users))) for k in (0, 10, 20)])
    write_futures(futures, tmp_path / "whole.parquet", {"a": 1})
    n_calls, whole_part = [], module._write_part

    def killed(*arguments):
        n_calls.append(1)
        if len(n_calls) == 2:
            raise KeyboardInterrupt
        whole_part(*arguments)

    monkeypatch.setattr(module, "_write_part", killed)
    out = tmp_path / "again.parquet"
    with pytest.raises(KeyboardInterrupt):
        write_futures(futures, out, {"a": 1})
    assert not out.exists()
    with pytest.raises(DiskError, match="parts of this generation"):
        write_futures(futures, out, {"a": 2})
    write_futures(futures, out, {"a": 1})
    assert len(n_calls) == 4  # the first part was not drawn again
    assert pl.read_parquet(out).equals(pl.read_parquet(tmp_path / "whole.parquet"))
    with pytest.raises(DiskError, match="a new path"):
        write_futures(futures, out, {"a": 1})


def test_the_clock_is_that_of_the_tokens(futures):
    time = np.arange(1_700_000_000, 1_740_000_000, 97_531)
    weekday, slot = futures.spec.clock(time)
    zone = Zone(futures.spec.zone)
    assert np.array_equal(zone.ids("weekday", time), weekday)
    assert np.array_equal(zone.ids("slot", time), slot)


def test_constraints_are_named_in_the_logs_own_words(futures, tmp_path):
    never = tmp_path / "never.csv"
    never.write_text("field,value,user,since\nitem,3,,\ntype,help,4,2024-03-23\n")
    rules = _constraints(ConstraintConfig(never=never, max_per_day=3), futures.spec, futures.store)
    held = Futures(**{**vars(futures), "constraints": rules})
    events, _, rolled = held.draw(0, len(held.users))
    assert "3" not in set(events["item"])
    late = pl.col("time") >= pl.lit("2024-03-23").str.to_datetime(time_unit="us", time_zone="UTC")
    of_four = events.filter((pl.col("user").cast(pl.String) == "4") & late)
    assert of_four.height > 0
    assert "help" not in set(of_four["type"])
    assert rolled.masked["item"][0] > 0


def test_new_users_get_the_futures_of_a_user_of_the_store_with_that_past(futures, store):
    names = store.users["user"].cast(pl.String)
    rows = []
    for i in range(store.n_shards):
        shard = store.shard(i)
        user = np.repeat(np.arange(shard.n_users), np.diff(shard.offsets)) + shard.first_user
        kept = shard.day <= CUTOFF
        rows.append(
            pl.DataFrame(
                {
                    "user": names.gather(pl.Series(user[kept])),
                    "time": pl.Series(shard.time[kept]).cast(pl.Datetime("us", "UTC")),
                    "type": pl.Series(store.types).gather(pl.Series(shard.type[kept])),
                    "item": pl.Series(store.items).gather(pl.Series(shard.item[kept])),
                    "spend": shard.amounts["spend"][kept],
                }
            )
        )
    table = pl.concat(rows)
    inputs, owners = request_inputs(futures.spec, table)
    asked = Asked(None, futures.spec, inputs, owners, None)
    new = Futures(**{**vars(futures), "asked": asked, "users": np.arange(len(owners))})
    mine, theirs = new.draw(0, len(owners))[0], futures.draw(0, len(futures.users))[0]
    order = ["user", "sample", "event"]
    mine, theirs = (one.with_columns(pl.col("user").cast(pl.String)).sort(order) for one in (mine, theirs))
    assert mine.height > 100
    assert mine.equals(theirs)
    assert _digest(asked) != _digest(Asked(None, futures.spec, inputs, owners.reverse(), None))


def test_what_cannot_be_is_refused(futures, store):
    assert _users(store, ["3", 5], CUTOFF).tolist() == [
        i for i, user in enumerate(store.users["user"].cast(pl.String)) if user in ("3", "5")
    ]
    with pytest.raises(ConfigError, match="'nobody'"):
        _users(store, ["nobody"], CUTOFF)
    with pytest.raises(CutoffError, match="a day from"):
        day_asked(store, "2031-01-01")
    with pytest.raises(ConfigError, match="follows from the gap"):
        _check_fields(DrawConfig(temperature={"weekday": 0.5}), futures.model)


def test_uncached_draws_are_the_same(futures):
    plain = Futures(**{**vars(futures), "is_cached": False})
    one, two = (f.draw(0, 5)[0] for f in (futures, plain))
    assert torch.is_grad_enabled()
    assert one.equals(two)
