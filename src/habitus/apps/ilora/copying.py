"""A start that can copy: weights written by hand so that a small Llama finds what followed a token before.

Copying out of a list is the slow part of training a small model: it learns nothing of it for millions of tokens, then
all at once. Here the circuit that does it, known as an induction head (Olsson et al., "In-context Learning and
Induction Heads", arXiv 2209.11895), is written into the first two layers, and training goes on from there.

The width is cut in three: place 0 is the same in all tokens, T places hold the token, S places are free.
- Layer 0 looks one token back and writes that token's T into S.
- Layer 1, first half of the heads: looks for places whose S is the token in hand, and writes their T; a cue looks for
  places that follow a slot. Second half: takes the token's own T away, as the output table is the input table.
- With whole titles, what a cue likes is the log count of a title in training, and places about as far back as the list.
- All other heads and layers do nothing yet. The end of an answer starts as the slot's neighbour in T, as titles end
  where the next slot begins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from habitus.apps.ilora.candidates import N_CANDIDATES

if TYPE_CHECKING:
    from habitus.apps.ilora.prompts import Prompts

ROPE_BASE = 1e6  # slow enough that half of a head's places hardly turn within a prompt
_TOKEN, _SAME = 0.15, 0.6  # spread of T, value of place 0
_SHARP = 60.0  # of heads that look at a fixed distance
_MATCH = 6.0  # of heads that look for a token
_WHIM = 7.0  # of what a cue likes about a token by no reason: it has to settle for one title
_LIKED = 8.0  # of what it likes about a token, by its taste
_NEAR = 8.0  # of what a cue likes about places as far back as the middle of a list
_FAST, _SLOW = 4, 7  # pairs of a head that tell distance: below _FAST; that tell tokens: from _SLOW on


@torch.no_grad()
def give_copying(
    model: Any, *, slot: int, cue: int, end: int, taste: np.ndarray | None = None, reach: float = 0.0, seed: int = 0
) -> None:
    """Write the circuit into an untrained Llama with tied embeddings and at least 2 layers, in place.

    `taste`: how much each token is liked at first (about -1 to 1, one per token), instead of by no reason; the cue then
    prefers places about `reach` tokens back, where the middle of the list is.
    """
    layers, table = model.model.layers, model.model.embed_tokens.weight
    d, head = table.shape[1], layers[0].self_attn.head_dim
    n_t, half = d // 2 - 1, len(layers[0].self_attn.q_proj.weight) // head // 2
    draw = torch.Generator().manual_seed(seed)
    table.zero_()
    table[:, 0] = _SAME
    table[:, 1 : 1 + n_t] = torch.randn(len(table), n_t, generator=draw) * _TOKEN
    table[end, 1 : 1 + n_t] = table[slot, 1 : 1 + n_t] + 0.2 * table[end, 1 : 1 + n_t]
    t_norm = table[:, 1 : 1 + n_t].norm(dim=1, keepdim=True)  # alike in all tokens, so that scores compare
    table[:, 1 : 1 + n_t] *= _TOKEN * n_t**0.5 / t_norm
    if taste is not None:
        table[:, -1] = torch.from_numpy(taste).to(table) * _SAME
    for layer in layers:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    first, second = layers[0].self_attn, layers[1].self_attn
    for projection, written in ((first, half * head), (second, 2 * half * head)):
        for name in ("q_proj", "k_proj", "v_proj"):
            getattr(projection, name).weight[:written] = 0.0  # heads left free keep their draw: all zeros never move
    rms = _rms(n_t, d, parts=1)
    for h in range(half):
        _look_back(first, h, head, distance=1, rms=rms)
        _carry(first, h, head, n_t, out=d // 2, gain=rms)
    rms = _rms(n_t, d, parts=2)
    for h in range(half):
        _look_for(second, h, head, n_t, d, table, slot, cue)
        if taste is None:
            _settle(second, h, head, table[cue, 1 : 1 + n_t], rms)
        else:
            _prefer(second, h, head, table[cue, 1 : 1 + n_t], rms, reach)
        _carry(second, h, head, n_t, out=1, gain=2 * rms)
        _look_back(second, half + h, head, distance=0, rms=rms)
        _carry(second, half + h, head, n_t, out=1, gain=-rms, part=h)


def taste_of(texts: Prompts, counts: np.ndarray) -> dict[str, Any]:
    """Give `taste` and `reach` for prompts of whole titles: the log count of each title's piece, standardised and
    halved, and how far back the middle of a list is.
    """
    log = np.log(counts + 0.5)
    taste = np.zeros(len(texts.tokenizer))
    taste[texts.answers.flat[texts.answers.offsets[:-1]]] = (log - log.mean()) / max(float(log.std()), 1e-6) / 2
    cue = texts.pieces.size[texts.phrase(np.zeros(1, np.int64), 2)[0]]
    return {"taste": taste, "reach": float(N_CANDIDATES + cue)}


def _rms(n_t: int, d: int, parts: int) -> float:
    """The norm of a place's vector when T, or T and S, are filled."""
    return float(np.sqrt((parts * n_t * _TOKEN**2 + _SAME**2) / d))


def _look_back(attention: Any, h: int, head: int, *, distance: int, rms: float) -> None:
    """Make a head look a fixed number of tokens back, whatever they are."""
    size, low = np.sqrt(_SHARP) / (_SAME / rms), h * head
    for pair in range(_FAST):
        angle = distance * ROPE_BASE ** (-2 * pair / head)
        attention.q_proj.weight[low + pair, 0] = size
        attention.k_proj.weight[low + pair, 0] = size * np.cos(angle)
        attention.k_proj.weight[low + pair + head // 2, 0] = size * np.sin(angle)


def _look_for(attention: Any, h: int, head: int, n_t: int, d: int, table: Tensor, slot: int, cue: int) -> None:
    """Make a head look for places whose S is the T in hand; the cue's T is read as the slot's."""
    size, low = np.sqrt(_MATCH), h * head
    places = [pair + side for side in (0, head // 2) for pair in range(_SLOW, head // 2)]
    own = table[cue, 1 : 1 + n_t]
    for i, place in enumerate(places):
        t = (h * len(places) + i) % n_t
        attention.q_proj.weight[low + place, 1 + t] += size
        attention.k_proj.weight[low + place, d // 2 + t] += size
        wrong = table[slot, 1 + t] - table[cue, 1 + t]
        attention.q_proj.weight[low + place, 1 : 1 + n_t] += size * wrong * own / own.square().sum()


def _settle(attention: Any, h: int, head: int, own: Tensor, rms: float) -> None:
    """Make a cue like some tokens by no reason, the same in all heads, so that they settle for one place."""
    whim, n_t, low = torch.Generator().manual_seed(0), len(own), h * head
    for pair in range(_FAST, _SLOW):
        for place in (pair, pair + head // 2):
            taste = torch.randn(n_t, generator=whim)
            attention.k_proj.weight[low + place, 1 : 1 + n_t] = taste / taste.norm()
            attention.q_proj.weight[low + place, 1 : 1 + n_t] = _WHIM * rms * own / own.square().sum()


def _prefer(attention: Any, h: int, head: int, own: Tensor, rms: float, reach: float) -> None:
    """Make a cue like tokens by their taste, and places about `reach` tokens back."""
    n_t, low, cue = len(own), h * head, own / own.square().sum() * rms * head**0.5
    angle = reach * ROPE_BASE ** (-2 * _FAST / head)
    attention.q_proj.weight[low + _FAST, 1 : 1 + n_t] = _NEAR * cue
    attention.k_proj.weight[low + _FAST, 0] = rms / _SAME * np.cos(angle)
    attention.k_proj.weight[low + _FAST + head // 2, 0] = rms / _SAME * np.sin(angle)
    attention.q_proj.weight[low + _SLOW - 1, 1 : 1 + n_t] = _LIKED * cue
    attention.k_proj.weight[low + _SLOW - 1, -1] = rms / _SAME


def _carry(attention: Any, h: int, head: int, n_t: int, *, out: int, gain: float, part: int | None = None) -> None:
    """Make a head carry its share of T to the places from `out` on."""
    share = h if part is None else part
    for i in range(head):
        t = share * head + i
        if t < n_t:
            attention.v_proj.weight[h * head + i, 1 + t] = 1.0
            attention.o_proj.weight[out + t, h * head + i] = gain
