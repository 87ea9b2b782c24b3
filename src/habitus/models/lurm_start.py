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

SHARP = 12.0  # logit of the own anchor for an interest in the middle of its group
N_BAGS = 50_000  # bags that are read


@torch.no_grad()
def start_from_bags(model: Lurm, bags: Any, seed: int = 0) -> None:
    """Put the start into `model`; `bags` are life bags of train users, unit rows, n x V.

    With fewer users or interests than directions, the numbers beyond stay at small noise.
    """
    from sklearn.cluster import KMeans

    d, m, r, p = model.config.widths
    p = min(p, d)
    if bags.shape[0] > N_BAGS:
        draw = np.random.default_rng(derive(seed, "bags"))
        bags = bags[np.sort(draw.choice(bags.shape[0], N_BAGS, replace=False))]
    noise = torch.Generator().manual_seed(derive(seed, "start"))
    table = torch.randn(len(model.table), d, generator=noise) * 1e-3
    group, n_gate = np.zeros(bags.shape[1], np.int64), min(r, d - p) if m > 1 else 0
    if n_gate:
        leading = _directions(bags, n_gate, seed)
        size = np.linalg.norm(leading, axis=1)
        unit = leading / np.maximum(size, 1e-12)[:, None]
        heard = np.flatnonzero(size > 1e-9)
        n_groups = min(m, len(heard))
        means: Any = KMeans(
            n_groups,
            n_init=4,  # pyright: ignore
            random_state=derive(seed, "groups") % 2**31,
        )
        means.fit(unit[heard], sample_weight=np.minimum(size[heard], 50 * np.median(size[heard])))
        group = means.predict(unit).astype(np.int64)
        table[:, p : p + n_gate] = torch.from_numpy(unit).float()
        _put_gates(model, means.cluster_centers_, p)
    for g in range(m if n_gate else 1):
        members = np.flatnonzero(group == g)
        if len(members):
            found = _directions(bags[:, members], p, seed)
            table[members, : found.shape[1]] = torch.from_numpy(found).float()
    model.table.copy_(table)
    if model.straight is not None:
        model.straight.weight.copy_(torch.eye(model.config.widths[3], d))


def _put_gates(model: Lurm, centres: np.ndarray, first: int) -> None:
    """Gates that lean to the centre of the nearest direction: the logit is SHARP times the cosine with it."""
    r, width = model.config.widths[2], centres.shape[1]
    model.gate.weight.zero_()
    model.gate.weight[:width, first : first + width] = torch.eye(r)[:width, :width]
    unit = centres / np.maximum(np.linalg.norm(centres, axis=1, keepdims=True), 1e-12)
    model.aspect.normal_(0, 1e-3, generator=torch.Generator().manual_seed(0))
    model.aspect[: len(unit), :width] = torch.from_numpy(unit * SHARP * np.sqrt(r)).float()


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
