"""Both ways of answering: the likelihood of every candidate, and the title that the model writes.

The prompt is run once; its keys and values are kept, repeated for the candidates, and read again by greedy decoding.
Letters: B rows, C candidates, A tokens of an answer with its end.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from habitus.apps.ilora.candidates import Candidates
from habitus.apps.ilora.model import InstanceLora
from habitus.apps.ilora.prompts import PromptBatch
from habitus.core.errors import ConfigError

LONGEST = 64  # tokens a written answer may have


@dataclass(frozen=True)
class Answers:
    """What a model says to n questions.

    `log_p` float64 [n, C]: log likelihood of each candidate with its end; `n_tokens` int64 [n, C] tokens it sums over;
    `text`: what was written, one per row ("" for none asked). `weights` [n, N] of the gate.
    """

    log_p: np.ndarray
    n_tokens: np.ndarray
    text: list[str] = field(repr=False)
    weights: np.ndarray

    @property
    def probability(self) -> np.ndarray:
        """The share of each candidate among the candidates of its row, [n, C]."""
        top = np.exp(self.log_p - self.log_p.max(axis=1, keepdims=True))
        return top / top.sum(axis=1, keepdims=True)

    @property
    def per_token(self) -> np.ndarray:
        """Mean log likelihood per token, [n, C]: the score that does not favour short titles."""
        return self.log_p / self.n_tokens


@torch.no_grad()
def answer(
    model: InstanceLora,
    candidates: Candidates,
    history: np.ndarray,
    states: Tensor,
    keys: np.ndarray,
    *,
    is_base: bool = False,
    is_hybrid: bool = True,
    is_cached: bool = True,
    writes: bool = True,
    rows: int = 32,
    template: int = 0,
) -> Answers:
    """Ask every row of the candidates.

    Parameters
    ----------
    history
        Item numbers, int [n, H], -1 for none.
    states, keys
        The state of each row's user (n d) and a 64-bit key of the user, for the gate.
    is_base
        Ask the model without its adapters, in text mode.
    is_cached
        Run each prompt once. Without, every candidate is run with the whole prompt before it: the same figures, slower.
    writes
        Also let the model write its answer.
    """
    n, n_slots = candidates.items.shape
    if not n == len(history) == len(states) == len(keys):
        raise ConfigError("a history, a state and a key per row", f"{n}, {len(history)}, {len(states)}", where="answer")
    model.eval()
    is_hybrid = is_hybrid and not is_base
    weights = None if is_base else model.weights(states, keys)
    log_p, n_tokens, text = np.zeros((n, n_slots)), np.zeros((n, n_slots), np.int64), [""] * n
    length = model.prompts.pieces.size[np.c_[history, candidates.items]] * (np.c_[history, candidates.items] >= 0)
    order = np.argsort(length.sum(axis=1), kind="stable")  # rows of one length pad least
    for some in np.array_split(order, max(1, -(-n // rows))):
        batch = model.prompts.batch(history[some], candidates.items[some], template=np.full(len(some), template))
        w = None if weights is None else weights[torch.from_numpy(some).to(weights.device)]
        cache, last = None, None
        if is_cached or writes:
            found = model(batch, w, is_hybrid=is_hybrid, keep=1, use_cache=True)
            cache, last = found.cache, found.logits[:, -1]
        if writes:
            copied = copy.deepcopy(cache)
            for row, words in zip(some, _write(model, batch, w, copied, last)):
                text[row] = words
        if is_cached:
            log_p[some], n_tokens[some] = _score(model, batch, w, cache, last, candidates.items[some])
        else:
            log_p[some], n_tokens[some] = _score_whole(
                model, history[some], candidates.items[some], w, is_hybrid, template
            )
    return Answers(log_p, n_tokens, text, np.zeros((n, 0)) if weights is None else weights.double().cpu().numpy())


def _score(
    model: InstanceLora, batch: PromptBatch, w: Tensor | None, cache: object, last: Tensor | None, items: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Log likelihood of every candidate after prompts whose cache is at hand: [B, C], and tokens told.

    All candidates of a row stand behind its prompt in one line; a mask lets each see the prompt and itself alone, so
    that nothing is repeated and little is padded.
    """
    assert last is not None
    line = _line(model, items)
    mask = _seen(batch.is_token, line)
    device, kind = model.device, last.dtype
    told, first = torch.from_numpy(line.told).to(device), torch.from_numpy(line.first).to(device)
    position = torch.from_numpy(batch.is_token.sum(axis=1)[:, None] + line.place).to(device)
    hidden = torch.zeros(mask.shape, dtype=kind).masked_fill_(~torch.from_numpy(mask), torch.finfo(kind).min)
    logits = model.run(
        w,
        input_ids=torch.from_numpy(line.ids).to(device),
        attention_mask=hidden.to(device),
        position_ids=position,
        cache=cache,
        use_cache=True,
    ).logits.float()
    each = (logits.gather(2, told[..., None])[..., 0] - logits.logsumexp(dim=-1)).double()
    begun = torch.log_softmax(last.float(), dim=-1).gather(1, first).double()
    owner = torch.from_numpy(np.where(line.owner < 0, items.shape[1], line.owner)).to(device)
    rest = torch.zeros(len(items), items.shape[1] + 1, dtype=torch.float64, device=device).scatter_add_(1, owner, each)
    return (begun + rest[:, :-1]).cpu().numpy(), model.prompts.answers.size[items]


@dataclass(frozen=True)
class _Line:
    """The candidates of each row one after the other, without their last tokens, padded on the right [B, Q]."""

    ids: np.ndarray
    owner: np.ndarray  # candidate a token belongs to, -1 padding
    place: np.ndarray  # place within its candidate
    told: np.ndarray  # the token that follows
    first: np.ndarray  # B C, the first token of each candidate


def _line(model: InstanceLora, items: np.ndarray) -> _Line:
    answers, pad = model.prompts.answers, model.prompts.pad
    n = len(items)
    size = answers.size[items] - 1
    flat, total = size.ravel(), size.sum(axis=1)
    start = np.repeat(answers.offsets[items].ravel(), flat)
    inside = np.arange(flat.sum()) - np.repeat(np.cumsum(flat) - flat, flat)
    row = np.repeat(np.arange(n), total)
    column = np.arange(flat.sum()) - np.repeat(np.cumsum(total) - total, total)
    shape = n, int(total.max(initial=1))
    ids, told = np.full(shape, pad), np.full(shape, pad)
    owner, place = np.full(shape, -1), np.zeros(shape, np.int64)
    ids[row, column], told[row, column] = answers.flat[start + inside], answers.flat[start + inside + 1]
    owner[row, column] = np.repeat(np.tile(np.arange(items.shape[1]), n), flat)
    place[row, column] = inside
    return _Line(ids, owner, place, told, answers.flat[answers.offsets[items]])


def _seen(is_token: np.ndarray, line: _Line) -> np.ndarray:
    """What each token of the lines sees: its row's prompt, and its own candidate up to itself. B 1 Q L + Q."""
    own = line.owner[:, :, None] == line.owner[:, None, :]
    own &= line.place[:, :, None] >= line.place[:, None, :]
    own &= (line.owner >= 0)[:, :, None]
    own |= np.eye(line.ids.shape[1], dtype=bool)
    prompt = np.broadcast_to(is_token[:, None], (*line.ids.shape, is_token.shape[1]))
    return np.concatenate([prompt, own], axis=2)[:, None]


def _score_whole(
    model: InstanceLora, history: np.ndarray, items: np.ndarray, w: Tensor | None, is_hybrid: bool, template: int
) -> tuple[np.ndarray, np.ndarray]:
    """The same without a cache: every candidate is run behind its whole prompt."""
    log_p, n_tokens = np.zeros(items.shape), np.zeros(items.shape, np.int64)
    for slot in range(items.shape[1]):
        batch = model.prompts.batch(history, items, items[:, slot], np.full(len(items), template))
        logits = model(batch, w, is_hybrid=is_hybrid, keep=batch.n_labels + 1).logits[:, :-1]
        labels = torch.from_numpy(batch.labels[:, -batch.n_labels :]).to(model.device)
        counts = labels >= 0
        found = torch.log_softmax(logits.float(), dim=-1).gather(2, labels.clamp(min=0)[..., None])[..., 0]
        log_p[:, slot] = found.double().masked_fill(~counts, 0.0).sum(dim=1).cpu().numpy()
        n_tokens[:, slot] = counts.sum(dim=1).cpu().numpy()
    return log_p, n_tokens


def _write(model: InstanceLora, batch: PromptBatch, w: Tensor | None, cache: object, last: Tensor | None) -> list[str]:
    """Greedy decoding up to the end token, at most 64 tokens."""
    assert last is not None
    end, n = model.prompts.end, len(batch.ids)
    longest = min(LONGEST, int(model.prompts.answers.size.max()) + 8)  # what is longer is no title
    mask = torch.from_numpy(batch.is_token).to(model.device)
    position = mask.sum(1)
    written = torch.full((n, longest), end, device=model.device)
    is_done = torch.zeros(n, dtype=torch.bool, device=model.device)
    for step in range(longest):
        token = last.argmax(dim=-1)
        written[:, step] = torch.where(is_done, end, token)
        is_done = is_done | (token == end)
        if bool(is_done.all()) or step == longest - 1:
            break
        mask = torch.cat([mask, ~is_done[:, None]], dim=1)
        found = model.run(
            w,
            input_ids=written[:, step : step + 1],
            attention_mask=mask.long(),
            position_ids=position[:, None] + step,
            cache=cache,
            use_cache=True,
        )
        last = found.logits[:, -1]
        assert last is not None
    rows = written.tolist()
    kept = [row[: row.index(end)] if end in row else row for row in rows]
    return [model.prompts.tokenizer.decode(row) if row else "" for row in kept]


def read_written(text: list[str], items: np.ndarray, titles: tuple[str, ...], rule: str = "strict") -> np.ndarray:
    """Tell which candidate each text means: its place, int64 [n], -1 where it means none or more than one.

    `strict`: the text is a candidate's title, case and blanks aside. `released`: exactly one candidate's title occurs
    in the text, as iLoRA's code counts it.
    Errors: `ConfigError` for another rule.

    >>> read_written([" tea pot", "tea"], np.array([[0, 1], [0, 1]]), ("Tea", "Tea pot")).tolist()
    [1, 0]
    >>> read_written([" tea pot", "tea"], np.array([[0, 1], [0, 1]]), ("Tea", "Tea pot"), "released").tolist()
    [-1, 0]
    """
    if rule not in ("strict", "released"):
        raise ConfigError("strict or released", repr(rule), where="read_written")
    names = np.array([" ".join(title.casefold().split()) for title in titles], dtype=np.str_)[items]
    said = np.array([" ".join(one.split("\n")[0].casefold().split()) for one in text], dtype=np.str_)[:, None]
    is_meant = names == said if rule == "strict" else np.strings.find(said, names) >= 0
    return np.where(is_meant.sum(axis=1) == 1, is_meant.argmax(axis=1), -1)
