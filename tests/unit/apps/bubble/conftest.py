"""Small planted worlds, made once."""

from __future__ import annotations

import pytest

from habitus.apps.bubble.loop import LoopConfig, Stage
from habitus.apps.bubble.planted import planted_stage
from habitus.apps.bubble.policies import PolicyConfig
from habitus.testing.threads import one_thread

__all__ = ["one_thread"]


@pytest.fixture(scope="session")
def stage() -> Stage:
    """Sixty agents among eighty users."""
    return planted_stage()


@pytest.fixture(scope="session")
def repeated() -> Stage:
    """A log in which an item may be offered again."""
    return planted_stage(20, is_repeated=True)


@pytest.fixture(scope="session")
def planted() -> Stage:
    """Agents who take much of what they are shown, so that an answer to what they took can be seen."""
    return planted_stage(policy=PolicyConfig.parse({"watch_rate": 0.45, "novelty": 4.0}))


@pytest.fixture(scope="session")
def short() -> LoopConfig:
    """Three rounds of three pages, two pairs."""
    return LoopConfig.parse({"rounds": 3, "pages": 3, "per_page": 4, "pairs": 2})
