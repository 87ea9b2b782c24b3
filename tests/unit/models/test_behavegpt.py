"""BehaveGPT: sizes, causality, the window and its cache, heads and chain."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from habitus.core.errors import ConfigError
from habitus.models.behavegpt import BehaveGPT, BehaveGPTConfig, attend, attend_plain
from habitus.testing.threads import one_thread
from habitus.tokens.batch import EventBatch
from habitus.tokens.events import EventShape

__all__ = ["one_thread"]

PAPER = EventShape((("weekday", 9), ("slot", 50), ("place", 19), ("type", 42)), 0, 128)
JOINT = EventShape((("gap", 66), ("weekday", 9), ("slot", 50), ("type", 42), ("item", 1002), ("spend", 36)), 1, 128)
SMALL = EventShape((("gap", 9), ("weekday", 9), ("slot", 50), ("type", 7), ("item", 12), ("spend", 8)), 1, 6)


def ids_of(shape: EventShape, n: int, length: int, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randint(2, rows, (n, length), generator=draw) for _, rows in shape.fields], dim=-1)


def batch_of(ids: Tensor, length: Tensor | None = None) -> EventBatch:
    n, t = ids.shape[:2]
    zeros, time = torch.zeros(n, t, 1), torch.zeros(n, t, dtype=torch.int64)
    length = torch.full((n,), t) if length is None else length
    is_target = torch.arange(t) < length[:, None]
    return EventBatch(ids, zeros, time, length, ids, zeros, time, is_target, torch.full((n,), torch.nan), length * 0)


def make(shape: EventShape = SMALL, seed: int = 0, **chosen) -> BehaveGPT:
    return BehaveGPT(BehaveGPTConfig(**{"size": "tiny", "n_blocks": 3, **chosen}), shape, seed=seed).eval()


@pytest.mark.parametrize(
    ("shape", "form", "size", "expected"),
    [
        (PAPER, "paper", "tiny", 205_864),
        (PAPER, "paper", "small", 1_206_824),
        (PAPER, "paper", "base", 6_379_560),
        (PAPER, "paper", "large", 38_060_072),
        (PAPER, "paper", "scaling", 113_915_944),
        (JOINT, "joint", "tiny", 314_466),
        (JOINT, "joint", "small", 1_491_474),
        (JOINT, "joint", "base", 7_219_058),
        (JOINT, "joint", "large", 40_820_274),
    ],
)
def test_parameters_are_counted_as_written_down(shape, form, size, expected, monkeypatch):
    monkeypatch.setattr(BehaveGPT, "_initialise", lambda self, seed: None)  # drawing 100 M weights is not the matter
    monkeypatch.setattr(BehaveGPT, "to_empty", lambda self, device: self)
    model = BehaveGPT(BehaveGPTConfig(size=size, form=form), shape)
    assert sum(p.numel() for p in model.parameters()) == expected


def test_the_windowed_path_equals_its_plain_twin_in_values_and_gradients():
    for n, window in ((6, 6), (11, 4), (3, 8)):
        draw = torch.Generator().manual_seed(n)
        parts = [torch.randn(2, 2, n, 8, generator=draw) for _ in range(4)]
        found = []
        for path in (attend, attend_plain):
            leaves = [p.clone().requires_grad_() for p in parts[:3]]
            out = path(*leaves, window)
            (out * parts[3]).sum().backward()
            found.append([out.detach(), *(p.grad for p in leaves)])
        for one, other in zip(*found):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("form", ["paper", "joint"])
def test_what_happens_later_leaves_earlier_vectors_bit_equal(form):
    model, ids = make(form=form), ids_of(SMALL, 3, 15)
    other = ids.clone()
    other[:, 9:] = ids_of(SMALL, 3, 15, seed=1)[:, 9:]
    one, two = model(batch_of(ids)), model(batch_of(other))
    assert torch.equal(one[:, :9], two[:, :9])
    assert not torch.equal(one[:, 9:], two[:, 9:])


def test_events_before_every_window_do_not_matter_and_those_within_do():
    model, ids = make(n_blocks=1), ids_of(SMALL, 2, 15)
    for changed, is_seen in ((8, False), (9, True)):
        other = ids.clone()
        other[:, changed] = (ids[:, changed] - 1) % 5 + 2
        assert torch.equal(model.encode(ids)[:, 14], model.encode(other)[:, 14]) is not is_seen


def test_the_cache_gives_what_the_whole_sequence_gives_also_beyond_the_window():
    model, ids = make(), ids_of(SMALL, 5, 30)
    length, rows = torch.tensor([1, 4, 6, 7, 12]), torch.arange(5)
    with torch.no_grad():
        whole = model.encode(ids)
        last, cache = model.prefill(ids[:, :12], length)
        torch.testing.assert_close(last, whole[rows, length - 1], atol=1e-5, rtol=1e-5)
        for k in range(9):
            torch.testing.assert_close(
                model.step(ids[rows, length + k], cache), whole[rows, length + k], atol=1e-5, rtol=1e-5
            )
        kept = torch.tensor([4, 0, 0])  # finished rows leave, a row may be copied
        cache, at = cache.take(kept), length[kept] + 9
        for k in range(8):
            torch.testing.assert_close(model.step(ids[kept, at + k], cache), whole[kept, at + k], atol=1e-5, rtol=1e-5)


def test_padding_changes_nothing_and_an_empty_batch_is_fine():
    model, ids = make(), ids_of(SMALL, 2, 9)
    length = torch.tensor([9, 4])
    padded = ids.clone()
    padded[1, 4:] = 0
    alone = model.embed(batch_of(ids[1:, :4]))
    torch.testing.assert_close(model.embed(batch_of(padded, length))[1:], alone, atol=1e-5, rtol=1e-5)
    assert model.scores(batch_of(ids[:0]), "type").shape == (0, 7)


@pytest.mark.parametrize("form", ["paper", "joint"])
def test_scores_are_queries_times_outputs_and_never_padding_or_unknown(form):
    model, batch = make(form=form, plain=("type", "item")), batch_of(ids_of(SMALL, 3, 5))
    for field in ("type", "item"):
        weight, bias = model.output(field)
        logits = model.query(model(batch)[:, -1], field) @ weight.T + (0 if bias is None else bias)
        scores = model.scores(batch, field)
        assert scores.shape[1] == len(weight) == SMALL.n_rows(field)
        assert torch.isneginf(scores[:, :2]).all()
        torch.testing.assert_close(scores[:, 2:], logits[:, 2:])
    assert model.output("item")[0] is model.tables["of_item"].weight


def test_a_link_knows_what_the_links_before_it_drew_and_no_more():
    model, ids = make(), ids_of(SMALL, 4, 3)
    u = model(batch_of(ids))[:, -1]
    assert model.links == ("gap", "type", "item", "spend")
    for i, told in enumerate(model.links[:-1]):
        follower = model.links[i + 1]
        logits = {}
        for changed in (*(name for name, _ in SMALL.fields), None):
            other = ids[:, 0].clone()
            if changed is not None:
                other[:, SMALL.column(changed)] = (other[:, SMALL.column(changed)] - 1) % 5 + 2
            logits[changed] = model.chain_logits(model.chain_tell(u, told, other), follower)
        heard = {n for n, values in logits.items() if not torch.equal(values, logits[None])}
        assert heard == ({"gap", "weekday", "slot"} if told == "gap" else {told})
        u = model.chain_tell(u, told, ids[:, 0])


def test_errors_name_what_there_is():
    with pytest.raises(ConfigError, match="did you mean 'type'"):
        make(plain=("typ",))
    with pytest.raises(ConfigError, match="a plain head out of: type"):
        make().query(torch.zeros(1, 64), "item")
    with pytest.raises(ConfigError, match="form = 'joint'"):
        make(form="paper").chain_logits(torch.zeros(1, 64), "gap")
    with pytest.raises(ConfigError, match="'gap' for the chain"):
        make(shape=PAPER)


def test_amounts_are_read_as_values_where_asked_for():
    one = batch_of(ids_of(SMALL, 2, 5))
    other = dataclasses.replace(one, amount=one.amount.clone().index_fill_(1, torch.tensor([3]), 2.0))
    without, within = (
        make(form="paper", inputs=("type", "spend")),
        make(form="paper", inputs=("type", "spend"), has_values=True),
    )
    assert torch.equal(without(one), without(other))
    assert torch.equal(within(one)[:, :3], within(other)[:, :3])
    assert not torch.allclose(within(one)[:, 3], within(other)[:, 3])
    n_more = sum(p.numel() for p in within.parameters()) - sum(p.numel() for p in without.parameters())
    assert n_more == SMALL.n_amounts * within.config.d_model
    with pytest.raises(ConfigError, match="has_values"):
        BehaveGPTConfig.parse({"form": "joint", "has_values": True})
