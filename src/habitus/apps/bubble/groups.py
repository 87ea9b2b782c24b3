"""Who gets out? The score of a group of agents set against that of all others, with Holm's correction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

LEAST = 20  # source users that a group needs on either side


def group_table(score: np.ndarray, source: np.ndarray, groups: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """Compare the mean of each group with that of the rest: Welch's t over source users, p corrected after Holm.

    `score` float64 [U]; `source` [U], clones of one user count as one; `groups` name -> text [U], empty text in no
    group. Groups of fewer than 20 users are left out.

    >>> rng = np.random.default_rng(0)
    >>> side = np.repeat(["a", "b"], 100)
    >>> rows = group_table(rng.normal(size=200) + (side == "a"), np.arange(200), {"side": side})
    >>> rows[0]["group"], rows[0]["p_holm"] < 0.01
    ('a', True)
    """
    from scipy.stats import t

    _, first, row = np.unique(source, return_index=True, return_inverse=True)
    mean = np.bincount(row, weights=score) / np.bincount(row)
    found: list[dict[str, Any]] = []
    for kind, words in groups.items():
        own = np.asarray(words)[first]
        for word in [w for w in np.unique(own).tolist() if w]:
            one, rest = mean[own == word], mean[(own != word) & (own != "")]
            if min(len(one), len(rest)) < LEAST:
                continue
            gap = float(one.mean() - rest.mean())
            parts = np.array([one.var(ddof=1) / len(one), rest.var(ddof=1) / len(rest)])
            error = float(np.sqrt(parts.sum()))
            free = parts.sum() ** 2 / max((parts**2 / np.array([len(one) - 1, len(rest) - 1])).sum(), 1e-300)
            half = float(t.ppf(0.975, max(free, 1))) * error
            p = float(2 * t.sf(abs(gap) / error, max(free, 1))) if error > 0 else 1.0
            found.append({"kind": kind, "group": word, "n": len(one), "value": float(one.mean()), "difference": gap,
                          "low": gap - half, "high": gap + half, "p": p})  # fmt: skip
    _holm(found)
    return found


def _holm(rows: list[dict[str, Any]]) -> None:
    order = np.argsort([row["p"] for row in rows], kind="stable")
    highest = 0.0
    for place, number in enumerate(order.tolist()):
        highest = max(highest, min(1.0, rows[number]["p"] * (len(rows) - place)))
        rows[number]["p_holm"] = highest
