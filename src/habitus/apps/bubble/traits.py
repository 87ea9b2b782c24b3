"""Agents from data: three measured traits, a taste that no recommender knows, and who of the log they are.

The traits and their percentile cuts follow the public simulator Agent4Rec (arXiv 2310.10108): activity, diversity of
categories, conformity with the crowd. Letters: U agents, V items, C categories.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydantic import Field

from habitus.apps.bubble.catalogue import Catalogue, History, Likes
from habitus.apps.bubble.draws import draws
from habitus.core.config import Config
from habitus.core.errors import ConfigError
from habitus.core.seeds import generator
from habitus.metrics.diversity import entropy, shares

CUTS = {"activity": (60, 90), "diversity": (33, 66), "conformity": (25, 80)}  # percentiles
MASS = 0.8  # of a user's likes whose categories are counted
SMOOTH = 0.02
PRIOR = 10.0  # ratings added to an item's mean


class AgentConfig(Config):
    """Who plays.

    `n` agents are drawn from the users with enough likes, without replacement as long as there are enough (0: each of
    them once); `background` of the other users stay in the log for recommenders to learn from (-1: all).

    >>> AgentConfig(n=200).noise
    0.7
    """

    n: int = Field(1000, ge=0)
    background: int = Field(-1, ge=-1)
    noise: float = Field(0.7, ge=0)
    seed: int = 0


@dataclass(frozen=True)
class Agents:
    """U agents, fixed for a whole run.

    Attributes
    ----------
    source
        int64 [U], the user of the history each one copies; clones share one.
    key
        int64 [U], what their draws hang on: user and number of the clone.
    activity, diversity, conformity
        int64 [U], levels 1 to 3; conformity 1 is closest to the crowd.
    taste
        float32 [U, V], standardised parts with the weights of a logistic regression, plus noise.
    old
        float64 [U, C], decayed category mass of their likes so far.
    likes, seen
        Logs of the agents first, then of the background users (`likes` alone has these).
    held
        Later likes of the agents, for accuracy.
    groups
        name -> text [U].
    """

    source: np.ndarray
    key: np.ndarray
    activity: np.ndarray
    diversity: np.ndarray
    conformity: np.ndarray
    taste: np.ndarray
    old: np.ndarray
    likes: Likes
    seen: Likes
    held: Likes
    groups: dict[str, np.ndarray]
    facts: dict[str, float]

    def __len__(self) -> int:
        return len(self.source)

    def mask(self) -> np.ndarray:
        """bool [U, V]: what an agent has seen already."""
        found = np.zeros((len(self), self.likes.n_items), bool)
        found[self.seen.user, self.seen.item] = True
        return found


def make_agents(
    catalogue: Catalogue, history: History, config: AgentConfig, *, min_likes: int = 10, half_life: float = 20.0
) -> Agents:
    """Draw agents, measure their traits and make their tastes.

    Errors: `ConfigError` when no user has enough likes.
    """
    n_likes = np.diff(history.train.offsets) + np.diff(history.held.offsets)
    able = np.flatnonzero(n_likes >= min_likes)
    if not len(able):
        raise ConfigError(f"users with {min_likes} likes", "none", where="log.min_likes", fix="lower it, or mend likes")
    source, copy = _chosen(able, config)
    rest = np.setdiff1d(np.arange(len(history.users)), source)
    if 0 <= config.background < len(rest):
        rest = np.sort(generator(config.seed, "background").choice(rest, config.background, replace=False))
    measured, facts = measure_traits(catalogue, history, able)
    levels = {name: 1 + np.searchsorted(facts[name], values) for name, values in measured.items()}
    key = source * 1024 + copy
    taste, weights = make_taste(catalogue, history, source, key, config)
    likes = history.train.take(source)
    numbers = {f"{name} cut {i + 1}": float(v) for name, cuts in facts.items() for i, v in enumerate(cuts)}
    return Agents(
        source=source, key=key,
        activity=levels["activity"][source], diversity=levels["diversity"][source],
        conformity=levels["conformity"][source],
        taste=taste, old=decayed(likes, catalogue.share, half_life),
        likes=history.train.take(np.r_[source, rest]), seen=history.seen.take(source), held=history.held.take(source),
        groups=_groups(catalogue, history, {name: values[source] for name, values in levels.items()}, source),
        facts=numbers | weights,
    )  # fmt: skip


def _chosen(able: np.ndarray, config: AgentConfig) -> tuple[np.ndarray, np.ndarray]:
    """Users and clone numbers; each able user once before anybody twice."""
    n = config.n or len(able)
    order = generator(config.seed, "agents").permutation(able)
    rounds = -(-n // len(able))
    source, copy = np.tile(order, rounds)[:n], np.repeat(np.arange(rounds), len(able))[:n]
    place = np.lexsort((copy, source))
    return source[place], copy[place]


def measure_traits(
    catalogue: Catalogue, history: History, able: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Give the three traits of every user, and the cuts between levels among those in `able`.

    activity: events. diversity: categories that hold 80 % of the liked mass. conformity: mean squared distance of a
    user's ratings from the items' means; without ratings, how far from the most popular items lie (mean rank share).
    """
    user, item, value = history.rated
    n = len(history.users)
    mass = np.sort(liked_mass(history.train, catalogue.share), axis=1)[:, ::-1]
    reached = np.cumsum(shares(mass), axis=1)
    diversity = np.where(mass[:, 0] > 0, (reached < MASS - 1e-9).sum(axis=1) + 1, 0)
    if np.isnan(value).all():
        popular = np.bincount(item, minlength=catalogue.n_items)
        rank = np.argsort(np.argsort(-popular, kind="stable"), kind="stable") / max(catalogue.n_items - 1, 1)
        apart = rank[item]
    else:
        mean = item_means(history.rated, catalogue.n_items)
        apart = (value - mean[item]) ** 2
    count = np.bincount(user, minlength=n)
    conformity = np.bincount(user, weights=apart, minlength=n) / np.maximum(count, 1)
    found = {"activity": count.astype(float), "diversity": diversity.astype(float), "conformity": conformity}
    cuts = {name: np.percentile(values[able], CUTS[name]) for name, values in found.items()}
    return found, cuts


def liked_mass(likes: Likes, share: np.ndarray) -> np.ndarray:
    """Sum of category shares of the likes of every user, float64 [n_users, C]."""
    return np.asarray(likes.matrix() @ share.astype(np.float64))


def item_means(rated: tuple[np.ndarray, np.ndarray, np.ndarray], n_items: int) -> np.ndarray:
    """Mean rating of every item, drawn towards the mean of all."""
    _, item, value = rated
    count = np.bincount(item, minlength=n_items)
    total = np.bincount(item, weights=value, minlength=n_items)
    return (total + PRIOR * value.mean()) / (count + PRIOR)


def decayed(likes: Likes, share: np.ndarray, half_life: float) -> np.ndarray:
    """Category mass of every user, each like worth half after `half_life` further ones, float64 [n_users, C]."""
    from scipy.sparse import csr_array

    after = likes.offsets[1:][likes.user] - 1 - np.arange(len(likes.item))
    weight = 0.5 ** (after / half_life)
    table = csr_array((weight, likes.item, likes.offsets), shape=(likes.n_users, likes.n_items))
    return np.asarray(table @ share.astype(np.float64))


def make_taste(
    catalogue: Catalogue, history: History, source: np.ndarray, key: np.ndarray, config: AgentConfig
) -> tuple[np.ndarray, dict[str, float]]:
    """Give tastes [U, V] and what they were weighed by.

    w1 z(fit of the item's categories to the user's likes) + w2 z(how well the item is rated) + noise; the weights are
    those of a logistic regression of later likes among later ratings. Without ratings the second part is the logarithm
    of an item's count, and later likes are set against as many items drawn evenly.
    """
    mass = liked_mass(history.train, catalogue.share)
    all_share = shares(mass.sum(axis=0))
    own = np.where(mass.sum(axis=1, keepdims=True) > 0, shares(mass), all_share)
    lift = np.log((own + SMOOTH) / (all_share + SMOOTH)).astype(np.float32)
    quality = _quality(history, catalogue.n_items)
    user, item, is_like = _later(history, catalogue.n_items, config.seed)
    fit = (lift[user] * catalogue.share[item]).sum(axis=1)
    centre, spread = (float(fit.mean()), float(fit.std()) or 1.0) if len(fit) else (0.0, 1.0)
    weights = {"w1": 1.0, "w2": 1.0, "auc of taste": float("nan")}
    if len(np.unique(is_like)) == 2:
        from sklearn.linear_model import LogisticRegression
        from sklearn.metrics import roc_auc_score

        x = np.stack([(fit - centre) / spread, quality[item]], axis=1)
        model = LogisticRegression().fit(x, is_like)
        weights = {"w1": float(model.coef_[0, 0]), "w2": float(model.coef_[0, 1])}
        weights["auc of taste"] = float(roc_auc_score(is_like, model.decision_function(x)))
    taste = weights["w1"] * (lift[source] @ catalogue.share.T - centre) / spread + weights["w2"] * quality
    return (taste + config.noise * _normal(config.seed, key, catalogue.n_items)).astype(np.float32), weights


def _quality(history: History, n_items: int) -> np.ndarray:
    """How good an item is said to be, standardised over items."""
    if np.isnan(history.rated[2]).all():
        raw = np.log1p(np.bincount(history.rated[1], minlength=n_items))
    else:
        raw = item_means(history.rated, n_items)
    return (raw - raw.mean()) / (raw.std() or 1.0)


def _later(history: History, n_items: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Later rows and whether they are likes; where all are, as many items drawn evenly beside them."""
    user, item, value = history.rated_later
    liked = history.held.user.astype(np.int64) * n_items + history.held.item
    is_like = np.isin(user * n_items + item, liked)
    if not np.isnan(value).all():
        return user, item, is_like
    user, item = user[is_like], item[is_like]
    other = generator(seed, "unliked").integers(0, n_items, len(item))
    return np.r_[user, user], np.r_[item, other], np.repeat([True, False], len(user))


def _normal(seed: int, key: np.ndarray, n_items: int) -> np.ndarray:
    from scipy.special import ndtri

    u = draws(seed, key[:, None], np.arange(n_items)[None], 0, "taste")
    return ndtri(np.clip(u, 1e-9, 1 - 1e-9)).astype(np.float32)


def _groups(
    catalogue: Catalogue, history: History, levels: dict[str, np.ndarray], source: np.ndarray
) -> dict[str, np.ndarray]:
    """Text per agent: levels of traits, thirds of history and mainstream, what the profile says."""
    words = np.array(["", "low", "middle", "high"])
    near = np.array(["", "close", "middle", "apart"])
    found = {name: (near if name == "conformity" else words)[level] for name, level in levels.items()}
    size = np.diff(history.train.offsets).astype(float)
    popular = np.bincount(history.train.item, minlength=catalogue.n_items)
    head = popular >= np.sort(popular)[::-1][: max(1, catalogue.n_items // 10)][-1]
    mainstream = np.bincount(history.train.user, weights=head[history.train.item], minlength=len(size))
    variety = entropy(shares(liked_mass(history.train, catalogue.share)))
    for name, values in {"history": size, "mainstream": mainstream / np.maximum(size, 1), "variety": variety}.items():
        edges = np.quantile(values[source], [1 / 3, 2 / 3])
        found[name] = words[1 + np.searchsorted(edges, values[source], side="left")]
    return found | {name: values[source] for name, values in history.profile.items()}
