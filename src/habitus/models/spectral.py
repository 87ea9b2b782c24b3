"""Vectors of values from what stands near what: where the table of a neural model may start.

Counts of pairs become positive pointwise information, ln(P(a, b) / (P(a) P(b))) with small counts drawn down, and its
leading eigenvectors become vectors whose products restore it. Sources: Levy and Goldberg 2014 (counts and word
vectors), Halko, Martinsson and Tropp 2011 (the iteration). Nothing is trained; some seconds for ten thousand values.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from habitus.models.transition import Transition

SPARE = 32  # directions carried along, so that the last ones asked for are right
STEPS = 6
INVENTED = 10.0  # events added to every total: pairs seen once or twice say little
POWER = 0.75  # of the totals of the second value, as in word vectors


def spectral_table(graph: Transition, width: int, *, scale: float = 0.05, seed: int = 0) -> Tensor:
    """Give vectors n_rows x width whose root mean square is `scale`; zeros for padding, unknown and lonely values.

    Pairs count both ways round. With fewer values than `width`, the columns beyond are 0. Memory: n_rows x (width + 32)
    numbers a few times over.

    >>> from habitus.models.transition import TransitionConfig
    >>> from habitus.tokens.events import EventShape
    >>> graph = Transition(TransitionConfig(), EventShape((("item", 9),), n_amounts=0, length=4))
    >>> spectral_table(graph, 4).shape
    torch.Size([9, 4])
    """
    n = graph.n_rows
    if not len(graph.follower):
        return torch.zeros(n, width)
    near = _information(graph)
    draw = torch.Generator().manual_seed(seed)
    basis = torch.randn(n, min(width + SPARE, n), generator=draw)
    for _ in range(STEPS):
        basis = torch.linalg.qr(near @ basis).Q
    values, turns = torch.linalg.eigh(basis.T @ (near @ basis))
    best = values.argsort(descending=True)[:width]
    found = basis @ turns[:, best] * values[best].clamp(min=0).sqrt()
    table = torch.zeros(n, width)
    is_near = near @ torch.ones(n, 1) > 0
    table[:, : found.shape[1]] = torch.where(is_near, found, 0.0)
    rms = (table.square().sum() / (is_near.sum() * width).clamp(min=1)).sqrt()
    return table * (scale / rms) if bool(rms > 0) else table


def _information(graph: Transition) -> Tensor:
    """Give the symmetric table of positive information, sparse n_rows x n_rows."""
    n = graph.n_rows
    first = torch.repeat_interleave(torch.arange(n), graph.first.diff())
    pairs = torch.stack([torch.cat([first, graph.follower]), torch.cat([graph.follower, first])])
    both = torch.sparse_coo_tensor(pairs, graph.count.repeat(2), (n, n), check_invariants=True).coalesce()
    (a, b), count = both.indices(), both.values()
    total = torch.zeros(n).index_add_(0, a, count)
    share = total**POWER / (total**POWER).sum().clamp(min=1e-30)
    known = (count / (total[a] + INVENTED) / share[b]).log().clamp(min=0)
    turned = (count / (total[b] + INVENTED) / share[a]).log().clamp(min=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch calls this layout a prototype
        return torch.sparse_coo_tensor(
            both.indices(), (known + turned) / 2, (n, n), check_invariants=True
        ).to_sparse_csr()
