"""Who lives in a world. Each trait is a function of the seed and the user's number, whatever else is drawn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from habitus.core.seeds import uniforms
from habitus.data.sources.simulator.world import World


@dataclass(frozen=True)
class Users:
    """n users in a row of numbers, with their traits; arrays of length n unless said otherwise."""

    number: np.ndarray  # int64; the id in the log
    type: np.ndarray  # int, position in world.user_types
    level: np.ndarray  # own multiplier of all rates, mean 1
    drive: np.ndarray  # the standard normal behind `level`; targeted audiences lean on it
    amount_level: np.ndarray  # own multiplier of amounts, median 1
    affinity: np.ndarray  # n x planted types
    arrived: np.ndarray  # int, first day in the world; 0 for those who were there before
    left: np.ndarray  # int, first day without them (may lie after the world)
    joined: np.ndarray  # int, day of registration, before 0 for those who were there before
    interests: np.ndarray  # int, n x 2
    follows_quiet: np.ndarray  # bool, for `OrderRule`

    def __len__(self) -> int:
        return len(self.number)


def users_of(world: World, first: int = 0, n_users: int | None = None) -> Users:
    """Give users `first` .. `first + n_users - 1` of the world (default: all).

    >>> world = World(n_users=100)
    >>> users_of(world, 40, 5).level.tolist() == users_of(world).level[40:45].tolist()
    True
    """
    number = np.arange(first, world.n_users if n_users is None else first + n_users, dtype=np.int64)
    types = world.user_types

    def draw(stream: str) -> np.ndarray:
        return uniforms(world.seed, number, stream=stream)

    share = np.array([t.share for t in types])
    bounds = np.cumsum(share / share.sum())[:-1]
    type_ = np.searchsorted(bounds, draw("type"), side="right")
    drive = normals(world.seed, number, "level")
    sigma = np.array([t.level_sigma for t in types])[type_]
    amount_sigma = np.array([t.amount_sigma for t in types])[type_]
    is_new = draw("is new") < world.new_share
    arrival = draw("arrived")
    arrived = np.where(is_new, np.floor(arrival * world.n_days), 0).astype(np.int64)
    joined = np.where(is_new, arrived, -1 - np.floor(arrival * 720)).astype(np.int64)
    return Users(
        number=number,
        type=type_,
        level=np.exp(sigma * drive - sigma**2 / 2),
        drive=drive,
        amount_level=np.exp(amount_sigma * normals(world.seed, number, "amount")),
        affinity=_affinity(world, number, type_),
        arrived=arrived,
        left=arrived + _lifetime(draw("life"), np.array([t.churn for t in types])[type_]),
        joined=joined,
        interests=np.stack([_pick(draw("interest"), world), _pick(draw("second interest"), world)], axis=1),
        follows_quiet=draw("follows quiet") < 0.5,
    )


def normals(seed: int, keys: np.ndarray, stream: str) -> np.ndarray:
    """Give one standard normal per key (Box and Muller, 1958).

    >>> bool(abs(normals(0, np.arange(10_000), "doc").std() - 1) < 0.03)
    True
    """
    radius = np.sqrt(-2 * np.log1p(-uniforms(seed, keys, stream=stream + " radius")))
    return radius * np.cos(2 * np.pi * uniforms(seed, keys, stream=stream + " angle"))


def _affinity(world: World, number: np.ndarray, type_: np.ndarray) -> np.ndarray:
    """n x planted types: that of the user type times the user's own."""
    by_type = np.array([[u.affinity.get(p.type, 1.0) for p in world.planted] for u in world.user_types])
    own = [
        np.exp(world.affinity_sigma * normals(world.seed, number, f"affinity {p.type}") - world.affinity_sigma**2 / 2)
        for p in world.planted
    ]
    return by_type[type_] * np.stack(own, axis=1) if own else np.zeros((len(number), 0))


def _lifetime(draws: np.ndarray, churn: np.ndarray) -> np.ndarray:
    """Days of life, geometric: P(life > j) = (1 - churn)^j; without churn, for ever."""
    forever = np.int64(2**40)
    with np.errstate(divide="ignore"):
        days = np.floor(np.log1p(-draws) / np.log1p(-churn)) + 1
    return np.where(churn > 0, np.minimum(days, forever), forever).astype(np.int64)


def _pick(draws: np.ndarray, world: World) -> np.ndarray:
    return np.floor(draws * world.items.n_interests).astype(np.int64)
