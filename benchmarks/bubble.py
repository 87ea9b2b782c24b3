"""Escape in planted worlds whose order is known, and what a run of `habitus bubble` measured."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks.record import record
from habitus.apps.bubble.kinds import make_recommender
from habitus.apps.bubble.loop import LoopConfig, play
from habitus.apps.bubble.measure import measure
from habitus.apps.bubble.planted import planted_stage
from habitus.apps.bubble.policies import PolicyConfig

RESPONDERS = {
    "rho 0": {"rho": 0.0},
    "rho .25": {"rho": 0.25},
    "rho .5": {"rho": 0.5},
    "rho .75": {"rho": 0.75},
    "rho 1": {"rho": 1.0},
    "greedy, rho .6": {"rho": 0.6, "is_greedy": True},
    "stubborn": {"rho": 1.0, "first": 20},
}


def planted(pairs: int) -> None:
    """Record gap and JS of responders whose answer is written down."""
    stage = planted_stage(300, n_users=400, policy=PolicyConfig.parse({"watch_rate": 0.45, "novelty": 4.0}))
    config = LoopConfig.parse({"rounds": 5, "pages": 5, "pairs": pairs, "has_frozen": False})
    for name, values in RESPONDERS.items():
        chosen = {"kind": "responder", **values}
        worlds = [play(stage, lambda: make_recommender(chosen, stage.catalogue), config, r) for r in range(pairs)]  # noqa: B023
        facts = measure(stage, worlds, config).facts
        _gap_and_js("planted world", name, facts)


def of_run(run: Path) -> None:
    """Record the figures of RUN/metrics.json: escape, accuracy, seconds, findings."""
    found = json.loads((run / "metrics.json").read_text("utf-8"))
    name, main = found["name"], [row for row in found["rows"] if row["role"] in ("main", "ruler")]
    for row in main:
        _gap_and_js(name, row["label"], row)
        for key in ("recall@20 before", "ndcg@20 before", "ndcg@20 after"):
            if row.get(key):
                sd = row[key]["sd"]
                record(
                    "bubble",
                    f"{name}, {row['label']}: {key}",
                    row[key]["value"],
                    note="" if sd is None else f"sd {sd:.4f}",
                )
        record("bubble", f"{name}, {row['label']}: CPU time of a pair of worlds", row["cpu_seconds"], "s")
    total = sum(row["cpu_seconds"] for row in main)
    record("bubble", f"{name}: CPU time of one replicate, all recommenders", total, "s", f"{len(main)} recommenders")
    for row in found["rows"]:
        if row["role"] in ("eps", "strength"):
            _gap_and_js(name, row["label"], row)
    for claim in found["findings"]:
        if claim.get("value") is not None:
            span = f"{claim['low']:+.4f} to {claim['high']:+.4f}" if claim["low"] is not None else "one pair"
            record("bubble", f"{name}: {claim['claim']}", claim["value"], claim["unit"], f"{claim['verdict']}; {span}")


def _gap_and_js(name: str, label: str, facts: dict) -> None:
    for key in ("gap", "js"):
        score = facts[key]
        if score["value"] is None:
            continue
        low, high = score.get("low"), score.get("high")
        span = "" if low is None or low != low else f"95 % over {facts['n_pairs']} pairs {low:+.4f} to {high:+.4f}; "
        record("bubble", f"{name}, {label}: BEP_{key}", score["value"], note=f"{span}p {score['p']:.3f}")


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=("small", "full"), default="small", help="3 or 6 pairs of planted worlds.")
    parser.add_argument("--run", type=Path, action="append", default=[], help="A run of habitus bubble.")
    asked = parser.parse_args()
    for run in asked.run:
        of_run(run)
    if not asked.run:
        planted(3 if asked.size == "small" else 6)


if __name__ == "__main__":
    main()
