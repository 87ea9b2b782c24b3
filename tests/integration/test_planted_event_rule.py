"""A rule that only order and time show, "A, then B within two hours, then C", is learnt and generated."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from habitus.data.ingest import ingest
from habitus.data.sources.event_worlds import DAY, RULE_SECONDS, START, RulesWorld, event_world
from habitus.models.behavegpt import BehaveGPT, BehaveGPTConfig
from habitus.tasks.generate import Futures
from habitus.tasks.rollout import DrawConfig
from habitus.testing.threads import one_thread
from habitus.tokens.event_loader import EventLoader, prepare_events
from habitus.tokens.event_split import EventSplit
from habitus.tokens.events import EventTokenConfig, fit_event_spec
from habitus.tokens.gaps import GapBins
from habitus.training.objectives.joint import JointEvents

__all__ = ["one_thread"]

FIELDS = ("gap", "weekday", "slot", "type")


@pytest.fixture(scope="module")
def learnt(tmp_path_factory):
    """A briefly trained model, its spec, store and split."""
    torch.set_num_threads(1)
    store = ingest(event_world(RulesWorld(n_users=260, n_events=60)), tmp_path_factory.mktemp("rules") / "store")
    parts = {"valid": ("2023-02-01", "2023-02-15"), "test": ("2023-02-16", "2023-12-31")}
    split = EventSplit.parse({"protocol": "time", "train_until": "2023-01-31", **parts})
    spec = fit_event_spec(store, EventTokenConfig(length=32, fields=FIELDS, n_gap_bins=24), split)
    model = BehaveGPT(BehaveGPTConfig(size="tiny", n_blocks=2, dropout=0.0), spec.shape)
    loader = EventLoader(prepare_events(store, spec, split, "train"), tokens_per_batch=1024, is_training=True)
    counts = {name: torch.ones(n) for name, n in spec.shape.fields}
    objective = JointEvents(model.links, ("type",), counts, GapBins.of(spec.gap_edges))
    optimiser = torch.optim.AdamW(model.parameters(), lr=4e-3)
    for epoch in range(14):
        loader.set_epoch(epoch)
        optimiser.param_groups[0]["lr"] = 5e-3 * (1 - epoch / 15)
        for batch in loader:
            optimiser.zero_grad()
            objective(model, batch).value.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
    return model.eval(), spec, store, split


def test_c_is_expected_after_the_rule_and_not_after_a_slow_b(learnt):
    model, spec, store, split = learnt
    a, b, c = (spec.lookup("type", [name])[0] for name in "ABC")
    kind = spec.column("type")
    found = {True: [], False: []}
    for batch in EventLoader(prepare_events(store, spec, split, "test"), tokens_per_batch=8192):
        with torch.no_grad():
            logits = model.query(model(batch), "type") @ model.output("type")[0].T + model.output("type")[1]
        p = logits[..., 2:].softmax(dim=-1)[..., c - 2]
        pair = (batch.ids[:, 1:, kind] == b) & (batch.ids[:, :-1, kind] == a) & batch.is_target[:, 1:]
        gap = batch.time[:, 1:] - batch.time[:, :-1]
        for is_near, where in ((True, pair & (gap < 0.8 * RULE_SECONDS)), (False, pair & (gap > 1.5 * RULE_SECONDS))):
            found[is_near].append(p[:, 1:][where])
    near, far = (torch.cat(found[is_near]) for is_near in (True, False))
    assert min(len(near), len(far)) >= 20
    assert near.mean() > 0.8
    assert far.mean() < 0.25


def test_generated_futures_keep_the_rule(learnt):
    model, spec, store, _ = learnt
    cutoff = (START + 40 * DAY) // DAY
    futures = Futures(model, spec, store, np.arange(120), cutoff, 14, 2, DrawConfig(max_events=60))
    events = futures.draw(0, 120)[0]
    kind, row = events["type"].to_numpy(), (events["user"].cast(str) + "/" + events["sample"].cast(str)).to_numpy()
    time = events["time"].dt.epoch("s").to_numpy()
    same = (row[2:] == row[:-2]) & (kind[:-2] == "A") & (kind[1:-1] == "B")
    near = same & (time[1:-1] - time[:-2] < 0.8 * RULE_SECONDS)
    assert near.sum() > 30
    assert (kind[2:][near] == "C").mean() > 0.7
