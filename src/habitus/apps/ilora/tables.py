"""Tables of a study: both protocols, lines without a language model on the same candidates, paired intervals.

"Instance-wise mixing helps" is said only where an iLoRA arm beats plain LoRA and the random gate beyond the intervals,
on written answers and on mean reciprocal rank alike.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from habitus.apps.ilora.answer import Answers, read_written
from habitus.apps.ilora.candidates import Candidates, Kind
from habitus.apps.ilora.gate import gate_use
from habitus.apps.ilora.prepare import Prepared
from habitus.apps.ilora.rows import Part
from habitus.apps.ilora.states import ItemStates
from habitus.apps.ilora.study import ZERO_SHOT, IloraRecipe, load_answers
from habitus.core.atomic import write_json
from habitus.metrics.bootstrap import of_draws, resamples
from habitus.metrics.calibration import ece
from habitus.metrics.ranking import ranks, row_scores

N_DRAWS = 10_000
_PER_SEED = ("likelihood HR@1", "HR@5", "NDCG@5", "MRR", "written correct/total", "valid ratio")


def tables(
    recipe: IloraRecipe,
    run: str | Path,
    data: str | Path,
    models: Mapping[str, str | Path],
    *,
    part: Part = "test",
    kind: Kind = "uniform",
) -> dict[str, Any]:
    """Judge every arm and line on the same candidates and write RUN/metrics.json.

    `models` names runs of models of items (SASRec, GRU4Rec), each of their members a seed.
    """
    run, prepared = Path(run), Prepared.open(data)
    candidates = prepared.candidates(part, kind)
    rows = candidates.rows(prepared.sequences)
    drawn = resamples(rows.user, N_DRAWS)
    columns: dict[str, dict[str, np.ndarray]] = {}
    cards: dict[str, dict[str, Any]] = {}
    popular = np.log(prepared.sequences.popularity[candidates.items] + 0.5)
    columns["popularity"] = _mean([ranked(popular, candidates)])
    for name, path in models.items():
        sources = _members(path, prepared)
        columns[name] = _mean([ranked(source.scores(rows, candidates.items), candidates) for source in sources])
        cards[name] = {"n_seeds": len(sources)}
    for arm in (ZERO_SHOT, *recipe.arms):
        found = _of_arm(recipe, run, arm, candidates, kind)
        if not found:
            continue
        made = [judged(answers, candidates, prepared.sequences.titles) for answers, _ in found]
        columns[arm] = _mean(made)
        spread = (
            {key: float(np.std([m[key].mean() for m in made], ddof=1)) for key in _PER_SEED} if len(made) > 1 else {}
        )
        each = {key: [float(m[key].mean()) for m in made] for key in _PER_SEED}
        cards[arm] = {"n_seeds": len(made), "seed_sd": spread, "seeds": each} | _card(found, candidates)
        cards[arm]["n_trained"] = _trained(run, arm, recipe.seeds[0])
    groups = {"all": np.ones(len(rows), bool)} | _groups(prepared, rows.user, rows.target)
    whole = {
        "name": recipe.name, "part": part, "kind": kind, "n": len(rows), "candidates": candidates.hash,
        "figures": {name: _figures(own, drawn) for name, own in columns.items()},
        "cards": cards,
        "differences": {name: _figures(_less(own, columns[recipe.against]), drawn)
                        for name, own in columns.items() if name != recipe.against and recipe.against in columns},
        "groups": {group: {name: {"n": int(mask.sum()), "likelihood HR@1": float(own["likelihood HR@1"][mask].mean())}
                           for name, own in columns.items()} for group, mask in groups.items() if mask.any()},
    }  # fmt: skip
    whole["reading"] = reading(whole, recipe)
    write_json(run / f"metrics-{part}-{kind}.json", whole)
    return whole


def ranked(score: np.ndarray, candidates: Candidates) -> dict[str, np.ndarray]:
    """Give the per-row figures of scores [n, C]."""
    rank = ranks(score, candidates.slot)
    return {
        "likelihood HR@1": row_scores(rank, 1, "hit_rate"),
        "HR@5": row_scores(rank, 5, "hit_rate"),
        "NDCG@5": row_scores(rank, 5, "ndcg"),
        "MRR": row_scores(rank, candidates.items.shape[1], "mrr"),
    }


def judged(answers: Answers, candidates: Candidates, titles: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Give the per-row figures of both protocols; `released` marks the looser rule of the published code."""
    found = ranked(answers.log_p, candidates)
    found["HR@1 per token"] = row_scores(ranks(answers.per_token, candidates.slot), 1, "hit_rate")
    for rule, mark in (("strict", ""), ("released", " (released rule)")):
        said = read_written(answers.text, candidates.items, titles, rule)
        found[f"valid ratio{mark}"] = (said >= 0).astype(float)
        found[f"written correct/total{mark}"] = (said == candidates.slot).astype(float)
    return found


def reading(whole: Mapping[str, Any], recipe: IloraRecipe) -> str:
    """Say in one sentence what the differences to plain LoRA allow to say."""
    gated = [name for name, arm in recipe.arms.items() if arm.gate.name in ("linear", "mlp", "resnet")]
    random = [name for name, arm in recipe.arms.items() if arm.gate.name in ("random", "random_input")]
    won = [name for name in gated if _beats(whole, name, random)]
    if won:
        return f"Instance-wise mixing helps here: {', '.join(won)} beat(s) plain LoRA and every random gate."
    lost = "; ".join(
        f"{name} {d['value']:+.3f} [{d['low']:+.3f}, {d['high']:+.3f}]"
        for name in gated
        if name in whole["differences"]
        for d in [whole["differences"][name]["likelihood HR@1"]]
    )
    none = "no gate fed by the sequence beats plain LoRA and every random gate beyond the intervals"
    return f"Not shown: {none} (HR@1 by likelihood, minus plain LoRA: {lost})."


def _beats(whole: Mapping[str, Any], name: str, random: list[str]) -> bool:
    own = whole["differences"].get(name)
    if own is None or own["written correct/total"]["low"] <= 0 or own["MRR"]["low"] <= 0:
        return False
    others = [whole["figures"][other] for other in random if other in whole["figures"]]
    figures = whole["figures"][name]
    return all(figures["MRR"]["low"] > other["MRR"]["high"] for other in others)


def _figures(columns: Mapping[str, np.ndarray], drawn: Any) -> dict[str, Any]:
    """Means over rows with percentile intervals over users; correct/valid as a ratio of sums."""
    count = drawn.count.astype(np.float32)
    found = {}
    for key, values in columns.items():
        sums = np.bincount(drawn.row_user, weights=values, minlength=count.shape[1])
        size = np.bincount(drawn.row_user, minlength=count.shape[1])
        found[key] = of_draws(float(values.mean()), (count @ sums) / (count @ size)).to_json()
    valid = columns.get("valid ratio")
    if valid is not None and valid.sum() > 0:
        found["written correct/valid"] = {"value": float(columns["written correct/total"].sum() / valid.sum())}
    return found


def _mean(made: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {key: np.mean([one[key] for one in made], axis=0) for key in made[0]}


def _less(own: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {key: own[key] - other[key] for key in own if key in other and not key.startswith("valid")}


def _members(path: str | Path, prepared: Prepared) -> list[ItemStates]:
    first = ItemStates.open(path, prepared.sequences.items)
    folder = Path(path) / "artifact" if (Path(path) / "artifact").is_dir() else Path(path)
    n = json.loads((folder / "manifest.json").read_text("utf-8"))["n_members"]
    return [first, *(ItemStates.open(path, prepared.sequences.items, member=i) for i in range(1, n))]


def _of_arm(
    recipe: IloraRecipe, run: Path, arm: str, candidates: Candidates, kind: Kind
) -> list[tuple[Answers, float]]:
    files = [run / "answers" / f"{candidates.part}-{kind}-{arm}-{seed}.npz" for seed in recipe.seeds]
    return [load_answers(file, candidates) for file in files if file.is_file()]


def _card(found: list[tuple[Answers, float]], candidates: Candidates) -> dict[str, Any]:
    """Seconds, calibration of the probabilities of all candidates, and the use of experts of the first seed."""
    is_right = np.arange(candidates.items.shape[1]) == candidates.slot[:, None]
    own = [float(ece(is_right.ravel().astype(float), answers.probability.ravel())) for answers, _ in found]
    card: dict[str, Any] = {"seconds": [s for _, s in found], "ece": float(np.mean(own))}
    weights = found[0][0].weights
    if weights.shape[1]:
        card["gate"] = gate_use(weights)
    return card


def _trained(run: Path, arm: str, seed: int) -> dict[str, int]:
    file = run / f"{arm}-{seed}" / "ilora.json"
    return json.loads(file.read_text("utf-8"))["facts"]["n_trained"] if file.is_file() else {}


def _groups(prepared: Prepared, user: np.ndarray, target: np.ndarray) -> dict[str, np.ndarray]:
    sequences = prepared.sequences
    return {
        "unseen users": ~sequences.is_seen[user],
        "items that training never shows": sequences.popularity[target] == 0,
    }


def lines(whole: Mapping[str, Any]) -> str:
    """Give the table as text."""
    head = f"{'':<16}{'HR@1 likelihood':>26}{'NDCG@5':>8}{'MRR':>8}{'valid':>8}{'c/total':>26}{'c/valid':>9}"
    made = [f"{whole['name']}, {whole['part']}, {whole['kind']} candidates, {whole['n']:,} users", head]
    for name, own in whole["figures"].items():
        valid, total, right = (
            own.get(f"{k}") for k in ("valid ratio", "written correct/total", "written correct/valid")
        )
        written = f"{_plain(valid):>8}{_span(total):>26}{_plain(right):>9}" if total else ""
        made.append(
            f"{name:<16}{_span(own['likelihood HR@1']):>26}{_plain(own['NDCG@5']):>8}{_plain(own['MRR']):>8}{written}"
        )
    return "\n".join([*made, whole["reading"]])


def _span(figure: Mapping[str, float] | None) -> str:
    return "" if figure is None else f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"


def _plain(figure: Mapping[str, float] | None) -> str:
    return "" if figure is None else f"{figure['value']:.3f}"
