"""A quick look at a trained recommender: k novel likes against k familiar ones, and how the lists then differ.

No simulation and no taste: seconds instead of minutes, fit for monitoring. What it says is compared with the closed
loop by rank.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from habitus.apps.bubble.kinds import make_recommender
from habitus.apps.bubble.lists import first_free, ranking
from habitus.apps.bubble.loop import Stage, single_thread
from habitus.apps.bubble.recommenders import How, Recommender
from habitus.apps.bubble.run import open_bubble, read_run
from habitus.core.atomic import plain, write_json
from habitus.metrics.bootstrap import resamples
from habitus.metrics.diversity import entropy, exposure, jensen_shannon, shares

HEAD = 300  # the most liked unseen items that are appended: both kinds come from the same shelf


def probe_run(run: str | Path, *, n_users: int = 1000, k: int = 10, store: str | Path | None = None) -> dict[str, Any]:
    """Probe every recommender of a run and write RUN/probe.json.

    Errors: `ArtifactError` for a folder that is no run.
    """
    path = Path(run)
    recipe, stage = open_bubble(path, store)
    rows = []
    for name, values in recipe.recommenders.items():
        recommender = make_recommender(values, stage.catalogue, where=name)
        found = probe(stage, recommender, n_users=n_users, k=k, how=recipe.loop.how, n_places=recipe.loop.n_places)
        rows.append({"name": name} | found)
    result: dict[str, Any] = {"k": k, "rows": rows, "spearman": None}
    if (path / "metrics.json").is_file():
        loop = {row["name"]: row["gap"]["value"] for row in read_run(path)["rows"] if row["role"] == "main"}
        both = [(row["gap"], loop[row["name"]]) for row in rows if row["name"] in loop]
        if len(both) > 3:
            from scipy.stats import spearmanr

            result["spearman"] = float(spearmanr(*zip(*both)).statistic)  # pyright: ignore
    write_json(path / "probe.json", plain(result))
    return result


def probe(
    stage: Stage, recommender: Recommender, *, n_users: int, k: int, how: How = "retrain", n_places: int = 20,
    seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Fit once, append, compare: mean entropy after novel less after familiar likes, and how far the lists lie apart.

    Both lists are drawn from what is in neither appended set nor seen before. Intervals are those of users.
    """
    import copy

    began = time.perf_counter()
    agents, catalogue = stage.agents, stage.catalogue
    n = min(n_users, len(agents))
    novel, familiar = appended(stage, k)
    seen = agents.mask()
    for items in (novel, familiar):
        row, place = np.nonzero(items >= 0)
        seen[row, items[row, place]] = True
    lists = []
    with single_thread():
        recommender.fit(agents.likes, seed)
        for items in (novel, familiar):
            one = copy.deepcopy(recommender)
            row, place = np.nonzero((items >= 0) & (np.arange(len(items)) < n)[:, None])
            one.update(agents.likes.plus(row, items[row, place]), how, seed + 1)
            ranked = ranking(one.scores(n), seen[:n], min(n_places, catalogue.n_items))
            lists.append(first_free(ranked, None, n_places))
    p = [shares(exposure(x, catalogue.share)) for x in lists]
    gap, apart = entropy(p[0]) - entropy(p[1]), jensen_shannon(p[0], p[1])
    drawn = resamples(agents.source[:n])
    size = np.bincount(drawn.row_user).astype(float)
    means = (drawn.count @ np.bincount(drawn.row_user, weights=gap)) / np.maximum(drawn.count @ size, 1)
    low, high = np.quantile(means, [0.025, 0.975])
    return {"gap": float(gap.mean()), "low": float(low), "high": float(high), "js": float(apart.mean()),
            "seconds": time.perf_counter() - began}  # fmt: skip


def appended(stage: Stage, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Give the k unseen popular items whose categories an agent knows least, and those it knows best, int64 [U, k]."""
    agents, share = stage.agents, stage.catalogue.share
    popular = np.bincount(agents.likes.item, minlength=len(share)).astype(np.float32)
    shelf = ranking(np.broadcast_to(popular, (len(agents), len(share))), agents.mask(), min(HEAD, len(share)))
    own = shares(agents.old)
    known = np.einsum("ukc,uc->uk", (share > 0)[np.maximum(shelf, 0)].astype(float), own)
    found = []
    for sign in (1.0, -1.0):
        order = np.argsort(np.where(shelf >= 0, sign * known, np.inf), axis=1, kind="stable")[:, :k]
        found.append(np.take_along_axis(shelf, order, axis=1))
    return found[0], found[1]


def probe_lines(found: dict[str, Any]) -> str:
    """Give the table as text."""
    rows = [f"{'recommender':<22}{'gap':>9}{'95 % over users':>20}{'JS':>9}{'seconds':>9}"]
    for row in found["rows"]:
        rows.append(
            f"{row['name']:<22}{row['gap']:>+9.4f}{row['low']:>+11.4f}{row['high']:>+9.4f}{row['js']:>9.4f}"
            f"{row['seconds']:>9.1f}"
        )
    if found["spearman"] is not None:
        rows.append(
            f"rank correlation with the closed loop: {found['spearman']:+.2f} over {len(found['rows'])} recommenders"
        )
    return "\n".join(rows)
