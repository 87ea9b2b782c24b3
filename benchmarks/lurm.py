"""What whole-life vectors keep: probes on real logs and on worlds with known answers, beside every comparator.

python -m benchmarks.lurm [--only NAME ...] [--part lossless fusion anchors scales] [--size small|full]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks._lurm_pooled import behavegpt_states, lumos_states
from benchmarks._lurm_tasks import STUDIES, Study, study
from benchmarks._lurm_worlds import WORLDS, twins
from benchmarks.record import record
from habitus.metrics.bootstrap import Interval
from habitus.models.coles import ColesConfig
from habitus.models.lurm import LurmConfig
from habitus.tasks.lurm_fit import encode, fit_lurm, training_config
from habitus.tasks.probe import Block, ProbeConfig, ProbeTable, probe_features
from habitus.tasks.probe.comparators import (
    counts_matrix,
    event_count,
    hand_aggregates,
    mean_item_vector,
    random_projection,
    tfidf_svd,
)
from habitus.tokens.bags import raw_bag

PARTS = ("lossless", "fusion", "anchors", "scales")
ANCHORS = (1, 2, 4, 8, 16)


def main() -> None:
    """Run the asked parts on the asked logs and worlds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=("small", "full"), default="small")
    parser.add_argument("--only", nargs="*", default=[*STUDIES, *WORLDS, "twins"])
    parser.add_argument("--part", nargs="*", default=["lossless", "fusion"], choices=PARTS)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=0, help="0: one (small) or five (full)")
    parser.add_argument("--world-seed", type=int, default=0, help="of the worlds drawn")
    parser.add_argument("--rows", nargs="*", default=[], help="rows of the part lossless; all by default")
    options = parser.parse_args()
    options.seeds = options.seeds or (1 if options.size == "small" else 5)
    torch.set_num_threads(1)
    for name in options.only:
        if name == "twins":
            twins(options)
            continue
        made = WORLDS[name](options.size, options.world_seed) if name in WORLDS else study(name)
        if made is None:
            continue
        for part in options.part:
            print(f"-- {name}, {part}: {len(made.users):,} users, {made.interests.n:,} interests", flush=True)
            {"lossless": lossless, "fusion": fusion, "anchors": anchors, "scales": scales}[part](made, options)


def lossless(made: Study, options: Any) -> None:
    """Probe the raw bag, the vectors and the comparators of the same width by logistic regression."""
    bag = raw_bag(made.counts, made.interests, made.users, made.block)
    counts = counts_matrix(made.counts, made.interests.n, made.users, made.block)
    rows: dict[str, Callable[[], Any]] = {
        "raw bag": lambda: bag,
        "LURM": lambda: vectors(made, options, "trained"),
        "LURM, start alone": lambda: vectors(made, options, "start"),
        "random encoder": lambda: vectors(made, options, "random"),
        "TF-IDF + SVD": lambda: tfidf_svd(bag, options.width),
        "random projection": lambda: random_projection(bag, options.width),
        "mean item vector": lambda: mean_item_vector(counts, options.width),
        "CoLES-style GRU": lambda: coles(made, options),
        "event count": lambda: event_count(counts),
    }
    if made.store is not None:
        rows["aggregates"] = lambda: hand_aggregates(made.store, made.users, made.day, made.horizon)
        if made.scales != "life":  # a log with times
            rows["pooled BehaveGPT"] = lambda: behavegpt_states(made)
            rows["pooled LUMOS"] = lambda: lumos_states(made)
    wanted = {"raw bag", *(options.rows or rows)}
    features = {name: make() for name, make in rows.items() if name in wanted}
    table = probe_features(features, made.labels, config(options, ("logistic",), made))
    report(made, table, "logistic", "raw bag", options)


def fusion(made: Study, options: Any) -> None:
    """Boosted trees on aggregates, on vectors, on both, and on both with the vectors cut to 32 components."""
    if made.store is None:
        return
    aggregates = hand_aggregates(made.store, made.users, made.day, made.horizon)
    flat = vectors(made, options, "trained")
    features = {
        "aggregates": aggregates,
        "LURM": flat,
        "both": (aggregates, Block(flat)),
        "both, PCA-32": (aggregates, Block(flat, n_components=32)),
    }
    options = argparse.Namespace(**{**vars(options), "seeds": min(options.seeds, 2)})
    table = probe_features(features, made.labels, config(options, ("trees",), made))
    report(made, table, "trees", "aggregates", options)


def anchors(made: Study, options: Any) -> None:
    """One to sixteen anchors at the same width of the flat vector."""
    features = {f"LURM, {m} anchors": vectors(made, options, "trained", n_anchors=m) for m in ANCHORS}
    features = {"raw bag": raw_bag(made.counts, made.interests, made.users, made.block), **features}
    report(
        made,
        probe_features(features, made.labels, config(options, ("logistic",), made)),
        "logistic",
        "raw bag",
        options,
    )


def scales(made: Study, options: Any) -> None:
    """With and without windows in time, and with their mean in place of the recurrent network."""
    ways: dict[str, dict[str, Any]] = {
        "LURM": {},
        "LURM, life only": {"scales": "life"},
        "LURM, mean over time": {"time": "mean"},
    }
    features: dict[str, Any] = {"raw bag": raw_bag(made.counts, made.interests, made.users, made.block)}
    features |= {name: vectors(made, options, "trained", **way) for name, way in ways.items()}
    report(
        made,
        probe_features(features, made.labels, config(options, ("logistic",), made)),
        "logistic",
        "raw bag",
        options,
    )


KNOWN: dict[str, np.ndarray] = {}


def vectors(made: Study, options: Any, how: str, **changed: Any) -> np.ndarray:
    """Fit on everybody up to the cut-off and encode those who are probed: float32 [n, width]. Fits once per process."""
    key = repr((made.name, how, sorted(changed.items()), options.width, options.epochs))
    if key not in KNOWN:
        KNOWN[key] = _vectors(made, options, how, **changed)
    return KNOWN[key]


def _vectors(made: Study, options: Any, how: str, **changed: Any) -> np.ndarray:
    began = time.perf_counter()
    m = changed.pop("n_anchors", 8)
    chosen = {"size": "small", "n_anchors": m, "d_out": options.width // m, "scales": made.scales} | changed
    chosen["d_model"] = max(64, options.width // m + 32)
    if how == "random":
        chosen |= {"start": "random"}
    training = training_config(epochs=options.epochs, loggers=()) if how == "trained" else None
    model = fit_lurm(made.counts, made.interests, LurmConfig.parse(chosen), training, 0, until=made.block)
    flat, _ = encode(model, made.counts, made.interests, made.users, made.block)
    print(f"  {how} {changed or ''}: {time.perf_counter() - began:.0f} s", flush=True)
    return flat


def coles(made: Study, options: Any) -> np.ndarray:
    """Fit the contrastive GRU over weeks on everybody up to the cut-off and encode those who are probed."""
    began = time.perf_counter()
    chosen = ColesConfig.parse({"scales": "1x52" if made.scales != "life" else "life", "d_out": options.width})
    training = training_config(epochs=options.epochs, loggers=())
    model = fit_lurm(made.counts, made.interests, chosen, training, 0, until=made.block)
    flat, _ = encode(model, made.counts, made.interests, made.users, made.block)
    print(f"  coles: {time.perf_counter() - began:.0f} s", flush=True)
    return flat


def config(options: Any, heads: tuple[Any, ...], made: Study) -> ProbeConfig:
    """Labels of a world share folds and fits; three folds on the widest, where a fit takes a minute."""
    is_wide = made.interests.n > 50_000
    folds = {"n_folds": 3, "n_inner": 2} if is_wide else {}
    return ProbeConfig(heads=heads, n_seeds=options.seeds, is_joint=made.store is None, **folds)


def report(made: Study, table: ProbeTable, head: str, against: str, options: Any) -> None:
    """Record every feature set: the mean AUC over labels, and the paired difference to the one it is held against."""
    folds = 3 if made.interests.n > 50_000 else 5
    seed = f", world seed {options.world_seed}" if made.store is None else ""
    n = f"{len(table.labels)} labels{seed}, {options.seeds} seeds x {folds} folds, width {options.width}, {head}"
    for name in table.features:
        for label in table.labels if made.store is not None else []:
            cell, gap = table.cell(label, name, head), table.difference(label, name, against, head)
            note = f"{spread(cell.interval)}; against {against} {gap.value:+.4f} {spread(gap)}; {n}"
            record("lurm", f"{made.name}, {label}: AUC, {name}", cell.value, "", note)
        mean = float(np.mean([table.cell(label, name, head).value for label in table.labels]))
        gap = table.mean_difference(name, against, head)
        note = f"against {against} {gap.value:+.4f} {spread(gap)}; {n}"
        record("lurm", f"{made.name}, mean of labels: AUC, {name} ({head})", mean, "", note)
    for label, why in table.why_not.items():
        print(f"  left out: {label} ({why})")


def spread(found: Interval) -> str:
    """Give an interval as text."""
    return f"[{found.low:.4f}, {found.high:.4f}]" if found.low >= 0 else f"[{found.low:+.4f}, {found.high:+.4f}]"


if __name__ == "__main__":
    main()
