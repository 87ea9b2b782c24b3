"""Losses for rare classes against plain cross-entropy: recall of all classes alike against recall by frequency.

One small BehaveGPT per seed is trained by plain cross-entropy; from there every variant goes on for the same number of
epochs with its own loss (plain cross-entropy goes on too). Knobs are chosen on validation: the highest macro recall
whose weighted recall falls by at most one point. The line to beat costs no training: plain cross-entropy whose logits
are corrected afterwards by tau log p.

    python -m benchmarks.robust --log tail               five seeds, kept under runs/robust; goes on where it stopped
    python -m benchmarks.robust --tables [--record]      tables of all runs there
    python -m benchmarks.robust --size small             a short run, nothing kept
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks._event_logs import DATA, RUNS, SPLITS, split_of, store_of, train
from benchmarks.record import record
from habitus.data.sources.event_worlds import TailWorld, draw_world
from habitus.metrics.bootstrap import of_draws, resamples
from habitus.metrics.classes import frequency_groups, macro_recall, weighted_recall
from habitus.models.behavegpt import BehaveGPT, BehaveGPTConfig
from habitus.tasks.run import provenance
from habitus.tokens.event_loader import EventInputs, EventLoader, prepare_events
from habitus.tokens.events import EventSpec, EventTokenConfig, fit_event_spec
from habitus.tokens.gaps import GapBins
from habitus.training.objectives.joint import JointEvents
from habitus.training.objectives.robust import RobustConfig, post_hoc

TAUS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.25)
MIN_COUNT = {"tail": 1, "tail_long": 1, "journey": 1, "departments": 1, "retail": 10}
EPOCHS = {"tail": (16, 2), "tail_long": (8, 10), "journey": (6, 2), "departments": (6, 2), "retail": (4, 1)}
VARIANTS: tuple[dict[str, Any], ...] = (
    {"name": "erm"},
    {"name": "class_balanced", "beta": 0.999},
    {"name": "logit_adjusted", "tau": 0.25},
    {"name": "logit_adjusted", "tau": 0.5},
    {"name": "focal", "focus": 1.0},
    {"name": "group_dro", "eta": 0.002},
    {"name": "kl_dro", "temperature": 2.0},
    {"name": "kl_dro", "temperature": 4.0, "level": "sample"},
    {"name": "box_dro", "kappa": 0.3, "gamma": 0.25},
    {"name": "box_dro", "kappa": 1.0, "gamma": 0.25},
    {"name": "box_dro", "kappa": 1.0, "gamma": 0.5},
)

LONG = ({"name": "erm"}, *(VARIANTS[i] for i in (1, 3, 6, 9, 10)), {"name": "box_dro", "kappa": 3.0, "gamma": 0.5})


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("small", "full"), default="full")
    parser.add_argument("--log", choices=tuple(SPLITS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=1e9, help="start no further seed that would end after that")
    parser.add_argument("--tables", action="store_true")
    parser.add_argument("--record", action="store_true", help="also append the figures to results.csv")
    options = parser.parse_args()
    if options.tables:
        tables(is_recorded=options.record)
    elif options.size == "small":
        found = study("tail", 0, (2, 1), VARIANTS[::6])
        report(f"tail, short: {len(found['variants'])} variants", [found])
    elif options.log is None:
        print("  name one: --log tail, tail_long, journey, departments or retail; then --tables")
    elif options.log in ("journey", "departments") and not (DATA / "complete_journey").is_dir():
        print(f"  {options.log}: left out, no folder {DATA / 'complete_journey'}; set HABITUS_DATA")
    else:
        seeds(options.log, options.seeds, options.minutes)


def seeds(name: str, n_seeds: int, minutes: float) -> None:
    """Run the seeds that are not there yet, as long as there is time."""
    began, longest = time.perf_counter(), 0.0
    for seed in range(n_seeds):
        path, start = RUNS / "robust" / f"{name}-{seed}.npz", time.perf_counter()
        if path.is_file() or start - began + longest > 60 * minutes:
            continue
        save(study(name, seed, EPOCHS[name], LONG if name == "tail_long" else VARIANTS), path)
        longest = max(longest, time.perf_counter() - start)


def study(name: str, seed: int, epochs: tuple[int, int], variants: tuple[dict[str, Any], ...]) -> dict[str, Any]:
    """Train every variant of one seed; give first guesses on validation and test for every tau."""
    store, split = store_of(name), split_of(name)
    tokens = EventTokenConfig.parse(
        {"length": 64, "fields": ["gap", "weekday", "slot", "type"], "min_count": MIN_COUNT[name]}
    )
    spec = fit_event_spec(store, tokens, split)
    parts = {p: prepare_events(store, spec, split, p) for p in ("train", "valid", "test")}
    loader = EventLoader(parts["train"], tokens_per_batch=2048, is_training=True, seed=seed)
    counts = _counts(loader, spec)
    config = BehaveGPTConfig.parse(
        {"size": "tiny", "form": "paper", "n_blocks": 2, "inputs": ["gap", "weekday", "slot", "type"]}
    )
    gaps = GapBins.of(spec.gap_edges)
    base = BehaveGPT(config, spec.shape, seed=seed)
    train(base, JointEvents((), ("type",), {"type": counts}, gaps), loader, range(epochs[0]), lr=3e-3, seed=seed)
    found: dict[str, Any] = {"log": name, "seed": seed, "variants": list(variants), "counts": counts.numpy()}
    for i, knobs in enumerate(variants):
        began, model = time.perf_counter(), copy.deepcopy(base)
        robust = RobustConfig.parse({**knobs, "warm_up": 0.0})
        objective = JointEvents((), ("type",), {"type": counts}, gaps, robust)
        train(model, objective, loader, range(epochs[0], sum(epochs)), lr=1.5e-3, seed=seed)
        for part in ("valid", "test"):
            told, truth, user, ce = guesses(model, parts[part], counts)
            found |= {f"{part}_y": truth, f"{part}_user": user, f"{part}_told_{i}": told, f"{part}_ce_{i}": ce}
        y, told = found["valid_y"], found[f"valid_told_{i}"][0]
        print(
            f"  {name} seed {seed} {knobs}: {time.perf_counter() - began:.0f} s, validation Rec_w "
            f"{weighted_recall(y, told == y):.4f} Rec_m {macro_recall(y, told == y):.4f}",
            flush=True,
        )
    return found


def _counts(loader: EventLoader, spec: EventSpec) -> torch.Tensor:
    """Training targets per type id."""
    counts, column = torch.zeros(spec.shape.n_rows("type")), spec.column("type")
    for batch in loader:
        counts += torch.bincount(batch.next_ids[batch.is_target][:, column], minlength=len(counts))
    counts[:2] = 0
    return counts


@torch.inference_mode()
def guesses(
    model: BehaveGPT, inputs: EventInputs, counts: torch.Tensor
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """First guesses per tau (n_taus x n), the truth (n), the user (n), and the mean cross-entropy."""
    column = inputs.table.spec.column("type")
    told, truth, user, ce = [], [], [], 0.0
    loader = EventLoader(inputs, tokens_per_batch=4096)
    for batch in loader:
        hidden, target = model(batch)[batch.is_target], batch.next_ids[batch.is_target][:, column]
        logits = F.linear(model.query(hidden, "type"), *model.output("type"))
        logits[:, :2] = -torch.inf
        ce += float(F.cross_entropy(logits, target, reduction="sum"))
        told.append(np.stack([post_hoc(logits, counts, tau).argmax(dim=1).numpy() for tau in TAUS]))
        truth.append(target.numpy())
        rows = batch.is_target.sum(dim=1).numpy()
        user.append(np.repeat(loader.stretches.user[batch.sample.numpy()], rows))
    y = np.concatenate(truth)
    return np.concatenate(told, axis=1).astype(np.int32), y, np.concatenate(user), ce / max(len(y), 1)


def save(found: dict[str, Any], path: Path) -> None:
    """Keep a run."""
    arrays = {k: v for k, v in found.items() if isinstance(v, np.ndarray | float)}
    facts = {k: found[k] for k in ("log", "seed", "variants")} | provenance()
    np.savez_compressed(path, facts=json.dumps(facts), **arrays)  # pyright: ignore
    print(f"  wrote {path}")


def tables(*, is_recorded: bool = False) -> None:
    """Print the tables of every log that has runs."""
    for name in SPLITS:
        files = sorted((RUNS / "robust").glob(f"{name}-*.npz"))
        runs = []
        for file in files:
            with np.load(file) as data:
                runs.append({**data, **json.loads(str(data["facts"]))})
        if runs:
            commits = sorted({run["commit"] for run in runs})
            report(
                f"{name}: {len(runs)} seeds, commits {', '.join(commits)}, {runs[0]['hardware']}",
                runs,
                is_recorded=is_recorded,
            )


def report(title: str, runs: list[dict[str, Any]], *, is_recorded: bool = False) -> None:
    """Print a table: each variant at its best knob by validation, and the plain loss corrected afterwards."""
    first = runs[0]
    y, user = first["test_y"], first["test_user"]
    groups = frequency_groups(first["counts"])
    drawn = resamples(user, 500)
    weight = drawn.weights(slice(0, len(drawn)))
    print(f"\n### {title}\n")
    print(f"{len(y):,} test events of {len(np.unique(user)):,} users, {len(np.unique(y))} classes present;", end=" ")
    print(f"head: {int(groups.head.sum())} classes\n")
    if first["log"].startswith("tail"):
        _oracle()
    rows = {"erm": (0, 0)} | {f"erm, post hoc tau {tau}": (0, t) for t, tau in enumerate(TAUS) if t}
    rows |= {_label(knobs): (i, 0) for i, knobs in enumerate(first["variants"]) if i}
    rows |= {
        f"post hoc tau {tau} on {_label(knobs)}": (i, t)
        for i, knobs in enumerate(first["variants"])
        for t, tau in enumerate(TAUS)
        if t and knobs["name"] == "box_dro"
    }
    valid = {name: _figures(runs, "valid", *place, groups) for name, place in rows.items()}
    families = ["erm, post hoc", *dict.fromkeys(k["name"] for k in first["variants"][1:]), "post hoc"]
    chosen = {family: _best(valid, family) for family in families}
    print("| variant, knob chosen on validation | Rec_w | Rec_m | head | tail | CE | Rec_m - ERM | Rec_m - post hoc |")
    print("|---|---|---|---|---|---|---|---|")
    for name in ("erm", *(n for n in chosen.values() if n)):
        figures = _figures(runs, "test", *rows[name], groups)
        cells = [f"{m:.4f} ± {s:.4f}" for m, s in figures[:2]] + [f"{m:.4f}" for m, _ in figures[2:]]
        cells += [
            _against(runs, rows[name], rows[other], weight) for other in ("erm", chosen["erm, post hoc"] or "erm")
        ]
        print(f"| {name} | {' | '.join(cells)} |")
    print("\n| all knobs: test | Rec_w | Rec_m | tail |\n|---|---|---|---|")
    for name, place in rows.items():
        if name.startswith("post hoc"):
            continue
        figures = _figures(runs, "test", *place, groups)
        print(f"| {name} | {figures[0][0]:.4f} | {figures[1][0]:.4f} | {figures[3][0]:.4f} |")
    for name in ("erm", *(n for n in chosen.values() if n)) if is_recorded else ():
        figures = _figures(runs, "test", *rows[name], groups)
        for what, (mean, sd) in zip(("Rec_w", "Rec_m"), figures):
            note = f"{len(runs)} seeds, sd {sd:.4f}, trained at {' and '.join(sorted({run['commit'] for run in runs}))}"
            record("robust", f"{first['log']}, {name}: {what}", mean, "", note)


def _label(knobs: dict[str, Any]) -> str:
    return " ".join([knobs["name"], *(f"{k} {v}" for k, v in knobs.items() if k != "name")])


def _figures(runs: list[dict[str, Any]], part: str, i: int, t: int, groups: Any) -> list[tuple[float, float]]:
    """Mean and sd over seeds of Rec_w, Rec_m, recall of head and tail classes, CE."""
    found = []
    for run in runs:
        y, hit = run[f"{part}_y"], run[f"{part}_told_{i}"][t] == run[f"{part}_y"]
        some = [macro_recall(y[of[y]], hit[of[y]]) for of in (groups.head, groups.tail)]
        found.append([weighted_recall(y, hit), macro_recall(y, hit), *some, float(run[f"{part}_ce_{i}"])])
    sd = np.std(found, axis=0, ddof=1) if len(found) > 1 else np.zeros(5)
    return list(zip(np.mean(found, axis=0).tolist(), sd.tolist()))


def _best(valid: dict[str, list[tuple[float, float]]], family: str) -> str | None:
    """The knob of the highest macro recall whose weighted recall falls by at most a point; else the smallest fall."""
    floor = valid["erm"][0][0] - 0.01
    mine = {name: f for name, f in valid.items() if name.startswith(family)}
    allowed = {name: f for name, f in mine.items() if f[0][0] >= floor}
    if not allowed:
        return max(mine, key=lambda name: mine[name][0][0]) if mine else None
    return max(allowed, key=lambda name: allowed[name][1][0])


def _against(runs: list[dict[str, Any]], one: tuple[int, int], other: tuple[int, int], weight: np.ndarray) -> str:
    """Difference of macro recall, mean over seeds, with its interval over users."""
    draws, value, y = np.zeros(len(weight)), 0.0, runs[0]["test_y"]
    for run in runs:
        hits = [run[f"test_told_{i}"][t] == y for i, t in (one, other)]
        value += (macro_recall(y, hits[0]) - macro_recall(y, hits[1])) / len(runs)  # pyright: ignore
        draws += (macro_recall(y, hits[0], weight) - macro_recall(y, hits[1], weight)) / len(runs)
    span = of_draws(float(value), draws)
    return f"{span.value:+.4f} [{span.low:+.4f}, {span.high:+.4f}]"


def _oracle() -> None:
    """What one who knows the rules of the tail world reaches, on all of its events."""
    world = TailWorld.parse({})
    drawn = draw_world(world)
    share = np.bincount(drawn.type, minlength=world.n_types) / len(drawn.type)
    print("Oracle that knows the world's rules, all events:", end=" ")
    for tau in (0.0, 0.5, 1.0):
        told = (world.probabilities / np.maximum(share, 1e-12) ** tau).argmax(axis=1)[drawn.state]
        hit = told == drawn.type
        print(
            f"tau {tau}: Rec_w {weighted_recall(drawn.type, hit):.4f} Rec_m {macro_recall(drawn.type, hit):.4f};",
            end=" ",
        )
    print("\n")


if __name__ == "__main__":
    main()
