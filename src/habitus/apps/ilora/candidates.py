"""Fixed lists of 20 items to choose from, drawn once, hashed, and read by everything that is compared.

KIND-PART.npz   at [n] place of each answer in the sequences, items [n, 20] in fixed order, slot [n] of the answer
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from habitus.apps.ilora.rows import Part, Rows, Sequences
from habitus.core.atomic import new_file
from habitus.core.errors import ArtifactError, ConfigError, FingerprintError
from habitus.core.seeds import derive, mix, uniforms

Kind = Literal["uniform", "popular"]
N_CANDIDATES = 20
FORMAT = 1
_BLOCK = 1024


@dataclass(frozen=True)
class Candidates:
    """n lists of C distinct items: `items[i, slot[i]]` answers row i, the others are outside the user's record."""

    at: np.ndarray
    items: np.ndarray
    slot: np.ndarray
    part: Part
    kind: Kind
    seed: int
    of: str  # fingerprint of the sequences

    def __len__(self) -> int:
        return len(self.at)

    @cached_property
    def hash(self) -> str:
        """SHA-256 over every value and what it was drawn for."""
        digest = hashlib.sha256(json.dumps(self._plain(), sort_keys=True).encode())
        for values in (self.at, self.items, self.slot):
            digest.update(np.ascontiguousarray(values.astype(np.int64)).tobytes())
        return digest.hexdigest()

    def rows(self, sequences: Sequences) -> Rows:
        """Give the rows these lists are for. Errors: `FingerprintError` for other sequences."""
        if sequences.fingerprint != self.of:
            fix = "prepare again, or use the candidates that lie beside these sequences"
            raise FingerprintError(f"sequences {self.of[:12]}", sequences.fingerprint[:12], where="candidates", fix=fix)
        return Rows(sequences, self.part, self.at)

    def take(self, some: np.ndarray) -> Candidates:
        """Give the lists at these numbers, or under this mask."""
        return Candidates(self.at[some], self.items[some], self.slot[some], self.part, self.kind, self.seed, self.of)

    def check(self, expected: str, *, where: str = "") -> None:
        """Refuse lists of another hash. Errors: `FingerprintError`."""
        if self.hash != expected:
            fix = "use the file of that run: figures on other candidates do not compare"
            raise FingerprintError(f"candidates {expected[:12]}", self.hash[:12], where=where, fix=fix)

    def save(self, path: str | Path) -> None:
        """Write one .npz file, its own hash in it; no pickle."""
        plain = np.array(json.dumps(self._plain() | {"hash": self.hash}))
        with new_file(path) as beside, beside.open("wb") as handle:
            np.savez_compressed(handle, plain=plain, at=self.at, items=self.items, slot=self.slot)

    @classmethod
    def load(cls, path: str | Path) -> Candidates:
        """Read what `save` wrote, and check it whole.

        Errors: `ArtifactError` when it is no such file; `FingerprintError` when its content is not what its hash says.
        """
        try:
            with np.load(path, allow_pickle=False) as found:
                plain: dict[str, Any] = json.loads(str(found["plain"]))
                values = {name: found[name] for name in ("at", "items", "slot")}
            if plain.pop("format") != FORMAT:
                raise ArtifactError(f"candidates of format {FORMAT}", "another format", where=str(path))
            expected = plain.pop("hash")
        except (OSError, ValueError, KeyError) as cause:
            fix = "make it with `habitus ilora prepare`"
            raise ArtifactError("a file of candidates (.npz)", str(cause), where=str(path), fix=fix) from None
        made = cls(**values, **plain)
        made.check(expected, where=str(path))
        return made

    def _plain(self) -> dict[str, Any]:
        return {"part": self.part, "kind": self.kind, "seed": self.seed, "of": self.of, "format": FORMAT}


def draw_candidates(rows: Rows, *, kind: Kind = "uniform", seed: int = 0, n: int = N_CANDIDATES) -> Candidates:
    """Draw `n` - 1 distinct items outside the user's whole record per row, and a place for the answer.

    A pure function of the seed, user and row: the order of rows changes nothing. `popular` draws by training counts.
    Errors: `ConfigError` when some user's record leaves too few items.

    >>> two = Sequences(tuple("abcdef"), tuple("abcdef"), ("u", "v"), np.array([0, 3, 6]),
    ...                 np.array([0, 1, 2, 3, 4, 5], np.int32), np.ones(2, bool))
    >>> drawn = draw_candidates(two.rows("test"), n=4)
    >>> sorted(drawn.items[0].tolist()), int(drawn.items[0, drawn.slot[0]])
    ([2, 3, 4, 5], 2)
    """
    sequences = rows.sequences
    key = mix(rows.keys ^ mix(rows.at - sequences.offsets[rows.user]))
    slot = np.minimum((uniforms(seed, key, stream="slot") * n).astype(np.int64), n - 1)
    items = np.empty((len(rows), n), np.int32)
    for low in range(0, len(rows), _BLOCK):
        some = slice(low, low + _BLOCK)
        items[some] = _others(rows.take(np.arange(len(rows))[some]), key[some], kind, seed, n)
    row = np.arange(len(rows))
    items[row, -1], items[row, slot] = (
        items[row, slot],
        rows.target,
    )  # the answer takes its place, what stood there goes last
    return Candidates(rows.at, items, slot, rows.part, kind, seed, sequences.fingerprint)


def epoch_candidates(rows: Rows, *, seed: int, epoch: int) -> Candidates:
    """Draw the lists of one pass over train rows: a function of seed, epoch and row, the same for every arm."""
    return draw_candidates(rows, seed=derive(seed, "train candidates", epoch))


def _others(rows: Rows, key: np.ndarray, kind: Kind, seed: int, n: int) -> np.ndarray:
    """Items [n rows, n], the last column free: the first n - 1 by a race of weights among those not in the record."""
    sequences = rows.sequences
    users, place = np.unique(rows.user, return_inverse=True)
    is_out = np.zeros((len(users), sequences.n_items), bool)
    mask = np.isin(sequences.owner, users)
    is_out[np.searchsorted(users, sequences.owner[mask]), sequences.item[mask]] = True
    left = sequences.n_items - is_out.sum(axis=1)
    if left.min(initial=n) < n - 1:
        raise ConfigError(f"{n - 1} items outside every record", f"a user with {left.min()} left", where="candidates")
    pair = mix(key.astype(np.uint64)[:, None] ^ mix(np.arange(sequences.n_items))[None])
    race = uniforms(seed, pair, stream=kind)
    race = -np.log(np.maximum(race, 1e-30))  # exponential: the smallest of rate w comes first with chance w
    if kind == "popular":
        race /= np.maximum(sequences.popularity, 0.01)[None]
    race[is_out[place]] = np.inf
    first = np.argpartition(race, n - 2, axis=1)[:, : n - 1]
    order = np.argsort(np.take_along_axis(race, first, axis=1), axis=1)
    return np.c_[np.take_along_axis(first, order, axis=1), np.full(len(rows), -1)].astype(np.int32)
