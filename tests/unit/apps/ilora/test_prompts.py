"""Prompts: left padding, labels that are exactly the answer and its end, slots that name their item."""

from __future__ import annotations

import numpy as np
import pytest

from habitus.apps.ilora.candidates import draw_candidates
from habitus.apps.ilora.prepare import Prepared
from habitus.apps.ilora.prompts import IGNORED, SLOT, PromptConfig, Prompts
from habitus.apps.ilora.small_lm import train_tokenizer
from habitus.core.errors import ArtifactError, ConfigError


@pytest.mark.parametrize("part", ["train", "valid", "test"])
@pytest.mark.parametrize("slot", ["before", "after"])
def test_labels_decode_to_title_and_end_for_every_row(prepared: Prepared, prompts: Prompts, part: str, slot: str):
    rows = prepared.sequences.rows(part)  # pyright: ignore
    texts = Prompts(prompts.tokenizer, prompts.titles, PromptConfig(slot=slot), 1024)  # pyright: ignore
    items = draw_candidates(rows).items
    template = np.arange(len(rows)) % texts.n_templates
    batch = texts.batch(rows.history(), items, rows.target, template)
    assert len(rows) > 10
    for i, labels in enumerate(batch.labels):
        told = labels[labels != IGNORED]
        assert told[-1] == texts.end
        assert texts.tokenizer.decode(told[:-1]) == f" {texts.titles[rows.target[i]]}"
        assert (batch.ids[i, -len(told) :] == told).all()
        assert not batch.is_token[i, : (~batch.is_token[i]).sum()].any()
        named = batch.slot_item[i][batch.ids[i] == SLOT]
        past = rows.history()[i]
        assert named.tolist() == [*past[past >= 0], *items[i]]


def test_a_prompt_is_the_beginning_of_its_training_row(prepared: Prepared, prompts: Prompts):
    rows = prepared.sequences.rows("test").take(np.arange(6))
    items = draw_candidates(rows).items
    asked, told = prompts.batch(rows.history(), items), prompts.batch(rows.history(), items, rows.target)
    for i in range(6):
        n = int((told.labels[i] != IGNORED).sum())
        whole = told.ids[i][told.is_token[i]]
        assert (asked.ids[i][asked.is_token[i]] == whole[:-n]).all()
        answer, is_token = prompts.answer_batch(rows.target[i : i + 1])
        assert (answer[is_token] == whole[-n:]).all()


def test_a_text_reads_as_it_should(prompts: Prompts):
    history, items = np.array([[-1, 0]]), np.array([[1, 2]])
    ids = prompts.batch(history, items).ids[0]
    mark = prompts.tokenizer.convert_tokens_to_ids("[PH]")
    text = prompts.tokenizer.decode(np.where(ids == SLOT, mark, ids))
    one, two, three = prompts.titles[:3]
    assert text == (f"[BOS]Chosen so far, oldest first:[PH] {one}\nOn offer:[PH] {two}[PH] {three}\nChosen next:")


def test_a_title_longer_than_the_context_is_named(prompts: Prompts):
    with pytest.raises(ConfigError, match="Long Long") as caught:
        Prompts(prompts.tokenizer, ["Short", "Long " * 60], PromptConfig(), 64)
    assert "context" in str(caught.value)
    with pytest.raises(ConfigError, match="a question of"):
        Prompts(prompts.tokenizer, prompts.titles, PromptConfig(), 64).batch(
            np.zeros((1, 10), int), np.ones((1, 20), int)
        )
    with pytest.raises(ConfigError, match="titles with text"):
        Prompts(prompts.tokenizer, ["Short", ""], PromptConfig(), 64)


def test_a_tokenizer_without_an_end_is_refused(prompts: Prompts):
    tokenizer = train_tokenizer(prompts.titles, PromptConfig(), 400)
    tokenizer.eos_token = None
    with pytest.raises(ArtifactError, match="end-of-sequence"):
        Prompts(tokenizer, prompts.titles, PromptConfig(), 64)


def test_another_slot_or_title_is_another_fingerprint(prompts: Prompts):
    others = [
        Prompts(prompts.tokenizer, prompts.titles, PromptConfig(slot="after"), 1024),
        Prompts(prompts.tokenizer, ("New", *prompts.titles[1:]), PromptConfig(), 1024),
    ]
    assert len({prompts.fingerprint, *(other.fingerprint for other in others)}) == 3
