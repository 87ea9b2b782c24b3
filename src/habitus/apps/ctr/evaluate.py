"""How good are probabilities of a click? One table for any models, with intervals over users, beside known ceilings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from habitus.metrics.bootstrap import interval, paired_difference, resamples
from habitus.metrics.calibration import Calibrator, calibrate, ece, fit_isotonic, fit_platt
from habitus.metrics.classification import log_loss, normalised_entropy
from habitus.metrics.clustered import auc_difference, auc_error, auc_interval, expected_auc, user_auc

N_BINS = 15
LEVEL = 0.001  # differences of AUC below this are called level
Map = Literal["none", "platt", "isotonic"]


def probability(logit: np.ndarray) -> np.ndarray:
    """Give probabilities of log odds.

    >>> probability(np.array([0.0])).tolist()
    [0.5]
    """
    return 1 / (1 + np.exp(-np.clip(logit, -700, 700)))


def fit_map(kind: Map, label: np.ndarray, logit: np.ndarray) -> Calibrator | None:
    """Fit a calibration map. Give it rows of the validation day and of no other.

    >>> fit_map("none", np.array([0, 1]), np.array([0.0, 1.0])) is None
    True
    """
    if kind == "none":
        return None
    return (fit_platt if kind == "platt" else fit_isotonic)(label, probability(logit))


def score_card(
    label: np.ndarray, p: np.ndarray, user: np.ndarray, *, truth: np.ndarray | None = None
) -> dict[str, Any]:
    """Give all figures of one model on one part as plain values.

    `auc` and `auc_low`, `auc_high` (normal, clustered by user), `auc_error`; `gauc` weighted by impressions with
    `gauc_share` of the impressions and `gauc_users` behind it; `log_loss`, `normalised_entropy`, `ece` (15 bins of
    equal mass), `p_over_y`; `top_1`, `top_5`, `top_10`: share of the clicks in that share of the impressions;
    `expected_auc` where the truth is known: without the noise of drawn labels.

    >>> score_card(np.array([0, 1, 0, 1]), np.array([0.1, 0.6, 0.2, 0.7]), np.array([1, 1, 2, 2]))["auc"]
    1.0
    """
    whole, inside = auc_interval(label, p, user), user_auc(label, p, user)
    card = {
        "n_rows": int(label.size),
        "n_clicks": int(label.sum()),
        "auc": whole.value,
        "auc_low": whole.low,
        "auc_high": whole.high,
        "auc_error": auc_error(label, p, user),
        "gauc": inside.value,
        "gauc_share": inside.share,
        "gauc_users": inside.n_users,
        "log_loss": float(log_loss(label, p)),
        "normalised_entropy": float(normalised_entropy(label, p)),
        "ece": float(ece(label, p, n_bins=N_BINS)),
        "p_over_y": float(p.sum() / label.sum()) if label.any() else float("nan"),
    }
    order = np.argsort(-p, kind="stable")
    for share in (1, 5, 10):
        n = max(round(label.size * share / 100), 1)
        card[f"top_{share}"] = float(label[order[:n]].sum() / max(label.sum(), 1))
    if truth is not None:
        card["expected_auc"] = expected_auc(truth, p)
    return card


def differences(
    label: np.ndarray, p: Mapping[str, np.ndarray], user: np.ndarray, *, against: str, n_resamples: int = 300
) -> list[dict[str, Any]]:
    """Set each model beside `against`: AUC (clustered normal interval) and log loss (bootstrap over users), paired.

    `verdict`: `level` when the interval of the AUC holds 0 or the difference is below .001, else `better` or `worse`.
    """
    rows, drawn = [], resamples(user, n_resamples)
    for name, mine in p.items():
        if name == against:
            continue
        found = auc_difference(label, mine, p[against], user)
        loss = paired_difference(log_loss, label, mine, p[against], drawn)
        is_level = found.low <= 0 <= found.high or abs(found.value) < LEVEL
        verdict = "level" if is_level else "better" if found.value > 0 else "worse"
        rows.append(
            {
                "model": name,
                "against": against,
                "auc": found.to_json(),
                "log_loss": loss.to_json(),
                "relative_auc": found.value / (auc_interval(label, p[against], user).value),
                "verdict": verdict,
            }
        )
    return rows


def auc_bootstrap(label: np.ndarray, p: np.ndarray, user: np.ndarray, n_resamples: int = 500) -> dict[str, Any]:
    """Give the AUC with its percentile interval over users: for small tables, where the normal one may mislead."""
    from habitus.metrics.classification import auc

    return interval(auc, label, p, resamples(user, n_resamples)).to_json()


def calibrated(kind: Map, valid_label: np.ndarray, valid_logit: np.ndarray, logit: np.ndarray) -> np.ndarray:
    """Give probabilities of `logit` through the map that the validation rows ask for."""
    return calibrate(fit_map(kind, valid_label, valid_logit), probability(logit))


def ladder(
    cards: Mapping[str, Mapping[str, Any]], ceilings: Mapping[str, float], rungs: Mapping[str, tuple[str, float]]
) -> list[dict[str, Any]]:
    """Set each model beside the ceiling of what it reads.

    `rungs` maps a model to (ceiling, how far below is allowed). `is_leak`: above the ceiling by 3 standard errors, in
    the drawn AUC or, where it is known, by more than .001 in the expected one.

    >>> rows = ladder({"LR": {"auc": 0.59, "auc_error": 0.003}}, {"s1": 0.598}, {"LR": ("s1", 0.010)})
    >>> rows[0]["is_met"], rows[0]["is_leak"]
    (True, False)
    """
    rows = []
    for name, (rung, allowed) in rungs.items():
        if name not in cards:
            continue
        card, ceiling = cards[name], ceilings[rung]
        value = card.get("expected_auc", card["auc"])
        is_above = card["auc"] > ceiling + 3 * card["auc_error"] or value > ceiling + LEVEL
        rows.append(
            {
                "model": name,
                "rung": rung,
                "ceiling": ceiling,
                "auc": card["auc"],
                "expected_auc": value,
                "below": ceiling - value,
                "allowed": allowed,
                "is_met": bool(ceiling - value <= allowed),
                "is_leak": bool(is_above),
            }
        )
    return rows
