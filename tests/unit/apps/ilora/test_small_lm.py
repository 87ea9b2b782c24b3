"""The model made on the spot: it starts able to copy, and reads nothing that it will be asked about."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from habitus.apps.ilora.model import open_causal
from habitus.apps.ilora.prepare import Prepared
from habitus.apps.ilora.prompts import SLOT, Prompts
from habitus.apps.ilora.small_lm import SmallLMConfig, _loss, make_text, new_model, pretrain, read_pretraining
from habitus.core.errors import ConfigError

MINI = SmallLMConfig(size="mini", pieces=400, tokens=4000, rows=6, history_share=0.5)


def test_the_written_start_copies_and_a_random_one_does_not(prepared: Prepared, prompts: Prompts):
    slot, rows = prompts.tokenizer.convert_tokens_to_ids("[PH]"), prepared.sequences.rows("train")
    plain = MINI.model_copy(update={"history_share": 0.0})
    ids, weight = make_text(prompts, rows, plain, 3, 0.2)
    found = {}
    for start in ("copying", "random"):
        model = new_model(plain.model_copy(update={"start": start}), prompts.tokenizer)
        with torch.no_grad():
            found[start] = float(_loss(model, ids, weight, slot, prompts.pad)[0])
    assert found["random"] > 5.5
    assert found["copying"] < 0.7 * found["random"]


def test_texts_hold_no_item_of_validation_or_test(prepared: Prepared, prompts: Prompts):
    s = prepared.sequences
    held = [
        {*s.item[low:high][-2:]} if seen else {*s.item[low:high]}
        for low, high, seen in zip(s.offsets, s.offsets[1:], s.is_seen)
    ]
    rows, n = s.rows("train"), 0
    for user, past in zip(rows.user, rows.history(20)):
        assert not set(past[past >= 0]) & held[user]
        n += 1
    assert n == len(rows) > 50


def test_texts_are_a_function_of_seed_and_step(prepared: Prepared, prompts: Prompts):
    rows = prepared.sequences.rows("train")
    for done in (0.0, 0.3, 0.9):
        one, same, other = (make_text(prompts, rows, MINI, step, done)[0] for step in (5, 5, 6))
        assert np.array_equal(one, same)
        assert not np.array_equal(one, other)


def test_what_is_told_are_picks_or_the_past_alone(prepared: Prepared, prompts: Prompts):
    rows, kinds = prepared.sequences.rows("train"), set()
    for step in range(8):
        ids, weight = make_text(prompts, rows, MINI, step, 0.9)
        assert ids.shape == weight.shape
        assert not weight[ids == SLOT].any()
        assert not weight[ids == prompts.pad].any()
        kinds.add(bool((weight[ids == prompts.end] == 1).any()))
        if (ids == prompts.end).any():
            assert weight[ids == prompts.end].min() == 1
    assert kinds == {True, False}


def test_a_pretrained_folder_opens_and_notes_what_was_seen(prepared: Prepared, prompts: Prompts, tmp_path: Path):
    said: list[str] = []
    pretrain(prepared.sequences, prompts.config, MINI, tmp_path / "lm", say=said.append)
    model, tokenizer, _ = open_causal(tmp_path / "lm")
    assert len(tokenizer) == 400
    assert tokenizer.padding_side == "left"
    facts = read_pretraining(tmp_path / "lm")
    assert facts["history"][-1]["tokens"] >= 4000
    assert facts["sequences"] == prepared.sequences.fingerprint
    assert facts["n_parameters"] == sum(p.numel() for p in model.parameters())
    assert said
    assert read_pretraining(tmp_path) == {}


def test_a_context_too_short_for_a_text_is_said(prepared: Prepared, prompts: Prompts, tmp_path: Path):
    with pytest.raises(ConfigError, match="context"):
        pretrain(prepared.sequences, prompts.config, MINI.model_copy(update={"context": 64}), tmp_path / "lm")
    assert not (tmp_path / "lm").exists()
