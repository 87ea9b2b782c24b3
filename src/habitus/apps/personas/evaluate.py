"""Judge the hybrid beside each of its parts and plain baselines, on one part of the rows, with intervals over posts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from habitus.apps.personas.baselines import MAX_ROWS, words_model
from habitus.apps.personas.combine import Parts, posterior, rare_of, shares, tell, two_groups
from habitus.apps.personas.fit import rows_of
from habitus.apps.personas.model import PersonaModel, load_model
from habitus.apps.personas.replies import Replies, judged
from habitus.apps.personas.rows import Rows, sample, stream
from habitus.core.atomic import plain, write_json
from habitus.core.errors import ConfigError
from habitus.metrics.calibration import ece, reliability
from habitus.metrics.macro_f1 import Decision, class_f1, fit_decision, macro_f1, macro_f1_interval

FORMAT = 1
HYBRID, BAYES = "hybrid", "Bayes"
TAUS = (0.5, 0.6, 0.7, 0.8, 0.9)


def evaluate_personas(run: str | Path, *, part: str = "test", truth: str | Path | None = None) -> dict[str, Any]:
    """Score every model on a part and write RUN/metrics.json.

    Decisions are fitted on validation rows for each model by itself. `truth` is the truth.parquet of a generated world.
    Errors: `ArtifactError` for an unfinished run; `ConfigError` for an unknown part.
    """
    run = Path(run)
    if part not in ("valid", "test"):
        raise ConfigError("valid or test", repr(part), where="part")
    model = load_model(run)
    recipe, names = model.recipe, model.recipe.labels
    valid = rows_of(recipe, sample(run / "rows", "valid", recipe.max_valid, recipe.seed))
    rows, parts, told_p = _scored(model, run, part)
    valid_parts = model.parts(valid)
    train = rows_of(recipe, sample(run / "rows", "train", MAX_ROWS, recipe.seed + 1))
    words = words_model(run / "model" / "words.npz", model.designer.encoder, train, len(names), seed=recipe.seed)
    p, p_valid = _answers(model, parts, words.predict(rows)), _answers(model, valid_parts, words.predict(valid))
    p[HYBRID], p_valid[HYBRID] = told_p, posterior(valid_parts, model.mix)
    if truth is not None:
        p[BAYES], p_valid[BAYES] = _truth(truth, rows, names), _truth(truth, valid, names)
    common = list(model.mix.common)
    told, cards = {}, []
    for name in p:
        decision = Decision.plain(len(names)) if name == "majority" else fit_decision(p_valid[name], valid.label)
        told[name] = tell(parts, model.mix, p[name]) if name == HYBRID else decision.tell(p[name])
        cards.append({"model": name} | card(rows, p[name], told[name], common, (p_valid[name], valid.label)))
    found = {"format": FORMAT, "name": recipe.name, "part": part, "labels": list(names), "cards": cards,
             "common": [names[i] for i in common], "n_rows": len(rows), "split": recipe.split}  # fmt: skip
    found["differences"] = [
        {"against": name}
        | macro_f1_interval(rows.label, told[HYBRID], len(names), rows.unit, against=told[name]).to_json()
        for name in p if name not in (HYBRID, BAYES)
    ]  # fmt: skip
    found["actions"] = [_action(i, names, rows, told, p) for i in range(len(names))]
    found["personas"] = _personas(rows, told, len(names), model.n_rows)
    found["confusion"] = _confusion(rows.label, told[HYBRID], len(names)).tolist()
    found["lookup"] = lookup_table(parts, rows.label)
    found["slices"] = _slices(rows, parts, told, len(names), model.n_rows)
    found["reliability"] = _reliability(told_p, rows.label)
    found["replies"] = _replies(model, rows)
    found["mix"] = model.mix.to_json()
    found["read"] = json.loads((run / "read.json").read_text("utf-8"))
    write_json(run / "metrics.json", plain(found))
    model.designer.store.close()
    return found


def _scored(model: PersonaModel, run: Path, part: str) -> tuple[Rows, Parts, np.ndarray]:
    """Answer a whole part in blocks: the rows, what the parts say, the hybrid's posterior."""
    import polars as pl

    tables = list(stream(run / "rows", part))
    made = [model.parts(rows_of(model.recipe, table)) for table in tables]
    parts = Parts(*(np.concatenate([getattr(each, f.name) for each in made]) for f in fields(Parts)))
    return rows_of(model.recipe, pl.concat(tables)), parts, posterior(parts, model.mix)


def _answers(model: PersonaModel, parts: Parts, words: np.ndarray) -> dict[str, np.ndarray]:
    """Give the posteriors of what stands beside the hybrid; parts alone fill the rest with shares of the persona."""
    common, prior = list(model.mix.common), parts.persona_prior
    rare = rare_of(model.mix.common, prior.shape[1])
    return {
        "majority": np.repeat(prior.mean(axis=0, keepdims=True), len(prior), axis=0),
        "persona majority": prior,
        "lookup only": parts.lookup,
        "TF-IDF + LR": words,
        "persona trees, rest by persona": two_groups(model.mix.common, parts.rho, parts.common, shares(prior[:, rare])),
        "rare network, rest by persona": two_groups(model.mix.common, parts.rho, shares(prior[:, common]), parts.rare),
        "pooled LightGBM": parts.pooled,
    }


def card(
    rows: Rows, p: np.ndarray, told: np.ndarray, common: list[int], valid: tuple[np.ndarray, np.ndarray]
) -> dict[str, Any]:
    """Give the figures of one model: pooled, per persona, common only, rare only, and its probabilities.

    Common only and rare only are scored on rows of that group, the answer restricted to it: no error of the gate.
    """
    y, n = rows.label, p.shape[1]
    spread = macro_f1_interval(y, told, n, rows.unit)
    of_persona = [(macro_f1(y[at], told[at], n), at.size) for at in _by_persona(rows)]
    scores, sizes = np.array(of_persona).T
    found = {
        "macro_f1": spread.value, "low": spread.low, "high": spread.high, "argmax": macro_f1(y, p.argmax(axis=1), n),
        "persona_mean": float(scores.mean()), "persona_weighted": float(np.average(scores, weights=sizes)),
        "accuracy": float((told == y).mean()),
        "log_loss": float(-np.log(np.maximum(p[np.arange(len(y)), y], 1e-9)).mean()),
        "ece": float(ece((p.argmax(axis=1) == y).astype(float), np.clip(p.max(axis=1), 0, 1))),
    }  # fmt: skip
    for name, group in (("common_only", np.array(common)), ("rare_only", rare_of(tuple(common), n))):
        place = np.full(n, -1)
        place[group] = np.arange(group.size)
        at, known = np.flatnonzero(place[y] >= 0), np.flatnonzero(place[valid[1]] >= 0)
        decision = fit_decision(shares(valid[0][known][:, group]), place[valid[1][known]]) if known.size else None
        inside = shares(p[at][:, group])
        answer = (decision or Decision.plain(group.size)).tell(inside)
        found[name] = macro_f1(place[y[at]], answer, group.size)
        inside_of = [some[place[y[some]] >= 0] for some in _by_persona(rows)]
        told_at = [(place[y[some]], answer[np.searchsorted(at, some)]) for some in inside_of if some.size]
        means = [macro_f1(true, said, group.size) for true, said in told_at]
        found[f"{name}_persona_mean"] = float(np.mean(means)) if means else float("nan")
    return found


def lookup_table(parts: Parts, y: np.ndarray) -> list[dict[str, float]]:
    """Give coverage and precision of answers by the store alone, by threshold: by this persona, by anybody."""
    found = []
    for level, counts in (("this persona", parts.own), ("anybody", parts.exact)):
        n = counts.sum(axis=1)
        top = counts.max(axis=1, initial=0) / np.maximum(n, 1)
        for tau in TAUS:
            is_told = (n >= 3) & (top >= tau)
            right = float((counts.argmax(axis=1) == y)[is_told].mean()) if is_told.any() else float("nan")
            found.append({"level": level, "tau": tau, "coverage": float(is_told.mean()), "precision": right})
    return found


def _truth(path: str | Path, rows: Rows, labels: tuple[str, ...]) -> np.ndarray:
    import polars as pl

    table = pl.read_parquet(path)
    joined = pl.DataFrame({"id": rows.ids}).join(table, on="id", how="left", maintain_order="left")
    if joined["label"].null_count() or (joined["label"].to_numpy() != rows.label).any():
        raise ConfigError("the truth of these threads", "other ids or labels", where=str(path))
    return joined.select([f"p_{name}" for name in labels]).to_numpy().astype(np.float64)


def _action(i: int, names: tuple[str, ...], rows: Rows, told: Mapping[str, np.ndarray], p: Any) -> dict[str, Any]:
    y, mine = rows.label == i, told[HYBRID] == i
    both = int((y & mine).sum())
    scores = {name: float(class_f1(rows.label, answer, len(names))[i]) for name, answer in told.items()}
    return {
        "action": names[i], "n": int(y.sum()), "told": int(mine.sum()), "f1": scores,
        "precision": both / mine.sum() if mine.any() else float("nan"),
        "recall": both / y.sum() if y.any() else float("nan"), "mean_p": float(p[HYBRID][:, i].mean()),
    }  # fmt: skip


def _personas(rows: Rows, told: Mapping[str, np.ndarray], n: int, n_rows: Mapping[int, int]) -> list[dict[str, Any]]:
    found = []
    for at in _by_persona(rows):
        who = int(rows.cluster[at[0]])
        scores = {name: macro_f1(rows.label[at], answer[at], n) for name, answer in told.items()}
        found.append({"persona": who, "n_train": n_rows.get(who, 0), "n": int(at.size), "macro_f1": scores,
                      "n_actions": int(np.unique(rows.label[at]).size)})  # fmt: skip
    return found


def _slices(
    rows: Rows, parts: Parts, told: Mapping[str, np.ndarray], n: int, n_rows: Mapping[int, int]
) -> list[dict[str, Any]]:
    seen = parts.exact.sum(axis=1)
    size = np.array([n_rows.get(who, 0) for who in rows.cluster.tolist()])
    middle = np.median(size)
    cuts = {
        "post never seen in training": seen == 0, "post seen 1 to 9 times": (seen > 0) & (seen < 10),
        "post seen 10 times or more": seen >= 10, "smaller personas (half of the rows)": size <= middle,
        "larger personas": size > middle,
    }  # fmt: skip
    if "n_context" in rows.names:
        cuts |= {"one message above": rows.numbers[:, 0] <= 1, "more messages above": rows.numbers[:, 0] > 1}
    kept = [name for name in (HYBRID, "pooled LightGBM", "lookup only", BAYES) if name in told]
    return [
        {"slice": name, "n": int(at.sum())} | {m: macro_f1(rows.label[at], told[m][at], n) for m in kept}
        for name, at in cuts.items() if at.any()
    ]  # fmt: skip


def _reliability(p: np.ndarray, y: np.ndarray) -> dict[str, list[float]]:
    drawn = reliability((p.argmax(axis=1) == y).astype(float), np.clip(p.max(axis=1), 0, 1))
    return {name: np.asarray(value).tolist() for name, value in vars(drawn).items()}


def _replies(model: PersonaModel, rows: Rows) -> dict[str, float]:
    """Compare the texts found with the real ones, on rows whose true action is a reply."""
    names = model.recipe.labels
    if "reply" not in names or len(rows.replies) != len(rows):
        return {}
    has_text = (rows.replies != "").to_numpy()
    at = np.flatnonzero((rows.label == names.index("reply")) & has_text)[:5000]
    encoder = model.designer.encoder
    replies = Replies.open(model.designer.store, encoder)
    import polars as pl

    vectors = encoder.encode(rows.texts.gather(rows.text_of[at]))
    made = pl.Series(replies.write(vectors, rows.cluster[at]), dtype=pl.String)
    return judged(encoder, rows.replies.gather(at), made)


def _confusion(y: np.ndarray, told: np.ndarray, n: int) -> np.ndarray:
    return np.bincount(y * n + told, minlength=n * n).reshape(n, n)


def _by_persona(rows: Rows) -> list[np.ndarray]:
    return [np.flatnonzero(rows.cluster == who) for who in np.unique(rows.cluster)]


def lines(metrics: Mapping[str, Any]) -> str:
    """Give the table as text for a terminal, and what it says."""
    head = f"{'model':<32}{'macro-F1':>9}{'95 % interval':>18}{'personas':>10}{'common':>8}{'rare':>8}{'log loss':>10}"
    rows = [
        f"{c['model']:<32}{c['macro_f1']:>9.4f}{c['low']:>10.4f}{c['high']:>8.4f}{c['persona_mean']:>10.4f}"
        f"{c['common_only']:>8.4f}{c['rare_only']:>8.4f}{c['log_loss']:>10.4f}"
        for c in metrics["cards"]
    ]
    return "\n".join([head, *rows, verdict(metrics)])


def verdict(metrics: Mapping[str, Any]) -> str:
    """Say which models the hybrid beats, and which it does not.

    >>> verdict({"differences": [{"against": "x", "value": 0.1, "low": 0.05, "high": 0.2}]})
    'The hybrid beats x; the least gain is +0.1000 [+0.0500, +0.2000] over x.'
    """
    rows = metrics["differences"]
    beaten = [row for row in rows if row["low"] is not None and row["low"] > 0]
    left = [row["against"] for row in rows if row not in beaten]
    least = min(rows, key=lambda row: row["value"])
    text = f"The hybrid beats {', '.join(row['against'] for row in beaten) or 'nothing'}"
    text += f"; it does not surely beat {', '.join(left)}" if left else ""
    span = f"[{least['low']:+.4f}, {least['high']:+.4f}]"
    return f"{text}; the least gain is {least['value']:+.4f} {span} over {least['against']}."
