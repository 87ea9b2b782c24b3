"""A run: the folder where a recipe's training, forecasts and figures gather.

RUN/recipe.toml       the recipe as given          RUN/seed-N/      checkpoints and logs, to resume
RUN/run.json          store, commit, hardware      RUN/artifact/    the trained model, to use
RUN/metrics.json      every figure                 RUN/report.html  the page
"""

from __future__ import annotations

import datetime as dt
import json
import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import habitus
from habitus.core.atomic import new_file, write_json
from habitus.core.errors import ArtifactError, ConfigError, FingerprintError
from habitus.core.remote import address_of, fetch_folder, mirror
from habitus.data.store import Store
from habitus.tasks.event_recipe import EventRecipe, read_recipe
from habitus.tasks.lurm_recipe import LurmRecipe
from habitus.tasks.recipe import Recipe

R = TypeVar("R", bound=Recipe | EventRecipe | LurmRecipe)


@dataclass(frozen=True)
class Run(Generic[R]):
    """An opened run folder, of user-days or of events as its recipe says."""

    path: Path
    recipe: R
    store: Store

    @property
    def artifact_path(self) -> Path:
        """Where the trained model lives."""
        return self.path / "artifact"


def start_run(recipe_path: str | Path, out: str | Path | None = None, store: str | Path | None = None) -> Run:
    """Make a run folder for a recipe, or open the one there to resume it.

    Errors: `ConfigError` when the folder holds a run of another recipe; `FingerprintError` when the store has changed
    since that run began.
    """
    recipe = read_recipe(recipe_path)
    path = Path(out) if out is not None else Path("runs") / recipe.name
    opened = Store.open(store if store is not None else recipe.store)
    text = Path(recipe_path).read_text("utf-8")
    if (path / "run.json").is_file():
        _check_same(path, text, opened)
        return Run(path, recipe, opened)
    path.mkdir(parents=True, exist_ok=True)
    with new_file(path / "recipe.toml") as beside:
        beside.write_text(text, "utf-8")
    facts = {"name": recipe.name, "store": opened.address, "store_fingerprint": opened.fingerprint}
    write_json(path / "run.json", facts | provenance())
    return Run(path, recipe, opened)


def open_run(path: str | Path | Run, store: str | Path | None = None) -> Run:
    """Open a run folder, here or by its address, or give back a run that is open; `store` overrides where its log was.

    Errors: `ArtifactError` when the folder is not a run; `StoreError` when the log is not a store.
    """
    if isinstance(path, Run):
        return path if store is None else Run(path.path, path.recipe, Store.open(store))
    if (address := address_of(path)) is not None:
        path = fetch_folder(address, mirror(address), without="seed-")
    path = Path(path)
    if not (path / "run.json").is_file():
        raise ArtifactError(
            "a run folder with run.json", "none", where=str(path), fix="run `habitus train RECIPE` first"
        )
    facts = json.loads((path / "run.json").read_text("utf-8"))
    return Run(path, read_recipe(path / "recipe.toml"), Store.open(store if store is not None else facts["store"]))


def of_days(run: Run[Any]) -> Run[Recipe]:
    """Give the run back if it is one of user-days. Errors: `ConfigError` for a run of another kind."""
    if not isinstance(run.recipe, Recipe):
        kind = "events" if isinstance(run.recipe, EventRecipe) else "whole lives"
        found = f"a run of {kind} ({run.recipe.model['name']})"
        raise ConfigError("a run of user-days", found, where=str(run.path), fix="train a recipe of LUMOS for this")
    return run


def read_metrics(run: Path) -> dict[str, Any]:
    """Read the run's figures; none yet gives an empty mapping."""
    file = run / "metrics.json"
    return json.loads(file.read_text("utf-8")) if file.is_file() else {}


def update_metrics(run: Path, sections: dict[str, Any]) -> dict[str, Any]:
    """Replace some sections of metrics.json, atomically, and give the whole."""
    whole = {"format": 1} | read_metrics(run) | sections
    write_json(run / "metrics.json", whole)
    return whole


def provenance() -> dict[str, str]:
    """Tell when, where and from which code a figure came: created, commit, hardware, versions."""
    import torch

    return {
        "created": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "hardware": _hardware(),
        "versions": f"habitus {habitus.__version__}, torch {torch.__version__}, Python {platform.python_version()}",
    }


def _commit() -> str:
    """Give the commit of the source tree, with a mark when it has uncommitted changes; the version when installed."""
    source = Path(habitus.__file__).parent
    if shutil.which("git") is None:
        return habitus.__version__
    ask = ["git", "-C", str(source), "describe", "--always", "--dirty", "--abbrev=10"]
    answer = subprocess.run(ask, capture_output=True, text=True, check=False)
    return answer.stdout.strip() if answer.returncode == 0 else habitus.__version__


def _hardware() -> str:
    import torch

    name = platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = (line for line in info.read_text("utf-8", "replace").splitlines() if line.startswith("model name"))
        name = next((line.partition(":")[2].strip() for line in lines), name)
    gpu = f", {torch.cuda.get_device_name(0)}" if torch.cuda.is_available() else ", no GPU"
    return f"{os.cpu_count()} cores, {name}{gpu}"


def _check_same(path: Path, text: str, store: Store) -> None:
    fix = "choose another --out, or remove the folder"
    if (path / "recipe.toml").read_text("utf-8") != text:
        raise ConfigError("the recipe this run began with", "another one", where=str(path / "recipe.toml"), fix=fix)
    began = json.loads((path / "run.json").read_text("utf-8"))["store_fingerprint"]
    if began != store.fingerprint:
        raise FingerprintError(
            f"the store this run began with ({began[:12]})", store.fingerprint[:12], where=str(store.path), fix=fix
        )
