"""Where the table of LURM may start: the leading directions of the train bags, one set per group of interests.

Interests are grouped by k-means on their leading directions over all bags, one group per anchor; inside a group, the
leading directions of that part of the bags become the group's numbers. With sharp gates, the straight way then gives
each anchor the best P-number linear reading of its part of the bag. Nothing is trained; train users alone are read.
Source of the iteration: Halko, Martinsson and Tropp 2011. Plain TF-IDF + SVD is the case of one anchor.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from habitus.core.seeds import derive
from habitus.models.lurm import Lurm

SHARP = 6.0  # logit of the own anchor above the others
N_LEADING = 64  # directions by which interests are grouped
N_BAGS = 50_000  # bags that are read


@torch.no_grad()
def start_from_bags(model: Lurm, bags: Any, seed: int = 0) -> None:
    """Put the start into `model`; `bags` are life bags of train users, unit rows, n x V.

    With fewer users or interests than directions, the numbers beyond stay at small noise.
    """
    d, _, r, p = model.config.widths
    m, p = len(model.aspect), min(p, d)
    if bags.shape[0] > N_BAGS:
        draw = np.random.default_rng(derive(seed, "bags"))
        bags = bags[np.sort(draw.choice(bags.shape[0], N_BAGS, replace=False))]
    noise = torch.Generator().manual_seed(derive(seed, "start"))
    table = torch.randn(len(model.table), d, generator=noise) * 1e-3
    group, n_groups = np.zeros(bags.shape[1], np.int64), min(m, r, d - p)
    if n_groups > 1:
        group = _groups(bags, n_groups, seed)
        table[:, p : p + n_groups] = torch.eye(n_groups)[torch.from_numpy(group)]
        _put_gates(model, n_groups, p)
    for g in range(max(n_groups, 1)):
        members = np.flatnonzero(group == g)
        if len(members):
            found = _directions(bags[:, members], p, seed)
            table[members, : found.shape[1]] = torch.from_numpy(found).float()
    model.table.copy_(table)
    if model.straight is not None:
        model.straight.weight.copy_(torch.eye(model.config.widths[3], d))


@torch.no_grad()
def start_rhythm(model: Lurm, rhythm: np.ndarray) -> None:
    """Put what train users' rhythms (n K) say into `model`: each number on one scale, or their leading directions."""
    assert model.rhythm is not None
    mean, spread = rhythm.mean(axis=0), rhythm.std(axis=0)
    even = np.diag(np.where(spread > 1e-3, 1 / np.maximum(spread, 1e-3), 0.0))
    width = model.rhythm.way.shape[1]
    if len(even) > width:
        _, _, turned = np.linalg.svd((rhythm - mean) @ even, full_matrices=False)
        turned = turned[:width] * np.sign(turned[:width, :1] + 1e-12)
        even = even @ turned.T
    told = (rhythm - mean) @ even
    model.rhythm.mean.copy_(torch.from_numpy(mean))
    model.rhythm.way.zero_()
    model.rhythm.way[:, : even.shape[1]] = torch.from_numpy(even / max(np.sqrt(told.var(axis=0).sum()), 1e-12))


def _groups(bags: Any, n: int, seed: int) -> np.ndarray:
    """Split the interests in `n` groups by the angle between their leading directions, int64 [V]."""
    from sklearn.cluster import KMeans

    leading = _directions(bags, N_LEADING, seed)
    size = np.linalg.norm(leading, axis=1)
    unit = leading / np.maximum(size, 1e-12)[:, None]
    heard = np.flatnonzero(size > 1e-9)
    if len(heard) < n:
        return np.arange(bags.shape[1]) % n
    means: Any = KMeans(n, n_init=2, random_state=derive(seed, "groups") % 2**31)  # pyright: ignore
    means.fit(unit[heard], sample_weight=np.minimum(size[heard], 50 * np.median(size[heard])))
    return means.predict(unit).astype(np.int64)


def _put_gates(model: Lurm, n: int, first: int) -> None:
    """Gates that read the group's own number in a row of the table."""
    r = model.config.widths[2]
    model.gate.weight.zero_()
    model.gate.weight[:n, first : first + n] = torch.eye(n)
    model.aspect.normal_(0, 1e-3, generator=torch.Generator().manual_seed(0))
    model.aspect[:n, :n] = torch.eye(n) * SHARP * np.sqrt(r)


def _directions(bags: Any, k: int, seed: int) -> np.ndarray:
    """Give the interests' coordinates on the `k` leading directions, V x at most k, orthonormal columns."""
    from sklearn.utils.extmath import randomized_svd

    k = min(k, min(bags.shape))
    _, values, turned = randomized_svd(
        bags,
        k,
        n_iter=4,  # pyright: ignore
        random_state=derive(seed, "svd") % 2**31,
    )
    return (turned * (values > 1e-9)[:, None]).T
