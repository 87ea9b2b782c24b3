"""What Ray Train raises, in our words; the training itself is in test_ray_road and benchmarks.scale_out."""

from __future__ import annotations

import pytest

from habitus.core.engine import as_engine
from habitus.core.errors import CutoffError, EngineError
from habitus.tasks.train_on_ray import _explained

ray = pytest.importorskip("ray", reason="the extra [ray] is not installed")


class Failed(Exception):
    """Stands for Ray Train's error of several workers."""

    def __init__(self, *failures: Exception) -> None:
        super().__init__("Training failed due to worker errors:")
        self.worker_failures = dict(enumerate(failures))


class Wrapped(Exception):
    """Stands for how Ray Train carries a worker's own error."""

    def __init__(self, inner: BaseException) -> None:
        super().__init__("a traceback")
        self._base_exc = inner


def test_an_error_of_ours_is_given_as_it_was():
    own = CutoffError("a day of the log", "none", where="cutoff")
    assert _explained(Failed(Wrapped(ValueError()), Wrapped(own)), as_engine("ray")) is own


def test_memory_and_death_say_what_to_do():
    full = _explained(Failed(Wrapped(MemoryError("no room"))), as_engine("ray"))
    assert isinstance(full, EngineError)
    assert "--worker-memory" in full.fix
    dead = _explained(Failed(ray.exceptions.NodeDiedError("gone")), as_engine("ray"))
    assert "4 died on one job" in dead.found


def test_anything_else_says_what_ray_said():
    assert "worker errors" in _explained(Failed(Wrapped(KeyError("x"))), as_engine("ray")).found
    assert "no controller" in _explained(RuntimeError("no controller"), as_engine("ray")).found
