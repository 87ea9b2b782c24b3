"""One figure: printed, and appended to benchmarks/results.csv with commit, hardware and date."""

from __future__ import annotations

import argparse
import csv
import subprocess
from pathlib import Path

RESULTS = Path(__file__).with_name("results.csv")
COLUMNS = ("benchmark", "figure", "value", "unit", "commit", "hardware", "date", "note")


def record(benchmark: str, figure: str, value: float, unit: str = "", note: str = "") -> None:
    """Print a figure and append it to the results. A ratio has no unit; say in `figure` what is divided by what.

    Loads torch to name the hardware: call it after measuring, not before.
    """
    from habitus.tasks.run import provenance

    facts = provenance()
    print(f"  {figure:<60} {value:>12,.4g} {unit}{'  (' + note + ')' if note else ''}", flush=True)
    row = (benchmark, figure, f"{value:.6g}", unit, _commit(), facts["hardware"], facts["created"][:10], note)
    is_new = not RESULTS.is_file()
    with RESULTS.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if is_new:
            writer.writerow(COLUMNS)
        writer.writerow(row)


def _commit() -> str:
    """Give the commit, marked when anything but the results themselves differs from it."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=RESULTS.parent, capture_output=True, text=True, check=True).stdout

    is_changed = git("status", "--porcelain", "--untracked-files=no", "--", ":/", f":!{RESULTS.name}").strip()
    return git("rev-parse", "--short=10", "HEAD").strip() + ("-dirty" if is_changed else "")


def size_option(description: str | None) -> str:
    """Read the option --size of a benchmark: small or full."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--size", choices=("small", "full"), default="small")
    return parser.parse_args().size
