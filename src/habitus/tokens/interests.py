"""Interests: every item, or every value of declared columns, gets a number; fitted on train, then frozen.

Three ways, one answer. `field`: a category, or a tuple of columns, is the interest. `item`: every item seen in train is
its own. `cluster`: items whose vectors lie close share one (see `tokens.codebook`); vectors come from a tower that this
module does not know. Interest 0 is what has neither content nor history.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from habitus.core.atomic import new_folder
from habitus.core.config import Config
from habitus.tokens.codebook import Codebook
from habitus.tokens.item_content import ContentEncoder

if TYPE_CHECKING:
    from habitus.data.store import Store

Way = Literal["field", "item", "cluster"]
Block = Literal["day", "week", "month"]


class TowerConfig(Config):
    """The item tower of `cluster`: widths, pairs, loss. See `models.item_tower`.

    Without `has_id` content alone decides: new items fare like old ones, and items of equal content share an interest.
    """

    d: int = Field(default=64, gt=0)
    title_buckets: int = Field(default=1 << 14, gt=0)
    price_bins: int = Field(default=16, gt=1)
    has_id: bool = True
    id_dropout: float = Field(default=0.3, ge=0, lt=1)
    min_events: int = Field(default=5, ge=0)
    near_events: int = Field(default=5, gt=0)
    near_minutes: float = Field(default=30.0, ge=0)
    thin: float = Field(default=0.001, gt=0, le=1)
    tau: float = Field(default=0.06, gt=0)
    batch: int = Field(default=1024, gt=1)
    steps: int = Field(default=500, gt=0)
    lr: float = Field(default=3e-3, gt=0)


class InterestConfig(Config):
    """How interests are made and counted.

    `fields` names columns of the item table, or `type` and categories of the events (for `way = "field"`). `n` is the
    number of clusters; None takes a tenth of the train items, at least 256 and at most 100,000. A week ends on the
    weekday of the train cut-off, so that the cut-off is a block end. `groups` are groups of event types, counted apart;
    none means one group of all types, and a type in no group is not counted. `amount` names the amount that is summed,
    in units of 10^-`digits`.

    >>> InterestConfig(way="field", fields=("department",)).block
    'week'
    """

    way: Way = "cluster"
    fields: tuple[str, ...] = ()
    n: int | None = Field(default=None, gt=0)
    block: Block = "week"
    groups: tuple[tuple[str, ...], ...] = ()
    amount: str | None = None
    digits: int = Field(default=2, ge=0, le=6)
    tower: TowerConfig = TowerConfig()

    @model_validator(mode="after")
    def _whole(self) -> InterestConfig:
        if (self.way == "field") != bool(self.fields):
            raise ValueError('fields = [...] with way = "field", and only there')
        named = [name for group in self.groups for name in group]
        if len(named) != len(set(named)) or any(not group for group in self.groups):
            raise ValueError("each event type in one group, and no group without a type")
        return self


@dataclass(frozen=True, eq=False)
class Interests:
    """A frozen map from items (or field values) to interests. No pickle on disk: JSON and plain arrays.

    Attributes
    ----------
    version
        Hash of all that decides a count: tower weights, centres, item table, idf, block, groups, amount.
    n
        V, the number of interests, id 0 included.
    of_item
        int32 [n_items of the store it was fitted on]; `item_ids` are their texts. See `on` for another store.
    names
        One readable name per interest.
    idf
        float32 [V]: log((1 + N) / (1 + df)) over the train users at the train cut-off.
    until, week_starts
        The train cut-off, days since 1970-01-01. a week begins on days = `week_starts` modulo 7.
    n_users
        N, the users with an event in train.
    """

    version: str
    n: int
    of_item: np.ndarray
    item_ids: tuple[str, ...]
    names: tuple[str, ...]
    idf: np.ndarray
    block: Block
    groups: tuple[tuple[str, ...], ...]
    way: Way
    fields: tuple[str, ...]
    values: tuple[str, ...]
    amount: str | None
    digits: int
    until: int
    week_starts: int
    n_users: int
    codebook: Codebook | None = None
    content: ContentEncoder | None = None
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def n_groups(self) -> int:
        return max(1, len(self.groups))

    def save(self, path: str | Path) -> None:
        """Write a folder; atomic. Errors: `DiskError`."""
        from habitus.tokens.interest_files import write_files

        with new_folder(path, replace=True) as folder:
            write_files(self, folder)

    @classmethod
    def load(cls, path: str | Path) -> Interests:
        """Read what `save` wrote. Errors: `ArtifactError` for another format, an absent or changed file."""
        from habitus.tokens.interest_files import read_files

        return read_files(Path(path))


def fit_interests(
    store: Store,
    config: InterestConfig,
    *,
    until: int,
    seed: int = 0,
    vectors: np.ndarray | None = None,
    content: ContentEncoder | None = None,
) -> Interests:
    """Fit interests on the events up to and including day `until`.

    For `cluster`, `vectors` (float32 [n_items, d], unit length, zero where nothing is known) and the frozen `content`
    encoder come from the tower; `tasks.interests.learn_interests` trains it and then calls this. What happens after
    `until` changes nothing: items first seen later are assigned by field value or content, as in an append.

    Errors: `ConfigError` for an unknown column or type, or without vectors.
    """
    from habitus.tokens.interest_fit import fit

    return fit(store, config, until, seed, vectors, content)
