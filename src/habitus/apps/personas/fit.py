"""From lines to a fitted model, step by step; a killed call goes on with the step that is missing.

RUN/recipe.json      what was chosen
RUN/rows/PART/       prepared rows; RUN/rejected.parquet the lines that could not be used, and why
RUN/model/           the fitted model
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from habitus.apps.personas.combine import Mix, rare_of, tune
from habitus.apps.personas.design import Design, Designer
from habitus.apps.personas.encode import TextEncoder, fit_encoder
from habitus.apps.personas.features import distinct, rows_of_threads
from habitus.apps.personas.frequent import Trees, fit_trees
from habitus.apps.personas.lookup import LookupStore, build_store, chain
from habitus.apps.personas.model import PersonaModel, n_text_columns, parts_of, save_facts, with_persona
from habitus.apps.personas.rare import fit_rare
from habitus.apps.personas.rows import Rows, fold_of, prepare, sample, stream, write_rejects
from habitus.apps.personas.settings import PersonasRecipe
from habitus.core.atomic import new_file, write_json
from habitus.core.errors import ConfigError, IngestError, TrainingError
from habitus.data.sources.persona_threads import LABELS, read_threads
from habitus.metrics.calibration import calibrate, fit_isotonic

MOST_REJECTED = 0.01
LIFT_ROWS = 50_000
Say = Callable[[str], None]


def fit_personas(
    recipe: PersonasRecipe,
    source: str | Path,
    out: str | Path,
    *,
    say: Say = print,
    max_rejected: float = MOST_REJECTED,
) -> Path:
    """Read threads (or the tables of `stats_se`), fit everything, and write RUN.

    Errors: `SourceError` for an unreadable file; `IngestError` when more than `max_rejected` of the lines cannot be
    used (they stay in RUN/rejected.parquet); `TrainingError` when no rare or no common rows are there; `ConfigError`
    when RUN holds another recipe.
    """
    out = Path(out)
    _keep_recipe(recipe, out)
    if not (out / "rows").is_dir():
        began = time.perf_counter()
        facts = _prepare(recipe, Path(source), out, max_rejected)
        facts["seconds"] = time.perf_counter() - began
        write_json(out / "read.json", facts)
        _keep_recipe(recipe, out)
        say(f"read {facts['n_read']:,} rows in {facts['seconds']:.0f} s; {facts['n_rejected']:,} rejected")
    folder = out / "model"
    if not (folder / "facts.json").is_file():
        _fit(recipe, out, folder, say)
    return out


def rows_of(recipe: PersonasRecipe, table: Any) -> Rows:
    """Give prepared rows of the recipe's source as `Rows`."""
    if recipe.source == "threads":
        return rows_of_threads(table)
    from habitus.apps.personas.instants import rows_of_instants

    return rows_of_instants(table)


def _keep_recipe(recipe: PersonasRecipe, out: Path) -> None:
    """Refuse another recipe than the one of RUN; write it once there are rows."""
    path, values = out / "recipe.json", recipe.model_dump(mode="json")
    if path.is_file() and json.loads(path.read_text("utf-8")) != json.loads(json.dumps(values)):
        raise ConfigError(
            "the recipe that RUN was begun with", "another one", where=str(path), fix="choose another --out"
        )
    if (out / "rows").is_dir():
        write_json(path, values)


def _prepare(recipe: PersonasRecipe, source: Path, out: Path, most: float) -> dict[str, Any]:
    if recipe.source == "stats_se":
        from habitus.data.sources.persona_stats_se import LABELS as OWN
        from habitus.data.sources.persona_stats_se import instants

        if recipe.labels != OWN:
            raise ConfigError(f"labels {', '.join(OWN)}", ", ".join(recipe.labels), where="labels")
        counts = prepare(instants(source), out / "rows", split="given", seed=recipe.seed)
        return {"n_read": sum(counts.values()), "n_rejected": 0, "reasons": {}, "parts": counts}
    if recipe.labels != LABELS:
        raise ConfigError(f"labels {', '.join(LABELS)}", ", ".join(recipe.labels), where="labels")
    rejected, n_read = [], 0

    def blocks() -> Iterator[Any]:
        nonlocal n_read
        for block in read_threads(source):
            n_read += block.n_read
            rejected.append(block.rejected)
            if len(block.rows):
                yield block.rows

    counts: dict[str, int] = {}
    try:
        counts = prepare(blocks(), out / "rows", split=recipe.split, seed=recipe.seed)
    except IngestError:
        if not n_read:
            with suppress(OSError):  # what it held before stays
                out.rmdir()
            fix = "see docs/guide/personas.md, or make some: habitus personas world"
            raise IngestError("threads, a line of JSON each", "an empty file", where=str(source), fix=fix) from None
        # else: all were rejected, which is told below
    reasons = write_rejects(out / "rejected.parquet", rejected)
    n_rejected = sum(reasons.values())
    if n_rejected > most * n_read or not counts:
        shutil.rmtree(out / "rows", ignore_errors=True)
        what = ", ".join(f"{n:,} {reason}" for reason, n in reasons.most_common(5))
        fix = "mend the file, or allow more with --max-rejected"
        raise IngestError(f"at most {most:.0%} of the lines rejected", f"{n_rejected:,} of {n_read:,}: {what}",
                          where=str(out / "rejected.parquet"), fix=fix)  # fmt: skip
    return {"n_read": n_read, "n_rejected": n_rejected, "reasons": dict(reasons), "parts": counts}


def _fit(recipe: PersonasRecipe, out: Path, folder: Path, say: Say) -> None:
    (folder / "trees").mkdir(parents=True, exist_ok=True)
    seconds: dict[str, float] = {}

    def clocked(name: str, began: float) -> None:
        seconds[name] = time.perf_counter() - began
        say(f"{name}: {seconds[name]:.0f} s")

    began = time.perf_counter()
    whole = _train_columns(out / "rows")
    common = common_actions(recipe, whole["label"])
    if not (folder / "terms.json").is_file():
        encoder = fit_encoder(recipe.text, whole["posts"]["text"], seed=recipe.seed)
        encoder.save(folder)
        clocked("encoder", began)
    encoder = TextEncoder.load(folder, recipe.text)
    began = time.perf_counter()
    if not (folder / "lookup.duckdb").is_file():
        _store(recipe, encoder, whole, folder / "lookup.duckdb", out / "rows")
        clocked("lookup store", began)
    store = LookupStore(folder / "lookup.duckdb", len(recipe.labels))
    n_rows = dict(zip(*(each.tolist() for each in np.unique(whole["cluster"], return_counts=True))))
    del whole
    designer = Designer(recipe, encoder, store)
    valid = rows_of(recipe, sample(out / "rows", "valid", recipe.max_valid, recipe.seed))
    designer.lift_weight = _lift_weight(designer, valid)
    train = rows_of(recipe, sample(out / "rows", "train", recipe.trees.max_rows, recipe.seed))
    began = time.perf_counter()
    design, check = designer.design(train, is_train=True), designer.design(valid)
    clocked("features", began)
    model = _models(recipe, folder, designer, (train, design), (valid, check), common, n_rows, clocked)
    model.mix = Mix(common)
    model.mix = tune(parts_of(model, check, valid.cluster), valid.label, common, recipe.lookup)
    more = {
        "columns": list(design.names),
        "seconds": seconds,
        "n_valid": len(valid),
        "n_fitted": len(train),
        "peak_gb": peak_gb(),
    }
    save_facts(folder, model, model.net.save(folder), more)
    store.close()


def peak_gb() -> float:
    """Give the most memory this process has held, in GB (Linux counts in KiB, macOS in bytes)."""
    import resource
    import sys

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def common_actions(recipe: PersonasRecipe, label: np.ndarray) -> tuple[int, ...]:
    """Give the places of the common actions: those named, else the two most frequent.

    Errors: `ConfigError` for a name that is no label, or not two names; `TrainingError` without rare rows.
    """
    counts = np.bincount(label, minlength=len(recipe.labels))
    if recipe.common:
        unknown = [name for name in recipe.common if name not in recipe.labels]
        if unknown or len(set(recipe.common)) != 2:
            raise ConfigError("two labels", ", ".join(recipe.common), where="common", fix="leave it out")
        chosen = tuple(recipe.labels.index(name) for name in recipe.common)
    else:
        chosen = tuple(np.argsort(-counts, kind="stable")[:2].tolist())
    if not counts[rare_of(chosen, counts.size)].sum() or not counts[list(chosen)].sum():
        raise TrainingError("rows of common and of rare actions", f"{(counts > 0).sum()} actions in all", where="train")
    return chosen


def _train_columns(folder: Path) -> dict[str, Any]:
    """Read the columns of all training rows that counting needs, and their distinct posts."""
    import polars as pl

    names = ("content", "cluster", "label", "post_key")
    columns: dict[str, list[np.ndarray]] = {name: [] for name in (*names, "near_key")}
    posts = []
    for table in stream(folder, "train", 1 << 30):
        for name in names:
            columns[name].append(table[name].to_numpy())
        if "near_key" in table.columns:
            columns["near_key"].append(table["near_key"].to_numpy())
        posts.append(table.select(key="post_key", text="post_text").unique("key"))
        posts = [pl.concat(posts).group_by("key").agg(pl.col("text").min())] if len(posts) > 8 else posts
    if not posts:
        raise IngestError("training rows", "none", where=str(folder), fix="give more threads")
    whole: dict[str, Any] = {name: np.concatenate(each) for name, each in columns.items() if each}
    whole["label"] = whole["label"].astype(np.int64)
    whole["posts"] = pl.concat(posts).group_by("key").agg(pl.col("text").min()).sort("key")
    return whole


def _store(recipe: PersonasRecipe, encoder: TextEncoder, whole: dict[str, Any], path: Path, rows: Path) -> None:
    import polars as pl

    posts = whole["posts"]
    if recipe.source == "threads":
        groups = encoder.groups(encoder.encode(posts["text"]))
        group = groups[np.searchsorted(posts["key"].to_numpy(), whole["post_key"])]
    else:  # rows of one key differ in text: read them again, in the same order
        parts = []
        for table in stream(rows, "train", 1 << 30):
            texts, at = distinct(table["post_text"])
            parts.append(encoder.groups(encoder.encode(texts))[at])
        group = np.concatenate(parts)
    replies = [
        table.filter(pl.col("reply_text") != "").select(
            key="post_key", cluster=pl.col("cluster").cast(pl.Int32), text="reply_text", label="label"
        )
        for table in stream(rows, "train", 1 << 30)
        if "reply_text" in table.columns
    ]
    texted = [recipe.labels.index(name) for name in ("reply", "quote") if name in recipe.labels]
    said = pl.concat(replies).filter(pl.col("label").is_in(texted)).drop("label") if replies else None
    with new_file(path) as beside:
        build_store(
            beside, recipe.lookup, posts=posts, cluster=whole["cluster"], key=whole["post_key"], group=group,
            label=whole["label"], fold=fold_of(whole["content"], recipe.lookup.n_folds), n_actions=len(recipe.labels),
            replies=said, near=whole.get("near_key"),
        )  # fmt: skip


def _lift_weight(designer: Designer, valid: Rows) -> float:
    """Choose how much it takes for a post to lift an action, by the log loss on some validation rows."""
    some = valid.take(np.arange(min(len(valid), LIFT_ROWS)))
    found, _ = designer.found(some, is_train=False)
    lookup = designer.recipe.lookup
    rows = np.arange(len(some))

    def loss(weight: float) -> float:
        return float(-np.log(chain(found, lookup, weight)["own"][rows, some.label]).mean())

    return min(lookup.lift_weights, key=loss)


def _models(
    recipe: PersonasRecipe, folder: Path, designer: Designer, train: tuple[Rows, Design], valid: tuple[Rows, Design],
    common: tuple[int, ...], n_rows: dict[int, int], clocked: Callable[[str, float], None],
) -> PersonaModel:  # fmt: skip
    (rows, design), (checked, check), seed = train, valid, recipe.seed
    x, x_valid = with_persona(design.numbers, rows.cluster), with_persona(check.numbers, checked.cluster)
    n_actions, began = len(recipe.labels), time.perf_counter()
    pooled = _kept(folder, "pooled", lambda: fit_trees(
        recipe.trees, x, rows.label, (x_valid, checked.label), n_actions, seed=seed, categories=(0,)))  # fmt: skip
    clocked("pooled trees", began)
    began = time.perf_counter()
    rare = rare_of(common, n_actions)
    is_rare, is_rare_valid = np.isin(rows.label, rare), np.isin(checked.label, rare)
    gate = _kept(folder, "gate", lambda: fit_trees(
        recipe.trees, x, is_rare, (x_valid, is_rare_valid), 2, seed=seed, categories=(0,)))  # fmt: skip
    stated = gate.predict(x_valid)
    gate_map = fit_isotonic(is_rare_valid.astype(float), stated) if 0 < is_rare_valid.mean() < 1 else None
    assert np.isfinite(calibrate(gate_map, stated)).all()
    clocked("gate", began)
    began = time.perf_counter()
    by_persona = _personas(recipe, folder, train, valid, common, n_rows)
    clocked(f"{len(by_persona)} persona models", began)
    began = time.perf_counter()
    place = np.searchsorted(rare, np.arange(n_actions))
    some, some_valid = np.flatnonzero(is_rare)[: recipe.rare.max_rows], np.flatnonzero(is_rare_valid)
    net = fit_rare(
        recipe.rare, _cut(design, some), rows.cluster[some], place[rows.label[some]], _cut(check, some_valid),
        checked.cluster[some_valid], place[checked.label[some_valid]], rare.size, seed=seed,
        n_text=n_text_columns(design),
    )  # fmt: skip
    clocked("rare network", began)
    return PersonaModel(recipe, designer, pooled, gate, gate_map, by_persona, net, n_rows)


def _personas(
    recipe: PersonasRecipe, folder: Path, train: tuple[Rows, Design], valid: tuple[Rows, Design],
    common: tuple[int, ...], n_rows: dict[int, int],
) -> dict[int, Trees]:  # fmt: skip
    """Fit {first, second, other} per persona that has enough rows of each."""
    (rows, design), (checked, check), trees = train, valid, recipe.trees
    to_three = np.full(len(recipe.labels), 2)
    to_three[list(common)] = (0, 1)
    found = {}
    for persona in sorted(n_rows):
        own, own_valid = np.flatnonzero(rows.cluster == persona), np.flatnonzero(checked.cluster == persona)
        y = to_three[rows.label[own]]
        if len(own) < trees.min_persona or np.bincount(y, minlength=3).min() < trees.min_class:
            continue
        against = (check.numbers[own_valid], to_three[checked.label[own_valid]])
        found[persona] = _kept(folder, f"persona-{persona}", lambda own=own, y=y, against=against: fit_trees(
            trees, design.numbers[own], y, against, 3, seed=recipe.seed))  # fmt: skip
    return found


def _kept(folder: Path, name: str, make: Callable[[], str]) -> Trees:
    """Give trees that are there already, or make and keep them."""
    path = folder / "trees" / f"{name}.txt"
    if not path.is_file():
        with new_file(path) as beside:
            beside.write_text(make(), "utf-8")
    return Trees(path.read_text("utf-8"))


def _cut(design: Design, rows: np.ndarray) -> Design:
    shares = {name: value[rows] for name, value in design.shares.items()}
    return Design(
        design.numbers[rows], design.names, design.vectors[rows], shares, design.own[rows], design.exact[rows]
    )
