"""From tables and stores to columns per user: who was in which arm, what they did after, and what before.

Rows that cannot be used are counted by reason and arm, or are an error when the experiment would mean something else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from habitus.apps.abtest.assign import ARMS, OUTSIDE, TREATMENT, assign
from habitus.apps.abtest.declare import Experiment, Metric
from habitus.apps.abtest.estimate import linearised
from habitus.core.errors import SourceError, nearest
from habitus.data.calendar import to_day

if TYPE_CHECKING:
    import polars as pl

    from habitus.data.store import Store

MAX_IN_BOTH = 0.01


@dataclass(frozen=True)
class Columns:
    """A metric per user: [n, P] y, then v of a ratio, then covariates; `is_known`: may be used; `day_known`: when."""

    values: np.ndarray
    is_known: np.ndarray
    day_known: np.ndarray  # int32 [n]: the last day of the user's window
    is_ratio: bool
    has_past: bool
    excluded: dict[str, np.ndarray] = field(default_factory=dict)  # reason -> bool [n]


@dataclass(frozen=True)
class Units:
    """All users of an experiment: arm int8 [n], day of exposure int32 [n], segments (codes, names), metrics by name."""

    user: pl.Series
    arm: np.ndarray
    day: np.ndarray
    segments: dict[str, tuple[np.ndarray, list[str]]]
    metrics: dict[str, Columns]
    counted: dict[str, int]  # what was left out before, by reason

    def __len__(self) -> int:
        return len(self.arm)


def read_table(path: str | Path, rename: dict[str, str] | None = None, optional: tuple[str, ...] = ()) -> pl.DataFrame:
    """Read Parquet or CSV; `rename` names columns that must be there. Errors: `SourceError` with the nearest name."""
    import polars as pl

    path = Path(path)
    if not path.is_file():
        raise SourceError("a Parquet or CSV file", "no such file", where=str(path), fix="check [tables]")
    try:
        is_csv = path.suffix.lower() in (".csv", ".tsv", ".txt")
        separator = "\t" if path.suffix.lower() == ".tsv" else ","
        table = (
            pl.read_csv(path, separator=separator, try_parse_dates=True, infer_schema_length=None)
            if is_csv
            else (pl.read_parquet(path))
        )
    except (OSError, pl.exceptions.PolarsError) as cause:
        raise SourceError("a readable Parquet or CSV file", str(cause)[:200], where=str(path)) from None
    return named(table, rename or {}, str(path), optional)


def named(table: pl.DataFrame, rename: dict[str, str], where: str, optional: tuple[str, ...] = ()) -> pl.DataFrame:
    """Rename the columns that are needed; an absent one is an error unless optional."""
    for column in rename:
        if column not in table.columns and column not in optional:
            meant = nearest(column, table.columns)
            fix = f"did you mean {meant!r}?" if meant else "add the column, or name it in [tables]"
            raise SourceError(f"a column {column!r}", ", ".join(table.columns), where=where, fix=fix)
    return table.rename({old: new for old, new in rename.items() if old in table.columns and old != new})


def read_units(experiment: Experiment, *, as_of: int | None = None, tables: dict[str, Any] | None = None) -> Units:
    """Read all that was declared. `tables` may hand in data frames (anything Arrow) in place of files, by key.

    `as_of` is the last complete day, in days since 1970-01-01: a user counts once the window is closed.
    Errors: `SourceError` for an unknown arm, more than 1 % of users in both arms, a missing column, a negative
    denominator.
    """
    import polars as pl

    given = {key: pl.DataFrame(value) for key, value in (tables or {}).items()}
    store = _open_store(experiment)
    people, counted = _people(experiment, given, store)
    segments = _segments(experiment, people, store)
    people = people.with_columns(day=pl.col("exposed").dt.date().cast(pl.Int32))
    events, before = (_given(experiment, given, key) for key in ("metrics", "before"))
    metrics = {}
    for metric in experiment.metrics:
        if metric.target is not None:
            metrics[metric.name] = _from_store(metric, people, _needed(store, metric.name), as_of)
        else:
            metrics[metric.name] = _from_tables(experiment, metric, people, events, before, as_of)
    day = people["day"].to_numpy()
    return Units(people["user"], people["arm"].to_numpy(), day, segments, metrics, counted)


def _open_store(experiment: Experiment) -> Store | None:
    from habitus.data.store import Store

    return None if experiment.tables.store is None else Store.open(experiment.tables.store)


def _needed(store: Store | None, name: str) -> Store:
    if store is None:
        raise SourceError("a store for targets", "none", where=name, fix="name it in [tables]: store = 'shop.store'")
    return store


def _given(experiment: Experiment, given: dict[str, Any], key: str) -> pl.DataFrame | None:
    path, names = getattr(experiment.tables, key), experiment.tables
    rename = {names.user: "user", names.time: "time"} if key == "metrics" else {names.user: "user"}
    if key in given:
        return _texts(named(given[key], rename, key, (names.time,)))
    return None if path is None else _texts(read_table(path, rename, (names.time,)))


def _texts(table: pl.DataFrame) -> pl.DataFrame:
    import polars as pl

    return table.with_columns(pl.col("user").cast(pl.String))


def _people(experiment: Experiment, given: dict[str, Any], store: Store | None) -> tuple[pl.DataFrame, dict[str, int]]:
    """One row per user: user, arm, exposed; and what was left out."""
    import polars as pl

    names = experiment.tables
    start = pl.lit(experiment.start).cast(pl.Datetime("us"))
    if "assignment" in given or names.assignment is not None:
        rename = {names.user: "user", names.arm: "arm", names.time: "exposed"}
        path = "assignment" if "assignment" in given else str(names.assignment)
        table = (
            named(given[path], rename, path, (names.time,))
            if path in given
            else read_table(path, rename, (names.time,))
        )
    else:
        everybody = _needed(store, "an assignment").users["user"]
        table = assign(experiment, everybody.cast(pl.String))
        table = table.with_columns(arm=pl.col("arm").replace({ARMS[0]: names.control, ARMS[1]: names.treatment}))
    table = _texts(table.with_columns(_instant(table) if "exposed" in table.columns else start.alias("exposed")))
    counted = {"no user or no arm": 0, "in both arms": 0, "no time of exposure": 0, "outside the planned days": 0}
    kept = table.drop_nulls(["user", "arm"])
    counted["no user or no arm"] = len(table) - len(kept)
    unknown = sorted(set(kept["arm"].cast(pl.String).unique()) - {names.control, names.treatment})
    if unknown:
        raise SourceError(
            f"arms {names.control!r} and {names.treatment!r}",
            ", ".join(map(repr, unknown)),
            where="assignment: arm",
            fix="name the arms in [tables]: control = ..., treatment = ...",
        )
    kept = kept.with_columns(arm=(pl.col("arm").cast(pl.String) == names.treatment).cast(pl.Int8))
    timed = kept.drop_nulls("exposed")
    counted["no time of exposure"] = kept["user"].n_unique() - timed["user"].n_unique()
    both = timed.group_by("user").agg(pl.col("arm").n_unique().alias("arms")).filter(pl.col("arms") > 1)["user"]
    n = timed["user"].n_unique()
    counted["in both arms"] = len(both)
    if len(both) > MAX_IN_BOTH * n:
        raise SourceError(
            "each user in one arm",
            f"{len(both):,} of {n:,} users in both",
            where="assignment",
            fix="find out why assignment is not stable: the salt, or the unit that is hashed",
        )
    first = (
        timed.filter(~pl.col("user").is_in(both.implode()))
        .sort("exposed", maintain_order=True)
        .unique("user", keep="first", maintain_order=True)
    )
    end = np.inf if experiment.days is None else to_day(experiment.start) + experiment.days
    day = first["exposed"].dt.date().cast(pl.Int32).to_numpy()
    is_in = (day >= to_day(experiment.start)) & (day < end)
    counted["outside the planned days"] = int((~is_in).sum())
    first = first.filter(pl.Series(is_in))
    if not len(first):
        raise SourceError("users in the experiment", "none", where="assignment", fix="check start, days and the table")
    return first, {reason: count for reason, count in counted.items() if count}


def _instant(table: pl.DataFrame) -> Any:
    import polars as pl

    if table["exposed"].dtype == pl.String:
        return pl.col("exposed").str.to_datetime(strict=False, time_unit="us")
    if not table["exposed"].dtype.is_temporal():
        raise SourceError("times of exposure", str(table["exposed"].dtype), where="assignment", fix="cast the column")
    if getattr(table["exposed"].dtype, "time_zone", None):
        return pl.col("exposed").dt.replace_time_zone(None).cast(pl.Datetime("us"))
    return pl.col("exposed").cast(pl.Datetime("us"))


def _segments(
    experiment: Experiment, people: pl.DataFrame, store: Store | None
) -> dict[str, tuple[np.ndarray, list[str]]]:
    import polars as pl

    found = {}
    profiles = store.profiles if store is not None and experiment.segments else None
    for name in experiment.segments:
        if name in people.columns:
            column = people[name]
        elif profiles is not None and name in profiles.columns:
            known = profiles.select(pl.col("user").cast(pl.String), name)
            column = people.select("user").join(known, on="user", how="left", maintain_order="left")[name]
        else:
            raise SourceError(f"a column {name!r} for the segment", ", ".join(people.columns), where="assignment")
        text = column.cast(pl.String).fill_null("(unknown)")
        names = text.unique().sort()
        codes = text.replace_strict(names, pl.Series(range(len(names))), return_dtype=pl.Int64)
        found[name] = (codes.to_numpy(), names.to_list())
    return found


def _from_tables(
    experiment: Experiment,
    metric: Metric,
    people: pl.DataFrame,
    rows: pl.DataFrame | None,
    before: pl.DataFrame | None,
    as_of: int | None,
) -> Columns:
    import polars as pl

    if rows is None:
        raise SourceError("a table of metrics", "none", where=metric.name, fix="name it in [tables]: metrics = ...")
    per_user = "time" not in rows.columns
    rows = _rows_of(metric, rows, people, per_user)
    parts = [_summed(metric, part) for part in (metric.value, metric.per) if part is not None]
    found = people.select("user").join(
        rows.group_by("user").agg([part.alias(f"part{i}") for i, part in enumerate(parts)] + [pl.len().alias("n")]),
        on="user",
        how="left",
        maintain_order="left",
    )
    if per_user and (found["n"].max() or 0) > 1:  # type: ignore[operator]
        raise SourceError(
            "one row per user",
            "users with several",
            where=f"metrics, for {metric.name}",
            fix="add the column of times, for a table of events",
        )
    missing = experiment.tables.missing or ("exclude" if per_user else "zero")
    is_absent = found["n"].is_null().to_numpy()
    values = np.stack([found[f"part{i}"].cast(pl.Float64).fill_null(0.0).to_numpy() for i in range(len(parts))], axis=1)
    excluded = {"no row in the table": is_absent} if missing == "exclude" else {}
    day_known = people["day"].to_numpy() + max((metric.window or 0) - 1, 0)
    if not per_user:
        known_until = as_of if as_of is not None else int(rows["day"].max() or 0)  # type: ignore[arg-type]
        excluded["window still open"] = day_known > known_until
    covariates = _covariates(metric, people, before) if metric.before is not None else np.zeros((len(values), 0))
    return _columns(metric, values, covariates, excluded, day_known)


def _rows_of(metric: Metric, rows: pl.DataFrame, people: pl.DataFrame, per_user: bool) -> pl.DataFrame:
    """The rows of a metric: all of a table of users, those inside the window of a table of events."""
    import polars as pl

    for part in (metric.value, metric.per):
        if part not in (None, "*"):
            named(rows, {str(part): str(part)}, f"metrics, for {metric.name}")
            if not (rows[str(part)].dtype.is_numeric() or rows[str(part)].dtype == pl.Boolean):
                raise SourceError(
                    "numbers", str(rows[str(part)].dtype), where=f"metrics: {part}", fix="cast the column"
                )
    if per_user:
        return rows
    if metric.window is None:
        raise SourceError("window_days for a table of events", "none", where=metric.name, fix="add window_days = 14")
    time = rows.with_columns(pl.col("time").cast(pl.Datetime("us")))
    joined = time.join(people.select("user", "exposed"), on="user", how="inner")
    end = pl.col("exposed").dt.date() + pl.duration(days=metric.window)
    is_after = (pl.col("time") >= pl.col("exposed")) & (pl.col("time").dt.date() < end)
    last = time["time"].dt.date().cast(pl.Int32).max()
    return joined.filter(is_after).with_columns(day=pl.lit(last))


def _summed(metric: Metric, part: str) -> Any:
    import polars as pl

    if part == "*":
        return pl.len().cast(pl.Float64)
    column = pl.col(part).cast(pl.Float64)
    total = pl.when(column.is_null().any() | column.is_nan().any()).then(float("nan")).otherwise(column.sum())
    return (total > 0).cast(pl.Float64) if metric.kind == "binary" else total


def _covariates(metric: Metric, people: pl.DataFrame, before: pl.DataFrame | None) -> np.ndarray:
    """The time before [n, 2]: value (linearised for a ratio), and whether the user has none."""
    import polars as pl

    if before is None:
        raise SourceError(
            "a table of the time before", "none", where=metric.name, fix="name it in [tables]: before = ..."
        )
    names = [name for name in (metric.before, metric.per_before) if name is not None]
    table = named(before, {name: name for name in names}, "before")
    if table["user"].is_duplicated().any():
        raise SourceError("one row per user", "users with several", where="before")
    table = table.select("user", *[pl.col(name).cast(pl.Float64).alias(f"x{i}") for i, name in enumerate(names)])
    found = people.select("user").join(table, on="user", how="left", maintain_order="left")
    parts = [found[f"x{i}"].fill_null(float("nan")).to_numpy() for i in range(len(names))]
    return with_indicator(parts, np.logical_and.reduce([np.isfinite(part) for part in parts]))


def with_indicator(parts: list[np.ndarray], has_past: np.ndarray) -> np.ndarray:
    """Give covariates [n, 2]: the value where there is a past and 0 elsewhere, and 1 where there is none."""
    x = np.zeros(len(has_past))
    if has_past.any():
        seen = [part[has_past] for part in parts]
        x[has_past] = seen[0] if len(seen) == 1 else linearised(seen[0], seen[1])
    return np.stack([x, (~has_past).astype(float)], axis=1)


def _from_store(metric: Metric, people: pl.DataFrame, store: Store, as_of: int | None) -> Columns:
    """Targets from the day of exposure on, and the same before it; users the log does not know did nothing."""
    import polars as pl

    from habitus.data.cutoffs import Samples
    from habitus.data.targets import Target, measure

    targets = tuple(Target.parse(text) for text in (metric.target, metric.per) if text is not None)
    horizon = metric.window or 0
    known = store.users.select(pl.col("user").cast(pl.String), number=pl.int_range(pl.len()))
    number = people.select("user").join(known, on="user", how="left", maintain_order="left")["number"]
    index, day = number.fill_null(-1).to_numpy().astype(np.int64), people["day"].to_numpy()
    rows = np.flatnonzero(index >= 0)
    after = np.zeros((len(index), len(targets)))
    after[:] = [float(target.aggregation == "none") for target in targets]
    past, has_past = after.copy(), np.zeros(len(index), bool)
    after[rows] = measure(targets, store, Samples(index[rows], day[rows] - 1)).value
    past[rows] = measure(targets, store, Samples(index[rows], day[rows] - 1 - horizon)).value
    has_past[rows] = store.users["first_day"].to_numpy()[index[rows]] < day[rows]
    has_past &= day - horizon >= store.first_day
    day_known = (day + horizon - 1).astype(np.int32)
    excluded = {"window still open": day_known > min(store.last_day, store.last_day if as_of is None else as_of)}
    covariates = with_indicator([past[:, k] for k in range(len(targets))], has_past)
    return _columns(metric, after, covariates, excluded, day_known)


def _columns(
    metric: Metric, values: np.ndarray, covariates: np.ndarray, excluded: dict[str, np.ndarray], day_known: np.ndarray
) -> Columns:
    is_left = np.logical_or.reduce([np.zeros(len(values), bool), *excluded.values()])
    excluded = excluded | {"not a number": ~np.isfinite(values).all(axis=1) & ~is_left}
    is_known = ~is_left & ~excluded["not a number"]
    if metric.kind == "ratio" and (values[is_known, 1] < 0).any():
        raise SourceError(
            "denominators of 0 or more",
            f"{int((values[is_known, 1] < 0).sum()):,} negative ones",
            where=f"{metric.name}: {metric.per}",
            fix="mend the column",
        )
    if metric.kind == "binary" and not np.isin(values[is_known, 0], (0.0, 1.0)).all():
        raise SourceError("0 or 1", "other numbers", where=f"{metric.name}: a binary metric", fix="kind = 'mean'")
    excluded = {reason: mask for reason, mask in excluded.items() if mask.any()}
    whole = np.concatenate([np.where(is_known[:, None], values, 0.0), covariates], axis=1)
    has_past = covariates.shape[1] > 0 and bool((covariates[is_known, -1] == 0).any())
    return Columns(whole, is_known, day_known.astype(np.int32), metric.kind == "ratio", has_past, excluded)


__all__ = ["ARMS", "OUTSIDE", "TREATMENT", "Columns", "Units", "read_table", "read_units", "with_indicator"]
