"""A study of advice as a recipe and a folder: train a ranker per way of retrieval, judge all rows on the same cases.

RUN/recipe.json   what was chosen, and where data and graph lay
RUN/rankers/NAME  one folder per way of retrieval
RUN/cases/DATE    figures per case of one test date; a killed `evaluate` goes on with the next date
RUN/metrics.json  what `evaluate` measured
"""

from __future__ import annotations

import datetime as dt
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from habitus.apps.advisor.baselines import Baselines, fit_hybrid
from habitus.apps.advisor.graph import iso
from habitus.apps.advisor.market import HORIZON, Market, View
from habitus.apps.advisor.protocol import FIGURES, LONG, Intervals, Judged, judge_lists, judge_scores, tail_recall
from habitus.apps.advisor.rank import Objective, Ranker, RankerConfig, active_customers, fit_ranker, load_ranker, rank
from habitus.apps.advisor.select import RetrievalConfig, retrieve_many
from habitus.core.atomic import new_file, write_json
from habitus.core.config import Config, read_toml
from habitus.core.errors import ArtifactError, ConfigError
from habitus.core.seeds import uniforms
from habitus.data.sources.far_trans import read_far_trans
from habitus.data.sources.far_trans_world import read_truth

FORMAT = 1
BLOCK = 3000
Say = Callable[[str], Any]


class Dates(Config):
    """Days at a step: `first`, then `n` - 1 more, `every` days apart.

    >>> Dates(first="2021-12-02", every=14, n=2).days()
    [18963, 18977]
    """

    first: str
    every: int = Field(gt=0)
    n: int = Field(gt=0)

    def days(self) -> list[int]:
        """Give the days since 1970-01-01."""
        start = day_of(self.first)
        return [start + self.every * place for place in range(self.n)]


class AdvisorRecipe(Config):
    """A study: dates, ways of retrieval, ranker, baselines.

    `ways` maps a name to what differs from `retrieval`; each gets a ranker of its own. `customer_share` keeps a share
    of the customers in the judged cases, by a hash. `baselines`: `all`, or `light` without MF-BPR, LightGCN and hybrid.

    >>> AdvisorRecipe(name="x").test.n
    14
    """

    name: str
    app: Literal["advisor"] = "advisor"
    train: Dates = Dates(first="2019-08-02", every=28, n=18)
    valid: str = "2021-06-04"
    n_refit: int = Field(25, gt=0)
    test: Dates = Dates(first="2021-12-02", every=14, n=14)
    retrieval: RetrievalConfig = Field(default_factory=lambda: RetrievalConfig.parse({}))
    ranker: RankerConfig = Field(default_factory=lambda: RankerConfig.parse({}))
    ways: dict[str, dict[str, Any]] = Field(default_factory=lambda: {"multi": {}})
    baselines: Literal["all", "light"] = "all"
    customer_share: float = Field(1.0, gt=0, le=1)

    def way(self, name: str) -> RetrievalConfig:
        """Give the retrieval of a way. Errors: `ConfigError` for an unknown key."""
        return RetrievalConfig.parse(self.retrieval.model_dump() | self.ways[name], where=f"ways.{name}")


def read_advisor_recipe(path: str | Path) -> AdvisorRecipe:
    """Read a recipe and check it: no training window may reach past the first test date."""
    recipe = AdvisorRecipe.parse(read_toml(path), where=str(path))
    for name in recipe.ways:
        recipe.way(name)
    end = max(*_refit_days(recipe), *recipe.train.days(), day_of(recipe.valid)) + HORIZON
    if end > recipe.test.days()[0]:
        found = f"a window until {iso(end)}"
        raise ConfigError(f"training windows before {recipe.test.first}", found, where=str(path), fix="fewer dates")
    return recipe


def _refit_days(recipe: AdvisorRecipe) -> list[int]:
    return Dates(first=recipe.train.first, every=recipe.train.every, n=recipe.n_refit).days()


def day_of(text: str) -> int:
    """Read a date as days since 1970-01-01. Errors: `ConfigError`.

    >>> day_of("1970-01-02")
    1
    """
    try:
        return (dt.date.fromisoformat(text) - dt.date(1970, 1, 1)).days
    except ValueError:
        raise ConfigError("a date such as 2021-12-02", repr(text), where="date") from None


def objective_of(text: str | None) -> Objective | None:
    """Read the name of an objective. Errors: `ConfigError`."""
    for name in ("pref", "prof", "comb"):
        if text == name:
            return name
    if text is None:
        return None
    raise ConfigError("pref, prof or comb", repr(text), where="--objective")


def train_advisor(
    recipe: AdvisorRecipe, source: str | Path, graph: str | Path, out: str | Path, say: Say = print
) -> Path:
    """Fit one ranker per way of retrieval into RUN; ways that are there are left as they are."""
    out = Path(out)
    market = Market(read_far_trans(source))
    _remember(out, recipe, source, graph)
    for name in recipe.ways:
        folder = out / "rankers" / name
        if (folder / "ranker.json").is_file():
            say(f"{name}: there already")
            continue
        began = time.perf_counter()
        ranker = fit_ranker(
            market, recipe.train.days(), day_of(recipe.valid), _refit_days(recipe), recipe.ranker, recipe.way(name)
        )
        ranker.save(folder)
        say(f"{name}: {time.perf_counter() - began:.1f} s")
    return out


def _remember(out: Path, recipe: AdvisorRecipe, source: str | Path, graph: str | Path) -> None:
    kept = {"format": FORMAT, "recipe": recipe.model_dump(mode="json"), "source": str(Path(source).resolve()),
            "graph": str(Path(graph).resolve())}  # fmt: skip
    path = out / "recipe.json"
    if path.is_file() and json.loads(path.read_text("utf-8")) != kept:
        raise ConfigError(
            "the recipe, data and graph of this run", "others", where=str(path), fix="choose a new folder"
        )
    write_json(path, kept)


@dataclass(frozen=True)
class Run:
    """An open run: recipe, market, graph folder, rankers by name."""

    folder: Path
    recipe: AdvisorRecipe
    source: Path
    graph: Path
    market: Market
    rankers: dict[str, Ranker]


def open_run(folder: str | Path) -> Run:
    """Open RUN. Errors: `ArtifactError` when `habitus advisor train` has not been there."""
    folder = Path(folder)
    try:
        kept = json.loads((folder / "recipe.json").read_text("utf-8"))
    except (OSError, ValueError) as cause:
        fix = "habitus advisor train RECIPE --source DIR --graph GRAPH --out RUN"
        raise ArtifactError("a run of the advisor", str(cause), where=str(folder), fix=fix) from None
    if kept.get("format") != FORMAT:
        raise ArtifactError(f"format {FORMAT}", str(kept.get("format")), where=str(folder), fix="train again")
    recipe = AdvisorRecipe.parse(kept["recipe"], where=str(folder))
    rankers = {name: load_ranker(folder / "rankers" / name) for name in recipe.ways}
    source = Path(kept["source"])
    return Run(folder, recipe, source, Path(kept["graph"]), Market(read_far_trans(source)), rankers)


def evaluate_advisor(run: str | Path, say: Say = print) -> dict[str, Any]:
    """Judge every row on every test date; write RUN/metrics.json and give it."""
    opened = open_run(run)
    recipe = opened.recipe
    baselines = Baselines(opened.market, read_truth(opened.source), has_learnt=recipe.baselines == "all")
    missing = [day for day in recipe.test.days() if not _cases_file(opened.folder, day).is_file()]
    if missing and recipe.baselines == "all":
        baselines.hybrid = _fit_hybrid(baselines, recipe)
    for day in missing:
        began = time.perf_counter()
        found = _judge_day(opened, baselines, opened.market.view(day))
        with new_file(_cases_file(opened.folder, day)) as beside, beside.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **found)
        n = len(found["customer"])
        say(f"{iso(day)}: {n:,} cases, {time.perf_counter() - began:.0f} s")
    metrics = _summed(opened)
    write_json(opened.folder / "metrics.json", metrics)
    return metrics


def _cases_file(folder: Path, day: int) -> Path:
    return folder / "cases" / f"{iso(day)}.npz"


def _fit_hybrid(baselines: Baselines, recipe: AdvisorRecipe) -> Callable[[dict[str, np.ndarray]], np.ndarray]:
    rows = []
    for day in _refit_days(recipe)[-1::-6][:2]:
        view = baselines.market.view(day)
        people = active_customers(view)[:: max(len(active_customers(view)) // 3000, 1)]
        trades = view.trades(people)
        label = view.outcome(people).bought
        rows.append((baselines.scores(view, trades), label, view.is_open))
    return fit_hybrid(rows, baselines.seed)


def _judge_day(run: Run, baselines: Baselines, view: View) -> dict[str, np.ndarray]:
    people = active_customers(view)
    keep = uniforms(0, people.astype(np.uint64), stream="customers judged") < run.recipe.customer_share
    parts = [_judge_block(run, baselines, view, block) for block in _blocks(people[keep])]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _blocks(people: np.ndarray) -> list[np.ndarray]:
    return np.array_split(people, max(-(-len(people) // BLOCK), 1))


def _judge_block(run: Run, baselines: Baselines, view: View, people: np.ndarray) -> dict[str, np.ndarray]:
    trades, outcome = view.trades(people), view.outcome(people)
    had = trades.matrix(trades.is_buy.astype(np.float64), view.n_assets) > 0
    units = trades.matrix(np.where(trades.is_buy, trades.units, -trades.units), view.n_assets)
    kept: dict[str, Any] = {
        "customer": people,
        "day": np.full(len(people), view.day),
        "n_trades": np.bincount(trades.row, minlength=len(people)),
        "is_cond": (outcome.good & view.is_open).any(1),
        "has_buy": outcome.bought.any(1),
    }
    rows: dict[str, Judged] = {
        name: judge_scores(view, scores, outcome, had) for name, scores in baselines.scores(view, trades).items()
    }
    rows["hindsight"] = judge_scores(view, 2.0 * outcome.good + outcome.bought, outcome, had)
    for name, ranker in run.rankers.items():
        found = retrieve_many(view, trades, ranker.retrieval)
        objectives = ("pref", "prof", "comb") if name == "multi" else (ranker.config.objective,)
        for objective in objectives:
            lists, _ = rank(ranker, view, trades, found, objective)
            label = f"{name}, {objective}"
            rows[label] = judge_lists(lists[:, :LONG], _without(lists, had), outcome, had)
        kept[f"{name}|tail"] = tail_recall(view, found.assets, outcome, units > 1e-4).astype(np.float32)
    for name, judged in rows.items():
        kept |= {f"{name}|{figure}": values for figure, values in judged.figures.items()}
    return kept


def _without(lists: np.ndarray, had: np.ndarray) -> np.ndarray:
    """Move assets that a customer had to the end as empty places; give the first ten."""
    is_new = (lists >= 0) & ~np.take_along_axis(had, np.maximum(lists, 0), 1)
    order = np.argsort(~is_new, axis=1, kind="stable")
    moved = np.where(np.take_along_axis(is_new, order, 1), np.take_along_axis(lists, order, 1), -1)
    return moved[:, :LONG]


def _summed(run: Run) -> dict[str, Any]:
    parts = []
    for day in run.recipe.test.days():
        with np.load(_cases_file(run.folder, day)) as kept:
            parts.append({name: kept[name] for name in kept.files})
    cases = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    sure, cond = Intervals(cases["customer"]), cases["is_cond"]
    names = list(dict.fromkeys(name.split("|")[0] for name in cases if "|" in name and not name.endswith("|tail")))
    rows = {
        name: {"all": {figure: sure.mean(cases[f"{name}|{figure}"]) for figure in FIGURES},
               "cond": {figure: sure.mean(cases[f"{name}|{figure}"], cond) for figure in FIGURES[:6]}}
        for name in names
    }  # fmt: skip
    tails = {name: sure.mean(cases[f"{name}|tail"]) for name in run.rankers}
    pairs = _differences(cases, sure, list(run.rankers))
    return {
        "format": FORMAT, "name": run.recipe.name, "n_cases": len(cond), "n_customers": sure.n,
        "dates": [iso(day) for day in run.recipe.test.days()],
        "excluded_share_of_cond": float(1 - cond.mean()), "share_with_buy": float(cases["has_buy"].mean()),
        "rows": rows, "tail_recall": tails, "differences": pairs, "left_out": run.market.source.left_out,
        "slices": _slices(cases, sure, list(run.rankers)), "market": _market_roi(run), "unparsable": 0,
    }  # fmt: skip


def _differences(cases: dict[str, np.ndarray], sure: Intervals, ways: list[str]) -> list[dict[str, Any]]:
    """Paired differences of the first way to each other way and to the strongest simple rows."""
    first = next((f"{ways[0]}, {o}" for o in ("comb", "pref", "prof") if f"{ways[0]}, {o}|comb" in cases), "")
    others = ["popularity", "popularity 180", "holdings, popularity", "item kNN", "LightGCN"]
    others += [f"{way}, comb" for way in ways[1:]]
    rows = [
        {"row": first, "against": other, "figure": figure, "cases": which}
        | sure.mean(cases[f"{first}|{figure}"] - cases[f"{other}|{figure}"], keep)
        for other in others if f"{other}|comb" in cases
        for figure in ("pref", "prof", "comb")
        for which, keep in (("all", None), ("cond", cases["is_cond"]))
    ]  # fmt: skip
    pref = f"{ways[0]}, pref"
    for other in ("oracle P(buy)", "popularity"):
        if f"{other}|pref" in cases and f"{pref}|pref" in cases:
            difference = cases[f"{pref}|pref"] - cases[f"{other}|pref"]
            rows.append({"row": pref, "against": other, "figure": "pref", "cases": "cond"}
                        | sure.mean(difference, cases["is_cond"]))  # fmt: skip
    for other in ways[1:]:
        difference = cases[f"{ways[0]}|tail"] - cases[f"{other}|tail"]
        rows.append({"row": ways[0], "against": other, "figure": "tail", "cases": "all"} | sure.mean(difference))
    return rows


def _slices(cases: dict[str, np.ndarray], sure: Intervals, ways: list[str]) -> list[dict[str, Any]]:
    """Comb@3 by how much a customer has traded."""
    rows = []
    for low, high in ((1, 3), (4, 20), (21, 100), (101, 10**9)):
        inside = (cases["n_trades"] >= low) & (cases["n_trades"] <= high)
        for name in (f"{ways[0]}, comb", "holdings, popularity", "popularity"):
            if f"{name}|comb" in cases:
                span = f"{low} to {high} trades" if high < 10**9 else f"{low} trades and more"
                rows.append({"slice": span, "row": name} | sure.mean(cases[f"{name}|comb"], inside))
    return rows


def _market_roi(run: Run) -> float:
    """Mean monthly return of the equal-weight portfolio of all open assets, over the test dates."""
    found = []
    for day in run.recipe.test.days():
        view = run.market.view(day)
        monthly = view.outcome(np.zeros(0, np.int64)).monthly
        found.append(np.nanmean(monthly[view.is_open]))
    return float(np.mean(found))
