"""Roll-outs: draws of a user depend on nothing but the user; cached equals uncached; constraints hold."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from habitus.core.errors import ConstraintError
from habitus.core.seeds import text_keys
from habitus.models.behavegpt import BehaveGPT, BehaveGPTConfig
from habitus.tasks.constraints import ConstraintConfig, compile_constraints
from habitus.tasks.rollout import DrawConfig, Rolled, Start, Zone, roll_out
from habitus.testing.events import event_batch
from habitus.testing.threads import one_thread
from habitus.tokens.amounts import AmountBins
from habitus.tokens.events import EventShape
from habitus.tokens.gaps import GapBins

__all__ = ["one_thread"]

GAPS = GapBins.of([1, 3600, 6 * 3600, 86_400, 4 * 86_400])
SHAPE = EventShape((("gap", 7), ("weekday", 9), ("slot", 50), ("type", 6), ("item", 9), ("spend", 6)), 1, 6)
NAN = torch.nan
SPEND = {
    "spend": AmountBins(*(torch.tensor(v).double() for v in ([NAN, NAN, NAN, 0, 1, 10], [NAN, NAN, NAN, 0, 9, 50])))
}
ZONE = Zone("Europe/London")
BEGIN = 1_617_235_200 - 3600  # 2021-04-01 00:00 in London, one hour ahead of UTC
USERS = [f"u{i}" for i in range(12)]


@pytest.fixture(scope="module")
def model() -> BehaveGPT:
    made = BehaveGPT(BehaveGPTConfig(size="tiny", n_blocks=2), SHAPE).eval()
    with torch.no_grad():  # far from even odds, so that a wrong state would show
        for name, weight in made.named_parameters():
            if name.endswith("out.weight") and not name.startswith("blocks"):
                weight.mul_(20)
        made.chain["of_gap"].head.out.bias.add_(8.0)  # users come back
    return made


def start(users: list[int], days: int = 5) -> Start:
    batch = event_batch(12, SHAPE)
    last = BEGIN - 1 - np.arange(12) * 20_000
    return Start(
        ids=batch.ids[users],
        length=batch.length[users],
        last_time=torch.from_numpy(last)[users],
        key=text_keys(USERS)[users],
        user=np.array(users),
        begin=BEGIN,
        end=BEGIN + days * 86_400,
    )


def roll(model, users=tuple(range(12)), constraints=None, n_samples=2, is_cached=True, **draws) -> Rolled:
    config = DrawConfig(**{"seed": 1, **draws})
    return roll_out(
        model, start(list(users)), GAPS, SPEND, ZONE, config, constraints, n_samples=n_samples, is_cached=is_cached
    )


def constrained(tables=None, **config):
    vocabularies = {"type": dict(zip("abcd", range(2, 6))), "item": {f"i{k}": k + 2 for k in range(7)}}
    return compile_constraints(ConstraintConfig(**config), vocabularies, USERS, ("spend",), tables)


def events_of(rolled: Rolled, row: int) -> list:
    mine = rolled.row == row
    return [rolled.time[mine].tolist(), rolled.ids[mine].tolist(), np.nan_to_num(rolled.amount[mine], nan=-1).tolist()]


def test_cached_and_uncached_draw_the_same_events_beyond_the_window(model):
    one, two = roll(model), roll(model, is_cached=False)
    assert np.bincount(one.row).max() > 2 * model.window
    for name in ("row", "time", "ids"):
        assert np.array_equal(getattr(one, name), getattr(two, name))


def test_neither_company_nor_order_nor_sample_count_change_a_users_draws(model):
    whole = roll(model, n_samples=3)
    for users in ([5], [7, 5, 2]):
        some = roll(model, users=users, n_samples=2)
        for place, user in enumerate(users):
            for sample in (0, 1):
                assert events_of(some, place * 2 + sample) == events_of(whole, user * 3 + sample)
    assert events_of(whole, 0) != events_of(whole, 1)
    assert events_of(roll(model, n_samples=3, seed=2), 0) != events_of(whole, 0)


def test_times_lie_in_the_horizon_and_clock_fields_follow_from_them(model):
    rolled = roll(model)
    assert rolled.time.min() >= BEGIN
    assert rolled.time.max() < BEGIN + 5 * 86_400
    local = pl.Series(rolled.time * 1000).cast(pl.Datetime("ms", "UTC")).dt.convert_time_zone("Europe/London")
    assert (rolled.ids[:, 1] == 1 + local.dt.weekday().to_numpy()).all()
    assert (rolled.ids[:, 2] == 2 + (local.dt.hour() * 2 + local.dt.minute() // 30).to_numpy()).all()
    gap = rolled.time[1:] - rolled.time[:-1]
    same = rolled.row[1:] == rolled.row[:-1]
    assert (gap[same] >= 0).all()
    assert np.array_equal(GAPS.encode(torch.from_numpy(gap[same])).numpy(), rolled.ids[1:, 0][same])
    assert (rolled.ids >= 2).all()
    spent = rolled.amount[:, 0]
    assert np.isnan(spent[rolled.ids[:, 5] == 2]).all()
    assert ((spent >= 10) & (spent <= 50))[rolled.ids[:, 5] == 5].all()


def test_temperature_and_top_p_sharpen_one_field_alone(model):
    options = {"users": (3, 8), "n_samples": 40}
    plain = roll(model, **options)
    for sharp in ({"temperature": {"type": 1e-3}}, {"top_p": {"type": 1e-6}}):
        found = roll(model, **sharp, **options)
        first = [r.ids[(r.event == 0) & (r.row < 40)] for r in (plain, found)]
        assert np.array_equal(first[0][:, 0], first[1][:, 0])  # the gap comes before and is drawn as it was
        assert len(np.unique(first[0][:, 3])) > 2
        per_gap = {gap: set(first[1][first[1][:, 0] == gap][:, 3]) for gap in first[1][:, 0]}
        assert len(np.unique(first[1][:, 3])) < len(np.unique(first[0][:, 3])) or max(map(len, per_gap.values())) == 1
        assert len(np.unique(found.ids[:, 4])) == 7  # items keep their variety


def test_rows_with_too_many_events_are_reported(model):
    rolled = roll(model, max_events=3)
    assert rolled.is_cut.any()
    assert np.bincount(rolled.row, minlength=24)[rolled.is_cut].tolist() == [3] * int(rolled.is_cut.sum())


def test_hours_and_counts_per_day_are_kept(model):
    rules = constrained(closed_hours=(*range(8), 22, 23), max_per_day=2)
    rolled = roll(model, constraints=rules)
    day, second = ZONE.local(rolled.time)
    assert len(rolled.time) > 50
    assert (second // 3600 >= 8).all()
    assert (second // 3600 < 22).all()
    assert np.unique(rolled.row * 100_000 + day, return_counts=True)[1].max() == 2
    assert 0 < rolled.masked["gap"][0] <= rolled.masked["gap"][1]


def test_only_and_never_hold_per_user_and_time(model):
    half = BEGIN + 2 * 86_400
    never = {"field": ["type", "item"], "value": ["a", "i3"], "user": [None, "u4"], "until": [half, None]}
    only = {"field": ["item"] * 4, "value": ["i1", "i2", "i3", "i5"], "user": [None, None, None, "u0"]}
    rolled = roll(model, constraints=constrained({"never": never, "only": only}))
    item, kind, user = rolled.ids[:, 4] - 2, rolled.ids[:, 3], rolled.row // 2
    assert not (kind[rolled.time < half] == 2).any()
    assert (kind[rolled.time >= half] == 2).any()
    assert set(item[user == 0]) == {1, 2, 3, 5}
    assert set(item[user == 4]) == {1, 2}
    assert set(item[user == 7]) <= {1, 2, 3}
    lost, n = rolled.masked["item"]
    assert n == len(rolled.time)
    assert 0.2 < lost / n < 0.9


def test_budgets_hold_per_day(model):
    rolled = roll(model, constraints=constrained(budgets={"spend": 30.0}))
    day = ZONE.local(rolled.time)[0]
    totals = pl.DataFrame({"row": rolled.row, "day": day, "spend": np.nan_to_num(rolled.amount[:, 0])})
    worst = totals.group_by("row", "day").sum()["spend"].max()
    assert worst <= 30 + 1e-9
    free = roll(model)
    totals = pl.DataFrame({"row": free.row, "day": ZONE.local(free.time)[0], "s": np.nan_to_num(free.amount[:, 0])})
    assert totals.group_by("row", "day").sum()["s"].max() > 30


def test_forced_events_happen_at_their_time(model):
    at = [BEGIN + 3600, BEGIN + 90_000, BEGIN + 90_000, BEGIN - 100]
    forced = {"user": ["u2", "u2", "u3", "u3"], "time": at, "type": ["d", "c", "d", "a"], "item": ["i6", *[None] * 3]}
    rolled = roll(model, constraints=constrained({"forced": forced}))
    for user, time, kind in ((2, at[0], 5), (2, at[1], 4), (3, at[2], 5)):
        for sample in (0, 1):
            mine = (rolled.row == user * 2 + sample) & (rolled.time == time)
            assert (rolled.ids[mine, 3] == kind).any()
    assert (rolled.ids[(rolled.row // 2 == 2) & (rolled.time == at[0]), 4] == 8).any()
    assert rolled.time.min() >= BEGIN


def test_errors_name_user_and_reason(model):
    nothing = constrained({"never": {"field": ["type"] * 4, "value": list("abcd"), "user": ["u6"] * 4}})
    with pytest.raises(ConstraintError, match="user 'u6' at 2021"):
        roll(model, constraints=nothing)
    with pytest.raises(ConstraintError, match="did you mean 'item'"):
        constrained({"never": {"field": ["itm"], "value": ["i1"]}})
    with pytest.raises(ConstraintError, match="'i9'"):
        constrained({"only": {"field": ["item"], "value": ["i9"]}})
    with pytest.raises(ConstraintError, match="some of them open"):
        constrained(closed_hours=tuple(range(24)))
    with pytest.raises(ConstraintError, match="an amount out of: spend"):
        constrained(budgets={"spent": 3.0})


def test_a_user_silent_for_longer_than_any_gap_of_training_stays_silent(model):
    old = replace(start([0, 1, 2]), last_time=torch.tensor([BEGIN - 200 * 86_400, BEGIN - 200 * 86_400, BEGIN - 9]))
    rolled = roll_out(model, old, GAPS, SPEND, ZONE, DrawConfig(), n_samples=20)
    assert set(rolled.row // 20) == {2}
    assert rolled.time.min() >= BEGIN
