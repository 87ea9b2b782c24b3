"""Counts in layers: a large sum and a few small ones that came later, so that a day costs what the day holds.

The later layers are summed into the first only when they have grown to a part of it, so that each row is moved a
bounded number of times. Sums are of integers: however the layers lie, they add up to the same counts.
"""

from __future__ import annotations

from dataclasses import dataclass

from habitus.core.errors import FingerprintError
from habitus.tokens.counts import Counts, merge_counts

MOST = 8  # layers beside the first; a reader looks into each
SHARE = 8  # the later layers are summed into the first above this part of its rows


@dataclass(frozen=True, eq=False)
class Layers:
    """Counts of the same users in layers, `parts[0]` the largest. `tokens.bags` reads them as they are.

    >>> import numpy as np
    >>> from habitus.tokens.counts import summed
    >>> def day(block): return summed("v", 1, *(np.array([x]) for x in (0, block, 0, 5, 1, 0)))
    >>> layers = Layers((day(3),)).append(day(4))
    >>> len(layers.whole()), int(layers.whole().life.n[0])
    (2, 2)
    """

    parts: tuple[Counts, ...]

    @property
    def version(self) -> str:
        return self.parts[0].version

    @property
    def n_users(self) -> int:
        return self.parts[0].n_users

    def append(self, new: Counts) -> Layers:
        """Give the layers with later counts of the same users. Errors: `FingerprintError` for other ones."""
        if (new.version, new.n_users) != (self.version, self.n_users):
            raise FingerprintError(
                f"counts of {self.n_users} users, version {self.version}",
                f"{new.n_users} users, version {new.version}", where="Layers.append",
                fix="count with the same interests; see `place_users`",
            )  # fmt: skip
        return Layers(tuple(settled(list(self.parts), new)))

    def whole(self) -> Counts:
        """Give the sum of all layers."""
        return merged(self.parts)


def settled(parts: list[Counts], new: Counts) -> list[Counts]:
    """Add a layer, and sum layers where they became too many or too large beside the first."""
    if is_large(parts, new):
        return [merged([*parts, new])]
    first, later = parts[0], [*parts[1:], new]
    return [first, merged(later)] if len(later) > MOST else [first, *later]


def is_large(parts: list[Counts], new: Counts) -> bool:
    """Say whether the later layers, with a new one, are large beside the first."""
    return SHARE * (sum(len(part) for part in parts[1:]) + len(new)) > len(parts[0])


def merged(parts: list[Counts] | tuple[Counts, ...]) -> Counts:
    """Sum layers, the smallest first."""
    found = parts[-1]
    for part in reversed(parts[:-1]):
        found = merge_counts(part, found)
    return found
