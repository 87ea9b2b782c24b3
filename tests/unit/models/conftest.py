"""Tests here run small models on one thread."""

from habitus.testing.threads import one_thread

__all__ = ["one_thread"]
