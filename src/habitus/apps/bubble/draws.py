"""Draws as a pure function of who, what and when: the same item gets the same draw in both worlds of a pair."""

from __future__ import annotations

import numpy as np

from habitus.core.seeds import uniforms


def draws(seed: int, who: np.ndarray, what: np.ndarray, when: int, purpose: str) -> np.ndarray:
    """Give one draw in [0, 1) per (agent, item), broadcast; `what` below 2^31, negative ones are allowed.

    No generator state: neither the place in a list, nor the size of a batch, nor the order of agents matters.

    >>> one = draws(0, np.array([[3]]), np.array([[7, 8]]), 1, "watch")
    >>> bool(one[0, 1] == draws(0, np.array([3]), np.array([8]), 1, "watch")[0])
    True
    """
    key = (np.asarray(who).astype(np.uint64) << np.uint64(32)) | (np.asarray(what) + 1).astype(np.uint64)
    return uniforms(seed, key, stream=f"{purpose} {when}")
