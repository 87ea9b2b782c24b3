"""LightGCN: vectors of users and items smoothed over the graph of who liked what; without a layer it is plain MF.

Sources: He et al., "LightGCN", arXiv 2002.02126 (symmetric normalisation, mean over layers, no weights beside the
vectors); Rendle et al., "BPR", arXiv 1205.2618. Users are rows of a table here, so this is no model of events: it
answers for users it was given and no others.

Shape letters: U users, V items, D width, n pairs.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from habitus.core.config import Config


class LightGCNConfig(Config):
    """What the user chooses. `n_layers = 0` is matrix factorisation.

    >>> LightGCNConfig(n_layers=0).d_model
    64
    """

    d_model: int = Field(64, gt=0)
    n_layers: int = Field(2, ge=0)
    std: float = Field(0.1, gt=0)


class LightGCN(nn.Module):
    """Pairs in, vectors out: `forward` gives the smoothed tables U D and V D; a score is their product.

    Call `connect` with the pairs before the first `forward` when there are layers; they may change between steps.

    Parameters
    ----------
    config, n_users, n_items
        What was chosen, and the sizes of the tables.
    seed
        Of the first vectors; the global random state is left as it was.

    >>> model = LightGCN(LightGCNConfig(d_model=8), n_users=3, n_items=5)
    >>> model.connect(np.array([0, 1]), np.array([4, 4]))
    >>> [tuple(table.shape) for table in model()]
    [(3, 8), (5, 8)]
    """

    Config = LightGCNConfig

    def __init__(self, config: LightGCNConfig, n_users: int, n_items: int, seed: int = 0) -> None:
        super().__init__()
        self.config, self.n_users, self.n_items = config, n_users, n_items
        self.graph: Graph | None = None
        draw = torch.Generator().manual_seed(seed)
        size = (n_users + n_items, config.d_model)
        self.table = nn.Parameter(torch.empty(size).normal_(0.0, config.std, generator=draw))

    def connect(self, user: np.ndarray, item: np.ndarray) -> None:
        """Set the graph: n pairs, repeated ones count once; each edge weighs 1 / sqrt(both degrees)."""
        pair = np.unique(user.astype(np.int64) * self.n_items + item)
        user, item = pair // self.n_items, pair % self.n_items + self.n_users
        n = self.n_users + self.n_items
        degree = np.bincount(np.r_[user, item], minlength=n).astype(np.float32)
        a, b = np.r_[user, item], np.r_[item, user]
        order = np.argsort(a * n + b)
        a, b = a[order], b[order]
        first = np.r_[0, np.cumsum(np.bincount(a, minlength=n))]
        weight = 1 / np.sqrt(degree[a] * degree[b])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch calls this layout a prototype
            parts = (torch.from_numpy(x) for x in (first, b, weight))
            self.graph = Graph(torch.sparse_csr_tensor(*parts, size=(n, n), check_invariants=True))

    def forward(self) -> tuple[Tensor, Tensor]:
        """Give the smoothed tables of users U D and items V D."""
        total = layer = self.table
        for _ in range(self.config.n_layers):
            assert self.graph is not None, "connect first"
            layer = _Smooth.apply(layer, self.graph.table)  # pyright: ignore
            total = total + layer
        mean = total / (self.config.n_layers + 1)
        return mean[: self.n_users], mean[self.n_users :]


class Graph:
    """A sparse table that copies share: it is never changed, and torch cannot copy it."""

    def __init__(self, table: Tensor) -> None:
        self.table = table

    def __deepcopy__(self, memo: dict[int, Any]) -> Graph:
        return self


class _Smooth(torch.autograd.Function):
    """A product with a symmetric sparse table: the gradient is the same product, and the table needs none."""

    @staticmethod
    def forward(ctx: Any, layer: Tensor, graph: Tensor) -> Tensor:
        ctx.graph = graph
        return graph @ layer

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return ctx.graph @ gradients[0], None


def bpr(user: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """Mean of -ln sigmoid(score of the liked - score of the other) over n pairs of vectors n D (Rendle et al. 2009).

    >>> one = torch.ones(1, 4)
    >>> round(float(bpr(one, one, one)), 4)
    0.6931
    """
    return nn.functional.softplus((user * (negative - positive)).sum(dim=1)).mean()
