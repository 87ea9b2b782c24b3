"""Sums over users: in total, by day and by segment, each with what is known of its uncertainty.

Two intervals, two meanings. That of a total says how far totals of the past fell from their forecast
(split-conformal over validation cut-offs). That of a difference says how far refits of the model disagree about it
(spread of the members); it does not hold the chance that the world reacts otherwise than it did.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from habitus.core.errors import ConfigError, nearest
from habitus.data.calendar import to_date
from habitus.data.cutoffs import Samples
from habitus.data.store import Store
from habitus.tasks.forecast import Heads, day_interval, total_interval
from habitus.tasks.recipe import Recipe
from habitus.tasks.whatif.futures import Answer

LEVEL = 0.9  # of the intervals of differences
T_90 = {3: 2.92, 4: 2.353, 5: 2.132, 6: 2.015, 7: 1.943, 8: 1.895}  # Student's t, 95th percentile, n - 1 degrees
MOST_SEGMENTS = 50
NO_SEGMENT = "(none)"


def units_of(heads: Heads, recipe: Recipe) -> list[str]:
    """Name the unit of each target's total: that of the recipe, else users for chances."""
    units = {target.name: target.unit for target in recipe.targets}
    return [units.get(head.name) or ("users" if head.kind == "binary" else "") for head in heads.window]


def totals(
    heads: Heads, units: list[str], names: tuple[str, ...], found: list[Answer], calibration: dict[str, Any]
) -> list[dict[str, Any]]:
    """Give the total of each target under each calendar and its difference to the first, each with its interval."""
    everybody = np.ones(len(found[0].mean), bool)
    rows = _summed(heads, units, names, found, everybody)
    for row in rows:
        error = calibration.get("totals", {}).get(row["target"])
        low, high = (np.nan, np.nan) if error is None else total_interval(row["total"], error)
        row |= {"total_low": _known(low), "total_high": _known(high)}
    return rows


def by_segment(
    heads: Heads, units: list[str], names: tuple[str, ...], found: list[Answer], segment: np.ndarray
) -> list[dict[str, Any]]:
    """Give the rows of `totals`, without the interval of the total, for each segment; they add up to the whole."""
    return [
        {"segment": name} | row
        for name in sorted(set(segment), key=lambda text: (text == NO_SEGMENT, text))
        for row in _summed(heads, units, names, found, segment == name)
    ]


def by_day(
    heads: Heads, names: tuple[str, ...], found: list[Answer], day: int, recipe: Recipe, calibration: dict[str, Any]
) -> list[dict[str, Any]]:
    """Give the total of each coming day under each calendar, with the interval that days of the past suggest."""
    sections = []
    units = {target.name: target.unit for target in recipe.targets}
    days = [str(to_date(day + 1 + f)) for f in range(len(found[0].day))]
    for k, head in enumerate(heads.day):
        error = calibration.get("daily", {}).get(head.name, {"low": None})
        entry: dict[str, Any] = {"target": head.name, "unit": units.get(head.name) or "users", "day": days}
        entry |= {"values": {}, "low": {}, "high": {}, "level": error.get("coverage")}
        for name, answer in zip(names, found):
            low, high = day_interval(answer.day[:, k], error)
            entry["values"][name] = answer.day[:, k].tolist()
            entry["low"][name], entry["high"][name] = ([_known(v) for v in side] for side in (low, high))
        sections.append(entry)
    return sections


def per_user(
    heads: Heads, names: tuple[str, ...], found: list[Answer], users: pl.Series, segment: np.ndarray | None
) -> pl.DataFrame:
    """Give the answer table: user, target, calendar, value, difference to the first calendar, segment if asked.

    `by_days` is the difference as the days say, null for a target without a day head.
    """
    frames = []
    for k, head in enumerate(heads.window):
        for name, answer in zip(names, found):
            columns: dict[str, Any] = {"user": users, "target": [head.name] * len(users)}
            columns |= {"calendar": [name] * len(users), "value": answer.mean[:, k]}
            columns["difference"] = answer.mean[:, k] - found[0].mean[:, k]
            columns["by_days"] = answer.by_days[:, k] - found[0].by_days[:, k]
            if segment is not None:
                columns["segment"] = segment.astype(str)
            frames.append(pl.DataFrame(columns).with_columns(pl.col("by_days").fill_nan(None)))
    return pl.concat(frames).sort("user", maintain_order=True)


def read_segments(given: str | Path | pl.DataFrame, store: Store, samples: Samples) -> np.ndarray:
    """Give the segment of each sample as text: a profile column of the store, or a table `user, segment`.

    A path that ends in .csv or .parquet is a table; its second column is the segment when none is called so. Users
    without one are "(none)". Errors: `ConfigError` for an unknown column, a user twice, or more than 50 segments.
    """
    ids = store.users["user"].gather(pl.Series(samples.user)).cast(pl.String)
    if isinstance(given, pl.DataFrame) or Path(given).suffix in (".csv", ".parquet"):
        where = "segments" if isinstance(given, pl.DataFrame) else str(given)
        table = _segment_table(given, where)
        values = pl.DataFrame({"user": ids}).join(table, on="user", how="left", maintain_order="left")["segment"]
    else:
        where, name = f"profiles of {store.path.name}", str(given)
        columns = [] if store.profiles is None else [c for c in store.profiles.columns if c != "user"]
        if store.profiles is None or name not in columns:
            meant = nearest(name, columns)
            fix = f"did you mean {meant!r}?" if meant else "give a file `user, segment`, ending in .csv or .parquet"
            raise ConfigError(
                f"a profile column out of: {', '.join(columns) or 'none'}", repr(name), where=where, fix=fix
            )
        values = store.profiles[name].gather(pl.Series(samples.user)).cast(pl.String)
    if values.n_unique() > MOST_SEGMENTS:
        raise ConfigError(f"at most {MOST_SEGMENTS} segments", f"{values.n_unique():,}", where=where, fix="group them")
    return values.fill_null(NO_SEGMENT).to_numpy()


def _segment_table(given: str | Path | pl.DataFrame, where: str) -> pl.DataFrame:
    if isinstance(given, pl.DataFrame):
        table = given
    elif not Path(given).is_file():
        raise ConfigError("a CSV or Parquet file of users and segments", "no such file", where=where)
    else:
        table = pl.read_parquet(given) if Path(given).suffix == ".parquet" else pl.read_csv(given, infer_schema=False)
    others = [name for name in table.columns if name != "user"]
    if "user" not in table.columns or not others:
        raise ConfigError("columns 'user' and 'segment'", f"columns: {', '.join(table.columns)}", where=where)
    name = "segment" if "segment" in others else others[0]
    table = table.select(pl.col("user").cast(pl.String), segment=pl.col(name).cast(pl.String))
    if table["user"].is_duplicated().any():
        twice = table["user"].filter(table["user"].is_duplicated())[0]
        raise ConfigError("each user once", f"{twice!r} twice", where=where, fix="segments must not overlap")
    return table


def _summed(
    heads: Heads, units: list[str], names: tuple[str, ...], found: list[Answer], chosen: np.ndarray
) -> list[dict[str, Any]]:
    """Sum over the chosen users per target and calendar, with the spread of the members around the difference."""
    rows = []
    for k, head in enumerate(heads.window):
        for name, answer in zip(names, found):
            by_window = _difference(answer.mean, found[0].mean, answer.members, found[0].members, chosen, k)
            by_days = _difference(
                answer.by_days, found[0].by_days, answer.by_days_members, found[0].by_days_members, chosen, k
            )
            facts = {"target": head.name, "unit": units[k], "calendar": name}
            size = {"n_users": int(chosen.sum()), "n_changed": int(answer.is_changed[chosen].sum())}
            total = {"total": float(answer.mean[chosen, k].sum())}
            rows.append(facts | total | by_window | {f"day_{part}": v for part, v in by_days.items()} | size)
    return rows


def _difference(
    mean: np.ndarray, first: np.ndarray, members: np.ndarray, first_members: np.ndarray, chosen: np.ndarray, k: int
) -> dict[str, float | None]:
    """Give the difference of two totals of target k and the spread of the members around it; None where unknown."""
    difference = float(mean[chosen, k].sum() - first[chosen, k].sum())
    if np.isnan(difference):
        return {"difference": None, "low": None, "high": None}
    half = _half_width(members[:, chosen, k].sum(axis=1) - first_members[:, chosen, k].sum(axis=1))
    low, high = (None, None) if half is None else (difference - half, difference + half)
    return {"difference": difference, "low": low, "high": high}


def _half_width(differences: np.ndarray) -> float | None:
    """Half a 90 % interval of one more refit, from the standard deviation of the members; None below three."""
    n = len(differences)
    if n < 3:
        return None
    return T_90.get(n, 1.86) * float(differences.std(ddof=1)) * float(np.sqrt(1 + 1 / n))


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
