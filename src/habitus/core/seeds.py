"""Randomness as a pure function of named keys: the same keys give the same draws on any machine, in any order."""

from __future__ import annotations

import hashlib

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
