"""Judge every row of a run on the same cases, date by date, and check the citations of a sample of answers."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from habitus.apps.advisor.advise import Advisor
from habitus.apps.advisor.baselines import Baselines, fit_hybrid
from habitus.apps.advisor.faithful import FIELDS, check_answer
from habitus.apps.advisor.graph import iso
from habitus.apps.advisor.market import View
from habitus.apps.advisor.protocol import LONG, TOP, Judged, judge_lists, judge_scores, tail_recall
from habitus.apps.advisor.rank import Objective, active_customers, rank
from habitus.apps.advisor.run import AdvisorRecipe, Run, Say, open_run, refit_days
from habitus.apps.advisor.select import retrieve_many
from habitus.apps.advisor.suitability import declared_class, fitting, fitting_first
from habitus.apps.advisor.summary import summed
from habitus.core.atomic import new_file, write_json
from habitus.core.seeds import generator, uniforms
from habitus.data.sources.far_trans_world import TYPES, read_truth

BLOCK = 3000
OBJECTIVES: tuple[Objective, ...] = ("pref", "prof", "comb")


def evaluate_advisor(run: str | Path, say: Say = print) -> dict[str, Any]:
    """Judge every row on every test date; write RUN/metrics.json and give it.

    Dates that are there are not judged again.
    """
    opened = open_run(run)
    recipe = opened.recipe
    baselines = Baselines(opened.market, read_truth(opened.source), has_learnt=recipe.baselines == "all")
    missing = [day for day in recipe.test.days() if not (opened.folder / "cases" / f"{iso(day)}.npz").is_file()]
    if missing and recipe.baselines == "all":
        baselines.hybrid = _fit_hybrid(baselines, recipe)
    for day in missing:
        began = time.perf_counter()
        found = _judge_day(opened, baselines, opened.market.view(day))
        _keep(opened.folder / "cases" / f"{iso(day)}.npz", found)
        say(f"{iso(day)}: {len(found['customer']):,} cases, {time.perf_counter() - began:.0f} s")
    _check_dates(opened, say)
    metrics = summed(opened)
    write_json(opened.folder / "metrics.json", metrics)
    return metrics


def _keep(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with new_file(path) as beside, beside.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def _fit_hybrid(baselines: Baselines, recipe: AdvisorRecipe) -> Callable[[dict[str, np.ndarray]], np.ndarray]:
    rows = []
    for day in refit_days(recipe)[-1::-6][:2]:
        view = baselines.market.view(day)
        people = active_customers(view)[:: max(len(active_customers(view)) // 3000, 1)]
        trades = view.trades(people)
        label = view.outcome(people).bought
        rows.append((baselines.scores(view, trades), label, view.is_open))
    return fit_hybrid(rows, baselines.seed)


def _judge_day(run: Run, baselines: Baselines, view: View) -> dict[str, np.ndarray]:
    people = active_customers(view)
    keep = uniforms(0, people.astype(np.uint64), stream="customers judged") < run.recipe.customer_share
    parts = [_judge_block(run, baselines, view, block) for block in _blocks(people[keep])]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _blocks(people: np.ndarray) -> list[np.ndarray]:
    return np.array_split(people, max(-(-len(people) // BLOCK), 1))


def _judge_block(run: Run, baselines: Baselines, view: View, people: np.ndarray) -> dict[str, np.ndarray]:
    trades, outcome, fits = view.trades(people), view.outcome(people), fitting(view, people)
    had = trades.matrix(trades.is_buy.astype(np.float64), view.n_assets) > 0
    units = trades.matrix(np.where(trades.is_buy, trades.units, -trades.units), view.n_assets)
    kept: dict[str, Any] = {
        "customer": people,
        "day": np.full(len(people), view.day),
        "n_trades": np.bincount(trades.row, minlength=len(people)),
        "type": view.profile_codes("type", tuple(TYPES))[people].astype(np.int8),
        "declared": declared_class(view, people).astype(np.int8),
        "is_cond": (outcome.good & view.is_open).any(1),
        "has_buy": outcome.bought.any(1),
    }
    rows: dict[str, Judged] = {
        name: judge_scores(view, scores, outcome, had, fits) for name, scores in baselines.scores(view, trades).items()
    }
    rows["hindsight"] = judge_scores(view, 2.0 * outcome.good + outcome.bought, outcome, had, fits)
    for name, ranker in run.rankers.items():
        found = retrieve_many(view, trades, ranker.retrieval)
        is_first = name == next(iter(run.rankers))
        for objective in OBJECTIVES if is_first else (ranker.config.objective,):
            lists, _ = rank(ranker, view, trades, found, objective)
            rows[f"{name}, {objective}"] = judge_lists(lists[:, :LONG], _without(lists, had), outcome, had, fits)
            if is_first and objective == "comb":
                kept |= _named(lists[:, :TOP], outcome.bought, outcome.rises, fits)
                safe = fitting_first(lists, fits)
                rows[f"{name}, comb, fitting only"] = judge_lists(
                    safe[:, :LONG], _without(safe, had), outcome, had, fits
                )
        kept[f"{name}|tail"] = tail_recall(view, found.assets, outcome, units > 1e-4).astype(np.float32)
    for name, judged in rows.items():
        kept |= {f"{name}|{figure}": values for figure, values in judged.figures.items()}
    return kept


def _named(lists: np.ndarray, bought: np.ndarray, rises: np.ndarray, fits: np.ndarray) -> dict[str, np.ndarray]:
    """What the first way named in its first three places, place by place: asset, bought, risen, fitting."""
    at = np.maximum(lists, 0)
    is_one = lists >= 0
    return {
        "named": lists.astype(np.int16),
        "named_bought": np.take_along_axis(bought, at, 1) & is_one,
        "named_rises": rises[at] & is_one,
        "named_fits": np.where(is_one, np.take_along_axis(fits, at, 1), np.nan).astype(np.float32),
    }


def _without(lists: np.ndarray, had: np.ndarray) -> np.ndarray:
    """Move assets that a customer had to the end as empty places; give the first ten."""
    is_new = (lists >= 0) & ~np.take_along_axis(had, np.maximum(lists, 0), 1)
    order = np.argsort(~is_new, axis=1, kind="stable")
    moved = np.where(np.take_along_axis(is_new, order, 1), np.take_along_axis(lists, order, 1), -1)
    return moved[:, :LONG]


def _check_dates(run: Run, say: Say) -> None:
    """Let the graph road answer a sample of customers per date, and check what it cites."""
    days = [day for day in run.recipe.test.days() if not (run.folder / "checks" / f"{iso(day)}.npz").is_file()]
    if not days or not run.recipe.n_checked:
        return
    advisor = Advisor(run)
    for day in days:
        began = time.perf_counter()
        people = active_customers(run.market.view(day))
        some = generator(0, "answers checked", day).permutation(people)[: run.recipe.n_checked]
        rows = []
        for who in some:
            answer, found = advisor.advise(str(run.market.source.customer_ids[who]), day, k=TOP)
            for check in check_answer(advisor, answer, found):
                counts = [getattr(check, field) for field in FIELDS]
                rows.append([float(who), *counts, check.moved, check.moved_other])
        _keep(run.folder / "checks" / f"{iso(day)}.npz", {"checks": np.array(rows).reshape(-1, len(FIELDS) + 3)})
        say(f"{iso(day)}: citations of {len(some):,} answers checked, {time.perf_counter() - began:.0f} s")
