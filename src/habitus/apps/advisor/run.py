"""A study of advice as a recipe and a folder: train a ranker per way of retrieval, judge all rows on the same cases.

RUN/recipe.json   what was chosen, and where data and graph lay
RUN/rankers/NAME  one folder per way of retrieval
RUN/cases/DATE    figures per case of one test date; a killed `evaluate` goes on with the next date
RUN/checks/DATE   citations of a sample of answers of that date, checked
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

from pydantic import Field

from habitus.apps.advisor.graph import iso
from habitus.apps.advisor.market import HORIZON, Market
from habitus.apps.advisor.rank import Objective, Ranker, RankerConfig, fit_ranker, load_ranker
from habitus.apps.advisor.select import RetrievalConfig
from habitus.core.atomic import write_json
from habitus.core.config import Config, read_toml
from habitus.core.errors import ArtifactError, ConfigError
from habitus.data.sources.far_trans import read_far_trans

FORMAT = 2
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
    The citations of `n_checked` answers of each test date are checked.

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
    n_checked: int = Field(100, ge=0)

    def way(self, name: str) -> RetrievalConfig:
        """Give the retrieval of a way. Errors: `ConfigError` for an unknown key."""
        return RetrievalConfig.parse(self.retrieval.model_dump() | self.ways[name], where=f"ways.{name}")


def read_advisor_recipe(path: str | Path) -> AdvisorRecipe:
    """Read a recipe and check it: no training window may reach past the first test date."""
    recipe = AdvisorRecipe.parse(read_toml(path), where=str(path))
    for name in recipe.ways:
        recipe.way(name)
    end = max(*refit_days(recipe), *recipe.train.days(), day_of(recipe.valid)) + HORIZON
    if end > recipe.test.days()[0]:
        found = f"a window until {iso(end)}"
        raise ConfigError(f"training windows before {recipe.test.first}", found, where=str(path), fix="fewer dates")
    return recipe


def refit_days(recipe: AdvisorRecipe) -> list[int]:
    """Give the days of the last fit."""
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
            market, recipe.train.days(), day_of(recipe.valid), refit_days(recipe), recipe.ranker, recipe.way(name)
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
