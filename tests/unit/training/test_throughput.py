"""Rates are sums over sums, not means of rates."""

import pytest
import torch

from habitus.training.throughput import Meter, matmul_peak


def test_rates_are_totals_over_total_time() -> None:
    meter = Meter(peak=1000.0)
    meter.add(n_samples=10, n_positions=100, flops=300.0, seconds=1.0, waited=0.5)
    meter.add(n_samples=10, n_positions=200, flops=300.0, seconds=3.0, waited=0.5)
    found = meter.figures()
    assert found["positions_per_second"] == pytest.approx(75.0)
    assert found["samples_per_second"] == pytest.approx(5.0)
    assert found["mfu"] == pytest.approx(0.15)
    assert found["wait_share"] == pytest.approx(0.25)
    assert found["n_steps"] == 2


def test_nothing_done_is_no_division_by_zero() -> None:
    assert Meter(peak=1.0).figures()["mfu"] == 0.0


def test_the_peak_is_measured_once_per_kind() -> None:
    assert matmul_peak("cpu", torch.float32) == matmul_peak("cpu", torch.float32) > 1e8
