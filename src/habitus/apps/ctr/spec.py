"""What was fitted on the training days: vocabularies, quantile bins, clips and scales. Fixed, with a fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from habitus.core.atomic import new_file
from habitus.core.errors import ArtifactError, SchemaError

FORMAT = 1
UNSEEN = 0
_ROWS = 1 << 18


@dataclass(frozen=True)
class FeatureSpec:
    """How raw values become codes and numbers. Code 0 is what training never showed (or showed too rarely).

    `vocabularies` holds per static field the sorted raw values that have a code; the code of a value is its place + 1.
    `cate` and `brand` are shared by target and history. `log_price_edges` are the inner edges of the price bins.
    `clip_low`, `clip_high`, `mean`, `scale` float64 [N] belong to `dense_names`.

    Errors: `ArtifactError` when a file is not a spec of this format.
    """

    static_names: tuple[str, ...]
    dense_names: tuple[str, ...]
    kinds: tuple[str, ...]
    features: str
    min_count: int
    utc_offset: int  # seconds that local time is ahead of UTC
    delay: int  # days until a label is known
    n_price_bins: int
    n_cross_buckets: int
    vocabularies: Mapping[str, np.ndarray] = field(repr=False)
    log_price_edges: np.ndarray = field(repr=False)
    clip_low: np.ndarray = field(repr=False)
    clip_high: np.ndarray = field(repr=False)
    mean: np.ndarray = field(repr=False)
    scale: np.ndarray = field(repr=False)

    @cached_property
    def static_sizes(self) -> tuple[int, ...]:
        """Codes per static field, 0 included."""
        fixed = {"price_bin": self.n_price_bins + 1, "cate_brand": self.n_cross_buckets + 1}
        fixed |= {"hour": 24 + 1, "weekday": 7 + 1, "has_profile": 2 + 1}
        return tuple(fixed[name] if name in fixed else len(self.vocabularies[name]) + 1 for name in self.static_names)

    @property
    def n_cates(self) -> int:
        """Codes of categories, 0 included: the size of the table that target and history share."""
        return len(self.vocabularies["cate"]) + 1

    @property
    def n_brands(self) -> int:
        return len(self.vocabularies["brand"]) + 1

    @property
    def token_sizes(self) -> tuple[int, ...]:
        """Codes per token field: category, brand, kind, gap, hour slot, run length, repeats."""
        return (self.n_cates, self.n_brands, len(self.kinds), 32, 12, 8, 16)

    def code(self, name: str, values: np.ndarray) -> np.ndarray:
        """Give the codes of raw values of a field with a vocabulary: int32, 0 where unseen."""
        known, values = self.vocabularies[name], np.asarray(values)
        if not len(known):
            return np.zeros(values.shape, np.int32)
        at = np.minimum(np.searchsorted(known, values), len(known) - 1)
        return np.where(known[at] == values, at + 1, UNSEEN).astype(np.int32)

    def code_cate(self, values: np.ndarray) -> np.ndarray:
        return _looked_up(self._cate_table, values)

    def code_brand(self, values: np.ndarray) -> np.ndarray:
        return _looked_up(self._brand_table, values)

    @cached_property
    def _cate_table(self) -> np.ndarray:
        return _table(self.vocabularies["cate"])

    @cached_property
    def _brand_table(self) -> np.ndarray:
        return _table(self.vocabularies["brand"])

    def scaled(self, dense: np.ndarray) -> np.ndarray:
        """Clip and standardise raw numbers [n, N] in the order of `dense_names`: float32, 0 where NaN."""
        values = np.empty(dense.shape, np.float32)
        for low in range(0, len(dense), _ROWS):  # float64 only piece by piece: whole, it would be the peak of memory
            part = (np.clip(dense[low : low + _ROWS], self.clip_low, self.clip_high) - self.mean) / self.scale
            values[low : low + _ROWS] = np.nan_to_num(part, nan=0.0)
        return values

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits over every value: equal fingerprints, equal encodings."""
        digest = hashlib.sha256(json.dumps(self._plain(), sort_keys=True).encode())
        for name, values in sorted(self._arrays().items()):
            digest.update(name.encode() + values.dtype.str.encode() + np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()[:16]

    def save(self, path: str | Path) -> None:
        """Write to one .npz file; no pickle."""
        with new_file(path) as beside, beside.open("wb") as handle:
            np.savez(handle, plain=np.array(json.dumps(self._plain())), **self._arrays())  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: str | Path) -> FeatureSpec:
        """Read what `save` wrote."""
        try:
            with np.load(path, allow_pickle=False) as arrays:
                plain = json.loads(str(arrays["plain"]))
                if plain.pop("format") != FORMAT:
                    raise ArtifactError(f"a feature spec of format {FORMAT}", "another format", where=str(path))
                names = {name: arrays[name] for name in arrays.files if name != "plain"}
        except (OSError, ValueError, KeyError) as cause:
            raise ArtifactError("a feature spec (.npz)", str(cause), where=str(path)) from None
        vocabularies = {key[6:]: values for key, values in names.items() if key.startswith("vocab_")}
        rest = {key: values for key, values in names.items() if not key.startswith("vocab_")}
        for name in ("static_names", "dense_names", "kinds"):
            plain[name] = tuple(plain[name])
        return cls(**plain, vocabularies=vocabularies, **rest)

    def _plain(self) -> dict[str, Any]:
        names = ("static_names", "dense_names", "kinds", "features", "min_count", "utc_offset", "delay")
        plain = {name: getattr(self, name) for name in (*names, "n_price_bins", "n_cross_buckets")}
        return {name: list(v) if isinstance(v, tuple) else v for name, v in plain.items()} | {"format": FORMAT}

    def _arrays(self) -> dict[str, np.ndarray]:
        fitted = {name: getattr(self, name) for name in ("log_price_edges", "clip_low", "clip_high", "mean", "scale")}
        return {f"vocab_{name}": values for name, values in self.vocabularies.items()} | fitted


def vocabulary(values: np.ndarray, min_count: int) -> np.ndarray:
    """Give the sorted values that occur at least `min_count` times.

    >>> vocabulary(np.array([7, 3, 7, 5, 5]), 2).tolist()
    [5, 7]
    """
    found, counts = np.unique(values, return_counts=True)
    return found[counts >= min_count]


def _table(known: np.ndarray) -> np.ndarray:
    """Raw id -> code as one array: a look-up per token must not search."""
    if len(known) and known[0] < 0:
        raise SchemaError("ids >= 0", str(known[0]), where="category or brand")
    table = np.zeros((int(known[-1]) if len(known) else 0) + 2, np.int32)  # the last place is for all larger ids
    table[known] = np.arange(1, len(known) + 1)
    return table


def _looked_up(table: np.ndarray, values: np.ndarray) -> np.ndarray:
    return table[np.minimum(values, len(table) - 1)]
