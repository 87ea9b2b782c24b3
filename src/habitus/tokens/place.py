"""The place of a loader in its epoch: what makes it resumable after any batch."""

from __future__ import annotations

from typing import Any

from habitus.core.errors import TrainingError


class Place:
    """Epoch and batch of a loader whose order follows from (seed, epoch) alone.

    Counted before a batch is handed out, so that a state saved while it is used starts after it.

    >>> place = Place(seed=3)
    >>> place.set_epoch(2)
    >>> place.state_dict()
    {'epoch': 2, 'batch': 0, 'seed': 3}
    """

    share: tuple[int, int] = (0, 1)  # (rank, number of devices): batches of other devices are counted, not made

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.epoch, self.batch = 0, 0

    def is_own(self) -> bool:
        """Tell whether the next batch is one of this device's."""
        rank, n_devices = self.share
        return self.batch % n_devices == rank

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next, from its first batch."""
        self.epoch, self.batch = epoch, 0

    def state_dict(self) -> dict[str, int]:
        """Give the place in the epoch: enough to go on with the next batch."""
        return {"epoch": self.epoch, "batch": self.batch, "seed": self.seed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken. Errors: `TrainingError` for a state of another seed."""
        if state["seed"] != self.seed:
            raise TrainingError(f"a state of seed {self.seed}", f"seed {state['seed']}", where="loader state")
        self.epoch, self.batch = int(state["epoch"]), int(state["batch"])
