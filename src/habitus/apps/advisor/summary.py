"""From figures per case to what `evaluate` writes: means with intervals, paired differences, slices, citations."""

from __future__ import annotations

from typing import Any

import numpy as np

from habitus.apps.advisor.faithful import FIELDS
from habitus.apps.advisor.graph import iso
from habitus.apps.advisor.market import View
from habitus.apps.advisor.protocol import FIGURES, Intervals
from habitus.apps.advisor.run import FORMAT, Run
from habitus.apps.advisor.suitability import CLASSES
from habitus.data.sources.far_trans_world import TYPES

ACTIVITY = ((1, 3), (4, 20), (21, 100), (101, 10**9))
FLAT = 0.03  # a market that moved less than this in 63 price days is neither rising nor falling
SLICED = ("pref", "prof", "comb", "fit")


def summed(run: Run) -> dict[str, Any]:
    """Sum up the cases and checks that lie in a run."""
    cases = _read(run, "cases")
    sure, cond = Intervals(cases["customer"]), cases["is_cond"]
    names = list(dict.fromkeys(name.split("|")[0] for name in cases if "|" in name and not name.endswith("|tail")))
    rows = {
        name: {"all": {figure: sure.mean(cases[f"{name}|{figure}"]) for figure in (*FIGURES, "fit")},
               "cond": {figure: sure.mean(cases[f"{name}|{figure}"], cond) for figure in FIGURES[:6]}}
        for name in names
    }  # fmt: skip
    return {
        "format": FORMAT, "name": run.recipe.name, "n_cases": len(cond), "n_customers": sure.n,
        "dates": [iso(day) for day in run.recipe.test.days()],
        "excluded_share_of_cond": float(1 - cond.mean()), "share_with_buy": float(cases["has_buy"].mean()),
        "share_without_class": float((cases["declared"] < 0).mean()),
        "rows": rows, "tail_recall": {name: sure.mean(cases[f"{name}|tail"]) for name in run.rankers},
        "differences": _differences(cases, sure, list(run.rankers)), "gap_closed": _gap_closed(rows, list(run.rankers)),
        "left_out": run.market.source.left_out, "slices": _slices(run, cases, sure),
        "categories": _categories(run, cases, sure), "citations": _citations(run),
        "market": _market_roi(run), "unparsable": 0,
    }  # fmt: skip


def _read(run: Run, folder: str) -> dict[str, np.ndarray]:
    parts = []
    for day in run.recipe.test.days():
        path = run.folder / folder / f"{iso(day)}.npz"
        if path.is_file():
            with np.load(path) as kept:
                parts.append({name: kept[name] for name in kept.files})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}


def _differences(cases: dict[str, np.ndarray], sure: Intervals, ways: list[str]) -> list[dict[str, Any]]:
    """Paired differences of the first way to each other way and to the strongest simple rows."""
    first = next((f"{ways[0]}, {o}" for o in ("comb", "pref", "prof") if f"{ways[0]}, {o}|comb" in cases), "")
    others = ["popularity", "popularity 180", "holdings, popularity", "item kNN", "LightGCN"]
    others += [f"{way}, comb" for way in ways[1:]]
    rows = [
        {"row": first, "against": other, "figure": figure, "cases": which}
        | sure.mean(cases[f"{first}|{figure}"] - cases[f"{other}|{figure}"], keep)
        for other in others if f"{other}|comb" in cases
        for figure in ("pref", "prof", "comb")
        for which, keep in (("all", None), ("cond", cases["is_cond"]))
    ]  # fmt: skip
    pref = f"{ways[0]}, pref"
    for other in ("oracle P(buy)", "popularity"):
        if f"{other}|pref" in cases and f"{pref}|pref" in cases:
            difference = cases[f"{pref}|pref"] - cases[f"{other}|pref"]
            for which, keep in (("all", None), ("cond", cases["is_cond"])):
                row = {"row": pref, "against": other, "figure": "pref", "cases": which}
                rows.append(row | sure.mean(difference, keep))
    for other in ways[1:]:
        difference = cases[f"{ways[0]}|tail"] - cases[f"{other}|tail"]
        rows.append({"row": ways[0], "against": other, "figure": "tail", "cases": "all"} | sure.mean(difference))
    return rows


def _gap_closed(rows: dict[str, Any], ways: list[str]) -> dict[str, dict[str, float]]:
    """The part of the way from popularity to the oracle in Pref@3, of the first way and of the law with taste inferred;
    nothing where the oracle is unknown or no better than popularity."""
    found: dict[str, dict[str, float]] = {}
    if not {"popularity", "oracle P(buy)"} <= rows.keys():
        return found
    for name in (f"{ways[0]}, pref", "oracle, taste inferred"):
        for which in ("all", "cond"):
            low, high, own = (rows.get(row, {}).get(which, {}).get("pref", {}).get("value")
                              for row in ("popularity", "oracle P(buy)", name))  # fmt: skip
            if low is not None and high is not None and own is not None and high > low:
                found.setdefault(name, {})[which] = (own - low) / (high - low)
    return found


def market_phase(view: View) -> str:
    """Say where the market stood on the day, by the mean 63-day return of what has a price: rising, falling or flat."""
    moved = float(np.nanmean(view.facts["return63"][view.is_open]))
    return "rising market" if moved > FLAT else "falling market" if moved < -FLAT else "flat market"


def _slices(run: Run, cases: dict[str, np.ndarray], sure: Intervals) -> list[dict[str, Any]]:
    """Figures by activity, type of customer, declared class and phase of the market."""
    n, types, declared = cases["n_trades"], list(TYPES), cases["declared"]
    spans = {
        f"{low} to {high} trades" if high < 10**9 else f"{low} trades and more": (n >= low) & (n <= high)
        for low, high in ACTIVITY
    }
    phase = {day: market_phase(run.market.view(day)) for day in run.recipe.test.days()}
    of_case = np.array([phase[day] for day in cases["day"]])
    groups = {
        "activity": spans,
        "type": {name: cases["type"] == place for place, name in enumerate(types)} | {"unknown": cases["type"] < 0},
        "declared class": {name: declared == place for place, name in enumerate(CLASSES)} | {"unknown": declared < 0},
        "market phase": {name: of_case == name for name in sorted(set(phase.values()))},
    }
    ways = list(run.rankers)
    wanted = [f"{ways[0]}, comb", "holdings, popularity", "popularity"]
    return [
        {"by": by, "slice": name, "row": row, "n": int(inside.sum())}
        | {figure: sure.mean(cases[f"{row}|{figure}"], inside) for figure in SLICED}
        for by, parts in groups.items() for name, inside in parts.items() if inside.any()
        for row in wanted if f"{row}|comb" in cases
    ]  # fmt: skip


def _categories(run: Run, cases: dict[str, np.ndarray], sure: Intervals) -> list[dict[str, Any]]:
    """What the first way named in its first three places, by category of the asset. A case counts once per category."""
    if "named" not in cases:
        return []
    names = run.market.source.assets["category"].to_numpy()
    category = np.where(cases["named"] >= 0, names[np.maximum(cases["named"], 0)], "")
    rows = []
    for name in sorted(set(names) - {""}):
        inside = category == name
        count = inside.sum(1)
        row: dict[str, Any] = {"category": str(name), "share": float(count.sum() / max((category != "").sum(), 1))}
        for figure in ("bought", "rises", "fits"):
            values = np.where(inside, cases[f"named_{figure}"].astype(float), 0)
            row[figure] = sure.mean(np.where(count > 0, values.sum(1) / np.maximum(count, 1), np.nan))
        rows.append(row)
    return rows


def _citations(run: Run) -> dict[str, Any] | None:
    """What the checks of citations found; None without checks."""
    checks = _read(run, "checks").get("checks")
    if checks is None or not len(checks):
        return None
    count = dict(zip(FIELDS, checks[:, 1 : len(FIELDS) + 1].sum(0), strict=True))
    sure = Intervals(checks[:, 0])
    cited = max(count["cited"], 1)
    moved, other = checks[:, -2], checks[:, -1]
    return {
        "customers": len(np.unique(checks[:, 0])), "assets": len(checks), "cited": int(count["cited"]),
        "without_citation": int((checks[:, 1] == 0).sum()),
        **{f"share_{name}": float(count[name] / cited) for name in FIELDS[1:]},
        "moved": sure.mean(moved), "moved_other": sure.mean(other), "faithfulness": sure.mean(moved - other),
    }  # fmt: skip


def _market_roi(run: Run) -> float:
    """Mean monthly return of the equal-weight portfolio of all open assets, over the test dates."""
    found = []
    for day in run.recipe.test.days():
        view = run.market.view(day)
        monthly = view.outcome(np.zeros(0, np.int64)).monthly
        found.append(np.nanmean(monthly[view.is_open]))
    return float(np.mean(found))
