"""Where do the true answers stand among everything that could be told? One pass over the targets of a loader.

The whole catalogue is ranked, nothing is sampled. Ties count against the model: whoever scores all alike ranks last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from habitus.core.errors import TrainingError
from habitus.tokens.batch import EventBatch

CELLS = 16_000_000  # scores held at once: with a million values, sixteen targets at a time
FIRST = 2  # ids below are padding and unknown


class Seen(Protocol):
    """Tells which values a user had before a target: numbers of the targets and ids, flat, repeats allowed."""

    def __call__(self, batch: EventBatch, row: Tensor, place: Tensor) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class Ranked:
    """What one model says of n targets, in the order of the loader.

    Attributes
    ----------
    sample, place
        int64, number of the asking event's row in the loader's stretches, and its place there.
    told
        int64, the true id.
    rank, rank_new
        int64 from 1: among all values, and among those the user did not have before. A true value that the user did
        have can not be told then: its `rank_new` is the number of all ids.
    log_p
        float32, ln of the probability given to the truth, in nats.
    top, top_p
        The first guess and its probability.
    is_repeat
        bool, the user had the true value before.
    """

    sample: np.ndarray
    place: np.ndarray
    told: np.ndarray
    rank: np.ndarray
    rank_new: np.ndarray
    log_p: np.ndarray
    top: np.ndarray
    top_p: np.ndarray
    is_repeat: np.ndarray

    def __len__(self) -> int:
        return len(self.told)

    def by(self, key: np.ndarray) -> Ranked:
        """Give the targets in ascending order of a key [n], so that models asked through other batches line up."""
        order = np.argsort(key, kind="stable")
        return Ranked(*(column[order] for column in vars(self).values()))


# of a batch, then of chosen events (row, place): n n_rows ln probabilities, -inf for padding and unknown
Teller = Callable[[EventBatch], Callable[[Tensor, Tensor], Tensor]]


def teller(members: Sequence[Any], field: str, temperature: float = 1.0) -> Teller:
    """Give a function of a batch, then of chosen events (row, place): n n_rows ln probabilities of the next value.

    `members` are models of one kind, one per seed: their probabilities are averaged, then raised to 1 / temperature and
    scaled to sum to 1, which leaves their order alone. A neural model runs once per batch, however many of its events
    are asked.
    """

    def of_batch(batch: EventBatch) -> Callable[[Tensor, Tensor], Tensor]:
        asked = [_asked(member, batch, field) for member in members]

        def log_shares(row: Tensor, place: Tensor) -> Tensor:
            whole = asked[0](row, place)
            for one in asked[1:]:
                whole = torch.logaddexp(whole, one(row, place), out=whole)
            if len(asked) > 1:
                whole = whole.sub_(float(np.log(len(asked))))
            return whole if temperature == 1.0 else (whole / temperature).log_softmax(dim=1)

        return log_shares

    return of_batch


def mixed(one: Teller, other: Teller, share: float) -> Teller:
    """Mix two tellers: (1 - share) of the probability of `one`, `share` of that of `other`."""

    def of_batch(batch: EventBatch) -> Callable[[Tensor, Tensor], Tensor]:
        a, b = one(batch), other(batch)

        def log_shares(row: Tensor, place: Tensor) -> Tensor:
            left, right = a(row, place) + float(np.log1p(-share)), b(row, place) + float(np.log(share))
            return torch.logaddexp(left, right, out=left)

        return log_shares

    return of_batch


@torch.no_grad()
def _asked(model: Any, batch: EventBatch, field: str) -> Callable[[Tensor, Tensor], Tensor]:
    if hasattr(model, "scores_at"):
        return lambda row, place: model.scores_at(batch, row, place, field)
    hidden = model(batch)
    weight, bias = model.output(field)

    def log_shares(row: Tensor, place: Tensor) -> Tensor:
        logits = model.query(hidden[row, place], field) @ weight.T
        if bias is not None:
            logits += bias
        logits[:, :FIRST] = -torch.inf
        return logits.log_softmax(dim=1)

    return log_shares


def ranked(
    tell: Teller,
    loader: Iterable[EventBatch],
    column: int,
    seen: Seen | None = None,
) -> Ranked:
    """Rank the truth of every target of a loader.

    Parameters
    ----------
    tell
        From `teller` or `mixed`.
    column
        Of the told field in `ids`.
    seen
        What users had before; default: what their row of the batch holds.

    Errors: `TrainingError` when a model gives nan.
    """
    passed = _passed((tell,), loader)
    parts = [_row(scores[0], batch, row, place, column, seen) for scores, batch, row, place in passed]
    return _joined(parts)


def ranked_mixes(
    one: Teller, other: Teller, shares: Sequence[float], loader: Iterable[EventBatch], column: int, seen: Seen | None
) -> list[Ranked]:
    """Rank the truth under mixes of two tellers, one per share of `other`, asking each teller once. As `ranked`."""
    parts: list[list[tuple[np.ndarray, ...]]] = [[] for _ in shares]
    for scores, batch, row, place in _passed((one, other), loader):
        left, right = (score.exp_() for score in scores)
        for share, found in zip(shares, parts):
            found.append(_row(torch.lerp(left, right, share).log_(), batch, row, place, column, seen))
    return [_joined(found) for found in parts]


def _passed(
    tellers: tuple[Teller, ...], loader: Iterable[EventBatch]
) -> Iterator[tuple[list[Tensor], EventBatch, Tensor, Tensor]]:
    """Go through the targets in pieces: what each teller gives, the batch, rows and places."""
    for batch in loader:
        rows, places = batch.is_target.nonzero(as_tuple=True)
        if not len(rows):
            continue
        with torch.no_grad():
            asked = [tell(batch) for tell in tellers]
            step = max(1, CELLS // asked[0](rows[:1], places[:1]).shape[1])
        for row, place in zip(rows.split(step), places.split(step)):
            with torch.no_grad():
                scores = [one(row, place) for one in asked]
            yield scores, batch, row, place


def _row(
    score: Tensor, batch: EventBatch, row: Tensor, place: Tensor, column: int, seen: Seen | None
) -> tuple[np.ndarray, ...]:
    found = _rank(score, batch, row, place, column, seen or in_row(column))
    return batch.sample[row].numpy(), place.numpy(), *found


def _joined(parts: list[tuple[np.ndarray, ...]]) -> Ranked:
    kinds = (np.int64, np.int64, np.int64, np.int64, np.int64, np.float32, np.int64, np.float32, bool)
    if not parts:
        return Ranked(*(np.zeros(0, kind) for kind in kinds))
    return Ranked(*(np.concatenate(column) for column in zip(*parts)))


def _rank(
    score: Tensor, batch: EventBatch, row: Tensor, place: Tensor, column: int, seen: Seen
) -> tuple[np.ndarray, ...]:
    told = batch.next_ids[row, place, column]
    own = score.gather(1, told[:, None])
    if bool(own.isnan().any()):
        raise TrainingError("a score for every value", "nan", where="ranking", fix="train again at a lower rate")
    rank = (score >= own).sum(dim=1)
    target, value = seen(batch, row, place)
    code = (target * score.shape[1] + value)[value >= FIRST].unique()
    target, value = code // score.shape[1], code % score.shape[1]
    is_true = value == told[target]
    is_repeat = torch.zeros(len(row), dtype=torch.bool).index_put_((target[is_true],), torch.tensor(True))
    ahead = torch.zeros_like(rank).index_add_(0, target, (score[target, value] >= own[target, 0]).long())
    rank_new = torch.where(is_repeat, score.shape[1], rank - ahead)
    top_log, top = score.max(dim=1)
    columns = (told, rank, rank_new, own[:, 0], top, top_log.exp(), is_repeat)
    return tuple(tensor.numpy() for tensor in columns)


def in_row(column: int) -> Seen:
    """Give what the row of the batch holds up to the asking event: all of a user's past when no row is cut."""

    def seen(batch: EventBatch, row: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
        is_past = torch.arange(batch.ids.shape[1]) <= place[:, None]
        target, at = is_past.nonzero(as_tuple=True)
        return target, batch.ids[row[target], at, column]

    return seen
