"""Training: a function of seed and step, so that a break changes nothing; the curriculum counts the trainer's steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from habitus.apps.ilora.prepare import Prepared
from habitus.apps.ilora.states import ItemStates
from habitus.apps.ilora.train import IloraTraining, hybrid_share, make_step, n_steps, train_ilora
from habitus.core.errors import TrainingError

QUICK = IloraTraining(epochs=2, rows_per_epoch=24, batch_size=4, lr=1e-2)


def silent(_: str) -> None: ...


def test_losses_fall_and_the_gate_leaves_its_start(prepared: Prepared, make_model, sasrec: Path):
    model, source = make_model(), ItemStates.open(sasrec, prepared.sequences.items)
    rows = prepared.sequences.rows("train")
    long = QUICK.model_copy(update={"epochs": 5, "lr": 3e-2})
    facts = train_ilora(model, rows, source, long, say=silent)
    assert facts["steps"] == n_steps(rows, long) == 30
    assert np.mean(facts["losses"][-10:]) < np.mean(facts["losses"][:10]) - 0.3
    assert facts["n_trained"]["gate"] == 68
    assert 1 < facts["gate"]["effective"] <= 4
    assert facts["gate"]["spread"] > 0


def test_a_killed_training_goes_on_with_the_same_losses(prepared: Prepared, make_model, sasrec: Path, tmp_path: Path):
    source, rows = ItemStates.open(sasrec, prepared.sequences.items), prepared.sequences.rows("train")
    config = QUICK.model_copy(update={"checkpoint_every": 3})
    whole = train_ilora(make_model(), rows, source, config, say=silent)
    train_ilora(make_model(), rows, source, config, folder=tmp_path, say=silent, stop_after=7)  # kept: step 6
    model = make_model()
    again = train_ilora(model, rows, source, config, folder=tmp_path, say=silent)
    assert again["losses"] == whole["losses"]
    assert len(again["losses"]) == 12


def test_the_curriculum_grows_with_the_steps(prepared: Prepared):
    rows = prepared.sequences.rows("train")
    config = IloraTraining(epochs=300, rows_per_epoch=24, batch_size=4)
    total = n_steps(rows, config)
    is_hybrid = np.array([make_step(rows, config, step, 3).is_hybrid for step in range(0, total, 3)])
    third = len(is_hybrid) // 3
    early, late = is_hybrid[:third].mean(), is_hybrid[-third:].mean()
    assert early < 0.3
    assert late > 0.7
    assert hybrid_share(0, total) == 0
    off = config.model_copy(update={"curriculum": False})
    assert make_step(rows, off, 0, 3).is_hybrid


def test_a_step_is_the_same_for_every_arm_and_differs_between_epochs(prepared: Prepared):
    rows = prepared.sequences.rows("train")
    one, same = (make_step(rows, QUICK, 2, 3) for _ in range(2))
    assert (one.rows.at == same.rows.at).all()
    assert (one.items == same.items).all()
    other = make_step(rows, QUICK, 8, 3)
    assert set(one.rows.at) != set(other.rows.at)
    assert set(np.unique(make_step(rows, QUICK.model_copy(update={"batch_size": 24}), 0, 3).template)) == {0, 1, 2}


def test_accumulated_pieces_add_up_to_the_whole_batch(prepared: Prepared, make_model, sasrec: Path):
    source, rows = ItemStates.open(sasrec, prepared.sequences.items), prepared.sequences.rows("train")
    found = []
    for size, pieces in ((8, 1), (4, 2)):
        config = IloraTraining(rows_per_epoch=8, batch_size=size, accumulate=pieces)
        found.append(train_ilora(make_model(), rows, source, config, say=silent)["losses"][0])
    assert found[0] == pytest.approx(found[1], rel=0.05)  # means of tokens are taken piece by piece


def test_no_rows_and_losses_that_are_not_finite_stop_the_run(prepared: Prepared, make_model, sasrec: Path):
    source, rows = ItemStates.open(sasrec, prepared.sequences.items), prepared.sequences.rows("train")
    with pytest.raises(TrainingError, match="train rows"):
        train_ilora(make_model(), rows.take(np.zeros(0, int)), source, QUICK, say=silent)
    model = make_model()
    with torch.no_grad():
        model.trained()["lora"][0].fill_(float("nan"))
    with pytest.raises(TrainingError, match="a finite loss"):
        train_ilora(model, rows, source, QUICK, say=silent)


def test_an_exception_in_a_step_stops_the_run(prepared: Prepared, make_model, sasrec: Path):
    class Broken:
        def states(self, rows):
            raise ValueError("no states today")

    with pytest.raises(ValueError, match="no states today"):
        train_ilora(make_model(), prepared.sequences.rows("train"), Broken(), QUICK, say=silent)  # pyright: ignore


def test_item_states_read_the_past_alone(prepared: Prepared, sasrec: Path):
    source = ItemStates.open(sasrec, prepared.sequences.items, member=1)
    rows = prepared.sequences.rows("test")
    whole = source.states(rows)
    assert whole.shape == (24, 16)
    torch.testing.assert_close(source.states(rows.take(np.array([5]))), whole[5:6], atol=1e-5, rtol=1e-5)
    items = np.tile(np.arange(prepared.sequences.n_items), (24, 1))
    scores = source.scores(rows, items)
    assert scores.shape == (24, 50)
    unknown = ~source.is_known
    assert (scores[:, unknown] == np.finfo(np.float32).min).all()
    assert ItemStates.open(sasrec, prepared.sequences.items).fingerprint != source.fingerprint
