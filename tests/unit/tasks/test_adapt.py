"""Growing a head, few examples, and moving to another domain."""

from __future__ import annotations

import pytest
import torch

from habitus.core.errors import ConfigError
from habitus.models.behavegpt import BehaveGPT, BehaveGPTConfig
from habitus.tasks.adapt import few_shots, grow, grown_spec, of_mode, tables_first, transfer, trunk_slowly, tune
from habitus.testing.events import event_batch
from habitus.testing.threads import one_thread
from habitus.tokens.events import _NO_AMOUNTS, EventShape, EventSpec, EventTokenConfig
from habitus.tokens.gaps import GapBins
from habitus.training.objectives.joint import JointEvents

__all__ = ["one_thread"]

SHAPE = EventShape((("gap", 7), ("weekday", 9), ("type", 6), ("item", 9)), 0, 8)
GAPS = GapBins.of([1, 60, 3600, 86_400, 864_000])


def make(shape: EventShape = SHAPE, seed: int = 0) -> BehaveGPT:
    config = BehaveGPTConfig(size="tiny", n_blocks=1, dropout=0.0, plain=("type", "item"))
    return BehaveGPT(config, shape, seed=seed).eval()


def plain_objective(n_types: int) -> JointEvents:
    return JointEvents((), ("type",), {"type": torch.ones(n_types)}, GAPS)


def test_a_grown_model_leaves_old_logits_as_they_were():
    model, batch = make(), event_batch(5, SHAPE)
    grown = grow(model, 2, similar=[[3]], share=[0.5, 0.01])
    assert grown.shape.fields == (("gap", 7), ("weekday", 9), ("type", 8), ("item", 9))
    for field, n_old in (("type", 6), ("item", 9)):
        torch.testing.assert_close(grown.scores(batch, field)[:, :n_old], model.scores(batch, field))
    u = model(batch)[:, 0]
    told = [m.chain_tell(u, "gap", batch.next_ids[:, 0]) for m in (model, grown)]
    torch.testing.assert_close(grown.chain_logits(told[1], "type")[:, :6], model.chain_logits(told[0], "type"))
    new = grown.scores(batch, "type")[:, 6:]
    bias = model.plain["of_type"].out.bias.mean()
    torch.testing.assert_close(new[:, 0] - torch.tensor(4 * 0.5).log() - bias, model.scores(batch, "type")[:, 3])
    assert torch.equal(grown.tables["of_type"].weight[6], model.tables["of_type"].weight[3])
    with torch.no_grad():
        batch.ids[..., 2] = 7  # the new type can be read
        assert torch.isfinite(grown(batch)).all()


def test_a_tied_table_grows_with_its_head():
    model, batch = make(), event_batch(3, SHAPE)
    grown = grow(model, 3, field="item")
    assert grown.scores(batch, "item").shape == (3, 12)
    torch.testing.assert_close(grown.scores(batch, "item")[:, :9], model.scores(batch, "item"))


def test_a_grown_spec_knows_the_new_names():
    tokens = EventTokenConfig(length=8, held_out=("c", "d"))
    spec = EventSpec("log", tokens, "UTC", ("type",), {"type": ("a", "b")}, (1.0, 9.0), {}, _NO_AMOUNTS)
    grown = grown_spec(spec, ["d"])
    assert grown.lookup("type", ["a", "b", "c", "d"]).tolist() == [2, 3, 1, 4, 1]
    assert grown.tokens.held_out == ("c",)
    assert grown.shape.n_rows("type") == 5
    with pytest.raises(ConfigError, match="'a'"):
        grown_spec(spec, ["a"])


@pytest.mark.parametrize(("mode", "moved"), [("head", {"plain"}), ("head_norms", {"plain", "blocks", "norm"})])
def test_a_mode_trains_what_it_says_and_learns(mode, moved):
    model, batch = make(), event_batch(8, SHAPE)
    before = {n: w.detach().clone() for n, w in model.named_parameters()}
    objective = plain_objective(6)
    first = objective.eval()(model, batch).value.item()
    tune(model, objective, [batch], n_steps=15, factor=of_mode(model, mode), lr=0.02)
    changed = {n.split(".")[0] for n, w in model.named_parameters() if not torch.equal(w, before[n])}
    assert changed == moved
    assert objective.eval()(model, batch).value.item() < first - 0.05


def test_a_pull_keeps_weights_near_where_they_began():
    far = []
    for pull in (0.0, 10.0):
        model = make()
        begin = torch.cat([w.detach().flatten() for w in model.parameters()]).clone()
        tune(model, plain_objective(6), [event_batch(8, SHAPE)], n_steps=10, lr=0.01, pull=pull)
        far.append(float((torch.cat([w.detach().flatten() for w in model.parameters()]) - begin).norm()))
    assert far[1] < 0.5 * far[0]


def test_few_shots_keep_k_per_class_and_their_replay():
    batches = [event_batch(6, SHAPE, seed=s) for s in range(3)]
    shots = few_shots(batches, 2, [3, 5], 4, replay=2)
    labels = torch.cat([b.next_ids[b.is_target][:, 2] for b in shots])
    assert [(labels == c).sum().item() for c in (3, 5)] == [4, 4]
    assert len(labels) == 8 + 16
    assert all(bool(b.is_target.any(dim=1).all()) for b in shots)
    kept = [[b.is_target.tolist() for b in few_shots(batches, 2, [3, 5], 4, replay=2, seed=s)] for s in (0, 0, 1)]
    assert kept[0] == kept[1] != kept[2]


def test_a_transfer_takes_the_trunk_and_the_clock_alone():
    source = make(seed=1)
    shape = EventShape((("gap", 7), ("weekday", 9), ("type", 11), ("item", 4)), 0, 8)
    target, scratch = transfer(source, shape, seed=2), make(shape, seed=2)
    for name, weight in target.state_dict().items():
        is_taken = name.startswith(("blocks", "norm", "fuse", "tables.of_gap", "tables.of_weekday"))
        expected = source.state_dict()[name] if is_taken else scratch.state_dict()[name]
        assert torch.equal(weight, expected), name
    rival = transfer(source, shape, seed=2, is_random=True)
    assert all(torch.equal(a, b) for a, b in zip(rival.state_dict().values(), scratch.state_dict().values()))
    assert [f("blocks.0.out.weight") for f in (tables_first, trunk_slowly)] == [0.0, 0.3]
