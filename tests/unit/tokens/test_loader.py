"""The loader: honest about time, exact on resume, indifferent to order and batch size."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

from habitus.core.errors import FingerprintError, TargetError, TrainingError
from habitus.data.calendar import Calendar, to_date, to_day
from habitus.data.cutoffs import Samples, samples_at
from habitus.data.targets import Target
from habitus.tokens.batch import DayBatch, Kind
from habitus.tokens.days import day_table
from habitus.tokens.loader import DayLoader, assemble, future_events, prepare
from habitus.tokens.spec import InputSpec, TokenConfig, fit_spec

START = to_day("2020-01-01")
CUTOFF = START + 70
TARGETS = (Target.parse("any(purchase) in 7d", name="buy"), Target.parse("sum(spend of purchase) in 7d", name="spend"))
SALE = {"type": "sale", "start": "2020-03-05", "end": "2020-03-14", "is_notable": True, "announced_at": "2020-03-01"}
PARTS = ("activity", "day", "kind", "known_past", "known_future", "profile")


def _calendar() -> Calendar:
    groups = pl.DataFrame({"audience": ["vip"] * 2, "user": ["u001", "u002"]})
    rows = [SALE, {"type": "mail", "start": "2020-03-09", "audience": "vip"}]
    items = pl.DataFrame({"event": ["sale", "mail", "mail"], "item": ["i3", "i4", "i7"]})
    return Calendar.build(rows, groups, items)


def _fitted(store, **tokens) -> InputSpec:
    samples = samples_at(store, np.array([START + 40, START + 50], np.int32))
    config = TokenConfig(history=60, **tokens)
    return fit_spec(store, config, samples, TARGETS, day_targets=TARGETS[:1])


def _batch(store, spec, rows=None) -> DayBatch:
    samples = samples_at(store, np.array([CUTOFF], np.int32))
    inputs = prepare(store, spec, samples)
    return assemble(inputs, np.arange(len(samples)) if rows is None else rows)


def test_changing_everything_after_the_cutoff_leaves_every_input_bit_equal(make_store, shop):
    past = shop.filter(pl.col("time").dt.date().to_physical() <= CUTOFF)
    future = shop.filter(pl.col("time").dt.date().to_physical() > CUTOFF)
    other = future.with_columns(
        pl.col("user").shuffle(1), pl.col("kind").shuffle(2), pl.col("spend").shuffle(3) * 7, pl.col("item").shuffle(4)
    )
    one = make_store(pl.concat([past, future]), calendar=_calendar(), name="one")
    two = make_store(pl.concat([past, other]), calendar=_calendar(), name="two")
    spec = _fitted(one)
    assert _fitted(two).fingerprint == spec.fingerprint
    assert spec.item_types == ("mail", "sale")
    a, b = _batch(one, spec), _batch(two, spec)
    for name in PARTS:
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    assert not torch.equal(a.target, b.target)


def test_an_event_announced_later_changes_no_input(make_store, shop):
    hidden = _calendar().joined(Calendar.build([SALE | {"start": "2020-03-12", "announced_at": "2020-03-12"}]))
    one, two = make_store(shop, calendar=_calendar(), name="one"), make_store(shop, calendar=hidden, name="two")
    spec = _fitted(one)
    for name in PARTS:
        assert torch.equal(getattr(_batch(one, spec), name), getattr(_batch(two, spec), name)), name


def test_kept_days_are_the_active_the_recent_and_the_notable(make_store, shop):
    store = make_store(shop, calendar=_calendar())
    spec = _fitted(store, keep_recent=3)
    batch, table = _batch(store, spec), day_table(store)
    samples = samples_at(store, np.array([CUTOFF], np.int32))
    origin = CUTOFF - 60 + 1
    for b in range(len(batch)):
        user = int(samples.user[b])
        active = {
            int(d) - origin for d in table.day[table.offsets[user] : table.offsets[user + 1]] if origin <= d <= CUTOFF
        }
        kept = {int(d): int(k) for d, k in zip(batch.day[b], batch.kind[b]) if k != Kind.PADDING}
        assert {d for d, k in kept.items() if k == Kind.ACTIVE} == active
        assert set(kept) - active == {57, 58, 59, to_day("2020-03-05") - origin} - active
        assert list(kept) == sorted(kept)


def test_a_user_first_seen_late_gets_one_start_token_and_nothing_before(make_store, shop):
    day = pl.col("time").dt.date().to_physical()
    late = shop.filter((pl.col("user") != "u000") | (day > START + 45))
    store = make_store(late, calendar=_calendar())
    spec = _fitted(store, keep="all")
    batch = _batch(store, spec)
    samples = samples_at(store, np.array([CUTOFF], np.int32))
    origin = CUTOFF - 60 + 1
    for b in range(len(batch)):
        user = store.users["user"][int(samples.user[b])]
        real = batch.kind[b] != Kind.PADDING
        starts = batch.day[b][batch.kind[b] == Kind.START].tolist()
        born = store.users["first_day"][int(samples.user[b])] - origin
        if user == "u000":
            assert starts == [born - 1]
            assert batch.day[b][real].tolist() == list(range(born - 1, 60))
        else:  # seen in the first 30 days of the log: nobody knows when they began
            assert starts == []
            assert batch.day[b][real].tolist() == list(range(max(born, 0), 60))


def test_sparse_keeps_a_part_of_what_all_keeps(make_store, shop):
    store = make_store(shop, calendar=_calendar())
    sparse, dense = _batch(store, _fitted(store)), _batch(store, _fitted(store, keep="all"))
    assert sparse.day.shape[1] < dense.day.shape[1]
    for b in range(len(sparse)):
        place = {int(d): j for j, d in enumerate(dense.day[b]) if dense.kind[b, j] != Kind.PADDING}
        for j, d in enumerate(sparse.day[b].tolist()):
            if sparse.kind[b, j] == Kind.PADDING:
                continue
            assert torch.equal(sparse.activity[b, j], dense.activity[b, place[d]])
            assert torch.equal(sparse.known_past[b, j], dense.known_past[b, place[d]])
            assert sparse.kind[b, j] == dense.kind[b, place[d]]


def test_a_user_is_the_same_in_any_batch(make_store, shop):
    store = make_store(shop, calendar=_calendar())
    spec = _fitted(store)
    whole = _batch(store, spec)
    order = np.random.default_rng(0).permutation(len(whole))
    mixed = _batch(store, spec, order)
    for place, row in enumerate(order):
        alone = _batch(store, spec, np.array([row]))
        n = int((alone.kind[0] != Kind.PADDING).sum())
        for name in PARTS[:4]:
            assert torch.equal(getattr(alone, name)[0, :n], getattr(mixed, name)[place, :n]), name
            assert torch.equal(getattr(alone, name)[0, :n], getattr(whole, name)[row, :n]), name


def test_resumed_after_any_batch_the_rest_is_the_same(make_store, shop):
    store = make_store(shop, calendar=_calendar())
    inputs = prepare(store, _fitted(store), samples_at(store, np.arange(START + 40, START + 80, 2, dtype=np.int32)))

    def loader() -> DayLoader:
        return DayLoader(inputs, batch_size=32, per_user=4, is_training=True, seed=5)

    whole = loader()
    whole.set_epoch(3)
    expected = list(whole)
    assert len(expected) == len(whole) > 3
    for stop in (0, 1, len(expected) - 1):
        first, second = loader(), loader()
        first.set_epoch(3)
        reading = iter(first)
        for _ in range(stop):
            next(reading)
        second.load_state_dict(first.state_dict())
        rest = list(second)
        assert len(rest) == len(expected) - stop
        for a, b in zip(rest, expected[stop:]):
            assert all(torch.equal(getattr(a, name), getattr(b, name)) for name in (*PARTS, "target", "sample"))
    with pytest.raises(TrainingError):
        DayLoader(inputs, seed=6).load_state_dict(whole.state_dict())


def test_an_epoch_draws_a_few_cutoffs_of_each_user_and_another_epoch_others(make_store, shop):
    store = make_store(shop)
    samples = samples_at(store, np.arange(START + 40, START + 80, dtype=np.int32))
    inputs = prepare(store, _fitted(store), samples)
    loader = DayLoader(inputs, batch_size=16, per_user=3, is_training=True)
    first = torch.cat([b.sample for b in loader]).numpy()
    users, counts = np.unique(samples.user[first], return_counts=True)
    assert len(users) == store.n_users
    assert (counts == 3).all()
    loader.set_epoch(1)
    assert set(torch.cat([b.sample for b in loader]).tolist()) != set(first.tolist())
    reading = DayLoader(inputs, batch_size=16)
    assert sorted(torch.cat([b.sample for b in reading]).tolist()) == list(range(len(samples)))
    assert 1 - reading.n_tokens / reading.n_places < 0.1


def test_a_dropped_history_is_one_start_token(make_store, shop):
    store = make_store(shop)
    inputs = prepare(store, _fitted(store), samples_at(store, np.array([CUTOFF], np.int32)))
    batch = assemble(inputs, np.arange(4), is_dropped=np.array([True, False, True, False]))
    assert batch.kind[0].tolist().count(Kind.START) == 1
    assert (batch.kind[0] != Kind.PADDING).sum() == 1
    assert batch.day[0, 0] == 59
    assert (batch.kind[1] == Kind.ACTIVE).any()


def test_another_calendar_changes_the_future_and_nothing_else(make_store, shop):
    store = make_store(shop, calendar=_calendar())
    samples = samples_at(store, np.array([CUTOFF], np.int32))
    inputs = prepare(store, _fitted(store), samples)
    rows = np.arange(len(samples))
    more = _calendar().joined(Calendar.build([SALE | {"start": "2020-03-17", "end": "2020-03-18", "event": "more"}]))
    users = store.users["user"].to_numpy()
    base, other = assemble(inputs, rows), assemble(inputs.with_calendar(more, users), rows)
    for name in PARTS:
        assert torch.equal(getattr(base, name), getattr(other, name)) == (name != "known_future"), name
    same = inputs.with_calendar(_calendar(), users)
    assert torch.equal(future_events(same, rows), base.known_future)


@pytest.mark.parametrize("known", ["past", "none"])
def test_without_future_events_no_calendar_ahead_changes_any_input(make_store, shop, known):
    store = make_store(shop, calendar=_calendar())
    spec = _fitted(store, known=known)
    samples = samples_at(store, np.array([CUTOFF], np.int32))
    begun = Calendar(_calendar().events.filter(pl.col("start") <= to_date(CUTOFF)), _calendar().audiences)
    ahead = Calendar.build([{"type": "sale", "start": "2020-03-13", "strength": 9.0}])
    rows = np.arange(len(samples))
    one, two = (assemble(prepare(store, spec, samples, calendar=c), rows) for c in (begun, begun.joined(ahead)))
    for name in PARTS:
        assert torch.equal(getattr(one, name), getattr(two, name)), name
    seeing = prepare(store, _fitted(store), samples, calendar=begun.joined(ahead))
    assert not torch.equal(assemble(seeing, rows).known_future, one.known_future)
    assert torch.equal(assemble(seeing, rows).known_future[..., :9], one.known_future[..., :9]), "the clock stays"


@pytest.mark.parametrize("known", ["future", "none"])
def test_without_past_events_history_is_that_of_a_log_without_calendar(make_store, shop, known):
    store = make_store(shop, calendar=_calendar())
    samples, rows = samples_at(store, np.array([CUTOFF], np.int32)), np.arange(30)
    hidden = assemble(prepare(store, _fitted(store, known=known), samples), rows)
    nothing = assemble(prepare(store, _fitted(store), samples, calendar=Calendar.empty()), rows)
    full = assemble(prepare(store, _fitted(store), samples), rows)
    for name in ("activity", "day", "kind", "known_past"):
        assert torch.equal(getattr(hidden, name), getattr(nothing, name)), name
    assert not torch.equal(hidden.known_past, full.known_past[:, : hidden.known_past.shape[1]])
    assert torch.equal(hidden.known_future, (full if known == "future" else nothing).known_future)


def test_a_spec_from_before_the_option_sees_everything(make_store, shop):
    values = _fitted(make_store(shop)).to_json()
    del values["tokens"]["known"]
    assert InputSpec.from_json(values).tokens.known == "all"


def test_spec_survives_json_and_refuses_what_does_not_fit(make_store, shop, retail_store):
    store = make_store(shop, calendar=_calendar())
    spec = _fitted(store)
    assert InputSpec.from_json(spec.to_json()).fingerprint == spec.fingerprint
    with pytest.raises(FingerprintError):
        prepare(
            retail_store, spec, Samples(np.array([0]), np.array([retail_store.last_day], np.int32)), has_targets=False
        )
    with pytest.raises(TargetError, match="share one window"):
        fit_spec(
            store, TokenConfig(), samples_at(store, np.array([CUTOFF])), (*TARGETS, Target.parse("any(visit) in 3d"))
        )


def test_no_samples_is_an_error_and_an_empty_batch_is_not(make_store, shop):
    store = make_store(shop)
    inputs = prepare(store, _fitted(store), samples_at(store, np.array([CUTOFF], np.int32)))
    assert len(assemble(inputs, np.zeros(0, np.int64))) == 0
    nobody = prepare(store, inputs.spec, Samples(np.zeros(0, np.int64), np.zeros(0, np.int32)))
    with pytest.raises(TrainingError):
        DayLoader(nobody)


def test_a_bag_of_dates_is_drawn_per_seed_and_repeats_whole_blocks(make_store, shop):
    store = make_store(shop)
    spec = _fitted(store)
    inputs = prepare(store, spec, samples_at(store, START + np.arange(20, 90, 5, dtype=np.int32)))

    def times(seed: int, per_user: int | None = None) -> np.ndarray:
        loader = DayLoader(inputs, batch_size=64, is_training=True, per_user=per_user, bag_days=10, seed=seed)
        return np.bincount(torch.cat([batch.sample for batch in loader]).numpy(), minlength=len(inputs))

    one, two = times(1), times(2)
    block = (inputs.samples.cutoff - inputs.samples.cutoff.min()) // 10
    assert all(len(set(one[block == b])) == 1 for b in np.unique(block))  # a block comes whole
    assert sum(one[block == b][0] for b in np.unique(block)) == len(np.unique(block))  # as many draws as blocks
    assert (one == 0).any()
    assert one.max() > 1
    assert not np.array_equal(one, two)
    assert np.array_equal(one, times(1))
    few = times(1, per_user=3)
    assert not few[one == 0].any()
    assert np.bincount(inputs.samples.user, few).max() == 3
