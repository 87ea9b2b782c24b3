"""A tokenizer and a small causal language model made on the spot from titles and prompt texts: proof without downloads.

The model learns titles, prompts and copying: lists followed by many picks at random, the lists growing from 2 to 20
titles. With `history_share` it also reads histories of training rows as running text, with `next_share` questions as
they will be asked, answered by what the user took next. No validation or test item of a user is in them, and the titles
that stand beside an answer are drawn without knowing those items.

FOLDER                 as transformers writes it (config.json, model.safetensors, tokenizer.json) + pretraining.json
FOLDER.checkpoint.pt   while it is trained: a killed call goes on from there
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field

from habitus.apps.ilora.candidates import N_CANDIDATES
from habitus.apps.ilora.copying import ROPE_BASE, give_copying, taste_of
from habitus.apps.ilora.prompts import SLOT, TEMPLATES, PromptConfig, Prompts
from habitus.apps.ilora.rows import HISTORY, Rows, Sequences
from habitus.core.atomic import new_folder, write_json
from habitus.core.config import Config
from habitus.core.errors import ConfigError, TrainingError, require
from habitus.core.seeds import generator
from habitus.training.checkpoints import read_checkpoint, write_checkpoint

SIZES = {"mini": (128, 2, 352), "tiny": (128, 4, 352), "small": (192, 6, 512), "base": (288, 8, 768)}
HEAD_WIDTH = 32
PAST = 20  # titles of a history that is told title by title
Text = Literal["history", "next", "copy"]
SPECIAL = ("[PAD]", "[BOS]", "[EOS]", "[PH]")


class SmallLMConfig(Config):
    """What the user chooses of a model made on the spot.

    `tokens` is how many are read in all. `start`: from weights that can copy (`copying.give_copying`), or from random
    ones. `history_share` of the batches are real histories of training rows, told title by title; `next_share` are
    questions with the answer that training rows gave; 0 and 0 leave all preference to the adapters. `list_weight`
    weighs the tokens of lists, `past_weight` the past of questions, beside 1 for their answers. `titles`: cut into
    pieces, or every title `whole`, a piece of its own beside `pieces` for the rest: then a prompt is half as long and
    no title shares a piece with another. `n_layers` overrides the depth of `size`. A checkpoint is kept every
    `checkpoint_every` steps (0: none).

    >>> SmallLMConfig(size="tiny").pieces
    4000
    """

    size: Literal["mini", "tiny", "small", "base"] = "small"
    n_layers: int | None = Field(None, ge=2)
    titles: Literal["pieces", "whole"] = "pieces"
    pieces: int = Field(4000, ge=300)
    context: int = Field(1024, ge=64)
    tokens: int = Field(10_000_000, ge=1)
    rows: int = Field(24, ge=1)
    picks: int = Field(10, ge=1)
    lr: float = Field(3e-3, gt=0)
    matrix_lr: float = Field(0.02, gt=0)
    history_share: float = Field(0.0, ge=0, le=1)
    next_share: float = Field(0.0, ge=0, le=1)
    start: Literal["copying", "random"] = "copying"
    list_weight: float = Field(0.0, ge=0)
    past_weight: float = Field(0.3, ge=0)
    checkpoint_every: int = Field(100, ge=0)
    seed: int = 0


def train_tokenizer(
    titles: Sequence[str], prompts: PromptConfig, pieces: int, how: Literal["pieces", "whole"] = "pieces"
) -> Any:
    """Train a byte-level BPE on titles and phrases; `whole`: on phrases, and every title is one piece more.

    Errors: `ExtraError` without the extra [llm].
    """
    require("transformers", "llm")
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore
    made.decoder = decoders.ByteLevel()  # pyright: ignore
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=pieces, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    phrases = [text for template in TEMPLATES[prompts.domain] for text in template]
    told = [f" {title}" for title in titles] if how == "pieces" else []
    made.train_from_iterator([*told, *phrases * 20], trainer)
    if how == "whole":
        made.add_tokens([AddedToken(f" {title}", single_word=True, normalized=False) for title in titles])
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", bos_token="[BOS]", eos_token="[EOS]", padding_side="left"
    )


def new_model(config: SmallLMConfig, tokenizer: Any, liked: tuple[Prompts, np.ndarray] | None = None) -> Any:
    """Make an untrained Llama of a size of the dial, tied embeddings. The seed draws it.

    `liked`: prompts of whole titles and how often training shows each; the start then copies what many had.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    width, n_layers, d_ff = SIZES[config.size]
    n_layers = config.n_layers or n_layers
    heads = width // HEAD_WIDTH
    settings = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=d_ff,
        num_hidden_layers=n_layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=config.context,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_BASE},
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = LlamaForCausalLM(settings)
    if config.start == "copying":
        cue = tokenizer(":", add_special_tokens=False)["input_ids"][-1]
        slot = tokenizer.convert_tokens_to_ids("[PH]")
        more = {} if liked is None else taste_of(*liked)
        give_copying(model, slot=slot, cue=cue, end=tokenizer.eos_token_id, seed=config.seed, **more)
    return model


def pretrain(
    sequences: Sequences,
    prompts: PromptConfig,
    config: SmallLMConfig,
    out: str | Path,
    *,
    say: Callable[[str], Any] = print,
    device: str | None = None,
) -> Path:
    """Make a tokenizer and a model and write them to a folder that transformers opens; go on where a call was killed.

    Errors: `ExtraError` without [llm]; `DiskError` when the folder exists; `ConfigError` for a context that is too
    short for a prompt; `TrainingError` for a checkpoint that is damaged or of other settings.
    """
    tokenizer = train_tokenizer(sequences.titles, prompts, config.pieces, config.titles)
    texts = Prompts(tokenizer, sequences.titles, prompts, config.context)
    is_liked = config.titles == "whole" and config.next_share > 0
    model = new_model(config, tokenizer, (texts, sequences.popularity) if is_liked else None)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    began, kept = time.perf_counter(), Path(out).with_name(Path(out).name + ".checkpoint.pt")
    slot = tokenizer.convert_tokens_to_ids("[PH]")
    history = _train(model.to(device), texts, sequences, config, slot, say, kept)
    seconds = time.perf_counter() - began
    with new_folder(out) as folder:
        model.to("cpu").save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        facts = {"config": config.model_dump(mode="json"), "prompts": prompts.model_dump(mode="json")}
        facts |= {"sequences": sequences.fingerprint, "n_parameters": sum(p.numel() for p in model.parameters())}
        facts |= {"seconds": seconds, "history": history, "title_tokens": float(texts.answers.size.mean() - 1)}
        write_json(folder / "pretraining.json", facts)
    kept.unlink(missing_ok=True)
    return Path(out)


def _train(
    model: Any, texts: Prompts, sequences: Sequences, config: SmallLMConfig, slot: int, say: Any, kept: Path
) -> list[dict]:
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    ids = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in ids]
    steppers = [
        torch.optim.Muon(matrices, lr=config.matrix_lr, weight_decay=0.0),
        torch.optim.AdamW(rest, lr=config.lr, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    rows, told = sequences.rows("train"), {}
    mark = f"{sequences.fingerprint} {texts.fingerprint} {config.model_dump_json()}"
    read, step, history = _resume(kept, mark, model, steppers)
    model.train()
    while read < config.tokens:
        done = read / config.tokens
        ids_, weight = make_text(texts, rows, config, step, done)
        rate = min(1.0, (step + 1) / 40) * max(0.02, min(1.0, (1 - done) / 0.5))
        for stepper, base in zip(steppers, (config.matrix_lr, config.lr)):
            stepper.param_groups[0]["lr"] = base * rate
        loss, answers = _loss(model, ids_, weight, slot, texts.pad)
        loss.backward()
        for stepper in steppers:
            stepper.step()
            stepper.zero_grad(set_to_none=True)
        told.setdefault(kind_of(config, step), []).append(answers)
        read, step = read + ids_.size, step + 1
        if step % 50 == 0 or read >= config.tokens:
            nats = {kind: float(np.mean(values)) for kind, values in sorted(told.items())}
            history.append({"step": step, "tokens": read, "nats": nats})
            say(f"{read:>12,} tokens, nats a token told: " + ", ".join(f"{k} {v:.3f}" for k, v in nats.items()))
            told = {}
        if config.checkpoint_every and step % config.checkpoint_every == 0 and read < config.tokens:
            state = {"mark": mark, "step": step, "read": read, "history": history, "model": model.state_dict()}
            write_checkpoint(kept, state | {"steppers": [stepper.state_dict() for stepper in steppers]})
    return history


def _resume(kept: Path, mark: str, model: Any, steppers: Sequence[Any]) -> tuple[int, int, list[dict]]:
    """Tokens read, steps and history of a checkpoint, put into model and steppers.

    Errors: `TrainingError` for a damaged checkpoint, or one of other settings.
    """
    if not kept.is_file():
        return 0, 0, []
    found = read_checkpoint(kept)
    if found.get("mark") != mark:
        fix = "choose another folder, or remove the file to start again"
        raise TrainingError("a checkpoint of these settings and rows", "one of others", where=str(kept), fix=fix)
    model.load_state_dict(found["model"])
    for stepper, state in zip(steppers, found["steppers"]):
        stepper.load_state_dict(state)
    return found["read"], found["step"], found["history"]


def _loss(model: Any, ids: np.ndarray, weight: np.ndarray, slot: int, pad: int) -> tuple[torch.Tensor, float]:
    """The weighted mean loss over told tokens, logits made only where they count; and that of answers alone."""
    device = model.device
    tokens = torch.from_numpy(np.where(ids == SLOT, slot, ids)).to(device)
    mask = torch.from_numpy(ids != pad).to(device)
    position = (mask.cumsum(1) - 1).clamp(min=0)
    hidden = model.model(input_ids=tokens, attention_mask=mask, position_ids=position).last_hidden_state[:, :-1]
    w = torch.from_numpy(weight[:, 1:].astype(np.float32)).to(device)
    counts = w > 0
    each = F.cross_entropy(model.lm_head(hidden[counts]), tokens[:, 1:][counts], reduction="none")
    w = w[counts]
    return (each * w).sum() / w.sum(), float(each.detach()[w == 1].mean())


def kind_of(config: SmallLMConfig, step: int) -> Text:
    """Tell what batch number `step` is: a history, questions with their answers, or lists to copy from."""
    drawn = generator(config.seed, "kind of text", step).random()
    if drawn < config.history_share:
        return "history"
    return "next" if drawn < config.history_share + config.next_share else "copy"


def make_text(
    texts: Prompts, rows: Rows, config: SmallLMConfig, step: int, done: float
) -> tuple[np.ndarray, np.ndarray]:
    """Give one batch of pretraining: token ids and weights [B, L], a function of seed, step and progress alone.

    Histories are told title by title. Questions tell their answer, and their past at `past_weight`. The others are
    lists that grow until 0.4 of the way, followed by picks out of them, each by its cue; from there on more and more of
    them are whole prompts, of random histories.
    """
    draw, kind = generator(config.seed, "pretraining", step), kind_of(config, step)
    is_whole = bool(draw.random() < done - 0.3)
    if kind == "history":
        n = _n_rows(config, PAST + 2)
        chosen = rows.take(np.sort(draw.integers(len(rows), size=n)))
        none = np.zeros((n, 0), np.int64)
        return _text(texts, _template(draw, texts, n), chosen.history(PAST), none, none, config)
    if kind == "next":
        n = _n_rows(config, 4 + HISTORY + N_CANDIDATES + 1)
        chosen = rows.take(np.sort(draw.integers(len(rows), size=n)))
        listed = _asked(draw, chosen)
        answer, past = chosen.target[:, None], chosen.history(HISTORY)
        return _text(texts, _template(draw, texts, n), past, listed, answer, config, past=config.past_weight)
    n_list = N_CANDIDATES if is_whole else round(2 + (N_CANDIDATES - 2) * min(1.0, done / 0.4))
    n_picks = 2 if is_whole else min(config.picks, n_list)
    past = HISTORY if is_whole else 0
    n = _n_rows(config, 3 + past + n_list + 2 * n_picks)
    items = _distinct(draw, n, past + n_list, texts.n_items)
    listed = items[:, past:]
    order = draw.permuted(np.tile(np.arange(n_list), (n, 1)), axis=1)[:, :n_picks]
    picks = np.take_along_axis(listed, order, axis=1)
    return _text(texts, _template(draw, texts, n), items[:, :past], listed, picks, config)


def _asked(draw: np.random.Generator, rows: Rows) -> np.ndarray:
    """Give lists for training rows: the answer among items outside what training shows of its user, at any place.

    What is held out of a user may stand beside the answer as any other item may: it is not known here.
    """
    s = rows.sequences
    users, place = np.unique(rows.user, return_inverse=True)
    is_out = np.zeros((len(users), s.n_items), bool)
    mask = s.in_train & np.isin(s.owner, users)
    is_out[np.searchsorted(users, s.owner[mask]), s.item[mask]] = True
    race = draw.random((len(rows), s.n_items), dtype=np.float32)
    race[is_out[place]] = 2.0
    listed = np.argpartition(race, N_CANDIDATES - 1, axis=1)[:, :N_CANDIDATES]
    listed[:, 0] = rows.target
    return draw.permuted(listed, axis=1)


def _n_rows(config: SmallLMConfig, n_pieces: int) -> int:
    """Rows of a batch: more where they are short, so that batches hold about as many tokens."""
    return config.rows * (3 + HISTORY + N_CANDIDATES + 4) // n_pieces


def _template(draw: np.random.Generator, texts: Prompts, n: int) -> np.ndarray:
    return np.full(n, int(draw.integers(texts.n_templates)))


def _text(
    texts: Prompts,
    template: np.ndarray,
    history: np.ndarray,
    listed: np.ndarray,
    picks: np.ndarray,
    config: SmallLMConfig,
    *,
    past: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Put a batch together; what is told in full are picks and, where no list follows, the history."""
    n = len(template)
    parts = [np.full((n, 1), texts.begin)]
    if history.shape[1]:
        parts += [texts.phrase(template, 0)[:, None], history]
    if listed.shape[1]:
        cue = np.broadcast_to(texts.phrase(template, 2)[:, None], picks.shape)
        answers = np.stack([cue, picks.astype(np.int64) + texts.n_items], axis=2).reshape(n, -1)
        parts += [texts.phrase(template, 1)[:, None], listed, answers]
    pieces = np.concatenate(parts, axis=1).astype(np.int64)
    ids, is_token, where = texts.pieces.right_aligned(pieces, texts.pad)
    owner = np.take_along_axis(pieces, where, axis=1)
    is_title, is_past = owner < texts.n_items, where < 2 + history.shape[1]
    is_answer = (owner >= texts.n_items) & (owner < 2 * texts.n_items)
    told = past if listed.shape[1] else 1.0
    weight = np.where(is_answer, 1.0, np.where(is_title & is_past, told, config.list_weight))
    weight = np.where(is_token & (ids != SLOT), weight, 0.0)
    if ids.shape[1] > texts.context:
        fix = "choose a longer context"
        raise ConfigError(f"at most {texts.context} tokens", f"a text of {ids.shape[1]}", where="pretraining", fix=fix)
    return ids, weight


def _distinct(draw: np.random.Generator, n: int, size: int, n_items: int) -> np.ndarray:
    """Give n rows of distinct random items."""
    return np.argpartition(draw.random((n, n_items), dtype=np.float32), size, axis=1)[:, :size]


def read_pretraining(folder: str | Path) -> dict[str, Any]:
    """Give what `pretrain` noted beside a model; nothing for a model from elsewhere."""
    file = Path(folder) / "pretraining.json"
    return json.loads(file.read_text("utf-8")) if file.is_file() else {}
