"""How fast training goes, beside what the machine can do."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import lru_cache

import torch


@lru_cache
def matmul_peak(device: str = "cpu", dtype: torch.dtype = torch.float32) -> float:
    """Measure the rate of one large matrix product, in operations per second: the limit that MFU is a share of.

    Best of several, about 0.2 s, once per process and device. On a machine that does other work it is a low estimate.

    >>> matmul_peak() > 1e8
    True
    """
    n = 1024 if device == "cpu" else 8192
    a, b = (torch.full((n, n), 0.5, device=device, dtype=dtype) for _ in range(2))
    seconds = []
    while len(seconds) < 4 or (sum(seconds) < 0.15 and len(seconds) < 50):
        _wait(device)
        began = time.perf_counter()
        torch.mm(a, b)
        _wait(device)
        seconds.append(time.perf_counter() - began)
    return 2 * n**3 / min(seconds[1:])


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


@dataclass
class Meter:
    """Adds up the work of training steps. `flops` counts useful work: three forward passes, padding left out.

    >>> meter = Meter(peak=1e9)
    >>> meter.add(n_samples=2, n_positions=30, flops=3e8, seconds=1.0, waited=0.1)
    >>> meter.figures()["positions_per_second"], round(meter.figures()["mfu"], 2)
    (30.0, 0.3)
    """

    peak: float
    n_steps: int = 0
    n_samples: int = 0
    n_positions: int = 0
    flops: float = 0.0
    seconds: float = 0.0
    waited: float = 0.0

    def add(self, *, n_samples: int, n_positions: int, flops: float, seconds: float, waited: float) -> None:
        """Count one step."""
        self.n_steps += 1
        self.n_samples += n_samples
        self.n_positions += n_positions
        self.flops += flops
        self.seconds += seconds
        self.waited += waited

    def figures(self) -> dict[str, float]:
        """Positions (user-days that are not padding) and samples per second, MFU, share of time waiting for data."""
        seconds = max(self.seconds, 1e-9)
        return {
            "positions_per_second": self.n_positions / seconds,
            "samples_per_second": self.n_samples / seconds,
            "mfu": self.flops / seconds / self.peak,
            "wait_share": self.waited / seconds,
            "seconds": self.seconds,
            "n_steps": self.n_steps,
            "peak_flops": self.peak,
        }
