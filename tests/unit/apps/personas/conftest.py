"""A small social world, written and fitted once for the tests of the app."""

from __future__ import annotations

from pathlib import Path

import pytest

from habitus.apps.personas.fit import fit_personas
from habitus.apps.personas.settings import PersonasRecipe
from habitus.data.sources.persona_world import PersonaWorldConfig, write_persona_world
from habitus.testing.threads import one_thread

__all__ = ["one_thread"]

SMALL = {
    "name": "small", "text": {"width": 16, "read_by_trees": 4, "n_groups": 20},
    "trees": {"rounds": 20, "leaves": 7, "min_leaf": 20, "min_persona": 400, "min_class": 20, "lr": 0.2},
    "rare": {"epochs": 4, "d_text": 32, "d_numbers": 32, "width": 32},
}  # fmt: skip


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_persona_world(
        tmp_path_factory.mktemp("personas") / "w", PersonaWorldConfig(n_threads=6000, n_personas=3)
    )


@pytest.fixture(scope="session")
def run(world: Path) -> Path:
    out = world.parent / "run"
    return fit_personas(PersonasRecipe.parse(SMALL), world / "threads.jsonl", out, say=lambda line: None)
