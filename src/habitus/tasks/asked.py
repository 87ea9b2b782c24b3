"""What the model of a run says about samples, and whether two runs may be set side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from habitus.core.errors import ConfigError, CutoffError, FingerprintError, TargetError
from habitus.data.cutoffs import Samples, samples_of
from habitus.models.artifact import Artifact, load_artifact
from habitus.models.lumos import LumosOutput
from habitus.tasks.forecast import Forecast, Heads, ask, read_answers
from habitus.tasks.recipe import Recipe
from habitus.tasks.run import Run, of_days, open_run
from habitus.tokens.loader import prepare
from habitus.tokens.spec import InputSpec


@dataclass(frozen=True)
class Asked:
    """The answers of one run's model about samples.

    Attributes
    ----------
    whole
        The forecast of the ensemble; columns in the order of the run's own targets.
    members
        The forecast of each member alone.
    raw
        Raw head outputs, one per member.
    """

    artifact: Artifact
    spec: InputSpec
    heads: Heads
    whole: Forecast
    members: list[Forecast]
    raw: list[LumosOutput]


def asked(run: Run, samples: Samples) -> Asked:
    """Ask the trained model of a run about samples of its store. Errors: `ArtifactError` before training."""
    artifact = load_artifact(run.artifact_path)
    spec = InputSpec.from_json(artifact.spec)
    heads = Heads(artifact.heads, artifact.day_heads)
    inputs = prepare(run.store, spec, samples, has_targets=False)
    raw = ask(artifact.members, [inputs])[0]
    whole = read_answers(raw, heads, inputs, artifact.calibration)
    members = [read_answers([one], heads, inputs, artifact.calibration) for one in raw]
    return Asked(artifact, spec, heads, whole, members, raw)


def open_others(run: Run, others: Sequence[str | Path | Run], samples: Samples) -> dict[str, Run]:
    """Open the runs that `run` is set beside, by a name of their own: that of the recipe, else that of the folder.

    Errors: `FingerprintError` for another store, `CutoffError` for other test samples, `TargetError` for a target that
    the other run lacks or measures otherwise, `ConfigError` for the run itself or two runs of one name.
    """
    opened = [of_days(open_run(other, run.store.path)) for other in others]
    names = [other.recipe.name for other in opened]
    found: dict[str, Run] = {}
    for other, name in zip(opened, names):
        where = str(other.path)
        if other.path.resolve() == run.path.resolve():
            raise ConfigError("another run", "the run itself", where=where)
        label = name if names.count(name) == 1 and name != run.recipe.name else other.path.name
        if label in found:
            raise ConfigError("runs that differ in name", f"two called {label!r}", where=where, fix="rename a folder")
        _check_store(run, other, where)
        _check_samples(samples, samples_of(other.store, other.recipe.cutoffs, "test"), where)
        columns_of(run.recipe, other.recipe, where)
        found[label] = other
    return found


def columns_of(recipe: Recipe, other: Recipe, where: str = "") -> list[int]:
    """Give, per target of `recipe`, its place among the targets of `other`. Errors: `TargetError`."""
    theirs = {target.name: k for k, target in enumerate(other.targets)}
    places = []
    for target in recipe.targets:
        k = theirs.get(target.name)
        if k is None or str(other.targets[k].target) != str(target.target):
            found = "no such target" if k is None else other.targets[k].define
            raise TargetError(f"a target {target.name} = {target.define!r} in both runs", found, where=where)
        places.append(k)
    return places


def _check_store(run: Run, other: Run, where: str) -> None:
    trained_on = json.loads((other.path / "run.json").read_text("utf-8"))["store_fingerprint"]
    ours = json.loads((run.path / "run.json").read_text("utf-8"))["store_fingerprint"]
    if trained_on != ours:
        raise FingerprintError(f"a run on the same store ({ours[:12]})", trained_on[:12], where=where)


def _check_samples(samples: Samples, others: Samples, where: str) -> None:
    same = np.array_equal(samples.user, others.user) and np.array_equal(samples.cutoff, others.cutoff)
    if not same:
        raise CutoffError(
            f"the same test samples ({len(samples):,})",
            f"{len(others):,} others",
            where=where,
            fix="give both recipes the same test cut-offs, horizon and conditions",
        )
