"""Five models of clicks: campaign by campaign on Complete Journey, and what a run of `habitus ctr` measured."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from benchmarks.record import record
from habitus.apps.ctr.evaluate import auc_bootstrap
from habitus.apps.ctr.prequential import prequential
from habitus.apps.ctr.run import read_ctr_recipe
from habitus.metrics.classification import log_loss
from habitus.metrics.clustered import user_auc

HERE = Path(__file__).parent
DATA = HERE.parents[1] / "shared" / "data" / "complete_journey"
FIXED = {"patience": None, "epochs": 4}


def journey(folder: Path, only: list[str]) -> None:
    """Score every campaign by the campaigns whose 21 days have closed."""
    from habitus.data.sources.complete_journey_sends import complete_journey_sends

    recipe = read_ctr_recipe(HERE.parent / "recipes" / "complete_journey_ctr.toml")
    shown = complete_journey_sends(folder)
    for name in only or list(recipe.models):
        kind = recipe.models[name]["kind"]
        more = {} if kind == "linear" else {"rounds": 100} if kind == "trees" else FIXED
        settings = recipe.settings(name).model_copy(update=more)
        seeds = (0,) if kind == "linear" else recipe.seeds
        runs = [prequential(shown, settings, features=recipe.dial(name), seed=seed) for seed in seeds]
        one, p = runs[0], np.mean([run.p for run in runs], axis=0)
        whole, inside = auc_bootstrap(one.label, p, one.user), user_auc(one.label, p, one.day)
        note = f"{one.label.size:,} sends, {int(one.label.sum())} responses, {one.n_fits} days, {len(runs)} seeds"
        span = f"95 % over households {whole['low']:.4f} to {whole['high']:.4f}; {note}"
        record("ctr", f"Complete Journey prequential, {name}: AUC", whole["value"], note=span)
        record("ctr", f"Complete Journey prequential, {name}: AUC inside a start day", inside.value, note=note)
        record("ctr", f"Complete Journey prequential, {name}: log loss", float(log_loss(one.label, p)), note=note)


def offers(folder: Path) -> None:
    """Rank the coupons of a campaign inside the list that one household got: past purchases alone, then a model."""
    from habitus.apps.ctr.features import make_examples
    from habitus.apps.ctr.linear import LinearConfig
    from habitus.apps.ctr.match import match_columns, match_names
    from habitus.apps.ctr.train import fit_model
    from habitus.data.sources.complete_journey_sends import DAYS, complete_journey_sends

    shown = complete_journey_sends(folder, table="offers")
    columns, names = match_columns(shown), match_names(shown.log.kinds)
    for what in ("cate", "brand"):
        since = columns[:, names.index(f"{what}_buy_since")]
        inside = user_auc(shown.label, -since, shown.user.astype(np.int64) * 100_000 + shown.day)
        note = f"{len(shown):,} offers, {int(shown.label.sum())} responses, {inside.n_users} lists with both labels"
        record("ctr", f"offers, last purchase of the {what}: AUC inside a list", inside.value, note=note)
    parts = make_examples(shown, features="+match", days=DAYS)
    left_out = ["user", "adgroup", "brand", "cate_brand", "price_bin", "hour", "weekday"]
    for name, more in (("with coupon ids", []), ("without", ["coupon"])):
        config = LinearConfig.parse({"c": 0.03, "left_out": left_out + more})
        scorer, test = fit_model(config, parts["train"], parts["valid"]), parts["test"]
        inside = user_auc(test.label, scorer.logits(test), test.user.astype(np.int64) * 100_000 + test.day)
        note = f"{len(test):,} offers of the test, {int(test.label.sum())} responses, {inside.n_users} lists"
        record("ctr", f"offers, logistic regression + match {name}: AUC inside a list", inside.value, note=note)


def of_run(run: Path) -> None:
    """Record the figures of RUN/metrics.json."""
    found = json.loads((run / "metrics.json").read_text("utf-8"))
    for name, value in found["ceilings"].items():
        record("ctr", f"{found['name']}: ceiling {name}, AUC", value)
    by_model: dict[str, list[dict]] = {}
    for card in found["cards"]:
        by_model.setdefault(card["model"], []).append(card)
    for name, cards in by_model.items():
        seeds = f"{len(cards)} seeds, {cards[0]['n_train']:,} training rows"
        for key in ("auc", "expected_auc", "gauc", "log_loss", "ece"):
            values = [card[key] for card in cards if card.get(key) is not None]
            if values:
                sd = f", sd {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
                record(
                    "ctr", f"{found['name']} {found['part']}, {name}: {key}", float(np.mean(values)), note=seeds + sd
                )


def main() -> None:
    """Measure what is asked for; a figure of data that is not here is left out, saying so."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=("small", "full"), default="small")
    parser.add_argument("--folder", type=Path, default=DATA, help="Complete Journey, the publisher's tables.")
    parser.add_argument("--run", type=Path, action="append", default=[], help="A run of habitus ctr, evaluated.")
    parser.add_argument("--offers", action="store_true", help="Coupons inside the lists of Complete Journey, only.")
    parser.add_argument("--models", nargs="*", default=[], help="Models of the recipe; small: LR and LightGBM.")
    asked = parser.parse_args()
    for run in asked.run:
        of_run(run)
    if asked.run:
        return
    if not asked.folder.is_dir():
        print(f"left out: no folder {asked.folder.name}")
        return
    if asked.offers:
        offers(asked.folder)
        return
    journey(asked.folder, asked.models or (["LR", "LightGBM"] if asked.size == "small" else []))


if __name__ == "__main__":
    main()
