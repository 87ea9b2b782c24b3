"""A study of clicks as a recipe and a folder: train every model of it, judge them on one table, score impressions.

RUN/recipe.json    what was chosen, and where the data lay
RUN/models/NAME-SEED/   one folder per model and seed
RUN/metrics.json   what `evaluate` measured
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from habitus.apps.ctr.artifacts import ClickModel, load_click_model, save_click_model
from habitus.apps.ctr.evaluate import Map, differences, fit_map, ladder, probability, score_card
from habitus.apps.ctr.examples import Examples
from habitus.apps.ctr.features import Features, make_examples
from habitus.apps.ctr.linear import LinearConfig
from habitus.apps.ctr.segments import segment_table, segments, trend
from habitus.apps.ctr.train import NetConfig, fit_model
from habitus.apps.ctr.trees import ClickTreesConfig
from habitus.apps.ctr.vectors import read_vectors, vectors_before
from habitus.core.atomic import new_file, plain, write_json
from habitus.core.config import Config, read_toml
from habitus.core.errors import ArtifactError, ConfigError
from habitus.core.seeds import uniforms
from habitus.data.impressions import Impressions
from habitus.metrics.calibration import calibrate
from habitus.metrics.clustered import expected_auc

FORMAT = 1
EDGE_USERS = 0.1  # share of the training users whose logs give the edges of segments
SETTINGS: dict[str, type[Config]] = {"linear": LinearConfig, "trees": ClickTreesConfig}
PARTS = ("s1", "s2", "s3", "s4", "s5")
OWN = ("features", "train_share")  # keys of a model that are the study's, not its settings
Settings = NetConfig | LinearConfig | ClickTreesConfig


class CtrRecipe(Config):
    """A study: data, dial, models, seeds.

    `source`: `taobao_ad` (a folder made by `habitus ctr world`, or of the four raw files) or `complete_journey`.
    `user_share` keeps a share of users, by a hash, in all parts. Each model is a table of its own with `kind`:
    `linear`, `trees`, `ctr_mlp`, `din` or `time_bst`, its settings, and possibly a dial of its own (`features`)
    and a share of the users, by a hash, that train and choose it (`train_share`); all are tested on all.
    `pairs` are further models to compare, one with the other. `vectors` are patterns of tables below the data folder
    that `habitus embed` wrote: LURM vectors or BehaveGPT states, for models whose dial is `+lurm`.
    `rungs` maps a model to the ceiling of a world (`s1` to `s5`) and how far below it may stay.

    >>> CtrRecipe.parse({"name": "x", "source": "taobao_ad", "models": {"LR": {"kind": "linear"}}}).against
    'LR'
    """

    name: str
    app: Literal["ctr"] = "ctr"
    source: Literal["taobao_ad", "complete_journey"]
    features: Features = "static"
    calibration: Map = "none"
    seeds: tuple[int, ...] = (0,)
    min_count: int = Field(10, gt=0)
    against: str = "LR"
    user_share: float = Field(1.0, gt=0, le=1)
    pairs: tuple[tuple[str, str], ...] = ()
    vectors: tuple[str, ...] = ()
    models: dict[str, dict[str, Any]]
    rungs: dict[str, tuple[str, float]] = Field(default_factory=dict)

    def settings(self, name: str) -> Settings:
        """Give the settings of a model. Errors: `ConfigError` for an unknown kind or key."""
        given = {key: value for key, value in self.models[name].items() if key not in OWN}
        kind = given.pop("kind", None)
        where = f"models.{name}"
        if kind in SETTINGS:
            return SETTINGS[kind].parse(given, where=where)  # type: ignore[return-value]
        if kind in ("ctr_mlp", "din", "time_bst"):
            return NetConfig.parse(given | {"name": kind}, where=where)
        raise ConfigError("a kind out of: linear, trees, ctr_mlp, din, time_bst", repr(kind), where=where)

    def fitted_on(self, name: str, rows: Examples) -> Examples:
        """Give the rows of the users that train or choose a model."""
        share = float(self.models[name].get("train_share", 1.0))
        return rows if share >= 1 else rows.rows(uniforms(0, rows.user, stream="share in training") < share)

    def dial(self, name: str) -> Features:
        """Give the features that a model reads."""
        return self.models[name].get("features", self.features)


def read_ctr_recipe(path: str | Path) -> CtrRecipe:
    """Read a recipe and check every model in it."""
    recipe = CtrRecipe.parse(read_toml(path), where=str(path))
    for name in recipe.models:
        recipe.settings(name)
    for key, names in (("against", (recipe.against,)), ("pairs", sum(recipe.pairs, ()))):
        for name in names:
            if name not in recipe.models:
                raise ConfigError(f"one of: {', '.join(recipe.models)}", repr(name), where=f"{path}: {key}")
    return recipe


def open_impressions(recipe: CtrRecipe, folder: str | Path) -> tuple[Impressions, dict[str, Any]]:
    """Give the impressions of a recipe, and the days of its parts where the source has its own.

    Raw Taobao files are read once into FOLDER.store beside them.
    """
    folder = Path(folder)
    if recipe.source == "complete_journey":
        from habitus.data.sources.complete_journey_sends import DAYS, complete_journey_sends

        return complete_journey_sends(folder), {"days": DAYS}
    from habitus.data.sources.taobao_ad import open_taobao_ad, read_taobao_ad

    store, truth = folder.with_name(folder.name + ".store"), folder / "truth.parquet"
    shown = open_taobao_ad(store, truth=truth) if store.is_dir() else read_taobao_ad(folder, store)
    if recipe.user_share < 1:
        shown = shown.rows(uniforms(0, shown.ids["user"], stream="share of users") < recipe.user_share)
    return shown, {}


def examples_of(
    recipe: CtrRecipe, folder: str | Path, shown: Impressions, more: Mapping[str, Any], models: Sequence[str] = ()
) -> dict[str, dict[str, Examples]]:
    """Give the parts for every dial that the models of the recipe, or the given ones, use."""
    dials: list[Features] = list(dict.fromkeys(recipe.dial(name) for name in models or recipe.models))
    found = {}
    for dial in dials:
        lurm = vectors_before(shown, read_vectors(folder, recipe.vectors)) if dial == "+lurm" else None
        found[dial] = make_examples(shown, features=dial, min_count=recipe.min_count, lurm=lurm, **more)
    return found


def train_ctr(
    recipe: CtrRecipe, folder: str | Path, out: str | Path, *, only: Sequence[str] = (), say: Any = print
) -> Path:
    """Train what is not there yet of every model and seed; a killed call goes on with the next one.

    `only` names the models to train now. Errors: `ConfigError` for a name that the recipe has not.
    """
    out = Path(out)
    for name in only:
        if name not in recipe.models:
            raise ConfigError(f"one of: {', '.join(recipe.models)}", repr(name), where="--only")
    shown, more = open_impressions(recipe, folder)
    tables = examples_of(recipe, folder, shown, more, only)
    write_json(out / "recipe.json", {"recipe": recipe.model_dump(mode="json"), "folder": str(Path(folder).resolve())})
    for seed in recipe.seeds:
        for name in only or recipe.models:
            path = out / "models" / f"{name}-{seed}"
            if path.is_dir():
                continue
            parts, began = tables[recipe.dial(name)], time.perf_counter()
            train, valid = (recipe.fitted_on(name, parts[part]) for part in ("train", "valid"))
            scorer = fit_model(recipe.settings(name), train, valid, seed=seed)
            seconds = time.perf_counter() - began
            calibrator = fit_map(recipe.calibration, parts["valid"].label, scorer.logits(parts["valid"]))
            save_click_model(path, ClickModel(scorer, parts["train"].spec, calibrator))
            facts = {"seconds": seconds, "examples_per_second": len(train) / seconds, "n_train": len(train)}
            facts |= {"n_parameters": scorer.n_parameters, "history": list(getattr(scorer, "history", ()))}  # pyright: ignore
            write_json(path / "training.json", facts)
            say(f"{name}, seed {seed}: {seconds:.0f} s")
    return out


def evaluate_ctr(run: str | Path, *, part: Literal["valid", "test"] = "test") -> dict[str, Any]:
    """Judge every trained model and seed on one part and write RUN/metrics.json.

    Differences and segments are those of the first seed; the ladder takes the mean over seeds.
    """
    run = Path(run)
    recipe, folder = _opened(run)
    shown, more = open_impressions(recipe, folder)
    tables = examples_of(recipe, folder, shown, more)
    p: dict[str, dict[int, np.ndarray]] = {}
    cards: list[dict[str, Any]] = []
    for name in recipe.models:
        rows = tables[recipe.dial(name)][part]
        for seed in recipe.seeds:
            path = run / "models" / f"{name}-{seed}"
            if not path.is_dir():
                continue
            model = load_click_model(path)
            raw = probability(model.scorer.logits(rows))
            p.setdefault(name, {})[seed] = calibrate(model.calibrator, raw)
            card = score_card(rows.label, p[name][seed], rows.user, truth=rows.truth)
            facts = json.loads((path / "training.json").read_text("utf-8"))
            before = score_card(rows.label, raw, rows.user)["ece"]
            cards.append(
                {"model": name, "seed": seed, "features": recipe.dial(name), "ece_before": before} | card | facts
            )
    if not cards:
        raise ArtifactError("trained models", "none", where=str(run / "models"), fix="habitus ctr train RECIPE")
    rows = next(iter(tables.values()))[part]
    first = {name: by_seed[min(by_seed)] for name, by_seed in p.items()}
    found = _compared(recipe, rows, next(iter(tables.values()))["train"], first)
    found["pairs"] = [
        differences(rows.label, {one: first[one], other: first[other]}, rows.user, against=other)[0]
        for one, other in recipe.pairs
        if one in first and other in first
    ]
    found |= {"format": FORMAT, "name": recipe.name, "part": part, "against": recipe.against, "cards": cards}
    found["ceilings"] = ceilings_of(Path(folder), rows)
    found["ladder"] = ladder(_means(cards), found["ceilings"], recipe.rungs) if found["ceilings"] else []
    write_json(run / "metrics.json", plain(found))
    return found


def _means(cards: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Give what the ladder needs as means over the seeds of each model."""
    found: dict[str, dict[str, float]] = {}
    for name in dict.fromkeys(card["model"] for card in cards):
        mine = [card for card in cards if card["model"] == name]
        keys = [key for key in ("auc", "auc_error", "expected_auc") if key in mine[0]]
        found[name] = {key: float(np.mean([card[key] for card in mine])) for key in keys}
    return found


def _compared(recipe: CtrRecipe, rows: Examples, train: Examples, p: dict[str, np.ndarray]) -> dict[str, Any]:
    if recipe.against not in p:
        return {"differences": [], "segments": [], "trends": []}
    some = train.rows(uniforms(0, train.user, stream="edges of segments") < EDGE_USERS)
    parts = segments(rows, some)
    table = segment_table(rows.label, p, rows.user, parts, against=recipe.against)
    trends = [
        {"kind": kind, "model": name} | trend(table, kind, name)
        for kind in ("history", "diversity", "drift")
        for name in p
        if name != recipe.against
    ]
    found = differences(rows.label, p, rows.user, against=recipe.against)
    return {"differences": found, "segments": table, "trends": trends}


def ceilings_of(folder: Path, rows: Examples) -> dict[str, float]:
    """Give the best AUC for what each rung may know, `s1` to `s5`; empty where the truth is not known."""
    import polars as pl

    path = folder / "truth.parquet"
    if rows.truth is None or not path.is_file():
        return {}
    sums = pl.read_parquet(path, columns=list(PARTS)).to_numpy()[rows.source].cumsum(axis=1)
    return {name: expected_auc(rows.truth, sums[:, i]) for i, name in enumerate(PARTS)}


def predict_ctr(run: str | Path, model: str, out: str | Path, *, part: Literal["valid", "test"] = "test") -> Path:
    """Write the scores of one model, mean over seeds: user, time, ad, score, p, model, as_of (last train day)."""
    import polars as pl

    run, out = Path(run), Path(out)
    recipe, folder = _opened(run)
    if model not in recipe.models:
        raise ConfigError(f"one of: {', '.join(recipe.models)}", repr(model), where=str(run))
    shown, more = open_impressions(recipe, folder)
    parts = examples_of(recipe, folder, shown, more, [model])[recipe.dial(model)]
    rows, folders = parts[part], sorted((run / "models").glob(f"{model}-*"))
    models = [load_click_model(path) for path in folders]
    if not models:
        raise ArtifactError(f"a trained {model}", "none", where=str(run / "models"), fix="habitus ctr train RECIPE")
    p = np.mean([each.probabilities(rows) for each in models], axis=0)
    at = np.searchsorted(np.sort(shown.source), rows.source)
    at = np.argsort(shown.source, kind="stable")[at]
    ads = shown.ids["adgroup"] if "adgroup" in shown.ids else shown.ids["campaign"]
    people = shown.ids["user"] if "user" in shown.ids else shown.ids["household"]
    table = pl.DataFrame({"user": people[at], "time": rows.time, "ad": ads[at], "p": p})
    table = table.with_columns(score=(pl.col("p") / (1 - pl.col("p"))).log(), model=pl.lit(model))
    last = int(parts["train"].day.max())
    table = table.with_columns(as_of=pl.lit(last).cast(pl.Date)).select(
        "user", "time", "ad", "score", "p", "model", "as_of"
    )
    with new_file(out) as beside:
        table.write_parquet(beside)
    return out


def _opened(run: Path) -> tuple[CtrRecipe, str]:
    try:
        found = json.loads((run / "recipe.json").read_text("utf-8"))
    except (OSError, ValueError) as cause:
        raise ArtifactError("a run of habitus ctr train", str(cause), where=str(run)) from None
    return CtrRecipe.parse(found["recipe"], where=str(run)), found["folder"]
