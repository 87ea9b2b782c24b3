"""Training the item tower: pairs of items that one user met close together, and a softmax over the batch.

Loss = -log softmax over the batch of (cosine / tau - log frequency), both directions; the frequency takes back that
popular items are met as negatives more often (Bengio and Senecal 2008; Yi et al. 2019). Very popular items are thinned
as in word2vec (Mikolov et al. 2013).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch.nn import functional

from habitus.core.errors import TrainingError
from habitus.core.progress import track
from habitus.core.seeds import derive, generator
from habitus.models.item_tower import ItemTower
from habitus.tokens.item_content import Content, ContentSpec

if TYPE_CHECKING:
    from habitus.data.store import Store

MINUTE = 60_000_000  # in microseconds
FAR = 32  # events within which a near instant is looked for
TRIES = 50


class PairConfig(Protocol):
    """What of `tokens.interests.TowerConfig` is read here."""

    d: int
    id_dropout: float
    min_events: int
    near_events: int
    near_minutes: float
    thin: float
    tau: float
    batch: int
    steps: int
    lr: float


@dataclass(frozen=True, eq=False)
class PairSource:
    """Train events with an item, in order of user and time; `stays` is the chance of an item to be drawn."""

    user: np.ndarray
    item: np.ndarray
    time: np.ndarray
    stays: np.ndarray
    log_q: np.ndarray

    def draw(self, n: int, config: PairConfig, draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draw up to n pairs of different items of one user, within some events or some minutes of each other."""
        lefts, rights, found = [], [], 0
        for _ in range(TRIES):
            first = draw.integers(0, len(self.item), 2 * n)
            is_by_time = draw.random(len(first)) < 0.5
            step = np.where(is_by_time, draw.integers(1, FAR + 1, len(first)),
                            draw.integers(1, config.near_events + 1, len(first)))  # fmt: skip
            second = np.minimum(first + step, len(self.item) - 1)
            a, b = self.item[first], self.item[second]
            is_near = (step <= config.near_events) | (
                self.time[second] - self.time[first] <= config.near_minutes * MINUTE
            )
            fits = (self.user[first] == self.user[second]) & (a != b) & is_near
            fits &= draw.random(len(first)) < self.stays[a] * self.stays[b]
            lefts.append(a[fits])
            rights.append(b[fits])
            found += int(fits.sum())
            if found >= n:
                break
        return np.concatenate(lefts)[:n], np.concatenate(rights)[:n]


def pair_source(store: Store, until: int, thin: float, hidden: np.ndarray | None = None) -> PairSource:
    """Read the events with an item up to a day, but for `hidden` items; the `thin` most frequent items are thinned."""
    is_shown = np.ones(len(store.items or []), bool)
    is_shown[hidden if hidden is not None else []] = False
    users, items, times = [], [], []
    for i in range(store.n_shards):
        shard = store.shard(i)
        assert shard.item is not None
        rows = np.flatnonzero((shard.day <= until) & (shard.item >= 0) & is_shown[shard.item])
        users.append((np.repeat(np.arange(shard.n_users), np.diff(shard.offsets)) + shard.first_user)[rows])
        items.append(shard.item[rows].astype(np.int64))
        times.append(shard.time[rows])
    item = np.concatenate(items)
    n = np.bincount(item, minlength=len(store.items or [])).astype(np.float64)
    seen = np.sort(n[n > 0])[::-1]
    if len(seen) < 2:
        raise TrainingError("two items or more in train", str(len(seen)), where="item tower")
    bound = seen[min(int(len(seen) * thin), len(seen) - 1)]
    stays = np.minimum(np.sqrt(bound / np.maximum(n, 1)), 1.0)
    q = n * stays
    return PairSource(np.concatenate(users), item, np.concatenate(times), stays, np.log(np.maximum(q / q.sum(), 1e-12)))


def fit_tower(
    source: PairSource, spec: ContentSpec, content: Content, place: np.ndarray, config: PairConfig, seed: int
) -> tuple[ItemTower, list[float]]:
    """Train a tower; give it with the loss of every step. The random state of the process is left as it was.

    `place` (int64 [n_items]) numbers the items with enough history from 1; the others have no id part.
    """
    may_show = torch.from_numpy(place > 0)
    log_q = torch.from_numpy(source.log_q).float()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "item tower"))
        tower = ItemTower(spec, content, place, config.d)
        steps, losses = config.steps, []
        optimiser = torch.optim.AdamW(tower.parameters(), lr=config.lr, weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, config.lr, total_steps=steps + 1, pct_start=0.1)
        for step in track(range(steps), "item tower"):
            draw = generator(seed, "pairs", step)
            pair = source.draw(config.batch, config, draw)
            if not len(pair[0]):
                raise TrainingError("pairs of items close in time", "none", where="item tower", fix="use way = 'field'")
            left, right = (torch.from_numpy(side) for side in pair)
            shows = [
                torch.from_numpy(draw.random(len(side)) >= config.id_dropout) & may_show[side] for side in (left, right)
            ]
            a, b = tower(left, shows[0]), tower(right, shows[1])
            loss = pair_loss(a, b, left, right, log_q, config.tau)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            losses.append(float(loss.detach()))
    return tower.eval(), losses


def pair_loss(
    a: torch.Tensor, b: torch.Tensor, left: torch.Tensor, right: torch.Tensor, log_q: torch.Tensor, tau: float
) -> torch.Tensor:
    """The softmax over the batch, both directions; a negative that is one of the pair's own items does not count."""
    cosine = a @ b.T / tau
    own = torch.eye(len(left), dtype=torch.bool)
    same = (left[:, None] == left[None]) | (right[:, None] == right[None])
    crossed = left[:, None] == right[None]
    blocked = (same | crossed | crossed.T) & ~own
    there = (cosine - log_q[right][None]).masked_fill(blocked, -torch.inf)
    back = (cosine - log_q[left][:, None]).masked_fill(blocked, -torch.inf).T
    goal = torch.arange(len(left))
    return 0.5 * (functional.cross_entropy(there, goal) + functional.cross_entropy(back, goal))


def item_vectors(tower: ItemTower, content: Content, place: np.ndarray) -> np.ndarray:
    """Give the vector of each item (float32 [n, d]): with its id where it has history, by content else, else zeros."""
    shows = place > 0
    found = np.zeros((len(shows), tower.out.out_features), np.float32)
    rows = np.flatnonzero(shows | content.is_there)
    with torch.no_grad():
        for at in range(0, len(rows), 65_536):
            piece = rows[at : at + 65_536]
            found[piece] = tower(torch.from_numpy(piece), torch.from_numpy(shows[piece])).numpy()
    return found
