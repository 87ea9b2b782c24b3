"""Reading bags with LURM where no gradient is asked for: the same gated sums by fewer and larger products.

Training sums each anchor by itself, so that no tensor over weights, anchors and numbers is made. Reading may put the
anchors side by side, and where a user's windows share their interests, a window is a row of one small dense product:
its cost is that of windows x own interests, whatever the number of events.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from habitus.tokens.bags import Bags

DENSE = 10  # cells of user x window x interest per weight, up to which the dense product is the faster
MOST = 1 << 22  # numbers of one piece of the dense product: 16 MB
WIDE = 1 << 24  # numbers of the rows with anchors side by side: 64 MB


def distinct(ids: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Give the sorted distinct ids below `n` and the place of each among them; by a mask where that beats a sort.

    >>> distinct(torch.tensor([4, 1, 4]), 6)
    (tensor([1, 4]), tensor([1, 0, 1]))
    """
    if n > 16 * len(ids):
        found, inverse = ids.unique(return_inverse=True)
        return found, inverse
    is_there = torch.zeros(n, dtype=torch.bool, device=ids.device)
    is_there[ids] = True
    found = is_there.nonzero()[:, 0]
    place = torch.empty(n, dtype=torch.int64, device=ids.device)
    place[found] = torch.arange(len(found), device=ids.device)
    return found, place[ids]


def gated_sums(bags: Bags, rows: Tensor, gate: Tensor, ids: Tensor) -> list[Tensor] | None:
    """Give the gated sums B T M D of each scale; None where the rows of all anchors would take too much room.

    `rows` U D and `gate` U M are those of the interests that occur, `ids` the place of each weight's interest in them,
    scale after scale.
    """
    user, window = (torch.cat(parts) for parts in zip(*_places(bags)))
    own = _own(user, ids, len(rows), len(bags))
    shape = (gate.shape[1], rows.shape[1])
    if own is not None:
        interest, place = own
        n_windows = sum(scale.n_windows for scale in bags.scales)
        cells = len(bags) * n_windows * interest.shape[1]
        if cells <= DENSE * len(ids):
            weight = ids.new_zeros(cells, dtype=rows.dtype)
            weight[(user * n_windows + window) * interest.shape[1] + place] = _weights(bags)
            found = _products(weight.view(len(bags), n_windows, -1), rows, gate, interest)
            return list(found.split([scale.n_windows for scale in bags.scales], dim=1))
    if len(rows) * rows.shape[1] * gate.shape[1] > WIDE:
        return None
    return _bagged(bags, (gate[:, :, None] * rows[:, None]).flatten(1), ids, shape)


def _places(bags: Bags) -> list[tuple[Tensor, Tensor]]:
    """Give, per scale, user and window of each weight; windows are numbered through all scales."""
    found, first = [], 0
    for scale in bags.scales:
        bag = torch.arange(scale.is_empty.numel(), device=scale.offset.device)
        bag = bag.repeat_interleave(scale.offset.diff())
        user = bag // scale.n_windows
        found.append((user, bag - user * scale.n_windows + first))
        first += scale.n_windows
    return found


def _own(user: Tensor, ids: Tensor, n_rows: int, n_users: int) -> tuple[Tensor, Tensor] | None:
    """Give each user's interests B J (0 beyond them) and the place of each weight among them; None where sparse."""
    if not len(ids) or n_users * n_rows > 16 * len(ids):
        return None
    own, inverse = distinct(user * n_rows + ids, n_users * n_rows)
    whose = own // n_rows
    size = torch.bincount(whose, minlength=n_users)
    place = torch.arange(len(own), device=ids.device) - (size.cumsum(0) - size)[whose]
    interest = ids.new_zeros(n_users, int(size.max()))
    interest[whose, place] = own - whose * n_rows
    return interest, place[inverse]


def _weights(bags: Bags) -> Tensor:
    return torch.cat([scale.weight for scale in bags.scales])


def _products(weight: Tensor, rows: Tensor, gate: Tensor, interest: Tensor) -> Tensor:
    """Give windows x interests B T J, gated for each anchor, times the users' rows: B T M D; some users at a time."""
    (n, t, j), m = weight.shape, gate.shape[1]
    step = max(1, MOST // (t * j * m))
    pieces = []
    for at in range(0, n, step):
        own = interest[at : at + step]
        gated = weight[at : at + step, :, None] * gate.T[:, own].permute(1, 0, 2)[:, None]  # b T M J
        pieces.append(torch.bmm(gated.flatten(1, 2), rows[own]).unflatten(1, (t, m)))
    return torch.cat(pieces)


def _bagged(bags: Bags, beside: Tensor, ids: Tensor, shape: tuple[int, int]) -> list[Tensor]:
    """Sum every window's rows by itself."""
    found, start = [], 0
    for scale in bags.scales:
        here = ids[start : start + len(scale.interest)]
        start += len(here)
        summed = F.embedding_bag(here, beside, scale.offset[:-1], mode="sum", per_sample_weights=scale.weight)
        found.append(summed.view(len(bags), scale.n_windows, *shape))
    return found
