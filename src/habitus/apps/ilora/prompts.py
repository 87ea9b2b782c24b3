"""Prompts as pieces: every title and every phrase is cut into tokens once, and a batch is put together by gathers.

[BOS] head · title slot ... · middle · title slot ... · cue      answer · end

A title is tokenised with its leading space and the same way everywhere, so that scoring an answer and training on it
see the same tokens. The slot stands before its title or after it; in a batch its id is `SLOT`, which no tokenizer has:
the model puts a vector there. Letters: B rows, L tokens, H titles of a history, C candidates.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from habitus.core.config import Config
from habitus.core.errors import ArtifactError, ConfigError

SLOT = -1  # id of a slot in a batch
IGNORED = -100  # label of what is not told
Domain = Literal["films", "artists", "items"]
TEMPLATES: dict[str, tuple[tuple[str, str, str], ...]] = {
    "films": (
        ("Seen so far, oldest first:", "\nOn offer:", "\nSeen next:"),
        ("A viewer has watched, in this order:", "\nOne of these films follows:", "\nIt is:"),
        ("Films of one viewer, one after the other:", "\nWhich of these comes after them?", "\nAnswer:"),
    ),
    "artists": (
        ("Heard so far, oldest first:", "\nOn offer:", "\nHeard next:"),
        ("A listener has played, in this order:", "\nOne of these artists follows:", "\nIt is:"),
        ("Artists of one listener, one after the other:", "\nWhich of these comes after them?", "\nAnswer:"),
    ),
    "items": (
        ("Chosen so far, oldest first:", "\nOn offer:", "\nChosen next:"),
        ("Somebody has chosen, in this order:", "\nOne of these follows:", "\nIt is:"),
        ("Choices of one person, one after the other:", "\nWhich of these comes after them?", "\nAnswer:"),
    ),
}


class PromptConfig(Config):
    """How a question reads. `slot` says on which side of its title a marker stands.

    >>> PromptConfig(domain="films").slot
    'before'
    """

    domain: Domain = "items"
    slot: Literal["before", "after"] = "before"


@dataclass(frozen=True)
class Ragged:
    """Rows of tokens, one after the other: row i is flat[offsets[i]:offsets[i + 1]]."""

    flat: np.ndarray
    offsets: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]]) -> Ragged:
        sizes = [len(row) for row in rows]
        flat = np.fromiter((token for row in rows for token in row), np.int64, sum(sizes))
        return cls(flat, np.r_[0, np.cumsum(sizes)].astype(np.int64))

    @property
    def size(self) -> np.ndarray:
        return np.diff(self.offsets)

    def right_aligned(self, pieces: np.ndarray, empty: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Put rows together: pieces [B, P] of row numbers, -1 none -> tokens [B, L], is_token [B, L], piece [B, L].

        `piece` is the place (0 .. P - 1) of the piece a token belongs to.
        """
        size = np.where(pieces >= 0, np.r_[self.size, 0][pieces], 0)
        total = size.sum(axis=1)
        length = int(total.max(initial=0))
        tokens = np.full((len(pieces), length), empty, np.int64)
        where = np.zeros((len(pieces), length), np.int64)
        flat_size, flat_piece = size.ravel(), np.maximum(pieces, 0).ravel()
        row = np.repeat(np.arange(len(pieces)), total)
        inside = np.arange(flat_size.sum()) - np.repeat(np.cumsum(flat_size) - flat_size, flat_size)
        source = np.repeat(self.offsets[flat_piece], flat_size) + inside
        column = np.arange(len(row)) - np.repeat(np.cumsum(total) - total, total) + (length - total)[row]
        tokens[row, column] = self.flat[source]
        where[row, column] = np.repeat(np.tile(np.arange(pieces.shape[1]), len(pieces)), flat_size)
        return tokens, np.arange(length) >= (length - total)[:, None], where


@dataclass(frozen=True)
class PromptBatch:
    """B prompts, padded on the left. `slot_item` says which item's slot a token is, -1 for other tokens."""

    ids: np.ndarray  # B L int64, SLOT at slots
    is_token: np.ndarray  # B L bool
    slot_item: np.ndarray  # B L int64
    labels: np.ndarray  # B L int64, IGNORED but on answer and end
    n_labels: int  # the longest answer with its end


class Prompts:
    """Titles and phrases of one tokenizer.

    Parameters
    ----------
    tokenizer
        Of transformers, with an end-of-sequence token.
    titles
        One text per item number.
    context
        The longest row the model reads. Errors: `ConfigError` for a title, or the longest question, beyond it.
    """

    def __init__(self, tokenizer: Any, titles: Sequence[str], config: PromptConfig, context: int) -> None:
        self.tokenizer, self.titles, self.config, self.context = tokenizer, tuple(titles), config, context
        if tokenizer.eos_token_id is None:
            raise ArtifactError("a tokenizer with an end-of-sequence token", "none", where=str(tokenizer.name_or_path))
        self.end = int(tokenizer.eos_token_id)
        self.pad = int(self.end if tokenizer.pad_token_id is None else tokenizer.pad_token_id)
        names = [self.tokens(f" {title}") for title in titles]
        _check_titles(names, self.titles, context)
        slotted = [[SLOT, *name] if config.slot == "before" else [*name, SLOT] for name in names]
        phrases = [self.tokens(text) for template in TEMPLATES[config.domain] for text in template]
        begin = [] if tokenizer.bos_token_id is None else [int(tokenizer.bos_token_id)]
        answers = [[*name, self.end] for name in names]
        self.answers = Ragged.of(answers)
        self.pieces = Ragged.of([*slotted, *answers, *phrases, begin])

    @property
    def n_items(self) -> int:
        return len(self.titles)

    @property
    def n_templates(self) -> int:
        return len(TEMPLATES[self.config.domain])

    @property
    def begin(self) -> int:
        """The piece that opens a row."""
        return len(self.pieces.offsets) - 2

    def phrase(self, template: np.ndarray, part: int) -> np.ndarray:
        """Give the piece of a phrase (0 head, 1 middle, 2 cue) of each row's template."""
        return 2 * self.n_items + 3 * template + part

    def tokens(self, text: str) -> list[int]:
        """Cut a text; the one way in which titles, phrases and answers are cut."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over every piece."""
        digest = hashlib.sha256(repr((self.config, self.end)).encode())
        for values in (self.pieces.flat, self.pieces.offsets):
            digest.update(values.tobytes())
        return digest.hexdigest()

    def batch(
        self,
        history: np.ndarray,
        candidates: np.ndarray,
        answer: np.ndarray | None = None,
        template: np.ndarray | None = None,
    ) -> PromptBatch:
        """Give prompts (B H, B C item numbers, -1 for none), with the answers (B) after them where they are given.

        Errors: `ConfigError` for a row beyond the context.
        """
        if template is None:
            template = np.zeros(len(history), np.int64)
        n = len(history)
        parts = [np.full((n, 1), self.begin), self.phrase(template, 0)[:, None], history]
        parts += [self.phrase(template, 1)[:, None], candidates, self.phrase(template, 2)[:, None]]
        if answer is not None:
            parts.append(answer[:, None].astype(np.int64) + self.n_items)
        pieces = np.concatenate(parts, axis=1).astype(np.int64)
        ids, is_token, where = self.pieces.right_aligned(pieces, self.pad)
        if ids.shape[1] > self.context:
            fix = "choose a model with a longer context, or fewer titles of history"
            raise ConfigError(
                f"at most {self.context} tokens", f"a question of {ids.shape[1]}", where="prompt", fix=fix
            )
        slot_item = np.where(ids == SLOT, np.take_along_axis(pieces, where, axis=1), -1)
        labels = np.full(ids.shape, IGNORED)
        n_labels = 0
        if answer is not None:
            is_answer = is_token & (where == pieces.shape[1] - 1)
            labels[is_answer] = ids[is_answer]
            n_labels = int(is_answer.sum(axis=1).max(initial=0))
        return PromptBatch(ids, is_token, slot_item, labels, n_labels)

    def answer_batch(self, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Give answers with their end, padded on the right: tokens int64 [n, A], is_token bool [n, A]."""
        size = self.answers.size[items]
        place = np.arange(int(size.max(initial=0)))
        is_token = place < size[:, None]
        at = self.answers.offsets[items][:, None] + np.where(is_token, place, 0)
        return np.where(is_token, self.answers.flat[at], self.pad), is_token


def _check_titles(names: list[list[int]], titles: Sequence[str], context: int) -> None:
    sizes = np.array([len(name) for name in names] or [0])
    if empty := [i for i, title in enumerate(titles) if not title.strip()]:
        raise ConfigError("titles with text", "an empty one", where=f"item number {empty[0]}")
    if sizes.max() + 2 > context:
        title = titles[int(sizes.argmax())]
        fix = "shorten the title, or choose a model with a longer context"
        found = f"{sizes.max()} tokens: {title[:60]!r}"
        raise ConfigError(f"titles that leave room in {context} tokens", found, where="titles", fix=fix)
