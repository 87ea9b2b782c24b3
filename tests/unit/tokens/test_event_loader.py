"""The event loader: every target once, nothing from later, little padding, exact on resume."""

from __future__ import annotations

from dataclasses import fields
from itertools import product

import numpy as np
import polars as pl
import pytest
import torch

from habitus.core.errors import CutoffError, TrainingError
from habitus.data.calendar import to_day
from habitus.data.ingest import ingest
from habitus.data.log import EventLog
from habitus.data.schema import Schema
from habitus.tokens.batch import EventBatch
from habitus.tokens.event_loader import EventInputs, EventLoader, assemble_events, last_states, prepare_events
from habitus.tokens.event_split import EventSplit
from habitus.tokens.event_table import event_table
from habitus.tokens.events import EventTokenConfig, fit_event_spec

LAST = EventSplit()
TIME = EventSplit.parse(
    {
        "protocol": "time",
        "train_until": "2020-02-29",
        "valid": ["2020-03-05", "2020-03-31"],
        "test": ["2020-04-01", "2020-04-20"],
    }
)
ITEMS = EventTokenConfig(length=16, fields=("item",))


def sequences(lengths, folder, *, name: str = "log", gap: int = 60, n_items: int = 50):
    """A store of users with so many events each, `gap` seconds apart; items are drawn."""
    draw = np.random.default_rng(0)
    user = np.repeat(np.arange(len(lengths)), lengths)
    place = np.arange(len(user)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    table = pl.DataFrame(
        {"user": user, "time": 1_580_000_000 + place * gap, "item": draw.integers(0, n_items, len(user))}
    )
    schema = {"user": "user", "time": "time", "time_unit": "s", "type": {"constant": "seen"}, "item": "item"}
    return ingest(EventLog(Schema.parse({"name": "log", "events": schema}), table), folder / f"{name}.store")


def rows_of(inputs: EventInputs, **options) -> np.ndarray:
    """The table row that each served target stands for, sorted."""
    found = []
    for batch in EventLoader(inputs, **options):
        row, place = (index.numpy() for index in batch.is_target.nonzero(as_tuple=True))
        found.append(inputs.stretches.low[batch.sample.numpy()[row]] + place + 1)
    return np.sort(np.concatenate(found))


def assert_same(one: EventBatch, two: EventBatch) -> None:
    for f in fields(EventBatch):
        assert torch.equal(getattr(one, f.name).nan_to_num(-1), getattr(two, f.name).nan_to_num(-1)), f.name


@pytest.mark.parametrize("split", [LAST, TIME])
def test_every_target_of_a_part_is_served_once(make_store, shop, split):
    store = make_store(shop)
    spec = fit_event_spec(store, EventTokenConfig(length=8, fields=("item",)), split)
    table = event_table(store, spec)
    for part, context in product(("train", "valid", "test"), (None, 0, 7)):
        inputs = prepare_events(store, spec, split, part, context=context)
        first, end = split.rows(table.offsets, table.day, part)
        first = np.maximum(first, table.offsets[:-1] + 1)
        expected = np.concatenate([np.arange(a, b) for a, b in zip(first, end)])
        assert len(expected)
        assert np.array_equal(rows_of(inputs, tokens_per_batch=64), expected)
        asked = inputs.stretches
        n_past = asked.first - asked.low + 1
        is_first = asked.low == table.offsets[asked.user]
        assert (n_past[~is_first] > (2 if context is None else context)).all()


def test_parts_by_time_hold_their_days_and_leave_the_gap_out(make_store, shop):
    store = make_store(shop)
    spec = fit_event_spec(store, ITEMS, TIME)
    day = event_table(store, spec).day
    seen = {part: day[rows_of(prepare_events(store, spec, TIME, part))] for part in ("train", "valid", "test")}
    assert seen["train"].max() == to_day("2020-02-29")
    assert (seen["valid"].min(), seen["valid"].max()) == (to_day("2020-03-05"), to_day("2020-03-31"))
    assert (seen["test"].min(), seen["test"].max()) == (to_day("2020-04-01"), to_day("2020-04-20"))


def test_another_future_leaves_the_batches_of_a_part_bit_equal(make_store, shop):
    store = make_store(shop)
    is_late = pl.col("time") >= pl.datetime(2020, 3, 1)
    late = shop.filter(is_late)
    other = late.with_columns(item=pl.lit("i1"), kind=pl.lit("refund"), spend=pl.lit(9.0))
    later = other["time"].dt.offset_by("2h")
    changed = make_store(pl.concat([shop.filter(~is_late), other.with_columns(time=later)]), name="changed")
    spec = fit_event_spec(store, EventTokenConfig(length=8), TIME)
    assert spec.fingerprint == fit_event_spec(changed, spec.tokens, TIME).fingerprint
    for has_end in (False, True):
        one, two = (prepare_events(s, spec, TIME, "train", has_end=has_end) for s in (store, changed))
        for a, b in zip(EventLoader(one, is_training=True), EventLoader(two, is_training=True), strict=True):
            assert_same(a, b)
    users = np.arange(store.n_users)
    days = np.full(store.n_users, to_day("2020-02-29"), np.int32)
    one, two = (last_states(s, spec, users, days) for s in (store, changed))
    assert_same(assemble_events(one, users), assemble_events(two, users))
    ends = assemble_events(one, users)
    assert not ends.next_ids[users, ends.length - 1].any()
    assert not ends.is_target.any()


def test_a_batch_row_is_the_users_events_and_their_successors(make_store, shop):
    store = make_store(shop)
    spec = fit_event_spec(store, EventTokenConfig(length=8), TIME)
    table, inputs = event_table(store, spec), prepare_events(store, spec, TIME, "valid")
    batch = assemble_events(inputs, np.arange(len(inputs)))
    assert batch.ids.shape[1] <= 8
    for row in range(len(batch)):
        low, n = inputs.stretches.low[row], int(batch.length[row])
        assert np.array_equal(batch.ids[row, :n], table.ids[low : low + n])
        assert np.array_equal(batch.next_ids[row, :n], table.ids[low + 1 : low + n + 1])
        assert np.array_equal(batch.next_time[row, :n], table.time[low + 1 : low + n + 1])
        assert np.array_equal(batch.amount[row, :n], table.amount[low : low + n])
        assert not batch.ids[row, n:].any()
        assert not batch.is_target[row, n:].any()
        owner = inputs.stretches.user[row]
        assert table.offsets[owner] <= low
        assert low + n < table.offsets[owner + 1]


def test_padding_stays_below_five_per_cent(tmp_path):
    draw = np.random.default_rng(0)
    shapes = {
        "beauty": np.minimum(draw.geometric(1 / 9, 20_000) + 2, 200),
        "long tail": np.minimum(draw.lognormal(3, 1.2, 3_000).astype(int) + 3, 2_000),
        "two kinds": np.where(draw.random(3_000) < 0.5, 4, 180),
    }
    for name, lengths in shapes.items():
        store = sequences(lengths, tmp_path, name=name)
        spec = fit_event_spec(store, EventTokenConfig(length=200, fields=("item",)), LAST)
        for part, is_training in (("train", True), ("test", False)):
            loader = EventLoader(prepare_events(store, spec, LAST, part), is_training=is_training)
            for _ in loader:
                pass
            assert 1 - loader.n_tokens / loader.n_places < 0.05, name


def test_a_user_of_one_event_and_a_user_of_a_hundred_thousand(tmp_path):
    store = sequences(np.array([1, 100_000, 3]), tmp_path, gap=1)
    spec = fit_event_spec(store, EventTokenConfig(length=128), LAST)
    inputs = prepare_events(store, spec, LAST, "train")
    assert 0 not in inputs.stretches.user
    assert len(rows_of(inputs)) == 100_000 - 3
    newest = prepare_events(store, spec, LAST, "train", per_user=1)
    assert newest.stretches.user.tolist() == [1]
    assert newest.stretches.high[0] == inputs.stretches.high.max()
    users = np.arange(3)
    ends = last_states(store, spec, users, np.full(3, store.last_day))
    batch = assemble_events(ends, users)
    assert batch.length.tolist() == [1, 128, 3]
    assert bool((batch.remaining > 0).all())


def test_events_of_one_instant_keep_their_order(tmp_path):
    items = [f"i{i}" for i in np.random.default_rng(0).permutation(500)]
    table = pl.DataFrame({"user": ["a"] * 500, "time": ["2020-01-01"] * 500, "item": items})
    schema = {"name": "log", "events": {"user": "user", "time": "time", "type": {"constant": "x"}, "item": "item"}}
    store = ingest(EventLog(Schema.parse(schema), table), tmp_path / "tied.store")
    spec = fit_event_spec(store, EventTokenConfig(length=600), EventSplit())
    batch = assemble_events(prepare_events(store, spec, LAST, "train"), np.array([0]))
    column = spec.column("item")
    told = [spec.values["item"][i - 2] for i in batch.next_ids[0, :, column].tolist()]
    assert told == items[1:498]
    assert batch.ids[0, 1:, spec.column("gap")].tolist() == [2] * 496  # ties


def test_unseen_values_are_unknown_and_types_unknown_are_no_target(make_store, shop):
    kind = pl.when(pl.col("time") >= pl.datetime(2020, 4, 1)).then(pl.lit("new")).otherwise("kind")
    item = pl.when(pl.col("time") >= pl.datetime(2020, 3, 10)).then(pl.lit("new")).otherwise("item")
    store = make_store(shop.with_columns(kind=kind.alias("kind"), item=item.alias("item")))
    spec = fit_event_spec(store, EventTokenConfig(length=8), TIME)
    test = prepare_events(store, spec, TIME, "test")
    batch = assemble_events(test, np.arange(len(test)))
    assert not batch.is_target.any()
    valid = prepare_events(store, spec, TIME, "valid")
    batch = assemble_events(valid, np.arange(len(valid)))
    assert bool((batch.next_ids[batch.is_target][:, spec.column("item")] == 1).any())


def test_the_silence_at_the_end_of_train_is_known_when_asked_for(make_store, shop):
    store = make_store(shop)
    spec = fit_event_spec(store, EventTokenConfig(length=8), TIME)
    table = event_table(store, spec)
    inputs = prepare_events(store, spec, TIME, "train", has_end=True)
    batch = assemble_events(inputs, np.arange(len(inputs)))
    is_end = torch.isfinite(batch.remaining)
    assert sorted(inputs.stretches.user[is_end.numpy()]) == list(range(store.n_users))
    end_of_train = np.datetime64("2020-03-01T00:00", "s").astype(np.int64)
    for row in is_end.nonzero()[:, 0].tolist():
        user, n = inputs.stretches.user[row], int(batch.length[row])
        mine = table.time[table.offsets[user] : table.offsets[user + 1]]
        last = mine[mine < end_of_train][-1]
        assert batch.time[row, n - 1] == last
        assert float(batch.remaining[row]) == end_of_train - last
        assert not batch.is_target[row, n - 1]
    assert np.array_equal(rows_of(inputs), rows_of(prepare_events(store, spec, TIME, "train")))


def test_unseen_users_are_in_no_part(make_store, shop):
    store = make_store(shop)
    split = TIME.model_copy(update={"unseen_users": 0.3})
    spec = fit_event_spec(store, ITEMS, split)
    users = {
        is_unseen: {
            int(user)
            for part in ("train", "test")
            for user in prepare_events(store, spec, split, part, unseen=is_unseen).stretches.user
        }
        for is_unseen in (False, True)
    }
    assert not users[False] & users[True]
    assert len(users[True]) > 3


def test_a_run_goes_on_after_any_batch(make_store, shop):
    store = make_store(shop)
    inputs = prepare_events(store, fit_event_spec(store, ITEMS, LAST), LAST, "train")
    options = {"tokens_per_batch": 64, "is_training": True, "seed": 5}
    whole = EventLoader(inputs, **options)
    whole.set_epoch(2)
    batches = list(whole)
    assert len(batches) > 4
    begun = EventLoader(inputs, **options)
    begun.set_epoch(2)
    first = [batch for _, batch in zip(range(3), begun)]
    later = EventLoader(inputs, **options)
    later.load_state_dict(begun.state_dict())
    for one, two in zip([*first, *later], batches, strict=True):
        assert_same(one, two)
    whole.set_epoch(3)
    assert [b.sample.tolist() for b in whole] != [b.sample.tolist() for b in batches]
    with pytest.raises(TrainingError, match="seed 5"):
        EventLoader(inputs, seed=4).load_state_dict(begun.state_dict())


def test_a_part_without_a_target_and_a_user_without_a_past_are_refused(tmp_path):
    store = sequences(np.array([2, 2]), tmp_path)
    spec = fit_event_spec(store, ITEMS, LAST)
    with pytest.raises(CutoffError, match="none in the test part"):
        prepare_events(store, spec, LAST, "test")
    with pytest.raises(CutoffError, match="on or before the cut-off"):
        last_states(store, spec, np.array([1]), np.array([store.first_day - 1]))


@pytest.mark.parametrize("split", [LAST, TIME])
def test_train_and_valid_together_are_everything_before_the_test(make_store, shop, split):
    store = make_store(shop)
    spec = fit_event_spec(store, ITEMS, split)
    table = event_table(store, spec)
    both = rows_of(prepare_events(store, spec, split, "train+valid"))
    first, _ = split.rows(table.offsets, table.day, "test")
    is_before = np.concatenate([np.arange(a, b) < end for a, b, end in zip(table.offsets, table.offsets[1:], first)])
    is_before[table.offsets[:-1]] = False
    assert np.array_equal(both, np.flatnonzero(is_before))


def test_held_out_types_are_read_as_unknown_and_never_asked_for(make_store, shop):
    store = make_store(shop)
    config = EventTokenConfig(length=16, fields=("type", "item"), held_out=("refund",))
    spec = fit_event_spec(store, config, TIME)
    inputs = prepare_events(store, spec, TIME, "train")
    batch = assemble_events(inputs, np.arange(len(inputs)))
    assert bool((batch.ids[..., 0][~batch.is_padding] == 1).any())
    assert not (batch.next_ids[..., 0][batch.is_target] == 1).any()


@pytest.mark.parametrize("protocol", ["time", "leave_last_out"])
def test_users_with_too_short_a_past_are_not_asked(protocol):
    offsets, day = np.array([0, 2, 8, 11]), np.array([5, 9, 1, 2, 3, 6, 7, 9, 1, 8, 9])
    days = {"train_until": "1970-01-05", "valid": ["1970-01-07", "1970-01-08"], "test": ["1970-01-09", "1970-01-12"]}
    chosen = {"protocol": protocol} | (days if protocol == "time" else {})
    every, some = (EventSplit.parse(chosen | {"eligible": n}) for n in (0, 3))
    for part in ("train", "valid", "test", "train+valid"):
        (first, end), (later, same) = every.rows(offsets, day, part), some.rows(offsets, day, part)
        assert (end == same).all()
        asked, wanted = ({(u, r) for u in range(3) for r in range(f[u], end[u])} for f in (later, first))
        is_kept = {(u, r) for u, r in wanted if part.startswith("train") or r - offsets[u] >= 3}
        assert asked == is_kept
    assert sum(every.rows(offsets, day, "test")[1] - every.rows(offsets, day, "test")[0]) > 1
    assert some.rows(offsets, day, "test")[0].tolist() != every.rows(offsets, day, "test")[0].tolist()
