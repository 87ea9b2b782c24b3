"""Simulated worlds: what is drawn agrees with what is written down as the truth."""

from __future__ import annotations

import datetime as dt
import filecmp
import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from habitus.cli.main import app
from habitus.core.errors import CalendarError, ConfigError, CutoffError, DiskError, SourceError
from habitus.data.calendar import to_day
from habitus.data.sources import simulator as sim
from habitus.data.sources.simulator.draw import block_size
from habitus.data.sources.simulator.rates import Plan, Rates
from habitus.data.sources.simulator.truth import last_cutoff
from habitus.data.sources.simulator.users import users_of

HORIZON = 28


def drawn(world: sim.World, **options) -> pl.DataFrame:
    table = pl.concat([pl.DataFrame(block) for block in sim.draw_blocks(world, **options)])
    day = (pl.col("time").cast(pl.Date) - pl.lit(world.start)).dt.total_days()
    return table.with_columns(pl.col("type").cast(pl.String), day=day)


@pytest.fixture(scope="module")
def world() -> sim.World:
    made = sim.ready_made("effects", n_users=4000, n_days=98, seed=3)
    return made.model_copy(
        update={"shock_sigma": 0.0}
    )  # shocks would widen every bound below; they have their own test


@pytest.fixture(scope="module")
def events(world: sim.World) -> pl.DataFrame:
    return drawn(world)


def in_window(events: pl.DataFrame, world: sim.World, types: list[str]) -> pl.DataFrame:
    return events.filter(pl.col("day") >= world.n_days - HORIZON, pl.col("type").is_in(types))


def within(drawn: float, expected: float, variance: float, sigmas: float = 4.5) -> bool:
    return abs(drawn - expected) < sigmas * math.sqrt(variance)


@pytest.mark.parametrize("event_type", ["visit", "purchase", "help", sim.truth.ANY])
def test_the_draws_have_the_true_expectations(world, events, event_type):
    truth = sim.expected(world, last_cutoff(world, HORIZON), HORIZON).filter(event_type=event_type)
    types = list(world.event_names) if event_type == sim.truth.ANY else [event_type]
    rows = in_window(events, world, types).join(truth, on="user", how="semi")
    p, count = truth["p"], truth["count"].sum()
    assert within(rows["user"].n_unique(), p.sum(), (p * (1 - p)).sum())
    assert within(rows.height, count, 1.1 * count)  # leaving on the way adds a little to Poisson
    days = truth["days"].sum()
    assert within(rows.select("user", "day").unique().height, days, 1.1 * days)


def test_amounts_have_the_true_expectation_and_units(world, events):
    truth = sim.expected(world, last_cutoff(world, HORIZON), HORIZON).filter(event_type="purchase")
    rows = in_window(events, world, ["purchase"]).join(truth, on="user", how="semi")
    assert within(rows["spend"].sum(), truth["amount"].sum(), (rows["spend"] ** 2).sum())
    assert events.filter(type="visit")["spend"].null_count() == events.filter(type="visit").height


def test_users_who_left_have_no_future(world):
    churning = tuple(t.model_copy(update={"churn": 0.05}) for t in world.user_types)
    world = world.model_copy(update={"user_types": churning})
    users = users_of(world)
    truth = sim.expected(world, last_cutoff(world, HORIZON), HORIZON)
    gone = users.number[users.left < world.n_days - HORIZON]
    assert len(gone) > 1000
    assert truth.filter(pl.col("user").is_in(gone))["count"].sum() == 0
    rows = in_window(drawn(world), world, ["visit"])
    assert rows.filter(pl.col("user").is_in(gone)).height == 0
    p = truth.filter(event_type="visit")["p"]
    assert within(rows.join(truth, on="user", how="semi")["user"].n_unique(), p.sum(), (p * (1 - p)).sum())


def test_a_planted_event_raises_the_activity_of_its_audience_by_the_true_factor():
    campaign = sim.Planted(
        type="campaign", starts=(40,), length=10, rate={"visit": 0.8}, audience="randomised", share=0.5
    )
    user = sim.UserType(name="u", share=1, rates={"visit": 0.3, "purchase": 0.1}, affinity={"campaign": 1.5})
    world = sim.World(n_users=4000, n_days=60, planted=(campaign,), user_types=(user,), new_share=0.0)
    is_sent = Plan.of(world).is_addressed(users_of(world))[:, 0]
    assert 0.45 < is_sent.mean() < 0.55
    on = drawn(world).filter(pl.col("day").is_between(40, 49))
    for event_type, factor in (("visit", math.exp(1.2)), ("purchase", 1.0)):
        counts = on.filter(type=event_type)["user"].to_numpy()
        sent, others = is_sent[counts].sum() / is_sent.sum(), (~is_sent[counts]).sum() / (~is_sent).sum()
        error = math.sqrt(1 / is_sent[counts].sum() + 1 / (~is_sent[counts]).sum()) * 2  # users differ: twice Poisson's
        assert abs(math.log(sent / others) - math.log(factor)) < 4 * error


def test_the_effect_is_the_difference_between_two_calendars(world):
    cutoff = last_cutoff(world, HORIZON)
    effects = sim.effects(world, cutoff, HORIZON)
    event = effects.filter(planted_type="campaign")["event"][0]
    table = effects.filter(event=event, event_type="purchase").sort("user")
    base = sim.expected(world, cutoff, HORIZON).filter(event_type="purchase").sort("user")
    calendar = sim.calendar_of(world).without(events=[event])
    without = sim.expected(world, cutoff, HORIZON, calendar).filter(event_type="purchase").sort("user")
    for measure in ("p", "days", "count", "amount"):
        np.testing.assert_allclose(table[f"{measure}_effect"], base[measure] - without[measure], atol=1e-12)
    assert table.filter("is_addressed")["count_effect"].sum() > 0
    assert table.filter(~pl.col("is_addressed"))["count_effect"].abs().max() == 0


def test_the_change_to_another_calendar_is_written_per_user(world):
    cutoff, calendar = last_cutoff(world, HORIZON), sim.calendar_of(world)
    event = sim.effects(world, cutoff, HORIZON).filter(planted_type="campaign")["event"][0]
    gone = calendar.without(events=[event])
    keys = ["user", "event_type"]
    lost = sim.changes(world, cutoff, HORIZON, gone).sort(keys)
    effect = sim.effects(world, cutoff, HORIZON).filter(event=event).sort(keys)
    for measure in ("p_effect", "days_effect", "count_effect", "amount_effect"):
        np.testing.assert_allclose(lost[measure], -effect[measure], atol=1e-12)
    back = sim.changes(world, cutoff, HORIZON, calendar, against=gone).sort(keys)
    np.testing.assert_allclose(back["amount_effect"], effect["amount_effect"], atol=1e-12)


def test_shocks_are_shared_and_the_truth_is_their_mean():
    shock = 0.8
    user = sim.UserType(name="u", share=1, rates={"visit": 0.5}, level_sigma=0.0)
    types = tuple(t for t in sim.World().event_types if t.name == "visit")
    world = sim.World(n_users=3000, n_days=400, event_types=types, user_types=(user,), new_share=0, shock_sigma=shock)
    table = drawn(world)
    halves = np.zeros((2, 400))
    np.add.at(halves, (table["user"].to_numpy() % 2, table["day"].to_numpy()), 1)
    assert np.corrcoef(halves)[0, 1] > 0.95, "one factor for everybody"
    calm = world.model_copy(update={"shock_sigma": 0.0})
    assert drawn(calm).height == pytest.approx(table.height, rel=0.15), "of mean 1"
    truth = sim.expected(world, last_cutoff(world, 7), 7).filter(event_type="visit", user=0)
    rates = Rates(world, users_of(world, 0, 1), Plan.of(world), 393, 7).rate("visit")[0]
    factor = np.exp(shock * np.random.default_rng(0).standard_normal((100_000, 7)) - shock**2 / 2)
    daily = np.exp(-rates * factor)
    assert truth["p"][0] == pytest.approx(1 - daily.prod(axis=1).mean(), abs=0.003)
    assert truth["days"][0] == pytest.approx((1 - daily.mean(axis=0)).sum(), abs=0.01)
    assert truth["count"][0] == pytest.approx(rates.sum())
    steady = sim.expected(calm, last_cutoff(calm, 7), 7).filter(event_type="visit", user=0)
    assert steady["p"][0] - truth["p"][0] > 0.02, "uncertain days make silence likelier"


def test_null_events_change_nothing_and_are_listed():
    world = sim.ready_made("independent", n_users=200, n_days=70)
    effects = sim.effects(world, last_cutoff(world, HORIZON), HORIZON)
    assert set(effects["planted_type"]) == {"sale", "campaign", "mailing", "parade", "festival"}
    measures = effects.select(pl.selectors.ends_with("_effect"))
    assert measures.width == 4
    assert measures.select(pl.all().abs().max()).row(0) == (0.0,) * 4
    bare = world.model_copy(update={"planted": ()})
    assert drawn(world).equals(drawn(bare))


def test_an_audience_can_be_changed_and_an_event_moved(world):
    cutoff = last_cutoff(world, HORIZON)
    calendar = sim.calendar_of(world)
    event = f"campaign {len(world.planted[1].starts)}"
    before = sim.expected(world, cutoff, HORIZON, calendar)
    sent = calendar.audiences.filter(audience=event)["user"].cast(pl.Int64)
    chosen = before.filter(pl.col("count") > 0, ~pl.col("user").is_in(sent.to_list()))["user"][0]
    wider = calendar.audiences.vstack(pl.DataFrame({"audience": [event], "user": [str(chosen)]}))
    after = sim.expected(world, cutoff, HORIZON, type(calendar)(calendar.events, wider))
    changed = before.join(after, on=["user", "event_type"]).filter(pl.col("count") != pl.col("count_right"))
    assert set(changed["user"]) == {chosen}
    is_it = pl.col("event") == event
    later = pl.when(is_it).then(pl.col("start", "end").dt.offset_by("60d")).otherwise(pl.col("start", "end"))
    moved = type(calendar)(calendar.events.with_columns(later), calendar.audiences)
    gone = calendar.without(events=[event])
    moved_away, without = (sim.expected(world, cutoff, HORIZON, c) for c in (moved, gone))
    assert moved_away.equals(without)
    unknown = type(calendar).build([{"type": "carnival", "start": cutoff}])
    with pytest.raises(CalendarError, match="carnival"):
        sim.expected(world, cutoff, HORIZON, unknown)


def test_lead_and_lag_follow_their_shares():
    planted = sim.Planted(
        type="sale", starts=(10,), length=2, rate={"visit": 1.0}, lead=2, lead_share=-0.5, lag=1, lag_share=0.25
    )
    world = sim.World(n_users=3, n_days=20, planted=(planted,))
    profile = Plan.of(world).profile(0, 20)[0]
    assert profile[7:15].tolist() == [0, -0.5, -0.5, 1, 1, 0.25, 0, 0]
    users, calm = users_of(world), world.model_copy(update={"planted": ()})
    ratio = Rates(world, users, Plan.of(world), 0, 20).rate("visit") / Rates(calm, users, Plan.of(calm), 0, 20).rate(
        "visit"
    )
    np.testing.assert_allclose(np.log(ratio), profile * users.affinity)


def test_targeted_audiences_are_active_users(world):
    users = users_of(world)
    plan = Plan.of(world)
    addressed = plan.is_addressed(users)
    kinds = np.array([world.planted[o.planted].type for o in plan.occurrences])
    mailed, sent = (addressed[:, np.flatnonzero(kinds == kind)[0]] for kind in ("mailing", "campaign"))
    assert abs(mailed.mean() - 0.3) < 0.03
    assert users.drive[mailed].mean() > 0.5
    assert abs(users.drive[sent].mean()) < 0.1
    calendar = sim.calendar_of(world).events
    assert set(calendar.filter(is_randomised=True)["type"]) == {"campaign"}


def test_a_late_event_works_but_is_never_known_ahead():
    world = sim.ready_made("late", n_users=300, n_days=70)
    effects = sim.effects(world, last_cutoff(world, HORIZON), HORIZON)
    assert effects["count_effect"].sum() > 0
    calendar = sim.calendar_of(world)
    for row in calendar.events.iter_rows(named=True):
        assert row["event"] not in calendar.known_at(to_day(row["start"]) - 1).events["event"].to_list()


def test_in_the_order_world_only_the_order_tells():
    world = sim.ready_made("order", n_users=3000, n_days=98)
    events, users = drawn(world), users_of(world)
    weeks = np.arange(world.n_days // 7)
    quiet = sim.rates.is_quiet(world, users, weeks)
    counts = np.zeros((2, world.n_users, len(weeks)))
    for i, event_type in enumerate(("visit", "purchase")):
        rows = events.filter(type=event_type)
        np.add.at(counts[i], (rows["user"].to_numpy(), rows["day"].to_numpy() // 7), 1)
    visits, purchases = counts
    assert visits[quiet].sum() == 0
    totals = [purchases[users.follows_quiet == who].sum(axis=1).mean() for who in (True, False)]
    assert abs(totals[0] / totals[1] - 1) < 0.05
    after_quiet = purchases[:, 1:][quiet[:, :-1] & users.follows_quiet[:, None]].mean()
    after_busy = purchases[:, 1:][~quiet[:, :-1] & users.follows_quiet[:, None]].mean()
    assert after_quiet / after_busy == pytest.approx(1.9 / 0.1, rel=0.25)
    truth = sim.expected(world, world.start + dt.timedelta(days=world.n_days - 8), 7)  # one whole week ahead
    for event_type in ("visit", "purchase", sim.truth.ANY):
        p = truth.filter(event_type=event_type)["p"]
        types = ["visit", "purchase"] if event_type == sim.truth.ANY else [event_type]
        seen = events.filter(pl.col("day") >= world.n_days - 7, pl.col("type").is_in(types))["user"].n_unique()
        assert within(seen, p.sum(), (p * (1 - p)).sum())


def test_three_weeks_ahead_the_tosses_are_averaged():
    world = sim.ready_made("order", n_users=3000, n_days=98, seed=5)
    truth = sim.expected(world, world.start + dt.timedelta(days=world.n_days - 25), 24)  # begins within a week
    events = drawn(world).filter(pl.col("day") >= world.n_days - 24)
    for event_type in ("visit", "purchase", sim.truth.ANY):
        types = ["visit", "purchase"] if event_type == sim.truth.ANY else [event_type]
        table, rows = truth.filter(event_type=event_type), events.filter(pl.col("type").is_in(types))
        assert within(rows["user"].n_unique(), table["p"].sum(), (table["p"] * (1 - table["p"])).sum())
        assert rows.height == pytest.approx(table["count"].sum(), rel=0.04)
        assert rows.select("user", "day").unique().height == pytest.approx(table["days"].sum(), rel=0.04)


def test_many_blocks_written_as_a_stream_are_the_same_rows(tmp_path: Path):
    quiet = tuple(t.model_copy(update={"rates": {"visit": 0.01}}) for t in sim.World().user_types)
    world = sim.World(n_users=300, n_days=20_000, user_types=quiet)
    assert block_size(world) * 2 < world.n_users
    events = drawn(world)
    assert events.select("user", "time").equals(events.select("user", "time").sort("user", "time"))
    key = ["user", "time", "type", "item", "spend"]
    for shuffle in (False, True):
        folder = sim.write(world, tmp_path / str(shuffle), shuffle=shuffle, with_truth=False)
        written = pl.concat([pl.read_parquet(path) for path in sorted((folder / "events").glob("*.parquet"))])
        written = written.with_columns(pl.col("type").cast(pl.String))
        assert written.sort(key).equals(events.select(key).sort(key))
        is_sorted = written["time"].is_sorted() or written.select("user", "time").equals(events.select("user", "time"))
        assert is_sorted == (not shuffle)


def test_the_same_world_gives_the_same_bytes(tmp_path: Path):
    world = sim.ready_made("effects", n_users=60, n_days=70)
    first, second = (sim.write(world, tmp_path / name) for name in ("a", "b"))
    files = sorted(str(path.relative_to(first)) for path in first.rglob("*") if path.is_file())
    assert len(files) == 15
    assert filecmp.cmpfiles(first, second, files, shallow=False) == (files, [], [])
    other = drawn(world.model_copy(update={"seed": 1}))
    assert not other.equals(drawn(world))


def test_a_folder_reads_back(tmp_path: Path):
    world = sim.ready_made("effects", n_users=60, n_days=70)
    folder = sim.write(world, tmp_path / "world")
    assert sim.read_world(folder) == world
    log, in_memory = sim.simulated_log(folder), sim.simulated_log(world)
    assert log.calendar.events.equals(in_memory.calendar.events)
    key = ["audience", "user"]
    assert log.calendar.audiences.sort(key).equals(in_memory.calendar.audiences.sort(key))
    assert pl.read_parquet(log.profiles).equals(in_memory.profiles)
    assert pl.scan_parquet(log.events).select(pl.len()).collect().item() == in_memory.events.num_rows
    truth = pl.read_parquet(folder / "truth.parquet")
    assert truth.equals(sim.effects(world, last_cutoff(world, HORIZON), HORIZON))


def test_the_command_writes_what_another_calendar_would_change(tmp_path: Path):
    world = sim.ready_made("effects", n_users=60, n_days=70)
    coming = last_cutoff(world, HORIZON)
    calendar = sim.calendar_of(world)
    planned = type(calendar)(calendar.events.filter(pl.col("start") <= coming), calendar.audiences)
    planned.write(tmp_path / "planned.csv")
    options = ["--users", "60", "--days", "70", "--calendar", str(tmp_path / "planned.csv")]
    answer = CliRunner().invoke(app, ["simulate", "effects", "--out", str(tmp_path / "world"), *options])
    assert answer.exit_code == 0, answer.output
    change = pl.read_parquet(tmp_path / "world" / "change.parquet")
    assert change.equals(sim.changes(world, coming, HORIZON, planned))
    assert change["count_effect"].sum() < 0


def test_mistakes_are_named(tmp_path: Path):
    with pytest.raises(ConfigError, match="did you mean 'effects'"):
        sim.ready_made("efects")
    with pytest.raises(ConfigError, match="at least 56 days"):
        sim.ready_made("effects", n_days=30)
    with pytest.raises(ConfigError, match="did you mean 'n_users'"):
        sim.World.parse({"n_user": 3})
    with pytest.raises(ConfigError, match="strengths"):
        sim.World.parse({"planted": [{"type": "sale", "starts": [1, 2], "strengths": [1]}]})
    with pytest.raises(CutoffError, match="2023-02-26"):
        sim.expected(sim.World(n_users=1, n_days=84), dt.date(2023, 4, 1), HORIZON)
    with pytest.raises(SourceError, match="events/part"):
        sim.simulated_log(tmp_path)
    (tmp_path / "here").mkdir()
    with pytest.raises(DiskError, match="exists"):
        sim.write(sim.World(n_users=1, n_days=30), tmp_path / "here")


def test_a_world_of_nobody_is_finite(tmp_path: Path):
    world = sim.ready_made("effects", n_users=0, n_days=70)
    folder = sim.write(world, tmp_path / "empty")
    assert pl.read_parquet(folder / "truth.parquet").height == 0
    assert pl.read_parquet(folder / "profiles.parquet").height == 0
