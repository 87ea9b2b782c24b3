"""Figures of a ranking: means over targets with paired intervals, the table, the differences, and both as text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from habitus.metrics.bootstrap import Resamples, distribution, of_draws
from habitus.metrics.calibration import ece
from habitus.metrics.classes import Groups, macro_recall, precision
from habitus.metrics.ranking import row_scores
from habitus.tasks.ranked import CELLS, Ranked

AT = (1, 5, 10, 20)
MEASURES = ("hit_rate", "ndcg", "mrr")
COMPARED = ("hit_rate@10", "ndcg@10", "mrr@10", "new_hit_rate@10", "new_ndcg@10", "recall_macro", "cross_entropy")
LOWER_IS_BETTER = {"cross_entropy"}


@dataclass(frozen=True)
class Score:
    value: float
    draws: np.ndarray


def scores_of(found: Ranked, groups: Groups, drawn: Resamples, *, has_new: bool) -> dict[str, Score]:
    """Score every metric once as it is and once per resample."""
    columns = {f"{m}@{k}": row_scores(found.rank, k, m) for m in MEASURES for k in AT}
    if has_new:
        columns |= {f"new_{m}@{k}": row_scores(found.rank_new, k, m) for m in MEASURES for k in AT}
    is_known = found.told > 1
    group: dict[str, np.ndarray] = {
        part: np.r_[False, False, getattr(groups, part)][found.told] for part in ("head", "tail", "bottom")
    }
    ones = np.ones(len(found))
    pairs: dict[str, tuple[np.ndarray, np.ndarray]] = {name: (values, ones) for name, values in columns.items()}
    pairs["cross_entropy"] = (np.where(is_known, -found.log_p, 0.0), is_known)
    pairs |= {f"hit_rate@10 {part}": (columns["hit_rate@10"] * mask, mask) for part, mask in group.items()}
    scores = _mean_scores(pairs, drawn)
    hit = columns["hit_rate@1"]
    scores["recall_weighted"] = scores["hit_rate@1"]
    masks = {"recall_macro": is_known} | {f"recall_macro {part}": mask for part, mask in group.items()}
    for name, mask in masks.items():
        scores[name] = _macro(found.told[mask], hit[mask], mask, drawn)
    return scores


def _mean_scores(pairs: dict[str, tuple[np.ndarray, np.ndarray]], drawn: Resamples) -> dict[str, Score]:
    """Means of many columns at once: summed per user first, then drawn. A pair is values and the rows that count."""
    n_users, values = drawn.count.shape[1], list(pairs.values())
    tops, bottoms = (
        np.stack([np.bincount(drawn.row_user, weights=pair[i], minlength=n_users) for pair in values], 1)
        for i in (0, 1)
    )
    draws = _ratio(_drawn(drawn, tops), _drawn(drawn, bottoms))
    whole = _ratio(tops.sum(axis=0), bottoms.sum(axis=0))
    return {name: Score(float(whole[j]), draws[:, j]) for j, name in enumerate(pairs)}


def _drawn(drawn: Resamples, sums: np.ndarray) -> np.ndarray:
    """Sums [users, M] of every resample -> [R, M], in blocks of resamples."""
    step = max(1, CELLS // max(drawn.count.shape[1], 1))
    return np.concatenate([drawn.count[i : i + step].astype(np.float64) @ sums for i in range(0, len(drawn), step)])


def _ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    return np.divide(top, bottom, out=np.full(top.shape, np.nan), where=bottom > 0)


def _macro(y: np.ndarray, hit: np.ndarray, mask: np.ndarray, drawn: Resamples) -> Score:
    some = Resamples(drawn.count, drawn.row_user[mask])
    return Score(float(macro_recall(y, hit)), distribution(macro_recall, y, hit, some))


def table(
    field: str,
    scores: dict[str, dict[str, Score]],
    found: dict[str, Ranked],
    model: str,
    single: list[Ranked],
) -> list[dict[str, Any]]:
    """One entry per model: figures with intervals, figures without, and the spread of the first model's seeds."""
    rows = []
    for name, own in scores.items():
        r = found[name]
        is_known = r.told > 1
        entry: dict[str, Any] = {
            "target": field,
            "model": name,
            "metrics": {metric: of_draws(score.value, score.draws).to_json() for metric, score in own.items()},
            "precision_weighted": precision(r.told, r.top),
            "precision_macro": precision(r.told, r.top, is_macro=True),
            "ece": float(ece(r.told[is_known] == r.top[is_known], np.clip(r.top_p[is_known], 0, 1))),
        }
        if name == model and single:
            entry["seed_sd"] = _spread(single)
            entry["seeds"] = [_plain(one) for one in single]
        rows.append(entry)
    return rows


def _plain(found: Ranked) -> dict[str, float]:
    known = found.told > 1
    return {
        "hit_rate@10": float(row_scores(found.rank, 10, "hit_rate").mean()),
        "ndcg@10": float(row_scores(found.rank, 10, "ndcg").mean()),
        "new_hit_rate@10": float(row_scores(found.rank_new, 10, "hit_rate").mean()),
        "new_ndcg@10": float(row_scores(found.rank_new, 10, "ndcg").mean()),
        "recall_weighted": float((found.rank == 1).mean()),
        "recall_macro": float(macro_recall(found.told[known], found.rank[known] == 1)),
        "cross_entropy": float(-found.log_p[known].mean()),
    }


def _spread(single: list[Ranked]) -> dict[str, float]:
    """Standard deviation over the members scored one by one."""
    figures = [_plain(one) for one in single]
    return {name: float(np.std([f[name] for f in figures], ddof=1)) for name in figures[0]}


def differences(field: str, scores: dict[str, dict[str, Score]], model: str) -> list[dict[str, Any]]:
    """Set the model against every other row, metric by metric, draw by draw."""
    found = []
    for against in scores:
        for metric in COMPARED if against != model else ():
            if metric not in scores[model]:
                continue
            a, b = scores[model][metric], scores[against][metric]
            gap = of_draws(a.value - b.value, a.draws - b.draws)
            facts = {"target": field, "metric": metric, "model": model, "against": against}
            found.append(facts | gap.to_json() | {"is_better": _is_better(metric, gap.low, gap.high)})
    return found


def _is_better(metric: str, low: float, high: float) -> bool | None:
    if np.isnan(low) or low <= 0 <= high:
        return None
    return bool((low > 0) != (metric in LOWER_IS_BETTER))


def summary(section: dict[str, Any]) -> str:
    """Give the ranking table and its verdicts as plain text."""
    has_new = any("new_hit_rate@10" in row["metrics"] for row in section["table"])
    names = ["hit_rate@10", "ndcg@10", *(["new_hit_rate@10", "new_ndcg@10"] if has_new else []), "recall_macro"]
    names += ["hit_rate@10 tail", "cross_entropy"]
    lines = [
        f"next {section['field']}: {section['n_targets']:,} targets of {section['n_users']:,} users, "
        f"{section['n_values']:,} values ranked, {section['repeat_share']:.1%} repeats, "
        f"{section['n_unknown']:,} never seen in training"
    ]
    lines.append(f"  {'':<34}" + "".join(f"{name:>26}" for name in names))
    for row in section["table"]:
        lines.append(f"  {row['model']:<34}" + "".join(f"{_cell(row['metrics'][n]):>26}" for n in names))
        if "seed_sd" in row:
            lines.append(f"  {'  sd of one seed':<34}" + "".join(f"{_short(row['seed_sd'].get(n)):>26}" for n in names))
    key = "new_ndcg@10" if has_new else "ndcg@10"
    lines += [f"  {_verdict(gap)}" for gap in section["differences"] if gap["metric"] == key]
    return "\n".join(lines)


def _cell(figure: dict[str, Any]) -> str:
    if figure["value"] is None:
        return "n/a"
    return f"{figure['value']:.4f} [{_short(figure['low'])}, {_short(figure['high'])}]"


def _short(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.4f}"


def _verdict(found: dict[str, Any]) -> str:
    word = {True: "better than", False: "WORSE than", None: "level with"}[found["is_better"]]
    span = f"{found['metric']} {found['value']:+.4f} [{found['low']:+.4f}, {found['high']:+.4f}]"
    return f"{found['model']} is {word} {found['against']}: {span}"
