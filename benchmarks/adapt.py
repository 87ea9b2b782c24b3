"""Behaviours never met before (1, 5, 20, 100 examples of each) and moves to another domain, against starting anew.

python -m benchmarks.adapt --few tail --seed 0        new types on one log (tail, journey)
python -m benchmarks.adapt --move tail --seed 0       domain a -> b (tail), Complete Journey -> Online Retail (shops)
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks._event_logs import split_of, store_of, train
from habitus.core.seeds import generator
from habitus.metrics.classes import macro_recall, weighted_recall
from habitus.models.behavegpt import BehaveGPT, BehaveGPTConfig
from habitus.tasks.adapt import few_shots, grow, grown_spec, of_mode, tables_first, transfer, trunk_slowly, tune
from habitus.tasks.run import provenance
from habitus.tokens.event_loader import EventInputs, EventLoader, prepare_events
from habitus.tokens.events import EventSpec, EventTokenConfig, fit_event_spec
from habitus.tokens.gaps import GapBins
from habitus.training.objectives.joint import JointEvents

FIELDS = ["gap", "weekday", "slot", "type"]
HELD = {
    "tail": ("head 3", "head 6", "head 9", "head 13"),
    "journey": ("YOGURT", "EGGS", "FROZEN PIZZA", "COLD CEREAL"),
}
TOP = {"tail": 1, "journey": 10}
CONFIG = {"size": "tiny", "form": "paper", "n_blocks": 2, "inputs": FIELDS}


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("small", "full"), default="full")
    parser.add_argument("--few", choices=tuple(HELD))
    parser.add_argument("--move", choices=("tail", "shops"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(f"  commit {provenance()['commit']}, {provenance()['hardware']}, seed {options.seed}")
    if options.few:
        few(options.few, options.seed, epochs=12 if options.few == "tail" else 6)
    elif options.move:
        move(options.move, options.seed, n_steps=240)
    elif options.size == "small":
        few("tail", 0, epochs=1, ks=(1, 5), n_draws=1)
    else:
        print("  name one: --few tail or journey, --move tail or shops")


def few(name: str, seed: int, *, epochs: int, ks: Sequence[int] = (1, 5, 20, 100), n_draws: int = 5) -> None:
    """Train without some types, then teach them from few examples."""
    store, split, held = store_of(name), split_of(name), HELD[name]
    tokens = EventTokenConfig.parse({"length": 64, "fields": FIELDS, "held_out": held})
    spec = fit_event_spec(store, tokens, split)
    model = _pretrained(spec, prepare_events(store, spec, split, "train"), seed, epochs)
    wide = grown_spec(spec, held)
    column, classes = wide.column("type"), list(range(len(spec.values["type"]) + 2, wide.shape.n_rows("type")))
    batches = list(EventLoader(prepare_events(store, wide, split, "train"), tokens_per_batch=2048))
    test = prepare_events(store, wide, split, "test")
    n_rows, gaps = wide.shape.n_rows("type"), GapBins.of(wide.gap_edges)
    counts = _counts(batches, column, n_rows)
    before = _told(grow(model, len(held), share=[1e-9] * len(held)), test, TOP[name])
    print(f"\n### {name}: {len(held)} new types, {int(counts[classes].sum()):,} targets of them in train\n")
    print(
        f"recall at {TOP[name]}; before: new {_recall(before, classes)[0]:.3f}, old {_recall(before, classes)[1]:.3f}, "
    )
    print(f"CE of old {before[2][~np.isin(before[0], classes)].mean():.4f}\n")
    print("| examples per type | mode | new | old | harmonic mean | CE of old |\n|---|---|---|---|---|---|")
    for k in ks:
        for mode in ("head", "head_norms", "all", "scratch"):
            found = []
            for draw in range(n_draws):
                shots = few_shots(batches, column, classes, k, seed=draw)
                mine = _counts(shots, column, n_rows)
                if mode == "scratch":
                    grown = BehaveGPT(BehaveGPTConfig.parse(CONFIG), wide.shape, seed=draw)
                else:
                    grown = grow(model, len(held), share=(mine[classes] / mine.sum()).tolist())
                objective = JointEvents((), ("type",), {"type": mine}, gaps)
                tune(
                    grown, objective, shots, n_steps=max(20, 2 * len(shots)), lr=2e-3,
                    factor=of_mode(grown, "all" if mode == "scratch" else mode),
                    pull=0.05 if mode == "all" else 0.0, seed=draw,
                )  # fmt: skip
                told = _told(grown, test, TOP[name])
                new, old = _recall(told, classes)
                found.append(
                    [new, old, 2 * new * old / max(new + old, 1e-9), told[2][~np.isin(told[0], classes)].mean()]
                )
            mean, sd = np.mean(found, axis=0), np.std(found, axis=0, ddof=1) if n_draws > 1 else np.zeros(4)
            cells = " | ".join(f"{m:.3f} ± {s:.3f}" for m, s in zip(mean, sd))
            print(f"| {k} | {mode} | {cells} |", flush=True)
    full = fit_event_spec(store, tokens.model_copy(update={"held_out": ()}), split)
    model = _pretrained(full, prepare_events(store, full, split, "train"), seed, epochs)
    told = _told(model, prepare_events(store, full, split, "test"), TOP[name])
    known = [full.values["type"].index(h) + 2 for h in held]
    new, old = _recall(told, known)
    print(f"| all | trained with them from the start | {new:.3f} | {old:.3f} | {2 * new * old / (new + old):.3f} | |")


def move(name: str, seed: int, *, n_steps: int) -> None:
    """Train on one domain, go on in another with 1, 10 and 100 % of its users."""
    one, other = {"tail": ("tail", "tail_b"), "shops": ("journey", "retail")}[name]
    store, split = store_of(one), split_of(one)
    tokens = EventTokenConfig.parse({"length": 64, "fields": FIELDS})
    spec = fit_event_spec(store, tokens, split)
    source = _pretrained(spec, prepare_events(store, spec, split, "train"), seed, 14 if name == "tail" else 6)
    store, split = store_of(other), split_of(other)
    tokens = tokens.model_copy(update={"min_count": 10 if other == "retail" else 1})
    spec = dataclasses.replace(fit_event_spec(store, tokens, split), gap_edges=spec.gap_edges)
    whole, test = prepare_events(store, spec, split, "train"), prepare_events(store, spec, split, "test")
    gaps, column = GapBins.of(spec.gap_edges), spec.column("type")
    print(f"\n### {one} -> {other}, {n_steps} steps each, test\n")
    print("| users | start | CE | Rec_w | Rec_m |\n|---|---|---|---|---|")
    for share in (0.01, 0.1, 1.0):
        some = _share(whole, share, seed)
        loader = EventLoader(some, tokens_per_batch=2048, is_training=True, seed=seed)
        counts = _counts(list(loader), column, spec.shape.n_rows("type"))
        for start in ("transferred", "scratch", "frozen random"):
            model = transfer(source, spec.shape, seed=seed, is_random=start != "transferred")
            objective = JointEvents((), ("type",), {"type": counts}, gaps)
            first = n_steps // 10
            if start == "scratch":
                tune(model, objective, loader, n_steps=n_steps, lr=2e-3, seed=seed)
            elif start == "frozen random":
                tune(model, objective, loader, n_steps=n_steps, factor=tables_first, lr=2e-3, seed=seed)
            else:
                tune(model, objective, loader, n_steps=first, factor=tables_first, lr=2e-3, seed=seed)
                tune(model, objective, loader, n_steps=n_steps - first, factor=trunk_slowly, lr=2e-3, seed=seed)
            y, hit, ce = _told(model, test, 1)
            cells = f"{ce.mean():.4f} | {weighted_recall(y, hit):.4f} | {macro_recall(y, hit):.4f}"
            print(f"| {share:.0%} | {start} | {cells} |", flush=True)


def _pretrained(spec: EventSpec, inputs: EventInputs, seed: int, epochs: int) -> BehaveGPT:
    began, model = time.perf_counter(), BehaveGPT(BehaveGPTConfig.parse(CONFIG), spec.shape, seed=seed)
    loader = EventLoader(inputs, tokens_per_batch=2048, is_training=True, seed=seed)
    counts = _counts(list(loader), spec.column("type"), spec.shape.n_rows("type"))
    objective = JointEvents((), ("type",), {"type": counts}, GapBins.of(spec.gap_edges))
    train(model, objective, loader, range(epochs), lr=3e-3, seed=seed)
    print(f"  pre-trained in {time.perf_counter() - began:.0f} s", flush=True)
    return model


def _counts(batches: Sequence, column: int, n_rows: int) -> torch.Tensor:
    counts = torch.zeros(n_rows)
    for batch in batches:
        counts += torch.bincount(batch.next_ids[batch.is_target][:, column], minlength=n_rows)
    counts[:2] = 0
    return counts


def _share(inputs: EventInputs, share: float, seed: int) -> EventInputs:
    users = np.unique(inputs.stretches.user)
    kept = generator(seed, "share").permutation(users)[: max(int(len(users) * share), 1)]
    return EventInputs(inputs.table, inputs.stretches.take(np.isin(inputs.stretches.user, kept)))


@torch.inference_mode()
def _told(model: BehaveGPT, inputs: EventInputs, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The truth, whether it is among the first k, and its cross-entropy, per target."""
    column, parts = inputs.table.spec.column("type"), []
    for batch in EventLoader(inputs, tokens_per_batch=4096):
        hidden, target = model(batch)[batch.is_target], batch.next_ids[batch.is_target][:, column]
        logits = F.linear(model.query(hidden, "type"), *model.output("type"))
        logits[:, :2] = -torch.inf
        hit = (logits.topk(k, dim=1).indices == target[:, None]).any(dim=1)
        parts.append([target.numpy(), hit.numpy(), F.cross_entropy(logits, target, reduction="none").numpy()])
    y, hit, ce = (np.concatenate(column) for column in zip(*parts))
    return y, hit, ce


def _recall(told: tuple[np.ndarray, np.ndarray, np.ndarray], classes: Sequence[int]) -> tuple[float, float]:
    """Macro recall of the new types, weighted recall of the old ones."""
    is_new = np.isin(told[0], classes)
    return float(macro_recall(told[0][is_new], told[1][is_new])), float(told[1][~is_new].mean())  # pyright: ignore


if __name__ == "__main__":
    main()
