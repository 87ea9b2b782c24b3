"""Examples as batches of tensors, in an order that depends on the seed alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from habitus.apps.ctr.examples import Examples, tokens
from habitus.core.errors import ConfigError
from habitus.core.seeds import generator
from habitus.models.layers.click import ClickBatch, ClickShape


def columns_without(examples: Examples, left_out: tuple[str, ...]) -> list[int]:
    """Places of the static fields that are kept. Errors: `ConfigError` for a name that is no field."""
    out = places_of(examples, left_out, where="left_out")
    return [place for place in range(len(examples.spec.static_names)) if place not in out]


def places_of(examples: Examples, names: Sequence[str], *, where: str = "crossed") -> list[int]:
    """Places of the static fields of these names. Errors: `ConfigError` for a name that is no field."""
    known = examples.spec.static_names
    for name in names:
        if name not in known:
            raise ConfigError(f"fields out of: {', '.join(known)}", repr(name), where=where)
    return [known.index(name) for name in names]


def shape_of(examples: Examples, left_out: tuple[str, ...] = ()) -> ClickShape:
    """What the data implied for a model of clicks."""
    spec = examples.spec
    sizes = tuple(int(spec.static_sizes[place]) for place in columns_without(examples, left_out))
    return ClickShape(sizes, len(spec.dense_names), spec.n_cates, spec.n_brands, len(spec.kinds))


def batch_of(
    examples: Examples, rows: np.ndarray, *, n_tokens: int, collapse: bool = True, left_out: tuple[str, ...] = ()
) -> ClickBatch:
    """Give the rows as one batch, as wide as its longest history and no wider than `n_tokens`."""
    codes, is_padding, _ = tokens(examples, rows, n_tokens=n_tokens, collapse=collapse)
    width = max(int((~is_padding).sum(1).max(initial=0)), 1)
    codes, is_padding = codes[:, -width:], is_padding[:, -width:]
    columns = columns_without(examples, left_out)
    return ClickBatch(
        torch.from_numpy(np.ascontiguousarray(codes)),
        torch.from_numpy(np.ascontiguousarray(is_padding)),
        torch.from_numpy(examples.static[rows][:, columns].astype(np.int64)),
        torch.from_numpy(examples.dense[rows]),
        torch.from_numpy(examples.target[rows].astype(np.int64)),
        torch.from_numpy(examples.label[rows].astype(np.float32)),
        None if examples.offset is None else torch.from_numpy(examples.offset[rows]),
    )


class ClickLoader:
    """Rows in batches. A pass over the data is cut into `n_parts` epochs, so that it can be judged on the way.

    With `keep_rate` w each pass takes all clicks and a new share w of the rest. Rows that do not fill the parts evenly
    wait for the next pass. Without `is_shuffled` every row comes once, in order.
    """

    def __init__(
        self,
        examples: Examples,
        *,
        batch_size: int,
        n_tokens: int,
        collapse: bool = True,
        left_out: tuple[str, ...] = (),
        n_parts: int = 1,
        keep_rate: float = 1.0,
        is_shuffled: bool = True,
        seed: int = 0,
    ) -> None:
        self.examples, self.batch_size, self.n_parts, self.seed = examples, batch_size, n_parts, seed
        self.is_shuffled, self.keep_rate = is_shuffled, keep_rate
        self.options: dict[str, Any] = {"n_tokens": n_tokens, "collapse": collapse, "left_out": left_out}
        self.epoch = self.done = 0
        self.n_negatives = round(keep_rate * int((examples.label == 0).sum()))

    @property
    def n_rows(self) -> int:
        """Rows of one epoch."""
        return (int((self.examples.label == 1).sum()) + self.n_negatives) // self.n_parts

    def __len__(self) -> int:
        return -(-self.n_rows // self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of an epoch."""
        self.epoch, self.done = epoch, 0

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "done": self.done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epoch, self.done = int(state["epoch"]), int(state["done"])

    def order(self) -> np.ndarray:
        """Give the rows of this epoch."""
        if not self.is_shuffled:
            return np.arange(len(self.examples))
        whole, part = divmod(self.epoch, self.n_parts)
        rng = generator(self.seed, "pass", whole)
        label = self.examples.label
        negatives = rng.permutation(np.flatnonzero(label == 0))[: self.n_negatives]
        rows = rng.permutation(np.concatenate([np.flatnonzero(label == 1), negatives]))
        return rows[part * self.n_rows : (part + 1) * self.n_rows]

    def __iter__(self) -> Iterator[ClickBatch]:
        order = self.order()
        for number in range(self.done, len(self)):
            rows = order[number * self.batch_size : (number + 1) * self.batch_size]
            self.done = number + 1
            yield batch_of(self.examples, rows, **self.options)
        self.done = 0
