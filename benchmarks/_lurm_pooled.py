"""States of the two other encoders of the project, pooled to one vector per user: what LURM is held against.

Both are tiny and are trained on the same log up to the same cut-off. BehaveGPT foretells the next event; its states of
the last events are averaged. LUMOS answers for days: it is taught whether the user has any event, and how many, in the
horizon after earlier cut-offs, so that it has seen labels of a like kind, of the past.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import Tensor

from benchmarks._event_logs import train as train_model
from benchmarks._lurm_tasks import Study, journey_log, opened
from habitus.data.calendar import to_date
from habitus.data.cutoffs import Samples
from habitus.data.log import EventLog
from habitus.data.schema import Schema
from habitus.data.store import Store
from habitus.models.artifact import load_artifact
from habitus.models.behavegpt import BehaveGPT, BehaveGPTConfig
from habitus.tasks.embed import vectors_of
from habitus.tasks.train import train
from habitus.tasks.train_events import target_counts
from habitus.tokens.event_loader import EventLoader, last_states, prepare_events
from habitus.tokens.event_split import EventSplit
from habitus.tokens.events import EventTokenConfig, fit_event_spec
from habitus.tokens.gaps import GapBins
from habitus.tokens.loader import prepare
from habitus.tokens.spec import InputSpec
from habitus.training.objectives.joint import JointEvents

LENGTH = 64  # events that BehaveGPT reads
EPOCHS = 2
MOST_USERS = 4_000  # whom LUMOS is trained on
RECIPE = """
name = "pooled"
store = "{store}"
refit = false

[cutoffs]
horizon = {horizon}
train = {{ days = [{train}] }}
valid = {{ days = [{valid}] }}
test = {{ days = [{test}] }}
unseen_users = {unseen}

[[targets]]
name = "any"
define = "any({types}) in {horizon}d"

[[targets]]
name = "n"
define = "count({types}) in {horizon}d"

[model]
name = "lumos"
size = "tiny"
d_profile = 128
profile_gain = 1.0
dropout = 0.2

[loader]
per_user = 2

[training]
lr = 1e-3
epochs = {epochs}
"""


def behavegpt_states(made: Study) -> np.ndarray:
    """Train on each user's newest events up to the cut-off; mean state of the last `LENGTH`, float32 [n, 64]."""
    began = time.perf_counter()
    days = [to_date(made.day + k) for k in range(5)]
    split = EventSplit.parse({"protocol": "time", "train_until": days[0], "valid": days[1:3], "test": days[3:5]})
    spec = fit_event_spec(made.store, EventTokenConfig.parse({"length": LENGTH, "min_count": 5}), split)
    plain = [name for name in ("type", "item") if name in spec.fields]
    chosen = {"size": "tiny", "n_blocks": 2, "form": "paper", "inputs": spec.fields, "plain": plain}
    model = BehaveGPT(BehaveGPTConfig.parse(chosen), spec.shape)
    inputs = prepare_events(made.store, spec, split, "train", per_user=1)
    counts = target_counts(EventLoader(inputs))
    objective = JointEvents(model.links, model.config.plain, counts, GapBins.of(spec.gap_edges), is_censored=False)
    train_model(model, objective, EventLoader(inputs, tokens_per_batch=2048, is_training=True), range(EPOCHS))
    asked = last_states(made.store, spec, made.users, np.full(len(made.users), made.day, np.int32))
    found = np.zeros((len(made.users), model.config.d_model), np.float32)
    with torch.no_grad():
        for batch in EventLoader(asked, tokens_per_batch=16_384):
            found[batch.sample.numpy()] = _mean(model(batch), ~batch.is_padding).numpy()
    print(f"  pooled BehaveGPT: {time.perf_counter() - began:.0f} s", flush=True)
    return found


def lumos_states(made: Study) -> np.ndarray:
    """Train on earlier cut-offs whose horizon ends by the cut-off; states pooled by `recent`, float32 [n, D]."""
    began, step = time.perf_counter(), max(made.horizon, 28)
    store = without_profile(made)
    first = max(made.day - 8 * step, store.first_day + 28)
    cut = [str(to_date(day)) for day in range(made.day - 2 * step, first, -step)]
    types, unseen = " | ".join(store.types), max(0.0, 1 - MOST_USERS / store.n_users)
    text = RECIPE.format(
        store=store.path, horizon=made.horizon, train=", ".join(sorted(cut)), valid=to_date(made.day - step),
        test=to_date(made.day), unseen=unseen, types=types, epochs=EPOCHS,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder) / "pooled.toml"
        recipe.write_text(text, "utf-8")
        artifact = load_artifact(train(recipe, out=Path(folder) / "run").artifact_path)
    ids = made.store.users["user"].gather(made.users)
    place = pl.DataFrame({"user": store.users["user"]}).with_row_index("at")
    users = pl.DataFrame({"user": ids}).join(place, on="user", how="left", maintain_order="left")["at"].to_numpy()
    samples = Samples(users.astype(np.int64), np.full(len(users), made.day, np.int32))
    inputs = prepare(store, InputSpec.from_json(artifact.spec), samples, has_targets=False)
    found = vectors_of(artifact.members[0], inputs)
    print(f"  pooled LUMOS: {time.perf_counter() - began:.0f} s", flush=True)
    return found


def without_profile(made: Study) -> Store:
    """Give the study's log; where labels are columns of the profile, one without it, which LUMOS would read."""
    if not made.name.startswith("complete_journey"):
        return made.store

    def bare() -> EventLog:
        log = journey_log()
        schema = log.schema.dump()
        del schema["profile"]
        return dataclasses.replace(log, schema=Schema.parse(schema), users=None)

    return opened("complete_journey_bare", bare)


def _mean(state: Tensor, is_there: Tensor) -> Tensor:
    weight = is_there[..., None].to(state.dtype)
    return (state * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)
