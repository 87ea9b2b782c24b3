"""What each process of test_several_processes does: one training after the other, some of them broken off."""

from __future__ import annotations

import json
import sys
from typing import Any
from unittest import mock

import torch

from habitus.tasks.train import train
from habitus.training.adapter import Adapter


class BrokenOff(Exception):
    """Stands for a kill, at the same step in every process."""


def train_until(stop: int | None, **options: Any) -> None:
    """Train; with `stop`, break off right after that many steps of the first seed."""
    after_step = Adapter.on_train_batch_end

    def checked(self: Adapter, *arguments: Any) -> None:
        after_step(self, *arguments)
        if self.place.step == stop:
            raise BrokenOff

    with mock.patch.object(Adapter, "on_train_batch_end", checked):
        try:
            train(**options)
        except BrokenOff:
            assert stop is not None


if __name__ == "__main__":
    torch.set_num_threads(1)
    for step in json.loads(sys.argv[1]):
        train_until(**step)
