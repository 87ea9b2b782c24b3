"""Would the plan do what it says? Thousands of experiments on worlds, or on users drawn from one's own past.

All experiments of a block are drawn and analysed at once; only sums of products per stretch of users are kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from habitus.apps.abtest.estimate import Effect, effect, sums
from habitus.apps.abtest.sequential import half_width, mixture_factor
from habitus.core.errors import ConfigError
from habitus.core.seeds import generator

# draw(rng, (R, n), lift) gives columns [R, n, P]: y, then v of a ratio, then covariates
Draw = Callable[[np.random.Generator, tuple[int, int], float], np.ndarray]
_BLOCK = 4_000_000  # users drawn at once


@dataclass(frozen=True)
class Rates:
    """Shares of experiments, each with its standard error below .012 at 2,000 experiments.

    Attributes
    ----------
    fixed
        Reject, read once at the end: the false-alarm rate without an effect, the power with one.
    right
        Of those, in the direction of the effect.
    coverage
        The interval read once covers the true difference.
    peeking
        Reject at any look with the interval meant for one.
    always
        Reject at any look with the interval valid at all.
    always_coverage
        The interval valid at all looks covers the truth at every one of them.
    stopped_at
        Mean share of users used when one stops as soon as the valid interval says so.
    bias
        Mean of the estimates over the truth, in standard errors of that mean.
    shrink
        Mean estimated variance over the variance without covariates; 1 when there are none.
    spread
        Variance of the estimates over their mean estimated variance: 1 when the intervals are right.
    """

    n_experiments: int
    n_per_arm: int
    n_looks: int
    fixed: float
    right: float
    coverage: float
    peeking: float
    always: float
    always_coverage: float
    stopped_at: float
    bias: float
    shrink: float
    spread: float

    def to_json(self) -> dict[str, float]:
        """Give plain values."""
        return asdict(self)


def simulate(
    draw: Draw,
    n_per_arm: int,
    *,
    lift: float = 0.0,
    truth: float = 0.0,
    n_experiments: int = 2000,
    n_looks: int = 20,
    first_look: int = 1000,
    alpha: float = 0.05,
    is_ratio: bool = False,
    adjust: bool = False,
    tau2: float | None = None,
    seed: int = 0,
) -> Rates:
    """Run experiments of `n_per_arm` users each with a true relative `lift`, looking `n_looks` times.

    `truth` is the true difference, for coverage and bias. `tau2` defaults to what a plan that knew the variance would
    fix.
    """
    if n_per_arm < n_looks or n_looks < 1:
        raise ConfigError("at least one user per look", f"{n_per_arm} users, {n_looks} looks", where="simulate")
    step = max(1, min(n_experiments, _BLOCK // n_per_arm))
    parts = []
    for first in range(0, n_experiments, step):
        size = min(step, n_experiments - first)
        rng = generator(seed, "abtest", first)
        arms = [_running(draw(rng, (size, n_per_arm), each), n_looks) for each in (0.0, lift)]
        seen = effect(arms[0], arms[1], is_ratio=is_ratio, adjust=adjust)
        plain = effect(arms[0][:, -1], arms[1][:, -1], is_ratio=is_ratio)
        parts.append((seen, plain))
    diff, variance, n = (
        np.concatenate([getattr(seen, key) for seen, _ in parts]) for key in ("diff", "variance", "n_control")
    )
    bare = np.concatenate([plain.variance for _, plain in parts])
    return _rates(diff, variance, n, bare, truth, alpha, first_look, tau2, lift)


def _running(columns: np.ndarray, n_looks: int) -> np.ndarray:
    """Sums of products up to each look: [R, looks, P + 1, P + 1]."""
    runs, n, width = columns.shape
    size = n // n_looks
    whole = sums(columns[:, : size * n_looks].reshape(runs, n_looks, size, width))
    return np.cumsum(whole, axis=1)


def _rates(
    diff: np.ndarray,
    variance: np.ndarray,
    n: np.ndarray,
    bare: np.ndarray,
    truth: float,
    alpha: float,
    first_look: int,
    tau2: float | None,
    lift: float,
) -> Rates:
    from scipy.special import ndtri

    z, last, se = float(ndtri(1 - alpha / 2)), variance[:, -1], np.sqrt(variance)
    fixed_tau = mixture_factor(alpha) * float(last.mean()) if tau2 is None else tau2
    half = np.where(n >= first_look, half_width(variance, fixed_tau, alpha), np.inf)
    hits = np.abs(diff) > half
    is_rejected, naive = np.abs(diff[:, -1]) > z * se[:, -1], (np.abs(diff) > z * se) & (n >= min(first_look, n.max()))
    first = np.where(hits.any(axis=1), hits.argmax(axis=1), hits.shape[1] - 1)
    error = diff[:, -1] - truth
    return Rates(
        len(diff),
        int(n.max()),
        diff.shape[1],
        float(is_rejected.mean()),
        float((is_rejected & (np.sign(diff[:, -1]) == np.sign(lift))).mean()),
        float((np.abs(error) <= z * se[:, -1]).mean()),
        float(naive.any(axis=1).mean()),
        float(hits.any(axis=1).mean()),
        float((np.abs(diff - truth) <= half).all(axis=1).mean()),
        float(((first + 1) / hits.shape[1]).mean()),
        float(error.mean() / (error.std() / np.sqrt(len(diff)) + 1e-300)),
        float(last.mean() / bare.mean()),
        float(error.var() / last.mean()),
    )


# worlds ---------------------------------------------------------------------------------------------------------------


def binary_world(rate: float) -> Draw:
    """Users who do or do not, by chance alone."""

    def draw(rng: np.random.Generator, shape: tuple[int, int], lift: float) -> np.ndarray:
        return (rng.random(shape, dtype=np.float32) < rate * (1 + lift))[..., None].astype(np.float64)

    return draw


def heavy_world(sigma: float = 1.5, share: float = 0.5, rho: float | None = None) -> Draw:
    """Spend of mean 1: a share of users spends, log-normally. With `rho`, normal, and a past of that correlation."""

    def draw(rng: np.random.Generator, shape: tuple[int, int], lift: float) -> np.ndarray:
        if rho is not None:
            x = rng.standard_normal(shape)
            y = 10 * (1 + lift) + rho * x + np.sqrt(1 - rho**2) * rng.standard_normal(shape)
            return np.stack([y, x], axis=-1)
        spend = np.exp(sigma * rng.standard_normal(shape) - sigma**2 / 2) / share
        return ((1 + lift) * spend * (rng.random(shape) < share))[..., None]

    return draw


def ratio_world(rate: float = 0.05, views: float = 10.0, concentration: float = 20.0, *, past: bool = False) -> Draw:
    """Clicks per view: views of a user are over-dispersed counts, each user has a rate of one's own (beta)."""

    def draw(rng: np.random.Generator, shape: tuple[int, int], lift: float) -> np.ndarray:
        mean = rng.gamma(2.0, views / 2.0, shape)
        own = rng.beta(rate * concentration, (1 - rate) * concentration, shape)
        v = 1 + rng.poisson(mean)
        y = rng.binomial(v, np.minimum(own * (1 + lift), 1.0))
        if not past:
            return np.stack([y, v], axis=-1).astype(np.float64)
        v0 = 1 + rng.poisson(mean)
        x = (rng.binomial(v0, own) - rate * v0) / (views + 1)
        return np.stack([y, v, x], axis=-1).astype(np.float64)

    return draw


def clustered_world(rate: float = 0.05, size: float = 23.3, icc: float = 0.02, cv: float = 0.0) -> Draw:
    """Rows of users: [clicks, rows] per user, whose rows share a rate with this intra-cluster correlation."""

    def draw(rng: np.random.Generator, shape: tuple[int, int], lift: float) -> np.ndarray:
        mean = np.full(shape, size) if cv == 0 else np.maximum(rng.gamma(1 / cv**2, size * cv**2, shape), 0.0)
        rows = np.maximum(np.floor(mean + rng.random(shape)), 0 if cv else 1)
        strength, level = (1 - icc) / icc, rate * (1 + lift)
        own = rng.beta(level * strength, (1 - level) * strength, shape)
        return np.stack([rng.binomial(rows.astype(np.int64), own), rows], axis=-1).astype(np.float64)

    return draw


def from_past(columns: np.ndarray, kind: str) -> Draw:
    """Users drawn with replacement from one's own past [n, P]; the lift is planted: rates by chance, else by scale."""

    def draw(rng: np.random.Generator, shape: tuple[int, int], lift: float) -> np.ndarray:
        drawn = columns[rng.integers(0, len(columns), shape)]
        if lift and kind == "binary":
            rate = columns[:, 0].mean()
            chance = lift * rate / (1 - rate) if lift > 0 else -lift
            is_changed = (rng.random(shape) < chance) & (drawn[..., 0] == (0 if lift > 0 else 1))
            drawn[..., 0] = np.where(is_changed, 1 - drawn[..., 0], drawn[..., 0])
        elif lift:
            drawn[..., 0] *= 1 + lift
        return drawn

    return draw


def simulate_plan(
    plan: Any, *, n_experiments: int = 2000, n_looks: int = 20, past: Any = None, seed: int = 0, max_users: int = 20_000
) -> dict[str, Any]:
    """Try a plan on users drawn from the past: without an effect, and with the planned one.

    Above `max_users` per arm the experiment is scaled down and the lift up, so that power stays as planned; said so.
    """
    from habitus.apps.abtest.plan import past_columns

    metric, experiment = plan.experiment.primary, plan.experiment
    sized = plan.metrics[metric.name]
    try:
        columns, source = past_columns(experiment, metric, past)
    except ConfigError:
        if metric.kind != "binary":
            raise
        columns, source = (np.arange(10_000) < sized.baseline * 10_000).astype(float)[:, None], "the declared rate"
    n = min(plan.n_per_arm, max_users)
    lift = sized.change * float(np.sqrt(plan.n_per_arm / n))
    is_ratio = metric.kind == "ratio"
    adjust = experiment.adjust and columns.shape[1] > 1 + is_ratio
    mean = columns[:, 0].mean() / (columns[:, 1].mean() if is_ratio else 1.0)
    options: dict[str, Any] = {
        "n_experiments": n_experiments,
        "n_looks": n_looks,
        "first_look": min(experiment.first_look, n),
        "seed": seed,
        "alpha": experiment.alpha,
        "is_ratio": is_ratio,
        "adjust": adjust,
    }
    draw = from_past(columns, metric.kind)
    nothing = simulate(draw, n, **options)
    planned = simulate(draw, n, lift=lift, truth=lift * float(mean), **options)
    return {
        "source": source,
        "n_per_arm": n,
        "lift": lift,
        "is_scaled": n < plan.n_per_arm,
        "method": experiment.method,
        "no_effect": nothing.to_json(),
        "planned_effect": planned.to_json(),
    }


def summary(found: dict[str, Any]) -> str:
    """Say what the trials found in lines for a terminal."""
    nothing, planned = found["no_effect"], found["planned_effect"]
    headed = f"lift {found['lift']:+.3g}"
    scaled = " (scaled down, the lift up, to keep the power)" if found["is_scaled"] else ""
    return "\n".join(
        [
            f"{nothing['n_experiments']:,} experiments, {found['n_per_arm']:,} users per arm{scaled}, "
            f"{found['source']}",
            f"{'':<38}{'no effect':>12}{headed:>14}",
            *(
                f"{words:<38}{nothing[key]:>12.1%}{planned[key]:>14.1%}"
                for words, key in (
                    ("finds a difference, read once", "fixed"),
                    ("interval, read once, covers", "coverage"),
                    ("finds one at any look, valid", "always"),
                    ("interval, at all looks, covers", "always_coverage"),
                    ("finds one at any look, naive", "peeking"),
                    ("users used when stopping early", "stopped_at"),
                )
            ),
        ]
    )


__all__ = [
    "Draw",
    "Effect",
    "Rates",
    "binary_world",
    "clustered_world",
    "from_past",
    "heavy_world",
    "ratio_world",
    "simulate",
]
