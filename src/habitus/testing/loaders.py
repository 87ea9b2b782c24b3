"""A loader for tests: batches held in memory, with everything that `fit` asks of a loader."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from habitus.core.seeds import generator


class BatchList:
    """Gives the same batches every epoch, in an order drawn from (seed, epoch); `seed=None` keeps their order.

    >>> loader = BatchList(["a", "b", "c"], seed=None)
    >>> batches = iter(loader)
    >>> next(batches), loader.state_dict()
    ('a', {'epoch': 0, 'batch': 1})
    """

    def __init__(self, batches: Sequence[Any], seed: int | None = 0) -> None:
        self.batches, self.seed = list(batches), seed
        self.epoch, self.batch = 0, 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        n = len(self.batches)
        order = range(n) if self.seed is None else generator(self.seed, self.epoch).permutation(n).tolist()
        while self.batch < n:
            self.batch += 1
            yield self.batches[order[self.batch - 1]]
        self.batch = 0

    def set_epoch(self, epoch: int) -> None:
        """Start an epoch at its first batch."""
        self.epoch, self.batch = epoch, 0

    def state_dict(self) -> dict[str, int]:
        """Give the place after the batch given last."""
        return {"epoch": self.epoch, "batch": self.batch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a place."""
        self.epoch, self.batch = state["epoch"], state["batch"]
