"""Counted models against plain counting in Python; their tables survive an artifact's way of saving."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from habitus.core.errors import ConfigError
from habitus.models.history_density import DAY, HistoryDensity, HistoryDensityConfig
from habitus.models.popularity import Popularity, PopularityConfig
from habitus.models.transition import Transition, TransitionConfig
from habitus.testing.contracts import ModelContract
from habitus.testing.events import event_batch, pad_events
from habitus.testing.threads import one_thread
from habitus.tokens.batch import EventBatch
from habitus.tokens.events import EventShape

__all__ = ["one_thread"]

SHAPE = EventShape((("type", 6), ("item", 9)), n_amounts=0, length=10)
LOADER = [event_batch(20, SHAPE, seed) for seed in (10, 11)]


class CountedContract(ModelContract):
    """Counted models have buffers only: every `counted` on other events is another model."""

    field = "item"

    def batch(self, n: int, seed: int = 0) -> EventBatch:
        return event_batch(n, SHAPE, seed)

    def run(self, model: nn.Module, batch: EventBatch) -> list[torch.Tensor]:
        return [model.scores(batch, self.field)[:, 2:]]  # pyright: ignore

    def test_every_weight_has_a_finite_gradient(self) -> None:
        assert not list(self.make().parameters())

    def test_the_values_share_one(self) -> None:
        scores = self.make().scores(self.batch(5), self.field)  # pyright: ignore
        assert bool(torch.isneginf(scores[:, :2]).all())
        torch.testing.assert_close(scores.exp().sum(dim=1), torch.ones(5))

    def test_scores_at_the_last_event_are_the_scores(self) -> None:
        model, batch = self.make(), replace(self.batch(5), remaining=torch.zeros(5))
        found = model.scores_at(batch, torch.arange(5), batch.length - 1, self.field)  # pyright: ignore
        assert torch.equal(found, model.scores(batch, self.field))  # pyright: ignore

    def test_padding_changes_no_score(self) -> None:
        model, batch = self.make(), self.batch(5)
        assert torch.equal(self.run(model, batch)[0], self.run(model, pad_events(batch, 3))[0])

    def test_batches_of_the_loader_may_be_cut_anywhere(self) -> None:
        one = self.make().state_dict()
        two = self.cut().state_dict()
        assert all(torch.equal(a, two[name]) for name, a in one.items())

    def cut(self) -> nn.Module:
        """Give `make(0)` counted over single rows."""
        raise NotImplementedError


def single_rows(loader: list[EventBatch]) -> list[EventBatch]:
    from habitus.testing.contracts import take

    return [take(batch, torch.tensor([row])) for batch in loader for row in range(len(batch))]


class TestTransition(CountedContract):
    config = TransitionConfig(smoothing=2.0, last_k=3)

    def make(self, seed: int = 0) -> nn.Module:
        return Transition.counted(self.config, SHAPE, LOADER[seed:])

    def cut(self) -> nn.Module:
        return Transition.counted(self.config, SHAPE, single_rows(LOADER))


class TestPopularity(CountedContract):
    config = PopularityConfig(repeat=0.3)

    def make(self, seed: int = 0) -> nn.Module:
        return Popularity.counted(self.config, SHAPE, LOADER[seed:])

    def cut(self) -> nn.Module:
        return Popularity.counted(self.config, SHAPE, single_rows(LOADER))


class TestHistoryDensity(CountedContract):
    field = "type"

    def make(self, seed: int = 0) -> nn.Module:
        return HistoryDensity.counted(HistoryDensityConfig(), SHAPE, LOADER[seed:])

    def cut(self) -> nn.Module:
        return HistoryDensity.counted(HistoryDensityConfig(), SHAPE, single_rows(LOADER))


def pairs(loader: list[EventBatch], column: int, step: int = 0) -> Counter:
    found: Counter = Counter()
    for b in loader:
        for r in range(len(b)):
            for t in range(step, b.ids.shape[1]):
                a, told = int(b.ids[r, t - step, column]), int(b.next_ids[r, t, column])
                if b.is_target[r, t] and a > 1 and told > 1:
                    found[a, told] += 1
    return found


def test_transitions_by_hand() -> None:
    model = Transition.counted(TransitionConfig(smoothing=2.0, last_k=2, decay=0.5), SHAPE, LOADER)
    count = pairs(LOADER, 1)
    begun, ended = Counter(), Counter()
    for (a, b), n in count.items():
        begun[a] += n
        ended[b] += n
    prior = {b: (ended[b] + 1) / (ended.total() + 7) for b in range(2, 9)}

    def share(a: int, b: int) -> float:
        return (count[a, b] + 2 * prior[b]) / (begun[a] + 2)

    batch = event_batch(30, SHAPE, 3)
    found = model.scores(batch, "item").exp()
    for r in range(30):
        t = int(batch.length[r]) - 1
        past = [int(batch.ids[r, i, 1]) for i in (t, t - 1) if i >= 0]
        weights = [w if a > 1 else 0.0 for a, w in zip(past, (1.0, 0.5))]
        for b in range(2, 9):
            voted = sum(w * share(a, b) for a, w in zip(past, weights) if w)
            expected = voted / sum(weights) if sum(weights) else prior[b]
            assert float(found[r, b]) == pytest.approx(expected, rel=1e-4)
    assert any(int(batch.ids[r, int(batch.length[r]) - 1, 1]) == 1 for r in range(30))  # an unknown last item was met


def test_log_share_is_the_score_of_one_value() -> None:
    model = Transition.counted(TransitionConfig(last_k=3), SHAPE, LOADER)
    batch = event_batch(20, SHAPE, 4)
    row, place = batch.is_target.nonzero(as_tuple=True)
    told = batch.next_ids[row, place, 1]
    whole = model.scores_at(batch, row, place, "item").gather(1, told[:, None])[:, 0]
    torch.testing.assert_close(model.log_share(batch, row, place, told), whole, rtol=1e-4, atol=1e-5)
    nothing = Transition(TransitionConfig(), SHAPE).log_share(batch, row, place, told)
    torch.testing.assert_close(nothing, torch.full_like(nothing, np.log(1 / 7)))


def test_many_pairs_are_looked_up_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = Transition.counted(TransitionConfig(last_k=3), SHAPE, LOADER), event_batch(9, SHAPE, 4)
    whole = model.scores(batch, "item")
    monkeypatch.setattr("habitus.models.transition.PAIRS", 10)
    assert torch.equal(model.scores(batch, "item"), whole)


def test_a_wider_reach_counts_pairs_further_apart_for_less() -> None:
    near, wide = (Transition.counted(TransitionConfig(reach=r, fade=2), SHAPE, LOADER) for r in (1, 2))
    far = pairs(LOADER, 1, step=1)
    assert float(wide.count.sum() - near.count.sum()) == pytest.approx(far.total() / 4)


def test_tuning_takes_the_likeliest() -> None:
    model = Transition.counted(TransitionConfig(), SHAPE, LOADER)
    valid = [event_batch(30, SHAPE, 5)]
    tuned = model.tuned(valid, smoothing=(0.01, 1e6), last_k=(1,))
    row, place = valid[0].is_target.nonzero(as_tuple=True)
    told = valid[0].next_ids[row, place, 1]
    both = [model._with({"smoothing": m}).log_share(valid[0], row, place, told).sum() for m in (0.01, 1e6)]
    assert tuned.config.smoothing == (0.01, 1e6)[int(both[1] > both[0])]  # random events: the graph is noise
    assert tuned.config.smoothing == 1e6
    lost = replace(valid[0], next_ids=valid[0].next_ids.clone())
    lost.next_ids[0, :, 1] = 1  # what nobody can tell must not make all candidates alike
    assert model.tuned([lost], smoothing=(0.01, 1e6), last_k=(1,)).config.smoothing == 1e6


def test_pairs_further_apart_than_a_row_is_long_are_none() -> None:
    short = event_batch(6, SHAPE, 1, n_events=2)
    assert len(Transition.counted(TransitionConfig(reach=5), SHAPE, [short]).follower)


def test_popularity_by_hand_for_every_day() -> None:
    asked = event_batch(20, SHAPE, 3)
    place = asked.length - 1
    asked = replace(asked, next_time=asked.time + 3_600)
    events = [
        (int(b.next_time[r, t]) // 86_400, int(b.next_ids[r, t, 1]))
        for b in LOADER
        for r, t in b.is_target.nonzero().tolist()
    ]
    rolling = Popularity.counted(PopularityConfig(days=7, at="request"), SHAPE, LOADER).scores(asked, "item").exp()
    everything = Popularity.counted(PopularityConfig(), SHAPE, LOADER).scores(asked, "item").exp()
    for r in range(20):
        day = int(asked.next_time[r, place[r]]) // 86_400
        before = Counter(v for d, v in events if day - 7 <= d < day)
        total, whole = before.total() + 7e-6, Counter(v for _, v in events)
        for v in range(2, 9):
            assert float(rolling[r, v]) == pytest.approx((before[v] + 1e-6) / total, rel=1e-4)
            assert float(everything[r, v]) == pytest.approx(whole[v] / whole.total(), rel=1e-4)


def test_popularity_of_the_last_days_ends_with_what_was_counted() -> None:
    events = [
        (int(b.next_time[r, t]) // 86_400, int(b.next_ids[r, t, 1]))
        for b in LOADER
        for r, t in b.is_target.nonzero().tolist()
    ]
    last = max(day for day, _ in events)
    lately = Counter(v for day, v in events if day > last - 7)
    found = Popularity.counted(PopularityConfig(days=7), SHAPE, LOADER).scores(event_batch(1, SHAPE), "item").exp()
    assert [float(p) for p in found[0, 2:]] == pytest.approx(
        [(lately[v] + 1e-6) / (lately.total() + 7e-6) for v in range(2, 9)], rel=1e-4
    )


def test_popularity_counts_on() -> None:
    one = Popularity.counted(PopularityConfig(), SHAPE, LOADER[:1]).also(LOADER[1:])
    two = Popularity.counted(PopularityConfig(), SHAPE, LOADER)
    assert all(torch.equal(a, two.state_dict()[n]) for n, a in one.state_dict().items())


def test_popularity_at_request_needs_the_instant() -> None:
    batch = event_batch(3, SHAPE)
    with pytest.raises(ConfigError, match="instant"):
        Popularity(PopularityConfig(at="request"), SHAPE).scores(replace(batch, next_time=batch.next_time * 0), "item")


def test_own_repeats_are_those_up_to_the_asking_event() -> None:
    model, batch = Popularity.counted(PopularityConfig(repeat=1.0), SHAPE, LOADER), event_batch(4, SHAPE, 8)
    row, place = torch.tensor([3, 3]), torch.tensor([2, 7])
    found = model.scores_at(batch, row, place, "item").exp()
    for i, t in enumerate((2, 7)):
        own = Counter(v for v in batch.ids[3, : t + 1, 1].tolist() if v > 1)
        assert [float(p) for p in found[i, 2:]] == pytest.approx([own[v] / own.total() for v in range(2, 9)])


def test_history_density_by_hand() -> None:
    shape = EventShape((("type", 4),), n_amounts=0, length=4)
    batch = event_batch(1, shape, n_events=3)
    batch = replace(
        batch,
        ids=torch.tensor([[[2], [3], [3]]]),
        length=torch.tensor([3]),
        time=torch.tensor([[0, int(20 * DAY), int(29 * DAY)]]),
        remaining=torch.tensor([float(DAY)]),
    )
    model = HistoryDensity(HistoryDensityConfig(days=28, smoothing=7), shape)
    model.everybody = torch.tensor([0.0, 0.0, 0.2, 0.1])
    rates = model.rates(batch)[0].tolist()  # 30 days on: the first event is out of the 28 days
    assert rates == pytest.approx([0, 0, 7 * 0.2 / 35, (2 + 0.7) / 35])
    told = model.emit(batch, 40 * DAY)  # 1.6 and 3.09 events
    assert told.value.tolist() == [3, 2, 3, 2, 3]
    expected = 40 * rates[3]
    assert told.after[told.value == 3].tolist() == pytest.approx([(i + 0.5) / expected * 40 * DAY for i in range(3)])
    assert bool((told.after < 40 * DAY).all())
    assert float(told.chance[0]) == pytest.approx(1 - np.exp(-expected), rel=1e-5)


def test_a_row_full_of_events_is_a_shorter_window() -> None:
    shape = EventShape((("type", 3),), n_amounts=0, length=4)
    batch = event_batch(1, shape)
    day = torch.tensor([[0, 1, 2, 4]]) * int(DAY)
    batch = replace(batch, ids=torch.full((1, 4, 1), 2), length=torch.tensor([4]), time=day, remaining=torch.zeros(1))
    model = HistoryDensity(HistoryDensityConfig(days=28, smoothing=1e-9), shape)
    assert float(model.rates(batch)[0, 2]) == pytest.approx(1.0)  # 4 events in 4 days, not in 28


def test_rates_after_an_event_know_nothing_later() -> None:
    model, batch = HistoryDensity.counted(HistoryDensityConfig(days=5), SHAPE, LOADER), event_batch(6, SHAPE, 2)
    row, place = torch.tensor([5, 5, 2]), torch.tensor([9, 3, 0])
    short = replace(
        batch,
        **{n: getattr(batch, n)[5:, :4] for n in ("ids", "time", "next_time", "next_ids", "is_target")},
        **{n: getattr(batch, n)[5:] for n in ("sample", "length", "remaining")},
    )
    short = replace(short, length=torch.tensor([4]), remaining=torch.tensor([0.0]))
    found = model.rates_at(batch, row, place)
    assert found.shape == (3, 6)
    own = HistoryDensity(model.config, EventShape(SHAPE.fields, 0, 4 + 10))
    own.everybody = model.everybody
    whole = HistoryDensity(model.config, EventShape(SHAPE.fields, 0, 30))
    whole.everybody = model.everybody
    torch.testing.assert_close(whole.rates_at(batch, row, place)[1], own.rates(short)[0])


def test_history_density_is_tuned_to_habits_where_there_are_any() -> None:
    """Users who each do one thing daily: the own past tells all, so little is drawn to everybody's rate."""
    shape = EventShape((("type", 6),), n_amounts=0, length=30)
    batch = event_batch(8, shape, n_events=30)
    own = (2 + torch.arange(8) % 4)[:, None, None].expand(8, 30, 1)
    time = (torch.arange(30) * int(DAY)).expand(8, 30)
    batch = replace(batch, ids=own, next_ids=own, time=time, next_time=time + int(DAY), length=torch.full((8,), 30))
    batch = replace(batch, is_target=torch.ones(8, 30, dtype=torch.bool), remaining=torch.full((8,), torch.nan))
    model = HistoryDensity.counted(HistoryDensityConfig(field="type"), shape, [batch])
    wide = HistoryDensity(model.config, EventShape(shape.fields, 0, 99))
    wide.everybody = model.everybody
    assert wide.tuned([batch], days=(28.0,), smoothing=(1.0, 1000.0)).config.smoothing == 1.0


def test_everybodys_rate_is_events_over_observed_time() -> None:
    model = HistoryDensity.counted(HistoryDensityConfig(), SHAPE, LOADER)
    n, seconds = Counter(), 0.0
    for b in LOADER:
        for r, t in b.is_target.nonzero().tolist():
            n[int(b.next_ids[r, t, 0])] += 1
            seconds += int(b.next_time[r, t] - b.time[r, t])
        seconds += float(b.remaining[~b.remaining.isnan()].sum())
    for c in range(2, 6):
        assert float(model.everybody[c]) == pytest.approx(n[c] / (seconds / DAY), rel=1e-5)


@pytest.mark.parametrize("model", [Transition, Popularity])
def test_an_empty_model_loads_counts_of_any_size(model: type) -> None:
    counted, empty = model.counted(model.Config(), SHAPE, LOADER), model(model.Config(), SHAPE)
    empty.load_state_dict(load(save(counted.state_dict())))
    batch = event_batch(4, SHAPE)
    assert torch.equal(empty.scores(batch, "item"), counted.scores(batch, "item"))
