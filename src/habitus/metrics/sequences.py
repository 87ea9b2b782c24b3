"""Does generated behaviour look like the real one? Plain functions on flat arrays of labels, gaps and their owners.

`owner` [n] names the row (user) of each event; events of one owner stand together, in order. Entropies and divergences
are in nats. The alignment of single events over a horizon, `otd` and `t_map`, is in `alignment`.
"""

from __future__ import annotations

import numpy as np

from habitus.core.errors import ConfigError
from habitus.metrics.alignment import Timeline, matched, otd, t_map

__all__ = [
    "Timeline", "bigram_divergence", "bleu", "copied_share", "distinct_share", "entropy_share", "gap_distance",
    "jensen_shannon", "label_entropy", "matched", "otd", "t_map", "total_variation",
]  # fmt: skip


def jensen_shannon(a: np.ndarray, b: np.ndarray) -> float:
    """Jensen-Shannon divergence of two sets of counts [C], between 0 (alike) and ln 2 (apart). NaN when one is empty.

    >>> round(jensen_shannon(np.array([1, 0]), np.array([0, 3])), 4)
    0.6931
    """
    p, q = _shares(a, b)
    middle = (p + q) / 2
    return float((_entropy(middle) - (_entropy(p) + _entropy(q)) / 2).clip(min=0)) if p.size else float("nan")


def total_variation(a: np.ndarray, b: np.ndarray) -> float:
    """Half the sum of differences of shares, between 0 and 1: the mass that would have to move. NaN when one is empty.

    >>> total_variation(np.array([1, 1]), np.array([1, 3]))
    0.25
    """
    p, q = _shares(a, b)
    return float(np.abs(p - q).sum() / 2) if p.size else float("nan")


def label_entropy(label: np.ndarray, owner: np.ndarray | None = None) -> float:
    """Entropy of labels, of all together, or with `owner` the mean over rows of each row's own. NaN without events.

    >>> label_entropy(np.array([0, 0, 1, 1]), np.array([0, 0, 1, 1])), round(label_entropy(np.array([0, 1])), 4)
    (0.0, 0.6931)
    """
    label = _codes(label)
    if not label.size:
        return float("nan")
    row = np.zeros(label.size, dtype=np.int64) if owner is None else _codes(owner)
    n_row = np.bincount(row)
    code, count = np.unique(row * (label.max() + 1) + label, return_counts=True)
    row_of = code // (label.max() + 1)
    share = count / n_row[row_of]
    return float(np.bincount(row_of, weights=-share * np.log(share), minlength=n_row.size).mean())


def entropy_share(told: np.ndarray, real: np.ndarray) -> float:
    """Entropy of generated labels over that of real ones: far below 1 is too peaky. NaN when the real ones have none.

    >>> entropy_share(np.array([0, 0]), np.array([0, 1]))
    0.0
    """
    below = label_entropy(real)
    return label_entropy(told) / below if below > 0 else float("nan")


def distinct_share(label: np.ndarray, owner: np.ndarray, n: int = 1) -> float:
    """Share of n-grams of a row that are its own first use, mean over rows that have any. NaN without n-grams.

    >>> distinct_share(np.array([4, 4, 4, 7]), np.zeros(4), n=1)
    0.5
    """
    gram, row = _grams(n, (label, owner))[0]
    if not gram.size:
        return float("nan")
    row = _codes(row)
    distinct = np.unique(row * (gram.max() + 1) + gram) // (gram.max() + 1)
    return float((np.bincount(distinct) / np.bincount(row)).mean())


def copied_share(
    told: np.ndarray, told_owner: np.ndarray, past: np.ndarray, past_owner: np.ndarray, n: int = 5
) -> tuple[float, float]:
    """Share of generated n-grams that stand in the own past, and share that stand only in the past of others.

    Owners of both sides are the same users. NaN when nothing generated is n long.

    >>> copied_share(np.array([1, 2, 3]), np.array([7, 7, 7]), np.array([1, 2, 2, 3]), np.array([7, 7, 8, 8]), n=2)
    (0.5, 0.5)
    """
    (gram, owner), (old, old_owner) = _grams(n, (told, told_owner), (past, past_owner))
    if not gram.size:
        return float("nan"), float("nan")
    users = _codes(np.concatenate([owner, old_owner]))
    n_grams = int(max(gram.max(), old.max(initial=0))) + 1
    mine, theirs = users[: owner.size] * n_grams + gram, users[owner.size :] * n_grams + old
    is_own = np.isin(mine, theirs)
    is_any = np.isin(gram, old)
    return float(is_own.mean()), float((is_any & ~is_own).mean())


def bleu(told: np.ndarray, told_owner: np.ndarray, real: np.ndarray, real_owner: np.ndarray, max_n: int = 4) -> float:
    """BLEU of generated label sequences against the real ones of the same owners, over all rows together.

    Geometric mean over n = 1 .. max_n of clipped n-gram precision, times exp(1 - real / told) when told is shorter. 0
    when some n has no hit; NaN when there is nothing real. No smoothing.
    Source: Papineni et al. 2002.

    >>> bleu(np.array([1, 2, 3, 4]), np.zeros(4), np.array([1, 2, 3, 4]), np.zeros(4))
    1.0
    """
    n_told, n_real = len(told), len(real)
    if not n_real:
        return float("nan")
    logs = []
    for n in range(1, max_n + 1):
        (gram, owner), (wanted, wanted_owner) = _grams(n, (told, told_owner), (real, real_owner))
        users = _codes(np.concatenate([owner, wanted_owner]))
        width = int(max(gram.max(initial=0), wanted.max(initial=0))) + 1
        mine, n_mine = np.unique(users[: owner.size] * width + gram, return_counts=True)
        theirs, n_theirs = np.unique(users[owner.size :] * width + wanted, return_counts=True)
        _, a, b = np.intersect1d(mine, theirs, assume_unique=True, return_indices=True)
        hits = np.minimum(n_mine[a], n_theirs[b]).sum()
        if not hits:
            return 0.0
        logs.append(np.log(hits / gram.size))
    return float(np.exp(np.mean(logs) + min(0.0, 1 - n_real / n_told)))


def gap_distance(told: np.ndarray, real: np.ndarray) -> float:
    """Wasserstein distance of ln(gap) in nats, gaps in seconds, below one second counted as one. NaN when one is empty.

    >>> round(gap_distance(np.array([10.0, 100.0]), np.array([100.0, 1000.0])), 4)
    2.3026
    """
    a, b = (np.sort(np.log(np.maximum(np.asarray(gap, dtype=np.float64), 1.0))) for gap in (told, real))
    if not (a.size and b.size):
        return float("nan")
    both = np.sort(np.concatenate([a, b]), kind="stable")
    below = [np.searchsorted(side, both[:-1], "right") / side.size for side in (a, b)]
    return float((np.abs(below[0] - below[1]) * np.diff(both)).sum())


def bigram_divergence(told: np.ndarray, told_owner: np.ndarray, real: np.ndarray, real_owner: np.ndarray) -> float:
    """Jensen-Shannon divergence of counts of neighbouring label pairs, over all rows. NaN when one side has none.

    >>> bigram_divergence(np.array([1, 2]), np.zeros(2), np.array([1, 2, 9]), np.array([0, 0, 1]))
    0.0
    """
    (gram, _), (wanted, _) = _grams(2, (told, told_owner), (real, real_owner))
    width = int(max(gram.max(initial=0), wanted.max(initial=0))) + 1
    return jensen_shannon(np.bincount(gram, minlength=width), np.bincount(wanted, minlength=width))


def _shares(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b = (np.asarray(count, dtype=np.float64) for count in (a, b))
    if a.shape != b.shape or min(a.min(initial=0), b.min(initial=0)) < 0:
        raise ConfigError("counts of the same classes, none below 0", f"shapes {a.shape} and {b.shape}", where="metric")
    if not (a.sum() and b.sum()):
        return np.zeros(0), np.zeros(0)
    return a / a.sum(), b / b.sum()


def _entropy(share: np.ndarray) -> np.ndarray:
    return -(share * np.log(np.where(share > 0, share, 1))).sum()


def _codes(values: np.ndarray) -> np.ndarray:
    return np.unique(np.asarray(values), return_inverse=True)[1].reshape(-1)


def _grams(n: int, *sides: tuple[np.ndarray, np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Give per side the code of each n-gram inside one owner, one coding for all sides, and its owner."""
    if n < 1:
        raise ConfigError("n of at least 1", f"{n}", where="n-grams")
    for label, owner in sides:
        if len(label) != len(owner):
            raise ConfigError("one owner per event", f"{len(label)} events, {len(owner)} owners", where="n-grams")
    edges = np.cumsum([len(label) for label, _ in sides])[:-1]
    letters = np.split(_codes(np.concatenate([np.asarray(label) for label, _ in sides])), edges)
    width = max((int(part.max(initial=0)) for part in letters), default=0) + 1
    grams = letters
    for step in range(1, n):  # numbering what occurs after every step keeps the codes small
        longer = [gram[: max(len(gram) - 1, 0)] * width + part[step:] for gram, part in zip(grams, letters)]
        grams = np.split(_codes(np.concatenate(longer)), np.cumsum([len(part) for part in longer])[:-1])
    owners = [np.asarray(owner) for _, owner in sides]
    is_whole = [owner[n - 1 :] == owner[: max(len(owner) - n + 1, 0)] for owner in owners]
    return [(gram[whole], owner[: len(gram)][whole]) for gram, whole, owner in zip(grams, is_whole, owners)]
