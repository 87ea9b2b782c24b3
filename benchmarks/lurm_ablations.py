"""LURM with one thing changed at a time: what each does to a linear probe, beside the raw bag.

python -m benchmarks.lurm_ablations [--only NAME ...] [--size small|full] [--width 256] [--epochs 5]

Anchors and scales have parts of their own in benchmarks.lurm. Rows are differences to the raw
bag's AUC, mean over labels.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch

from benchmarks._lurm_tasks import STUDIES, Study, study
from benchmarks._lurm_worlds import WORLDS
from benchmarks.lurm import config, report
from habitus.models.lurm import LurmConfig
from habitus.tasks.lurm_fit import ViewConfig, encode, fit_lurm, training_config
from habitus.tasks.probe import probe_features
from habitus.tokens.bags import raw_bag
from habitus.training.objectives.contrastive import ContrastiveConfig

WAYS: dict[str, dict[str, dict[str, Any]]] = {
    "LURM": {},
    "the start alone": {"training": {}},
    "random start": {"model": {"start": "random"}},
    "no straight way": {"model": {"is_straight": False}},
    "paper form": {"model": {"paper_form": True}, "objective": {"paper_form": True}},
    "without other": {"objective": {"other": 0.0}},
    "without decor": {"objective": {"decor": 0.0}},
    "without both": {"objective": {"paper_form": True}},
    "barlow": {"objective": {"kind": "barlow"}},
    "mass by share": {"model": {"mass": "share"}},
    "no mass": {"model": {"mass": "none"}},
    "views by blocks": {"views": {"blocks": 1.0, "baskets": 0.0}},
    "views by baskets": {"views": {"blocks": 0.0, "baskets": 1.0}},
    "views past | future": {"views": {"blocks": 0.0, "baskets": 0.0}},
    "64 interests kept": {"model": {"top": 64}},
    "2,048 interests kept": {"model": {"top": 2048}},
}


def main() -> None:
    """Fit every way on the asked logs and worlds, and probe."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=("small", "full"), default="small")
    parser.add_argument("--only", nargs="*", default=["ml_100k", "wide"], choices=[*STUDIES, *WORLDS])
    parser.add_argument("--ways", nargs="*", default=[*WAYS], choices=[*WAYS])
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--world-seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.only:
        made = WORLDS[name](options.size, options.world_seed) if name in WORLDS else study(name)
        if made is not None:
            print(f"-- {name}: {len(made.users):,} users, {made.interests.n:,} interests", flush=True)
            features: dict[str, Any] = {"raw bag": raw_bag(made.counts, made.interests, made.users, made.block)}
            features |= {way: _vectors(made, options, **WAYS[way]) for way in options.ways}
            table = probe_features(features, made.labels, config(options, ("logistic",), made))
            report(made, table, "logistic", "raw bag", options)


def _vectors(made: Study, options: Any, **changed: dict[str, Any]) -> Any:
    width = options.width // 8
    chosen = {"size": "small", "d_out": width, "d_model": max(64, width + 32), "scales": made.scales}
    model = fit_lurm(
        made.counts,
        made.interests,
        LurmConfig.parse(chosen | changed.get("model", {})),
        training_config(epochs=options.epochs, loggers=()) if "training" not in changed else None,
        0,
        objective=ContrastiveConfig.parse(changed.get("objective", {})),
        views=ViewConfig.parse(changed.get("views", {})),
        until=made.block,
    )
    return encode(model, made.counts, made.interests, made.users, made.block)[0]


if __name__ == "__main__":
    main()
