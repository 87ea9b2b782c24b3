"""A study as a recipe and a folder: every world of it is played once, then measured together.

RUN/recipe.toml   the recipe as given        RUN/worlds/NAME/PAIR.npz   what happened in one set of worlds
RUN/run.json      store, commit, hardware    RUN/metrics.json           every figure
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from habitus.apps.bubble.catalogue import LogConfig, read_log
from habitus.apps.bubble.findings import findings_of
from habitus.apps.bubble.groups import group_table
from habitus.apps.bubble.kinds import FAMILY, check_recommender, make_recommender
from habitus.apps.bubble.loop import LoopConfig, Played, Stage, play
from habitus.apps.bubble.measure import measure
from habitus.apps.bubble.policies import PolicyConfig, RulePolicy
from habitus.apps.bubble.traits import AgentConfig, make_agents
from habitus.core.atomic import new_file, plain, write_json
from habitus.core.config import Config, read_toml
from habitus.core.errors import ArtifactError, ConfigError
from habitus.data.store import Store
from habitus.tasks.run import provenance

FORMAT = 1
RULER = "mirror"  # the calibrated responder that the others are measured with


class SweepConfig(Config):
    """How the answer changes when slots are given to chance: shares, which recommenders, how many pairs.

    >>> SweepConfig(eps=(0.1, 0.5)).pairs
    3
    """

    eps: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
    recommenders: tuple[str, ...] = ()
    pairs: int = Field(3, ge=1)


class BubbleRecipe(Config):
    """A study, complete.

    `store` is a path, relative to the folder the command runs in. Each recommender is a table with `kind` and its own
    keys. `strengths` holds further settings of some of them, each a point of the scatter, played `strength_pairs`
    times. The ruler, a responder that mirrors what agents do, is always played beside them.
    """

    name: str
    app: Literal["bubble"] = "bubble"
    store: str
    log: LogConfig
    agents: AgentConfig = AgentConfig.parse({})
    policy: PolicyConfig = PolicyConfig.parse({})
    loop: LoopConfig = LoopConfig.parse({})
    recommenders: dict[str, dict[str, Any]] = Field(min_length=1)
    strengths: dict[str, tuple[dict[str, Any], ...]] = Field(default_factory=dict)
    strength_pairs: int = Field(2, ge=1)
    sweep: SweepConfig | None = None

    def checked(self, where: str) -> BubbleRecipe:
        """Check every recommender named. Errors: `ConfigError`."""
        for name, values in self.recommenders.items():
            check_recommender(values, where=f"{where}: recommenders.{name}")
        named = [*self.strengths, *(self.sweep.recommenders if self.sweep else ())]
        for name in named:
            if name not in self.recommenders:
                raise ConfigError(f"one of: {', '.join(self.recommenders)}", repr(name), where=where)
        for name, many in self.strengths.items():
            for values in many:
                check_recommender(self.recommenders[name] | values, where=f"{where}: strengths.{name}")
        if RULER in self.recommenders:
            raise ConfigError(f"a name other than {RULER!r}", "the ruler's", where=where)
        return self


@dataclass(frozen=True)
class Part:
    """One setting that is played `config.pairs` times: a recommender as it is, another strength, a share of chance."""

    label: str
    name: str
    values: dict[str, Any]
    config: LoopConfig
    role: str  # main, ruler, strength, eps

    @property
    def folder(self) -> str:
        """A name for the file system."""
        return "".join(c if c.isalnum() or c in "-_=." else "_" for c in self.label)


def read_bubble_recipe(path: str | Path) -> BubbleRecipe:
    """Read a recipe and check every recommender in it. Errors: `ConfigError`."""
    return BubbleRecipe.parse(read_toml(path), where=str(path)).checked(str(path))


def parts_of(recipe: BubbleRecipe, pairs: int | None = None) -> list[Part]:
    """List what a recipe plays: recommenders, the ruler, strengths, shares of chance; at most so many pairs of each."""
    every = _parts(recipe)
    if pairs is None:
        return every
    few = [part.config.model_copy(update={"pairs": min(pairs, part.config.pairs)}) for part in every]
    return [replace(part, config=config) for part, config in zip(every, few)]


def _parts(recipe: BubbleRecipe) -> list[Part]:
    loop = recipe.loop
    found = [Part(name, name, dict(values), loop, "main") for name, values in recipe.recommenders.items()]
    found.append(Part(RULER, RULER, {"kind": "responder", "rho": 1.0}, loop, "ruler"))
    few = loop.model_copy(update={"pairs": recipe.strength_pairs, "has_frozen": False})
    for name, many in recipe.strengths.items():
        for values in many:
            words = ", ".join(f"{k} {_word(v)}" for k, v in values.items())
            found.append(Part(f"{name}, {words}", name, recipe.recommenders[name] | values, few, "strength"))
    if recipe.sweep is not None:
        names = recipe.sweep.recommenders or tuple(n for n in recipe.recommenders)
        for name in names:
            for eps in recipe.sweep.eps:
                arms = {"eps": eps, "pairs": recipe.sweep.pairs, "has_frozen": False, "arms": loop.arms[:3]}
                config = loop.model_copy(update=arms)
                found.append(Part(f"{name}, eps {eps:g}", name, dict(recipe.recommenders[name]), config, "eps"))
    return found


def _word(value: Any) -> str:
    return " ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)


def make_stage(recipe: BubbleRecipe, store: Store) -> tuple[Stage, dict[str, Any]]:
    """Read the log, draw the agents, set the threshold; gives the stage and what is known of it."""
    catalogue, history = read_log(store, recipe.log)
    agents = make_agents(
        catalogue, history, recipe.agents, min_likes=recipe.log.min_likes, half_life=recipe.policy.half_life
    )
    popular = np.bincount(agents.likes.item, minlength=catalogue.n_items)
    policy = RulePolicy(agents, catalogue.share, popular, recipe.policy, n_list=recipe.loop.n_places)
    levels = {name: np.bincount(getattr(agents, name), minlength=4)[1:].tolist()
              for name in ("activity", "diversity", "conformity")}  # fmt: skip
    facts = {
        "n_users": len(history.users), "n_agents": len(agents), "n_sources": int(np.unique(agents.source).size),
        "n_items": catalogue.n_items, "n_categories": len(catalogue.categories), "n_likes": len(agents.likes.item),
        "n_held": len(agents.held.item), "is_repeated": catalogue.is_repeated, "theta": policy.theta,
        "levels": levels, "agents": agents.facts,
    }  # fmt: skip
    return Stage(catalogue, agents, policy), facts


def run_bubble(
    recipe_path: str | Path,
    out: str | Path | None = None,
    *,
    store: str | Path | None = None,
    workers: int = 2,
    pairs: int | None = None,
    say: Callable[[str], Any] = print,
) -> Path:
    """Play what is not there yet of every world of a recipe, measure all, write RUN/metrics.json.

    A killed call goes on with the next set of worlds. Figures do not depend on `workers`. `pairs` stops after so many
    pairs: a first look, which a later call without it goes on from.

    Errors: `ConfigError` when the folder holds a run of another recipe; `StoreError` when the log is not a store.
    """
    recipe = read_bubble_recipe(recipe_path)
    path = Path(out) if out is not None else Path("runs") / recipe.name
    opened = Store.open(store if store is not None else recipe.store)
    text = Path(recipe_path).read_text("utf-8")
    is_begun = _is_begun(path, text, opened)
    stage, facts = make_stage(recipe, opened)  # a log that does not fit leaves no folder behind
    if not is_begun:
        _begin(path, text, opened)
    say(f"{facts['n_agents']:,} agents, {facts['n_items']:,} items, {facts['n_categories']} categories")
    began, parts = time.perf_counter(), parts_of(recipe, pairs)
    todo = [(part, pair) for pair in range(max(p.config.pairs for p in parts)) for part in parts
            if pair < part.config.pairs and not _file(path, part, pair).is_file()]  # fmt: skip
    for number, (part, pair, seconds) in enumerate(_played(path, stage, todo, workers), 1):
        say(f"{part.label}, pair {pair + 1}: {seconds:.0f} s ({number} of {len(todo)})")
    played = time.perf_counter() - began
    metrics = measure_run(path, recipe, stage, facts, pairs)
    metrics["wall"] = {"played": played, "workers": workers, "n_played": len(todo)}
    write_json(path / "metrics.json", plain(metrics))
    return path


def measure_run(
    path: Path, recipe: BubbleRecipe, stage: Stage, facts: dict[str, Any], pairs: int | None = None
) -> dict[str, Any]:
    """Measure the worlds in a folder: one row per part, groups of the main ones, and the published findings."""
    rows, groups = [], {}
    for part in parts_of(recipe, pairs):
        played = [Played.load(_file(path, part, pair)) for pair in range(part.config.pairs)]
        found = measure(stage, played, part.config)
        kind = str(part.values["kind"])
        facts_of = {"label": part.label, "name": part.name, "kind": kind, "family": FAMILY[kind], "role": part.role}
        rows.append(facts_of | {"eps": part.config.eps} | found.facts)
        if part.role == "main":
            groups[part.label] = group_table(found.gap_user, stage.agents.source, stage.agents.groups)
    ruler = next(row["gap"]["value"] for row in rows if row["role"] == "ruler")
    for row in rows:
        row["rel"] = row["gap"]["value"] / ruler if abs(ruler) > 1e-9 else None
    made = json.loads((path / "run.json").read_text("utf-8"))
    loop = recipe.loop.model_dump(mode="json") | {"pairs": rows[0]["n_pairs"]}
    return {"format": FORMAT, "name": recipe.name, "made": made, "log": facts, "loop": loop, "rows": rows,
            "groups": groups, "findings": findings_of(rows)}  # fmt: skip


def read_run(path: str | Path) -> dict[str, Any]:
    """Read RUN/metrics.json. Errors: `ArtifactError` when the run is not finished, or no run."""
    path = Path(path)
    try:
        return json.loads((path / "metrics.json").read_text("utf-8"))
    except (OSError, ValueError) as cause:
        fix = "habitus bubble run RECIPE; the same call again goes on"
        raise ArtifactError("RUN/metrics.json", str(cause), where=str(path), fix=fix) from None


def open_bubble(path: str | Path, store: str | Path | None = None) -> tuple[BubbleRecipe, Stage]:
    """Open a run folder: its recipe, and its stage made again. Errors: `ArtifactError`, `StoreError`."""
    path = Path(path)
    if not (path / "run.json").is_file():
        raise ArtifactError("a run of habitus bubble", "no run.json", where=str(path), fix="habitus bubble run RECIPE")
    made = json.loads((path / "run.json").read_text("utf-8"))
    recipe = read_bubble_recipe(path / "recipe.toml")
    return recipe, make_stage(recipe, Store.open(store if store is not None else made["store"]))[0]


def _file(path: Path, part: Part, pair: int) -> Path:
    return path / "worlds" / part.folder / f"{pair}.npz"


def _is_begun(path: Path, text: str, store: Store) -> bool:
    """Whether the folder is a run already; then it must be of the same recipe and log."""
    fix = "choose another --out, or remove the folder"
    if (path / "run.json").is_file():
        if (path / "recipe.toml").read_text("utf-8") != text:
            raise ConfigError("the recipe this run began with", "another one", where=str(path / "recipe.toml"), fix=fix)
        began = json.loads((path / "run.json").read_text("utf-8"))["store_fingerprint"]
        if began != store.fingerprint:
            raise ConfigError("the store this run began with", "another one", where=str(store.path), fix=fix)
        return True
    return False


def _begin(path: Path, text: str, store: Store) -> None:
    """Write the recipe and what the run stands on."""
    path.mkdir(parents=True, exist_ok=True)
    with new_file(path / "recipe.toml") as beside:
        beside.write_text(text, "utf-8")
    write_json(
        path / "run.json", {"store": str(store.path.resolve()), "store_fingerprint": store.fingerprint} | provenance()
    )


_HERE: dict[str, Any] = {}  # of a worker process: the stage and the folder


def _enter(path: Path, stage: Stage) -> None:
    _HERE.update(path=path, stage=stage)


def _one(part: Part, pair: int) -> float:
    """Play one set of worlds in this process and keep it."""
    stage = _HERE["stage"]
    played = play(stage, lambda: make_recommender(part.values, stage.catalogue, where=part.label), part.config, pair)
    played.save(_file(_HERE["path"], part, pair))
    return played.facts["seconds"]


def _played(path: Path, stage: Stage, todo: list[tuple[Part, int]], workers: int) -> Iterator[tuple[Part, int, float]]:
    """Play all, as many at once as there are workers."""
    if workers < 2 or len(todo) < 2:
        _enter(path, stage)
        for part, pair in todo:
            yield part, pair, _one(part, pair)
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), _enter, (path, stage)) as pool:
        waiting = {pool.submit(_one, part, pair): (part, pair) for part, pair in todo}
        for done in as_completed(waiting):
            yield *waiting[done], done.result()
