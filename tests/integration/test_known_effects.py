"""A world whose answer is known: a what-if finds the campaign that works, and nothing for the parade that does not."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import habitus
from habitus.data.ingest import ingest
from habitus.data.sources import simulator as sim
from habitus.data.sources.simulator.truth import last_cutoff
from habitus.testing.threads import one_thread

__all__ = ["one_thread"]

DAYS, HORIZON = 133, 7
RECIPE = """
name = "world"
store = "world.store"
refit = false

[cutoffs]
horizon = 7
train = { first = 2023-01-22, last = 2023-04-23, every = 7 }
valid = { days = [2023-04-30] }
test = { days = [2023-05-07] }

[tokens]
history = 14

[[targets]]
name = "visit"
define = "any(visit) in 7d"
per_day = true

[model]
size = "tiny"
d_model = 16
n_heads = 2
d_ff = 32
n_encoder = 1
d_profile = 32
day_gain = 10.0
dropout = 0.0

[loader]
per_user = 0

[training]
epochs = 8
lr = 5e-3
loggers = []
"""


def _world() -> sim.World:
    user = sim.UserType(name="u", share=1, rates={"visit": 0.2}, level_sigma=0.6)
    starts = (*range(5, DAYS - 7, 11), DAYS - 6)
    campaign = sim.Planted(
        type="campaign", starts=starts, length=3, rate={"visit": 1.2}, audience="randomised", share=0.5
    )
    parade = sim.Planted(type="parade", starts=(*range(9, DAYS - 9, 13), DAYS - 4), length=2)
    kinds = (sim.EventType(name="visit"),)
    return sim.World(
        n_users=500, n_days=DAYS, event_types=kinds, user_types=(user,), planted=(campaign, parade), new_share=0.0
    )


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> tuple[pl.DataFrame, pl.DataFrame, dict[str, float]]:
    """True effects on visits, answers without each coming event, and what the forecast days add up to for each."""
    folder: Path = tmp_path_factory.mktemp("known")
    world = _world()
    store = ingest(sim.simulated_log(world), folder / "world.store", n_shards=1)
    (folder / "world.toml").write_text(RECIPE)
    run = habitus.train(folder / "world.toml", out=folder / "run", store=store.path)
    cutoff: dt.date = last_cutoff(world, HORIZON)
    truth = sim.effects(world, cutoff, HORIZON).filter(event_type="visit").with_columns(pl.col("user").cast(pl.String))
    events = truth["event"].unique(maintain_order=True)
    calendars = [store.calendar, *(store.calendar.without(events=[event]) for event in events)]
    out = folder / "answers.parquet"
    section = habitus.whatif(run, calendars, cutoff=cutoff, out=out, placebos=0, with_importance=False)
    with_all, *names = section["calendars"]
    values = section["daily"][0]["values"]
    by_day = {event: sum(values[with_all]) - sum(values[name]) for event, name in zip(events, names)}
    answers = pl.read_parquet(out).filter(pl.col("calendar").is_in(names))
    event_of = dict(zip(names, events))
    found = answers.with_columns(
        pl.col("user").cast(pl.String), event=pl.col("calendar").replace_strict(event_of), effect=-pl.col("difference")
    )
    return truth, found, by_day


def test_the_effect_of_a_campaign_is_found_per_user_and_in_total(asked):
    truth, answers, by_day = asked
    table = answers.join(truth.filter(planted_type="campaign"), on=["user", "event"])
    sent = table.filter("is_addressed")
    assert 150 < len(sent) < 350
    assert np.corrcoef(sent["effect"], sent["p_effect"])[0, 1] > 0.75
    assert table["effect"].sum() == pytest.approx(table["p_effect"].sum(), rel=0.3)
    assert by_day[table["event"][0]] == pytest.approx(table["days_effect"].sum(), rel=0.25)
    assert table.filter(~pl.col("is_addressed"))["effect"].abs().max() == 0, "bit for bit"


def test_an_event_that_does_nothing_gives_next_to_nothing(asked):
    truth, _, by_day = asked
    kind = dict(truth.select("event", "planted_type").iter_rows())
    found = {kind[event]: value for event, value in by_day.items()}
    assert abs(found["parade"]) < 0.2 * found["campaign"]
