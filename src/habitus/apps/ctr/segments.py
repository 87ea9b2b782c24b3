"""For whom does a model gain? Impressions in segments, the AUC and its difference in each, and a test for a trend."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from habitus.apps.ctr.examples import Examples
from habitus.core.seeds import mix
from habitus.metrics.clustered import auc_difference, auc_error, auc_interval

LENGTHS = (1, 10, 50, 200)
RECENT_DAYS = 3
_FEWEST = 20  # clicks and other rows that a segment needs


def segments(examples: Examples, train: Examples | None = None) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    """Give per kind of segment its names, in order, and the place of each row among them, int64 [n] (-1: none).

    `history`: events before the impression. `diversity`: category entropy of the user's log before the first of these
    impressions, corrected for few events (Miller-Madow), quintiles of `train` users or of these. `drift`:
    Jensen-Shannon divergence of the last 3 days against the days before, less its value when the same events are split
    at random, in thirds of the users that have both. `ad`: seen in training or new.
    """
    history = examples.history
    length = history.hist_end - history.user_start
    names = ("none", "1 to 9", "10 to 49", "50 to 199", "200 and more")
    found: dict[str, tuple[tuple[str, ...], np.ndarray]] = {
        "history": (names, np.searchsorted(LENGTHS, length, "right"))
    }
    user, entropy, drift = user_traits(examples)
    others = user_traits(train)[1] if train is not None else entropy
    edges = np.quantile(others[np.isfinite(others)], (0.2, 0.4, 0.6, 0.8)) if np.isfinite(others).any() else [0.0] * 4
    at = np.searchsorted(user, examples.user)
    place = np.where(np.isfinite(entropy), np.searchsorted(edges, entropy, "right"), -1)
    found["diversity"] = (("narrowest fifth", "second", "third", "fourth", "widest fifth"), place[at])
    has = np.isfinite(drift)
    thirds = np.quantile(drift[has], (1 / 3, 2 / 3)) if has.any() else [0.0, 0.0]
    found["drift"] = (("steady", "some", "shifting"), np.where(has, np.searchsorted(thirds, drift, "right"), -1)[at])
    if "adgroup" in examples.spec.static_names:
        code = examples.static[:, examples.spec.static_names.index("adgroup")]
        found["ad"] = (("seen in training", "new or rare"), (code == 0).astype(np.int64))
    return found


def user_traits(examples: Examples) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give users (sorted), their category entropy in nats and their drift, NaN where the log does not tell.

    Only events strictly before the user's first impression among these rows are read.
    """
    user, first = np.unique(examples.user, return_index=True)
    log, begin = examples.history.log, examples.history.user_start[first]
    end, until = examples.history.hist_end[first], examples.time[first]
    n = end - begin
    rows = np.repeat(begin - (n.cumsum() - n), n) + np.arange(n.sum())
    owner = np.repeat(np.arange(len(user)), n)
    cate = np.asarray(log.cate)[rows]
    entropy = _entropy(owner, cate, len(user))
    is_late = np.asarray(log.time)[rows] >= (until - RECENT_DAYS * 86_400)[owner]
    shuffled = _shuffled_inside(owner, rows, is_late)
    drift = _divergence(owner, cate, is_late, len(user)) - _divergence(owner, cate, shuffled, len(user))
    return user, np.where(n >= 2, entropy, np.nan), drift


def segment_table(
    label: np.ndarray,
    p: Mapping[str, np.ndarray],
    user: np.ndarray,
    parts: Mapping[str, tuple[tuple[str, ...], np.ndarray]],
    *,
    against: str,
) -> list[dict[str, Any]]:
    """Give AUC and difference to `against` of every model in every segment with at least 20 clicks and 20 others."""
    rows = []
    for kind, (names, place) in parts.items():
        for number, name in enumerate(names):
            mask = place == number
            n_clicks = int(label[mask].sum())
            if n_clicks < _FEWEST or mask.sum() - n_clicks < _FEWEST:
                continue
            for model, mine in p.items():
                whole = auc_interval(label[mask], mine[mask], user[mask])
                gain = auc_difference(label[mask], mine[mask], p[against][mask], user[mask])
                row = {"kind": kind, "segment": name, "model": model, "n_rows": int(mask.sum()), "n_clicks": n_clicks}
                error = auc_error(label[mask], mine[mask], user[mask], against=p[against][mask])
                rows.append(row | {"auc": whole.to_json(), "gain": gain.to_json(), "error": error, "place": number})
    return rows


def trend(rows: list[dict[str, Any]], kind: str, model: str) -> dict[str, float]:
    """Fit a line through a model's gains over the ordered segments of a kind, weighted by 1 / error^2.

    `slope` is the gain of AUC per step, `z` its ratio to its standard error; segments are taken as independent.

    >>> row = {"kind": "drift", "model": "BST", "error": 0.01}
    >>> rows = [row | {"place": i, "gain": {"value": 0.02 * i}} for i in range(3)]
    >>> round(trend(rows, "drift", "BST")["slope"], 3)
    0.02
    """
    chosen = [row for row in rows if row["kind"] == kind and row["model"] == model and row["error"] > 0]
    if len(chosen) < 2:
        return {"slope": float("nan"), "error": float("nan"), "z": float("nan")}
    x = np.array([row["place"] for row in chosen], float)
    y, w = np.array([row["gain"]["value"] for row in chosen]), np.array([row["error"] ** -2.0 for row in chosen])
    x = x - np.average(x, weights=w)
    slope, error = float((w * x * y).sum() / (w * x * x).sum()), float((w * x * x).sum() ** -0.5)
    return {"slope": slope, "error": error, "z": slope / error}


def _counts(owner: np.ndarray, cate: np.ndarray, weight: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Owner and count of every (owner, category) pair, in one order for any weights."""
    key, at = np.unique(owner.astype(np.int64) << 32 | cate.astype(np.int64), return_inverse=True)
    return key >> 32, np.bincount(at, weights=weight, minlength=key.size).astype(np.float64)


def _entropy(owner: np.ndarray, cate: np.ndarray, n_users: int) -> np.ndarray:
    of, count = _counts(owner, cate)
    total = np.bincount(owner, minlength=n_users)
    p = count / total[of]
    plain = np.bincount(of, weights=-p * np.log(p), minlength=n_users)
    return plain + (np.bincount(of, minlength=n_users) - 1).clip(0) / np.maximum(2 * total, 1)


def _divergence(owner: np.ndarray, cate: np.ndarray, is_late: np.ndarray, n_users: int) -> np.ndarray:
    """Jensen-Shannon divergence of late against early events per user, in nats; NaN without either."""
    of, late = _counts(owner, cate, is_late.astype(np.float64))
    _, early = _counts(owner, cate, (~is_late).astype(np.float64))
    n_late, n_early = (np.bincount(of, weights=c, minlength=n_users) for c in (late, early))
    p, q = late / np.maximum(n_late, 1)[of], early / np.maximum(n_early, 1)[of]
    middle = (p + q) / 2
    each = (_part(p, middle) + _part(q, middle)) / 2
    return np.where((n_late > 0) & (n_early > 0), np.bincount(of, weights=each, minlength=n_users), np.nan)


def _part(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    return np.where(p > 0, p * np.log(np.where(p > 0, p, 1) / np.where(q > 0, q, 1)), 0.0)


def _shuffled_inside(owner: np.ndarray, rows: np.ndarray, flag: np.ndarray) -> np.ndarray:
    """Move the flags of each user to other events of the same user; which ones depends on the row numbers alone."""
    order = np.lexsort((mix(rows.astype(np.uint64)), owner))
    found = np.empty_like(flag)
    found[order] = flag
    return found
