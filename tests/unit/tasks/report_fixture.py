"""A metrics.json with numbers shaped like Online Retail, and one with every awkward case at once."""

from __future__ import annotations

import copy
import json
import math
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np

HOSTILE = '<script>window.hacked = 1</script> & "quoted" </script>'
LONG = "gradient boosted trees on windowed aggregates over 7, 30, 90 and 180 days with every known-future column"
CUTOFF = date(2011, 11, 10)
GATES = ["base rate", "recency x frequency", "LightGBM", "LightGBM + known events"]
MODEL, BLEND = "LUMOS", "LUMOS + trees"


def write_run(folder: Path, metrics: dict[str, Any], recipe: str | None = None) -> Path:
    """Make a run folder with metrics.json, and a recipe when given."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps(metrics), "utf-8")
    if recipe:
        (folder / "recipe.toml").write_text(recipe, "utf-8")
    return folder


def online_retail() -> dict[str, Any]:
    """Everything present: 4 targets, 5 models, 3 seeds, daily totals with a band, two calendars and a placebo."""
    rng = np.random.default_rng(20111110)
    log_days = _days(date(2010, 12, 1), date(2011, 12, 8))
    users = _active_users(log_days, rng)
    return {
        "format": 1,
        "name": "online_retail_lumos",
        "created": "2026-11-24T11:03:52+00:00",
        "commit": "3f9c1a7",
        "hardware": "2 CPU cores (AVX512), 24 GB memory, no GPU",
        "seeds": [0, 1, 2],
        "wall": {"ingest": 3.1, "train": 312.4, "evaluate": 48.0},
        "commands": ["habitus train recipes/online_retail_lumos.toml", "habitus evaluate runs/online_retail_lumos"],
        "data": {
            "name": "online_retail",
            "n_users": 4372,
            "n_events": 406789,
            "n_rejected": 135120,
            "first_day": "2010-12-01",
            "last_day": "2011-12-08",
            "types": {"purchase": 397884, "cancellation": 8905},
            "daily": {
                "day": _iso(log_days),
                "events": [int(n) for n in np.round(users * rng.normal(24, 3, len(users)).clip(12))],
                "active_users": [int(n) for n in users],
            },
        },
        "cutoffs": {
            "horizon": 28,
            "history": 180,
            "train": _iso(_weekly(date(2011, 1, 6), 30)),
            "gap": _iso(_weekly(date(2011, 8, 4), 3)),
            "valid": _iso(_weekly(date(2011, 8, 25), 5)),
            "test": _iso(_weekly(date(2011, 10, 20), 4)),
            "n_samples": {"train": 64012, "valid": 16420, "test": 15983},
        },
        "targets": [
            {"name": "buy", "define": "any(purchase) in 28d", "head": "binary", "unit": None, "rate": 0.3201},
            {"name": "cancel", "define": "any(cancellation) in 28d", "head": "binary", "unit": None, "rate": 0.0718},
            {"name": "spend", "define": "sum(spend of purchase) in 28d", "head": "ziln", "unit": "GBP", "rate": 0.3201},
            {"name": "days", "define": "days(purchase) in 28d", "head": "days", "unit": "days", "rate": 0.3201},
        ],
        "models": [{"name": n, "role": "gate"} for n in GATES]
        + [{"name": MODEL, "role": "model"}, {"name": BLEND, "role": "blend"}],
        "model": {"name": "LUMOS", "size": "tiny", "n_parameters": 135275, "dropout": 0.2},
        "versions": "habitus 0.1.0, torch 2.13.0+cpu, Python 3.11.7",
        "test_rates": {"buy": 0.3201, "cancel": 0.0718, "spend": 0.3199, "days": 0.3201},
        "table": _table(),
        "differences": _differences(),
        "reliability": _reliability(rng),
        "history": _history(rng, seeds=[0, 1, 2]),
        "totals": [
            {"target": "buy", "unit": "users", "cutoff": "2011-11-10", "level": 0.8, "value": 1288.4, "low": 1172.0,
             "high": 1411.0, "actual": 1326, "n_users": 4101},
            {"target": "spend", "unit": "GBP", "cutoff": "2011-11-10", "level": 0.8, "value": 812345.6, "low": 688210.0,
             "high": 961400.0, "actual": 961831.17, "n_users": 4101},
        ],
        "daily": _daily(log_days, users, rng),
        "whatif": _whatif(rng),
    }  # fmt: skip


def awkward() -> dict[str, Any]:
    """Hostile and long names, one seed, one calendar, no test positive, NaN, missing sections, a model that loses."""
    metrics = copy.deepcopy(online_retail())
    for key in ("totals", "history", "commands", "hardware", "commit"):
        metrics.pop(key)
    metrics["seeds"] = [7]
    metrics["name"] = HOSTILE
    metrics["data"]["name"] = "A data set whose owners gave it a very long name indeed, " * 2 + HOSTILE
    metrics["data"]["types"] = {f"type_{i}_with_a_long_name_{'x' * (3 * i)}": 10 ** (6 - i % 6) for i in range(14)}
    metrics["data"]["types"][HOSTILE] = 3
    renamed = {"LightGBM + known events": LONG, "recency x frequency": HOSTILE}
    for part in ("models", "table", "differences", "reliability"):
        for row in metrics[part]:
            row.update({key: renamed[row[key]] for key in ("name", "model", "against") if row.get(key) in renamed})
    metrics["targets"][0]["name"] = HOSTILE
    for part in ("table", "differences", "reliability"):
        for row in metrics[part]:
            row["target"] = HOSTILE if row["target"] == "buy" else row["target"]
            row.pop("seed_sd", None)
    _make_lose(metrics, HOSTILE)
    _make_lose(metrics, "spend")
    metrics["test_rates"] = {"cancel": 0.0718, "fraud": 0.0}
    metrics["targets"].append(
        {"name": "fraud", "define": "any(fraud) in 28d", "head": "binary", "unit": None, "rate": 0.001}
    )
    for model in (GATES[0], HOSTILE, GATES[2], LONG, MODEL):
        figures = {"auc": {"value": math.nan, "low": math.nan, "high": math.nan}, "log_loss": {"value": 0.0003},
                   "ece": {"value": 0.0001, "low": None, "high": None}}  # fmt: skip
        metrics["table"].append({"target": "fraud", "model": model, "metrics": figures})
    metrics["reliability"].append(
        {"target": "fraud", "model": MODEL, "predicted": [0.0001], "observed": [0.0], "n": [15983]}
    )
    for entry in metrics["daily"]:
        entry["forecast"]["actual"] = [None] * len(entry["forecast"]["day"])
        entry["events"] = [{"event": f"{HOSTILE} {i}", "start": f"2011-11-{d}", "end": f"2011-11-{d}"}
                           for i, d in enumerate((12, 13, 14, 25, 26))]  # fmt: skip
    whatif = metrics["whatif"]
    whatif["calendars"] = whatif["calendars"][:1]
    whatif["rows"] = [row for row in whatif["rows"] if row["calendar"] == whatif["calendars"][0]]
    for key in ("changes", "placebo", "late", "null", "segments", "importance"):
        whatif[key] = []
    for entry in whatif["daily"]:
        entry["values"] = {"as planned": entry["values"]["as planned"]}
    return metrics


def bare() -> dict[str, Any]:
    """What a run holds before anything was evaluated."""
    return {"format": 1, "name": "fresh", "seeds": [0]}


def _make_lose(metrics: dict[str, Any], target: str) -> None:
    """Set the model clearly below every baseline, in the table and in the differences."""
    for row in metrics["differences"]:
        if row["target"] == target:
            bad = -0.03 if row["metric"] in ("auc", "average_precision", "spearman") else 0.03
            row.update(value=bad, low=bad - 0.01, high=bad + 0.01, is_better=False)
    best, ours = (next(r for r in metrics["table"] if (r["target"], r["model"]) == (target, m)) for m in (LONG, MODEL))
    for key, figure in best["metrics"].items():
        bad = -0.03 if key in ("auc", "average_precision", "spearman") else 0.03
        ours["metrics"][key] = {end: value + bad for end, value in figure.items()}


def _figure(value: float, half: float) -> dict[str, float]:
    return {"value": value, "low": value - half, "high": value + 1.04 * half}


_BINARY = {
    "buy": [(0.5, 0.0, 0.627, 0.062), (0.717, 0.014, 0.549, 0.041), (0.7465, 0.014, 0.537, 0.052),
            (0.747, 0.014, 0.539, 0.061), (0.7512, 0.0138, 0.5298, 0.021), (0.7561, 0.0137, 0.5271, 0.03)],
    "cancel": [(0.5, 0.0, 0.2601, 0.012), (0.741, 0.025, 0.231, 0.011), (0.789, 0.022, 0.218, 0.008),
               (0.785, 0.023, 0.22, 0.011), (0.7702, 0.0231, 0.2223, 0.0094), (0.791, 0.022, 0.218, 0.009)],
}  # fmt: skip
_AMOUNT = {
    "spend": [(1.142, 0.03, 311.0, 0.0), (0.962, 0.03, 244.0, 0.401), (0.897, 0.028, 213.0, 0.432),
              (0.92, 0.029, 217.0, 0.433), (0.8834, 0.0275, 209.6, 0.4391), (0.88, 0.027, 208.0, 0.445)],
    "days": [(1.203, 0.02, 0.611, 0.0), (0.991, 0.02, 0.472, 0.398), (0.957, 0.02, 0.444, 0.422),
             (0.949, 0.02, 0.441, 0.421), (0.9215, 0.0192, 0.4302, 0.4266), (0.92, 0.019, 0.43, 0.431)],
}  # fmt: skip


def _cells(target: str, i: int) -> dict[str, dict[str, float]]:
    if target in _BINARY:
        auc, half, loss, ece = _BINARY[target][i]
        precision = {"buy": 0.32, "cancel": 0.07}[target] + 1.25 * (auc - 0.5)
        return {"auc": _figure(auc, half), "average_precision": _figure(precision, 0.022),
                "log_loss": _figure(loss, 0.012), "brier": _figure(loss / 3.1, 0.006),
                "ece": _figure(ece, 0.008)}  # fmt: skip
    wape, half, mae, spearman = _AMOUNT[target][i]
    scale = 0.03 * mae
    return {"wape": _figure(wape, half), "mae": _figure(mae, scale), "rmse": _figure(3.7 * mae, 9 * scale),
            "spearman": _figure(spearman, 0.015)}  # fmt: skip


def _table() -> list[dict[str, Any]]:
    rows = []
    for target in (*_BINARY, *_AMOUNT):
        for i, model in enumerate([*GATES, MODEL, BLEND]):
            sd = {} if i != 4 else {"auc": 0.0021, "log_loss": 0.0012, "wape": 0.0048, "mae": 1.1}
            rows.append({"target": target, "model": model, "metrics": _cells(target, i), "seed_sd": sd})
    return rows


def _differences() -> list[dict[str, Any]]:
    rows = []
    for target in (*_BINARY, *_AMOUNT):
        for k, model in ((4, MODEL), (5, BLEND)):
            ours = _cells(target, k)
            for i, gate in enumerate(GATES):
                for metric, figure in _cells(target, i).items():
                    value = ours[metric]["value"] - figure["value"]
                    half = (figure["high"] - figure["low"]) / 3.2 or 0.009
                    sign = 1 if metric in ("auc", "average_precision", "spearman") else -1
                    better = None if abs(value) < half else value * sign > 0
                    rows.append({"target": target, "metric": metric, "model": model, "against": gate, "value": value,
                                 "low": value - half, "high": value + half, "is_better": better})  # fmt: skip
    return rows


def _reliability(rng: np.random.Generator) -> list[dict[str, Any]]:
    rows = []
    for target, top in (("buy", 0.93), ("cancel", 0.46)):
        for model, bend in ((MODEL, 1.02), (GATES[3] if target == "buy" else GATES[2], 0.84)):
            predicted = top * np.linspace(0.04, 1, 10) ** 1.4
            n = np.round(15983 * rng.dirichlet(np.full(10, 30.0) * np.linspace(2, 0.4, 10)))
            observed = rng.binomial(n.astype(int), np.clip(predicted * bend, 0, 1)) / n
            rows.append({"target": target, "model": model, "predicted": predicted.tolist(),
                         "observed": observed.tolist(), "n": n.astype(int).tolist()})  # fmt: skip
    return rows


def _history(rng: np.random.Generator, seeds: list[int]) -> list[dict[str, Any]]:
    rows = []
    for seed in seeds:
        for epoch in range(14 + seed):
            train = 0.78 + 0.24 * math.exp(-epoch / (2.5 + 0.3 * seed)) - 0.004 * epoch + rng.normal(0, 0.002)
            valid = 0.865 + 0.14 * math.exp(-epoch / 2.2) + 0.0006 * max(0, epoch - 7) ** 2 + rng.normal(0, 0.0025)
            shares = {"buy": 0.95, "cancel": 0.98, "spend": 1.04, "days": 1.03}
            targets = {name: valid * share + rng.normal(0, 0.003) for name, share in shares.items()}
            rows.append({"seed": seed, "epoch": epoch, "train": train, "valid": valid, "targets": targets})
    return rows


def _daily(days: list[date], users: np.ndarray, rng: np.random.Generator) -> list[dict[str, Any]]:
    at = days.index(CUTOFF) + 1
    past, future = slice(at - 84, at), slice(at, at + 28)
    events = [{"event": "Black Friday", "start": "2011-11-25", "end": "2011-11-25"},
              {"event": "Cyber Monday", "start": "2011-11-28", "end": "2011-11-28"},
              {"event": "Summer bank holiday", "start": "2011-08-29", "end": "2011-08-29"},
              {"event": "Christmas shop window", "start": "2011-12-01", "end": "2011-12-09"}]  # fmt: skip
    entries = []
    for target, unit, scale, bias in (("active users", "users", 1.0, 0.95), ("spend", "GBP", 520.0, 0.86)):
        actual = users * scale * (1 if scale == 1 else rng.lognormal(0, 0.18, len(users)))
        middle = np.where(users[future] == 0, 0.4, bias * users[future] * rng.normal(1, 0.07, 28)) * scale
        wide = 0.16 if scale == 1 else 0.28
        entries.append({
            "target": target, "unit": unit, "cutoff": CUTOFF.isoformat(), "coverage": 0.8, "n_users": 4101,
            "past": {"day": _iso(days[past]), "value": actual[past].round(2).tolist()},
            "forecast": {"day": _iso(days[future]), "value": middle.tolist(),
                         "low": np.where(middle < scale, 0, middle * (1 - wide)).tolist(),
                         "high": (middle * (1 + 1.15 * wide)).tolist(), "actual": actual[future].round(2).tolist()},
            "events": events,
        })  # fmt: skip
    return entries


def _whatif(rng: np.random.Generator) -> dict[str, Any]:
    calendars = ["as planned", "no Christmas", "sale one week earlier"]
    base = {"buy": (1288.4, "users"), "cancel": (291.2, "users"), "spend": (812345.6, "GBP"), "days": (2011.0, "days")}
    moves = {"no Christmas": (-0.031, 0.012), "sale one week earlier": (0.006, 0.011)}
    rows = [{"target": t, "unit": u, "calendar": "as planned", "total": v, "total_low": 0.9 * v, "total_high": 1.1 * v,
             "difference": 0.0, "low": 0.0, "high": 0.0, "n_users": 4101, "n_changed": 0, "verdict": "nothing"}
            for t, (v, u) in base.items()]  # fmt: skip
    segments = []
    for calendar, (move, half) in moves.items():
        for k, (target, (value, unit)) in enumerate(base.items()):
            change = value * (move * (1 + 0.3 * k))
            row = {"target": target, "unit": unit, "calendar": calendar, "total": value + change,
                   "total_low": 0.9 * value, "total_high": 1.1 * value, "difference": change,
                   "low": change - value * half, "high": change + value * half, "n_users": 4101, "n_changed": 4101,
                   "verdict": "clear" if abs(change) > value * half else "noise"}  # fmt: skip
            if target == "spend":
                row |= {f"day_{part}": 4 * row[part] for part in ("difference", "low", "high")}
                row["day_verdict"] = "clear"
            rows.append(row)
            for segment, share in (("United Kingdom", 0.9), ("elsewhere", 0.1)):
                part = {key: row[key] * share for key in ("total", "difference", "low", "high")}
                segments.append(row | part | {"segment": segment, "n_users": round(4101 * share)})
    placebo = [{"target": t, "unit": u, "calendar": calendar, "kind": kind, "n": 5, "difference": size * v,
                "low": (size - 0.002) * v, "high": (size + 0.003) * v}
               for calendar in moves for kind, size in (("just after", 0.001), ("other days", -0.02))
               for t, (v, u) in base.items()]  # fmt: skip
    events = [("Black Friday", "2011-11-25", 0.02), ("Cyber Monday", "2011-11-28", -0.004)]
    adds = [{"event": event, "type": "sale", "start": start, "target": t, "unit": u, "n_reached": 4101, "n_past": 2,
             "is_placebo": False, "value": share * v, "low": 0.8 * share * v, "high": 1.2 * share * v,
             "alone_value": 1.1 * share * v, "alone_low": share * v, "alone_high": 1.3 * share * v}
            for t, (v, u) in base.items() for event, start, share in events]  # fmt: skip
    adds += [adds[2 * k] | {"event": "placebo", "is_placebo": True, "value": 0.0, "low": -1.0, "high": 1.0}
             for k in range(len(base))]  # fmt: skip
    days = _days(date(2011, 11, 11), date(2011, 12, 8))
    line = 60 + 20 * np.sin(np.arange(28) / 28 * 3) + rng.normal(0, 4, 28)
    values = {"as planned": line, "no Christmas": line * 0.97, "sale one week earlier": np.roll(line, 7)}
    return {
        "cutoff": CUTOFF.isoformat(),
        "horizon": 28,
        "n_users": 4101,
        "level": 0.9,
        "n_members": 3,
        "total_level": 0.8,
        "n_cutoffs": 5,
        "calendars": calendars,
        "rows": rows,
        "changes": [
            {"calendar": "no Christmas", "event": "Christmas Day", "type": "public holiday", "start": "2011-12-25",
             "what": "dropped", "kind": "shared by all", "n_past": 1,
             "warning": "seen once in the past: fewer than 3 occurrences, read the answer as a guess"},
            {"calendar": "sale one week earlier", "event": "Cyber Monday", "type": "sale", "start": "2011-11-21",
             "was": "2011-11-28", "what": "moved", "kind": "targeted", "n_past": 4, "warning": None},
        ],
        "late": [{"calendar": "no Christmas", "event": "New Year sale"}],
        "arrivals": {"n_users": 224, "n_days": 28},
        "daily": [{"target": "active users", "unit": "users", "level": 0.8, "day": _iso(days),
                   "values": {k: v.tolist() for k, v in values.items()},
                   "low": {k: (0.8 * v).tolist() for k, v in values.items()},
                   "high": {k: (1.2 * v).tolist() for k, v in values.items()}}],
        "null": [{"test": "the same calendar again", "largest": 0.0}],
        "placebo": placebo,
        "segment_by": "country",
        "segments": segments,
        "importance": adds,
        "n_events_left_out": 0,
    }  # fmt: skip


def _active_users(days: list[date], rng: np.random.Generator) -> np.ndarray:
    """Customers with a purchase a day: none on Saturdays and at the turn of the year, a climb in autumn."""
    week = np.array([54, 55, 58, 68, 50, 0, 40]) / 55
    rhythm = np.array([week[d.weekday()] for d in days])
    season = np.array([60, 39, 39, 45, 50, 52, 50, 47, 46, 61, 66, 92])
    level = np.array([88 if d >= date(2011, 12, 1) else 60 if d.year == 2010 else season[d.month - 1] for d in days])
    closed = np.array([date(2010, 12, 24) <= d <= date(2011, 1, 3) for d in days])
    return np.where(closed, 0, np.round(level * rhythm * rng.normal(1, 0.12, len(days)).clip(0.5)))


def _days(first: date, last: date) -> list[date]:
    return [first + timedelta(days=i) for i in range((last - first).days + 1)]


def _weekly(first: date, n: int) -> list[date]:
    return [first + timedelta(days=7 * i) for i in range(n)]


def _iso(days: list[date]) -> list[str]:
    return [d.isoformat() for d in days]
