"""Error rates by simulation, within binomial bounds: 2,000 small experiments each, fixed seeds."""

from __future__ import annotations

import numpy as np
import pytest

from habitus.apps.abtest.simulate import binary_world, clustered_world, from_past, heavy_world, ratio_world, simulate
from habitus.core.errors import ConfigError

RUNS = 2000
NOISE = 3 * np.sqrt(0.05 * 0.95 / RUNS)


@pytest.mark.parametrize(
    ("draw", "is_ratio", "adjust"),
    [
        (binary_world(0.1), False, False),
        (heavy_world(), False, False),
        (ratio_world(), True, False),
        (clustered_world(cv=1.0), True, False),
        (ratio_world(past=True), True, True),
    ],
    ids=["binary", "heavy", "ratio", "clustered", "ratio with CUPED"],
)
def test_false_alarms_are_as_stated_and_peeking_is_safe(draw, is_ratio, adjust):
    found = simulate(
        draw, 600, n_experiments=RUNS, first_look=150, n_looks=12, is_ratio=is_ratio, adjust=adjust, seed=1
    )
    assert found.fixed == pytest.approx(0.05, abs=NOISE)
    assert found.coverage == pytest.approx(0.95, abs=NOISE)
    assert found.always <= 0.05
    assert found.peeking > 0.1


def test_the_table_of_the_specification():
    nothing = simulate(binary_world(0.0514), 10_000, n_looks=50, n_experiments=RUNS)
    planned = simulate(binary_world(0.0514), 10_000, n_looks=50, n_experiments=RUNS, lift=0.2, truth=0.2 * 0.0514)
    assert nothing.peeking == pytest.approx(0.26, abs=0.03)
    assert nothing.always == pytest.approx(0.014, abs=0.01)
    assert planned.always == pytest.approx(0.64, abs=0.035)
    assert planned.fixed == pytest.approx(0.88, abs=0.025)


@pytest.mark.parametrize("rho", [0.0, 0.6])
def test_cuped_saves_rho_squared_and_is_unbiased(rho):
    found = simulate(
        heavy_world(rho=rho), 500, lift=0.01, truth=0.1, n_experiments=RUNS, n_looks=1, adjust=True, seed=2
    )
    assert found.shrink == pytest.approx(1 - rho**2, rel=0.05 if rho else 0.01)
    assert found.spread == pytest.approx(1, abs=4 * np.sqrt(2 / RUNS))
    assert abs(found.bias) < 3.5


def test_users_of_the_past_keep_their_power():
    past = heavy_world()(np.random.default_rng(0), (1, 50_000), 0.0)[0]
    found = simulate(from_past(past, "mean"), 2000, lift=0.3, truth=0.3 * past.mean(), n_experiments=500, n_looks=1)
    assert found.coverage > 0.92
    rates = from_past((past > 0).astype(float), "binary")(np.random.default_rng(0), (1, 50_000), 0.1)
    assert rates.mean() == pytest.approx(1.1 * (past > 0).mean(), rel=0.03)


def test_more_looks_than_users_are_refused():
    with pytest.raises(ConfigError, match="one user per look"):
        simulate(binary_world(0.1), 5, n_looks=10)
