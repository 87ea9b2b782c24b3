"""The three published findings, each with the figure that confirms it, refutes it, or leaves it open.

The first is asked twice: over all settings of all recommenders, and among the settings of one recommender, which differ
in less than two recommenders do.

Feng et al., arXiv 2512.03067: accuracy and escape pull apart; sequential models are more accurate and confine more;
mild randomisation does not help in the long run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

POINTS = 25  # below, a slope is drawn and not claimed
HELP = 0.002  # a gain of gap below which chance is said not to help
MILD = 0.2  # a share of slots given to chance up to which it is called mild

Rows = Sequence[Mapping[str, Any]]


def findings_of(rows: Rows) -> list[dict[str, Any]]:
    """Give the findings as rows: claim, figures, verdict (confirmed, refuted, open)."""
    return [_apart(rows), _apart_within(rows), _sequential(rows), _randomised(rows)]


def _apart(rows: Rows) -> dict[str, Any]:
    """Slope of the gap on NDCG over all settings without chance that learn from likes."""
    points = [(row["ndcg@20 before"]["value"], row["gap"]["value"]) for row in rows if _is_point(row)]
    found: dict[str, Any] = {"claim": "the more accurate, the harder to escape", "n_points": len(points)}
    if len(points) < 4 or np.std([x for x, _ in points]) == 0:
        return found | {"verdict": "open", "words": "too few points"}
    x, y = np.array(points, dtype=float).T
    low, slope, high = _slope(x, y)
    found |= {"value": slope, "low": low, "high": high, "spearman": _spearman(x, y), "unit": "gap per 1 of NDCG@20"}
    verdict = "confirmed" if high < 0 else "refuted" if low > 0 else "open"
    if len(points) < POINTS:
        found["words"] = f"{len(points)} points: fewer than {POINTS}, so nothing is claimed"
        verdict = "open"
    return found | {"verdict": verdict}


def _apart_within(rows: Rows) -> dict[str, Any]:
    """The same slope with the mean of each recommender taken off both sides: what strength alone does to escape."""
    by_name: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if _is_point(row):
            by_name.setdefault(row["name"], []).append((row["ndcg@20 before"]["value"], row["gap"]["value"]))
    several = [np.array(points, dtype=float) for points in by_name.values() if len(points) > 1]
    n = sum(len(points) for points in several)
    found: dict[str, Any] = {"claim": "the same among the settings of one recommender", "n_points": n}
    if n - len(several) < 3:
        return found | {"verdict": "open", "words": "too few settings"}
    x, y = np.concatenate([points - points.mean(axis=0) for points in several]).T
    low, slope, high = _slope(x, y, n_means=len(several))
    found |= {"value": slope, "low": low, "high": high, "unit": "gap per 1 of NDCG@20"}
    if n < POINTS:
        return found | {"verdict": "open", "words": f"{n} points: fewer than {POINTS}, so nothing is claimed"}
    return found | {"verdict": "confirmed" if high < 0 else "refuted" if low > 0 else "open"}


def _is_point(row: Mapping[str, Any]) -> bool:
    return row["role"] in ("main", "strength") and row["kind"] != "random"


def _sequential(rows: Rows) -> dict[str, Any]:
    """Mean gap of sequential models less that of static ones, pair by pair; and the same of NDCG."""
    found: dict[str, Any] = {"claim": "sequential models are more accurate and confine more"}
    sides = [[row for row in rows if row["role"] == "main" and row["family"] == f] for f in ("sequential", "static")]
    if not all(sides):
        return found | {"verdict": "open", "words": "one of the two families is not there"}
    gaps = [np.mean([row["gap"]["by_pair"] for row in side], axis=0) for side in sides]
    low, value, high = _t(gaps[0] - gaps[1])
    ndcg = [float(np.mean([row["ndcg@20 before"]["value"] for row in side])) for side in sides]
    found |= {"value": value, "low": low, "high": high, "ndcg": ndcg[0] - ndcg[1], "unit": "gap, sequential - static"}
    is_decided = np.isfinite(low) and (low > 0 or high < 0)
    verdict = "open" if not is_decided else "confirmed" if high < 0 and ndcg[0] > ndcg[1] else "refuted"
    return found | {"verdict": verdict}


def _randomised(rows: Rows) -> dict[str, Any]:
    """Gap with a mild share of slots given to chance less that without, same pairs, mean over recommenders."""
    found: dict[str, Any] = {"claim": "mild randomisation does not help"}
    main = {row["name"]: row for row in rows if row["role"] == "main"}
    mild = [row for row in rows if row["role"] == "eps" and 0 < row["eps"] <= MILD and row["name"] in main]
    if not mild:
        return found | {"verdict": "open", "words": "no sweep"}
    changes = []
    for row in mild:
        with_it = np.array(row["gap"]["by_pair"])
        changes.append(with_it - np.array(main[row["name"]]["gap"]["by_pair"])[: len(with_it)])
    low, value, high = _t(np.mean(changes, axis=0))
    found |= {"value": value, "low": low, "high": high, "unit": f"gap, eps up to {MILD} - eps 0"}
    is_help = np.isfinite(low) and low > 0
    is_none = np.isfinite(high) and high <= HELP
    return found | {"verdict": "refuted" if is_help else "confirmed" if is_none else "open"}


def _t(values: np.ndarray) -> tuple[float, float, float]:
    from scipy.stats import t

    mean = float(np.mean(values))
    if len(values) < 2:
        return float("nan"), mean, float("nan")
    half = float(t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return mean - half, mean, mean + half


def _slope(x: np.ndarray, y: np.ndarray, n_means: int = 1) -> tuple[float, float, float]:
    """Least squares with a t interval; `n_means` means were fitted beside the slope."""
    from scipy.stats import t

    across, up = x - x.mean(), y - y.mean()
    slope = float(across @ up / (across @ across))
    left = len(x) - n_means - 1
    error = float(np.sqrt(np.sum((up - slope * across) ** 2) / left / (across @ across)))
    half = float(t.ppf(0.975, left)) * error
    return slope - half, slope, slope + half


def _spearman(x: np.ndarray, y: np.ndarray) -> float:
    from scipy.stats import spearmanr

    return float(spearmanr(x, y).statistic)  # pyright: ignore
