"""Both protocols: a cache changes nothing, company changes nothing, and what was written is read by one rule."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from habitus.apps.ilora.answer import answer, read_written
from habitus.apps.ilora.prepare import Prepared
from habitus.core.errors import ConfigError

from .conftest import FAMILIES


def asked(prepared: Prepared, n: int = 5):
    candidates = prepared.candidates().take(np.arange(n))
    rows = candidates.rows(prepared.sequences)
    states = torch.randn(n, 16, generator=torch.Generator().manual_seed(7))
    return candidates, rows.history(), states, rows.keys


@pytest.mark.parametrize("family", FAMILIES)
def test_cached_scores_and_texts_are_those_without_a_cache(prepared: Prepared, make_model, family: str):
    model, question = make_model(family=family), asked(prepared)
    cached = answer(model, *question, rows=4)
    whole = answer(model, *question, rows=2, is_cached=False)
    np.testing.assert_allclose(cached.log_p, whole.log_p, atol=1e-4)
    assert (cached.n_tokens == whole.n_tokens).all()
    assert cached.text == whole.text
    assert np.ptp(cached.log_p, axis=1).min() > 0.1
    assert np.allclose(cached.probability.sum(axis=1), 1)


def test_written_texts_are_those_of_generate(prepared: Prepared, make_model):
    model, (candidates, history, states, keys) = make_model(), asked(prepared, 3)
    found = answer(model, candidates, history, states, keys, is_base=True)
    for i in range(3):
        batch = model.prompts.batch(history[i : i + 1], candidates.items[i : i + 1])
        with model.peft.disable_adapter(), torch.no_grad():
            given = {"inputs_embeds": model.embed(batch, is_hybrid=False), "max_new_tokens": 64, "do_sample": False}
            ids = model.causal.generate(**given, attention_mask=torch.from_numpy(batch.is_token).long())[0].tolist()
            ids = ids[: int(model.prompts.answers.size.max()) + 8]  # what is longer is no title
        end = model.prompts.end
        kept = ids[: ids.index(end)] if end in ids else ids
        assert found.text[i] == model.prompts.tokenizer.decode(kept)


def test_answers_do_not_depend_on_the_batch(prepared: Prepared, make_model):
    model, (candidates, history, states, keys) = make_model(), asked(prepared, 6)
    whole = answer(model, candidates, history, states, keys)
    some = np.array([4, 1])
    part = answer(model, candidates.take(some), history[some], states[some], keys[some], rows=1)
    np.testing.assert_allclose(part.log_p, whole.log_p[some], atol=1e-4)
    assert part.text == [whole.text[4], whole.text[1]]


def test_the_state_moves_the_answer_only_through_a_gate_that_reads_it(prepared: Prepared, make_model):
    candidates, history, states, keys = asked(prepared)
    for gate, moves in (("linear", True), ("resnet", True), ("uniform", False), ("random", False)):
        model = make_model(gate)
        one = answer(model, candidates, history, states, keys, writes=False)
        other = answer(model, candidates, history, states.flip(0), keys, writes=False)
        assert (np.abs(one.log_p - other.log_p).max() > 1e-4) == moves, gate
        assert one.text == [""] * 5


def test_text_mode_and_the_base_know_no_item_vectors(prepared: Prepared, make_model):
    model, question = make_model(), asked(prepared)
    before = [
        answer(model, *question, writes=False, **more).log_p for more in ({}, {"is_hybrid": False}, {"is_base": True})
    ]
    model.vectors.add_(1.0)
    after = [
        answer(model, *question, writes=False, **more).log_p for more in ({}, {"is_hybrid": False}, {"is_base": True})
    ]
    assert [bool(np.abs(a - b).max() > 1e-6) for a, b in zip(before, after)] == [True, False, False]
    assert np.abs(before[1] - before[2]).max() > 1e-3


def test_only_slots_change_between_text_and_hybrid(prepared: Prepared, make_model):
    model, (candidates, history, _, _) = make_model(), asked(prepared)
    batch = model.prompts.batch(history, candidates.items)
    text, hybrid = (model.embed(batch, is_hybrid=mode) for mode in (False, True))
    is_slot = torch.from_numpy(batch.slot_item >= 0)
    assert torch.equal(text[~is_slot], hybrid[~is_slot])
    assert bool((text[is_slot] != hybrid[is_slot]).any(dim=1).all())


def test_rules_of_reading():
    titles = ("Alien", "Aliens", "Heat, The", "Heat")
    items = np.array([[0, 1, 2], [3, 2, 0], [0, 1, 3]])
    said = ["aliens\nsomething", " Heat,  the", "no such"]
    assert read_written(said, items, titles).tolist() == [1, 1, -1]
    assert read_written(said, items, titles, "released").tolist() == [-1, -1, -1]  # inside one another: none is meant
    with pytest.raises(ConfigError, match="strict or released"):
        read_written(said, items, titles, "loose")


def test_a_state_per_row_is_asked_for(prepared: Prepared, make_model):
    candidates, history, states, keys = asked(prepared)
    with pytest.raises(ConfigError, match="a state and a key per row"):
        answer(make_model(), candidates, history, states[:2], keys)
