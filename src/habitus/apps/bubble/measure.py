"""Bubble Escape Potential: how far what is shown follows what agents try, beyond chance and beyond an emptied list.

BEP_gap: entropy of exposure of the positive world minus that of the negative one. BEP_js: how far the two arms'
exposure lies apart, less how far two worlds of one arm lie apart. Both on the common mask: in every round each world is
asked for its best N among items that no copy of the agent has taken, so depth and supply are equal and only the answer
differs.

The idea is that of Feng et al., arXiv 2512.03067, who do not print a formula: these are ours.
Letters: R pairs, Q rounds, U agents, N places, C categories, W = 2 R worlds.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from habitus.apps.bubble.loop import LoopConfig, Played, Stage, offered
from habitus.core.seeds import generator
from habitus.metrics.bootstrap import Resamples, resamples
from habitus.metrics.diversity import (
    coverage,
    divergence,
    entropy,
    exposure,
    gini,
    intra_list,
    jensen_shannon,
    n_categories,
    shares,
    top_share,
)

N_RESAMPLES, N_PERMUTED, N_THINNED = 500, 8, 4


@dataclass(frozen=True)
class Escape:
    """What one recommender scores; `gap_user`, `js_user` float64 [U] are means over pairs."""

    facts: dict[str, Any]
    gap_user: np.ndarray
    js_user: np.ndarray


def measure(stage: Stage, played: Sequence[Played], config: LoopConfig) -> Escape:
    """Give every figure of a recommender from its R pairs of worlds."""
    lists = common_lists(stage, played, config, config.arms[:2])
    counts = _exposures(lists, stage)  # R 2 U C
    drawn = resamples(stage.agents.source, N_RESAMPLES)
    facts, gap_user, js_user = escape(counts, drawn)
    facts |= {"short_share": float((lists < 0).mean()), "n_pairs": len(played)}
    facts |= {name: _over([p for p in played if name in p.facts], name) for name in played[0].facts if "@" in name}
    facts |= {name: float(np.mean([p.facts[name] for p in played])) for name in ("seconds", "cpu_seconds")}
    facts["own_mask"] = _gap_js(_exposures(np.stack([p.lists[:2] for p in played]), stage))
    if played[0].frozen.size:
        facts["depletion"] = _gap_js(_exposures(np.stack([p.frozen for p in played]), stage))
    facts["as_shown"] = as_shown(stage, played, config)
    facts["arms"] = {arm: comparators(stage, [p for p in played if arm in p.arms], arm) for arm in played[0].arms}
    if config.eps:
        plain = common_lists(stage, played, config, config.arms[:2], eps=0.0)
        facts["model_slots"] = _gap_js(_exposures(plain, stage))
    if {"active", "diverse"} <= set(config.arms):
        facts["effort"] = effort(stage, played, config)
    facts["rounds"] = by_round(lists, stage)
    return Escape(facts, gap_user, js_user)


def common_lists(
    stage: Stage, played: Sequence[Played], config: LoopConfig, arms: Sequence[str], *, eps: float | None = None
) -> np.ndarray:
    """Give what each world would show among items that no copy of the agent took, int64 [R, arms, Q, U, N]."""
    agents, catalogue = stage.agents, stage.catalogue
    places = [[each.arms.index(arm) for arm in arms] for each in played]
    blocked = None if catalogue.is_repeated else agents.mask()
    found = np.empty((len(played), len(arms), config.rounds, len(agents), config.n_places), np.int64)
    for number in range(config.rounds):
        for r, each in enumerate(played):
            for a, place in enumerate(places[r]):
                found[r, a, number] = offered(
                    each.ranked[place, number], blocked, catalogue, config, each.facts["seed"], agents.key, number + 1,
                    eps=eps,
                )  # fmt: skip
        if blocked is not None:
            for each, place in ((each, place) for r, each in enumerate(played) for place in places[r]):
                row, at = np.nonzero(each.taken[place, number])
                blocked[row, each.lists[place, number][row, at]] = True
    return found


def _exposures(lists: np.ndarray, stage: Stage) -> np.ndarray:
    """Category mass of rounds 2 .. Q, [R, arms, Q, U, N] -> [R, arms, U, C]; round 1 is the same in all worlds."""
    n_pairs, n_arms, _, n_agents, _ = lists.shape
    late = lists[:, :, 1:].transpose(0, 1, 3, 2, 4).reshape(n_pairs * n_arms * n_agents, -1)
    return exposure(late, stage.catalogue.share).reshape(n_pairs, n_arms, n_agents, -1)


def escape(counts: np.ndarray, drawn: Resamples) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """Give gap and JS with correction, intervals and p, from exposure [R, 2, U, C], arm 0 the positive one.

    The exchangeable units are worlds. Pairs share their draws, so the arm names are swapped inside pairs: all 2^R ways.
    The correction subtracts the mean over them; p is the share at least as extreme, never below 2 / 2^R.
    Intervals: t over pairs (for JS over leave-one-out values), and percentiles of a bootstrap over source users.
    """
    p = shares(counts)
    n_pairs = len(p)
    gap = entropy(p[:, 0]) - entropy(p[:, 1])  # R U
    by_pair = gap.mean(axis=1)
    signs = np.array(list(itertools.product((1, -1), repeat=n_pairs)))
    null = signs @ by_pair / n_pairs
    facts: dict[str, Any] = {"gap": _figure(float(by_pair.mean()), by_pair, drawn, gap.mean(axis=0))}
    facts["gap"] |= {"corrected": float(by_pair.mean() - null.mean()), "by_pair": by_pair.tolist()}
    facts["gap"]["p"] = float((np.abs(null) >= abs(by_pair.mean()) - 1e-12).mean())
    facts["within"] = float("nan")
    if n_pairs < 2:
        js_user = jensen_shannon(p[0, 0], p[0, 1])
        facts["js"] = {"value": float("nan"), "corrected": float("nan"), "p": float("nan")}
        return facts | {"js_raw": float(js_user.mean())}, gap.mean(axis=0), js_user
    worlds = p.transpose(1, 0, 2, 3).reshape(2 * n_pairs, *p.shape[2:])  # positives, then negatives
    apart = _apart(worlds)  # W W U
    mean = apart.mean(axis=2)
    js_user = net_js(apart, np.arange(n_pairs), n_pairs + np.arange(n_pairs))
    null = np.array([_labelled(mean, s) for s in signs < 0])
    value = float(js_user.mean())
    left_out = [_left_out(mean, r) for r in range(n_pairs)] if n_pairs > 2 else []
    pseudo = n_pairs * value - (n_pairs - 1) * np.array(left_out)
    facts["js"] = _figure(value, pseudo, drawn, js_user)
    facts["js"] |= {"corrected": value - float(null.mean()), "p": float((null >= value - 1e-12).mean())}
    facts["js_raw"] = float(np.mean([apart[r, n_pairs + r].mean() for r in range(n_pairs)]))
    facts["within"] = float(np.mean([mean[a, b] for a, b in itertools.combinations(range(n_pairs), 2)]))
    return facts, gap.mean(axis=0), js_user


def net_js(apart: np.ndarray, plus: np.ndarray, minus: np.ndarray) -> np.ndarray:
    """Mean divergence between worlds of different pairs and arms, less that within arms; [W, W, ..] -> [..].

    >>> float(net_js(np.ones((4, 4)), np.array([0, 1]), np.array([2, 3])))
    0.0
    """
    n = len(plus)
    is_other = ~np.eye(n, dtype=bool)
    across = apart[plus[:, None], minus[None]][is_other].mean(axis=0)
    inside = [apart[arm[:, None], arm[None]][is_other].mean(axis=0) for arm in (plus, minus)]
    return across - (inside[0] + inside[1]) / 2


def _labelled(mean: np.ndarray, is_swapped: np.ndarray) -> float:
    n = len(is_swapped)
    one, two = np.arange(n), n + np.arange(n)
    return float(net_js(mean, np.where(is_swapped, two, one), np.where(is_swapped, one, two)))


def _left_out(mean: np.ndarray, r: int) -> float:
    n = len(mean) // 2
    kept = np.delete(np.arange(n), r)
    return float(net_js(mean, kept, n + kept))


def _apart(worlds: np.ndarray) -> np.ndarray:
    n = len(worlds)
    found = np.zeros((n, n, worlds.shape[1]))
    for a, b in itertools.combinations(range(n), 2):
        found[a, b] = found[b, a] = jensen_shannon(worlds[a], worlds[b])
    return found


def _figure(value: float, units: np.ndarray, drawn: Resamples, by_user: np.ndarray) -> dict[str, float]:
    """A value with a t interval over the pairs and a percentile interval over source users."""
    from scipy.stats import t

    found = {"value": value, "sd": float("nan"), "low": float("nan"), "high": float("nan")}
    if len(units) > 1:
        sd = float(np.std(units, ddof=1))
        half = float(t.ppf(0.975, len(units) - 1)) * sd / np.sqrt(len(units))
        found |= {"sd": sd, "low": value - half, "high": value + half}
    size = np.bincount(drawn.row_user).astype(np.float64)
    total = np.bincount(drawn.row_user, weights=by_user)
    means = (drawn.count @ total) / np.maximum(drawn.count @ size, 1)
    low, high = np.quantile(means, [0.025, 0.975])
    return found | {"user_low": float(low), "user_high": float(high)}


def _gap_js(counts: np.ndarray) -> dict[str, float]:
    """Gap and JS of exposure [R, 2, U, C] as plain means; JS net of that within arms where there are two pairs."""
    p = shares(counts)
    gap = float((entropy(p[:, 0]) - entropy(p[:, 1])).mean())
    n = len(p)
    if n < 2:
        return {"gap": gap, "js": float(jensen_shannon(p[0, 0], p[0, 1]).mean())}
    apart = _apart(p.transpose(1, 0, 2, 3).reshape(2 * n, *p.shape[2:])).mean(axis=2)
    return {"gap": gap, "js": float(net_js(apart, np.arange(n), n + np.arange(n)))}


def as_shown(stage: Stage, played: Sequence[Played], config: LoopConfig) -> dict[str, float]:
    """Give gap and JS of the pages really opened: raw, thinned to the smaller arm, and with pages shuffled.

    Raw is what the paper's figure seems to use. Positive agents open more pages, and entropy and JS depend on how much
    is counted: so `thinned` draws, per agent and pair, as many items as the smaller arm saw, and `shuffled` is the JS
    when pages change arms inside an agent.
    """
    found: dict[str, list[float]] = {"gap": [], "js": [], "thinned_gap": [], "shuffled_js": []}
    share = stage.catalogue.share
    for number, each in enumerate(played):
        late = [np.moveaxis(_opened(each, a, config), 0, 1) for a in range(2)]  # U Q-1 N
        flat = [x.reshape(len(x), -1) for x in late]
        p = [shares(exposure(x, share)) for x in flat]
        found["gap"].append(float((entropy(p[0]) - entropy(p[1])).mean()))
        found["js"].append(float(jensen_shannon(*p).mean()))
        draw = generator(config.seed, "as shown", number)
        least = np.minimum(*((x >= 0).sum(axis=1) for x in flat))
        thin = [
            np.mean([entropy(shares(exposure(_thinned(x, least, draw), share))) for _ in range(N_THINNED)], axis=0)
            for x in flat
        ]
        found["thinned_gap"].append(float((thin[0] - thin[1]).mean()))
        found["shuffled_js"].append(_shuffled(late, share, config.per_page, draw))
    return {name: float(np.mean(values)) for name, values in found.items()}


def _opened(each: Played, arm: int, config: LoopConfig) -> np.ndarray:
    """Items of the opened pages of rounds 2 .. Q, -1 elsewhere, [Q - 1, U, N]."""
    lists, pages = each.lists[arm, 1:].astype(np.int64), each.pages[arm, 1:]
    return np.where(np.arange(lists.shape[-1]) // config.per_page < pages[..., None], lists, -1)


def _thinned(items: np.ndarray, n: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Keep n items of each row, drawn without replacement."""
    luck = np.where(items >= 0, draw.random(items.shape), 2.0)
    rank = np.argsort(np.argsort(luck, axis=1), axis=1)
    return np.where(rank < n[:, None], items, -1)


def _shuffled(late: list[np.ndarray], share: np.ndarray, per_page: int, draw: np.random.Generator) -> float:
    """Mean JS when the opened pages of an agent are dealt out anew, each arm as many as it had."""
    pages = [x.reshape(len(x), -1, per_page) for x in late]
    both = np.concatenate(pages, axis=1)
    n_first = (pages[0] >= 0).any(axis=2).sum(axis=1)
    is_there = (both >= 0).any(axis=2)
    found = []
    for _ in range(N_PERMUTED):
        rank = np.argsort(np.argsort(np.where(is_there, draw.random(is_there.shape), 2.0), axis=1), axis=1)
        is_first = rank < n_first[:, None]
        dealt = [np.where(side[..., None], both, -1).reshape(len(both), -1) for side in (is_first, ~is_first)]
        found.append(float(jensen_shannon(*(shares(exposure(x, share)) for x in dealt)).mean()))
    return float(np.mean(found))


def comparators(stage: Stage, played: Sequence[Played], arm: str) -> dict[str, float]:
    """Usual measures of variety on what an arm was offered in rounds 2 .. Q, means over agents and pairs."""
    catalogue, rows = stage.catalogue, []
    mean = catalogue.share.mean(axis=0)
    for each in played:
        at = each.arms.index(arm)
        lists = each.lists[at, 1:].astype(np.int64)
        flat = np.moveaxis(lists, 0, 1).reshape(lists.shape[1], -1)
        p = shares(exposure(flat, catalogue.share))
        single = lists.reshape(-1, lists.shape[-1])
        rows.append({
            "entropy": float(entropy(p).mean()), "kl": float(divergence(p, mean).mean()),
            "coverage": coverage(flat, catalogue.n_items), "gini": gini(flat, catalogue.n_items),
            "ild": float(np.nanmean(intra_list(single, catalogue.share))), "top_share": float(top_share(p).mean()),
            "n_categories": float(n_categories(p).mean()), "pages": float(each.pages[at].mean()),
            "taken": float(each.taken[at].sum(axis=-1).mean()),
        })  # fmt: skip
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def effort(stage: Stage, played: Sequence[Played], config: LoopConfig) -> dict[str, Any]:
    """Split the gap by what is tried: activity alone, diversity alone, both; one common mask for the four arms."""
    arms = ("positive", "negative", "active", "diverse")
    counts = shares(_exposures(common_lists(stage, played, config, arms), stage))
    h = entropy(counts).mean(axis=2)  # R 4
    found = {"both": h[:, 0] - h[:, 1], "activity": h[:, 2] - h[:, 1], "diversity": h[:, 3] - h[:, 1]}
    found["interaction"] = found["both"] - found["activity"] - found["diversity"]
    return {
        name: {"value": float(v.mean()), "sd": float(v.std(ddof=1)) if len(v) > 1 else float("nan")}
        for name, v in found.items()
    }


def by_round(lists: np.ndarray, stage: Stage) -> dict[str, list[float]]:
    """Mean entropy of each arm's common-mask list per round, and the mean category shares over agents."""
    n_pairs, n_arms, n_rounds, n_agents, n = lists.shape
    counts = exposure(lists.reshape(-1, n), stage.catalogue.share).reshape(n_pairs, n_arms, n_rounds, n_agents, -1)
    h = entropy(shares(counts)).mean(axis=(0, 3))
    mean = shares(counts).mean(axis=(0, 3))  # arms Q C
    top = np.argsort(-mean.mean(axis=(0, 1)), kind="stable")[:12]
    return {
        "positive": h[0].tolist(), "negative": h[1].tolist(),
        "categories": [stage.catalogue.categories[c] for c in top.tolist()],  # pyright: ignore
        "positive_shares": mean[0][:, top].tolist(), "negative_shares": mean[1][:, top].tolist(),
    }  # fmt: skip


def _over(played: Sequence[Played], name: str) -> dict[str, float]:
    values = np.array([p.facts[name] for p in played])
    return {"value": float(values.mean()), "sd": float(values.std(ddof=1)) if len(values) > 1 else float("nan")}
