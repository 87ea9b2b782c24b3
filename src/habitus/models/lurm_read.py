"""Reading bags with LURM where no gradient is asked for: the same gated sums by fewer and larger products.

Training sums each anchor by itself, so that no tensor over weights, anchors and numbers is made. Reading may put the
anchors side by side, and where a user's windows share their interests, a window is a row of one small dense product:
its cost is that of windows x own interests, whatever the number of events.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from habitus.tokens.bag_tables import BagTable
from habitus.tokens.bags import Bags

DENSE = 10  # cells of user x window x interest per weight, up to which the dense product is the faster
SPARSE = 16  # cells of user x interest per weight, up to which a table of them is filled
MOST = 1 << 19  # numbers of one piece of the dense product, for each anchor: 16 MB of 8 anchors
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


def dense_sums(bags: Bags, table: Tensor, gates: Callable[[Tensor], Tensor]) -> list[Tensor] | None:
    """Give the gated sums B T M D of each scale by dense products; None where users' windows share too few interests.

    `table` V D has a row per interest, `gates` splits rows among the anchors.
    """
    weight, n = torch.cat([scale.weight for scale in bags.scales]), len(bags)
    own = _own(bags, len(table), len(weight))
    if own is None:
        return None
    interest, place = own
    windows = [scale.n_windows for scale in bags.scales]
    t, j = sum(windows), interest.shape[1]
    if n * t * j > DENSE * len(weight):
        return None
    held = weight.new_zeros(n * t * j)
    first = (torch.arange(n * t, device=place.device) * j).view(n, t).split(windows, dim=1)
    held[place + _each(bags, first)] = weight
    return list(_products(held.view(n, t, j), table, gates, interest).split(windows, dim=1))


def table_sums(bags: BagTable, table: Tensor, gates: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """Give the same of bags that are a table already."""
    found = _products(bags.weight, table, gates, bags.interest)
    return list(found.split([scale.n_windows for scale in bags.scales], dim=1))


def gated_sums(bags: Bags, rows: Tensor, gate: Tensor, ids: Tensor) -> list[Tensor] | None:
    """Give the gated sums B T M D of each scale; None where the rows of all anchors would take too much room.

    `rows` U D and `gate` U M are those of the interests that occur, `ids` the place of each weight's interest in them,
    scale after scale.
    """
    if len(rows) * rows.shape[1] * gate.shape[1] > WIDE:
        return None
    return _bagged(bags, (gate[:, :, None] * rows[:, None]).flatten(1), ids, (gate.shape[1], rows.shape[1]))


def _each(bags: Bags, of_bag: Sequence[Tensor]) -> Tensor:
    """Give each weight the number of its bag; one B x T per scale."""
    found = [n.reshape(-1).repeat_interleave(scale.offset.diff()) for n, scale in zip(of_bag, bags.scales)]
    return torch.cat(found)


def _own(bags: Bags, n_interests: int, n_weights: int) -> tuple[Tensor, Tensor] | None:
    """Give each user's interests B J (0 beyond them) and the place of each weight among them; None where sparse."""
    n = len(bags)
    if not n_weights or n * n_interests > SPARSE * n_weights:
        return None
    key = torch.arange(n, device=bags.scales[0].offset.device) * n_interests
    ids = torch.cat([scale.interest for scale in bags.scales])
    ids = ids + _each(bags, [key[:, None].expand(-1, scale.n_windows) for scale in bags.scales])
    own, inverse = distinct(ids, n * n_interests)
    whose = own // n_interests
    size = torch.bincount(whose, minlength=n)
    place = torch.arange(len(own), device=ids.device) - (size.cumsum(0) - size)[whose]
    interest = ids.new_zeros(n, int(size.max()))
    interest[whose, place] = own - whose * n_interests
    return interest, place[inverse]


def _products(weight: Tensor, table: Tensor, gates: Callable[[Tensor], Tensor], interest: Tensor) -> Tensor:
    """Give windows x interests B T J, gated for each anchor, times the users' rows: B T M D; some users at a time."""
    n, t, j = weight.shape
    pieces, step = [], max(1, MOST // (t * j))
    for at in range(0, n, step):
        rows = table[interest[at : at + step]]  # b J D
        gate = gates(rows)
        gated = weight[at : at + step, :, None] * gate.mT[:, None]  # b T M J
        pieces.append(torch.bmm(gated.flatten(1, 2), rows).unflatten(1, (t, gate.shape[2])))
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
