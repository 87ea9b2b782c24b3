"""Known effects found again: what-if answers of LUMOS beside the truth of simulated worlds, over several draws.

    effects      effects of sales, campaigns and mailings per user, against the same model without future events
    independent  the same calendar with no effect at all: the future must gain nothing
    late         an event announced after it has begun: no cut-off may know of it
    order        purchases follow a quiet week: window sums cannot tell, the order of days can

A draw is a world of its own: other users, other calendar, other events. Runs are kept in --folder, so that a command
that was stopped goes on, and one that is finished only reads; docs/results/lumos_simulator.md holds what it printed.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

import habitus
from benchmarks._judged import Judged, judge
from benchmarks.record import record
from habitus.core.atomic import write_json
from habitus.data.calendar import to_day
from habitus.data.cutoffs import samples_at, samples_of
from habitus.data.ingest import ingest
from habitus.data.sources.simulator import World, expected, ready_made, simulated_log
from habitus.data.sources.simulator.truth import last_cutoff
from habitus.data.store import Store
from habitus.data.targets import Target, measure
from habitus.metrics.classification import auc
from habitus.tasks.run import Run
from habitus.tokens.loader import assemble, prepare
from habitus.tokens.spec import InputSpec, TokenConfig, fit_spec

PARTS = ("activity", "day", "kind", "known_past", "known_future", "profile")
RECIPES = Path(__file__).parents[1] / "recipes"
USERS = {"small": 1000, "full": 4000}
DRAWS = {"small": 1, "full": 5}
LEVEL = 0.9


def main() -> None:
    """Train what is missing and print every figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("small", "full"), default="small")
    parser.add_argument("--folder", type=Path, help="where runs are kept; default: a folder that is thrown away")
    parser.add_argument("--worlds", nargs="+", choices=tuple(WORLDS), default=list(WORLDS))
    parser.add_argument("--draws", nargs="+", type=int, help="which draws; default: all")
    options = parser.parse_args()
    draws = options.draws or list(range(DRAWS[options.size]))
    with tempfile.TemporaryDirectory(prefix="habitus-effects-") as spare:
        for name in options.worlds:
            WORLDS[name](Path(options.folder or spare), options.size, draws)


def _effects(folder: Path, size: str, draws: Sequence[int]) -> None:
    found = [_draw("effects", folder, size, draw) for draw in draws]
    _print_judged([j for one in found for j in one.judged], "effects")
    _print_gains([one.gains for one in found], "effects")
    _print_scores([one.scores for one in found])


def _independent(folder: Path, size: str, draws: Sequence[int]) -> None:
    found = [_draw("independent", folder, size, draw) for draw in draws]
    _print_judged([j for one in found for j in one.judged], "independent")
    _print_gains([one.gains for one in found], "independent")


@dataclass(frozen=True)
class Drawn:
    """What one draw of a world showed."""

    judged: list[Judged]
    gains: dict[str, list[float]]  # "target, metric" -> difference, low, high; with future - without
    scores: dict[str, float]


def _draw(name: str, folder: Path, size: str, draw: int) -> Drawn:
    """Train and judge one draw, or read what was found before."""
    file = folder / f"{name}-{draw}.json"
    if not file.is_file():
        world, store = _world(name, folder, size, draw)
        seeing, metrics = _pair(folder, store, name, size, draw)
        drawn = Drawn(judge(seeing, world, draw), _gains(metrics), _scores(metrics))
        plain = asdict(drawn)
        plain["judged"] = [{k: None if v != v else v for k, v in row.items()} for row in plain["judged"]]
        write_json(file, plain)
    values = json.loads(file.read_text("utf-8"))
    judged: list[dict[str, Any]] = [{k: np.nan if v is None else v for k, v in row.items()} for row in values["judged"]]
    return Drawn([Judged(**row) for row in judged], values["gains"], values["scores"])


def _late(folder: Path, size: str, draws: Sequence[int]) -> None:
    """Count the cut-offs that see an event before it is announced, two days after its start: there must be none."""
    seen: dict[int, list[bool]] = {-1: [], 0: [], 2: []}  # days from the start to the cut-off
    for draw in draws:
        _, store = _world("late", folder, size, draw)
        for days, found in _sights(store, tuple(seen)).items():
            seen[days] += found
    early = seen[-1] + seen[0]
    note = f"of {len(early)}, in {len(draws)} draws; two days after the start {sum(seen[2])} of {len(seen[2])} see it"
    record("effects", "late: cut-offs that saw an event before it was announced", sum(early), "", note)


def _sights(store: Store, days: tuple[int, ...]) -> dict[int, list[bool]]:
    """Tell, for each event, whether inputs at a cut-off so many days after its start change when it is left out."""
    spec = _plain_spec(store)
    found: dict[int, list[bool]] = {d: [] for d in days}
    for row in store.calendar.events.iter_rows(named=True):
        start = to_day(row["start"])
        if not store.first_day + 60 < start < store.last_day - max(days):
            continue
        without = store.calendar.without(events=[row["event"]])
        for d in days:
            samples = samples_at(store, np.array([start + d], np.int32))
            one, two = (
                assemble(prepare(store, spec, samples, calendar=c, has_targets=False), np.arange(len(samples)))
                for c in (store.calendar, without)
            )
            parts = ((getattr(one, name), getattr(two, name)) for name in PARTS)
            found[d].append(not all(torch.equal(a, b) for a, b in parts))
    return found


def _plain_spec(store: Store) -> InputSpec:
    target = (Target.parse("any(purchase) in 28d", name="buy"),)
    samples = samples_at(store, np.array([store.first_day + 90], np.int32))
    return fit_spec(store, TokenConfig(history=60), samples, target)


def _order(folder: Path, size: str, draws: Sequence[int]) -> None:
    rows: dict[str, list[float]] = {}
    gaps: list[list[float]] = []
    for draw in draws:
        world, store = _world("order", folder, size, draw)
        run = _train(folder, store, "sim_order_lumos", f"order-{draw}", size)
        metrics = habitus.evaluate(run)
        for row in metrics["table"]:
            rows.setdefault(row["model"], []).append(row["metrics"]["auc"]["value"])
        rows.setdefault("the truth itself", []).append(_auc_of_truth(world, store, run))
        gap = next(
            d for d in metrics["differences"]
            if d["against"] == "LightGBM" and d["model"] == "LUMOS" and d["metric"] == "auc"
        )  # fmt: skip
        gaps.append([gap["value"], gap["low"], gap["high"]])
    for name, values in rows.items():
        record("effects", f"order: AUC of {name}", float(np.mean(values)), "", _each(values))
    record("effects", "order: AUC, LUMOS - LightGBM", float(np.mean([g[0] for g in gaps])), "", _spans(gaps))


def _auc_of_truth(world: World, store: Store, run: Run) -> float:
    """AUC of the true probabilities: the most that anybody can reach."""
    samples = samples_of(store, run.recipe.cutoffs, "test")
    y = measure(run.recipe.window_targets, store, samples).value[:, 0]
    truth = expected(world, last_cutoff(world, run.recipe.cutoffs.horizon), run.recipe.cutoffs.horizon)
    ids = pl.DataFrame({"user": store.users["user"].gather(pl.Series(samples.user)).cast(pl.Int64)})
    p = ids.join(truth.filter(event_type="purchase"), on="user", how="left", maintain_order="left")["p"]
    return float(auc(y, p.to_numpy()))


WORLDS = {"effects": _effects, "independent": _independent, "late": _late, "order": _order}


def _world(name: str, folder: Path, size: str, draw: int) -> tuple[World, Store]:
    world = ready_made(name, n_users=USERS[size], seed=draw)
    path = folder / f"{name}-{draw}.store"
    return world, Store.open(path) if path.exists() else ingest(simulated_log(world), path)


def _pair(folder: Path, store: Store, name: str, size: str, draw: int) -> tuple[Run, dict[str, Any]]:
    """Train with and without future events, and set one beside the other."""
    seeing = _train(folder, store, "sim_effects_lumos", f"{name}-{draw}-seeing", size)
    blind = _train(folder, store, "sim_effects_lumos", f"{name}-{draw}-blind", size, known="past")
    return seeing, habitus.evaluate(seeing, against=[blind.path])


def _train(folder: Path, store: Store, recipe: str, name: str, size: str, known: str = "all") -> Run:
    text = (RECIPES / f"{recipe}.toml").read_text("utf-8")
    text = text.replace(f'name = "{recipe}"', f'name = "{name}"').replace('known = "all"', f'known = "{known}"')
    if size == "small":
        text = re.sub(r"(?m)^epochs = .*$", "epochs = 1", text)
    file = folder / f"{name}.toml"
    file.write_text(text, "utf-8")
    return habitus.train(file, out=folder / name, store=store.path)


def _gains(metrics: dict[str, Any]) -> dict[str, list[float]]:
    """What the future branch changes, LUMOS minus the same model without it; all are losses."""
    rows = [*metrics["distributions"]["differences"], *metrics["differences"]]
    wanted = {"pinball", "day_log_loss", "log_loss", "wape"}
    return {
        f"{row['target']}, {row['metric']}": [row["value"], row["low"], row["high"]]
        for row in rows
        if row["model"] == "LUMOS" and row["against"].endswith("-blind") and row["metric"] in wanted
    }


def _scores(metrics: dict[str, Any]) -> dict[str, float]:
    """Coverage of amounts and calibration of the model itself."""
    fine = {
        f"{row['target']}: {row['metric']}": row["value"]
        for row in metrics["distributions"]["table"]
        if row["model"] == "LUMOS" and row["metric"].startswith("coverage")
    }
    for row in metrics["table"]:
        if row["model"] == "LUMOS" and "ece" in row["metrics"]:
            fine[f"{row['target']}: ECE"] = row["metrics"]["ece"]["value"]
            fine[f"{row['target']}: AUC"] = row["metrics"]["auc"]["value"]
    return fine


def _print_judged(judged: list[Judged], world: str) -> None:
    for kind in dict.fromkeys(j.type for j in judged):
        for target, reading in dict.fromkeys((j.target, j.reading) for j in judged):
            rows = [j for j in judged if (j.type, j.target, j.reading) == (kind, target, reading)]
            title = f"{world}: {kind} on {target}, by {reading}"
            held = sum(j.is_covered for j in rows)
            if any(j.true_total for j in rows):
                values = [j.correlation for j in rows]
                record("effects", f"{title}, correlation of user effects, addressed", _mean(values), "", _each(values))
                every = [j.correlation_all for j in rows]
                record("effects", f"{title}, correlation of user effects, all users", _mean(every), "", _each(every))
                ratios = [j.ratio for j in rows]
                record("effects", f"{title}, forecast total / true total", _mean(ratios), "", _each(ratios))
            else:
                shares = [j.total / j.base for j in rows]
                record("effects", f"{title}, forecast effect / total of the target", _mean(shares), "", _each(shares))
            record("effects", f"{title}, draws whose interval holds the true total", held, f"of {len(rows)}")


def _print_gains(gains: list[dict[str, list[float]]], world: str) -> None:
    for name in gains[0]:
        rows = [one[name] for one in gains]
        title = f"{world}: {name}, with future - without"
        record("effects", title, _mean([row[0] for row in rows]), "", _spans(rows))


def _print_scores(scores: list[dict[str, float]]) -> None:
    for name in scores[0]:
        values = [score[name] for score in scores]
        record("effects", f"effects: {name}", _mean(values), "", _each(values))


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _each(values: Sequence[float]) -> str:
    return "draws: " + ", ".join(f"{v:.3f}" for v in values)


def _spans(rows: Sequence[Sequence[float]]) -> str:
    return "draws: " + ", ".join(f"{v:+.4g} [{low:+.4g}, {high:+.4g}]" for v, low, high in rows)


if __name__ == "__main__":
    main()
