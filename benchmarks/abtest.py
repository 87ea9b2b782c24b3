"""Experiments: error rates, power, coverage and CUPED over simulated experiments; splits; A/A on a real log.

`small` runs 500 experiments of each kind, `full` 2,000 and 1,000 salts: some minutes on one core.
"""

from __future__ import annotations

import datetime as dt
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import record, size_option
from habitus.apps.abtest.checks import a_a, srm
from habitus.apps.abtest.declare import Experiment
from habitus.apps.abtest.plan import make_plan, past_columns
from habitus.apps.abtest.sequential import log_bayes_split
from habitus.apps.abtest.simulate import Draw, binary_world, clustered_world, heavy_world, ratio_world, simulate
from habitus.apps.abtest.sizes import design_effect, n_binary, n_mean, ratio_variance
from habitus.core.seeds import generator

RUNS = {"small": 500, "full": 2000}
SALTS = {"small": 100, "full": 1000}
WORLDS: dict[str, tuple[Draw, bool]] = {
    "binary 5.14 %": (binary_world(0.0514), False),
    "mean, log-normal with half at 0": (heavy_world(), False),
    "ratio, clicks per view": (ratio_world(), True),
    "clustered, 23 rows a user, ICC .02, cv 1.5": (clustered_world(cv=1.5), True),
}


def error_rates(runs: int) -> None:
    """No effect: read once, peeking, valid at every look; 20 looks up to 4,000 users an arm."""
    for seed, (name, (draw, is_ratio)) in enumerate(WORLDS.items()):
        found = simulate(draw, 4000, n_experiments=runs, is_ratio=is_ratio, seed=seed)
        said = f"{runs:,} experiments, 4,000 users an arm, looks every 200 from 1,000"
        record("abtest", f"{name}: false alarms, read once", found.fixed, "", said)
        record("abtest", f"{name}: false alarms, naive at every look", found.peeking, "", said)
        record("abtest", f"{name}: false alarms, valid at every look", found.always, "", said)
    table = simulate(binary_world(0.0514), 10_000, n_looks=50, n_experiments=runs)
    other = simulate(binary_world(0.0514), 10_000, n_looks=50, n_experiments=runs, lift=0.2, truth=0.2 * 0.0514)
    said = f"{runs:,} experiments, 10,000 users an arm, looks every 200 from 1,000"
    for words, key in (("naive at every look", "peeking"), ("valid at every look", "always"), ("read once", "fixed")):
        record("abtest", f"binary, no effect: {words}", getattr(table, key), "", said)
        record("abtest", f"binary, +20 %: {words}", getattr(other, key), "", said)
    record("abtest", "binary, +20 %: valid interval covers at every look", other.always_coverage, "", said)
    record("abtest", "binary, +20 %: users used when stopping early", other.stopped_at, "", said)


def power(runs: int) -> None:
    """The planned lift at the planned number: 80 % is what was asked for. Each world is sized on users of its own."""
    for seed, (name, (draw, is_ratio)) in enumerate(WORLDS.items()):
        lift = {"mean, log-normal with half at 0": 0.12}.get(name, 0.15)
        past = draw(generator(seed, "past"), (1, 400_000), 0.0)[0]
        if is_ratio:
            level, spread = past[:, 0].mean() / past[:, 1].mean(), ratio_variance(past[:, 0], past[:, 1])
            n = n_mean(spread, lift * level, treated=spread * (1 + lift))
        else:
            level = past[:, 0].mean()
            is_heavy = "mean" in name  # tails too heavy to measure the variance: e^(sigma^2) / share - 1, level 1
            level = 1.0 if is_heavy else level
            spread = np.exp(1.5**2) / 0.5 - 1 if is_heavy else past[:, 0].var()
            grown = spread * (1 + lift) ** 2
            n = n_binary(level, lift) if "binary" in name else n_mean(spread, lift * level, treated=grown)
        options = {"lift": lift, "truth": lift * level, "n_experiments": runs, "is_ratio": is_ratio, "seed": 10 + seed}
        found = simulate(draw, int(np.ceil(n)), n_looks=1, **options)
        said = f"planned .80 for {lift:+.0%} with {n:,.0f} users an arm; {runs:,} experiments"
        record("abtest", f"{name}: power", found.right, "", said)
        record("abtest", f"{name}: coverage of the 95 % interval", found.coverage, "", said)
    deff = design_effect(23.3, 0.02, 1.5)
    rows = n_binary(0.05, 0.15) * deff
    draw, n = clustered_world(cv=1.5), int(np.ceil(rows / 23.3))
    found = simulate(draw, n, lift=0.15, n_experiments=runs, n_looks=1, is_ratio=True, seed=20)
    said = f"deff {deff:.2f}, {rows:,.0f} rows an arm"
    record("abtest", "clustered, sized by n of rows x design effect: power", found.right, "", said)
    naive = _rows_as_units(runs)
    record("abtest", "clustered: false alarms if rows are taken for users", naive, "", f"{runs:,} experiments, cv 1.5")


def _rows_as_units(runs: int) -> float:
    """What a test of rows rejects when rows of a user are alike."""
    draw, rng = clustered_world(cv=1.5), generator(3, "rows")
    sides = [draw(rng, (runs, 4000), 0.0).sum(axis=1) for _ in range(2)]
    rate = [side[:, 0] / side[:, 1] for side in sides]
    spread = sum(p * (1 - p) / side[:, 1] for p, side in zip(rate, sides))
    return float((np.abs(rate[1] - rate[0]) > 1.96 * np.sqrt(spread)).mean())


def cuped(runs: int) -> None:
    """Variance left over against 1 - rho^2, as estimated and as seen; bias; and what rho = 0 costs."""
    for rho in (0.0, 0.3, 0.5, 0.7, 0.9):
        options = {"lift": 0.01, "truth": 0.1, "n_experiments": runs, "n_looks": 1, "seed": 30 + round(10 * rho)}
        found = simulate(heavy_world(rho=rho), 2000, adjust=True, **options)
        plain = simulate(heavy_world(rho=rho), 2000, **options)
        said = f"{runs:,} experiments, 2,000 users an arm"
        record("abtest", f"CUPED, rho {rho}: variance / (plain x (1 - rho^2))", found.shrink / (1 - rho**2), "", said)
        seen = found.spread * found.shrink / plain.spread / (1 - rho**2)
        record("abtest", f"CUPED, rho {rho}: variance of the estimates, same ratio", seen, "", said)
        record("abtest", f"CUPED, rho {rho}: bias in its standard errors", found.bias, "", said)
        record("abtest", f"CUPED, rho {rho}: power (plain {plain.right:.2f})", found.right, "", said)
    found = simulate(ratio_world(past=True), 4000, n_experiments=runs, n_looks=1, is_ratio=True, adjust=True, seed=31)
    record("abtest", "CUPED, ratio: variance / plain", found.shrink, "", "rate and views of the same users before")
    record("abtest", "CUPED, ratio: false alarms, read once", found.fixed, "", f"{runs:,} experiments")


def splits(runs: int) -> None:
    """The check of the split: false alarms, and what it finds when 2 % of the users of one arm are lost."""
    rng, trials = generator(4, "srm"), 100 * runs
    for n in (10_000, 100_000, 1_000_000):
        fair = rng.binomial(n, 0.5, trials)
        alarms = float((srm(fair, n - fair) < 0.001).mean())
        record("abtest", f"split of {n:,}: false alarms at .001", alarms, "", f"{trials:,} splits")
        for lost in (0.02, 0.05):
            treated = rng.binomial(n, 0.5, trials)
            found = float((srm(rng.binomial(treated, 1 - lost), n - treated) < 0.001).mean())
            record(
                "abtest", f"split of {n:,}: found when {lost:.0%} of one arm is lost", found, "", f"{trials:,} splits"
            )
    days = rng.binomial(10_000, 0.5, (10 * runs, 28)).cumsum(axis=1)
    n = np.arange(1, 29) * 10_000
    evidence = log_bayes_split(days.astype(float), (n - days).astype(float))
    said, running = f"{10 * runs:,} experiments", float((evidence > -np.log(0.001)).any(axis=1).mean())
    record("abtest", "split, running test on 28 mornings: false alarms at .001", running, "", said)
    naive = (srm(days, n - days) < 0.001).any(axis=1).mean()
    record("abtest", "split, chi-squared on 28 mornings: false alarms at .001", float(naive), "", said)
    treated = rng.binomial(10_000, 0.5, (10 * runs, 28))
    left, others = rng.binomial(treated, 0.98).cumsum(axis=1), (10_000 - treated).cumsum(axis=1)
    evidence = log_bayes_split(left.astype(float), others.astype(float))
    caught = evidence > -np.log(0.001)
    said = (
        f"median day {np.median(caught[caught.any(axis=1)].argmax(axis=1)) + 1:.0f} of those found, 10,000 users a day"
    )
    share = float(caught.any(axis=1).mean())
    record("abtest", "split, running test, 2 % of one arm lost: found within 28 days", share, "", said)


def real_data(salts: int) -> None:
    """A/A on Online Retail: 14 days of purchases from 2011-10-24, assigned by many salts, with and without the past."""
    from habitus.data.ingest import ingest
    from habitus.data.sources.online_retail import online_retail

    with tempfile.TemporaryDirectory() as folder:
        store = ingest(online_retail(), Path(folder) / "retail.store")
        common: dict[str, Any] = {"name": "a/a", "salt": "a/a", "start": dt.date(2011, 11, 7)}
        for name, kind, target, per in (
            ("buyers", "binary", "any(purchase) in 14d", None),
            ("spend", "mean", "sum(spend of purchase) in 14d", None),
            ("spend per basket", "ratio", "sum(spend of purchase) in 14d", "sessions(purchase) in 14d"),
        ):
            metric = {"name": name, "role": "primary", "kind": kind, "target": target, "per": per, "lift": 0.1}
            experiment = Experiment.parse(common | {"metrics": [metric], "tables": {"store": str(store.path)}})
            columns, _ = past_columns(experiment, experiment.primary)
            for adjust in (False, True):
                found = a_a(np.arange(len(columns)), columns, salts, is_ratio=kind == "ratio", adjust=adjust)
                said, kind_of = f"{len(columns):,} users, {salts:,} salts", "CUPED" if adjust else "plain"
                record("abtest", f"A/A, {name}, {kind_of}: rejected at .05", found.rejected, "", said)
                record("abtest", f"A/A, {name}, {kind_of}: p of KS against uniform", found.ks, "", said)
            plan = make_plan(experiment)
            sized = plan.metrics[name]
            said = f"with CUPED {plan.n_per_arm:,}, rho {sized.rho:.2f}"
            record("abtest", f"Online Retail, {name}: users per arm for +10 %", plan.n_plain, "", said)


def main() -> None:
    size = size_option(__doc__)
    error_rates(RUNS[size])
    power(RUNS[size])
    cuped(RUNS[size])
    splits(RUNS[size])
    real_data(SALTS[size])


if __name__ == "__main__":
    main()
