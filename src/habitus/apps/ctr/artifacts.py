"""A fitted model of clicks as a folder: feature spec, weights, calibration map; nothing that runs code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from habitus.apps.ctr.evaluate import probability
from habitus.apps.ctr.examples import Examples
from habitus.apps.ctr.linear import LinearConfig, LinearScorer
from habitus.apps.ctr.spec import FeatureSpec
from habitus.apps.ctr.train import NetConfig, NetScorer, Scorer
from habitus.apps.ctr.trees import CodeRates, TreesScorer
from habitus.core.atomic import new_folder, write_json
from habitus.core.errors import ArtifactError, FingerprintError
from habitus.metrics.calibration import Calibrator, calibrate, calibrator_from_json, calibrator_to_json
from habitus.models.artifact import Card, load_artifact, save_artifact
from habitus.models.heads import Head

FORMAT = 2
_KINDS = {NetScorer: "net", LinearScorer: "linear", TreesScorer: "trees"}


@dataclass(frozen=True)
class ClickModel:
    """A scorer, the spec of what it reads, and the map fitted on the validation day."""

    scorer: Scorer
    spec: FeatureSpec
    calibrator: Calibrator | None

    def probabilities(self, examples: Examples) -> np.ndarray:
        """Give calibrated probabilities, float64 [n].

        Errors: `FingerprintError` when the examples were made with another spec.
        """
        if examples.spec.fingerprint != self.spec.fingerprint:
            fix = "make the examples with the spec of the model"
            raise FingerprintError(f"spec {self.spec.fingerprint}", examples.spec.fingerprint, fix=fix)
        return calibrate(self.calibrator, probability(self.scorer.logits(examples)))


def save_click_model(path: str | Path, model: ClickModel) -> Path:
    """Write the folder beside, then rename it. A network lies in `net/`, an artifact of the house."""
    kind, scorer = _KINDS[type(model.scorer)], model.scorer
    with new_folder(path, replace=True) as folder:
        model.spec.save(folder / "spec.npz")
        facts: dict[str, Any] = {"format": FORMAT, "kind": kind, "fingerprint": model.spec.fingerprint}
        facts["calibration"] = None if model.calibrator is None else calibrator_to_json(model.calibrator)
        if isinstance(scorer, NetScorer):
            facts |= {"config": scorer.config.model_dump(mode="json"), "shift": scorer.shift}
            if scorer.start is not None:
                facts["start"] = _put_linear(folder, scorer.start)
            save_artifact(
                folder / "net",
                [scorer.model],
                name=scorer.config.name,
                spec={"static": list(model.spec.static_names), "dense": list(model.spec.dense_names)},
                fingerprint=model.spec.fingerprint,
                heads=[Head("binary", "click", 1)],
                card=Card(f"{scorer.config.name}: clicks", limits=["Holds for the log it was trained on."]),
            )
        elif isinstance(scorer, LinearScorer):
            facts |= _put_linear(folder, scorer)
        elif isinstance(scorer, TreesScorer):
            rates = scorer.rates
            facts |= {"small": list(scorer.small), "large": rates.places, "sizes": rates.sizes, "prior": rates.prior}
            facts["n_rounds"] = scorer.n_rounds
            if scorer.start is not None:
                facts["start"] = _put_linear(folder, scorer.start)
            (folder / "trees.txt").write_text(scorer.text, "utf-8")
            tables = {f"{name}_{i}": t for name in ("clicks", "views") for i, t in enumerate(getattr(rates, name))}
            np.savez(folder / "rates.npz", days=rates.days, rate=rates.rate, **tables)
        write_json(folder / "model.json", facts)
    return Path(path)


def load_click_model(path: str | Path) -> ClickModel:
    """Open what `save_click_model` wrote. Errors: `ArtifactError` when the folder is not one of these."""
    folder = Path(path)
    try:
        facts = json.loads((folder / "model.json").read_text("utf-8"))
        if facts["format"] != FORMAT:
            raise ArtifactError(f"format {FORMAT}", f"format {facts['format']}", where=str(folder))
        spec = FeatureSpec.load(folder / "spec.npz")
        scorer = _READERS[facts["kind"]](folder, facts)
    except (OSError, KeyError, ValueError) as cause:
        raise ArtifactError("a folder with model.json and its weights", str(cause), where=str(folder)) from None
    given = facts["calibration"]
    return ClickModel(scorer, spec, None if given is None else calibrator_from_json(given))


def _net(folder: Path, facts: Mapping[str, Any]) -> NetScorer:
    found = load_artifact(folder / "net", fingerprint=facts["fingerprint"])
    config, start = NetConfig.parse(facts["config"], where=str(folder)), facts.get("start")
    return NetScorer(found.members[0], config, facts["shift"], start=None if start is None else _linear(folder, start))


def _put_linear(folder: Path, scorer: LinearScorer) -> dict[str, Any]:
    at = np.flatnonzero(scorer.weight)
    np.savez(folder / "weights.npz", at=at, weight=scorer.weight[at])
    return {"config": scorer.config.model_dump(mode="json"), "shift": scorer.shift, "size": scorer.weight.size}


def _linear(folder: Path, facts: Mapping[str, Any]) -> LinearScorer:
    weight = np.zeros(facts["size"])
    with np.load(folder / "weights.npz", allow_pickle=False) as arrays:
        weight[arrays["at"]] = arrays["weight"]
    return LinearScorer(weight, facts["shift"], LinearConfig.parse(facts["config"], where=str(folder)))


def _trees(folder: Path, facts: Mapping[str, Any]) -> TreesScorer:
    large, start = tuple(tuple(place) for place in facts["large"]), facts.get("start")
    with np.load(folder / "rates.npz", allow_pickle=False) as arrays:
        clicks, views = (tuple(arrays[f"{name}_{i}"] for i in range(len(large))) for name in ("clicks", "views"))
        rates = CodeRates(large, tuple(facts["sizes"]), arrays["days"], clicks, views, arrays["rate"], facts["prior"])
    text = (folder / "trees.txt").read_text("utf-8")
    begin = None if start is None else _linear(folder, start)
    return TreesScorer(text, tuple(facts["small"]), rates, facts["n_rounds"], begin)


_READERS = {"net": _net, "linear": _linear, "trees": _trees}
