"""The model made on the spot: it starts able to copy, and reads nothing that it will be asked about."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from habitus.apps.ilora.model import open_causal
from habitus.apps.ilora.prepare import Prepared
from habitus.apps.ilora.prompts import SLOT, PromptConfig, Prompts
from habitus.apps.ilora.small_lm import (
    SmallLMConfig,
    _loss,
    kind_of,
    make_text,
    new_model,
    pretrain,
    read_pretraining,
    train_tokenizer,
)
from habitus.core.errors import ConfigError, TrainingError

MINI = SmallLMConfig.parse({"size": "mini", "pieces": 400, "tokens": 4000, "rows": 6, "history_share": 0.5})
ASKED = MINI.model_copy(update={"history_share": 0.3, "next_share": 0.6})


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


def test_no_text_changes_with_what_is_held_out(prepared: Prepared, prompts: Prompts):
    """Other items in validation and test, of unseen users in all places: every text stays as it is."""
    s = prepared.sequences
    item = s.item.copy()
    item[~s.in_train] = (item[~s.in_train] + 1) % s.n_items
    other = replace(s, item=item).rows("train")
    for step in range(40):
        one, same = (make_text(prompts, rows, ASKED, step, 0.7) for rows in (s.rows("train"), other))
        assert np.array_equal(one[0], same[0])
        assert np.array_equal(one[1], same[1])


def test_questions_are_those_of_train_rows_with_their_answers(prepared: Prepared, prompts: Prompts):
    rows, mark = prepared.sequences.rows("train"), prompts.end
    step = next(step for step in range(20) if kind_of(ASKED, step) == "next")
    ids, weight = make_text(prompts, rows, ASKED, step, 0.0)
    asked = {tuple(past[past >= 0]): set() for past in rows.history()}
    for past, target in zip(rows.history(), rows.target):
        asked[tuple(past[past >= 0])].add(int(target))
    names = [tuple(prompts.tokens(f" {title}")) for title in prompts.titles]
    for row, w in zip(ids, weight):
        where = np.flatnonzero(row == SLOT)
        titles = [
            tuple(row[a + 1 : a + 1 + len(name)]) for a, name in ((a, _name_at(row, a, names)) for a in where.tolist())
        ]
        items = [names.index(title) for title in titles]
        past, listed = tuple(items[:-20]), items[-20:]
        answer = names.index(tuple(row[w == 1][:-1]))
        assert row[-1] == mark
        assert answer in listed
        assert answer in asked[past]
        assert len(set(listed)) == 20
        assert not set(listed) & set(past)


def _name_at(row: np.ndarray, slot: int, names: list[tuple[int, ...]]) -> tuple[int, ...]:
    return max((name for name in names if tuple(row[slot + 1 : slot + 1 + len(name)]) == name), key=len)


def test_whole_titles_are_one_piece_each(prepared: Prepared, prompts: Prompts):
    titles = ["Alien", "Aliens", "Alien 3", "M", "Señor (1999)", *prepared.sequences.titles]
    made = train_tokenizer(titles, prompts.config, 300, "whole")
    for title in titles:
        ids = made(f" {title}", add_special_tokens=False)["input_ids"]
        assert len(ids) == 1
        assert made.decode(ids) == f" {title}"


def test_killed_pretraining_goes_on_to_the_same_model(prepared: Prepared, prompts: Prompts, tmp_path: Path):
    config = ASKED.model_copy(update={"checkpoint_every": 2, "tokens": 2500, "titles": "whole", "n_layers": 3})

    def die(_: str):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(prepared.sequences, prompts.config, config, tmp_path / "killed", say=die)
    assert not (tmp_path / "killed").exists()
    kept = tmp_path / "killed.checkpoint.pt"
    assert kept.is_file()
    with pytest.raises(TrainingError, match="one of others"):
        pretrain(prepared.sequences, prompts.config, config.model_copy(update={"lr": 1e-3}), tmp_path / "killed")
    whole = kept.read_bytes()
    kept.write_bytes(whole[:1000])
    with pytest.raises(TrainingError, match="a checkpoint of this toolkit"):
        pretrain(prepared.sequences, prompts.config, config, tmp_path / "killed")
    kept.write_bytes(whole)
    for name in ("killed", "whole"):
        pretrain(prepared.sequences, prompts.config, config, tmp_path / name, say=lambda _: None)
    one, other = (open_causal(tmp_path / name)[0] for name in ("killed", "whole"))
    assert len(one.model.layers) == 3
    for p, q in zip(one.parameters(), other.parameters()):
        assert torch.equal(p, q)
    assert not (tmp_path / "killed.checkpoint.pt").exists()


def test_the_start_of_whole_titles_answers_with_what_many_had_out_of_the_list(prepared: Prepared):
    s = prepared.sequences
    config = MINI.model_copy(update={"titles": "whole", "next_share": 1.0})
    tokenizer = train_tokenizer(s.titles, PromptConfig(), 300, "whole")
    texts = Prompts(tokenizer, s.titles, PromptConfig(), 1024)
    counts = np.arange(s.n_items) % 7 * 20  # not those of the log: what is written in must be what is read out
    model = new_model(config, tokenizer, (texts, counts)).eval()
    candidates = prepared.candidates("test")
    batch = texts.batch(candidates.rows(s).history(), candidates.items)
    mask = torch.from_numpy(batch.is_token).long()
    ids = torch.from_numpy(np.where(batch.ids == SLOT, tokenizer.convert_tokens_to_ids("[PH]"), batch.ids))
    place = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        top = model(input_ids=ids, attention_mask=mask, position_ids=place).logits[:, -1].argmax(dim=-1).numpy()
    named = texts.answers.flat[texts.answers.offsets[candidates.items]] == top[:, None]
    assert named.any(axis=1).mean() > 0.9
    said = candidates.items[named]
    assert counts[said].mean() > 1.3 * counts[candidates.items].mean()


def test_every_head_of_the_written_start_can_move(prompts: Prompts):
    """A head whose query, key, value and output are all zeros has no gradient for ever."""
    model = new_model(MINI, prompts.tokenizer)
    for layer in model.model.layers:
        heads = layer.self_attn.v_proj.weight.reshape(-1, layer.self_attn.head_dim, model.config.hidden_size)
        assert (heads.abs().sum(dim=(1, 2)) > 0).all()


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
