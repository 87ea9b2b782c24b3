"""One posterior out of the parts: gate, common, rare, then what the lookup has seen; and the answer it leads to.

common = s persona + (1 - s) pooled over {first, second}, s = n / (n + half) by the rows of the persona
rare   = network^w pooled^(1 - w), scaled to 1, over the others
p      = (1 - rho) common, rho rare;  then (1 - lambda) p + lambda lookup,  lambda = n / (n + kappa) by its support
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from habitus.apps.personas.settings import LookupSettings
from habitus.metrics.macro_f1 import Decision, fit_decision, macro_f1

_GRID = (0.0, 0.25, 0.5, 0.75, 1.0)
_LEAST = 1e-9


@dataclass(frozen=True)
class Parts:
    """What each part says of n rows.

    Attributes
    ----------
    pooled, lookup
        float64 [n, A], trees over everybody, and the store's chain.
    persona_prior
        float64 [n, A]: shares of the persona.
    common
        float64 [n, 2]: the persona's trees blended with the pooled ones, given that the action is common.
    rho
        float64 [n]: chance of a rare action, by the gate.
    rare
        float64 [n, R]: the network, given that it is rare.
    own, exact
        float32 [n, A]: counts of the store for this persona and post, for the post.
    """

    pooled: np.ndarray
    lookup: np.ndarray
    persona_prior: np.ndarray
    common: np.ndarray
    rho: np.ndarray
    rare: np.ndarray
    own: np.ndarray
    exact: np.ndarray


@dataclass(frozen=True)
class Mix:
    """Weights tuned on validation: of the network, of the gate, kappa of the lookup, and when the store answers alone.

    `threshold` above 1 means that it never does.
    """

    common: tuple[int, ...]
    network: float = 0.5
    gate: float = 0.5
    kappa: float = float("inf")
    threshold: float = 2.0
    min_support: int = 3
    decision: Decision | None = None

    def to_json(self) -> dict[str, Any]:
        """Give plain values; no mixing at all is a kappa of None."""
        return {
            "common": list(self.common), "network": self.network, "gate": self.gate, "threshold": self.threshold,
            "kappa": None if np.isinf(self.kappa) else self.kappa, "min_support": self.min_support,
            "decision": None if self.decision is None else self.decision.to_json(),
        }  # fmt: skip

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Mix:
        """Read what `to_json` gave."""
        decision, kappa = values["decision"], values["kappa"]
        return cls(
            tuple(values["common"]), values["network"], values["gate"], float("inf") if kappa is None else kappa,
            values["threshold"], values["min_support"], None if decision is None else Decision.from_json(decision),
        )  # fmt: skip


def rare_of(common: tuple[int, ...], n_actions: int) -> np.ndarray:
    """Give the places of the rare actions, in the order of the labels."""
    return np.setdiff1d(np.arange(n_actions), common)


def two_groups(common: tuple[int, ...], rho: np.ndarray, of_common: np.ndarray, of_rare: np.ndarray) -> np.ndarray:
    """Put the chances of both groups together, [n, A]."""
    n_actions = of_common.shape[1] + of_rare.shape[1]
    p = np.zeros((len(rho), n_actions))
    p[:, list(common)] = (1 - rho)[:, None] * of_common
    p[:, rare_of(common, n_actions)] = rho[:, None] * of_rare
    return p


def posterior(parts: Parts, mix: Mix) -> np.ndarray:
    """Give the one posterior, float64 [n, A], rows sum to 1."""
    rare = rare_of(mix.common, parts.pooled.shape[1])
    rho = mix.gate * parts.rho + (1 - mix.gate) * parts.pooled[:, rare].sum(axis=1)
    of_rare = np.exp(
        mix.network * np.log(np.maximum(parts.rare, _LEAST))
        + (1 - mix.network) * np.log(np.maximum(shares(parts.pooled[:, rare]), _LEAST))
    )
    p = two_groups(mix.common, rho, parts.common, shares(of_rare))
    if np.isfinite(mix.kappa):
        n = parts.own.sum(axis=1)
        weight = (n / (n + mix.kappa))[:, None]
        p = (1 - weight) * p + weight * parts.lookup
    direct, told = answered(parts, mix)
    p[direct] = parts.lookup[direct] * 0.5 + 0.5 * np.eye(p.shape[1])[told[direct]]
    return p


def answered(parts: Parts, mix: Mix) -> tuple[np.ndarray, np.ndarray]:
    """Tell which rows the store may answer alone, bool [n], and with what, int64 [n].

    It may where it has seen this persona on this post often enough and one answer's share reaches the threshold.
    """
    n = parts.own.sum(axis=1)
    top = parts.own.max(axis=1, initial=0) / np.maximum(n, 1)
    return (n >= mix.min_support) & (top >= mix.threshold), parts.own.argmax(axis=1)


def tell(parts: Parts, mix: Mix, p: np.ndarray | None = None) -> np.ndarray:
    """Give the action told, int64 [n]: the store's where it may answer alone, else by the decision."""
    p = posterior(parts, mix) if p is None else p
    told = (mix.decision or Decision.plain(p.shape[1])).tell(p)
    direct, by_store = answered(parts, mix)
    return np.where(direct, by_store, told)


def tune(parts: Parts, y: np.ndarray, common: tuple[int, ...], settings: LookupSettings) -> Mix:
    """Choose the weights by the log loss on validation, the decision and the threshold by its macro-F1."""
    n_actions = parts.pooled.shape[1]
    best = Mix(common, min_support=settings.min_support)

    def loss(mix: Mix) -> float:
        p = posterior(parts, mix)
        return float(-np.log(np.maximum(p[np.arange(len(y)), y], _LEAST)).mean())

    for name, grid in (("network", _GRID), ("gate", _GRID), ("kappa", (float("inf"), *settings.weights))):
        best = min((replace(best, **{name: value}) for value in grid), key=loss)
    best = replace(best, decision=fit_decision(posterior(parts, best), y))
    score = macro_f1(y, tell(parts, best), n_actions)
    for threshold in settings.thresholds:
        tried = replace(best, threshold=threshold)
        found = macro_f1(y, tell(parts, tried), n_actions)
        if found > score:
            best, score = tried, found
    return best


def shares(values: np.ndarray) -> np.ndarray:
    """Scale rows to 1; rows of zeros become even."""
    total = values.sum(axis=1, keepdims=True)
    return np.where(total > 0, values / np.maximum(total, 1e-300), 1 / max(values.shape[1], 1))
