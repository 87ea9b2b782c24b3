"""Print the gate table of a run as Markdown: python docs/make_table.py RUN [--brief]."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from habitus.tasks.run import read_metrics

COLUMNS = {
    "binary": {"auc": "AUC", "average_precision": "PR-AUC", "log_loss": "log loss", "ece": "ECE"},
    "amount": {"wape": "WAPE", "mae": "MAE", "rmse": "RMSE", "spearman": "Spearman"},
}


def main() -> None:
    """Write the table to standard output."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="a run folder after `habitus evaluate`")
    parser.add_argument("--brief", action="store_true", help="one line per target")
    options = parser.parse_args()
    metrics = read_metrics(options.run)
    print_lines(brief(metrics) if options.brief else full(metrics))
    facts = f"Commit {metrics['commit']}, {metrics['hardware']}, {metrics['created'][:10]}, seeds {metrics['seeds']}"
    print_lines(["", f"{facts}; {metrics['cutoffs']['n_samples']['test']:,} test samples."])


def full(metrics: dict[str, Any]) -> list[str]:
    """One table per target: every model, four metrics with intervals, the spread of seeds."""
    lines = []
    for target in metrics["targets"]:
        columns = _columns(target)
        lines += [
            "",
            f"**{target['name']}**: `{target['define']}`, {metrics['test_rates'][target['name']]:.1%} above 0",
            "",
        ]
        lines += [f"| | {' | '.join(columns.values())} | sd of seeds |", "|---|" + "---|" * (len(columns) + 1)]
        for row in (r for r in metrics["table"] if r["target"] == target["name"]):
            cells = " | ".join(_figure(row["metrics"][name]) for name in columns)
            spread = row.get("seed_sd", {})
            spreads = ", ".join(f"{spread[name]:.2g}" for name in columns) if spread else ""
            lines.append(f"| {row['model']} | {cells} | {spreads} |")
    return lines


def brief(metrics: dict[str, Any]) -> list[str]:
    """One line per target: the model, the best LightGBM row, and the paired difference of the leading metric."""
    lines = ["| target | metric | LUMOS | LightGBM | difference | reading |", "|---|---|---|---|---|---|"]
    for target in metrics["targets"]:
        name, label = next(iter(_columns(target).items()))
        value = {r["model"]: r["metrics"][name] for r in metrics["table"] if r["target"] == target["name"]}
        trees = [model for model in value if model.startswith("LightGBM")]
        best = sorted(trees, key=lambda m: value[m]["value"], reverse=name == "auc")[0]
        gap = next(
            d
            for d in metrics["differences"]
            if (d["target"], d["metric"], d["model"], d["against"]) == (target["name"], name, "LUMOS", best)
        )
        word = {True: "better", False: "**worse**", None: "level"}[gap["is_better"]]
        span = f"{gap['value']:+.3f} [{gap['low']:+.3f}, {gap['high']:+.3f}]"
        mine, other = (f"{value[model]['value']:.3f}" for model in ("LUMOS", best))
        lines.append(f"| `{target['define']}` | {label} | {mine} | {other} ({best}) | {span} | {word} |")
    return lines


def _columns(target: dict[str, Any]) -> dict[str, str]:
    return COLUMNS["binary" if target["head"] == "binary" else "amount"]


def _figure(figure: dict[str, float | None]) -> str:
    value, low, high = (figure[name] for name in ("value", "low", "high"))
    if value is None or low is None or high is None:
        return "n/a"
    digits = 4 if abs(value) < 10 else 0
    return f"{value:,.{digits}f} [{low:,.{max(digits - 1, 0)}f}, {high:,.{max(digits - 1, 0)}f}]"


def print_lines(lines: list[str]) -> None:
    """Write lines."""
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
