"""A fitted model of personas as a folder: encoder, lookup store, trees, network, mix. Nothing in it runs code.

facts.json terms.json encoder.npz lookup.duckdb rare.safetensors
trees/pooled.txt trees/gate.txt trees/persona-N.txt
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from habitus.apps.personas.combine import Mix, Parts, rare_of, shares
from habitus.apps.personas.design import Design, Designer
from habitus.apps.personas.encode import TextEncoder
from habitus.apps.personas.frequent import Trees
from habitus.apps.personas.lookup import LookupStore
from habitus.apps.personas.rare import RareNet
from habitus.apps.personas.rows import Rows
from habitus.apps.personas.settings import PersonasRecipe, recipe_of
from habitus.core.errors import ArtifactError
from habitus.metrics.calibration import Calibrator, calibrate, calibrator_from_json, calibrator_to_json

FORMAT = 1


@dataclass
class PersonaModel:
    """Everything that answering needs. `n_rows` are the training rows per persona."""

    recipe: PersonasRecipe
    designer: Designer
    pooled: Trees
    gate: Trees
    gate_map: Calibrator | None
    by_persona: dict[int, Trees]
    net: RareNet
    n_rows: dict[int, int]
    mix: Mix = field(default_factory=lambda: Mix(()))

    def parts(self, rows: Rows, design: Design | None = None) -> Parts:
        """Give what each part says of rows that were not trained on."""
        design = design or self.designer.design(rows)
        return parts_of(self, design, rows.cluster)


def parts_of(model: PersonaModel, design: Design, cluster: np.ndarray) -> Parts:
    """Give what each part says of a design."""
    common = list(model.mix.common)
    x = with_persona(design.numbers, cluster)
    pooled = model.pooled.predict(x)
    rho = np.asarray(calibrate(model.gate_map, model.gate.predict(x)), np.float64)
    return Parts(
        pooled=pooled, lookup=design.shares["own"], persona_prior=design.shares["persona"],
        common=_common(model, design, cluster, shares(pooled[:, common])), rho=np.clip(rho, 1e-6, 1 - 1e-6),
        rare=model.net.predict(design, cluster), own=design.own, exact=design.exact,
    )  # fmt: skip


def _common(model: PersonaModel, design: Design, cluster: np.ndarray, pooled: np.ndarray) -> np.ndarray:
    """Blend the trees of each persona with the pooled ones: s = n / (n + half)."""
    found = pooled.copy()
    for persona in np.unique(cluster).tolist():
        trees = model.by_persona.get(persona)
        if trees is None:
            continue
        rows = np.flatnonzero(cluster == persona)
        own = shares(trees.predict(design.numbers[rows])[:, :2])
        weight = model.n_rows[persona] / (model.n_rows[persona] + model.recipe.trees.half)
        found[rows] = weight * own + (1 - weight) * pooled[rows]
    return found


def with_persona(numbers: np.ndarray, cluster: np.ndarray) -> np.ndarray:
    """Put the persona before the numbers, as the pooled trees read it."""
    return np.concatenate([cluster[:, None].astype(np.float32), numbers], axis=1)


def save_facts(folder: Path, model: PersonaModel, net: dict[str, Any], more: dict[str, Any]) -> None:
    """Write facts.json: what is no array and no tree."""
    facts: dict[str, Any] = {"format": FORMAT, "lift_weight": model.designer.lift_weight, "net": net, **more}
    facts["mix"] = model.mix.to_json()
    facts["gate_map"] = None if model.gate_map is None else calibrator_to_json(model.gate_map)
    facts["n_rows"] = {str(k): v for k, v in model.n_rows.items()}
    (folder / "facts.json").write_text(json.dumps(facts, indent=1) + "\n", "utf-8")


def load_model(run: str | Path) -> PersonaModel:
    """Open RUN/model. Errors: `ArtifactError` when it is absent, unfinished or of another format."""
    recipe, folder = recipe_of(run), Path(run) / "model"
    try:
        facts = json.loads((folder / "facts.json").read_text("utf-8"))
        if facts["format"] != FORMAT:
            raise ArtifactError(f"format {FORMAT}", f"format {facts['format']}", where=str(folder))
        encoder = TextEncoder.load(folder, recipe.text)
        net = RareNet.load(folder, facts["net"])
        trees = {path.stem: Trees(path.read_text("utf-8")) for path in sorted((folder / "trees").glob("*.txt"))}
        personas = {int(name.partition("-")[2]): each for name, each in trees.items() if name.startswith("persona-")}
        gate_map = None if facts["gate_map"] is None else calibrator_from_json(facts["gate_map"])
        mix, n_rows = Mix.from_json(facts["mix"]), {int(k): v for k, v in facts["n_rows"].items()}
        pooled, gate = trees["pooled"], trees["gate"]
    except (OSError, KeyError, ValueError) as cause:
        fix = "the same `habitus personas fit` again goes on with what is missing"
        raise ArtifactError("a finished model", str(cause), where=str(folder), fix=fix) from None
    store = LookupStore(folder / "lookup.duckdb", len(recipe.labels))
    designer = Designer(recipe, encoder, store, facts["lift_weight"])
    return PersonaModel(recipe, designer, pooled, gate, gate_map, personas, net, n_rows, mix)


def n_text_columns(design: Design) -> int:
    """Columns at the end of the numbers that repeat the text vector."""
    return sum(name.startswith("text_") for name in design.names)


def rare_places(model: PersonaModel) -> np.ndarray:
    """Places of the rare actions among the labels."""
    return rare_of(model.mix.common, len(model.recipe.labels))
