"""How loss falls with size and data: L(N, D) = E + A N^-a + B D^-b with intervals, or the verdict that there is no law.

Source: the parametric fit of Hoffmann et al., "Training Compute-Optimal Large Language Models", arXiv 2203.15556: Huber
loss on log L, L-BFGS from a grid of starts. N: weights of a model that are not embedding tables; D: training events.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

from habitus.core.seeds import generator

DELTA = 1e-3  # of the Huber loss, in log loss
N_POINTS = 8  # distinct points below which nothing is claimed
SHARE = 0.005  # a term that never makes up this share of the loss is not there: its exponent is 0
WIDEST = 1 / 3  # of the least loss seen: a floor E whose interval is wider is not known, nor is what stands above it
STEEPEST = 4.0  # exponent at which the search ends
NAMES = ("E", "A", "B", "a", "b")


@dataclass(frozen=True)
class Law:
    """E + A N^-a + B D^-b.

    >>> law = Law(E=1.0, A=8.0, B=27.0, a=1.0, b=1.0)
    >>> float(law.loss(np.array(8.0), np.array(27.0)))
    3.0
    """

    E: float
    A: float
    B: float
    a: float
    b: float

    def loss(self, n: np.ndarray, d: np.ndarray) -> np.ndarray:
        """Give the loss at N = n and D = d, which broadcast."""
        return self.E + self.A * np.asarray(n, np.float64) ** -self.a + self.B * np.asarray(d, np.float64) ** -self.b

    def best_size(self, compute: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Give the N and D of the least loss for a compute of 6 N D operations.

        >>> n, d = Law(1.0, 8.0, 8.0, 1.0, 1.0).best_size(np.array([600.0]))
        >>> n.round(6).tolist(), d.round(6).tolist()
        ([10.0], [10.0])
        """
        product_nd = np.asarray(compute, np.float64) / 6
        ratio = (self.a * self.A / (self.b * self.B)) ** (1 / (self.a + self.b))
        n = ratio * product_nd ** (self.b / (self.a + self.b))
        return n, product_nd / n


@dataclass(frozen=True)
class Fit:
    """A law and what is known of it. `intervals` are 95 %, from refits over resampled runs; `draws` are those refits.

    `verdict` is empty, or says why there is no law; then `law` must not be quoted.
    """

    law: Law
    intervals: dict[str, tuple[float, float]]
    draws: tuple[Law, ...]
    verdict: str

    @property
    def is_identified(self) -> bool:
        """Whether there is a law."""
        return not self.verdict

    def band(self, n: np.ndarray, d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Give the 95 % band of the loss at N = n and D = d."""
        values = np.stack([draw.loss(n, d) for draw in self.draws])
        return np.quantile(values, 0.025, axis=0), np.quantile(values, 0.975, axis=0)


def fit_law(n: np.ndarray, d: np.ndarray, loss: np.ndarray, *, n_resamples: int = 500, seed: int = 0) -> Fit:
    """Fit the law to runs of size n, events d and loss, each [runs].

    No law is claimed with fewer than 8 distinct points (n, d), one size or one budget; when the interval of an exponent
    touches 0 or the end of the search; or when that of the floor E spans over a third of the least loss seen, as then
    any exponent goes with some floor. A term that is nowhere half a per cent of the loss counts as exponent 0.
    """
    n, d, loss = (np.asarray(values, np.float64) for values in (n, d, loss))
    points = np.unique(np.stack([n, d], axis=1), axis=0)
    n_sizes, n_budgets = len(np.unique(n)), len(np.unique(d))
    if len(points) < N_POINTS or min(n_sizes, n_budgets) < 2:
        nothing = Law(float(loss.min()) if len(loss) else np.nan, 0.0, 0.0, 0.0, 0.0)
        return Fit(nothing, {}, (), f"{len(points)} distinct points of {n_sizes} sizes and {n_budgets} budgets")
    best = _search(n, d, loss, _grid(n, d, loss))
    law, draw = _law(best, n, d, loss), generator(seed, "scaling law")
    near = [best, *(_with_floor(best, loss, share) for share in (0.3, 0.7, 0.95))]
    draws = []
    for _ in range(n_resamples):
        rows = draw.integers(0, len(loss), len(loss))
        draws.append(_law(_search(n[rows], d[rows], loss[rows], near), n[rows], d[rows], loss[rows]))
    found = {name: np.array([getattr(one, name) for one in draws]) for name in NAMES}
    intervals = {k: (float(np.quantile(v, 0.025)), float(np.quantile(v, 0.975))) for k, v in found.items()}
    return Fit(law, intervals, tuple(draws), _verdict(intervals, float(loss.min())))


def _verdict(intervals: dict[str, tuple[float, float]], least: float) -> str:
    """Say why there is no law; empty when there is one."""
    reasons = []
    for names, end in (
        ([name for name in ("a", "b") if intervals[name][0] <= 0], "touches 0"),
        ([name for name in ("a", "b") if intervals[name][1] >= STEEPEST - 1e-6], "reaches the end of the search"),
    ):
        if names:
            reasons.append(f"the interval of {' and of '.join(names)} {end}")
    low, high = intervals["E"]
    if high - low > WIDEST * least:
        reasons.append(f"that of E, {low:.2f} to {high:.2f}, spans more than a third of the least loss, {least:.2f}")
    return "; ".join(reasons)


def _grid(n: np.ndarray, d: np.ndarray, loss: np.ndarray) -> list[np.ndarray]:
    """Starts (log A, log B, log E, a, b), A and B being losses at the middle of N and D."""
    starts = []
    for a, b, share in product((0.1, 0.3, 0.6, 1.0), (0.1, 0.3, 0.6, 1.0), (0.3, 0.7, 0.95)):
        floor = share * loss.min()
        rest = max((loss.mean() - floor) / 2, 1e-6)
        starts.append(np.array([np.log(rest), np.log(rest), np.log(floor), a, b]))
    return starts


def _with_floor(best: np.ndarray, loss: np.ndarray, share: float) -> np.ndarray:
    start = best.copy()
    start[2] = np.log(share * loss.min())
    return start


def _search(n: np.ndarray, d: np.ndarray, loss: np.ndarray, starts: list[np.ndarray]) -> np.ndarray:
    """The best end of L-BFGS over the starts."""
    from scipy.optimize import minimize

    x, y, wanted = _centred(n), _centred(d), np.log(loss)

    def value(p: np.ndarray) -> tuple[float, np.ndarray]:
        terms = np.stack([p[0] - p[3] * x, p[1] - p[4] * y, np.full_like(x, p[2])])
        top = terms.max(axis=0)
        shares = np.exp(terms - top)
        total = shares.sum(axis=0)
        shares /= total
        miss = top + np.log(total) - wanted
        size = np.abs(miss)
        cost = np.where(size < DELTA, 0.5 * miss**2 / DELTA, size - 0.5 * DELTA).mean()
        slope = np.clip(miss / DELTA, -1, 1) / len(miss)
        pull = shares * slope
        return float(cost), np.r_[pull.sum(axis=1), -(pull[0] * x).sum(), -(pull[1] * y).sum()]

    bounds = [(-20, 10)] * 3 + [(-0.5, STEEPEST)] * 2
    ends = [minimize(value, start, jac=True, method="L-BFGS-B", bounds=bounds) for start in starts]
    return min(ends, key=lambda end: end.fun).x


def _centred(values: np.ndarray) -> np.ndarray:
    """Logs about the middle of their range, so that the terms are of the size of the loss."""
    logs = np.log(values)
    return logs - (logs.min() + logs.max()) / 2


def _law(p: np.ndarray, n: np.ndarray, d: np.ndarray, loss: np.ndarray) -> Law:
    found = []
    for log_size, exponent, values in ((p[0], p[3], n), (p[1], p[4], d)):
        logs = np.log(values)
        middle = (logs.min() + logs.max()) / 2
        largest = np.exp(log_size - exponent * np.array([logs.min() - middle, logs.max() - middle])).max()
        is_there = largest > SHARE * loss.min()
        found.append((float(np.exp(log_size + exponent * middle)), float(exponent) if is_there else 0.0))
    (A, a), (B, b) = found
    return Law(float(np.exp(p[2])), A, B, a, b)
