"""What a change of a store hands to whoever keeps tables that are derived from it, such as counts of interests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from habitus.data.store import Shard, Store


@dataclass(frozen=True)
class Changed(Store):
    """The new state of a store while it is being made: new files lie in `path`, kept ones in `kept`."""

    kept: Path = field(default_factory=Path)

    def file(self, name: str) -> Path:
        made = self.path / name
        return made if made.exists() else self.kept / name


@dataclass(frozen=True)
class ShardChange:
    """How a shard changed: `place` is the new row of each old user (int64, -1: gone); `added` holds the new rows."""

    place: np.ndarray
    added: Shard | None = None


@dataclass(frozen=True)
class Change:
    """The old and the new state, a folder for files, and the shards that changed, by number."""

    old: Store
    new: Changed
    shards: Mapping[int, ShardChange]

    @property
    def staging(self) -> Path:
        return self.new.path


Derive = Callable[[Change], dict[str, Any]]
"""Writes derived tables below `staging`; gives the section "interests" of the manifest."""


def with_derived(change: Change, derive: Derive | None) -> dict[str, Any]:
    """Give the manifest of the new state, with what `derive` keeps; without it, derived tables are dropped."""
    kept = derive(change) if derive is not None and "interests" in change.old.manifest else {}
    return change.new.manifest | ({"interests": kept} if kept else {})
