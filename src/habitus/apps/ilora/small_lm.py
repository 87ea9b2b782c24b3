"""A tokenizer and a small causal language model made on the spot from titles and prompt texts: proof without downloads.

The model learns titles, prompts and copying, not preference: every answer it is shown is a random candidate. Copying is
taught by lists followed by many picks, the lists growing from 2 to 20 titles. With `history_share` it also reads
histories of training rows as running text (never a validation or test item).

FOLDER   as transformers writes it (config.json, model.safetensors, tokenizer.json) + pretraining.json
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
from habitus.apps.ilora.copying import ROPE_BASE, give_copying
from habitus.apps.ilora.prompts import SLOT, TEMPLATES, PromptConfig, Prompts
from habitus.apps.ilora.rows import HISTORY, Rows, Sequences
from habitus.core.atomic import new_folder, write_json
from habitus.core.config import Config
from habitus.core.errors import ConfigError, require
from habitus.core.seeds import generator

SIZES = {"mini": (128, 2, 352), "tiny": (128, 4, 352), "small": (192, 6, 512), "base": (288, 8, 768)}
HEAD_WIDTH = 32
PAST = 20  # titles of a history that is told title by title
SPECIAL = ("[PAD]", "[BOS]", "[EOS]", "[PH]")


class SmallLMConfig(Config):
    """What the user chooses of a model made on the spot.

    `tokens` is how many are read in all. `start`: from weights that can copy (`copying.give_copying`), or from random
    ones. `history_share` of the batches are real histories of training rows, told title by title; 0 leaves all
    preference to the adapters. `list_weight` weighs the tokens of lists.

    >>> SmallLMConfig(size="tiny").pieces
    4000
    """

    size: Literal["mini", "tiny", "small", "base"] = "small"
    pieces: int = Field(4000, ge=300)
    context: int = Field(1024, ge=64)
    tokens: int = Field(10_000_000, ge=1)
    rows: int = Field(24, ge=1)
    picks: int = Field(10, ge=1)
    lr: float = Field(3e-3, gt=0)
    matrix_lr: float = Field(0.02, gt=0)
    history_share: float = Field(0.0, ge=0, le=1)
    start: Literal["copying", "random"] = "copying"
    list_weight: float = Field(0.0, ge=0)
    seed: int = 0


def train_tokenizer(titles: Sequence[str], prompts: PromptConfig, pieces: int) -> Any:
    """Train a byte-level BPE on titles and phrases. Errors: `ExtraError` without the extra [llm]."""
    require("transformers", "llm")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore
    made.decoder = decoders.ByteLevel()  # pyright: ignore
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=pieces, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    phrases = [text for template in TEMPLATES[prompts.domain] for text in template]
    made.train_from_iterator([*(f" {title}" for title in titles), *phrases * 20], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", bos_token="[BOS]", eos_token="[EOS]", padding_side="left"
    )


def new_model(config: SmallLMConfig, tokenizer: Any) -> Any:
    """Make an untrained Llama of a size of the dial, tied embeddings. The seed draws it."""
    from transformers import LlamaConfig, LlamaForCausalLM

    width, n_layers, d_ff = SIZES[config.size]
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
        give_copying(model, slot=slot, cue=cue, end=tokenizer.eos_token_id, seed=config.seed)
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
    """Make a tokenizer and a model and write them to a folder that transformers opens.

    Errors: `ExtraError` without [llm]; `DiskError` when the folder exists; `ConfigError` for a context that is too
    short for a prompt.
    """
    tokenizer = train_tokenizer(sequences.titles, prompts, config.pieces)
    model = new_model(config, tokenizer)
    texts = Prompts(tokenizer, sequences.titles, prompts, config.context)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    began = time.perf_counter()
    history = _train(model.to(device), texts, sequences, config, tokenizer.convert_tokens_to_ids("[PH]"), say)
    seconds = time.perf_counter() - began
    with new_folder(out) as folder:
        model.to("cpu").save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        facts = {"config": config.model_dump(mode="json"), "prompts": prompts.model_dump(mode="json")}
        facts |= {"sequences": sequences.fingerprint, "n_parameters": sum(p.numel() for p in model.parameters())}
        facts |= {"seconds": seconds, "history": history, "title_tokens": float(texts.answers.size.mean() - 1)}
        write_json(folder / "pretraining.json", facts)
    return Path(out)


def _train(model: Any, texts: Prompts, sequences: Sequences, config: SmallLMConfig, slot: int, say: Any) -> list[dict]:
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    ids = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in ids]
    steppers = [
        torch.optim.Muon(matrices, lr=config.matrix_lr, weight_decay=0.0),
        torch.optim.AdamW(rest, lr=config.lr, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    rows, read, step, history = sequences.rows("train"), 0, 0, []
    total = answers = 0.0
    model.train()
    while read < config.tokens:
        done = read / config.tokens
        ids_, weight = make_text(texts, rows, config, step, done)
        rate = min(1.0, (step + 1) / 40) * max(0.02, min(1.0, (1 - done) / 0.5))
        for stepper, base in zip(steppers, (config.matrix_lr, config.lr)):
            stepper.param_groups[0]["lr"] = base * rate
        loss, told = _loss(model, ids_, weight, slot, texts.pad)
        loss.backward()
        for stepper in steppers:
            stepper.step()
            stepper.zero_grad(set_to_none=True)
        read, step = read + ids_.size, step + 1
        total, answers = total + float(loss.detach()), answers + told
        if step % 50 == 0 or read >= config.tokens:
            n = 50 if step % 50 == 0 else step % 50
            history.append({"step": step, "tokens": read, "loss": total / n, "answer_loss": answers / n})
            say(f"{read:>12,} tokens  loss {total / n:.3f}  answers {answers / n:.3f} nats a token")
            total = answers = 0.0
    return history


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


def make_text(
    texts: Prompts, rows: Rows, config: SmallLMConfig, step: int, done: float
) -> tuple[np.ndarray, np.ndarray]:
    """Give one batch of pretraining: token ids and weights [B, L], a function of seed, step and progress alone.

    A `history_share` of the batches are real histories told title by title. The others are lists that grow until 0.4 of
    the way, followed by picks out of them, each by its cue; from there on more and more of them are whole prompts, of
    random histories.
    """
    draw = generator(config.seed, "pretraining", step)
    is_history = bool(draw.random() < config.history_share)
    is_whole = bool(draw.random() < done - 0.3)
    if is_history:
        n = _n_rows(config, PAST + 2)
        chosen = rows.take(np.sort(draw.integers(len(rows), size=n)))
        none = np.zeros((n, 0), np.int64)
        return _text(texts, _template(draw, texts, n), chosen.history(PAST), none, none, config)
    n_list = N_CANDIDATES if is_whole else round(2 + (N_CANDIDATES - 2) * min(1.0, done / 0.4))
    n_picks = 2 if is_whole else min(config.picks, n_list)
    past = HISTORY if is_whole else 0
    n = _n_rows(config, 3 + past + n_list + 2 * n_picks)
    items = _distinct(draw, n, past + n_list, texts.n_items)
    listed = items[:, past:]
    order = draw.permuted(np.tile(np.arange(n_list), (n, 1)), axis=1)[:, :n_picks]
    picks = np.take_along_axis(listed, order, axis=1)
    return _text(texts, _template(draw, texts, n), items[:, :past], listed, picks, config)


def _n_rows(config: SmallLMConfig, n_pieces: int) -> int:
    """Rows of a batch: more where they are short, so that batches hold about as many tokens."""
    return config.rows * (3 + HISTORY + N_CANDIDATES + 4) // n_pieces


def _template(draw: np.random.Generator, texts: Prompts, n: int) -> np.ndarray:
    return np.full(n, int(draw.integers(texts.n_templates)))


def _text(
    texts: Prompts, template: np.ndarray, past: np.ndarray, listed: np.ndarray, picks: np.ndarray, config: SmallLMConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Put a batch together; what is told in full are picks and, where no list follows, the past."""
    n = len(template)
    parts = [np.full((n, 1), texts.begin)]
    if past.shape[1]:
        parts += [texts.phrase(template, 0)[:, None], past]
    if listed.shape[1]:
        cue = np.broadcast_to(texts.phrase(template, 2)[:, None], picks.shape)
        answers = np.stack([cue, picks.astype(np.int64) + texts.n_items], axis=2).reshape(n, -1)
        parts += [texts.phrase(template, 1)[:, None], listed, answers]
    pieces = np.concatenate(parts, axis=1).astype(np.int64)
    ids, is_token, where = texts.pieces.right_aligned(pieces, texts.pad)
    owner = np.take_along_axis(pieces, where, axis=1)
    is_told = owner < texts.n_items if not listed.shape[1] else (owner >= texts.n_items) & (owner < 2 * texts.n_items)
    weight = np.where(is_token & (ids != SLOT), np.where(is_told, 1.0, config.list_weight), 0.0)
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
