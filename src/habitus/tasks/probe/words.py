"""The table of a probe in words: the verdict first, then every figure with its interval."""

from __future__ import annotations

import polars as pl

from habitus.tasks.probe.table import ProbeTable

AGGREGATES = "aggregates"


def verdict(table: ProbeTable, learnt: tuple[str, ...], head: str) -> str:
    """Say in one line whether anything learnt beats the hand-made aggregates under one head."""
    if AGGREGATES not in table.features or not table.labels:
        return f"{len(table.labels)} labels probed; no aggregates to compare with."
    gains = {name: table.mean_difference(name, AGGREGATES, head) for name in learnt}
    best = max(gains, key=lambda name: gains[name].value)
    gain, n = gains[best], len(table.labels)
    span = f"{gain.value:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}] AUC over {n} label{'s' * (n > 1)}, {head}"
    if gain.value <= 0:
        return f"Aggregates alone win: nothing learnt adds to them; best is {best}, {span}."
    if gain.low <= 0:
        return f"Aggregates and vectors are level: {best} against aggregates alone {span}; the interval holds 0."
    return f"{best} beats aggregates alone: {span}."


def as_frame(table: ProbeTable, against: str | None = None) -> pl.DataFrame:
    """Give one row per cell: AUC with interval, spread over seeds, and the paired difference to `against`."""
    rows = []
    for cell in table.cells:
        found = cell.interval
        row = {"label": cell.label, "features": cell.features, "head": cell.head, "auc": cell.value}
        row |= {"low": found.low, "high": found.high, "n": cell.n_users, "positive": cell.n_positive}
        low, high = min(cell.by_seed), max(cell.by_seed)
        row |= {"seeds": len(cell.by_seed), "seed_low": low, "seed_high": high, "seconds": cell.seconds}
        if against is not None:
            gap = table.difference(cell.label, cell.features, against, cell.head)
            row |= {"gain": gap.value, "gain_low": gap.low, "gain_high": gap.high}
        rows.append(row)
    return pl.DataFrame(rows)


def as_text(table: ProbeTable, against: str | None, first: str = "") -> str:
    """Give the lines a person reads: the verdict, one line per cell, and labels that were left out."""
    lines = [first] if first else []
    for label in table.labels:
        one = next(cell for cell in table.cells if cell.label == label)
        lines.append(f"\n{label}: {one.n_positive:,} of {one.n_users:,} users")
        for cell in (c for c in table.cells if c.label == label):
            found = cell.interval
            text = f"  {cell.head:<9} {cell.features:<22} {cell.value:.4f} [{found.low:.4f}, {found.high:.4f}]"
            if against is not None and cell.features != against:
                gap = table.difference(label, cell.features, against, cell.head)
                text += f"   {gap.value:+.4f} [{gap.low:+.4f}, {gap.high:+.4f}] against {against}"
            lines.append(text)
    lines += [f"left out: {name} ({reason})" for name, reason in table.why_not.items()]
    return "\n".join(lines)
