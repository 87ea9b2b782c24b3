"""A table of impressions with raw ids beside the behaviour log of the same users: what every click source gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from habitus.data.history import BehaviourLog

DAY = 86_400


@dataclass(frozen=True)
class Impressions:
    """n impressions by (user, time), with raw ids. Ids are integers; 0 means none.

    `user` int32 number in the log; `time` int64 seconds since 1970; `label` int8; `source` int64 row of the raw file;
    `ids` integers [n] per static field; `cate`, `brand` int32 of the target; `price` float64 (NaN: none);
    `has_profile` bool. `utc_offset` seconds of local time ahead of UTC; `delay` days until a label is known; `truth`
    float64 [n], the known probability of a world.
    """

    user: np.ndarray
    time: np.ndarray
    label: np.ndarray
    source: np.ndarray
    ids: Mapping[str, np.ndarray]
    cate: np.ndarray
    brand: np.ndarray
    price: np.ndarray
    has_profile: np.ndarray
    log: BehaviourLog
    utc_offset: int = 0
    delay: int = 0
    truth: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.label)

    @property
    def day(self) -> np.ndarray:
        """Local days since 1970, int32 [n]."""
        return ((self.time + self.utc_offset) // DAY).astype(np.int32)

    @property
    def hour(self) -> np.ndarray:
        """Local hour, 0 to 23, int64 [n]."""
        return (self.time + self.utc_offset) % DAY // 3600

    def rows(self, index: np.ndarray) -> Impressions:
        """Keep some rows: positions or a mask; the log stays whole."""
        names = ("user", "time", "label", "source", "cate", "brand", "price", "has_profile")
        parts = {name: getattr(self, name)[index] for name in names}
        ids = {name: values[index] for name, values in self.ids.items()}
        truth = None if self.truth is None else self.truth[index]
        return replace(self, **parts, ids=ids, truth=truth)
