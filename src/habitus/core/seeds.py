"""Randomness as a pure function of named keys: the same keys give the same draws on any machine, in any order."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def derive(seed: int, *keys: int | str) -> int:
    """Give a 63-bit seed that depends on `seed` and on every key.

    >>> derive(0, "epoch", 3) == derive(0, "epoch", 3), derive(0, "epoch", 3) == derive(0, "epoch", 4)
    (True, False)
    """
    text = "\x1f".join(str(part) for part in (seed, *keys))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(seed: int, *keys: int | str) -> np.random.Generator:
    """Give a NumPy generator for these keys."""
    return np.random.Generator(np.random.Philox(derive(seed, *keys)))


def mix(values: np.ndarray) -> np.ndarray:
    """Scramble 64-bit integers (splitmix64 finaliser, Steele et al. 2014); a bijection, vectorised."""
    with np.errstate(over="ignore"):
        z = np.asarray(values).astype(np.uint64) + _GOLDEN
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def uniforms(seed: int, keys: np.ndarray, *, stream: int | str = 0) -> np.ndarray:
    """Give one draw in [0, 1) per 64-bit key: user order and batch size cannot change it.

    >>> float(uniforms(7, np.array([5, 6]))[1]) == float(uniforms(7, np.array([6]))[0])
    True
    """
    salt = np.uint64(derive(seed, stream))
    return (mix(mix(keys) ^ salt) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def text_keys(texts: Sequence[str]) -> np.ndarray:
    """Give a 64-bit key per text, for `uniforms`; the same text has the same key in any company. Vectorised.

    >>> bool(text_keys(["a", "a longer name"])[0] == text_keys(["a"])[0])
    True
    """
    raw = np.char.encode(np.asarray(texts, dtype=np.str_), "utf-8")
    if not raw.size:
        return np.zeros(0, np.uint64)
    size = np.char.str_len(raw).astype(np.uint64)
    n_words = -(-max(raw.dtype.itemsize, 1) // 8)
    words = np.ascontiguousarray(raw.astype(f"S{8 * n_words}")).view(np.uint64).reshape(len(raw), n_words)
    found = mix(size)
    for place in range(n_words):
        found = np.where(np.uint64(8 * place) < size, mix(found ^ words[:, place]), found)
    return found
